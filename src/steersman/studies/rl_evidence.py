"""Findings from a number a seed, or from right answers of a number of prompts.

Seeds are the units: the mean over seeds with Student's interval, one-sided t tests. A statement about each seed is
tested by each seed's exact binomial test and holds only if it holds in all (an intersection-union test; against it
the smallest p-value times their number). Leaves out: what is compared (`claims`), correction over claims
(`study.verdict`). Sources: Berger 1982; Schuirmann 1987 (two one-sided tests).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from steersman.stats import Interval, clopper_pearson, t_interval
from steersman.study.declare import Finding


def above(x: Sequence[float], reference: float, **finding: Any) -> Finding | None:
    """Is the mean of `x` over seeds larger than `reference`? None for fewer than two seeds."""
    if len(x) < 2:
        return None
    values = np.asarray(x, dtype=float)
    test = "one-sided t test over seeds"
    p_for, p_against = _larger(values, reference), _larger(-values, -reference)
    return Finding(t_interval(values), len(x), p_for, p_against, reference=reference, test=test, **finding)


def all_above(settings: Sequence[tuple[str, Sequence[float], float]], **finding: Any) -> Finding | None:
    """Is the mean of every setting larger than its reference? Shown is the one where the claim is weakest.

    Args:
        settings: label, a value a unit, reference.
        finding: further fields of `Finding`.

    Returns:
        The finding, of differences from the references; None where a setting has fewer than two values.
    """
    if not settings or any(len(x) < 2 for _, x, _ in settings):
        return None
    parts = []
    for label, x, reference in settings:
        gap = np.asarray(x, dtype=float) - reference
        parts.append((_larger(gap, 0.0), _larger(-gap, 0.0), label, t_interval(gap), len(gap)))
    weakest = max(parts, key=lambda p: p[0])
    told = "; ".join(f"{label}: {i.value:+.3g} [{i.low:+.3g}, {i.high:+.3g}]" for _, _, label, i, _ in parts)
    return Finding(
        weakest[3],
        weakest[4],
        weakest[0],
        min(1.0, len(parts) * min(p[1] for p in parts)),
        reference=0.0,
        test="one-sided t tests, all of which must hold",
        detail=f"Shown: {weakest[2]}. {told}.",
        **finding,
    )


def within(settings: Sequence[tuple[str, Sequence[float], float, float]], **finding: Any) -> Finding | None:
    """Does the mean over seeds lie within reference +- margin in every setting?

    Args:
        settings: label, a value a seed, reference, margin.
        finding: further fields of `Finding`.

    Returns:
        The finding, which shows the difference from the reference where the claim is weakest; None where a setting has
        fewer than two seeds.
    """
    if not settings or any(len(x) < 2 for _, x, _, _ in settings):
        return None
    parts = []
    for label, x, reference, margin in settings:
        gap = np.asarray(x, dtype=float) - reference
        inside = max(_larger(gap, -margin), _larger(-gap, -margin))
        outside = min(1.0, 2 * min(_larger(gap, margin), _larger(-gap, margin)))
        parts.append((inside, outside, label, t_interval(gap), margin, len(gap)))
    weakest = max(parts)
    told = "; ".join(f"{label}: {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}]" for _, _, label, i, _, _ in parts)
    return Finding(
        weakest[3],
        weakest[5],
        weakest[0],
        min(1.0, len(parts) * min(p[1] for p in parts)),
        reference=0.0,
        margin=weakest[4],
        test="two one-sided t tests over seeds" + (", all of which must hold" if len(parts) > 1 else ""),
        detail=f"Shown: {weakest[2]}. {told}." if len(parts) > 1 else "",
        **finding,
    )


def each_above(right: Sequence[int], judged: Sequence[int], reference: float, **finding: Any) -> Finding | None:
    """Is the share of right answers larger than `reference` on each seed? The weakest seed is shown."""
    import scipy.stats

    if not right:
        return None
    counts = list(zip(right, judged, strict=True))
    more = [float(scipy.stats.binomtest(k, n, reference, "greater").pvalue) for k, n in counts]
    less = [float(scipy.stats.binomtest(k, n, reference, "less").pvalue) for k, n in counts]
    weakest = counts[int(np.argmin([k / n for k, n in counts]))]
    return Finding(
        clopper_pearson(*weakest),
        len(counts),
        max(more),
        min(1.0, len(less) * min(less)),
        reference=reference,
        test="exact one-sided binomial test on each seed, all of which must hold",
        detail="Shown: the weakest seed. All: " + ", ".join(f"{k / n:.3f}" for k, n in sorted(counts)) + ".",
        **finding,
    )


def mean(x: Sequence[float]) -> Interval:
    """Mean over seeds with Student's interval, open-ended for a single seed."""
    return t_interval(np.asarray(x, dtype=float))


def _larger(x: "np.ndarray[Any, np.dtype[np.float64]]", reference: float) -> float:
    """One-sided p-value of mean <= reference; values without any spread decide by themselves."""
    import scipy.stats

    gap, spread = float(np.mean(x)) - reference, float(np.std(x, ddof=1))
    if spread == 0:
        return 0.5 if gap == 0 else float(gap < 0)
    return float(scipy.stats.t.sf(gap / (spread / math.sqrt(len(x))), len(x) - 1))
