"""Optima and bounds: golden values, simulation, limits, and that no policy beats them."""

import numpy as np
import pytest
import torch

from steersman.control.inventory import oracle
from steersman.control.inventory.clark_scarf import GRID
from steersman.core.errors import UserError
from steersman.policy.inventory.stock import BaseStock, CappedBaseStock, EchelonStock, Tabulated
from steersman.task.inventory.evaluate import evaluate
from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import replay

DIGITS = 1e-4
STOCKPYL = 0.025
"""The serial reference was found on a coarser grid, cost a period."""
SE = 3.0
"""Simulated means may be off by so many standard errors."""


@pytest.mark.parametrize("args, level, cost", [((4, 9), 29.585, 6.2788), ((1, 4), 11.9044, 3.1674)])
def test_base_stock_under_backlog(args, level, cost) -> None:
    found = oracle.backlog_base_stock(5.0, 1.6, args[0], 1.0, args[1])
    assert found == pytest.approx((level, cost), abs=DIGITS)


def test_without_spread_nothing_is_paid() -> None:
    assert oracle.backlog_base_stock(5.0, 0.0, 3, 1.0, 9.0) == (20.0, 0.0)


def test_simulated_base_stock_costs_what_the_formula_says() -> None:
    net = InventoryNetwork.single_store(4, 1.0, 9.0, lost_sales=False)
    level, cost = oracle.backlog_base_stock(5.0, 1.6, 4, 1.0, 9.0)
    scenarios = Scenarios.normal(net, 2000, 250, clip=False, seed=1)
    found = {off: evaluate(net, BaseStock(net, level + off), scenarios, 50) for off in (-1.0, 0.0, 1.0)}
    assert abs(found[0.0].mean - cost) < SE * found[0.0].se
    assert found[0.0].mean < min(found[-1.0].mean, found[1.0].mean)


@pytest.mark.parametrize("lead, costs", [(1, (4.0407, 5.4382, 6.6757, 7.8359)), (2, (4.3953, 6.0936, 7.6644, 9.1064))])
def test_lost_sales_are_zipkins_table(lead, costs) -> None:
    found = [oracle.lost_sales_dp(5.0, lead, 1.0, p) for p in (4.0, 9.0, 19.0, 39.0)]
    assert found == pytest.approx(costs, abs=DIGITS)


def test_lost_sales_with_four_periods_and_its_rules_of_thumb() -> None:
    net = InventoryNetwork.single_store(4, 1.0, 4.0, lost_sales=True)
    best = oracle.lost_sales_optimum(5.0, 4, 1.0, 4.0)
    assert best.cost == pytest.approx(4.7285, abs=DIGITS)
    scenarios = Scenarios.poisson(net, 1000, 400, seed=3)
    policies = {
        "table": Tabulated(net, torch.from_numpy(best.orders)),
        "capped": CappedBaseStock(net, 26.0, 5.0),
        "base": BaseStock(net, 25.0),
    }
    found = {k: evaluate(net, p, scenarios, 100) for k, p in policies.items()}
    assert abs(found["table"].mean - best.cost) < SE * found["table"].se
    assert found["capped"].mean == pytest.approx(4.79, abs=0.03)
    assert found["base"].mean == pytest.approx(5.19, abs=0.03)
    for f in found.values():
        assert f.mean > best.cost - SE * f.se


def test_with_lead_time_one_base_stock_levels_are_almost_optimal_and_never_better() -> None:
    net = InventoryNetwork.single_store(1, 1.0, 9.0, lost_sales=True)
    scenarios = Scenarios.poisson(net, 1000, 300, seed=4)
    found = [evaluate(net, BaseStock(net, float(s)), scenarios, 50) for s in range(10, 18)]
    best = min(found, key=lambda f: f.mean)
    optimum = oracle.lost_sales_dp(5.0, 1, 1.0, 9.0)
    assert optimum - SE * best.se < best.mean < 1.05 * optimum


def test_a_larger_cap_of_orders_changes_nothing() -> None:
    few, many = (oracle.lost_sales_optimum(5.0, 3, 1.0, 39.0, cap).cost for cap in (None, 15))
    assert few == pytest.approx(many, abs=DIGITS)


@pytest.mark.parametrize("shortage, cost", [(4.0, 8.77), (39.0, 13.92)])
def test_serial_optimum_of_unclipped_demand(shortage, cost) -> None:
    _, found = oracle.serial_clark_scarf(5.0, 2.0, (2, 4, 3, 4), (0.1, 0.2, 0.5, 1.0), shortage, clip=False)
    assert found == pytest.approx(cost, abs=STOCKPYL)


def test_a_chain_of_one_is_the_newsvendor() -> None:
    (level,), cost = oracle.serial_clark_scarf(5.0, 0.5, (4,), (1.0,), 9.0, clip=False)
    assert (level, cost) == pytest.approx(oracle.backlog_base_stock(5.0, 0.5, 4, 1.0, 9.0), abs=GRID)
    (clipped, _) = oracle.serial_clark_scarf(5.0, 0.5, (4,), (1.0,), 9.0, clip=True)
    assert clipped[0] == pytest.approx(level, abs=GRID)


def test_the_stores_level_has_its_critical_ratio() -> None:
    from scipy.stats import norm

    levels, _ = oracle.serial_clark_scarf(5.0, 2.0, (2, 4, 3, 4), (0.1, 0.2, 0.5, 1.0), 9.0, clip=False)
    assert levels[-1] == pytest.approx(25 + norm.ppf(9.5 / 10) * 2 * 5**0.5, abs=2 * GRID)


def test_simulated_echelon_levels_are_a_minimum_and_cost_what_the_recursion_says() -> None:
    edges = (("supplier", "top", 2), ("top", "middle", 4), ("middle", "depot", 3), ("depot", "shop", 4))
    chain = InventoryNetwork(
        (Store("shop", 1.0, 9.0),), edges, (Warehouse("depot", 0.5),),
        (Warehouse("top", 0.1), Warehouse("middle", 0.2)), lost_sales=False,
    )  # fmt: skip
    levels, cost = oracle.serial_clark_scarf(5.0, 2.0, (2, 4, 3, 4), (0.1, 0.2, 0.5, 1.0), 9.0)
    scenarios = Scenarios.normal(chain, 1000, 400, std=2.0, seed=2)
    at = {off: evaluate(chain, EchelonStock(chain, torch.tensor(levels) + off), scenarios, 150) for off in (-1, 0, 1)}
    assert abs(at[0].mean - cost) < SE * at[0].se
    assert at[0].mean < min(at[-1].mean, at[1].mean)


PAPER = np.random.RandomState(33).uniform(2.5, 7.5, 5).round(3)
SPREAD = (PAPER * np.random.RandomState(92).uniform(0.25, 0.5, 5)).round(3)


@pytest.mark.parametrize("corr, lead, shortage, bound", [(0.5, 2, 4, 5.2964), (0.0, 2, 9, 5.7561), (0.5, 6, 9, 8.9886)])
def test_transshipment_bound(corr, lead, shortage, bound) -> None:
    found = oracle.transshipment_bound(PAPER.tolist(), SPREAD.tolist(), corr, lead, 3, 1.0, shortage)
    assert found == pytest.approx(bound, abs=DIGITS)


def test_just_in_time_of_one_store_meets_all_demand_and_keeps_nothing() -> None:
    net = InventoryNetwork.single_store(3, 1.0, 9.0, lost_sales=True)
    demand = Scenarios.poisson(net, 20, 30, seed=5).demand
    cost, final = replay(net, torch.zeros(20, 3), oracle.just_in_time(net, demand), demand, strict=True)
    assert float(cost[:, 3:].abs().max()) == 0.0
    assert bool((cost[:, :3].sum(1) > 0).all())


def test_just_in_time_of_a_network_goes_the_shortest_way() -> None:
    stores = (Store("a", 1.0, 9.0), Store("b", 1.0, 9.0))
    edges = (("supplier", "x", 2), ("supplier", "y", 1), ("x", "a", 3), ("y", "a", 1), ("x", "b", 2))
    net = InventoryNetwork(stores, edges, (Warehouse("x", 1.0), Warehouse("y", 1.0)))
    demand = Scenarios.poisson(net, 10, 20, seed=6).demand
    orders = oracle.just_in_time(net, demand)
    assert float(orders[:, 2].abs().max()) == 0.0
    cost, _ = replay(net, torch.zeros(4, 3), orders, demand, strict=True)
    assert float(cost[:, 4:].abs().max()) == 0.0
    assert bool((cost[:, :2].sum(1) > 0).all())


def test_just_in_time_earns_more_than_any_admissible_policy() -> None:
    net = InventoryNetwork.single_store(2, 1.0, 9.0, lost_sales=True, objective="profit")
    scenarios = Scenarios.poisson(net, 200, 60, seed=7)
    best, _ = replay(net, torch.zeros(200, 2), oracle.just_in_time(net, scenarios.demand), scenarios.demand)
    for level in (12.0, 16.0, 20.0):
        assert float(best[:, 10:].mean()) < evaluate(net, BaseStock(net, level), scenarios, 10).mean


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: oracle.backlog_base_stock(5.0, 1.0, 0, 1.0, 9.0), "lead_time: is 0"),
        (lambda: oracle.backlog_base_stock(5.0, 1.0, 1, -1.0, 9.0), "holding: is -1"),
        (lambda: oracle.backlog_base_stock(5.0, -1.0, 1, 1.0, 9.0), "std: is -1"),
        (lambda: oracle.backlog_base_stock(float("nan"), 1.0, 1, 1.0, 9.0), "mean: is nan"),
        (lambda: oracle.lost_sales_dp(5.0, 9, 1.0, 9.0), "states times orders"),
        (lambda: oracle.serial_clark_scarf(5.0, 1.0, (1, 2), (1.0,), 9.0), "2 lead times, 1 holding"),
        (lambda: oracle.serial_clark_scarf(5.0, 1.0, (1, 2), (1.0, 0.5), 9.0), "not decreasing"),
        (lambda: oracle.transshipment_bound([5.0], [], 0.0, 1, 1, 1.0, 9.0), "1 means, 0 deviations"),
        (lambda: oracle.transshipment_bound([5.0], [1.0], 1.5, 1, 1, 1.0, 9.0), "corr: is 1.5"),
    ],
)
def test_what_is_refused(call, said) -> None:
    with pytest.raises(UserError, match=said):
        call()
