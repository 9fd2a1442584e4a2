"""Tests that decide a claim, the correction for several claims, and the smallest p-value a plan can reach.

Leaves out: intervals (`intervals`, `resampling`) and the verdict itself, which belongs to a study.
Sources: Fisher 1935 and Phipson and Smyth 2010 (permutation); Holm 1979; Schuirmann 1987 (equivalence).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.stats import checks
from steersman.stats.intervals import Interval, t_interval
from steersman.stats.resampling import along_last

EXACT_LIMIT = 2**16  # sixteen pairs are enumerated completely
BATCH_VALUES = 2_000_000


@dataclass(frozen=True)
class Significance:
    """The result of a test.

    Args:
        statistic: what was compared with its distribution without an effect.
        p_value: in (0, 1].
        exact: True if that distribution is complete, False if it was sampled.
    """

    statistic: float
    p_value: float
    exact: bool


@dataclass(frozen=True)
class Equivalence:
    """The result of `equivalence_test`.

    Args:
        p_value: small = the mean lies within the margin.
        interval: t interval of the mean at level 1 - 2 alpha, which lies within the margin exactly when p < alpha.
        margin: the margin tested.
        equivalent: p_value < alpha.
    """

    p_value: float
    interval: Interval
    margin: float
    equivalent: bool


def permutation_test(
    a: Any,
    b: Any,
    *,
    alternative: str = "two-sided",
    paired: bool = True,
    statistic: Callable[..., Any] = np.mean,
    resamples: int = EXACT_LIMIT,
    seed: checks.Seed = 0,
) -> Significance:
    """Permutation test of two arms: signs of the paired differences are flipped, or labels exchanged if unpaired.

    p = #(permutations at least as extreme as the data) / #permutations; sampled: (# + 1) / (resamples + 1);
    two-sided: twice the smaller one-sided p, at most 1.

    Args:
        a: [n] values of one arm.
        b: [n] its partners in the same order; [m] if not paired.
        alternative: "two-sided", "greater" (a larger) or "less".
        paired: flip signs of a - b (statistic of the differences), else exchange labels (statistic(a) - statistic(b)).
        statistic: function of an array; with an ``axis`` argument (numpy's, `iqm`) it runs vectorised.
        resamples: all permutations are enumerated if there are no more than this (default: up to 16 pairs); otherwise
            this many are sampled.
        seed: whole number (Philox) or numpy Generator, used only when sampling.

    Returns:
        Significance; its statistic is the observed difference.

    Raises:
        UserError: empty, NaN, infinite; unequal lengths when paired; one value per arm when not paired; an unknown
        alternative.

    Edge cases: no difference at all gives p = 1; one pair gives p = 1 two-sided, 1/2 one-sided at best. n pairs can
    never give less than 2/2^n two-sided, see `smallest_p`. The paired test assumes differences symmetric around zero.

    Source: Phipson and Smyth 2010 for the + 1; computed by scipy.
    """
    import scipy.stats

    a, b = checks.array("a", a), checks.array("b", b)
    checks.one_of("alternative", alternative, checks.ALTERNATIVES)
    resamples = checks.whole("resamples", resamples, least=1)
    if paired:
        checks.same_length("a", a, "b", b)
        data, kind, count = (a - b,), "samples", 2 ** len(a)
    else:
        data, kind, count = (a, b), "independent", math.comb(len(a) + len(b), len(a))
        for name, arm in (("a", a), ("b", b)):
            if len(arm) == 1:
                raise UserError("has one value", where=name, allowed="two or more per arm when not paired")
    observed = checks.finite_statistic(_difference(statistic)(*data), statistic)
    if paired and len(a) == 1:
        return Significance(observed, _one_pair(observed, float(along_last(statistic, b - a)), alternative), True)
    found = scipy.stats.permutation_test(
        data,
        _difference(statistic),
        permutation_type=kind,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, BATCH_VALUES // (len(a) + len(b))),
        alternative=alternative,
        **checks.scipy_random(seed),
    )
    return Significance(observed, float(found.pvalue), count <= resamples)


def _one_pair(observed: float, flipped: float, alternative: str) -> float:
    """Return the p-value of a single pair, which scipy refuses: two sign patterns, the data and its opposite."""
    if alternative == "two-sided" or observed == flipped:
        return 1.0
    return 0.5 if (observed > flipped) == (alternative == "greater") else 1.0


def _difference(statistic: Callable[..., Any]) -> Callable[..., Any]:
    def of(*arms: np.ndarray, axis: int = -1) -> Any:  # scipy keeps the resampled axis last
        return along_last(statistic, arms[0]) - (along_last(statistic, arms[1]) if len(arms) == 2 else 0.0)

    return of


def sign_test(wins: int, losses: int, alternative: str = "two-sided") -> Significance:
    """Exact sign test: are wins and losses equally likely? wins ~ Binomial(wins + losses, 1/2); ties are left out.

    Args:
        wins: count >= 0.
        losses: count >= 0.
        alternative: "two-sided", "greater" (more wins) or "less".

    Returns:
        Significance; its statistic is wins - losses.

    Raises:
        UserError: counts negative or not whole; an unknown alternative.

    Edge cases: no decisive pair (0, 0) gives p = 1, as nothing speaks against equality.

    Source: the exact binomial test (scipy).
    """
    import scipy.stats

    wins, losses = checks.whole("wins", wins), checks.whole("losses", losses)
    checks.one_of("alternative", alternative, checks.ALTERNATIVES)
    if wins + losses == 0:
        return Significance(0.0, 1.0, True)
    p_value = scipy.stats.binomtest(wins, wins + losses, 0.5, alternative=alternative).pvalue
    return Significance(float(wins - losses), min(1.0, float(p_value)), True)


def mcnemar(a: Any, b: Any, *, alternative: str = "two-sided") -> Significance:
    """McNemar's exact test: do two systems succeed equally often on the same items?

    The sign test of the items on which exactly one succeeds.

    Args:
        a: [n] 0/1 or booleans, success of one system per item.
        b: [n] success of the other on the same items.
        alternative: "two-sided", "greater" (a succeeds more often) or "less".

    Returns:
        Significance; its statistic is #(only a succeeds) - #(only b succeeds).

    Raises:
        UserError: empty, NaN, lengths that differ, values other than 0 and 1 (names the row).

    Edge cases: no item on which they differ gives p = 1.

    Source: McNemar 1947, in the exact binomial form (not the chi-squared approximation).
    """
    a, b = checks.array("a", a), checks.array("b", b)
    checks.same_length("a", a, "b", b)
    for name, x in (("a", a), ("b", b)):
        bad = np.flatnonzero((x != 0) & (x != 1))
        if len(bad):
            raise UserError(f"{x[bad[0]]} is not an outcome", where=f"{name}, row {bad[0]}", allowed="0 and 1")
    return sign_test(int(np.sum(a > b)), int(np.sum(b > a)), alternative)


def holm(p_values: Sequence[float | None]) -> np.ndarray:
    """Holm's step-down adjustment: adjusted p-values that may be compared with alpha directly.

    adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)), p_(1) <= ... <= p_(m).

    Args:
        p_values: one per claim, in [0, 1]; None for a claim that was not tested: it is skipped, is not counted in m
            and comes back as NaN at its place.

    Returns:
        [len(p_values)] float64, in the order given.

    Raises:
        UserError: empty; NaN (a test that broke must not pass for one that was not done); outside [0, 1].

    Edge cases: one claim is left as it is; ties get equal values; all None gives all NaN.

    Source: Holm 1979, Scand. J. Stat. 6. Controls the chance of any false claim, whatever their dependence.
    """
    values = list(p_values)
    if not values:
        raise UserError("is empty", where="p_values", allowed="at least one p-value or None")
    for row, p in enumerate(values):
        if p is not None and not (isinstance(p, int | float | np.number) and 0.0 <= p <= 1.0):
            cure = "give None for a claim that was not tested"
            raise UserError(f"{p!r} is not a p-value", where=f"p_values, row {row}", allowed="0 to 1, None", cure=cure)
    tested = np.array([row for row, p in enumerate(values) if p is not None], dtype=np.int64)
    out = np.full(len(values), np.nan)
    p = np.array([values[row] for row in tested], dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    out[tested[order]] = np.maximum.accumulate(steps)
    return out


def equivalence_test(x: Any, margin: float, *, alpha: float = 0.05) -> Equivalence:
    """Two one-sided t tests: does the mean of the paired differences lie within (-margin, margin)?

    p = max(P(T >= (mean + margin)/se), P(T <= (mean - margin)/se)), T ~ t_{n-1}, se = sd/sqrt(n).

    Args:
        x: [n] paired differences (or one sample whose mean should be near 0).
        margin: > 0, in the unit of x, chosen before the data are seen.
        alpha: level of each one-sided test, in (0, 0.5).

    Returns:
        Equivalence with p_value, the t interval of the mean at level 1 - 2 alpha, margin, equivalent.

    Raises:
        UserError: empty, NaN or infinite x; margin not positive; alpha outside (0, 0.5).

    Edge cases: n = 1 gives p = 1 (nothing can be shown); constant x has no spread, so p = 0 within the margin and 1 on
    or outside it.

    Source: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15.
    """
    import scipy.stats

    x = checks.array("x", x)
    if not isinstance(margin, int | float | np.number) or not (math.isfinite(margin) and margin > 0):
        raise UserError(f"{margin!r} is not a margin", where="margin", allowed="a finite number > 0, in the unit of x")
    if checks.probability("alpha", alpha) >= 0.5:
        raise UserError(f"{alpha} is out of range", where="alpha", allowed="0 < alpha < 0.5")
    interval = t_interval(x, 1 - 2 * alpha)
    if len(x) == 1:
        p_value = 1.0
    elif np.ptp(x) == 0:
        p_value = 0.0 if abs(interval.value) < margin else 1.0
    else:
        error, freedom = float(np.std(x, ddof=1)) / math.sqrt(len(x)), len(x) - 1
        above = scipy.stats.t.sf((interval.value + margin) / error, freedom)
        below = scipy.stats.t.cdf((interval.value - margin) / error, freedom)
        p_value = float(max(above, below))
    return Equivalence(p_value, interval, float(margin), bool(p_value < alpha))


def smallest_p(n_pairs: int, n_claims: int, *, alternative: str = "two-sided") -> float:
    """The smallest p-value that a sign-flip permutation test of n pairs can reach after Holm over the claims.

    p = min(1, n_claims s / 2^n_pairs), s = 2 two-sided, 1 one-sided.

    Args:
        n_pairs: number of paired seeds, >= 1.
        n_claims: number of claims corrected together, >= 1.
        alternative: "two-sided", "greater" or "less".

    Returns:
        float in (0, 1]; above alpha means the plan cannot support its first claim whatever the data say.

    Raises:
        UserError: counts below 1 or not whole; an unknown alternative.

    Edge cases: it is the bound for the smallest of the p-values; the k-th smallest needs only the factor
    n_claims - k + 1. Above 16 pairs `permutation_test` samples by default and cannot go below s / (resamples + 1).

    Source: counting sign patterns; five pairs two-sided: 2/32 = 0.0625.
    """
    n_pairs, n_claims = checks.whole("n_pairs", n_pairs, least=1), checks.whole("n_claims", n_claims, least=1)
    sides = 2 if checks.one_of("alternative", alternative, checks.ALTERNATIVES) == "two-sided" else 1
    return min(1.0, n_claims * math.ldexp(sides, -n_pairs))
