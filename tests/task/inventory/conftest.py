"""Networks that several tests use."""

import pytest

from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse


@pytest.fixture
def hub() -> InventoryNetwork:
    """Two warehouses, three stores, sparse edges with different lead times."""
    stores = tuple(Store(name, 1.0 + i, 9.0 - i) for i, name in enumerate("abc"))
    warehouses = (Warehouse("east", 0.3, 0.5), Warehouse("west", 0.4))
    edges = (
        ("supplier", "east", 3), ("supplier", "west", 1), ("east", "a", 2), ("east", "b", 1), ("west", "b", 3),
        ("west", "c", 2),
    )  # fmt: skip
    return InventoryNetwork(stores, edges, warehouses, lost_sales=False)


@pytest.fixture
def chain() -> InventoryNetwork:
    """The serial benchmark with backlog: two echelons, a warehouse, a store."""
    edges = (("supplier", "top", 2), ("top", "middle", 4), ("middle", "depot", 3), ("depot", "shop", 4))
    return InventoryNetwork(
        (Store("shop", 1.0, 9.0),), edges, (Warehouse("depot", 0.5),),
        (Warehouse("top", 0.1), Warehouse("middle", 0.2)), lost_sales=False,
    )  # fmt: skip
