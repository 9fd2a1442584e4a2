"""How well a reward predicts an actual score, and what a filter of PF-PPO alone does to that number.

R^2 depends on the spread of the rewards it is taken over. A filter that keeps extremes widens it and one that keeps the
best narrows it, so best-of-N < none < best-random < best-worst appears for a reward that is equally reliable
everywhere. `null_r_squared` says how much of it appears; only the rest speaks of the reward.
Leaves out: the filters (`objective.select.filtration`), the comparison of filters with intervals
(`reliability_report`).
Sources: arXiv 2409.06957, section 4 (R^2 of filtered samples); the range-restriction null is ours.
"""

import math
from typing import Any

import numpy as np
import torch

from steersman.core.errors import UserError
from steersman.objective.select.filtration import Threshold, rank_weights
from steersman.stats import checks

CLOSED = ("none", "bon", "br", "bw")
"""Strategies whose null has a closed form for Gaussian rewards."""
ROUNDING = 1e-12
"""Variances below this share of the mean square count as 0."""


def undefined(reward: Any, score: Any) -> str:
    """Why `r_squared` of these is not defined; empty if it is."""
    r, s = checks.array("reward", reward), checks.array("score", score)
    checks.same_length("reward", r, "score", s)
    if np.ptp(r) == 0:
        return "all rewards are equal"
    return "all scores are equal" if np.ptp(s) == 0 else ""


def r_squared(reward: Any, score: Any, bins: int | None = None, *, weight: Any = None, weighted: bool = False) -> float:
    """Share of the variance of the scores that a line in the reward explains.

    R^2 = 1 - sum w (s - a - b R)^2 / sum w (s - mean s)^2 with a, b of least squares = squared correlation.

    Args:
        reward: R ``[n]``.
        score: s ``[n]``: tests passed, 0/1 or a share.
        bins: None = over single responses; G >= 2 = over the means of G bins of equal weight after sorting by reward,
            equal rewards in one bin, as the paper averages responses of similar reward (it does not say how many).
        weight: w ``[n]`` >= 0, e.g. the probability that a filter draws the response; None = 1.
        weighted: bins count by their weight instead of equally.

    Returns:
        A number in [0, 1], or NaN where rewards or scores do not vary (`undefined` says which).

    Raises:
        UserError: NaN, empty or unmatched lengths, negative weights, weights that are all 0, fewer than 2 bins.

    Edge cases: the same for a R + b and a s + b, a not 0. As many bins as responses is the same as None. Two points, or
    two bins, always give 1.

    Source: arXiv 2409.06957.
    """
    r, s = checks.array("reward", reward), checks.array("score", score)
    checks.same_length("reward", r, "score", s)
    w = np.ones_like(r) if weight is None else checks.array("weight", weight)
    checks.same_length("reward", r, "weight", w)
    if (w < 0).any() or not (w > 0).any():
        raise UserError("are negative, or all 0", where="weight", allowed="numbers >= 0, one of them above 0")
    r, s, w = r[w > 0], s[w > 0], w[w > 0]
    if bins is not None:
        r, s, w = _binned(r, s, w, checks.whole("bins", bins, least=2))
        w = w if weighted else np.ones_like(w)
    if np.ptp(r) == 0 or np.ptp(s) == 0:
        return math.nan
    return float(from_sums(sums_of(r - np.average(r, weights=w), s - np.average(s, weights=w), w).sum(0)[None])[0])


def bin_of(r: np.ndarray, w: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each response: the place of the middle of its run of equal rewards in the cumulated weight."""
    _, run = np.unique(r, return_inverse=True)
    of_run = np.bincount(run, w)
    middle = of_run.cumsum() - of_run / 2
    found: np.ndarray = np.minimum((middle / of_run.sum() * bins).astype(int), bins - 1)[run]
    return found


def _binned(r: np.ndarray, s: np.ndarray, w: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = np.unique(bin_of(r, w, bins), return_inverse=True)[1]
    total = np.bincount(place, w)
    return np.bincount(place, w * r) / total, np.bincount(place, w * s) / total, total


def sums_of(r: np.ndarray, s: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What R^2 is a function of, for each response: w, w R, w s, w R^2, w s^2, w R s."""
    return np.stack([w, w * r, w * s, w * r * r, w * s * s, w * r * s], 1)


def moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance of R, variance of s, covariance, for each row of sums; NaN without weight."""
    total = np.where(sums[:, 0] > 0, sums[:, 0], np.nan)
    r, s, rr, ss, rs = (sums[:, k] / total for k in range(1, 6))
    return rr - r * r, ss - s * s, rs - r * s


def from_sums(sums: np.ndarray) -> np.ndarray:
    """R^2 for each row of sums, NaN where a variance is nothing but rounding."""
    of_r, of_s, both = moments(sums)
    with np.errstate(invalid="ignore"):
        bad = ~((of_r > ROUNDING * sums[:, 3] / sums[:, 0]) & (of_s > ROUNDING * sums[:, 4] / sums[:, 0]))
    return np.where(bad, np.nan, both**2 / np.where(bad, 1.0, of_r * of_s))


def _largest(n: int) -> tuple[float, float]:
    """Mean and mean square of the largest of n standard normals, by the trapezoid rule (exact beyond 1e-10)."""
    from scipy.stats import norm

    x = np.linspace(-12, 12, 4001)
    density = n * norm.pdf(x) * norm.cdf(x) ** (n - 1)
    return float((x * density).sum() * (x[1] - x[0])), float((x * x * density).sum() * (x[1] - x[0]))


def variance_ratio(strategy: str, n: int) -> float:
    """Variance of Gaussian rewards after a filter over that before it, for groups of n.

    With m, q = mean and mean square of the largest of n standard normals: bon q - m^2; bw q; br (q + (n - q) / (n - 1))
    / 2 - (m - m / (n - 1))^2 / 4; none 1.

    Args:
        strategy: none, bon, br or bw.
        n: >= 1 responses of a prompt.

    Returns:
        v > 0.

    Raises:
        UserError: another strategy, n below 1.
    """
    n = checks.whole("n", n, least=1)
    if strategy not in CLOSED:
        cure = "Give reward and group; the ratio is then that of these rewards."
        what = f"{strategy!r} has no closed form"
        raise UserError(what, where="variance_ratio, strategy", allowed=", ".join(CLOSED), cure=cure)
    if strategy == "none" or n == 1:
        return 1.0
    m, q = _largest(n)
    if strategy == "bon":
        return q - m * m
    return q if strategy == "bw" else (q + (n - q) / (n - 1)) / 2 - (m - m / (n - 1)) ** 2 / 4


def null_r_squared(
    rho2: float,
    strategy: str,
    n: int | None = None,
    *,
    reward: Any = None,
    group: Any = None,
    threshold: Threshold = None,
) -> float:
    """R^2 after a filter if the reward is equally reliable everywhere.

    s = a + b R + e with e of one variance gives R^2 = rho2 v / (rho2 v + 1 - rho2), v = variance of R after the filter
    over that before it.

    Args:
        rho2: in [0, 1], R^2 without a filter.
        strategy: of `rank_weights`.
        n: responses of a prompt, for the closed form (none, bon, br, bw; Gaussian rewards).
        reward: R ``[m]``, and
        group: ``[m]`` integer prompt ids: v is then that of these rewards, for any strategy.
        threshold: of the strategies that have one.

    Returns:
        A number in [0, 1]; NaN where the rewards do not vary or the filter keeps none.

    Raises:
        UserError: rho2 outside [0, 1], neither n nor rewards, a strategy without a closed form.
    """
    if not 0 <= rho2 <= 1:
        raise UserError(f"rho2 is {rho2}", where="null_r_squared, rho2", allowed="0 <= rho2 <= 1")
    if (reward is None) != (group is None) or (reward is None and n is None):
        what = "neither n nor both of reward and group are given"
        raise UserError(what, where="null_r_squared", cure="Give n, or reward and group.")
    if reward is None:
        assert n is not None
        v = variance_ratio(strategy, n)
    else:
        r = checks.array("reward", reward)
        zero = np.zeros_like(r)
        after, before = (
            moments(sums_of(r - r.mean(), zero, weights_of(r, group, k, t)).sum(0)[None])[0][0]
            for k, t in ((strategy, threshold), ("none", None))
        )
        v = float(after / before) if before > 0 else math.nan
    return float(null_of(rho2, v))


def null_of(rho2: Any, v: Any) -> Any:
    """R^2 after the range changed by v; numbers or arrays, NaN where nothing varies."""
    explained = np.asarray(rho2 * v, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return explained / (explained + 1 - rho2)


def weights_of(reward: np.ndarray, group: Any, strategy: str, threshold: Threshold) -> np.ndarray:
    """Probability of each response under a filter; every kept prompt counts the same."""
    ids = torch.from_numpy(np.asarray(group))
    found: np.ndarray = rank_weights(torch.from_numpy(reward), ids, strategy, threshold).numpy()
    return found
