"""Reward and advantage stages on rollouts: which streams they read and write, their order, counts, state."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from steersman.core.component import check_pipeline
from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.objective import components_advantage as stages
from steersman.objective.advantage import gae as tokens
from steersman.objective.advantage import group as rows

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


def with_logp(batch):
    g = torch.arange(24.0).view(4, 6)
    return batch.with_streams(logp_old=-1 - g / 24, logp_ref=-1 - g.flip(1) / 24)


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
    assert metrics["return_mean"] == pytest.approx(float(returns[mask].mean()), abs=FLOAT32)


def test_reward_stages_in_order():
    shape = stages.ShapeReward(mean=1.0, std=2.0, clip=0.75, missing_eos="replace", missing_eos_value=-1.0)
    batch, metrics = shape(with_logp(rollouts()))
    assert torch.equal(batch.streams["token_reward"].sum(1), torch.tensor([0.0, -1.0, 0.75, 0.0]))
    assert metrics == {"not_ended_share": pytest.approx(1 / 3), "rows_without_action": 0}
    batch, metrics = stages.Overlong(limit=4, cache=2)(batch)
    assert torch.equal(batch.streams["token_reward"].sum(1), torch.tensor([0.0, -2.0, 0.25, 0.0]))
    assert metrics == {"punished_share": pytest.approx(2 / 3)}
    before = batch.streams["token_reward"]
    batch, metrics = stages.KLReward(beta=0.5)(batch)
    mask = batch.action & VALID[:, None]
    kl = (batch.streams["logp_old"] - batch.streams["logp_ref"]) * mask
    assert torch.allclose(batch.streams["token_reward"], before - 0.5 * kl, atol=FLOAT32, rtol=0)
    assert metrics == {"kl_row": pytest.approx(float(kl.sum()) / 3, abs=FLOAT32), "beta": 0.5}
    score = stages.row_scores(batch)
    assert torch.allclose(score, (before - 0.5 * kl).sum(1).where(VALID, REWARD), atol=FLOAT32, equal_nan=True)
    got = stages.RLOO()(batch)[0].streams["advantage_row"]
    assert torch.equal(got, rows.rloo(score, GROUP, VALID))
    with pytest.raises(UserError, match="exists already"):
        shape(batch)


def test_a_row_without_actions_keeps_its_reward_in_the_group():
    forced = torch.zeros(4, 6, dtype=torch.bool)
    forced[0, 2:4] = True
    batch, metrics = stages.ShapeReward()(rollouts(forced=forced))
    assert metrics["rows_without_action"] == 1
    assert not batch.streams["token_reward"][0].any()
    assert torch.equal(stages.row_scores(batch)[:3], REWARD[:3])


def test_adaptive_coefficient_is_state_that_survives_resume():
    stage = stages.KLReward(beta=0.2, target=1e-3, horizon=100)
    batch = with_logp(rollouts())
    batch = batch.with_streams(logp_old=batch.streams["logp_ref"] + 0.5)
    assert stage.state_dict() == {}
    assert stage(batch)[1]["beta"] == 0.2
    second = stage(batch)[1]["beta"]
    assert second == pytest.approx(0.2 * (1 + 0.2 * 3 / 100))
    again = stages.KLReward(beta=0.2, target=1e-3, horizon=100)
    again.load_state_dict(stage.state_dict())
    assert again(batch)[1]["beta"] == stage(batch)[1]["beta"] > second
    again.load_state_dict({})
    assert again(batch)[1]["beta"] == 0.2


def test_pipelines():
    given = ["logp_old", "logp_ref"]
    order = [stages.ShapeReward(), stages.KLReward(), stages.RLOO(), stages.UniformCredit()]
    assert "advantage" in check_pipeline(order, given)
    with pytest.raises(UserError, match="KLReward needs 'logp_ref'"):
        check_pipeline(order, ["logp_old"])
    with pytest.raises(UserError, match="UniformCredit needs 'advantage_row'"):
        check_pipeline([stages.UniformCredit(), stages.GRPO()], given)
    with pytest.raises(UserError, match="GAE needs 'value'"):
        check_pipeline([stages.GAE()], given)


def test_unions():
    advantage, reward = TypeAdapter(stages.AdvantageComponent), TypeAdapter(stages.RewardStage)
    assert advantage.validate_python({"kind": "grpo", "scale": "none"}) == stages.GRPO(scale="none")
    assert advantage.validate_python({"kind": "gae"}) == stages.GAE(gamma=1.0, lam=0.95)
    assert reward.validate_python({"kind": "overlong"}) == stages.Overlong(limit=20480, cache=4096)
    with pytest.raises(ValidationError, match="critic"):
        advantage.validate_python({"kind": "critic"})


def test_rollouts_without_a_reward_are_refused():
    for stage in (stages.GRPO(), stages.ReinforcePP(), stages.ShapeReward(), stages.Overlong()):
        with pytest.raises(UserError, match="no reward"):
            stage(rollouts(reward=None))


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (stages.ShapeReward, {"mean": 0.0}, "both or neither"),
        (stages.ShapeReward, {"missing_eos": "penalty", "missing_eos_value": -1.0}, "subtracted"),
        (stages.Overlong, {"limit": 10, "cache": 11}, "longer than limit"),
    ],
)
def test_options_that_cannot_work_together(cls, options, match):
    with pytest.raises(ValidationError, match=match):
        cls(**options)
