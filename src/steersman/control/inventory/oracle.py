"""Optima, bounds and hindsight plans that ordering policies are held against.

All costs are per period (of networks: per period and store), in the timing of the simulator: an order with lead time L
is on hand L periods later, so that a decision covers the demand of L + 1 periods. Leaves out: playing policies
(`task.inventory.evaluate`). Sources: the newsvendor formula; arXiv 2306.11246, section 5, for the transshipment bound.
"""

import math
from collections.abc import Sequence

from scipy.stats import norm
from torch import Tensor, cat
from torch.nn.functional import pad

from steersman.control.inventory.checks import critical, finite
from steersman.control.inventory.clark_scarf import serial_clark_scarf
from steersman.control.inventory.lost_sales import LostSales, lost_sales_dp, lost_sales_optimum
from steersman.core.errors import UserError
from steersman.policy.inventory.observe import SUPPLIER
from steersman.task.inventory.network import InventoryNetwork

__all__ = [
    "LostSales",
    "backlog_base_stock",
    "just_in_time",
    "lost_sales_dp",
    "lost_sales_optimum",
    "serial_clark_scarf",
    "transshipment_bound",
]


def backlog_base_stock(mean: float, std: float, lead_time: int, holding: float, shortage: float) -> tuple[float, float]:
    """Optimal base-stock level and its cost: one store, backlog, normal demand.

    S = mean (L + 1) + z std sqrt(L + 1), z = Phi^-1(p / (p + h)); cost = (p + h) phi(z) std sqrt(L + 1).

    Args:
        mean, std: of one period's demand; std >= 0.
        lead_time: L >= 1, periods.
        holding, shortage: h, p > 0, cost of a unit a period.

    Returns:
        Level (units of inventory position) and cost a period.

    Raises:
        UserError: a number out of range.

    Edge cases: std = 0 gives mean (L + 1) and cost 0. Demand clipped at 0 costs a little less.
    """
    z = critical(lead_time, holding, shortage)
    finite(mean=mean, std=std)
    spread = std * math.sqrt(lead_time + 1)
    return mean * (lead_time + 1) + z * spread, (shortage + holding) * float(norm.pdf(z)) * spread


def transshipment_bound(
    mean: Sequence[float],
    std: Sequence[float],
    corr: float,
    store_lead: int,
    warehouse_lead: int,
    holding: float,
    shortage: float,
) -> float:
    """Lower bound on the cost a period and store of one cross-dock with stores alike in costs and lead times, backlog.

    LB = (p + h) phi(z) sqrt((L_s + 1) (sum_k std_k)^2 + L_w Var(sum_k D_k)) / K, z = Phi^-1(p / (p + h)).

    Args:
        mean, std: of each store's normal demand; the bound does not depend on the means.
        corr: correlation between any two stores, 0 to 1.
        store_lead, warehouse_lead: L_s, L_w >= 1.
        holding, shortage: h, p > 0 of every store.

    Raises:
        UserError: lists of different lengths or numbers out of range.
    """
    z = critical(store_lead, holding, shortage)
    critical(warehouse_lead, holding, shortage)
    if len(mean) != len(std) or not std:
        raise UserError(f"{len(mean)} means, {len(std)} deviations", where="transshipment_bound", allowed="as many")
    if not 0 <= corr <= 1:
        raise UserError(f"is {corr}", where="corr", allowed="0 to 1")
    for m, s in zip(mean, std, strict=True):
        finite(mean=m, std=s)
    whole, squares = sum(std) ** 2, sum(s * s for s in std)
    variance = squares + corr * (whole - squares)
    spread = math.sqrt((store_lead + 1) * whole + warehouse_lead * variance)
    return (shortage + holding) * float(norm.pdf(z)) * spread / len(std)


def just_in_time(network: InventoryNetwork, demand: Tensor) -> Tensor:
    """Orders that bring exactly the demand of each period in time: hindsight, an upper bound on any policy's profit.

    A store orders at t the demand of period t + L from the supplier or warehouse with the shortest lead time (the first
    of several); a warehouse orders what it will have to ship. Nothing is ordered that could not have arrived.

    Args:
        network: the network.
        demand: ``[B, K, T]``, >= 0.

    Returns:
        Orders ``[B, E, T]``, for `task.inventory.simulate.replay`.

    Edge cases: the starting inventory is not counted on; the first periods (as many as the longest way takes) are not
        served.
    """
    if demand.ndim != 3 or demand.shape[1] != network.n_stores:
        raise UserError(f"has shape {tuple(demand.shape)}", where="demand", allowed=f"[B, {network.n_stores}, T]")
    b, k, horizon = demand.shape
    source, target = network.source.tolist(), network.target.tolist()
    lead = network.lead_time.tolist()
    feeds = {
        i: min((e for e, t in enumerate(target) if t == i), key=lambda e: lead[e]) for i in range(len(network.names))
    }

    def earliest(i: int) -> int:
        """First period at which location `i` can have goods of its own ordering."""
        e = feeds[i]
        return lead[e] + (0 if source[e] == SUPPLIER else earliest(source[e]))

    orders = demand.new_zeros(b, len(lead), horizon)
    wanted = cat([demand.new_zeros(b, network.n_upstream, horizon), demand], 1)
    for i in sorted(range(len(network.names)), key=earliest, reverse=True):
        e, first = feeds[i], earliest(i) - lead[feeds[i]]
        ahead = pad(wanted[:, i, lead[e] :], (0, min(lead[e], horizon)))[:, :horizon]
        orders[:, e, first:] = ahead[:, first:]
        if source[e] != SUPPLIER:
            wanted[:, source[e]] += orders[:, e]
    return orders
