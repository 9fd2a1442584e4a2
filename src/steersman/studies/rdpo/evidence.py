"""Evidence for a claim that must hold in several settings: one test for each, and the finding of them all.

A claim about several settings holds only if it holds in each: its p-value is the largest of theirs (an
intersection-union test), and against it the smallest times their number (Bonferroni). The figure shown is that of the
setting in which the claim is weakest. Leaves out: the correction over claims and the verdict (`study.verdict`).
Sources: Berger 1982 (intersection-union tests); Schuirmann 1987 (two one-sided tests).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.stats import Interval, equivalence_test, paired_bootstrap, permutation_test, t_interval
from steersman.study.declare import Finding

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Part:
    """One setting of a claim: its figure and one-sided p-values."""

    label: str
    estimate: Interval
    n: int
    p_for: float
    p_against: float


def conjunction(parts: Sequence[Part], **finding: Any) -> Finding | None:
    """The finding of a claim that must hold in every part; None where no part was measured.

    Args:
        parts: the settings.
        finding: further fields of `Finding` (test, equal, reference, margin, unit, detail).
    """
    if not parts:
        return None
    weakest = max(parts, key=lambda part: part.p_for)
    listed = "; ".join(
        f"{p.label}: {p.estimate.value:.4g} [{p.estimate.low:.4g}, {p.estimate.high:.4g}]" for p in parts
    )
    told = f"Shown: {weakest.label}, where the claim is weakest of {len(parts)}. {listed}."
    detail = str(finding.pop("detail", ""))
    against = min(1.0, len(parts) * min(part.p_against for part in parts))
    return Finding(weakest.estimate, weakest.n, weakest.p_for, against, detail=f"{told} {detail}".strip(), **finding)


def greater(label: str, a: Array, b: Array) -> Part | None:
    """Is a larger than b? Paired sign-flip permutation test, bootstrap interval of the mean difference.

    Edge cases: fewer than two pairs give None, as nothing can be tested.
    """
    if len(a) < 2:
        return None
    interval = paired_bootstrap(a, b)
    p_for, p_against = (permutation_test(a, b, alternative=side).p_value for side in ("greater", "less"))
    return Part(label, interval, len(a), p_for, p_against)


def within(label: str, x: Array, reference: float, margin: float) -> Part | None:
    """Does the mean of x lie within reference +- margin? Two one-sided t tests; against: it lies outside.

    Edge cases: fewer than two values give None.
    """
    if len(x) < 2:
        return None
    p_for = equivalence_test(x - reference, margin).p_value
    return Part(label, t_interval(x), len(x), p_for, _outside(x - reference, margin))


def _outside(x: Array, margin: float) -> float:
    """p-value of the hypothesis |mean| <= margin: twice the smaller one-sided t test beyond either end."""
    import scipy.stats

    error, mean = float(np.std(x, ddof=1)) / math.sqrt(len(x)), float(np.mean(x))
    if error == 0:
        return 1.0 if abs(mean) <= margin else 0.0
    return float(min(1.0, 2 * scipy.stats.t.sf((abs(mean) - margin) / error, len(x) - 1)))
