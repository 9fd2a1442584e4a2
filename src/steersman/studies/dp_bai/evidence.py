"""The results of the DP-BAI study as tables, and evidence from replications in which exactly one of two methods erred.

Sources: McNemar 1947 in its exact form for paired errors; two one-sided tests for equivalence; Berger 1982 for claims
about several settings (`rdpo.evidence`). Leaves out: what is claimed (`claims`).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import scipy.stats

from steersman.stats import Interval, sign_test, t_interval
from steersman.studies.dp_bai.arms import merged
from steersman.studies.dp_bai.names import PARTS
from steersman.studies.rdpo.evidence import Part
from steersman.study.declare import Result

ROW = ("instance", "budget", "method", "epsilon")
PAIR = ("instance", "budget", "a", "epsilon_a", "b", "epsilon_b")


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Errors of every method, replications of all seeds together."""
    return merged(list(_all(results, "error", "rows")), ROW)


def pairs(results: Sequence[Result], part: str = "error") -> list[dict[str, Any]]:
    """Paired counts of two methods, replications of all seeds together."""
    return merged(list(_all(results, part, "pairs")), PAIR)


def sets(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Of every random set its error minus DP-BAI's; sets of several seeds are listed one by one."""
    return list(_all(results, "error", "sets"))


def _all(results: Sequence[Result], part: str, what: str) -> Iterable[dict[str, Any]]:
    for r in results:
        if r.cell.part == PARTS[part]:
            for row in r.value[what]:
                yield {"instance": r.cell.task["instance"], "budget": r.cell.task["budget"], **row}


def label(row: dict[str, Any]) -> str:
    """The setting in words."""
    return f"{row['instance']} eps {row.get('epsilon_a', row.get('epsilon'))} T {row['budget']}"


def difference(row: dict[str, Any]) -> Interval:
    """Error of b minus error of a, with a normal interval of paired counts.

    (c - b)/n +- 1.96 sqrt(b + c - (b - c)^2 / n) / n; where they never differ as if they had once.
    """
    gap, error = (row["only_b"] - row["only_a"]) / row["trials"], _error(row)
    return Interval(gap, gap - 1.96 * error, gap + 1.96 * error, 0.95, "normal, paired")


def _error(row: dict[str, Any]) -> float:
    differ = row["only_a"] + row["only_b"]
    square = differ - (row["only_a"] - row["only_b"]) ** 2 / row["trials"]
    return math.sqrt(max(square, 1.0)) / row["trials"]


def errs_more(row: dict[str, Any]) -> Part:
    """Does b err more often than a?"""
    more, less = (sign_test(row["only_b"], row["only_a"], side).p_value for side in ("greater", "less"))
    return Part(label(row), difference(row), row["trials"], more, less)


def alike(row: dict[str, Any], margin: float) -> Part:
    """Do errors of a and b differ by less than the margin? Two one-sided normal tests."""
    gap, error = difference(row).value, _error(row)
    p_for = float(scipy.stats.norm.sf((margin - abs(gap)) / error))
    p_against = float(min(1.0, 2 * scipy.stats.norm.sf((abs(gap) - margin) / error)))
    return Part(label(row), difference(row), row["trials"], p_for, p_against)


def sets_above(row: dict[str, Any], gaps: Sequence[float]) -> Part:
    """Is the mean gap over random sets positive? One-sided t tests over sets."""
    interval = t_interval(gaps)
    p_for, p_against = (
        float(scipy.stats.ttest_1samp(gaps, 0.0, alternative=side).pvalue) for side in ("greater", "less")
    )
    return Part(label(row), interval, len(gaps), p_for, p_against)


def below_bound(row: dict[str, Any], bound: float, estimate: Interval) -> Part:
    """Is the error probability below a bound? Exact binomial tests."""
    law = scipy.stats.binom(row["trials"], bound)
    return Part(label(row), estimate, row["trials"], float(law.cdf(row["wrong"])), float(law.sf(row["wrong"] - 1)))
