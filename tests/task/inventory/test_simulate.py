"""The dynamics by hand, conservation of goods, lead times, independence of scenarios, gradients, strictness."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import Simulator, periods, replay

EXACT = 1e-9
ROUNDING = 1e-4


def doubles(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "lost, objective, cost, final",
    [
        # On hand 3, one more in a period; demand 5, then 1; orders of 2 come after two periods.
        (False, "cost", [9.0 * 2, 9.0 * 2], [0.0, 2.0]),
        (True, "cost", [9.0 * 2, 0.0], [2.0, 2.0]),
        (True, "profit", [-9.0 * 3, -9.0 * 1], [2.0, 2.0]),
    ],
)
def test_two_periods_by_hand(lost, objective, cost, final) -> None:
    net = InventoryNetwork.single_store(2, 1.0, 9.0, lost, objective)
    got, stock = replay(net, [3.0, 1.0], [2.0, 2.0], [5.0, 1.0])
    assert got.tolist() == cost
    assert stock.tolist() == final


def test_a_period_of_a_network_by_hand(hub) -> None:
    inventory = torch.tensor([[[10.0, 1, 2], [4, 0, 0], [3, 1, 0], [2, 0, 5], [0, 0, 0]]])
    orders = torch.tensor([[7.0, 6, 4, 5, 1, 3]])  # to east 7, west 6; east ships 4 and 5, west 1 and 3
    demand = torch.tensor([[5.0, 1, 2]])
    moved = Simulator(hub, Scenarios.of(hub, demand[:, :, None])).step(inventory, orders, demand)
    # east: 1 left at 0.3 and 7 bought at 0.5; west: nothing left; a: 2 short at 9; b: 1 left at 2; c: 2 short at 7
    assert moved.cost[0].tolist() == pytest.approx([0.3 + 3.5, 0.0, 18.0, 2.0, 14.0])
    assert moved.inventory[0].tolist() == [[2, 2, 7], [6, 0, 0], [-1, 4, 0], [6, 5, 1], [-2, 3, 0]]


def test_profit_counts_what_is_sold_and_what_is_left() -> None:
    net = InventoryNetwork.single_store(1, 1.0, 9.0, lost_sales=True, objective="profit")
    cost, final = replay(net, [7.0], [0.0], [5.0])
    assert (cost.tolist(), final.tolist()) == ([-9.0 * 5 + 2], [2.0])


def test_a_warehouse_that_ships_more_than_it_has_earns_nothing(hub) -> None:
    inventory = torch.zeros(5, 3)
    orders = torch.zeros(6, 1)
    orders[2] = 4.0
    cost, final = replay(hub, inventory, orders, torch.zeros(3, 1))
    assert float(cost) == 0.0
    assert (float(final[0, 0]), float(final[2, 1])) == (-4.0, 4.0)


def test_echelons_hold_at_their_own_cost(chain) -> None:
    inventory = torch.zeros(1, 4, 4)
    inventory[0, :, 0] = torch.tensor([5.0, 4.0, 3.0, 2.0])
    cost, final = replay(chain, inventory, torch.tensor([[[6.0], [1.0], [2.0], [3.0]]]), torch.tensor([[[1.0]]]))
    assert float(cost) == pytest.approx(0.1 * 4 + 0.2 * 2 + 0.5 * 0 + 1.0 * 1)
    assert final[0].tolist() == [[4, 6, 0, 0], [2, 0, 0, 1], [0, 0, 2, 0], [1, 0, 0, 3]]


@pytest.mark.parametrize("lead", [1, 2, 3, 5])
def test_an_order_is_on_hand_after_its_lead_time(lead) -> None:
    net = InventoryNetwork.single_store(lead, 1.0, 0.0, lost_sales=True)
    orders = torch.zeros(8)
    orders[1] = 4.0
    cost, _ = replay(net, torch.zeros(lead), orders, torch.zeros(8))
    assert cost.tolist() == [0.0] * min(1 + lead, 8) + [4.0] * max(7 - lead, 0)


def test_no_unit_is_lost_under_backlog(hub) -> None:
    b, t = 4, 9
    inventory, demand = 10 * doubles(b, 5, 3), 3 * doubles(b, 3, t, seed=1)
    orders = doubles(b, 6, t, seed=2)
    _, final = replay(hub, inventory, orders, demand)
    outside = orders[:, :2].sum((1, 2))
    assert torch.allclose(final.sum((1, 2)), inventory.sum((1, 2)) + outside - demand.sum((1, 2)), atol=EXACT)


def test_lead_times_of_single_scenarios(hub) -> None:
    """Each scenario with lead times of its own is the scenario of a network that has them."""
    edges = [[3, 1, 2, 1, 3, 2], [1, 2, 3, 3, 1, 1]]
    demand, stock = 4 * doubles(2, 3, 7), 5 * doubles(2, 5, 3, seed=1)
    orders = doubles(2, 6, 7, seed=2)
    mixed = Scenarios.of(hub, demand, inventory=stock)
    mixed = Scenarios(**{f: getattr(mixed, f) for f in mixed.__slots__} | {"lead_time": torch.tensor(edges)})
    world = Simulator(hub, mixed)
    inventory = stock
    for t in range(7):
        inventory = world.step(inventory, orders[:, :, t], demand[:, :, t]).inventory
    for i, leads in enumerate(edges):
        own = InventoryNetwork(
            hub.stores, [(a, b, lead) for (a, b, _), lead in zip(hub.edges, leads, strict=True)], hub.warehouses,
            lost_sales=False,
        )  # fmt: skip
        _, alone = replay(own, stock[i], orders[i], demand[i])
        assert torch.allclose(inventory[i], alone, atol=EXACT)


def test_scenarios_do_not_touch_one_another(hub) -> None:
    inventory, demand, orders = doubles(3, 5, 3), doubles(3, 3, 6, seed=1), doubles(3, 6, 6, seed=2)
    before, _ = replay(hub, inventory, orders, demand)
    changed = orders.clone()
    changed[1] += 1
    after, _ = replay(hub, inventory, changed, demand)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def test_an_isolated_second_network_changes_nothing(hub) -> None:
    more = InventoryNetwork(
        (*hub.stores, Store("far", 1.0, 2.0)), (*hub.edges, ("supplier", "far", 2)), hub.warehouses, lost_sales=False
    )
    inventory, demand, orders = doubles(2, 5, 3), doubles(2, 3, 6, seed=1), doubles(2, 6, 6, seed=2)
    _, first = replay(hub, inventory, orders, demand)
    zeros = torch.zeros(2, 1, 6, dtype=torch.float64)
    wide = [torch.cat([inventory, zeros[:, :, :3]], 1), torch.cat([orders, zeros], 1), torch.cat([demand, zeros], 1)]
    cost, final = replay(more, *wide)
    assert torch.equal(final[:, :5], first)
    assert torch.equal(cost, replay(hub, inventory, orders, demand)[0])


def test_more_stock_never_raises_later_shortage() -> None:
    net = InventoryNetwork.single_store(2, 0.0, 1.0, lost_sales=True)
    orders, demand = doubles(50, 20), 2 * doubles(50, 20, seed=1)
    little, _ = replay(net, doubles(50, 2, seed=2), orders, demand)
    much, _ = replay(net, doubles(50, 2, seed=2) + torch.tensor([1.0, 0.0]), orders, demand)
    assert bool((much <= little + EXACT).all())


def test_gradients_are_those_of_differences(hub) -> None:
    demand, stock = 3 * doubles(2, 3, 5), 4 * doubles(2, 5, 3, seed=1)

    def total(orders: torch.Tensor) -> torch.Tensor:
        return replay(hub, stock, orders, demand)[0].sum()

    assert torch.autograd.gradcheck(total, (doubles(2, 6, 5, seed=2).requires_grad_(),))


def test_shapes_that_are_understood(chain) -> None:
    net = InventoryNetwork.single_store(1, 1.0, 9.0, lost_sales=False)
    cost, final = replay(net, [[3.0]], [[1.0, 2.0]], [[1, 2]])
    assert (cost.shape, final.shape) == ((1, 2), (1, 1))
    cost, final = replay(net, [3.0], [1.0, 2.0], torch.ones(4, 1, 2))
    assert (cost.shape, final.shape) == ((4, 2), (4, 1))
    cost, final = replay(net, torch.zeros(1, 1, 3), [1.0], [1.0])
    assert final.shape == (1, 1, 3)
    cost, final = replay(chain, torch.zeros(4, 4), torch.zeros(4, 6), torch.zeros(6))
    assert (cost.shape, final.shape) == ((6,), (4, 4))


@pytest.mark.parametrize(
    "inventory, orders, demand, said",
    [
        ([3.0], [1.0], [1.0], r"inventory: has 1 slots, the longest lead time is 2"),
        ([3.0, 0.0], [1.0, 1.0], [1.0], r"demand: has 1 periods, orders have 2"),
        ([3.0, 0.0], [1.0], [float("nan")], r"demand: is nan at \[0, 0, 0\]"),
        ([3.0, float("inf")], [1.0], [1.0], r"inventory: is inf"),
        (torch.zeros(2, 3, 2), [1.0], [1.0], r"inventory: has shape \(2, 3, 2\)"),
        (torch.zeros(2, 2), torch.zeros(3, 1), [1.0], r"inventory: has 2 scenarios where others have 3"),
    ],
)
def test_what_cannot_be_replayed(inventory, orders, demand, said) -> None:
    with pytest.raises(UserError, match=said):
        replay(InventoryNetwork.single_store(2, 1.0, 9.0, lost_sales=True), inventory, orders, demand)


def test_strict_mode_names_place_and_period(hub) -> None:
    inventory = torch.ones(1, 5, 3)
    orders = torch.zeros(1, 6, 4)
    orders[0, 2:4, 2] = torch.tensor([2.0, 1.5])
    replay(hub, inventory, orders, torch.zeros(1, 3, 4))
    with pytest.raises(UserError, match=r"period 2, scenario 0, east: orders of 3\.5 from a stock of 3"):
        replay(hub, inventory, orders, torch.zeros(1, 3, 4), strict=True)
    with pytest.raises(UserError, match=r"period 0, scenario 0, supplier -> east: the order is -1"):
        replay(hub, inventory, orders - 1, torch.zeros(1, 3, 4), strict=True)


def test_horizons_and_shapes_of_policies(hub) -> None:
    scenarios = Scenarios.of(hub, torch.ones(2, 3, 4))
    with pytest.raises(UserError, match="5 periods asked for, demand has 4"):
        next(periods(hub, lambda obs: torch.zeros(2, 6), scenarios, 5))
    with pytest.raises(UserError, match=r"orders have shape \(2, 5\)"):
        next(periods(hub, lambda obs: torch.zeros(2, 5), scenarios))


def test_what_is_seen_of_the_past() -> None:
    net = InventoryNetwork.single_store(1, 1.0, 9.0, lost_sales=True)
    demand = torch.arange(4.0)[None, None] + 10
    scenarios = Scenarios.of(net, demand, past=torch.tensor([[[8.0, 9.0]]]), calendar=torch.arange(4.0)[None, :, None])
    seen = []

    def act(obs):
        seen.append((obs.past[0, 0].tolist(), obs.calendar[0].tolist()))
        return torch.zeros(1, 1)

    list(periods(net, act, scenarios))
    assert seen == [([8, 9], [0]), ([9, 10], [1]), ([10, 11], [2]), ([11, 12], [3])]


def test_cross_docks_are_told_apart() -> None:
    net = InventoryNetwork(
        (Store("a", 1.0, 4.0),), (("supplier", "x", 1), ("x", "a", 1)), (Warehouse("x", 0.0, cross_dock=True),)
    )
    assert net.ships_all.tolist() == [True, False]
