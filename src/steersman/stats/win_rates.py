"""How often one system beats another: the plain win rate, and the win rate at equal length.

Leaves out: the judging itself, both orders of presentation and what counts as a tie.
Sources: Dubois et al. 2024 for reading a logistic regression at a length difference of 0; White 1982 for its errors.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.stats import checks
from steersman.stats.intervals import Interval, wilson
from steersman.stats.resampling import bootstrap

NEWTON_STEPS = 100
NEWTON_TOLERANCE = 1e-10
NEAR = 0.5
"""A length difference is near 0 within this many of its standard deviations."""
NEAR_PROMPTS, EACH_SIDE = 10, 5
"""Prompts that must be near 0, and that must be at or above 0 and at or below 0, for a reading at 0 to be no guess."""
SLACK = 1e-6  # largest gradient (mean log-likelihood) that still counts as converged


@dataclass(frozen=True)
class LengthControlled:
    """The result of `length_controlled_win_rate`.

    Args:
        win_rate: share of wins expected at equal length, with its interval.
        raw: the plain win rate, ties worth one half.
        slope: change of the log-odds of a win per unit of length difference.
    """

    win_rate: Interval
    raw: float
    slope: float


def win_rate(
    wins: int, ties: int, losses: int, *, level: float = 0.95, resamples: int = 10_000, seed: checks.Seed = 0
) -> Interval:
    """Share of comparisons won, W = (wins + ties/2) / n, with a bootstrap interval over prompts.

    Args:
        wins: prompts won, >= 0.
        ties: prompts tied, >= 0.
        losses: prompts lost, >= 0; n = wins + ties + losses >= 1.
        level: confidence level in (0, 1).
        resamples: number of resamples, >= 100.
        seed: whole number or numpy Generator.

    Returns:
        Interval of W; ``method`` "bca", or "wilson" where all prompts ended alike.

    Raises:
        UserError: counts negative or not whole; no prompt at all.

    Edge cases: a bootstrap of prompts that all ended alike has no width, so Wilson's interval is given: for only wins
    or only losses at their count, for only ties the wider one of floor(n/2) and ceil(n/2) wins taken together. One
    judgement per prompt is assumed; for several, average them per prompt and call `bootstrap`.

    Source: the usual W of pairwise evaluation.
    """
    counts = [checks.whole(*item) for item in (("wins", wins), ("ties", ties), ("losses", losses))]
    n = sum(counts)
    if n == 0:
        raise UserError("no prompt was compared", where="wins, ties, losses", allowed="at least one in all")
    if counts[1] == n:
        low, high = wilson(n // 2, n, level), wilson(n - n // 2, n, level)
        return Interval(0.5, low.low, high.high, level, "wilson")
    if max(counts) == n:
        return wilson(counts[0], n, level)
    return bootstrap(np.repeat([1.0, 0.5, 0.0], counts), level=level, resamples=resamples, seed=seed)


def length_controlled_win_rate(outcome: Any, length_difference: Any, *, level: float = 0.95) -> LengthControlled:
    """The win rate at equal length: a logistic regression of the outcome on the length difference, read at 0.

    P(win) = sigmoid(c + s d), W = sigmoid(c); interval sigmoid(c -+ z se(c)) with the sandwich error of c.

    Args:
        outcome: [n] 1 win, 0.5 tie, 0 loss (any share of wins in [0, 1]), one per prompt.
        length_difference: [n] d, length of ours minus theirs, any one unit.
        level: confidence level in (0, 1).

    Returns:
        LengthControlled.

    Raises:
        UserError: empty, NaN, lengths that differ, outcomes outside [0, 1] (names the row); a constant length
        difference other than 0 (equal length was never seen); outcomes that a length threshold separates perfectly,
        or that are all wins or all losses (no finite estimate exists); too few prompts of nearly equal length.

    Edge cases: all length differences 0 give the plain win rate (slope 0). Otherwise a reading at d = 0 must rest on
    prompts that are there: `NEAR_PROMPTS` with |d| at most `NEAR` standard deviations of d, and `EACH_SIDE` with d <= 0
    and with d >= 0. Beyond them the curve's form decides, not the data, and no interval tells: it takes the form for
    true.

    Source: Dubois et al. 2024, "Length-Controlled AlpacaEval", without its per-model and per-instruction terms;
    errors as White 1982, since a tie is a share and not a binomial draw.
    """
    y, d = checks.array("outcome", outcome), checks.array("length_difference", length_difference)
    level = checks.probability("level", level)
    checks.same_length("outcome", y, "length_difference", d)
    bad = np.flatnonzero((y < 0) | (y > 1))
    if len(bad):
        raise UserError(f"{y[bad[0]]} is out of range", where=f"outcome, row {bad[0]}", allowed="0 to 1")
    _refuse_unbounded(y, d)
    _refuse_extrapolation(d)
    scale = float(np.std(d)) or 1.0
    design = np.stack([np.ones_like(d), d / scale], axis=1)[:, : 2 if np.ptp(d) > 0 else 1]
    weights, covariance = _logistic(design, y)
    half = _normal_quantile((1 + level) / 2) * math.sqrt(covariance[0, 0])
    ends = [float(_sigmoid(weights[0] + shift)) for shift in (0.0, -half, half)]
    slope = float(weights[1]) / scale if len(weights) == 2 else 0.0
    return LengthControlled(Interval(*ends, level, "sandwich"), float(np.mean(y)), slope)


def _refuse_unbounded(y: np.ndarray, d: np.ndarray) -> None:
    """Refuse data for which the likelihood has no maximum; a share strictly inside (0, 1) is a win and a loss."""
    if np.ptp(d) == 0 and d[0] != 0:
        what = f"every length difference is {d[0]:g}: equal length was never seen"
        raise UserError(what, where="length_difference", allowed="values that vary, or all 0")
    won, lost = d[y > 0], d[y < 1]
    if len(won) == 0 or len(lost) == 0:
        word = "losses" if len(won) == 0 else "wins"
        raise UserError(f"all {len(y)} are {word}", where="outcome", allowed="both", cure="use win_rate or wilson")
    if np.ptp(d) > 0 and (won.min() >= lost.max() or lost.min() >= won.max()):
        raise UserError(
            "wins and losses are separated by a length difference",
            where="outcome",
            allowed="wins and losses that overlap in length",
            cure="add prompts; length and quality cannot be told apart here",
        )


def _refuse_extrapolation(d: np.ndarray) -> None:
    """Refuse to read the curve where there are hardly any prompts."""
    if np.ptp(d) == 0:
        return
    near = int((np.abs(d) <= NEAR * np.std(d)).sum())
    side, word = min((int((d <= 0).sum()), "not longer"), (int((d >= 0).sum()), "not shorter"))
    if near < NEAR_PROMPTS:
        what = f"only {near} of {len(d)} prompts have answers of nearly equal length, fewer than {NEAR_PROMPTS}"
    elif side < EACH_SIDE:
        what = f"only {side} of {len(d)} prompts have an answer that is {word} than the other side's"
    else:
        return
    cure = "add prompts; length and quality cannot be told apart here"
    raise UserError(what, where="length_difference", allowed="prompts around equal length", cure=cure)


def _logistic(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the maximum-likelihood weights of a logistic regression and their sandwich covariance."""
    import scipy.optimize

    def loss(w: np.ndarray) -> float:
        z = design @ w
        return float(np.mean(np.logaddexp(0.0, z) - y * z))

    def gradient(w: np.ndarray) -> np.ndarray:
        return design.T @ (_sigmoid(design @ w) - y) / len(y)

    def hessian(w: np.ndarray) -> np.ndarray:
        p = _sigmoid(design @ w)
        return (design * (p * (1 - p))[:, None]).T @ design / len(y)

    options = {"gtol": NEWTON_TOLERANCE, "maxiter": NEWTON_STEPS}
    start = np.zeros(design.shape[1])
    w = scipy.optimize.minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options=options).x
    if np.max(np.abs(gradient(w))) > SLACK:
        raise UserError(
            f"the logistic regression did not converge in {NEWTON_STEPS} steps",
            where="outcome, length_difference",
            allowed="wins and losses that overlap clearly in length",
        )
    score = design * (_sigmoid(design @ w) - y)[:, None]
    bread = np.linalg.inv(hessian(w) * len(y))
    return w, bread @ (score.T @ score) @ bread


def _sigmoid(z: Any) -> Any:
    import scipy.special

    return scipy.special.expit(z)


def _normal_quantile(q: float) -> float:
    import scipy.special

    return float(scipy.special.ndtri(q))
