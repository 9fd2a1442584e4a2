"""The Gymnasium view: it passes Gymnasium's own check and costs what the simulator says."""

import numpy as np
import pytest
import torch

from steersman.core.errors import UserError
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import replay

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
from steersman.task.inventory.environment import InventoryEnv  # noqa: E402

ROUNDING = 1e-4


def test_gymnasium_finds_nothing_wrong(hub) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(InventoryEnv(hub, Scenarios.normal(hub, 5, 6, seed=1)), skip_render_check=True)


def test_costs_are_those_of_the_simulator(hub) -> None:
    scenarios = Scenarios.normal(hub, 3, 300, seed=1)
    env = InventoryEnv(hub, scenarios, most=10.0)
    _, told = env.reset(seed=0, options={"scenario": 2})
    assert told == {"scenario": 2}
    draw, rewards, orders, over = np.random.default_rng(0), [], [], False
    while not over:
        _, reward, ended, over, told = env.step(10 * draw.random(6, np.float32))
        assert not ended
        rewards.append(reward)
        orders.append(told["orders"])
    assert len(rewards) == 300
    x = scenarios.index(torch.tensor([2]))
    cost, _ = replay(hub, x.inventory, torch.tensor(orders).T[None], x.demand, strict=True)
    assert torch.allclose(-torch.tensor(rewards), cost[0] / 3, rtol=ROUNDING)


def test_past_demand_is_seen(hub) -> None:
    x = Scenarios.of(hub, torch.ones(1, 3, 4), past=torch.full((1, 3, 2), 7.0))
    env = InventoryEnv(hub, x)
    seen, _ = env.reset()
    assert seen[15:].tolist() == [7.0] * 6
    seen = env.step(np.zeros(6, np.float32))[0]
    assert seen[15:].tolist() == [7.0, 1.0] * 3


def test_what_is_refused(hub) -> None:
    env = InventoryEnv(hub, Scenarios.normal(hub, 2, 3))
    with pytest.raises(UserError, match="scenario: is 2"):
        env.reset(options={"scenario": 2})
    with pytest.raises(UserError, match="most: is 0"):
        InventoryEnv(hub, Scenarios.normal(hub, 2, 3), most=0.0)
