"""An inventory network as a Gymnasium environment, one scenario an episode, for agents that know nothing of gradients.

Observation: all inventories, flat ``[N S]``, then past demand ``[K P]`` and calendar ``[C]``. Action: the order of each
edge, 0 to `most`; orders from inside beyond the stock are shrunk in proportion. Reward: minus the cost a store. An
episode ends with the scenario (truncated: stocks go on having a worth). Leaves out: batches (`simulate` is the fast
way). Source: Gymnasium's interface; the package is wanted only where this module is imported.
"""

from typing import Any

import numpy as np
import torch

from steersman.core.errors import UserError
from steersman.policy.inventory.maps import Outgoing
from steersman.policy.inventory.observe import SUPPLIER
from steersman.task.inventory.network import InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import Simulator

try:
    import gymnasium
except ImportError:
    raise UserError(
        "the package gymnasium is missing", where="inventory environment", cure="pip install 'steersman[control]'"
    ) from None


class InventoryEnv(gymnasium.Env[Any, Any]):
    """The environment of this module.

    Args:
        network: the network.
        scenarios: an episode is one of them, drawn by the environment's own generator, or
            ``reset(options={"scenario": i})``.
        most: the largest order of an edge, > 0.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, network: InventoryNetwork, scenarios: Scenarios, most: float = 100.0) -> None:
        if not 0 < most < float("inf"):
            raise UserError(f"is {most}", where="most", allowed="a number above 0")
        self.network, self.scenarios = network, scenarios
        self.outgoing, self.outside = Outgoing(network), network.source == SUPPLIER
        edges = len(network.edges)
        x = scenarios
        size = x.inventory[0].numel() + x.past[0].numel() + x.calendar.shape[2]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, most, (edges,), np.float32)
        self.period = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a scenario; gives the observation, and its number as info."""
        super().reset(seed=seed)
        row = (options or {}).get("scenario")
        row = int(self.np_random.integers(len(self.scenarios))) if row is None else int(row)
        if not 0 <= row < len(self.scenarios):
            raise UserError(f"is {row}", where="scenario", allowed=f"0 to {len(self.scenarios) - 1}")
        self.at = self.scenarios.index(torch.tensor([row]))
        self.world, self.inventory, self.period = Simulator(self.network, self.at), self.at.inventory, 0
        self.whole = torch.cat([self.at.past, self.at.demand], 2)
        return self._seen(), {"scenario": row}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One period; info has what was ordered in the end and the cost of each location by name."""
        wanted = torch.as_tensor(np.asarray(action), dtype=self.inventory.dtype)[None].clamp(min=0)
        orders = torch.where(self.outside, wanted, self.outgoing.proportional(wanted, self.inventory[:, :, 0]))
        moved = self.world.step(self.inventory, orders, self.at.demand[:, :, self.period])
        self.inventory, self.period = moved.inventory, self.period + 1
        cost = moved.cost[0]
        told = {"orders": orders[0].tolist(), "cost": dict(zip(self.network.names, cost.tolist(), strict=True))}
        over = self.period >= self.at.periods
        return self._seen(), -float(cost.sum()) / self.network.n_stores, False, over, told

    def _seen(self) -> Any:
        past = self.whole[:, :, self.period : self.period + self.at.past.shape[2]]
        calendar = self.at.calendar[0, min(self.period, self.at.periods - 1)]
        return torch.cat([self.inventory.flatten(), past.flatten(), calendar]).numpy().astype(np.float32)
