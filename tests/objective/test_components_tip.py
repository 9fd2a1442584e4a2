"""TIP as a stage: what is kept, of which tokens, in any order and padding; controls, anchor, metrics, refusals."""

import pytest
import torch
from pydantic import ValidationError

from steersman.core.component import Form, Moment, check_pipeline
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_tip import NEEDS, SelectTokens
from steersman.objective.divergence import divergence, entropy
from steersman.objective.select.noise import token_noise
from steersman.objective.select.tokens import RULES, in_loss, sampling_weights, scores, select, unbiased, weigh

ROUNDING = 1e-6  # float32
GRADIENT = 1e-10  # float64
DRAWN_APART = 0.03  # share of tokens, of about 2,000 pairs of draws
N, L, V = 12, 9, 7
AT = Moment(seed=3, step=4, total=11)
ALL_STREAMS = ("entropy", "divergence", "divergence_forward")
DRAWN = {"rule": "entropy", "mode": "sample", "keep": 0.3}


def rollouts(n=N, seed=0):
    """Groups of three behind prompts of two tokens, tool tokens in the middle, one row not graded."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(4, L + 1, (n,), generator=generator)
    forced = torch.zeros(n, L, dtype=torch.bool)
    forced[:, 3] = torch.arange(n) % 2 == 0
    valid = torch.ones(n, dtype=torch.bool)
    valid[5] = False
    ids = torch.randint(0, V, (n, L), generator=generator)
    streams = {name: torch.rand(n, L, generator=generator).square() * 3 for name in ALL_STREAMS}
    streams["divergence_jsd"] = torch.rand(n, L, generator=generator) * 0.6
    known = {"group": torch.arange(n) // 3, "valid": valid, "streams": streams, "forced": forced}
    return Rollouts.of(ids, length, torch.full((n,), 2), **known)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("mode", ["top", "bottom"])
@pytest.mark.parametrize("rule", ["soft_or", "entropy", "divergence", "q3"])
def test_kept_are_the_tokens_of_the_rule(rule, mode, scope):
    batch = rollouts()
    mask = in_loss(batch)
    assert not (mask & (batch.forced | ~batch.valid[:, None])).any()
    out, told = SelectTokens(rule=rule, keep=0.3, mode=mode, scope=scope)(batch, AT)
    score = scores(*(batch.streams[n] for n in ALL_STREAMS), rule, mask=mask, scope=scope)
    wanted = select(score, mask, 0.3, mode, scope, token_noise(batch, AT, f"tip/{rule}/{mode}"))  # ties of the largest
    assert torch.equal(out.streams["token_weight"], wanted.float())
    assert told["score_kept"] == pytest.approx(float(score[wanted].sum()), rel=ROUNDING)
    assert (told["tokens_in"], told["tokens_out"]) == (int(mask.sum()), int(wanted.sum()))
    assert told["divergence_kept"] == pytest.approx(float(batch.streams["divergence"][wanted].mean()), rel=ROUNDING)
    assert told["divergence_left"] == pytest.approx(
        float(batch.streams["divergence"][mask & ~wanted].mean()), rel=ROUNDING
    )
    assert told["constant_axes"] == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", ["top", "bottom", "sample"])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_order_of_rows_and_padding_do_not_matter(rule, mode, scope):
    stage, batch = SelectTokens(rule=rule, keep=0.4, mode=mode, scope=scope, anchor=0.1), rollouts()
    kept = stage(batch, AT)[0].streams["token_weight"]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert torch.equal(stage(batch.index(order), AT)[0].streams["token_weight"], kept[order])
    assert torch.equal(stage(batch.widen(L + 5), AT)[0].streams["token_weight"][:, :L], kept)
    if mode == "sample" or rule == "random":
        later = Moment(seed=3, step=5, total=11)
        assert not torch.equal(stage(batch, later)[0].streams["token_weight"], kept)


def test_rules_and_modes_draw_apart():
    """Each of (rule, mode) that draws shares with another about keep^2 of the tokens, as independent draws do."""
    keep, batch = 0.3, rollouts(seed=7)
    for name in ("entropy", "divergence", "divergence_forward"):
        batch = batch.with_streams(**{name: torch.ones_like(batch.streams[name])})  # draws in proportion to nothing
    ways = [("random", "top"), *((rule, "sample") for rule in RULES)]
    drawn = [[SelectTokens(rule=r, keep=keep, mode=m)(batch, Moment(seed=s, step=0, total=1))[0].streams["token_weight"]
              for s in range(40)] for r, m in ways]  # fmt: skip
    tokens = 40 * int(in_loss(batch).sum())
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            both = sum(float((a * b * in_loss(batch)).sum()) for a, b in zip(one, other, strict=True)) / tokens
            assert both == pytest.approx(keep**2, abs=DRAWN_APART)


@pytest.mark.parametrize("rule", RULES)
def test_everything_at_one_to_the_bit(rule):
    """Whatever the rule, keep = 1 reads nothing and leaves weights and mask as they were."""
    stage, batch = SelectTokens(rule=rule, keep=1.0), weigh(rollouts(), torch.rand(N, L))
    out, _ = stage(batch, AT)
    assert stage.needs == ()
    assert torch.equal(in_loss(out), in_loss(batch))
    mask = in_loss(batch)
    assert torch.equal(out.streams["token_weight"][mask], batch.streams["token_weight"][mask])


def test_the_share_is_of_the_tokens_still_in_the_loss():
    first, _ = SelectTokens(rule="entropy", keep=0.5)(rollouts(), AT)
    out, told = SelectTokens(rule="divergence", keep=0.5)(first, AT)
    assert told["tokens_in"] == int(in_loss(first).sum())
    assert not (in_loss(out) & ~in_loss(first)).any()


def test_an_anchor_adds_tokens_of_the_rest():
    batch = rollouts()
    plain, anchored = (SelectTokens(keep=0.2, anchor=a)(batch, AT)[0] for a in (0.0, 0.25))
    extra = in_loss(anchored) & ~in_loss(plain)
    assert not (in_loss(plain) & ~in_loss(anchored)).any()
    assert int(extra.sum()) == int((in_loss(batch) & ~in_loss(plain)).sum()) // 4
    other = SelectTokens(keep=0.2, anchor=0.25)(batch, Moment(seed=3, step=9, total=11))[0]
    assert not torch.equal(in_loss(other), in_loss(anchored))


@pytest.mark.parametrize("rule", ["soft_or", "divergence", "q3", "entropy"])
def test_equal_contexts_of_different_micro_batches(rule):
    """First tokens of a prompt's samples have one context; rounding must not choose between them."""
    batch = rollouts()
    first = torch.zeros(N, L, dtype=torch.bool)
    first[:, 2] = True
    even = {n: torch.where(first, 2.0, 0.1 * x) for n, x in batch.streams.items()}
    sets = []
    for seed in range(4):
        shake = 2e-6 * (torch.rand(N, L, generator=torch.Generator().manual_seed(seed)) - 0.5)
        moved = batch.with_streams(**{n: x + shake for n, x in even.items()})
        sets.append(SelectTokens(rule=rule, keep=0.1)(moved, AT)[0].streams["token_weight"])
    assert all(torch.equal(s, sets[0]) for s in sets)


def test_nothing_to_keep_and_nothing_to_tell():
    stage = SelectTokens()
    for empty in (rollouts().index(slice(0, 0)), rollouts().index(torch.tensor([5]))):
        out, told = stage(empty, AT)
        assert not out.streams["token_weight"].any()
        assert (told["tokens_in"], told["tokens_out"]) == (0, 0)
    flat = rollouts().with_streams(entropy=torch.ones(N, L), divergence=torch.zeros(N, L))
    out, told = stage(flat, AT)
    assert told["constant_axes"] == 2
    assert int(in_loss(out).sum()) == int(in_loss(flat).sum()) // 2


def test_the_loss_on_kept_tokens_has_the_gradient_of_those_rows_rescaled():
    """L_TIP = mean over kept: its gradient is the full loss's with the other rows zeroed, times m / k."""
    generator = torch.Generator().manual_seed(2)
    z, q = (torch.randn(N, L, V, generator=generator, dtype=torch.float64) for _ in range(2))
    batch = rollouts()
    streams = {"entropy": entropy(z), "divergence": divergence(z, q)}
    batch = batch.with_streams(**{k: x.float() for k, x in streams.items()})
    kept, mask = in_loss(SelectTokens(keep=0.3)(batch, AT)[0]), in_loss(batch)

    def gradient(of):
        leaf = z.clone().requires_grad_()
        divergence(leaf, q)[of].mean().backward()
        return leaf.grad

    scale = int(mask.sum()) / int(kept.sum())
    wanted = torch.where(kept[..., None], gradient(mask) * scale, 0.0)
    assert torch.allclose(gradient(kept), wanted, atol=GRADIENT)


@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 0.0), (2.0, 0.0), (1.0, 1.0), (0.5, 2.0)])
def test_draws_are_by_powers_of_entropy_and_divergence(alpha, gamma, scope):
    batch = rollouts()
    mask, luck = in_loss(batch), token_noise(batch, AT, "tip/entropy/sample")
    weight = sampling_weights(batch.streams["entropy"], batch.streams["divergence_jsd"], alpha, gamma, mask=mask)
    wanted = select(weight, mask, 0.3, "sample", scope, luck, 0)
    stage = SelectTokens(**DRAWN, alpha=alpha, gamma=gamma, scope=scope)
    out, told = stage(batch, AT)
    assert torch.equal(out.streams["token_weight"], wanted.float())
    assert told["score_kept"] == pytest.approx(float(weight[wanted].sum()), rel=ROUNDING)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert torch.equal(stage(batch.index(order), AT)[0].streams["token_weight"], wanted.float()[order])
    assert torch.equal(stage(batch.widen(L + 5), AT)[0].streams["token_weight"][:, :L], wanted.float())


def test_the_divergence_of_draws_is_a_pass_of_the_stage():
    assert SelectTokens(**DRAWN, alpha=3.0).passes() == ()
    assert SelectTokens(**{**DRAWN, "keep": 1.0}, gamma=1.0).passes() == ()
    (plain,), (cut,) = (SelectTokens(**DRAWN, gamma=1.0, jsd_top_k=k).passes() for k in (None, 16))
    assert (plain.stream, plain.by, plain.quantity, plain.before) == ("divergence_jsd", "teacher", "divergence", None)
    assert (plain.form.kind, plain.form.beta, plain.form.top_k) == ("jsd", 0.5, None)
    assert cut.form == Form("jsd", top_k=16, of="teacher", tail=False)
    assert SelectTokens(**DRAWN, gamma=1.0).needs == ("entropy",)
    check_pipeline([SelectTokens(**DRAWN, gamma=1.0)], ["entropy"])


@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_unbiased_draws_weigh_what_they_stand_for(gamma):
    batch, stage = rollouts(), SelectTokens(**DRAWN, gamma=gamma, unbiased=True)
    out, told = stage(batch, AT)
    mask, luck, h = in_loss(batch), token_noise(batch, AT, "tip/entropy/sample"), batch.streams["entropy"]
    weight = sampling_weights(h, batch.streams["divergence_jsd"], 1, gamma, mask=mask)
    wanted = unbiased(weight, mask, 0.3, "batch", luck)
    assert torch.allclose(out.streams["token_weight"], wanted.float(), rtol=ROUNDING)
    assert told["tokens_out"] == int((wanted != 0).sum()) == int(0.3 * int(mask.sum()))
    plain = SelectTokens(**DRAWN, gamma=gamma)(batch, AT)[0]
    assert torch.equal(in_loss(out), in_loss(plain))


def test_needs_follow_the_rule():
    for rule, names in NEEDS.items():
        stage = SelectTokens(rule=rule)
        assert stage.needs == names
        check_pipeline([stage], names)
    with pytest.raises(UserError, match="SelectTokens needs 'divergence'"):
        check_pipeline([SelectTokens()], ["entropy"])


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"rule": "q1"}, "rule"),
        ({"mode": "best"}, "mode"),
        ({"scope": "microbatch"}, "cut to fit into memory"),
        ({"anchor": 1.0}, "anchor"),
        ({"entropy_clip_quantile": 0.0}, "entropy_clip_quantile"),
        ({"gamma": 1.0}, 'set rule = "entropy" and mode = "sample"'),
        ({"rule": "entropy", "alpha": 2.0}, 'set rule = "entropy" and mode = "sample"'),
        ({**DRAWN, "alpha": -1.0}, "alpha"),
        ({**DRAWN, "gamma": 20.0}, "gamma"),
        ({**DRAWN, "jsd_top_k": 5}, "gamma = 0 does not read"),
        ({**DRAWN, "gamma": 1.0, "jsd_top_k": 0}, "jsd_top_k"),
        ({"unbiased": True}, 'set mode = "sample"'),
        ({**DRAWN, "unbiased": True, "anchor": 0.1}, "leave anchor out"),
    ],
)
def test_bad_settings(values, match):
    with pytest.raises(ValidationError, match=match):
        SelectTokens(**values)


def test_numbers_that_are_none_stay_visible():
    batch = rollouts().with_streams(divergence=torch.full((N, L), torch.nan))
    with pytest.raises(UserError, match="divergence is nan at token 2 of row 0"):
        SelectTokens()(batch, AT)
