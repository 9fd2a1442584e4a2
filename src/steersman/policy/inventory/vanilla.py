"""Plain networks of neurons from all inventories to all orders, and one that also sees costs and past demand.

Leaves out: sharing weights between stores (`symmetric`, `graph`). Source: arXiv 2306.11246 and its official code, whose
sizes and initial biases are the defaults; for networks the data-driven one is ours (proportional map).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from steersman.core.errors import UserError
from steersman.policy.inventory.maps import Outgoing
from steersman.policy.inventory.observe import SUPPLIER, Layout, Observation, OrderingPolicy
from steersman.policy.inventory.stock import is_chain
from steersman.policy.mlp import mlp

BOUND = 4.0
"""A warehouse orders at most so many times the stores' demand of a period."""


class VanillaMLP(OrderingPolicy):
    """One network on all inventories; the form of the orders follows the network's.

    Stores alone: q = softplus(out + 1), hidden 32-32-32. A chain: q = sigmoid(out) times on hand upstream, from outside
    sigmoid(out) B, hidden 32-32. Otherwise: softmax map on every location's stock, from outside sigmoid(out) B, hidden
    512-512-512 (256-256-256 where all warehouses are cross-docks). B = 4 times the stores' demand.

    Args:
        layout: the network.
        demand: mean demand of all stores together a period, > 0.
        hidden: sizes of hidden layers; None = as above.
        seed: of the initial weights.
    """

    def __init__(self, layout: Layout, demand: float, hidden: Sequence[int] | None = None, seed: int = 0) -> None:
        super().__init__()
        n, outside = len(layout.names), layout.source == SUPPLIER
        self.kind = "stores" if bool(outside.all()) else "chain" if is_chain(layout) else "network"
        docks = bool(layout.ships_all[layout.source[~outside]].all())
        usual = {"stores": (32,) * 3, "chain": (32,) * 2, "network": (256 if docks else 512,) * 3}
        self.net = mlp(n * layout.slots, hidden or usual[self.kind], len(outside), seed, "vanilla")
        self.bound = bound(demand)
        self.register_buffer("outside", outside, persistent=False)
        self.register_buffer("source", layout.source.clamp(min=0), persistent=False)
        self.outgoing = Outgoing(layout)

    def forward(self, obs: Observation) -> Tensor:
        """Orders ``[B, E]``."""
        out = self.net(obs.inventory.flatten(1))
        if self.kind == "stores":
            return softplus(out + 1)
        if self.kind == "chain":
            upstream = torch.relu(obs.on_hand[:, self.source])
            return torch.sigmoid(out) * torch.where(self.outside, out.new_tensor(self.bound), upstream)
        inside = self.outgoing.softmax(out, obs.on_hand)
        return torch.where(self.outside, torch.sigmoid(out) * self.bound, inside)


class DataDriven(OrderingPolicy):
    """End to end on data: inventories, past demand, the calendar, costs and lead times to orders; ReLU, initial bias 1.

    Orders from inside the network pass the proportional map.

    Args:
        layout: the network.
        past: P, periods of past demand that observations show.
        calendar: C, size of the calendar.
        hidden: sizes of hidden layers.
        seed: of the initial weights.
    """

    def __init__(
        self, layout: Layout, past: int = 16, calendar: int = 1, hidden: Sequence[int] = (64, 64), seed: int = 0
    ) -> None:
        super().__init__()
        n, k, e = len(layout.names), layout.n_stores, len(layout.source)
        self.net = mlp(n * layout.slots + k * past + calendar + n + k + e, hidden, e, seed, "data", bias=1.0)
        self.sees = past, calendar
        self.register_buffer("outside", layout.source == SUPPLIER, persistent=False)
        self.outgoing = Outgoing(layout)

    def forward(self, obs: Observation) -> Tensor:
        """Orders ``[B, E]``.

        Raises:
            UserError: the observation shows more or less of the past than the policy was made for.
        """
        if (obs.past.shape[2], obs.calendar.shape[1]) != self.sees:
            what = f"{obs.past.shape[2]} past periods and {obs.calendar.shape[1]} calendar entries are shown"
            raise UserError(what, where="data_driven", allowed=f"{self.sees[0]} and {self.sees[1]}")
        shared = (obs.calendar, obs.holding, obs.shortage, obs.lead_time.to(obs.inventory.dtype))
        seen = [obs.inventory.flatten(1), obs.past.flatten(1), *(obs.shared(x) for x in shared)]
        wanted = torch.relu(self.net(torch.cat(seen, 1)))
        return torch.where(self.outside, wanted, self.outgoing.proportional(wanted, obs.on_hand))


def bound(demand: float) -> float:
    """The most that is ordered from outside over one edge.

    Raises:
        UserError: demand that is not above 0.
    """
    if not 0 < demand < float("inf"):
        raise UserError(f"is {demand}", where="demand", allowed="the stores' mean demand a period, above 0")
    return BOUND * demand
