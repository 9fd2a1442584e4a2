"""Networks and observations that several tests use."""

from collections.abc import Callable

import pytest
import torch

from steersman.policy.inventory.observe import Observation
from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse


@pytest.fixture
def one_warehouse() -> Callable[..., InventoryNetwork]:
    """One warehouse (lead time 3) and n stores (lead time 2), in the order that is given."""

    def make(n: int = 5, order: list[int] | None = None, dock: bool = False) -> InventoryNetwork:
        names = [f"s{i}" for i in (order or range(n))]
        edges = [("supplier", "w", 3), *(("w", name, 2) for name in names)]
        return InventoryNetwork(
            [Store(name, 1.0, 9.0) for name in names], edges, [Warehouse("w", 0.3, cross_dock=dock)]
        )

    return make


@pytest.fixture
def two_warehouses() -> InventoryNetwork:
    """Two warehouses with sparse edges; east serves a and b, west serves b and c."""
    edges = (("supplier", "east", 3), ("east", "a", 2), ("east", "b", 1), ("supplier", "west", 2), ("west", "b", 2),
             ("west", "c", 3))  # fmt: skip
    return InventoryNetwork(
        [Store(n, 1.0, 9.0) for n in "abc"], edges, [Warehouse("east", 0.3), Warehouse("west", 0.4)]
    )


@pytest.fixture
def chain() -> InventoryNetwork:
    """Two echelons, a warehouse, a store."""
    edges = (("supplier", "top", 2), ("top", "middle", 4), ("middle", "depot", 3), ("depot", "shop", 4))
    upper = (Warehouse("top", 0.1), Warehouse("middle", 0.2))
    return InventoryNetwork((Store("shop", 1.0, 9.0),), edges, (Warehouse("depot", 0.5),), upper, lost_sales=False)


@pytest.fixture
def look() -> Callable[..., Observation]:
    """A random observation of a network."""

    def make(net: InventoryNetwork, b: int = 4, past: int = 0, calendar: int = 0, seed: int = 0) -> Observation:
        draw = torch.Generator().manual_seed(seed)
        n, k = len(net.names), net.n_stores
        return Observation(
            inventory=10 * torch.rand(b, n, net.slots, generator=draw),
            holding=torch.rand(b, n, generator=draw),
            shortage=5 + torch.rand(b, k, generator=draw),
            procurement=net.procurement[None].float(),
            lead_time=net.lead_time[None],
            mean=5 * torch.rand(1, k, generator=draw),
            std=torch.rand(1, k, generator=draw),
            past=10 * torch.rand(b, k, past, generator=draw),
            calendar=torch.rand(1, calendar, generator=draw),
        )

    return make
