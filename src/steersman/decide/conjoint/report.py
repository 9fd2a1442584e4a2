"""The page of a conjoint decision: what to field, against whom, and how far to trust it.

Leaves out: the figures themselves (`page`), computing anything.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from steersman.decide.conjoint.optimal import normal_interval
from steersman.decide.conjoint.policy import FactoredPolicy
from steersman.page.forest import Forest, Row, forest
from steersman.page.html import Html, section, shell, tag
from steersman.page.number import Estimate
from steersman.page.theme import marks
from steersman.stats.intervals import Interval


def estimate(found: Interval) -> Estimate:
    """An interval as a page shows it."""
    return Estimate(found.value, found.low, found.high, "", found.level)


def levels(
    title: str, arms: Mapping[str, tuple[FactoredPolicy, np.ndarray]], design: FactoredPolicy, level: float, note: str
) -> Forest:
    """Probability of every level by arm (policy and standard errors [M]), the design as a dashed line.

    Edge cases: intervals are cut at 0 and 1.
    """
    groups, at = [], 0
    for d, factor in enumerate(design.factors):
        rows = []
        for i, name in enumerate(factor.levels):
            shown = {
                arm: estimate(normal_interval(float(p.x[at]), float(se[at]), level)) for arm, (p, se) in arms.items()
            }
            rows.append(Row(name, shown, float(design.parts[d][i])))
            at += 1
        groups.append((factor.name, tuple(rows)))
    return Forest(title, "probability", tuple(groups), (0.0, 1.0), None, note)


def values(
    title: str, label: str, found: Mapping[str, Interval | float], band: tuple[float, float] | None, note: str
) -> Forest:
    """One value with its interval a row (a bare number has none), and a range behind them."""
    rows = tuple(
        Row(name, {"value": estimate(v) if isinstance(v, Interval) else Estimate(v, math.nan, math.nan)})
        for name, v in found.items()
    )
    return Forest(title, label, (("", rows),), None, band, note)


def page(
    title: str, sentence: str, facts: Mapping[str, str], parts: Sequence[tuple[str, str, Sequence[Forest]]]
) -> Html:
    """A self-contained page.

    Args:
        title: its heading.
        sentence: the one thing to know.
        facts: what was fitted, by name.
        parts: heading, introduction and figures of each section.
    """
    arms = dict.fromkeys(a for _, _, fs in parts for f in fs for _, rows in f.groups for r in rows for a in r.estimates)
    colours = marks(arms)
    told = tag("dl", *(x for k, v in facts.items() for x in (tag("dt", k), tag("dd", v))), class_="facts")
    sections = [
        section(head, tag("div", *(forest(f, colours) for f in fs), class_="figures"), anchor=f"part-{i}", lead=lead)
        for i, (head, lead, fs) in enumerate(parts, 1)
    ]
    return shell(title, tag("h1", title), tag("p", sentence, class_="sentence"), told, *sections)
