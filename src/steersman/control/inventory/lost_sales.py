"""The optimum of one store with lost sales and Poisson demand, by dynamic programming on its whole pipeline.

Leaves out: other laws and networks. Source: relative value iteration; the instances of Zipkin 2008.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import poisson

from steersman.control.inventory.checks import critical, finite
from steersman.core.errors import UserError

Array = npt.NDArray[np.float64]
SPAN = 1e-7
"""Value iteration stops when all states agree on the cost a period to within this."""
MOST_STATES = 20_000_000
"""States times orders of the dynamic programme; more are refused."""


@dataclass(frozen=True, slots=True)
class LostSales:
    """The optimum of one store with lost sales: cost a period, and the order in each state.

    Args:
        cost: long-run average a period.
        orders: int64 ``[M + 1, c + 1, ...]`` by on hand and by what arrives in 1 .. L - 1 periods.
    """

    cost: float
    orders: npt.NDArray[np.int64]


def lost_sales_dp(mean: float, lead_time: int, holding: float, shortage: float) -> float:
    """Least long-run cost a period of one store with lost sales and Poisson demand; see `lost_sales_optimum`."""
    return lost_sales_optimum(mean, lead_time, holding, shortage).cost


def lost_sales_optimum(
    mean: float, lead_time: int, holding: float, shortage: float, order_cap: int | None = None
) -> LostSales:
    """Relative value iteration on (on hand, arrivals in 1 .. L - 1 periods).

    V(x) = c(x_0) + min_q E V((x_0 - D)^+ + x_1, x_2, ..., q) - g, c(x) = E[h (x - D)^+ + p (D - x)^+].

    Args:
        mean: of the Poisson demand, > 0.
        lead_time: L >= 1; the effort grows by a factor `order_cap` with each period.
        holding, shortage: h, p > 0.
        order_cap: c, the largest order looked at; None = the 0.985 quantile of a period's demand plus 1, and for
            L <= 2 no bound that could bind.

    Returns:
        Cost and orders.

    Raises:
        UserError: a number out of range, or more than `MOST_STATES` states times orders.
    """
    critical(lead_time, holding, shortage)
    finite(mean=mean)
    ratio = shortage / (shortage + holding)
    most = int(poisson.ppf(ratio, mean * (lead_time + 1))) + 1
    cap = order_cap if order_cap is not None else most if lead_time <= 2 else int(poisson.ppf(0.985, mean)) + 1
    size = (most + 1) * (cap + 1) ** lead_time
    if size > MOST_STATES:
        what = f"needs {size:,} states times orders"
        raise UserError(what, where="lead_time", allowed=f"{MOST_STATES:,}", cure="Shorten it or lower order_cap.")
    cost, leave = _one_period(mean, most, holding, shortage)
    value = np.zeros((most + 1, *[cap + 1] * (lead_time - 1)))
    while True:
        after = _after(leave, value, cap)
        new = cost.reshape(-1, *[1] * (value.ndim - 1)) + after.min(-1)
        change = new - value
        if change.max() - change.min() < SPAN:
            return LostSales(float((change.max() + change.min()) / 2), after.argmin(-1))
        value = new - new.flat[0]


def _one_period(mean: float, most: int, holding: float, shortage: float) -> tuple[Array, Array]:
    """Expected cost by stock ``[M + 1]``, and the chances of what is left ``[M + 1, M + 1]``."""
    stock, demand = np.arange(most + 1), np.arange(int(poisson.ppf(1 - 1e-13, mean)) + 2)
    chance = poisson.pmf(demand, mean)
    gap = stock[:, None] - demand
    cost = (np.where(gap > 0, holding * gap, -shortage * gap) * chance).sum(1)
    leave = np.zeros((most + 1, most + 1))
    where = np.broadcast_to(stock[:, None], gap.shape), np.maximum(gap, 0)
    np.add.at(leave, where, np.broadcast_to(chance, gap.shape))
    return cost, leave / leave.sum(1, keepdims=True)


def _after(leave: Array, value: Array, cap: int) -> Array:
    """E V((x_0 - D)^+ + x_1, x_2, ..., q) by (x_0, x_1, ..., q), q last; with L = 1 q is what stands for x_1."""
    most, rest = len(value) - 1, value.shape[1:]
    flat = value.reshape(most + 1, -1)
    out = np.empty((most + 1, cap + 1, *rest))
    for first in range(cap + 1):
        moved = flat[np.minimum(np.arange(most + 1) + first, most)]
        out[:, first] = (leave @ moved).reshape(most + 1, *rest)
    return out
