"""The optimum of a chain with backlog and normal demand: Clark and Scarf's recursion on a grid.

Leaves out: trees and lost sales. Source: Clark and Scarf 1960.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.signal import fftconvolve
from scipy.stats import norm

from steersman.control.inventory.checks import critical, finite
from steersman.core.errors import UserError

Array = npt.NDArray[np.float64]
GRID = 0.01
"""Step of the grid, units of demand."""
TAIL = 7.0
"""Standard deviations of demand that the grid reaches beyond its mean."""


def serial_clark_scarf(
    mean: float,
    std: float,
    lead_times: Sequence[int],
    holding: Sequence[float],
    shortage: float,
    clip: bool = True,
) -> tuple[tuple[float, ...], float]:
    """Optimal echelon base-stock levels of a chain with backlog, and their cost: Clark and Scarf's recursion.

    From the store (1) upwards: C_0(x) = (p + sum_i e_i) x^-; G_j(x) = e_j x + C_{j-1}(min(x, S_{j-1}));
    C_j(y) = E G_j(y - D over L_j periods); S_j = argmin C_j; e = echelon holding costs (own less upstream's), the
    store's lead time counted L + 1. The holding cost of goods on the way, which the simulator does not charge, is
    subtracted: sum over locations of h times mean demand times the lead time to the next (the store's leg L + 1).

    Args:
        mean, std: of a period's normal demand.
        lead_times: from the top to the store, each >= 1.
        holding: h of each location, from the top to the store, not decreasing.
        shortage: p > 0 of the store.
        clip: demand is clipped at 0, as the simulator's is.

    Returns:
        Levels from the top to the store, and cost a period.

    Raises:
        UserError: lists of different lengths, numbers out of range, holding costs that fall towards the store.
    """
    if len(lead_times) != len(holding) or not lead_times:
        what = f"{len(lead_times)} lead times, {len(holding)} holding costs"
        raise UserError(what, where="serial_clark_scarf", allowed="as many, at least one")
    for lead, cost in zip(lead_times, holding, strict=True):
        critical(lead, cost, shortage)
    own = np.diff(np.asarray(holding, np.float64), prepend=0.0)
    if (own < 0).any():
        raise UserError(f"is {list(holding)}", where="holding", allowed="not decreasing towards the store")
    finite(mean=mean, std=std)
    leads = [*lead_times[:-1], lead_times[-1] + 1]
    unit = _demand(mean, std, clip)
    average = float((unit * np.arange(len(unit))).sum()) * GRID if clip else mean
    top = average * sum(leads) + TAIL * std * math.sqrt(sum(leads)) + 1
    grid = np.arange(-round(top / GRID), round(top / GRID) + 1) * GRID
    # Beyond the critical levels nobody stocks; below the grid all costs are linear and go on so.
    below = np.maximum(-grid, 0) * (shortage + own.sum())
    levels: list[float] = []
    for extra, lead in zip(own[::-1], leads[::-1], strict=True):
        ahead = _expected(extra * grid + below, _sum_of(unit, lead, mean, std, clip))
        at = int(ahead.argmin())
        levels.append(float(grid[at]))
        best = float(ahead[at])
        below = np.where(np.arange(len(grid)) > at, best, ahead)
    moving = sum(h * average * lead for h, lead in zip(holding[:-1], leads[1:], strict=True))
    return tuple(levels[::-1]), best - moving


def _demand(mean: float, std: float, clip: bool) -> Array:
    """Chances of a period's demand clipped at 0 on the grid from 0; only used where it is clipped."""
    edges = (np.arange(max(round((mean + TAIL * std) / GRID), 1) + 2) - 0.5) * GRID
    cdf = norm.cdf(edges, mean, max(std, GRID * 1e-6))
    cdf[0], cdf[-1] = (0.0, 1.0) if clip else (cdf[0], cdf[-1])
    return np.diff(cdf)


def _sum_of(unit: Array, periods: int, mean: float, std: float, clip: bool) -> tuple[Array, int]:
    """Chances of the demand of several periods on the grid, and the index of its first entry."""
    if not clip:
        reach = max(round(TAIL * std * math.sqrt(periods) / GRID), 1)
        middle = round(mean * periods / GRID)
        steps = np.arange(middle - reach, middle + reach + 1)
        spread = max(std * math.sqrt(periods), GRID * 1e-6)
        chance = np.diff(norm.cdf((np.append(steps, steps[-1] + 1) - 0.5) * GRID, mean * periods, spread))
        return chance / chance.sum(), int(steps[0])
    total = unit
    for _ in range(periods - 1):
        total = np.maximum(fftconvolve(total, unit), 0)
    return total / total.sum(), 0


def _expected(values: Array, law: tuple[Array, int]) -> Array:
    """E f(y - D) at every y of the grid; f goes on linearly below the grid and above it."""
    chance, first = law
    n = len(chance) - 1
    low = max(first + n, 0)
    high = max(-first, 0)
    left = values[0] - (values[1] - values[0]) * np.arange(low, 0, -1)
    right = values[-1] + (values[-1] - values[-2]) * np.arange(1, high + 1)
    long = np.concatenate([left, values, right])
    whole = fftconvolve(long, chance, "valid")  # entry i = E f at index i + n of `long`, D from its first entry
    start = low - first - n
    return whole[start : start + len(values)]
