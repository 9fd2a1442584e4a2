"""An inventory network: locations with their costs, the edges goods travel along, and what unmet demand becomes.

Locations stand in one order everywhere: echelons (warehouses that ship to warehouses), warehouses, stores. Leaves out:
demand (`scenarios`), dynamics (`simulate`), deciding (`policy.inventory`).
Source: Alvo, Russo, Kanoria and Lee, arXiv 2306.11246, section 2; edges by index tensors are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Literal

import torch
from torch import Tensor

from steersman.core.errors import UserError
from steersman.policy.inventory.observe import SUPPLIER

SUPPLIER_NAME = "supplier"
"""Name of the world outside in an edge."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where demand arises.

    Args:
        name: unlike all others.
        holding: cost of a unit left at the end of a period, >= 0.
        shortage: cost of a unit of demand not met in its period, >= 0; with objective "profit" the price of a unit.
        procurement: cost of a unit from outside, >= 0.
    """

    name: str
    holding: float
    shortage: float
    procurement: float = 0.0


@dataclass(frozen=True, slots=True)
class Warehouse:
    """Where goods wait for others; also an echelon of a chain.

    Args:
        name: unlike all others.
        holding: cost of a unit left after shipping, a period, >= 0.
        procurement: cost of a unit from outside, >= 0.
        cross_dock: it keeps nothing: policies ship all that is on hand.
    """

    name: str
    holding: float
    procurement: float = 0.0
    cross_dock: bool = False


Edge = tuple[str, str, int]
"""(from, to, lead time in periods); from "supplier" = from outside."""


@dataclass(frozen=True)
class InventoryNetwork:
    """Locations and edges; every complaint names the place.

    An order that is placed with lead time L is on hand L periods later, so that a decision must cover the demand of
    L + 1 periods.

    Args:
        stores: K of them, at least one.
        edges: (from, to, lead time), each pair once; orders have a column for each edge, in this order.
        warehouses: each ships to somebody.
        echelons: likewise.
        lost_sales: unmet demand is lost; otherwise it waits (backlog).
        objective: "cost", or "profit" = sales earn `shortage` a unit (only where unmet demand is lost: under a backlog
            a debt would be booked again and again).

    Raises:
        UserError: a location without a supplier, a lead time below 1, a negative or infinite cost, an unknown or
            doubled name, an edge out of a store, a circle, a warehouse that ships to nobody.
    """

    stores: Sequence[Store]
    edges: Sequence[Edge]
    warehouses: Sequence[Warehouse] = ()
    echelons: Sequence[Warehouse] = ()
    lost_sales: bool = True
    objective: Literal["cost", "profit"] = "cost"

    def __post_init__(self) -> None:
        for name in ("stores", "warehouses", "echelons"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "edges", tuple(_edge(e, i) for i, e in enumerate(self.edges)))
        if self.objective not in ("cost", "profit"):
            raise UserError(f"{self.objective!r} is not known", where="objective", allowed="cost, profit")
        if self.objective == "profit" and not self.lost_sales:
            cure = "Set lost_sales, or count costs."
            raise UserError("'profit' is not defined where unmet demand waits", where="objective", cure=cure)
        if not self.stores:
            raise UserError("there is no store", where="stores")
        for place in (*self.echelons, *self.warehouses, *self.stores):
            _check_place(place)
        _check_names(self.names)
        _check_edges(self)

    @classmethod
    def single_store(
        cls,
        lead_time: int,
        holding: float,
        shortage: float,
        lost_sales: bool,
        objective: Literal["cost", "profit"] = "cost",
    ) -> "InventoryNetwork":
        """One store that orders from outside.

        Args:
            lead_time: periods until an order is on hand, >= 1.
            holding, shortage: cost of a unit left, of a unit short.
            lost_sales: unmet demand is lost.
            objective: "cost" or "profit".
        """
        store = Store("store", holding, shortage)
        return cls((store,), ((SUPPLIER_NAME, "store", lead_time),), lost_sales=lost_sales, objective=objective)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the N locations: echelons, warehouses, stores."""
        return tuple(p.name for p in (*self.echelons, *self.warehouses, *self.stores))

    @property
    def n_stores(self) -> int:
        """K."""
        return len(self.stores)

    @property
    def n_upstream(self) -> int:
        """N - K: locations that are no store."""
        return len(self.echelons) + len(self.warehouses)

    @cached_property
    def slots(self) -> int:
        """S, the longest lead time of an edge."""
        return max(e[2] for e in self.edges)

    @cached_property
    def source(self) -> Tensor:
        """``[E]`` int64, index of the location an edge comes from, -1 = outside."""
        return torch.tensor([SUPPLIER if e[0] == SUPPLIER_NAME else self.names.index(e[0]) for e in self.edges])

    @cached_property
    def target(self) -> Tensor:
        """``[E]`` int64, index of the location an edge leads to."""
        return torch.tensor([self.names.index(e[1]) for e in self.edges])

    @cached_property
    def lead_time(self) -> Tensor:
        """``[E]`` int64, periods."""
        return torch.tensor([e[2] for e in self.edges])

    @cached_property
    def holding(self) -> Tensor:
        """``[N]`` float64."""
        return self._costs("holding", self.names)

    @cached_property
    def procurement(self) -> Tensor:
        """``[N]`` float64."""
        return self._costs("procurement", self.names)

    @cached_property
    def shortage(self) -> Tensor:
        """``[K]`` float64."""
        return torch.tensor([float(s.shortage) for s in self.stores], dtype=torch.float64)

    @cached_property
    def ships_all(self) -> Tensor:
        """``[N]`` bool, cross-docks."""
        docks = [w.cross_dock for w in (*self.echelons, *self.warehouses)]
        return torch.tensor(docks + [False] * self.n_stores)

    def edge_name(self, edge: int) -> str:
        """An edge for messages."""
        return f"{self.edges[edge][0]} -> {self.edges[edge][1]}"

    def _costs(self, field: str, names: Sequence[str]) -> Tensor:
        places = (*self.echelons, *self.warehouses, *self.stores)
        return torch.tensor([float(getattr(p, field)) for p in places], dtype=torch.float64)


def _edge(edge: object, i: int) -> Edge:
    where = f"edges[{i}]"
    if not isinstance(edge, Sequence) or isinstance(edge, str) or len(edge) != 3:
        raise UserError(f"is {edge!r}", where=where, allowed="(from, to, lead time)")
    source, target, lead = edge
    if isinstance(lead, bool) or not isinstance(lead, int) or lead < 1:
        raise UserError(
            f"{source} -> {target} has lead time {lead!r}", where=where, allowed="a whole number of periods, 1 or more",
            cure="An order that is on hand in the next period has lead time 1.",
        )  # fmt: skip
    return str(source), str(target), lead


def _check_place(place: Store | Warehouse) -> None:
    for field in fields(place):
        value = getattr(place, field.name)
        if field.name in ("name", "cross_dock"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UserError(f"{field.name} is {value!r}", where=place.name, allowed="a number, 0 or more")


def _check_names(names: Sequence[str]) -> None:
    for i, name in enumerate(names):
        if not name or name == SUPPLIER_NAME:
            raise UserError(f"{name!r} cannot be the name of a location", where="names")
        if name in names[:i]:
            raise UserError(f"two locations are called {name!r}", where="names")


def _check_edges(network: InventoryNetwork) -> None:
    names = network.names
    stores = {s.name for s in network.stores}
    seen: set[tuple[str, str]] = set()
    before: dict[str, set[str]] = {n: set() for n in names}
    for i, (source, target, _) in enumerate(network.edges):
        where = f"edges[{i}]"
        for name in (source, target):
            if name not in names and (name != SUPPLIER_NAME or name == target):
                near = get_close_matches(name, names, n=1)
                cure = f"Did you mean {near[0]!r}?" if near else ""
                raise UserError(f"there is no location {name!r}", where=where, allowed=", ".join(names), cure=cure)
        if source in stores:
            raise UserError(f"comes from the store {source!r}; stores do not ship on", where=where)
        if (source, target) in seen:
            raise UserError(f"{source} -> {target} stands there twice", where=where)
        seen.add((source, target))
        if source != SUPPLIER_NAME:
            before[target].add(source)
    try:
        tuple(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise UserError(f"goods would go round: {' -> '.join(error.args[1])}", where="edges") from None
    for name in names:
        if not any(t == name for _, t in seen):
            what = "store" if name in stores else "warehouse"
            cure = f'Add an edge such as ("{SUPPLIER_NAME}", "{name}", 2).'
            raise UserError(f"the {what} {name!r} has no supplier", where="edges", cure=cure)
        if name not in stores and not any(s == name for s, _ in seen):
            raise UserError(f"the warehouse {name!r} ships to nobody", where="edges")
