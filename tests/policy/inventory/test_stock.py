"""Order-up-to policies by hand, and the networks they are not for."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.policy.inventory.stock import BaseStock, CappedBaseStock, EchelonStock, Tabulated
from steersman.task.inventory.network import InventoryNetwork, Store

ROUNDING = 1e-4


def seen(look, net, inventory):
    obs = look(net, b=1)
    return type(obs)(**{f: getattr(obs, f) for f in obs.__slots__} | {"inventory": torch.tensor([inventory])})


def test_base_stock_fills_up_and_caps_bind(look) -> None:
    net = InventoryNetwork.single_store(2, 1.0, 9.0, lost_sales=False)
    obs = seen(look, net, [[3.0, 4.0]])
    assert float(BaseStock(net, 12.0)(obs)) == pytest.approx(5.0, abs=ROUNDING)
    assert float(BaseStock(net, 6.0)(obs)) == 0.0
    assert float(CappedBaseStock(net, 12.0, 2.0)(obs)) == pytest.approx(2.0, abs=ROUNDING)
    assert float(BaseStock(net).level) == pytest.approx(10.0, abs=ROUNDING)


def test_levels_of_several_stores_follow_their_edges(look) -> None:
    net = InventoryNetwork([Store("a", 1.0, 9.0), Store("b", 1.0, 9.0)], [("supplier", "b", 1), ("supplier", "a", 1)])
    got = BaseStock(net, torch.tensor([10.0, 20.0]))(seen(look, net, [[4.0], [7.0]]))
    assert got[0].tolist() == pytest.approx([3.0, 16.0], abs=ROUNDING)


def test_echelon_levels_by_hand(look, chain) -> None:
    policy = EchelonStock(chain, torch.tensor([40.0, 30.0, 20.0, 10.0]))
    assert policy.level.tolist() == pytest.approx([40, 30, 20, 10], abs=ROUNDING)
    # Echelon positions from the top: 26, 21, 15, 6.
    obs = seen(look, chain, [[2.0, 3, 0, 0], [6, 0, 0, 0], [4, 5, 0, 0], [1, 5, 0, 0]])
    assert policy(obs)[0].tolist() == pytest.approx([14, 2, 5, 4], abs=ROUNDING)


def test_levels_of_a_chain_never_fall_towards_the_top(chain) -> None:
    policy = EchelonStock(chain)
    with torch.no_grad():
        policy.theta.copy_(torch.tensor([3.0, -50.0, 1.0, -9.0]))
    assert bool((policy.level.diff() <= 0).all())
    with pytest.raises(UserError, match="falling downwards"):
        EchelonStock(chain, torch.tensor([10.0, 20.0, 30.0, 40.0]))


def test_a_table_is_read_by_state_and_at_its_edge(look) -> None:
    net = InventoryNetwork.single_store(2, 1.0, 9.0, lost_sales=True)
    table = torch.arange(6).view(3, 2)
    assert float(Tabulated(net, table)(seen(look, net, [[1.0, 1.0]]))) == 3
    assert float(Tabulated(net, table)(seen(look, net, [[9.0, 0.4]]))) == 4
    with pytest.raises(UserError, match="a dimension a slot"):
        Tabulated(net, torch.zeros(3, 2, 2))


def test_networks_they_are_not_for(chain, two_warehouses) -> None:
    for policy in (BaseStock, CappedBaseStock):
        with pytest.raises(UserError, match="'top' ships to others"):
            policy(chain)
    with pytest.raises(UserError, match="is for a chain"):
        EchelonStock(two_warehouses)
    with pytest.raises(UserError, match="above 0"):
        BaseStock(InventoryNetwork.single_store(1, 1.0, 1.0, lost_sales=True), -1.0)
