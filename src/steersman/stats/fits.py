"""Power laws by least squares in log space, with an interval of the exponent.

Leaves out: an offset (y = a x^b + c); subtract a known floor from y first.
Sources: ordinary least squares; Cameron, Gelbach and Miller 2008 for resampling whole groups.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.stats import checks
from steersman.stats.intervals import Interval, unbounded
from steersman.stats.resampling import LEAST_RESAMPLES

LEAST_DEFINED = 0.5  # share of resamples that must hold two different x


@dataclass(frozen=True)
class PowerLaw:
    """A fitted y = coefficient * x^exponent.

    Args:
        exponent: b with its interval (``method`` says how).
        coefficient: a, in the unit of y at x = 1.
        r2: share of the variance of log y that the law explains, over all points.
        points: number of points used.
    """

    exponent: Interval
    coefficient: float
    r2: float
    points: int

    def predict(self, x: Any) -> np.ndarray:
        """Return coefficient * x^exponent for positive x."""
        return self.coefficient * _positive("x", checks.array("x", x)) ** self.exponent.value


def fit_power_law(
    x: Any,
    y: Any,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: checks.Seed = 0,
    groups: Any = None,
) -> PowerLaw:
    """Fit y = a x^b by least squares of log y = log a + b log x, with an interval of b.

    b = sum (u - mean u)(v - mean v) / sum (u - mean u)^2, u = log x, v = log y.

    Args:
        x: [n] positive numbers, at least two different ones.
        y: [n] positive numbers; or [seeds, n], one row per seed.
        level: confidence level in (0, 1).
        resamples: number of resamples, >= 100, where groups or seeds are resampled.
        seed: whole number or numpy Generator for the resampling.
        groups: [n] labels (of any kind) of points that belong together, such as the seed a point came from; whole
            groups are resampled. Only with y of shape [n]; [seeds, n] is its own grouping by row.

    Returns:
        PowerLaw. The exponent's interval is Student's t with n - 2 degrees from the residuals ("t") for a single
        curve, which takes points as independent; the percentile bootstrap over seeds or groups otherwise.

    Raises:
        UserError: zero or negative x or y (by name and row); NaN, empty or unmatched lengths; fewer than two
        different x; groups together with [seeds, n]; groups whose resamples mostly hold a single x.

    Edge cases: two points give a perfect line and (-inf, inf); one group gives (-inf, inf); one row [1, n] is the same
    as [n]; constant y gives exponent 0 and r2 = 1. Resamples in which all x are equal have no slope and are left out.

    Source: as in the module's docstring; the interval with few groups is too narrow, as any bootstrap.
    """
    x, y = _positive("x", checks.array("x", x)), _positive("y", checks.array("y", y, ndim=(1, 2)))
    level, resamples = checks.probability("level", level), checks.whole("resamples", resamples, least=LEAST_RESAMPLES)
    checks.same_length("x", x, "y" if y.ndim == 1 else "y.T", y.T)
    member = _membership(groups, y)
    u = np.log(np.broadcast_to(x, y.shape)).reshape(-1)
    v = np.log(y).reshape(-1)
    if np.ptp(x) == 0:
        raise UserError(f"all {len(x)} values are {x[0]}", where="x", allowed="at least two different values")
    return _fit(u, v, member, level, resamples, seed)


def _fit(
    u: np.ndarray, v: np.ndarray, member: np.ndarray | None, level: float, resamples: int, seed: checks.Seed
) -> PowerLaw:
    import scipy.stats

    line = scipy.stats.linregress(u, v)
    slope, total = float(line.slope), float(np.sum((v - v.mean()) ** 2))
    residual = float(np.sum((v - line.intercept - slope * u) ** 2))
    r2 = 1.0 - residual / total if np.ptp(v) > 0 else 1.0
    if member is not None:
        exponent = _grouped(u - u.mean(), v - v.mean(), member, slope, level, resamples, seed)
    elif len(u) == 2:
        exponent = unbounded(slope, level, "undefined: two points")
    else:
        # by hand, because scipy's stderr is 0/0 for constant y
        error = np.sqrt(residual / (len(u) - 2) / np.sum((u - u.mean()) ** 2))
        half = float(scipy.stats.t.ppf((1 + level) / 2, len(u) - 2) * error)
        exponent = Interval(slope, slope - half, slope + half, level, "t")
    return PowerLaw(exponent, float(np.exp(line.intercept)), r2, len(u))


def _grouped(
    u: np.ndarray, v: np.ndarray, member: np.ndarray, slope: float, level: float, resamples: int, seed: checks.Seed
) -> Interval:
    """Percentile interval of the slope over resampled groups; a resample only needs each group's sums."""
    count = int(member.max()) + 1
    if count == 1:
        return unbounded(slope, level, "undefined: one group")
    sums = np.stack([np.bincount(member, w, count) for w in (np.ones_like(u), u, v, u * u, u * v)], axis=1)
    share = np.full(count, 1.0 / count)
    n, su, sv, suu, suv = (checks.generator(seed).multinomial(count, share, resamples) @ sums).T
    spread = suu - su * su / n
    defined = spread > 1e-9 * np.sum(u * u)  # rounding leaves a residue where all x are equal
    if defined.mean() < LEAST_DEFINED:
        raise UserError(
            f"{1 - defined.mean():.0%} of the resamples hold a single x",
            where="groups",
            allowed="groups that each hold several x, or more groups",
        )
    slopes = (suv - su * sv / n)[defined] / spread[defined]
    low, high = np.quantile(slopes, [(1 - level) / 2, (1 + level) / 2])
    return Interval(slope, float(low), float(high), level, f"percentile bootstrap over {count} groups")


def _membership(groups: Any, y: np.ndarray) -> np.ndarray | None:
    """Return the group number of every point of y flattened, or None for a single curve of independent points."""
    if y.ndim == 2 and groups is not None:
        raise UserError("given together with y of shape [seeds, n]", where="groups", allowed="one of the two")
    if y.ndim == 2:
        return np.repeat(np.arange(len(y)), y.shape[1]) if len(y) > 1 else None
    if groups is None:
        return None
    labels = list(groups)
    checks.same_length("groups", np.arange(len(labels)), "y", y)
    for row, label in enumerate(labels):
        if label is None or label != label:
            raise UserError(f"{label} is not a label", where=f"groups, row {row}", allowed="any value but None and NaN")
    number: dict[Any, int] = {}
    return np.array([number.setdefault(label, len(number)) for label in labels])


def _positive(name: str, values: np.ndarray) -> np.ndarray:
    bad = np.argwhere(values <= 0)
    if len(bad):
        row = ", ".join(map(str, bad[0]))
        raise UserError(
            f"{values[tuple(bad[0])]} has no logarithm ({len(bad)} of {values.size} values are not positive)",
            where=f"{name}, row {row}",
            allowed="numbers > 0",
        )
    return values
