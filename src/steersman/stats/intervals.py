"""Closed-form intervals: a proportion (Wilson, Clopper-Pearson) and a mean (Student's t).

Leaves out: resampling (`resampling`) and anything that compares two systems (`decisions`).
Sources: Wilson 1927; Clopper and Pearson 1934; Brown, Cai and DasGupta 2001 for when to use which.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.stats import checks


@dataclass(frozen=True)
class Interval:
    """A number with a confidence interval; ``low`` and ``high`` are -inf and inf where the data cannot bound it.

    Args:
        value: the estimate itself, in the data's unit.
        low: lower end, same unit.
        high: upper end, same unit.
        level: confidence level, such as 0.95.
        method: how the ends were found ("wilson", "bca", "percentile (constant data)", ...).
    """

    value: float
    low: float
    high: float
    level: float
    method: str = ""

    def contains(self, number: float) -> bool:
        """Say whether ``number`` lies within the closed interval."""
        return self.low <= number <= self.high

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite; False when there were too few observations to say anything."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def unbounded(value: float, level: float, why: str) -> Interval:
    """Return the interval of an estimate whose spread cannot be known: (-inf, inf), with the reason as its method."""
    return Interval(value, -math.inf, math.inf, level, why)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, the default for success rates.

    centre = (p + z^2/2n) / (1 + z^2/n), half = z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n), p = successes/n.

    Args:
        successes: count, 0 <= successes <= n.
        n: number of trials, >= 1.
        level: confidence level in (0, 1).

    Returns:
        Interval of the proportion; value is p (not the centre).

    Raises:
        UserError: counts that are negative, not whole or do not fit each other; a level outside (0, 1).

    Edge cases: 0 or n successes put one end exactly at 0 or 1; the width never is zero.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22; no continuity correction.
    """
    import scipy.stats

    successes, n = _counts(successes, n)
    ends = scipy.stats.binomtest(successes, n).proportion_ci(checks.probability("level", level), method="wilson")
    # scipy leaves rounding residue of 1e-17 at the closed ends
    low = 0.0 if successes == 0 else max(0.0, float(ends.low))
    high = 1.0 if successes == n else min(1.0, float(ends.high))
    return Interval(successes / n, low, high, level, "wilson")


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Clopper and Pearson's exact interval of a proportion: never covers less than ``level``, so it is wider.

    low solves P(X >= successes | low) = (1-level)/2, high solves P(X <= successes | high) = (1-level)/2.

    Args:
        successes: count, 0 <= successes <= n.
        n: number of trials, >= 1.
        level: confidence level in (0, 1).

    Returns:
        Interval of the proportion.

    Raises:
        UserError: as `wilson`.

    Edge cases: 0 successes give low = 0, n successes give high = 1.

    Source: Clopper and Pearson 1934, Biometrika 26; computed by scipy.
    """
    import scipy.stats

    successes, n = _counts(successes, n)
    ends = scipy.stats.binomtest(successes, n).proportion_ci(checks.probability("level", level), method="exact")
    return Interval(successes / n, float(ends.low), float(ends.high), level, "clopper-pearson")


def t_interval(x: Any, level: float = 0.95) -> Interval:
    """Student's t interval of a mean: mean(x) -+ t_{n-1, (1+level)/2} sd(x) / sqrt(n).

    Args:
        x: [n] observations (for paired data: the differences).
        level: confidence level in (0, 1).

    Returns:
        Interval of the mean.

    Raises:
        UserError: empty, NaN or infinite x; a level outside (0, 1).

    Edge cases: n = 1 gives (-inf, inf); constant x gives a width of zero, which is exact only if the data truly
    cannot vary.

    Source: Student 1908. The better choice over a bootstrap for about ten seeds or fewer.
    """
    import scipy.stats

    x, level = checks.array("x", x), checks.probability("level", level)
    mean = float(np.mean(x))
    if len(x) == 1:
        return unbounded(mean, level, "undefined: one observation")
    if np.ptp(x) == 0:
        return Interval(float(x[0]), float(x[0]), float(x[0]), level, "t (constant data)")
    half = float(scipy.stats.t.ppf((1 + level) / 2, len(x) - 1) * np.std(x, ddof=1) / math.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half, level, "t")


def _counts(successes: int, n: int) -> tuple[int, int]:
    n = checks.whole("n", n, least=1)
    successes = checks.whole("successes", successes)
    if successes > n:
        raise UserError(f"{successes} successes in {n} trials", where="successes", allowed=f"0 to n = {n}")
    return successes, n
