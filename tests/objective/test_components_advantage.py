"""Advantage stages on rollouts: which streams they read and write, their counts, which order is refused."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from steersman.core.component import check_pipeline
from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.objective import components_advantage as stages
from steersman.objective.advantage import gae as tokens
from steersman.objective.advantage import group as rows
from steersman.objective.components_reward import KLReward, ShapeReward

FLOAT32 = 1e-6  # float32 sums

LENGTH = torch.tensor([4, 6, 5, 6])
REWARD = torch.tensor([1.0, 0.0, 3.0, torch.nan])
VALID = torch.tensor([True, True, True, False])
GROUP = torch.tensor([7, 7, 2, 2])


def rollouts(**known):
    """Four rows with prompts of two tokens: 2, 4, 3 and 4 actions; the last row has no score, the second was cut."""
    stop = torch.tensor([STOP_EOS, STOP_LENGTH, STOP_EOS, STOP_EOS])
    defaults = {"group": GROUP, "reward": REWARD, "valid": VALID, "stop": stop}
    return Rollouts.of(torch.zeros(4, 6, dtype=torch.int64), LENGTH, torch.full((4,), 2), **(defaults | known))


def test_row_stages_are_their_functions():
    batch = rollouts()
    for stage, want in (
        (stages.GRPO(eps=1e-4), rows.grpo(REWARD, GROUP, "group", 1e-4, VALID)),
        (stages.GRPO(scale="batch"), rows.grpo(REWARD, GROUP, "batch", valid=VALID)),
        (stages.RLOO(), rows.rloo(REWARD, GROUP, VALID)),
        (stages.OPO(), rows.opo(REWARD, GROUP, torch.tensor([2, 4, 3, 4]), VALID)),
        (stages.PassK(scale="none"), rows.passk(REWARD, GROUP, "none", valid=VALID)),
    ):
        out, metrics = stage(batch)
        assert torch.equal(out.streams["advantage_row"], want)
        assert not batch.streams
        assert metrics["singletons"] == 1  # the other row of group 2 is invalid
        assert (metrics["rows"], metrics["invalid_rows"], metrics["groups"]) == (4, 1, 2)
        assert metrics["silent_row_share"] == pytest.approx(1 / 3)


def test_groups_without_a_signal_are_counted_by_a_name_that_is_not_that_of_the_share():
    _, metrics = stages.GRPO()(rollouts(reward=torch.ones(4), group=torch.zeros(4, dtype=torch.int64)))
    assert metrics["zero_signal_count"] == 1
    assert "zero_signal_groups" not in metrics  # the share, of the step (`train.collect`)


def test_uniform_credit_reaches_actions_only():
    out, _ = stages.UniformCredit()(stages.RLOO()(rollouts())[0])
    assert torch.equal(out.streams["advantage"][0], torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]))
    assert not out.streams["advantage"][3].any()


def test_token_stages_take_the_reward_at_the_last_action():
    batch = rollouts()
    mask = batch.action & VALID[:, None]
    reward = stages.token_rewards(batch)
    assert torch.equal(reward.sum(1), torch.tensor([1.0, 0.0, 3.0, 0.0]))
    assert reward[2, 4] == 3
    got = stages.ReinforcePP(gamma=0.9)(batch)[0].streams["advantage"]
    assert torch.equal(got, tokens.reinforce_pp(reward, mask, 0.9))
    got = stages.ReinforcePPBaseline()(batch)[0].streams["advantage"]
    assert torch.equal(got, tokens.reinforce_pp_baseline(REWARD, GROUP, batch.action, VALID))


@pytest.mark.parametrize("whiten", [True, False])
def test_gae(whiten):
    value = torch.arange(24.0).view(4, 6) / 10
    batch = rollouts().with_streams(value=value)
    mask = batch.action & VALID[:, None]
    stage = stages.GAE(gamma=0.9, lam=0.8, whiten=whiten)
    out, metrics = stage(batch)
    advantage, returns = tokens.gae(stages.token_rewards(batch), value, mask, 0.9, 0.8)
    assert torch.equal(out.streams["advantage"], tokens.whiten(advantage, mask) if whiten else advantage)
    assert torch.equal(stage.estimate(batch)[1], returns)
    assert torch.equal(out.streams["returns"], returns)
    assert metrics["return_mean"] == pytest.approx(float(returns[mask].mean()), abs=FLOAT32)


def test_cut_rows_go_on_with_the_value_after_their_last_token():
    """The bootstrapped return of a row is that of a row whose last reward is larger by gamma V(end)."""
    value, end = torch.arange(24.0).view(4, 6) / 10, torch.tensor([9.0, 5.0, 9.0, torch.nan])
    batch = rollouts().with_streams(value=value, value_end=end)
    stage = stages.GAE(gamma=0.9, lam=0.8, whiten=False, truncation="bootstrap")
    out, _ = stage(batch)
    more = stages.token_rewards(batch)
    more[1, 5] += 0.9 * 5  # the second row is the only valid one that was cut
    want = stages.GAE(gamma=0.9, lam=0.8, whiten=False)(batch.with_streams(token_reward=more))[0]
    for name in ("advantage", "returns"):
        assert torch.allclose(out.streams[name], want.streams[name], atol=FLOAT32, rtol=0)
    monte_carlo, _ = stages.GAE(gamma=0.9, lam=1.0, truncation="bootstrap")(batch)
    assert float(monte_carlo.streams["returns"][1, 2]) == pytest.approx(0.9**4 * 5)
    assert float(monte_carlo.streams["returns"][0, 2]) == pytest.approx(0.9)
    ended, _ = stages.GAE(gamma=0.9, lam=1.0)(batch)
    assert not ended.streams["returns"][1].any()


def test_needs_are_those_of_the_configured_stage():
    stage = stages.GAE(truncation="bootstrap")
    assert stages.GAE().needs == ("value",)
    assert stage.needs == ("value", "value_end")
    with pytest.raises(UserError, match="GAE needs 'value_end'"):
        check_pipeline([stage], ["value"])
    assert {"advantage", "returns"} <= check_pipeline([stage], ["value", "value_end"])


def test_pipelines():
    given = ["logp_old", "logp_ref"]
    order = [ShapeReward(), KLReward(), stages.RLOO(), stages.UniformCredit()]
    assert "advantage" in check_pipeline(order, given)
    with pytest.raises(UserError, match="KLReward needs 'logp_ref'"):
        check_pipeline(order, ["logp_old"])
    with pytest.raises(UserError, match="UniformCredit needs 'advantage_row'"):
        check_pipeline([stages.UniformCredit(), stages.GRPO()], given)
    with pytest.raises(UserError, match="GAE needs 'value'"):
        check_pipeline([stages.GAE()], given)


def test_union():
    advantage = TypeAdapter(stages.AdvantageComponent)
    assert advantage.validate_python({"kind": "grpo", "scale": "none"}) == stages.GRPO(scale="none")
    assert advantage.validate_python({"kind": "gae"}) == stages.GAE(gamma=1.0, lam=0.95, truncation="end")
    assert advantage.validate_python({"kind": "baseline", "value": 1}) == stages.Baseline(value=1.0)
    assert advantage.validate_python({"kind": "baseline"}) == stages.Baseline(value="batch_mean")
    with pytest.raises(ValidationError, match="critic"):
        advantage.validate_python({"kind": "critic"})


def test_rollouts_without_a_reward_are_refused():
    for stage in (stages.GRPO(), stages.ReinforcePP(), stages.Baseline()):
        with pytest.raises(UserError, match="no reward"):
            stage(rollouts(reward=None))


def test_baselines_are_of_the_batch_and_know_no_groups():
    out, metrics = stages.Baseline(value=0.25)(rollouts())
    assert torch.equal(out.streams["advantage_row"], torch.tensor([0.75, -0.25, 2.75, 0.0]))
    assert metrics == {"rows": 4, "invalid_rows": 1, "baseline": 0.25, "silent_row_share": 0}
    out, metrics = stages.Baseline()(rollouts())
    assert torch.allclose(out.streams["advantage_row"], torch.tensor([-1 / 3, -4 / 3, 5 / 3, 0.0]), atol=FLOAT32)
    assert metrics["baseline"] == pytest.approx(4 / 3)
    shuffled, _ = stages.Baseline()(rollouts(group=torch.tensor([4, 1, 3, 2])))
    assert torch.equal(shuffled.streams["advantage_row"], out.streams["advantage_row"])
    out, metrics = stages.Baseline()(rollouts(reward=torch.full((4,), 0.1)))
    assert not out.streams["advantage_row"].any()  # exactly 0, whatever the rounding of the mean
    assert metrics["silent_row_share"] == 1
    scored = rollouts().with_streams(token_reward=torch.ones(4, 6))  # two, four and three actions
    assert torch.equal(stages.Baseline(value=2.0)(scored)[0].streams["advantage_row"], torch.tensor([0.0, 2, 1, 0]))


ROW_STAGES = [stages.GRPO(), stages.GRPO(scale="batch"), stages.RLOO(), stages.OPO(), stages.PassK(), stages.Baseline()]
TOKEN_STAGES = [stages.ReinforcePP(gamma=0.9), stages.ReinforcePPBaseline(), stages.GAE(truncation="bootstrap")]


@pytest.mark.parametrize("stage", ROW_STAGES + TOKEN_STAGES, ids=lambda s: s.kind)
def test_group_layout_does_not_matter(stage):
    """Groups of 1 to 4 rows with arbitrary ids, scattered over the batch, some invalid, one row twice."""
    group = torch.tensor([5, -3, 5, 2**40, -3, 5, 11, 5, -3, 11])
    reward = torch.tensor([1.0, 0, 0, 1, 1, torch.nan, 0.5, 0, 2, 1])
    valid = ~reward.isnan()
    grid = torch.arange(60.0).view(10, 6)
    ids, start, length = torch.zeros(10, 6, dtype=torch.int64), torch.arange(10) % 3, 3 + torch.arange(10) % 4
    known = {"group": group, "reward": reward, "valid": valid, "stop": torch.arange(10) % 2}
    batch = Rollouts.of(ids, length, start, **known, streams={"value": grid.sin(), "value_end": grid.cos()[:, 0]})
    batch = batch.index(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 4]))
    order = torch.tensor([3, 10, 0, 7, 1, 9, 2, 8, 5, 4, 6])
    names = torch.unique(batch.group, return_inverse=True)[1] * 7 % 4 - 1  # other ids in another order
    name = stage.gives[0]
    want = stage(batch)[0].streams[name]
    moved = stage(replace(batch, group=names).index(order))[0].streams[name]
    assert torch.allclose(moved, want[order], atol=FLOAT32, rtol=0)
    assert want.any()
    assert not want[~batch.valid].any()


@pytest.mark.parametrize("stage", [*ROW_STAGES, *TOKEN_STAGES, stages.UniformCredit()], ids=lambda s: s.kind)
def test_all_rows_dropped(stage):
    batch = rollouts().with_streams(value=torch.zeros(4, 6), value_end=torch.zeros(4), advantage_row=torch.zeros(4))
    out, metrics = stage(batch.index(torch.zeros(4, dtype=torch.bool)))
    assert len(out) == 0
    assert out.streams[stage.gives[0]].shape[0] == 0
    assert all(math.isfinite(x) for x in metrics.values())
