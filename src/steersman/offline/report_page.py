"""The page of a data set: what can be learnt from it, on what evidence, and what it holds.

Leaves out: the figures themselves (`page`), measuring (`report`).
"""

from collections.abc import Mapping

import numpy as np

from steersman.offline.advise import HIGH_SACO, HIGH_TQ, LOW_SACO, SCHEMES
from steersman.offline.report import DatasetReport
from steersman.page.figures import Line, Panel, curves
from steersman.page.histogram import Histogram, histogram
from steersman.page.html import Column, Html, section, shell, table, tag
from steersman.page.number import MISSING, interval, number, point
from steersman.page.scatter import Point, Scatter, scatter
from steersman.page.theme import Mark, marks

MINE, REFERENCE, PAPER = "your data", "reference", "the paper's kinds of data"
_SHOWN = 12
"""Rows of a table of dimensions or actions."""


def page(found: DatasetReport, title: str, facts: Mapping[str, str]) -> Html:
    """A self-contained page.

    Args:
        found: the report.
        title: name of the log.
        facts: what was measured and how, by name.
    """
    colours = marks((MINE, REFERENCE, PAPER))
    notes = [tag("ul", *(tag("li", n) for n in found.notes))] if found.notes else []
    facts_list = tag("dl", *(x for k, v in facts.items() for x in (tag("dt", k), tag("dd", v))), class_="facts")
    parts = [
        section("What can be learnt from it", *_advice(found), anchor="advice"),
        section("Quality and coverage", tag("div", *_plane(found, colours), class_="figures"), _measures(found),
                anchor="measures"),
        section("How it came about", tag("div", *_figures(found, colours), class_="figures"), anchor="figures"),
        section("What it holds", _rewards(found), _dimensions(found), _actions(found), anchor="contents"),
    ]  # fmt: skip
    if notes:
        parts.insert(1, section("To be known", *notes, anchor="notes"))
    head = (tag("h1", title), tag("p", found.advice.sentence, class_="sentence"), facts_list)
    return shell(f"{title}: data set report", *head, *parts)


def _advice(found: DatasetReport) -> list[Html]:
    if not found.advice.judged:
        return [tag("p", found.advice.sentence)]
    strata = tuple(dict.fromkeys(found.advice.strata))
    columns = [Column("family", "head"), Column("methods"), Column("verdict"), Column("expected", "number"),
               *(Column(_stratum(s), "number", "mean in the paper") for s in strata), Column("why")]  # fmt: skip
    rows = [
        (tag("b", j.family) if j.family == found.advice.family else j.family, ", ".join(j.methods), j.verdict,
         number(j.expected, 2), *(number(j.evidence[s], 2) for s in strata), j.reason)
        for j in found.advice.judged
    ]  # fmt: skip
    lead = "Performance: 0 is a random policy, 1 the best policy known. Families within 0.05 of the best work; the "
    lead += "simplest of them is recommended."
    limits = tag("ul", *(tag("li", x) for x in found.advice.limits))
    return [tag("p", lead), table(columns, rows, label="families", empty="No families."), limits]


def _stratum(name: str) -> str:
    return "all cells" if name == "all" else name


def _plane(found: DatasetReport, colours: Mapping[str, Mark]) -> list[Html]:
    if found.tq is None or found.coverage is None:
        return []
    points = [Point(name, tq, saco, PAPER) for name, (tq, saco) in SCHEMES.items()]
    half = (found.tq.high - found.tq.low) / 2
    points.append(Point(MINE, found.tq.value, found.coverage.saco, MINE, half if half == half else 0.0))
    note = (
        "Grey lines: the thresholds of the evidence. Named points: means of the paper's five kinds of data over six "
        "tasks. The bar is the 95 % interval of TQ over episodes."
    )
    given = Scatter("Where your data lie", "TQ: 0 = random policy, 1 = best policy known",
                    "SACo: different pairs, share of the reference's", tuple(points), (HIGH_TQ,),
                    (LOW_SACO, HIGH_SACO), note)  # fmt: skip
    return [scatter(given, colours)]


def _measures(found: DatasetReport) -> Html:
    rows = []
    if found.tq is not None:
        told = f"{point(found.tq)} {interval(found.tq)}"
        rows.append(("TQ", told, f"mean return between {number(found.low)} (low) and {number(found.high)} (high)"))
    c = found.coverage
    if c is not None:
        spread = f" ± {number(c.spread, 3)}" if c.spread is not None else ""
        told = f"{c.u:,} of {c.u_ref:,} pairs, among {c.rows:,} transitions of each"
        rows.append(("SACo", number(c.saco, 3) + spread, told))
        rows.append(("lSACo", number(c.lsaco, 3), "ratio of the logarithms"))
        rows.append(
            ("entropy ratio", number(c.entropy_ratio, 3), "how evenly pairs were visited, beside the reference")
        )
    mine = found.log.counted
    rows.append(("different pairs", f"{mine.unique:,}", f"counted {_counted(found)}"))
    if mine.entropy is not None:
        told = f"as if {number(mine.perplexity, 0)} pairs were visited equally often"
        rows.append(("entropy", f"{number(mine.entropy, 3)} nats", told))
    return table([Column("", "head"), Column("", "number"), Column("")], rows, label="measures", empty="")


def _counted(found: DatasetReport) -> str:
    how = {"exact": "exactly", "hll": "by HyperLogLog, standard error 0.8 %"}[found.log.counted.counter]
    return f"{how}; {found.log.counted.signature}"


def _figures(found: DatasetReport, colours: Mapping[str, Mark]) -> list[Html]:
    lines = [_line(MINE, found.log.counted.curve)]
    if found.coverage is not None and found.ref is not None:
        lines = [_line(MINE, found.coverage.curve), _line(REFERENCE, found.coverage.curve_ref)]
    coverage = Panel("Coverage", "transitions, in the order of the log", "different state-action pairs", tuple(lines),
                     note="A curve that still rises: more data of this kind would show new pairs.")  # fmt: skip
    value = found.log.returns.value
    ends = tuple((name, v) for name, v in (("low", found.low), ("high", found.high)) if v is not None)
    dropped = (
        f"{found.log.returns.dropped:,} episodes that are not whole are left out. " if found.log.returns.dropped else ""
    )
    discount = "undiscounted" if found.discount == 1 else f"discount {found.discount:g}"
    label = f"return of an episode, {discount}"
    returns = Histogram("Returns", label, "episodes", value.tolist(), ends, dropped)
    lengths = Histogram("Lengths", "steps of an episode", "episodes", found.log.returns.length.tolist())
    return [curves(coverage, colours), histogram(returns, colours[MINE]), histogram(lengths, colours[MINE])]


def _line(name: str, curve: tuple[tuple[int, int], ...]) -> Line:
    x, y = tuple(float(n) for n, _ in curve), tuple(float(u) for _, u in curve)
    return Line(name, x, (), y, y, y)


def _rewards(found: DatasetReport) -> Html:
    least, mean, most, share = found.log.reward
    kept, rows = found.log.returns, []
    if len(kept.value):
        low, middle, high = np.quantile(kept.value, [0.0, 0.5, 1.0])
        told = f"mean {number(float(kept.value.mean()))}, median {number(float(middle))}"
        rows.append(("return", told, f"{number(float(low))} to {number(float(high))}"))
        low, middle, high = np.quantile(kept.length, [0.0, 0.5, 1.0])
        told = f"mean {number(float(kept.length.mean()), 1)}, median {number(float(middle), 0)}"
        rows.append(("length", told, f"{number(float(low), 0)} to {number(float(high), 0)}"))
    rows.append(
        ("reward", f"mean {number(mean)}, not 0 in {share:.1%} of the steps", f"{number(least)} to {number(most)}")
    )
    return table([Column("", "head"), Column(""), Column("range")], rows, label="returns and rewards", empty="")


def _dimensions(found: DatasetReport) -> Html:
    low, high = found.log.low, found.log.high
    rows = [(f"observation {i}", number(float(low[i])), number(float(high[i]))) for i in range(min(len(low), _SHOWN))]
    if found.log.action_low is not None and found.log.action_high is not None:
        a, b = found.log.action_low, found.log.action_high
        rows += [(f"action {i}", number(float(a[i])), number(float(b[i]))) for i in range(min(len(a), _SHOWN))]
    more = f"The first {_SHOWN} of {len(low)} observation dimensions." if len(low) > _SHOWN else ""
    columns = [Column("", "head"), Column("least", "number"), Column("greatest", "number")]
    return tag("div", table(columns, rows, label="dimensions", empty=""), more and tag("p", more, class_="note"))


def _actions(found: DatasetReport) -> Html:
    times = found.log.action_times
    if times is None:
        return Html("")
    most = np.argsort(-times, kind="stable")[:_SHOWN]
    rows = [(f"action {i}", f"{times[i]:,}", f"{times[i] / found.log.rows:.1%}") for i in most.tolist()]
    more = f"The {_SHOWN} most frequent of {len(times)} actions." if len(times) > _SHOWN else ""
    columns = [Column("", "head"), Column("times", "number"), Column("share", "number")]
    return tag("div", table(columns, rows, label="actions", empty=MISSING), more and tag("p", more, class_="note"))
