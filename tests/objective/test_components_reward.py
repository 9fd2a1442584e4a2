"""Reward stages on rollouts: what they write onto what, counts, the state of the adaptive coefficient."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.objective import components_reward as reward
from steersman.objective.advantage import group as rows
from steersman.objective.components_advantage import RLOO

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


def test_reward_stages_in_order():
    shape = reward.ShapeReward(mean=1.0, std=2.0, clip=0.75, missing_eos="replace", missing_eos_value=-1.0)
    batch, metrics = shape(with_logp(rollouts()))
    assert torch.equal(batch.streams["token_reward"].sum(1), torch.tensor([0.0, -1.0, 0.75, 0.0]))
    assert metrics == {"not_ended_share": pytest.approx(1 / 3), "rows_without_action": 0}
    batch, metrics = reward.Overlong(limit=4, cache=2)(batch)
    assert torch.equal(batch.streams["token_reward"].sum(1), torch.tensor([0.0, -2.0, 0.25, 0.0]))
    assert metrics == {"punished_share": pytest.approx(2 / 3)}
    before = batch.streams["token_reward"]
    batch, metrics = reward.KLReward(beta=0.5)(batch)
    mask = batch.action & VALID[:, None]
    kl = (batch.streams["logp_old"] - batch.streams["logp_ref"]) * mask
    assert torch.allclose(batch.streams["token_reward"], before - 0.5 * kl, atol=FLOAT32, rtol=0)
    assert metrics == {"kl_row": pytest.approx(float(kl.sum()) / 3, abs=FLOAT32), "beta": 0.5}
    score = reward.row_scores(batch)
    assert torch.allclose(score, (before - 0.5 * kl).sum(1).where(VALID, REWARD), atol=FLOAT32, equal_nan=True)
    got = RLOO()(batch)[0].streams["advantage_row"]
    assert torch.equal(got, rows.rloo(score, GROUP, VALID))
    with pytest.raises(UserError, match="exists already"):
        shape(batch)


def test_a_row_without_actions_keeps_its_reward_in_the_group():
    forced = torch.zeros(4, 6, dtype=torch.bool)
    forced[0, 2:4] = True
    batch, metrics = reward.ShapeReward()(rollouts(forced=forced))
    assert metrics["rows_without_action"] == 1
    assert not batch.streams["token_reward"][0].any()
    assert torch.equal(reward.row_scores(batch)[:3], REWARD[:3])


def test_adaptive_coefficient_is_state_that_survives_resume():
    stage = reward.KLReward(beta=0.2, target=1e-3, horizon=100)
    batch = with_logp(rollouts())
    batch = batch.with_streams(logp_old=batch.streams["logp_ref"] + 0.5)
    assert stage.state_dict() == {}
    assert stage(batch)[1]["beta"] == 0.2
    second = stage(batch)[1]["beta"]
    assert second == pytest.approx(0.2 * (1 + 0.2 * 3 / 100))
    again = reward.KLReward(beta=0.2, target=1e-3, horizon=100)
    again.load_state_dict(stage.state_dict())
    assert again(batch)[1]["beta"] == stage(batch)[1]["beta"] > second
    again.load_state_dict({})
    assert again(batch)[1]["beta"] == 0.2
    kept = again.state_dict()
    again(batch.index(torch.zeros(4, dtype=torch.bool)))
    assert again.state_dict() == kept  # a call without rows teaches the controller nothing


def test_union_and_rollouts_without_a_reward():
    union = TypeAdapter(reward.RewardStage)
    assert union.validate_python({"kind": "overlong"}) == reward.Overlong(limit=20480, cache=4096)
    assert union.validate_python({"kind": "kl_reward", "beta": 0.0}).target is None
    for stage in (reward.ShapeReward(), reward.Overlong(), reward.KLReward()):
        with pytest.raises(UserError, match="no reward"):
            stage(with_logp(rollouts(reward=None)))


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (reward.ShapeReward, {"mean": 0.0}, "both or neither"),
        (reward.ShapeReward, {"missing_eos": "penalty", "missing_eos_value": -1.0}, "subtracted"),
        (reward.Overlong, {"limit": 10, "cache": 11}, "longer than limit"),
        (reward.KLReward, {"beta": 0.0, "target": 6.0}, "beta is 0, which a target cannot change"),
    ],
)
def test_options_that_cannot_work_together(cls, options, match):
    with pytest.raises(ValidationError, match=match):
        cls(**options)
