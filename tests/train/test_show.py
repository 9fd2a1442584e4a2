"""Lists of stages on the same rollouts: each row followed through them, and shown as it was when it was dropped."""

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest
import rl_toys as toys
import torch
from toy_stages import DropSilent, Fade, Hinted, Memory, RepeatCorrect

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components import Aggregation
from steersman.objective.components_advantage import GRPO, UniformCredit
from steersman.objective.components_credit import ContrastiveCredit
from steersman.objective.components_d3s import D3SRows, D3STokens
from steersman.objective.components_tip import SelectTokens
from steersman.objective.credit.demonstrate import ToldRight
from steersman.objective.credit.hints import Hint
from steersman.objective.select.tokens import TopEntropy, in_loss
from steersman.page.theme import marks
from steersman.page.tokens import token_view
from steersman.task.chain_sum import EOS
from steersman.train.show import compare_stages, graded_rollouts, token_table
from steersman.train.terms import Against
from steersman.train.terms_distill import distill_term
from steersman.train.token_streams import credit

SAME_SCORES = 1e-5  # nats between two forwards over other micro-batches
AT = Moment(7, 3, 6)
CREDIT = [GRPO(), UniformCredit()]


def graded(invalid: Any = None) -> tuple[Any, Any, Rollouts, list[Any]]:
    """Engine, world, rollouts and the grader's rows of a step's batch."""
    world = toys.ToyWorld(invalid)
    engine = toys.learner("grpo", world=world).engine
    return engine, world, *graded_rollouts(engine, world, toys.drawing(), 4, AT)


@pytest.fixture(scope="module")
def batch() -> tuple[Any, Any, Rollouts, list[Any]]:
    return graded()


def compare(batch: Any, arms: dict[str, list[Stage]]) -> Any:
    engine, world, rollouts, rows = batch
    return compare_stages(engine, world, rollouts, arms, rows, at=AT, temperature=0.8)


class Rebuilds(Stage):
    """Makes new rollouts of the old ones' tokens."""

    kind: Literal["rebuilds"] = "rebuilds"

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        known = {"group": rollouts.group, "reward": rollouts.reward}
        return Rollouts.of(rollouts.ids, rollouts.length, rollouts.prompt_length, **known), {}


class Halves(Stage):
    """Halves the weight of every second row that is left, and cuts columns that no row reaches."""

    kind: Literal["halves"] = "halves"
    gives: ClassVar[tuple[str, ...]] = ()

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        factor = torch.where(torch.arange(len(rollouts)) % 2 == 0, 0.5, 1.0)
        return replace(rollouts, weight=rollouts.weight * factor).trim(), {}


def test_the_rollouts_are_those_that_a_run_draws_at_that_step(batch):
    _, world, rollouts, rows = batch
    made = toys.learner("grpo", world=world)
    drawn = toys.record(made.engine)
    made.step(AT.step)
    assert torch.equal(drawn[AT.step, 0].ids, rollouts.ids)
    assert rollouts.reward is not None
    prompts = world.draw(4, AT.seed, AT.step)
    assert [r["id"] for r in rows] == [prompts.rows[int(g)]["id"] for g in rollouts.group]


def test_rows_are_followed_as_by_hand(batch):
    engine, world, rollouts, _ = batch
    arms = {
        "d3s": [*CREDIT, D3SRows(start=0.5), D3STokens(start=0.4)],
        "twice": [*CREDIT, DropSilent(), RepeatCorrect()],
    }
    made = compare(batch, arms)
    entropy = engine.score(rollouts, "policy", ["entropy"], 0.8)["entropy"]
    for name, stages in arms.items():
        # Every row carries its number as the version, which no stage reads.
        now = replace(rollouts, version=torch.arange(len(rollouts))).with_streams(entropy=entropy)
        for stage in stages:
            now, _ = stage(now, AT)
        copies = torch.bincount(now.version, minlength=len(rollouts))
        assert torch.equal(made[name].copies, copies)
        kept = torch.zeros_like(rollouts.action)
        for place, row in enumerate(now.version.tolist()):
            kept[row] |= in_loss(now)[place]
        assert torch.equal(made[name].kept, kept)
    assert int((made["d3s"].copies == 0).sum()) > 0
    assert int(made["twice"].copies.max()) == 2
    assert bool(made["d3s"].kept.sum() < rollouts.action.sum() / 2)


def test_a_dropped_row_keeps_what_it_was_worth_before(batch):
    made = compare(batch, {"grpo": CREDIT, "d3s": [*CREDIT, D3SRows(start=0.25), Fade()]})
    dropped = made["d3s"].copies == 0
    assert bool(dropped.any())
    assert not bool(dropped.all())
    assert torch.equal(made["d3s"].streams["advantage"], made["grpo"].streams["advantage"])
    faded = made["d3s"].streams["token_weight"]
    action = batch[2].action
    assert bool(faded[dropped].isnan().all())  # they were gone before anybody wrote weights
    assert bool((faded[~dropped] > 0)[action[~dropped]].all())


def test_scores_are_those_of_the_engine_for_all_arms(batch):
    engine, _, rollouts, _ = batch
    made = compare(batch, {"grpo": CREDIT, "top": [*CREDIT, TopEntropy(keep=0.3)]})
    policy = engine.score(rollouts, "policy", ["entropy", "logp"], 0.8)
    wanted = {"entropy": policy["entropy"], "logp_old": policy["logp"]}
    wanted["logp_ref"] = engine.score(rollouts, "reference", ["logp"], 0.8)["logp"]
    for name, x in wanted.items():
        for arm in made.values():
            assert torch.allclose(arm.streams[name][rollouts.action], x[rollouts.action], atol=SAME_SCORES)
    assert float((wanted["logp_old"] - wanted["logp_ref"]).abs().max()) > 100 * SAME_SCORES


def test_row_weights_and_narrower_batches(batch):
    made = compare(batch, {"halves": [*CREDIT, Halves()]})["halves"]
    assert made.weight.tolist() == [0.5 if i % 2 == 0 else 1.0 for i in range(len(batch[2]))]
    assert made.streams["advantage"].shape == batch[2].ids.shape


def test_of_a_repeated_row_the_first_copy_counts(batch):
    made = compare(batch, {"twice": [*CREDIT, RepeatCorrect(), Halves()]})["twice"]
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), made.copies.cumsum(0)[:-1]])
    assert set(made.copies.tolist()) == {1, 2}
    assert made.weight.tolist() == [0.5 if i % 2 == 0 else 1.0 for i in starts.tolist()]


def test_stages_that_remember_are_left_as_they_are(batch):
    memory = Memory()
    before = memory.state_dict()
    a = compare(batch, {"memory": [memory, UniformCredit()]})["memory"]
    b = compare(batch, {"memory": [memory, UniformCredit()]})["memory"]
    assert memory.state_dict() == before
    assert torch.equal(a.streams["advantage"], b.streams["advantage"])


def test_a_pass_under_another_context_gives_values_where_it_was_asked_only(batch):
    made = compare(batch, {"hinted": [*CREDIT, Hinted()]})["hinted"]
    action, asked = batch[2].action, made.streams["advantage"].abs().sum(1) > 0
    teacher = made.streams["logp_teacher"]
    assert bool(torch.isfinite(teacher[asked]).all())
    assert bool((teacher[asked][action[asked]] < 0).all())
    silent = compare(batch, {"hinted": [Silent(), UniformCredit(), Hinted()]})["hinted"]
    assert bool(silent.streams["logp_teacher"].isnan().all())


class Silent(Stage):
    """No row has an advantage."""

    gives: ClassVar[tuple[str, ...]] = ("advantage_row",)
    kind: Literal["silent"] = "silent"

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        return rollouts.with_streams(advantage_row=torch.zeros(len(rollouts))), {}


def test_what_cannot_be_compared_is_refused(batch):
    engine, world, rollouts, rows = batch
    with pytest.raises(UserError, match="Rebuilds builds new rollouts"):
        compare(batch, {"x": [Rebuilds()]})
    with pytest.raises(UserError, match="have no reward"):
        compare_stages(engine, world, replace(rollouts, reward=None), {"grpo": CREDIT})
    with pytest.raises(UserError, match="needs 'advantage'"):
        compare(batch, {"x": [D3SRows()]})


def test_the_table_says_dropped_and_missing_never_zero(batch):
    engine, world, rollouts, _ = batch
    made = compare(batch, {"grpo": CREDIT, "d3s": [*CREDIT, D3SRows(start=0.5), D3STokens(start=0.4)]})
    truth = rollouts.ids == EOS
    samples, streams = token_table(rollouts, world.pieces(rollouts), made, truth=truth & rollouts.action, mark="last")
    names = [s.name for s in streams]
    assert names[:6] == ["advantage", "|A|·H", "weight", "entropy", "log-ratio", "gap"]
    assert len(samples) == len(rollouts)
    assert [s.title for s in samples[:4]] == [f"prompt {1 + i // 3}, response {1 + i % 3}" for i in range(4)]
    for i, sample in enumerate(samples):
        n, start = int(rollouts.length[i]), int(rollouts.prompt_length[i])
        assert "".join(sample.tokens) == "".join(world.texts(rollouts)[i])
        assert (len(sample.tokens), sample.prompt_tokens) == (n, start)
        assert sample.truth == tuple(j for j in range(start, n) if int(rollouts.ids[i, j]) == EOS)
        for view in sample.views:
            assert all(v is None for x in view.streams.values() for v in x[:start])
            weight = view.streams["weight"]
            assert [w is None for w in weight[start:]] == list(view.dropped[start:])
            both = zip(view.streams["advantage"], view.streams["entropy"], strict=True)
            product = [None if a is None else abs(a) * h for a, h in both]
            assert view.streams["|A|·H"] == pytest.approx(product)
        assert sample.views[0].streams["reward"][start] == pytest.approx(float(rollouts.reward[i]))
        assert sample.views[1].copies == int(made["d3s"].copies[i])
    assert any(v.copies == 0 for s in samples for v in s.views)
    assert "data" in token_view(samples, streams, marks(made))


def test_a_row_that_was_not_graded_has_no_values_and_says_so():
    batch = graded(lambda rollouts: torch.arange(len(rollouts)) == 4)
    made = compare(batch, {"grpo": CREDIT})
    samples, _ = token_table(batch[2], batch[1].pieces(batch[2]), made, which=[4, 0])
    assert samples[0].notes == (("not graded", "in no loss"),)
    values = [v for x in samples[0].views[0].streams.values() for v in x]
    assert all(v is None for v in values)
    assert all(samples[0].views[0].dropped[samples[0].prompt_tokens :])
    assert dict(samples[1].notes)["reward"] == f"{float(batch[2].reward[0]):.4g}"
    assert not any(math.isnan(v) for x in samples[1].views[0].streams.values() for v in x if v is not None)


def test_credit_is_a_share_of_the_response_s_advantage():
    a = torch.tensor([[math.nan, 1.0, 3.0, 2.0], [-1.0, -1.0, -4.0, math.nan], [1.0, -1.0, 1.0, 1.0], [0.0] * 4])
    found = credit(a)
    assert found[0, 1:].tolist() == pytest.approx([-0.5, 0.5, 0.0])
    assert found[1, :3].tolist() == pytest.approx([-0.5, -0.5, 1.0])
    assert torch.isnan(found[2:]).all()
    assert torch.isnan(found[0, 0])


def test_credit_under_two_answers_and_a_selection_by_divergence_side_by_side(batch):
    engine, world, rollouts, rows = batch
    hint = Hint(text="?{answer}=")
    against = Against("reference", ToldRight(hint))
    arms = {
        "grpo": CREDIT,
        "rlsd": [GRPO(), ContrastiveCredit(hint=hint, negative="none", decay=0)],
        "tip": [SelectTokens(keep=0.5)],
    }
    terms = {"tip": [distill_term(against, Aggregation())]}
    made = compare_stages(engine, world, rollouts, arms, rows, at=AT, temperature=0.8, terms=terms)
    samples, streams = token_table(rollouts, world.pieces(rollouts), made)
    assert {"evidence", "divergence"} <= {s.name for s in streams}
    asked = GRPO()(rollouts)[0].streams["advantage_row"] != 0
    for i, sample in enumerate(samples):
        views = {v.arm: v for v in sample.views}
        assert "evidence" not in views["grpo"].streams
        shown = views["rlsd"].streams
        told = zip(shown["evidence"], shown["logp_teacher"], shown["logp_teacher_wrong"], strict=True)
        for gained, right, other in told:
            assert gained == (None if right is None else pytest.approx(right - other, abs=1e-6))
        assert any(v is not None for v in shown["evidence"]) == bool(asked[i])
        assert {v for v in views["grpo"].streams["credit"] if v is not None} <= {0.0}  # the same for every token
        of_row = [v for v in shown["credit"] if v is not None]
        assert abs(sum(of_row)) < 1e-4
        assert bool(of_row) == bool(asked[i])
        assert all(d >= -1e-6 for d in views["tip"].streams["divergence"] if d is not None)
    kept = int(made["tip"].kept.sum())
    assert 0 < kept < int(made["grpo"].kept.sum())
    with pytest.raises(UserError, match="SelectTokens needs 'divergence'"):
        compare_stages(engine, world, rollouts, arms, rows, at=AT, temperature=0.8)
