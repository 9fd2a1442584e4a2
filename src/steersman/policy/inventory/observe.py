"""What an ordering policy sees of an inventory network, and what of the network's description it is built from.

B scenarios, N locations (echelons, then warehouses, then stores), K stores, E edges that goods travel along, S slots of
a location's inventory: slot 0 is on hand after this period's arrivals, slot j arrives j periods from now. A size of 1
stands for B where all scenarios share a value. Leaves out: the dynamics and how costs arise (`task.inventory`).
Source: Alvo, Russo, Kanoria and Lee, arXiv 2306.11246, section 2.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from steersman.core.errors import UserError

SUPPLIER = -1
"""Source of an edge that comes from outside; such a source never runs out."""


class Layout(Protocol):
    """What a policy needs to know of a network before any scenario is seen."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the N locations."""
        ...

    @property
    def n_stores(self) -> int:
        """K; stores are the last K locations."""
        ...

    @property
    def slots(self) -> int:
        """S, the longest lead time."""
        ...

    @property
    def source(self) -> Tensor:
        """``[E]`` int64, location an edge comes from, or `SUPPLIER`."""
        ...

    @property
    def target(self) -> Tensor:
        """``[E]`` int64, location an edge leads to."""
        ...

    @property
    def ships_all(self) -> Tensor:
        """``[N]`` bool, cross-docks: what is on hand leaves in the same period."""
        ...


@dataclass(frozen=True, slots=True)
class Observation:
    """What all orders of one period are decided on.

    Args:
        inventory: ``[B, N, S]``, units.
        holding: ``[B or 1, N]``, cost of a unit a period.
        shortage: ``[B or 1, K]``, cost of a unit short (of a unit sold, where profit is counted).
        procurement: ``[1, N]``, cost of a unit from outside.
        lead_time: ``[B or 1, E]`` int64, periods.
        mean, std: ``[B or 1, K]``, of a period's demand, as far as it is known.
        past: ``[B, K, P]``, the last P demands, the latest last; P may be 0.
        calendar: ``[B or 1, C]``, what is known of the period itself (days to Christmas); C may be 0.
    """

    inventory: Tensor
    holding: Tensor
    shortage: Tensor
    procurement: Tensor
    lead_time: Tensor
    mean: Tensor
    std: Tensor
    past: Tensor
    calendar: Tensor

    def shared(self, x: Tensor) -> Tensor:
        """`x` ``[B or 1, ...]`` with the scenarios' leading size."""
        return x.expand(self.inventory.shape[0], *x.shape[1:])

    @property
    def on_hand(self) -> Tensor:
        """``[B, N]``, what can be shipped or sold now."""
        return self.inventory[:, :, 0]

    @property
    def position(self) -> Tensor:
        """``[B, N]``, on hand and on the way; under backlog less what is owed."""
        return self.inventory.sum(2)


class OrderingPolicy(nn.Module):
    """Base of all ordering policies: a module from an `Observation` to the orders of all edges ``[B, E]``.

    `act` is the library's common form of a policy; the noise is not used, since these policies are deterministic.
    """

    def act(
        self, obs: Observation, noise: object = None, state: object = None, condition: object = None
    ) -> tuple[Tensor, object]:
        """Orders ``[B, E]`` and the unchanged state."""
        return self(obs), state


def only_suppliers(layout: Layout, policy: str) -> None:
    """Refuse a network in which somebody orders from inside it, for policies that are made for stores alone.

    Raises:
        UserError: names the first location that ships to another one.
    """
    inside = layout.source[layout.source != SUPPLIER]
    if len(inside):
        raise UserError(
            f"is for stores that order from outside, but {layout.names[int(inside[0])]!r} ships to others",
            where=policy,
            cure="Take echelon_stock for a chain, or vanilla, symmetry_aware or graph.",
        )
    if len(torch.unique(layout.target)) < len(layout.target):
        twice = next(layout.names[i] for i in range(len(layout.names)) if int((layout.target == i).sum()) > 1)
        raise UserError(f"{twice!r} has several suppliers", where=policy, allowed="one supplier a store")
