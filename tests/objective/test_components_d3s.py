"""D3S as stages: rows, tokens, growth over the run, skipped steps, divisors, controls, ablations, PODS."""

import math

import pytest
import torch

from steersman.core.component import Moment, check_pipeline
from steersman.core.errors import UserError
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.objective.advantage.group import grpo
from steersman.objective.components import Aggregation
from steersman.objective.components_advantage import GRPO, UniformCredit
from steersman.objective.components_d3s import D3S, PODS, D3SRows, D3STokens, row_advantage
from steersman.objective.components_policy import Clipped
from steersman.objective.select.d3s import max_variance
from steersman.objective.select.rows import OverlongFilter
from steersman.objective.select.tokens import in_loss

LOSS = 1e-6  # float32
N, G = 24, 6
FIRST, LAST = Moment(seed=1, step=0, total=11), Moment(seed=1, step=10, total=11)


def rollouts(n=N, seed=0, **known):
    """Groups of six, responses of two to five tokens, real-valued rewards, one row not graded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 9, (n, 7), generator=generator)
    length = torch.randint(4, 8, (n,), generator=generator)
    valid = torch.ones(n, dtype=torch.bool)
    valid[3] = False
    defaults = {
        "group": torch.arange(n) // G,
        "reward": torch.randn(n, generator=generator).where(valid, torch.nan),
        "valid": valid,
        "streams": {"entropy": torch.rand(n, 7, generator=generator)},
    }
    return Rollouts.of(ids, length, torch.full((n,), 2), **(defaults | known))


def credited(batch=None):
    return UniformCredit()(GRPO()(rollouts() if batch is None else batch)[0])[0]


def test_rows_of_largest_variance_are_kept_whole():
    batch = credited()
    out, metrics = D3SRows()(batch, FIRST)
    a = batch.streams["advantage_row"]
    there = batch.valid.nonzero()[:, 0]
    wanted = there[max_variance(a[there], 6)]  # 23 rows, a quarter of them
    assert torch.equal(out.ids, batch.ids[wanted])
    assert torch.equal(out.streams["advantage"], batch.streams["advantage"][wanted])
    assert torch.equal(out.streams["token_weight"], out.action.float())
    of = a[wanted].double()
    assert metrics == {
        "share": 0.25,
        "silent": 0,
        "useful": 1,
        "advantage_mean": pytest.approx(float(of.mean())),
        "variance_in": pytest.approx(float(a[there].double().var(correction=0))),
        "variance_out": pytest.approx(float(of.var(correction=0))),
        "rows_in": 23,
        "rows_out": 6,
        "tokens_in": float(batch.action[there].sum()),
        "tokens_out": float(batch.action[wanted].sum()),
    }
    assert metrics["variance_out"] > metrics["variance_in"]


def test_more_is_kept_as_the_run_goes_on():
    batch = credited()
    kept = [D3SRows()(batch, Moment(step=s, total=11))[1]["rows_out"] for s in range(11)]
    assert (kept[0], kept[5], kept[10]) == (6, 9, 12)  # 5.75, 8.625, 11.5 of 23, halves up
    assert kept == sorted(kept)
    tokens = [D3STokens()(batch, Moment(step=s, total=11))[1]["tokens_out"] for s in range(11)]
    n = int(in_loss(batch).sum())
    assert (tokens[0], tokens[10]) == (math.ceil(0.2 * n), math.ceil(0.5 * n))
    assert tokens == sorted(tokens)
    static = D3SRows(end=0.25)
    assert static(batch, FIRST)[1]["rows_out"] == static(batch, LAST)[1]["rows_out"] == 6


def test_tokens_of_largest_score_are_kept():
    batch = credited()
    out, metrics = D3STokens(start=0.3)(batch, FIRST)
    mask, weight = in_loss(batch), out.streams["token_weight"]
    score = batch.streams["advantage"].abs() * batch.streams["entropy"]
    n = math.ceil(0.3 * int(mask.sum()))
    threshold = score[mask].topk(n).values[-1]
    assert torch.equal(weight, (mask & (score >= threshold)).float())
    assert torch.equal(out.streams["advantage"], batch.streams["advantage"])
    assert metrics["tokens_out"] == n
    assert metrics["entropy_in"] == pytest.approx(float(batch.streams["entropy"][mask].mean()))
    assert metrics["entropy_out"] == pytest.approx(float(batch.streams["entropy"][weight > 0].mean()))


@pytest.mark.parametrize("score", ["advantage", "entropy"])
def test_other_scores_are_controls(score):
    batch = credited()
    out, _ = D3STokens(start=0.25, score=score)(batch, FIRST)
    by = batch.streams["entropy"] if score == "entropy" else batch.streams["advantage"].abs()
    kept, mask = out.streams["token_weight"] > 0, in_loss(batch)
    assert by[kept].min() >= by[mask & ~kept].max()
    needs = ("advantage", "entropy") if score == "entropy" else ("advantage",)
    assert D3STokens(score=score).needs == needs


def test_random_controls_keep_as_many_and_others():
    batch = credited()
    of = {
        "rows": lambda at: frozenset(D3SRows(by="random")(batch, at)[0].version.tolist()),
        "tokens": lambda at: tuple(
            D3STokens(score="random", start=0.2)(batch, at)[0].streams["token_weight"].flatten().tolist()
        ),
    }
    batch = Rollouts.of(batch.ids, batch.length, batch.prompt_length, **same(batch), version=torch.arange(N))
    moments = [Moment(seed=s, step=0, total=9) for s in range(8)]
    assert len({of["rows"](m) for m in moments}) > 4
    assert {len(of["rows"](m)) for m in moments} == {6}
    assert len({of["tokens"](m) for m in moments}) == 8
    assert len({sum(of["tokens"](m)) for m in moments}) == 1
    inside = D3SRows(by="random", scope="group", start=0.5)(batch, FIRST)[0]
    assert torch.bincount(inside.group).tolist() == [3, 3, 3, 3]


def same(batch):
    return {k: getattr(batch, k) for k in ("group", "reward", "valid", "stop", "streams")}


@pytest.mark.parametrize("scope", ["batch", "group", "group_then_batch"])
@pytest.mark.parametrize("stage", [D3SRows, D3STokens])
def test_everything_kept_is_the_loss_as_it_was(stage, scope):
    batch = credited()
    out = stage(start=1, end=1, **({"scope": scope} if stage is D3SRows else {}))(batch, FIRST)[0]
    assert float(loss(out)) == float(loss(batch))


def loss(batch, mode="token_mean"):
    """The clipped loss of a batch whose log-probabilities are a function of its tokens."""
    logp = -0.1 * batch.ids.float() - 0.3
    each = Clipped()(logp, logp - 0.05, batch.streams["advantage"], in_loss(batch))
    weight = batch.streams.get("token_weight", torch.ones(()))
    return Aggregation(mode=mode)(each * weight, in_loss(batch), None, batch.group)


@pytest.mark.parametrize("mode", ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "prompt_mean_token_mean"])
def test_the_divisor_can_be_that_of_the_whole_batch(mode):
    """Rows and tokens chosen one after the other: the factors multiply to the divisor of everything."""
    batch = credited()
    how = {"denominator": "full", "aggregate": mode}
    out = batch
    for stage in (D3SRows(**how), D3STokens(**how)):
        out = stage(out, FIRST)[0]
    plain = batch
    for stage in (D3SRows(), D3STokens()):
        plain = stage(plain, FIRST)[0]
    assert torch.equal(out.streams["token_weight"] > 0, plain.streams["token_weight"] > 0)
    kept = D3SRows()(batch.with_streams(), FIRST)[0]  # to know which tokens they are
    rows = [int((batch.ids == kept.ids[i]).all(1).nonzero()[0]) for i in range(len(kept))]
    silent = torch.zeros_like(batch.action)
    silent[rows] = out.streams["token_weight"] > 0
    logp = -0.1 * batch.ids.float() - 0.3
    each = Clipped()(logp, logp - 0.05, batch.streams["advantage"], in_loss(batch))
    wanted = Aggregation(mode=mode)(each * silent, in_loss(batch), None, batch.group)
    assert float(loss(out, mode)) == pytest.approx(float(wanted), abs=LOSS)
    assert abs(float(loss(plain, mode) - wanted)) > 100 * LOSS


def test_nothing_to_learn_is_nothing_kept():
    silent = credited(rollouts(reward=torch.ones(N)))
    out, metrics = D3SRows()(silent)
    assert len(out) == 0
    assert (metrics["silent"], metrics["rows_out"], metrics["rows_in"]) == (1, 0, 23)
    out, metrics = D3STokens()(silent)
    assert not in_loss(out).any()
    assert (metrics["silent"], metrics["tokens_out"]) == (1, 0)
    assert D3SRows()(out)[1]["silent"] == 0  # nothing came, so nothing was silent


def test_zero_rows_fill_up_or_do_not():
    """Two groups of four are silent: of 23 rows seventeen are asked for, and eleven have an advantage."""
    reward = rollouts().reward.clone()
    reward[12:] = 0.5
    batch = credited(rollouts(reward=reward))
    out, metrics = D3SRows(start=0.75)(batch, FIRST)
    assert (metrics["rows_out"], metrics["useful"]) == (17, pytest.approx(11 / 17))
    out, metrics = D3SRows(start=0.75, drop_zero=True)(batch, FIRST)
    assert (metrics["rows_out"], metrics["useful"]) == (11, 1)
    assert out.streams["advantage_row"].all()


def test_rows_out_of_the_loss_do_not_compete():
    stop = torch.zeros(N, dtype=torch.int64)
    stop[:8] = STOP_LENGTH
    batch = credited(OverlongFilter()(rollouts(stop=stop))[0])
    out, metrics = D3SRows(start=0.5)(batch, FIRST)
    assert (metrics["rows_in"], metrics["rows_out"]) == (16, 8)
    assert not (out.stop == STOP_LENGTH).any()


def test_balance_and_scope_reach_the_function():
    batch = credited()
    there = batch.valid.nonzero()[:, 0]
    a, group = batch.streams["advantage_row"][there], batch.group[there]
    for scope in ("batch", "group_then_batch"):
        out = D3SRows(scope=scope, balance=True)(batch, FIRST)[0]
        assert torch.equal(out.ids, batch.ids[there[max_variance(a, 6, group, scope, True)]])
    inside = D3SRows(scope="group", start=0.34)(batch, FIRST)[0]
    assert torch.bincount(inside.group).tolist() == [2, 2, 2, 2]  # of 5, 6, 6, 6


def test_the_row_advantage_without_a_stream_of_rows():
    """GAE gives advantages of tokens only; equal ones give back exactly the row's."""
    batch = credited()
    alone = Rollouts.of(batch.ids, batch.length, batch.prompt_length, **same(batch))
    alone = alone.with_streams(advantage=batch.streams["advantage"])
    alone.streams.pop("advantage_row")
    mask = in_loss(alone)
    found = row_advantage(alone, mask)
    assert torch.equal(found[alone.valid], batch.streams["advantage_row"][alone.valid])
    tokens = batch.streams["advantage"].clone()
    tokens[0, 2] += 1
    moved = row_advantage(alone.with_streams(advantage=tokens), mask)
    assert moved[0] == pytest.approx(float(found[0]) + 1 / int(mask[0].sum()))


def test_entropy_that_is_zero_everywhere_leaves_the_advantage():
    batch = credited().with_streams(entropy=torch.zeros(N, 7))
    found = D3STokens(start=0.3)(batch, FIRST)[0].streams["token_weight"]
    assert torch.equal(found, D3STokens(start=0.3, score="advantage")(batch, FIRST)[0].streams["token_weight"])
    assert found.any()


def test_any_order_of_rows():
    """Ties are common with accuracies; who is kept does not depend on where a row stands."""
    reward = (torch.arange(N) % 3 == 0).float()
    batch = credited(rollouts(reward=reward)).with_streams(entropy=torch.full((N, 7), 0.5))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    for stages in D3S.values():
        one, other = batch, batch.index(order)
        for stage in stages:
            one, other = stage(one, FIRST)[0], stage(other, FIRST)[0]
        first = sorted(map(str, torch.cat([one.ids, one.streams["token_weight"].long()], 1).tolist()))
        assert first == sorted(map(str, torch.cat([other.ids, other.streams["token_weight"].long()], 1).tolist()))


def test_named_ablations():
    assert set(D3S) == {"d1s", "d1s_cross", "d2s", "d3s", "d3s_i"}
    batch = credited()
    out = {}
    for name, stages in D3S.items():
        check_pipeline([GRPO(), UniformCredit(), *stages], ["entropy"])
        out[name] = [batch, batch]
        for stage in stages:
            out[name] = [stage(x, at)[0] for x, at in zip(out[name], (FIRST, LAST), strict=True)]
    rows = {k: [len(x) for x in v] for k, v in out.items()}
    assert rows == {"d1s": [7, 7], "d1s_cross": [6, 6], "d2s": [6, 6], "d3s": [6, 12], "d3s_i": [7, 12]}
    tokens = {k: [int(in_loss(x).sum()) for x in v] for k, v in out.items()}
    assert tokens["d1s"][0] == int(out["d1s"][0].action.sum())
    assert tokens["d2s"][0] == tokens["d2s"][1] == tokens["d3s"][0] < tokens["d3s"][1]


def test_pods_chooses_by_rewards_and_stands_before_the_advantage():
    batch = rollouts()
    out, metrics = PODS(share=0.5)(batch)
    assert torch.bincount(out.group).tolist() == [3, 3, 3, 3]
    for g in range(4):
        mine = ((batch.group == g) & batch.valid).nonzero()[:, 0]
        wanted = mine[max_variance(batch.reward[mine], 3)]
        assert torch.equal(out.reward[out.group == g], batch.reward[wanted])
    after = GRPO()(out)[0].streams["advantage_row"]
    assert torch.equal(after, grpo(out.reward, out.group))  # of the kept rows alone
    assert (metrics["rows_in"], metrics["rows_out"]) == (23, 12)
    with pytest.raises(UserError, match="advantage_row exists already"):
        PODS()(GRPO()(batch)[0])


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (D3SRows, {"start": 0}, "start"),
        (D3SRows, {"end": 1.1}, "end"),
        (D3SRows, {"scope": "prompt"}, "scope"),
        (D3SRows, {"by": "length"}, "by"),
        (D3STokens, {"start": float("nan")}, "start"),
        (D3STokens, {"score": "H"}, "score"),
        (D3STokens, {"denominator": "all"}, "denominator"),
        (D3STokens, {"aggregate": "mean"}, "aggregate"),
        (PODS, {"share": 0}, "share"),
    ],
)
def test_bad_options_are_named(cls, options, match):
    with pytest.raises(ValueError, match=match):
        cls(**options)


def test_streams_that_are_missing_are_named():
    with pytest.raises(UserError, match="D3STokens needs 'entropy'"):
        check_pipeline([GRPO(), UniformCredit(), D3STokens()], [])
    with pytest.raises(UserError, match="D3SRows needs 'advantage'"):
        check_pipeline([GRPO(), D3SRows(), UniformCredit()], ["entropy"])
    wrong = credited().with_streams(entropy=torch.full((N, 7), torch.nan))
    with pytest.raises(UserError, match="entropy is nan"):
        D3STokens()(wrong)
