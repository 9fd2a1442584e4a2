"""Figures and the sentence of the DP-BAI study. Leaves out: drawing (`page`)."""

from collections.abc import Sequence
from typing import Any

from steersman.page.figures import Line, Panel
from steersman.stats import wilson
from steersman.studies.dp_bai import names
from steersman.studies.dp_bai.evidence import difference, pairs, rows
from steersman.studies.dp_bai.exact import EPSILONS
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference, Estimate

BAND = "Bands are 95 % Wilson intervals over replications."
SEEN = (0.1, 0.5, 2.0)
"""Epsilons of the figures by budget, and of the exact curves."""
MAIN_BUDGET = 1001
COMPARED = ("0.1", "0.5", "1")


def show(results: Sequence[Result]) -> Shown:
    """Error by epsilon and by budget on every instance, other units, audits, exact figures; methods against DP-BAI."""
    found = rows(results)
    panels = [
        *(_by_epsilon(found, place) for place in names.INSTANCES),
        *(_by_budget(found, place, e) for place in names.INSTANCES for e in SEEN[:2]),
        _units(results),
        _audits(results),
        *_exact(results),
    ]
    return Shown(tuple(p for p in panels if p.lines), _differences(results))


def _line(method: str, points: Sequence[tuple[float, int, int]]) -> Line:
    """A line of shares with Wilson intervals: (x, wrong, trials) each."""
    points = sorted(points)
    ends = [wilson(wrong, trials) for _, wrong, trials in points]
    return Line(
        method, tuple(x for x, _, _ in points), (), tuple(i.value for i in ends), tuple(i.low for i in ends),
        tuple(i.high for i in ends),
    )  # fmt: skip


def _plain(name: str, x: Sequence[float], y: Sequence[float], dots: bool = False) -> Line:
    """A line without an interval."""
    values = tuple(float(v) for v in y)
    return Line(name, tuple(float(v) for v in x), (values,) if dots else (), values, values, values)


def _by_epsilon(found: Sequence[dict[str, Any]], place: str) -> Panel:
    budgets = sorted({r["budget"] for r in found if r["instance"] == place})
    budget = MAIN_BUDGET if MAIN_BUDGET in budgets else budgets[-1] if budgets else 0
    here = [r for r in found if (r["instance"], r["budget"]) == (place, budget)]
    lines = []
    for method in dict.fromkeys(r["method"] for r in here):
        told = {r["epsilon"]: (r["wrong"], r["trials"]) for r in here if r["method"] == method}
        points = [(float(e), *v) for e, v in told.items() if e != "inf"]
        if not points and "inf" in told:  # has no epsilon: the same everywhere
            points = [(e, *told["inf"]) for e in names.EPSILONS]
        lines.append(_line(method, points))
    note = f"{place} is {names.INSTANCES[place]}. {BAND}"
    return Panel(f"{place}: error by epsilon, T = {budget:,}", "epsilon", "share of wrong recommendations",
                 tuple(lines), log_x=True, note=note)  # fmt: skip


def _by_budget(found: Sequence[dict[str, Any]], place: str, epsilon: float) -> Panel:
    here = [r for r in found if r["instance"] == place]
    lines = []
    for method in dict.fromkeys(r["method"] for r in here):
        wanted = "inf" if method == names.OD else names.name(epsilon)
        points = [(float(r["budget"]), r["wrong"], r["trials"]) for r in here
                  if (r["method"], r["epsilon"]) == (method, wanted)]  # fmt: skip
        if len(points) > 1:
            lines.append(_line(method, points))
    return Panel(f"{place}: error by budget, epsilon {epsilon:g}", "trials T", "share of wrong recommendations",
                 tuple(lines), log_y=True, note=BAND)  # fmt: skip


def _units(results: Sequence[Result]) -> Panel:
    found: dict[str, list[tuple[float, int, int]]] = {}
    for r in results:
        if r.cell.part == names.PARTS["rescaled"] and r.cell.task["budget"] == MAIN_BUDGET:
            for row in r.value["rows"]:
                line = row["method"] + (" (x/10)" if row["units"] == "rescaled" else "")
                found.setdefault(line, []).append((float(row["epsilon"]), row["wrong"], row["trials"]))
    lines = tuple(_line(name, _added(points)) for name, points in found.items())
    return Panel(f"I1 in two units of its first feature, T = {MAIN_BUDGET:,}", "epsilon",
                 "share of wrong recommendations", lines, log_x=True,
                 note=f"x/10: the first feature divided by ten, and nothing else changed. {BAND}")  # fmt: skip


def _added(points: Sequence[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """Counts of several seeds at the same x together."""
    at: dict[float, tuple[int, int]] = {}
    for x, wrong, trials in points:
        before = at.get(x, (0, 0))
        at[x] = (before[0] + wrong, before[1] + trials)
    return [(x, *counts) for x, counts in at.items()]


def _audits(results: Sequence[Result]) -> Panel:
    found: dict[str, dict[float, float]] = {}
    for r in results:
        if r.cell.part == names.PARTS["audit"]:
            found.setdefault(r.cell.arm.name, {})[r.value["epsilon"]] = r.value["epsilon_lower"]
    lines = [_plain(arm, *zip(*sorted(told.items()), strict=True), dots=True) for arm, told in found.items()]
    if lines:
        x = sorted({e for told in found.values() for e in told})
        lines.append(_plain("promised", x, x))
    note = "Each point: with the confidence stated, the true epsilon is at least this. Above the promise it is refuted."
    return Panel("Audits: lower bounds on epsilon", "epsilon promised", "epsilon is at least", tuple(lines),
                 log_x=True, log_y=True, note=note)  # fmt: skip


def _exact(results: Sequence[Result]) -> list[Panel]:
    """Curves, exponents and losses that were enumerated."""
    values = [r.value for r in results if r.cell.part == names.PARTS["exact"]]
    if not values:
        return []
    value = values[0]
    curves = [_plain(f"epsilon {r['epsilon']:g}", r["budgets"], r["errors"]) for r in value["two"]
              if r["shrunk"] == 1.0 and r["epsilon"] in EPSILONS[1::2]]  # fmt: skip
    slopes = []
    for what, table in (("two arms", [r for r in value["two"] if r["shrunk"] == 1.0]), ("four arms", value["four"])):
        x, law = [r["epsilon"] for r in table], value["fits"][what]
        slopes += [_plain(what, x, [r["slope"] for r in table], dots=True),
                   _plain(f"{what}, fitted", x, [1 / (law["a"] + law["b"] / e) for e in x])]  # fmt: skip
    losses = []
    for fault in dict.fromkeys(r["fault"] for r in value["losses"]["history"]):
        told = [(r["epsilon"], float(r["loss"]) / r["epsilon"]) for r in value["losses"]["history"]
                if r["fault"] == fault and r["loss"] != "inf"]  # fmt: skip
        if told:
            losses.append(_plain(fault or "the method", *zip(*told, strict=True), dots=True))
    return [
        Panel("Two arms, exact: error by budget", "trials T", "error probability", tuple(curves), log_y=True,
              note="Means .7 and .3, discrete noise."),
        Panel("Exact exponents by epsilon", "epsilon", "slope of -ln(error) in T", tuple(slopes), log_x=True,
              log_y=True, note="Fitted: 1/(a + b/epsilon)."),
        Panel("What three arms' history gives away, exact", "epsilon promised", "loss / epsilon", tuple(losses),
              log_x=True, note="Over every table of rewards. Without noise the loss is infinite and is not drawn."),
    ]  # fmt: skip


def _differences(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Errors minus DP-BAI's on the paper's instance."""
    found = []
    for row in pairs(results):
        here = (row["instance"], row["budget"]) == ("I1", MAIN_BUDGET) and row["epsilon_a"] in COMPARED
        if here and row["epsilon_a"] == row["epsilon_b"]:
            i = difference(row)
            metric = f"error on I1, T {MAIN_BUDGET:,}, epsilon {row['epsilon_a']}"
            found.append(Difference(row["b"], names.OURS, metric, Estimate(i.value, i.low, i.high, "", i.level)))
    return tuple(found)


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    at = {(r["method"], r["epsilon"]): r["wrong"] / r["trials"] for r in rows(results)
          if (r["instance"], r["budget"]) == ("I1", MAIN_BUDGET)}  # fmt: skip
    if not at:
        return "Nothing has been run yet."
    told = f"On the paper's instance with {MAIN_BUDGET:,} trials and epsilon .1, DP-BAI is wrong in "
    told += f"{at[names.OURS, '0.1']:.1%} of experiments, DP-OD in {at[names.ON_FEATURES, '0.1']:.1%}, and in "
    told += f"{at[names.ON_ARMS, '0.1']:.1%} once its noise is put on arms' sums; without privacy OD-LinBAI is in "
    told += f"{at[names.OD, 'inf']:.1%}."
    return told
