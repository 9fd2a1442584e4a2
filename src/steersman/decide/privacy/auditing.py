"""An experiment that would find a broken promise of privacy: a lower bound on epsilon that holds with confidence.

The policy is played many times on two tables of rewards that differ in one cell. If some event is more than
exp(epsilon) times as likely on one as on the other, the promise is broken. A bound below epsilon does not prove
privacy; the proof does (docs/dp-bai.md). Leaves out: exact figures of two arms (`dp_bai.exact`).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.stats import clopper_pearson
from steersman.train.trial import Procedure, run_trials

THRESHOLDS = 64
"""Events tried on the first half of the runs, in each direction."""
Law = Literal["laplace", "discrete", "exact"]


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Args:
        epsilon_lower: ln(low / high): with probability `confidence`, the mechanism's epsilon is at least this.
        epsilon: what was promised.
        confidence: 1 - beta.
        event: the event the bound is about, chosen on other runs.
        count: runs of the event on the table where it is likelier.
        count_other: runs of it on the other table.
        runs: runs on each table that the counts are of.
        fault: the fault that was planted; None for the method itself.
    """

    epsilon_lower: float
    epsilon: float
    confidence: float
    event: str
    count: int
    count_other: int
    runs: int
    fault: str | None = None

    @property
    def broken(self) -> bool:
        """Whether the promise is refuted."""
        return self.epsilon_lower > self.epsilon


def lower_bound(
    score: npt.NDArray[Any], score_other: npt.NDArray[Any], beta: float = 0.05
) -> tuple[float, str, int, int]:
    """A lower bound on epsilon from a number computed of the output, on each of two neighbouring tables.

    Events {score >= c} and {score < c} are compared on the first halves; of the best one, the second halves give
    epsilon_lower = ln(low(p) / high(p')), with one-sided Clopper-Pearson ends at level 1 - beta/2 each.

    Args:
        score: [R] of independent runs on the one table.
        score_other: [R] on the other.
        beta: 1 - confidence, in (0, 1).

    Returns:
        The bound (0 where nothing was found), the event, and its counts among the second halves: first the likelier.

    Raises:
        UserError: fewer than 4 runs, NaN, or halves that differ in length.

    Source: Clopper and Pearson 1934 for the ends; that the event is chosen on other runs makes the bound valid.
    """
    if len(score) != len(score_other) or len(score) < 4 or np.isnan(score).any() or np.isnan(score_other).any():
        raise UserError(f"{len(score)} and {len(score_other)} runs", allowed="equally many, at least 4, no NaN")
    half = len(score) // 2
    pair = (np.asarray(score), np.asarray(score_other))
    best = (-math.inf, 0.0, True, 0)
    cuts = np.unique(
        np.quantile(np.concatenate([p[:half] for p in pair]), np.linspace(0, 1, THRESHOLDS), method="lower")
    )
    for cut in cuts:
        for above in (True, False):
            counts = [_count(p[:half], cut, above) for p in pair]
            for swap in (0, 1):
                found = _ratio(counts[swap], counts[1 - swap], half, beta)
                best = max(best, (found, float(cut), above, swap))
    _, cut, above, swap = best
    rest = len(score) - half
    counts = [_count(p[half:], cut, above) for p in pair]
    likelier, other = counts[swap], counts[1 - swap]
    event = f"score {'>=' if above else '<'} {cut:g}"
    return max(0.0, _ratio(likelier, other, rest, beta)), event, likelier, other


def _count(score: npt.NDArray[Any], cut: float, above: bool) -> int:
    return int((score >= cut).sum() if above else (score < cut).sum())


def _ratio(count: int, other: int, runs: int, beta: float) -> float:
    # Both ends at level 1 - beta/2 are those of the two-sided interval of level 1 - beta.
    low, high = clopper_pearson(count, runs, 1 - beta).low, clopper_pearson(other, runs, 1 - beta).high
    return math.log(low / high) if low > 0 else -math.inf


def audit(
    algorithm: Any,
    cell: tuple[int, int] = (0, 0),
    runs: int = 100_000,
    seed: int = 0,
    *,
    features: npt.ArrayLike | None = None,
    beta: float = 0.05,
    law: Law = "discrete",
    fault: Literal["half-scale", "no-noise", "reuse"] | None = None,
) -> Audit:
    """Play DP-BAI on two tables of 0/1 rewards that differ in one cell, and bound its epsilon from below.

    Every reward of the cell's arm is 1 and every other 0, so that the arm survives and its later phases are seen too;
    the other table has a 0 in the cell. The score is the smallest, over the phases that pull the arm, of its noisy sum
    less the number of rewards in it: it is high if every phase looks as with the 1, and with rewards reused each
    phase gives the person away anew.

    Args:
        algorithm: `dp_bai.DPBAI` with a finite epsilon.
        cell: (arm, its n-th reward), both from 0.
        runs: on each table; half of them choose the event.
        seed: of the simulated noise.
        features: [K, d]; four unrelated arms if not given.
        beta: 1 - confidence.
        law: of the noise: "discrete" is the law of the exact sampler, "exact" runs that sampler itself, slowly.
        fault: planted on purpose, to see that the audit finds it.

    Returns:
        The bound. A correct mechanism is called broken with probability at most beta.

    Raises:
        UserError: an infinite epsilon, a cell that is not in the table or is never read.

    Edge cases: without noise the bound grows like ln(runs).
    """
    from steersman.decide.dp_bai.play import dp_bai_procedure
    from steersman.decide.dp_bai.worlds import TableArms

    arm, place = cell
    known = np.eye(4) if features is None else np.asarray(features, np.float64)
    if not math.isfinite(algorithm.epsilon) or not 0 < beta < 1:
        raise UserError(f"epsilon {algorithm.epsilon}, beta {beta}", allowed="a finite epsilon, beta between 0 and 1")
    if not (0 <= arm < len(known) and 0 <= place < algorithm.budget):
        raise UserError(f"cell {cell}", allowed=f"an arm below {len(known)}, a reward below {algorithm.budget}")
    one = np.zeros((len(known), algorithm.budget + 1), np.int64)
    one[arm] = 1
    zero = one.copy()
    zero[arm, place] = 0
    first = algorithm.plan(known).collect(tuple(range(len(known))), 0)
    if arm not in first.arms or place >= first.pulls:
        raise UserError(
            f"cell {cell} is not read in the first phase", allowed=f"arms {first.arms}, rewards below {first.pulls}"
        )
    likely, other = (
        run_trials(_scores(dp_bai_procedure(algorithm, TableArms(known, t), law, fault), arm), runs, seed, first=start)
        for t, start in ((one, 0), (zero, runs))
    )
    found, event, count, count_other = lower_bound(likely["score"], other["score"], beta)
    return Audit(found, algorithm.epsilon, 1 - beta, event, count, count_other, runs - runs // 2, fault)


def _scores(procedure: Procedure, arm: int) -> Procedure:
    def play(noise: Any) -> dict[str, npt.NDArray[Any]]:
        outcome = procedure(noise)
        return {"score": (outcome["released"][:, :, arm] - outcome["counted"][:, :, arm]).min(1)}

    return play
