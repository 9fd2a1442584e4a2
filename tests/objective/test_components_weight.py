"""Rows weighed by their rewards: closed form, limits, what does not count, and the weighted mean of the source."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components import Aggregation
from steersman.objective.components_weight import RewardWeight, reward_weights

DOUBLE = 1e-12
FLOAT32 = 1e-6
SCORE = torch.tensor([1.0, 0.0, 0.5, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 7.0])
def test_the_softmax_of_all_rows_times_their_number(temperature):
    raw = [math.exp(r / temperature) for r in SCORE.tolist()]
    wanted = [4 * x / sum(raw) for x in raw]
    assert reward_weights(SCORE, temperature).tolist() == pytest.approx(wanted, rel=DOUBLE)


def test_its_limits():
    assert reward_weights(SCORE, 1e-3).tolist() == pytest.approx([4, 0, 0, 0], abs=DOUBLE)
    assert reward_weights(SCORE, 1e12).tolist() == pytest.approx([1] * 4, abs=1e-9)
    assert reward_weights(torch.full((3,), 0.3), 0.1).tolist() == [1.0, 1.0, 1.0]
    assert reward_weights(1e4 * SCORE, 1.0).isfinite().all()  # the largest is taken out of the exponent


def test_rows_that_were_not_graded_have_no_part():
    valid = torch.tensor([True, False, True, True])
    broken = torch.where(valid, SCORE, torch.nan)
    found = reward_weights(broken, 1.0, valid)
    assert found[1] == 0
    assert torch.allclose(found[valid], reward_weights(SCORE[valid], 1.0), rtol=DOUBLE)
    assert not reward_weights(broken, 1.0, torch.zeros(4, dtype=torch.bool)).any()
    with pytest.raises(UserError, match="row 1: the reward is nan"):
        reward_weights(broken, 1.0)
    with pytest.raises(UserError, match="temperature: is 0"):
        reward_weights(SCORE, 0)


def test_a_mean_of_rows_is_then_divided_by_the_sum_of_weights():
    """sum w_i (mean of row i) / sum w, as the source has it, beside weights that the rows had before."""
    before = torch.tensor([1.0, 2.0, 1.0, 1.0])
    rows = Rollouts.of(torch.zeros(4, 3, dtype=torch.int64), torch.tensor([3, 2, 3, 1]), torch.zeros(4).long(),
                       reward=SCORE.float(), weight=before)  # fmt: skip
    out, told = RewardWeight(temperature=0.5)(rows)
    w = reward_weights(SCORE, 0.5)
    assert torch.allclose(out.weight.double(), before.double() * w, rtol=FLOAT32)
    assert told["weight_max"] == pytest.approx(float(w.max()), rel=FLOAT32)
    assert told["rows_effective"] == pytest.approx(float(w.sum() ** 2 / w.square().sum()), rel=FLOAT32)
    loss = torch.arange(12.0).view(4, 3)
    even = replace(out, weight=w.float())
    mean = Aggregation(mode="seq_mean_token_mean")
    found = mean(loss * even.weight[:, None], even.action, mean.denominators(even.action, even.group), even.group)
    each = torch.stack([loss[i, even.action[i]].mean() for i in range(4)]).double()
    assert float(found) == pytest.approx(float((w * each).sum() / w.sum()), rel=FLOAT32)


def test_bad_settings():
    for bad in (0.0, -1.0, float("inf")):
        with pytest.raises(ValidationError, match="temperature"):
            RewardWeight(temperature=bad)
