"""Bootstrap intervals over pairs, over observations and over seeds and prompts; the interquartile mean.

Leaves out: p-values (`decisions`) and regression (`fits`). With few observations every bootstrap is too narrow (five
seeds: a nominal 95 % covers about 85 %); `intervals.t_interval` is then the better choice for a mean.
Sources: Efron 1987 (BCa); Owen 2007 (rows and columns resampled together); Agarwal et al. 2021 (interquartile mean).
"""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.stats import checks
from steersman.stats.intervals import Interval, unbounded, wilson

Statistic = Callable[..., Any]

BATCH_VALUES = 2_000_000  # resampled values held at once: 16 MB of float64
BCA_LIMIT = 5_000  # above this the O(1/n) correction is negligible and its jackknife costs n^2
LEAST_RESAMPLES = 100


def iqm(x: Any, axis: int | None = None) -> Any:
    """The interquartile mean: the mean of the middle half of the sorted values, observations cut exactly in part.

    iqm = sum_i w_i x_(i) / sum_i w_i, w_i = length of [i/n, (i+1)/n] within [1/4, 3/4], i = 0 .. n-1.

    Args:
        x: values of any shape.
        axis: the axis to reduce; None flattens (seeds and tasks count alike, as in rliable).

    Returns:
        float, or an array without ``axis``.

    Raises:
        UserError: empty, NaN or infinite x.

    Edge cases: n divisible by 4 is ``scipy.stats.trim_mean(x, 0.25)``; otherwise trim_mean (and rliable) drop
    floor(n/4) whole values on each side and keep the rest at full weight, here the two outermost kept values count by
    their part: n = 5 has weights 0, .3, .4, .3, 0; n = 3 has 1/6, 4/6, 1/6; n <= 2 is the mean.

    Source: Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice", section 4.
    """
    x = checks.array("x", x, ndim=None)
    x = x.reshape(-1) if axis is None else np.moveaxis(x, axis, -1)
    edges = np.linspace(0.0, 1.0, x.shape[-1] + 1)
    weight = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None)
    out = np.sort(x, axis=-1) @ (weight / weight.sum())
    return float(out) if out.ndim == 0 else out


def bootstrap(
    x: Any, *, level: float = 0.95, resamples: int = 10_000, statistic: Statistic = np.mean, seed: checks.Seed = 0
) -> Interval:
    """Bootstrap interval of a statistic of independent observations: BCa where it is defined, else percentile.

    Args:
        x: [n] observations; what is drawn with replacement.
        level: confidence level in (0, 1).
        resamples: number of resamples, >= 100.
        statistic: function of an array; with an ``axis`` argument (numpy's, `iqm`) it runs vectorised.
        seed: whole number (Philox), or a numpy Generator, which is then advanced.

    Returns:
        Interval; ``method`` says "bca", "percentile" (more than 5,000 observations, or BCa undefined because the
        jackknife or the resampled statistic does not vary) or "percentile (constant data)".

    Raises:
        UserError: empty, NaN or infinite x; options out of range; a statistic that is not one finite number.

    Edge cases: n = 1 gives (-inf, inf), since one observation says nothing of its spread; constant x gives a width of
    zero, which for shares near 0 or 1 is misleading: use `wilson` there.

    Source: Efron 1987, J. Am. Stat. Assoc. 82; computed by scipy.
    """
    x, level, resamples = _arguments(x, level, resamples, ndim=1)
    value = checks.finite_statistic(statistic(x), statistic)
    if len(x) == 1:
        return unbounded(value, level, "undefined: one observation")
    if np.ptp(x) == 0:
        return Interval(value, value, value, level, "percentile (constant data)")
    return _scipy_bootstrap(x, value, level, resamples, statistic, seed)


def paired_bootstrap(
    a: Any,
    b: Any,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    statistic: Statistic = np.mean,
    seed: checks.Seed = 0,
) -> Interval:
    """Bootstrap interval of statistic(a - b) over pairs (same seed, prompt or episode in both arms).

    Args:
        a: [n] one value per pair.
        b: [n] its partner, in the same order.
        level: confidence level in (0, 1).
        resamples: number of resamples, >= 100.
        statistic: function of the differences, see `bootstrap`.
        seed: whole number or numpy Generator.

    Returns:
        Interval of the difference a - b; positive means a is larger. ``method`` as in `bootstrap`.

    Raises:
        UserError: empty, NaN, infinite, or lengths that differ (names the first row without a partner).

    Edge cases: one pair gives (-inf, inf); constant differences a width of zero ("percentile (constant data)").

    Source: as `bootstrap`.
    """
    a, b = checks.array("a", a), checks.array("b", b)
    checks.same_length("a", a, "b", b)
    return bootstrap(a - b, level=level, resamples=resamples, statistic=statistic, seed=seed)


def share_interval(x: Any, *, level: float = 0.95, resamples: int = 10_000, seed: checks.Seed = 0) -> Interval:
    """Interval of the mean of shares, one for each unit: Wilson for successes and failures, else a bootstrap.

    Args:
        x: [n] shares in [0, 1], such as the success rate of each prompt's samples.
        level: confidence level in (0, 1).
        resamples: number of resamples, >= 100.
        seed: whole number or numpy Generator.

    Returns:
        Interval of mean(x); ``method`` "wilson" where every share is 0 or 1, or all are equal; else as `bootstrap`.

    Raises:
        UserError: empty, NaN, shares outside [0, 1] (names the row).

    Edge cases: equal shares strictly between 0 and 1 have no spread to resample; the wider one of Wilson's intervals of
    floor and ceil of the sum is given.

    Source: as `wilson` and `bootstrap`.
    """
    x = checks.array("x", x)
    bad = np.flatnonzero((x < 0) | (x > 1))
    if len(bad):
        raise UserError(f"{x[bad[0]]} is out of range", where=f"x, row {bad[0]}", allowed="0 to 1")
    total = float(x.sum())
    if np.isin(x, (0.0, 1.0)).all():
        return wilson(round(total), len(x), level)
    if np.ptp(x) == 0:
        ends = [wilson(int(end), len(x), level) for end in (np.floor(total), np.ceil(total))]
        return Interval(float(x[0]), ends[0].low, ends[1].high, level, "wilson")
    return bootstrap(x, level=level, resamples=resamples, seed=seed)


def ratio_bootstrap(
    numerator: Any, denominator: Any, *, level: float = 0.95, resamples: int = 10_000, seed: checks.Seed = 0
) -> Interval:
    """Bootstrap interval of sum(numerator) / sum(denominator) over units, such as a quantity per token over prompts.

    Args:
        numerator: [n] one total per unit.
        denominator: [n] its size, > 0.
        level: confidence level in (0, 1).
        resamples: number of resamples, >= 100.
        seed: whole number or numpy Generator.

    Returns:
        Interval of the ratio; ``method`` as in `bootstrap`.

    Raises:
        UserError: empty, NaN, lengths that differ, a denominator <= 0 (names the row).

    Edge cases: one unit gives (-inf, inf); one ratio throughout gives a width of zero ("percentile (constant data)").

    Source: as `bootstrap`, units drawn with both of their totals.
    """
    a, b = checks.array("numerator", numerator), checks.array("denominator", denominator)
    checks.same_length("numerator", a, "denominator", b)
    bad = np.flatnonzero(b <= 0)
    if len(bad):
        raise UserError(f"{b[bad[0]]} is out of range", where=f"denominator, row {bad[0]}", allowed="> 0")
    value = float(a.sum() / b.sum())
    if len(a) > 1 and np.ptp(a / b) == 0:
        return Interval(value, value, value, checks.probability("level", level), "percentile (constant data)")

    def ratio(rows: np.ndarray, axis: int = -1) -> Any:
        drawn = rows.astype(np.int64)
        return a[drawn].sum(axis) / b[drawn].sum(axis)

    return bootstrap(np.arange(len(a)), level=level, resamples=resamples, statistic=ratio, seed=seed)


def hierarchical_bootstrap(
    values: Any,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    statistic: Statistic = np.mean,
    shared_prompts: bool = True,
    seed: checks.Seed = 0,
) -> Interval:
    """Percentile bootstrap over training seeds and, within them, prompts: draw seeds, then prompts.

    Args:
        values: [seeds, prompts]; for a comparison give the paired differences.
        level: confidence level in (0, 1).
        resamples: number of resamples, >= 100.
        statistic: function of all resampled values of a draw, flattened, see `bootstrap`.
        shared_prompts: True (a column is the same prompt for every seed): one draw of prompts serves all drawn seeds,
            so that what a prompt does to every seed stays in the interval. False: prompts are drawn anew within each
            drawn seed (the classic nested scheme, for columns that are different prompts in every row).
        seed: whole number or numpy Generator.

    Returns:
        Interval of the statistic over all values; ``method`` "percentile".

    Raises:
        UserError: empty, NaN, infinite, not two-dimensional; options out of range.

    Edge cases: one seed or one prompt gives (-inf, inf), as the spread over the missing level is unknown (use
    `bootstrap` on the row for prompts alone); constant values give a width of zero. Conservative for shared prompts
    (noise of a single answer is counted at both levels), but few seeds still make it too narrow.

    Source: Owen 2007, Ann. Appl. Stat. 1 (shared); Davison and Hinkley 1997, section 3.8 (nested).
    """
    values, level, resamples = _arguments(values, level, resamples, ndim=2, name="values")
    seeds, prompts = values.shape
    value = checks.finite_statistic(statistic(values.reshape(-1)), statistic)
    if min(seeds, prompts) == 1:
        return unbounded(value, level, f"undefined: one {'seed' if seeds == 1 else 'prompt'}")
    if np.ptp(values) == 0:
        return Interval(value, value, value, level, "percentile (constant data)")
    rng, draws = checks.generator(seed), []
    batch = max(1, BATCH_VALUES // values.size)
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        row = rng.integers(0, seeds, (size, seeds, 1))
        column = rng.integers(0, prompts, (size, 1 if shared_prompts else seeds, prompts))
        draws.append(along_last(statistic, values[row, column].reshape(size, -1)))
    low, high = _percentiles(np.concatenate(draws), level)
    return Interval(value, float(low), float(high), level, "percentile")


def along_last(statistic: Statistic, draws: np.ndarray) -> np.ndarray:
    """Apply a statistic along the last axis, at once if it takes ``axis``, else draw by draw; [...] float64."""
    if _has_axis(statistic):
        return np.asarray(statistic(draws, axis=-1), dtype=np.float64)
    return np.apply_along_axis(statistic, -1, draws)


def _arguments(x: Any, level: float, resamples: int, *, ndim: int, name: str = "x") -> tuple[np.ndarray, float, int]:
    resamples = checks.whole("resamples", resamples, least=LEAST_RESAMPLES)
    return checks.array(name, x, ndim=ndim), checks.probability("level", level), resamples


def _scipy_bootstrap(
    x: np.ndarray, value: float, level: float, resamples: int, statistic: Statistic, seed: checks.Seed
) -> Interval:
    import scipy.stats

    method = "BCa" if len(x) <= BCA_LIMIT else "percentile"
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # a degenerate distribution is handled just below, by its NaN ends
        warnings.simplefilter("ignore", RuntimeWarning)
        found = scipy.stats.bootstrap(
            (x,),
            statistic,
            n_resamples=resamples,
            confidence_level=level,
            method=method,
            batch=max(1, BATCH_VALUES // len(x)),
            vectorized=_has_axis(statistic),
            **checks.scipy_random(seed),
        )
    low, high = (float(end) for end in found.confidence_interval)
    if not (np.isfinite(low) and np.isfinite(high)):
        low, high = (float(end) for end in _percentiles(found.bootstrap_distribution, level))
        method = "percentile"
    return Interval(value, low, high, level, method.lower())


def _percentiles(draws: np.ndarray, level: float) -> np.ndarray:
    if not np.isfinite(draws).all():
        count = int((~np.isfinite(draws)).sum())
        raise UserError(
            f"is not finite on {count} of {len(draws)} resamples", where="statistic", allowed="finite numbers"
        )
    return np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])


def _has_axis(statistic: Statistic) -> bool:
    try:
        return "axis" in inspect.signature(statistic).parameters
    except (TypeError, ValueError):
        return False
