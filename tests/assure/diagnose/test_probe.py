"""The sweep of layers: the layer that knows wins, a layer of noise explains nothing, the ceiling is what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from steersman.assure.diagnose.probe import as_json, sweep
from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.core.types import Rollouts

CLOSE = 0.05
"""Of shares of variance that are estimated from 400 prompts."""


def world(prompts=400, k=4):
    """Prompts whose value layer 1 knows and layer 0 does not; entropies know it with noise."""
    draw = generator(0, "sweep")
    value = np.where(draw.random(prompts) < 0.5, 0.2, 0.8)
    group = np.repeat(np.arange(prompts), k)
    reward = (draw.random(prompts * k) < value[group]).astype(float)
    n = len(group)
    rows = Rollouts.of(
        torch.zeros(n, 2, dtype=torch.int64), torch.full((n,), 2), torch.ones(n, dtype=torch.int64),
        group=torch.from_numpy(group) * 3, reward=torch.from_numpy(reward),
    )  # fmt: skip
    noise = torch.from_numpy(draw.normal(size=(n, 6)))
    known = noise.clone()
    known[:, 0] = torch.from_numpy(value[group])
    entropy = torch.from_numpy(value[group] + 0.3 * draw.normal(size=n))[:, None]
    return rows, {0: noise, 1: known}, {0: noise.flip(1), 1: noise}, entropy


def test_the_layer_that_knows_wins():
    found = sweep(*world())
    r2 = {(r.layer, r.features): r.r2 for r in found.rows}
    assert found.best.layer == 1
    assert r2[1, "prompt"] > 0.4
    assert abs(r2[0, "prompt"]) < CLOSE
    assert abs(r2[1, "reasoning"]) < CLOSE
    assert CLOSE < r2[None, "entropies"] < r2[1, "prompt"]
    assert (found.fitted, found.held_out) == (1200, 400)
    assert found.constant == pytest.approx(0.3, abs=0.1)
    between, within = 0.3**2, 0.2 * 0.8
    assert found.ceiling == pytest.approx(between / (between + within / 3), abs=CLOSE)
    assert r2[1, "prompt"] == pytest.approx(found.ceiling, abs=2 * CLOSE)
    told = as_json(found)
    assert told["best"] == 1
    assert len(told["probes"]) == 7


def test_where_no_layer_beats_a_constant_none_is_recommended():
    rows, *_ = world(40)
    draw = generator(1, "noise")
    noise = {n: torch.from_numpy(draw.normal(size=(160, 6))) for n in (0, 1)}
    shuffled = rows.reward[torch.from_numpy(draw.permutation(160))]
    found = sweep(replace(rows, reward=shuffled), noise, noise, noise[0][:, :1])
    assert found.best.r2 <= max(found.constant_r2, 0)
    assert as_json(found)["best"] is None
    assert -0.5 < found.constant_r2 <= 0


def test_prompts_with_a_row_that_is_not_valid_are_left_out():
    rows, *read = world(40)
    valid = torch.arange(160) >= 2
    found = sweep(replace(rows, valid=valid, reward=torch.where(valid, rows.reward, torch.nan)), *read)
    assert found.fitted + found.held_out == 156


def test_too_little_to_say_anything_is_refused():
    rows, *read = world(7)
    with pytest.raises(UserError, match="7 prompts were graded"):
        sweep(rows, *read)
    rows, *read = world(20)
    with pytest.raises(UserError, match="every response has the reward 1"):
        sweep(replace(rows, reward=torch.ones(80)), *read)
