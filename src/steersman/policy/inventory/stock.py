"""Order-up-to policies: base stock, capped base stock, echelon base stock, and a table of optimal orders.

Leaves out: networks in which a warehouse serves several stores (`vanilla`, `symmetric`, `graph`).
Sources: Scarf 1960; capped base stock: Xin 2021; Clark and Scarf 1960; parametrisation and initial values of the
official code of arXiv 2306.11246.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from steersman.core.errors import UserError
from steersman.policy.inventory.observe import SUPPLIER, Layout, Observation, OrderingPolicy, only_suppliers

INITIAL = 10.0
"""Levels begin at softplus(10)."""


class BaseStock(OrderingPolicy):
    """q = (S - position)^+ for stores that order from outside; S = softplus(theta), one a store.

    Args:
        layout: the network.
        level: starting levels, one number or one a store; None = softplus(10).

    Raises:
        UserError: a location ships to another one, or has several suppliers.
    """

    def __init__(self, layout: Layout, level: float | Tensor | None = None) -> None:
        super().__init__()
        only_suppliers(layout, "base_stock")
        self.theta = nn.Parameter(_start(level, len(layout.target)))
        self.register_buffer("target", layout.target, persistent=False)

    @property
    def level(self) -> Tensor:
        """S ``[E]``, units of inventory position."""
        return softplus(self.theta)

    def forward(self, obs: Observation) -> Tensor:
        """Orders ``[B, E]``."""
        return torch.relu(self.level - obs.position[:, self.target])


class CappedBaseStock(BaseStock):
    """q = min((S - position)^+, r), r = softplus(theta), one a store.

    Args:
        layout: the network.
        level: starting levels.
        cap: starting caps; None = softplus(10).
    """

    def __init__(self, layout: Layout, level: float | Tensor | None = None, cap: float | Tensor | None = None) -> None:
        super().__init__(layout, level)
        self.phi = nn.Parameter(_start(cap, len(layout.target)))

    @property
    def cap(self) -> Tensor:
        """r ``[E]``, units an order."""
        return softplus(self.phi)

    def forward(self, obs: Observation) -> Tensor:
        """Orders ``[B, E]``."""
        return torch.minimum(super().forward(obs), self.cap)


class EchelonStock(OrderingPolicy):
    """A chain: order_k = min((S_k - echelon position_k)^+, on hand upstream); the top orders without bound.

    S = cumulative sums of softplus(theta + 10) from the store upwards, so that levels never fall towards the top. The
    echelon position of a location counts all stock there, on the way to it and downstream.

    Args:
        layout: a chain: one store, every location with one supplier and at most one customer.
        level: starting levels from the top to the store; None = softplus(10) apart.

    Raises:
        UserError: the network is no chain; levels that fall towards the top.
    """

    def __init__(self, layout: Layout, level: Tensor | None = None) -> None:
        super().__init__()
        chain = chain_of(layout, "echelon_stock")
        edges = torch.tensor([int((layout.target == i).nonzero()[0, 0]) for i in chain])
        if level is None:
            theta = torch.zeros(len(chain))
        else:
            apart = torch.as_tensor(level, dtype=torch.get_default_dtype()).flip(0).diff(prepend=torch.zeros(1))
            if len(apart) != len(chain) or not bool((apart > 0).all()):
                raise UserError(f"level is {level}", where="echelon_stock", allowed="one a location, falling downwards")
            theta = _inverse(apart) - INITIAL
        self.theta = nn.Parameter(theta)
        self.register_buffer("chain", torch.tensor(chain), persistent=False)
        self.register_buffer("edges", edges, persistent=False)

    @property
    def level(self) -> Tensor:
        """S ``[N]`` from the top to the store, units of echelon position."""
        return softplus(self.theta + INITIAL).cumsum(0).flip(0)

    def forward(self, obs: Observation) -> Tensor:
        """Orders ``[B, E]``."""
        position = obs.position[:, self.chain].flip(1).cumsum(1).flip(1)
        wanted = torch.relu(self.level - position)
        upstream = torch.relu(obs.on_hand[:, self.chain[:-1]])
        orders = torch.cat([wanted[:, :1], torch.minimum(wanted[:, 1:], upstream)], 1)
        return torch.zeros_like(orders).index_copy(1, self.edges, orders)


class Tabulated(OrderingPolicy):
    """A single store's orders from a table by state, such as a dynamic programme's.

    Args:
        layout: one store.
        orders: by on hand, and by what arrives in 1, 2, ... periods ``[M + 1, c + 1, ...]``.

    Edge cases: states beyond the table are read at its edge; fractions are rounded.
    """

    def __init__(self, layout: Layout, orders: Tensor) -> None:
        super().__init__()
        only_suppliers(layout, "tabulated")
        if len(layout.names) != 1 or orders.ndim != layout.slots:
            what = f"a table of {orders.ndim} dimensions for {len(layout.names)} stores, {layout.slots} slots"
            raise UserError(what, where="tabulated", allowed="one store, a dimension a slot")
        self.register_buffer("orders", orders, persistent=False)

    def forward(self, obs: Observation) -> Tensor:
        """Orders ``[B, 1]``."""
        state = obs.inventory[:, 0].round().long()
        index = [state[:, i].clamp(0, size - 1) for i, size in enumerate(self.orders.shape)]
        return self.orders[tuple(index)].to(obs.inventory.dtype)[:, None]


def chain_of(layout: Layout, policy: str) -> list[int]:
    """The locations of a chain from the top to the store.

    Raises:
        UserError: the network is no chain.
    """
    source, target = layout.source.tolist(), layout.target.tolist()
    chained = len(source) == len(layout.names) and source.count(SUPPLIER) == 1 and len(set(source)) == len(source)
    if not chained:
        what = "is for a chain: one store, every location with one supplier and at most one customer"
        raise UserError(what, where=policy, cure="Take vanilla, symmetry_aware or graph.")
    after, chain = dict(zip(source, target, strict=True)), [SUPPLIER]
    while chain[-1] in after:
        chain.append(after[chain[-1]])
    return chain[1:]


def is_chain(layout: Layout) -> bool:
    """Whether the network is a chain of two or more locations."""
    try:
        return len(chain_of(layout, "chain")) > 1
    except UserError:
        return False


def _inverse(x: Tensor) -> Tensor:
    """y with softplus(y) = x > 0."""
    return x + torch.log(-torch.expm1(-x))


def _start(value: float | Tensor | None, n: int) -> Tensor:
    if value is None:
        return torch.full((n,), INITIAL)
    x = torch.as_tensor(value, dtype=torch.get_default_dtype()).expand(n)
    if not bool((x > 0).all()):
        raise UserError(f"is {value}", where="starting level", allowed="above 0")
    return _inverse(x).clone()
