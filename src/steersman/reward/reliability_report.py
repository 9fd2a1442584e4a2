"""Which filter of PF-PPO to use with a reward, from responses that have both a reward and an actual score.

One line a filter: R^2 with an interval over prompts beside its range-restriction null; and where, by reward, the reward
is unreliable. Leaves out: R^2 and its null (`reliability`).
Source: arXiv 2409.06957, which compares R^2 between filters without a null or intervals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.objective.select.filtration import Threshold
from steersman.reward.reliability import (
    CLOSED,
    ROUNDING,
    bin_of,
    from_sums,
    moments,
    null_of,
    r_squared,
    sums_of,
    undefined,
    weights_of,
)
from steersman.stats import checks

BINS = 20
DECILES = 10
CHUNK = 100
"""Resamples that are held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """What a filter makes of R^2, and what its range alone would make of it.

    Args:
        strategy: the filter.
        r2: over single responses, with its 95 % interval over prompts; NaN where undefined, and `reason` says why.
        binned: over bins of equal weight.
        null: expected from the range alone, and `excess` = r2 - null with its interval.
        slope: score gained for a unit of reward.
        variance: of the rewards that the filter keeps.
        rows, prompts: that it can draw.
    """

    strategy: str
    r2: float
    r2_low: float
    r2_high: float
    binned: float
    null: float
    excess: float
    excess_low: float
    excess_high: float
    slope: float
    variance: float
    rows: int
    prompts: int
    reason: str


@dataclass(frozen=True, slots=True)
class Bin:
    """A tenth of all responses by reward: its size, means, the monotone fit, and the variance around the line."""

    rows: int
    reward: float
    score: float
    isotonic: float
    unexplained: float


@dataclass(frozen=True, slots=True)
class ReliabilityReport:
    """`table` has one line a filter, `curve` shows where the reward is unreliable without any filter."""

    table: tuple[Reliability, ...]
    curve: tuple[Bin, ...]
    bins: int
    resamples: int

    def choose(self, by: str = "excess") -> str:
        """The filter of largest R^2 among those whose excess is surely above 0; "none" where the range explains all.

        A large excess alone is no reason: one-sided filters can have it and leave too little contrast to learn from.

        Args:
            by: "excess" as said, or "r2": the largest R^2 whatever its null, as the paper chooses.

        Raises:
            UserError: an unknown criterion, or no filter for which R^2 is defined.
        """
        if by not in ("excess", "r2"):
            raise UserError(f"unknown criterion {by!r}", where="choose, by", allowed="excess, r2")
        known = [line for line in self.table if not math.isnan(line.r2)]
        if not known:
            raise UserError("no filter has a defined value", where="choose", cure="Give scores and rewards that vary.")
        sure = known if by == "r2" else [line for line in known if line.excess_low > ROUNDING]
        return max(sure, key=lambda line: line.r2).strategy if sure else "none"


def reward_reliability(
    reward: Any,
    score: Any,
    group: Any,
    strategies: Sequence[str] = CLOSED,
    *,
    thresholds: Mapping[str, Threshold] | None = None,
    bins: int = BINS,
    resamples: int = 2000,
    seed: checks.Seed = 0,
) -> ReliabilityReport:
    """R^2 of reward and score under every filter, each beside its range-restriction null, from one set of responses.

    Responses count by the probability with which a filter draws them, so nothing is drawn. Intervals are percentiles
    over resampled prompts; in each resample the null is computed anew.

    Args:
        reward: R ``[m]``, of responses of the policy before PPO.
        score: s ``[m]``, what is really wanted: tests passed.
        group: ``[m]`` integer prompt ids.
        strategies: filters to compare; pow-k needs rewards in [-1, 1].
        thresholds: of the strategies that have one.
        bins: of the binned R^2.
        resamples: >= 100.
        seed: of the resampling.

    Returns:
        `ReliabilityReport`.

    Raises:
        UserError: NaN, unmatched lengths, a strategy without its threshold.
    """
    r, s = checks.array("reward", reward), checks.array("score", score)
    checks.same_length("reward", r, "score", s)
    ids = np.asarray(group)
    checks.same_length("reward", r, "group", ids)
    resamples = checks.whole("resamples", resamples, least=100)
    place = np.unique(ids, return_inverse=True)[1]
    weights = [weights_of(r, ids, name, (thresholds or {}).get(name)) for name in strategies]
    each = [sums_of(r - r.mean(), s - s.mean(), w) for w in (weights_of(r, ids, "none", None), *weights)]
    pi, *mu = _resampled(each, place, resamples, checks.generator(seed))
    table = [_line(k, r, s, w, place, x, pi, bins) for k, w, x in zip(strategies, weights, mu, strict=True)]
    return ReliabilityReport(tuple(table), _curve(r, s), bins, resamples)


def _resampled(
    each: list[np.ndarray], place: np.ndarray, resamples: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Sums over all prompts, then over resampled prompts, for each array of sums by response."""
    prompts = int(place.max()) + 1
    whole = np.concatenate([np.stack([np.bincount(place, c, prompts) for c in x.T], 1) for x in each], 1)
    share = np.full(prompts, 1 / prompts)
    found = [whole.sum(0)[None]]
    for begin in range(0, resamples, CHUNK):
        found.append(generator.multinomial(prompts, share, min(CHUNK, resamples - begin)) @ whole)
    return np.split(np.concatenate(found), len(each), axis=1)


def _line(
    name: str, r: np.ndarray, s: np.ndarray, w: np.ndarray, place: np.ndarray, mu: np.ndarray, pi: np.ndarray, bins: int
) -> Reliability:
    """One line of the report; `mu` and `pi` are sums with and without the filter, the data first."""
    kept = w > 0
    reason = undefined(r[kept], s[kept]) if kept.any() else "the filter keeps nothing"
    r2 = from_sums(mu)
    of_r, _, both = moments(mu)
    with np.errstate(invalid="ignore", divide="ignore"):
        null = null_of(from_sums(pi), of_r / moments(pi)[0])
        slope = both[0] / of_r[0]
    excess = r2 - null
    low, high = _interval(r2)
    excess_low, excess_high = _interval(excess)
    return Reliability(
        strategy=name,
        r2=float(r2[0]) if not reason else math.nan,
        r2_low=low,
        r2_high=high,
        binned=r_squared(r, s, bins, weight=w) if not reason else math.nan,
        null=float(null[0]),
        excess=float(excess[0]) if not reason else math.nan,
        excess_low=excess_low,
        excess_high=excess_high,
        slope=float(slope) if not reason else math.nan,
        variance=float(of_r[0]),
        rows=int(kept.sum()),
        prompts=len(np.unique(place[kept])),
        reason=reason,
    )


def _interval(x: np.ndarray) -> tuple[float, float]:
    """The central 95 % of the resamples in which `x` is defined; NaN if most are not."""
    known = x[1:][~np.isnan(x[1:])]
    if 2 * len(known) <= len(x) - 1:
        return math.nan, math.nan
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _curve(r: np.ndarray, s: np.ndarray) -> tuple[Bin, ...]:
    from scipy.optimize import isotonic_regression

    values, run = np.unique(r, return_inverse=True)
    size = np.bincount(run)
    fit = isotonic_regression(np.bincount(run, s) / size, weights=size).x[run]
    slope = np.polyfit(r, s, 1) if len(values) > 1 else np.array([0.0, s.mean()])
    left = (s - np.polyval(slope, r)) ** 2
    place = bin_of(r, np.ones_like(r), DECILES)
    rows = [place == k for k in np.unique(place)]
    return tuple(
        Bin(int(m.sum()), float(r[m].mean()), float(s[m].mean()), float(fit[m].mean()), float(left[m].mean()))
        for m in rows
    )
