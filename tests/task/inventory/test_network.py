"""Inventory networks: what is refused, by name, and what the index tensors say."""

import math

import pytest

from steersman.core.errors import UserError
from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse

STORES = (Store("a", 1.0, 9.0), Store("b", 1.0, 9.0))
HUB = Warehouse("hub", 0.3)
EDGES = (("supplier", "hub", 3), ("hub", "a", 2), ("hub", "b", 1))


def test_locations_and_edges_in_order() -> None:
    net = InventoryNetwork(STORES, EDGES, (HUB,), (Warehouse("top", 0.1, 2.0),)[:0])
    assert net.names == ("hub", "a", "b")
    assert net.source.tolist() == [-1, 0, 0]
    assert net.target.tolist() == [0, 1, 2]
    assert net.lead_time.tolist() == [3, 2, 1]
    assert (net.slots, net.n_stores, net.n_upstream) == (3, 2, 1)
    assert net.holding.tolist() == [0.3, 1.0, 1.0]
    assert net.edge_name(1) == "hub -> a"


@pytest.mark.parametrize(
    "edges, said",
    [
        (EDGES[:2], r"the store 'b' has no supplier"),
        (EDGES[1:], r"the warehouse 'hub' has no supplier"),
        ((*EDGES[:2], ("hub", "b", 0)), r"edges\[2\]: hub -> b has lead time 0"),
        ((*EDGES[:2], ("hub", "b", 1.5)), r"lead time 1\.5"),
        ((*EDGES[:2], ("hub", "b", True)), r"lead time True"),
        ((*EDGES, ("hub", "c", 1)), r"edges\[3\]: there is no location 'c'"),
        ((*EDGES, ("hib", "b", 1)), r"Did you mean 'hub'"),
        ((*EDGES, ("a", "b", 1)), r"comes from the store 'a'"),
        ((*EDGES, ("hub", "b", 2)), r"stands there twice"),
        ((("supplier", "hub", 3), ("supplier", "a", 1), ("supplier", "b", 1)), r"'hub' ships to nobody"),
        ((*EDGES[:2], ("hub", "b")), r"edges\[2\]"),
        ((*EDGES, ("hub", "supplier", 1)), r"there is no location 'supplier'"),
    ],
)
def test_edges_that_cannot_be(edges, said) -> None:
    with pytest.raises(UserError, match=said):
        InventoryNetwork(STORES, edges, (HUB,))


def test_goods_cannot_go_round() -> None:
    edges = (("x", "y", 1), ("y", "x", 1), ("y", "a", 1))
    with pytest.raises(UserError, match="go round"):
        InventoryNetwork(STORES[:1], edges, (Warehouse("x", 0.1), Warehouse("y", 0.1)))


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "3", True])
@pytest.mark.parametrize("field", ["holding", "shortage", "procurement"])
def test_costs_that_cannot_be(bad, field) -> None:
    store = Store(**({"name": "kiosk", "holding": 1.0, "shortage": 9.0} | {field: bad}))
    with pytest.raises(UserError, match=f"kiosk: {field} is"):
        InventoryNetwork((store,), (("supplier", "kiosk", 1),))


def test_names_and_objectives() -> None:
    with pytest.raises(UserError, match="two locations are called 'a'"):
        InventoryNetwork((STORES[0], STORES[0]), (("supplier", "a", 1),))
    with pytest.raises(UserError, match="cannot be the name"):
        InventoryNetwork((Store("supplier", 1.0, 1.0),), ())
    with pytest.raises(UserError, match="there is no store"):
        InventoryNetwork((), ())
    with pytest.raises(UserError, match="where unmet demand waits"):
        InventoryNetwork.single_store(1, 1.0, 9.0, lost_sales=False, objective="profit")
    with pytest.raises(UserError, match="'gain' is not known"):
        InventoryNetwork.single_store(1, 1.0, 9.0, lost_sales=True, objective="gain")
