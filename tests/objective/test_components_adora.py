"""ADORA as a stage: which advantages it multiplies, what it counts, its two controls, and what it refuses."""

import pytest
import torch

from steersman.core.component import Moment, check_pipeline
from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.objective.advantage.adora import adora_weights
from steersman.objective.components_adora import ADORA
from steersman.objective.components_advantage import GRPO, UniformCredit

SUM = 1e-6  # float32

# 3: right and long, 1 of 3 right; 8: right but short; 5: all wrong; 6: all right; 2: one row not graded, one cut
GROUP = torch.tensor([3, 3, 3, 8, 8, 5, 5, 6, 6, 2, 2, 2, 2])
RIGHT = torch.tensor([1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0]).bool()
LENGTH = torch.tensor([6, 2, 4, 1, 5, 2, 2, 3, 4, 3, 6, 2, 6])
VALID = torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]).bool()
CUT = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]).bool()
HIT = torch.isin(GROUP, torch.tensor([3, 2]))  # with the cut and the ungraded row counted, group 2 would not be


def rollouts(**known):
    n = len(GROUP)
    defaults = {
        "group": GROUP,
        "correct": RIGHT,
        "valid": VALID,
        "reward": torch.where(VALID, RIGHT.float(), torch.nan),
        "stop": torch.where(CUT, STOP_LENGTH, STOP_EOS),
    }
    return Rollouts.of(
        torch.arange(8 * n).view(n, 8), LENGTH + 1, torch.ones(n, dtype=torch.int64), **(defaults | known)
    )


def test_whole_groups_are_multiplied():
    batch = GRPO()(rollouts())[0]
    out, metrics = ADORA()(batch)
    before, after = batch.streams["advantage_row"], out.streams["advantage_row"]
    assert torch.equal(after, torch.where(HIT, 2 * before, before))
    assert before[HIT & VALID].all()
    for g in GROUP.unique():
        assert abs(float(after[(g == GROUP) & VALID].sum())) < SUM
    assert metrics == {
        "advantageous": 2 / 5,
        "disadvantageous": 2 / 5,
        "undecided": 1 / 5,
        "reweighted": 2 / 3,
        "weight_mean": pytest.approx((6 * 2 + 2) / 8),
        "length_correct": pytest.approx((6 + 1 + 3 + 4 + 3) / 5),
        "length_wrong": pytest.approx((2 + 4 + 5 + 2 + 2 + 6 + 2) / 7),
    }


def test_every_advantage_there_is_is_multiplied():
    batch = UniformCredit()(GRPO()(rollouts())[0])[0]
    out, _ = ADORA()(batch)
    assert torch.equal(out.streams["advantage"], UniformCredit()(out)[0].streams["advantage"])
    early = UniformCredit()(ADORA()(GRPO()(rollouts())[0])[0])[0]
    assert torch.equal(out.streams["advantage"], early.streams["advantage"])
    tokens = rollouts(streams={"advantage": batch.streams["advantage"]})
    late, told = ADORA(stream="advantage")(tokens)
    assert torch.equal(late.streams["advantage"], out.streams["advantage"])
    assert told["reweighted"] == 2 / 3


def test_weight_one_changes_nothing():
    batch = GRPO()(rollouts())[0]
    for how in ({"mode": "amplify"}, {"mode": "attenuate"}):
        out = ADORA(weight=1.0, **how)(batch)[0]
        assert torch.equal(out.streams["advantage_row"], batch.streams["advantage_row"])


def test_presets_reach_the_function():
    batch = GRPO()(rollouts())[0]
    rows = VALID.nonzero()[:, 0]
    for preset in ("repo_text", "repo_vision"):
        w = adora_weights(RIGHT[rows], LENGTH[rows], GROUP[rows], CUT[rows], preset=preset)
        out = ADORA(preset=preset)(batch)[0].streams["advantage_row"]
        assert torch.equal(out[rows], batch.streams["advantage_row"][rows] * w)


def test_the_step_size_can_be_taken_out():
    batch = GRPO()(rollouts())[0]
    out, metrics = ADORA(normalize="mean1")(batch)
    assert metrics["weight_mean"] == pytest.approx(1, abs=SUM)
    ratio = out.streams["advantage_row"] / batch.streams["advantage_row"]
    assert ratio[HIT & VALID].unique() == pytest.approx(2 * 8 / 14)
    assert ratio[GROUP == 8].unique() == pytest.approx(8 / 14)


def test_permuted_weights_are_the_same_numbers_on_other_groups():
    """Dealt among groups with an advantage, so their mean stays; another deal at another step; any order of rows."""
    batch = GRPO()(rollouts())[0]
    signal = (batch.streams["advantage_row"] != 0) & VALID

    def dealt(rows, at):
        out = ADORA(permuted=True)(rows, at)[0]
        ratio = torch.where(rows.streams["advantage_row"] != 0, out.streams["advantage_row"], 1.0)
        return ratio / torch.where(rows.streams["advantage_row"] != 0, rows.streams["advantage_row"], 1.0)

    seen = set()
    for step in range(30):
        w = dealt(batch, Moment(seed=5, step=step))
        of = {int(g): w[signal & (g == GROUP)].unique() for g in GROUP[signal].unique()}
        assert all(len(x) == 1 for x in of.values())
        assert sorted(float(x) for x in of.values()) == [1, 2, 2]
        seen.add(tuple(float(of[g]) for g in sorted(of)))
    assert len(seen) == 3
    order = torch.randperm(len(GROUP), generator=torch.Generator().manual_seed(2))
    at = Moment(seed=5, step=3)
    assert torch.equal(dealt(batch.index(order), at), dealt(batch, at)[order])
    assert torch.equal(dealt(batch, at), dealt(batch, at))


def test_rows_without_an_action_are_in_no_criterion():
    batch = GRPO()(rollouts())[0]
    forced = torch.zeros_like(batch.action)
    forced[1] = batch.action[1]  # the shortest failure of group 3
    placed = Rollouts.of(
        batch.ids,
        batch.length,
        batch.prompt_length,
        forced=forced,
        **{k: getattr(batch, k) for k in ("group", "correct", "valid", "reward", "stop")},
        streams=batch.streams,
    )
    _, metrics = ADORA(criterion="length")(placed)
    assert metrics["length_wrong"] == pytest.approx((4 + 5 + 2 + 2 + 6 + 2) / 6)


def test_what_it_needs():
    known = ["logp_old"]
    check_pipeline([GRPO(), ADORA(), UniformCredit()], known)
    check_pipeline([GRPO(), UniformCredit(), ADORA(stream="advantage")], known)
    with pytest.raises(UserError, match="ADORA needs 'advantage_row'"):
        check_pipeline([ADORA(), GRPO()], known)
    assert ADORA.fields == ("correct",)
    with pytest.raises(UserError, match="which answers are correct"):
        ADORA()(rollouts(correct=None, streams={"advantage_row": torch.ones(13)}))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tau": 1.2}, "tau"),
        ({"weight": -1}, "weight"),
        ({"preset": "repo_text", "criterion": "difficulty"}, "would be ignored"),
        ({"normalize": "mean"}, "normalize"),
        ({"stream": "returns"}, "stream"),
    ],
)
def test_bad_options_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        ADORA(**options)
