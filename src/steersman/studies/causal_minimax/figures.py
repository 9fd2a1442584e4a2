"""Figures and the sentence of the causal-minimax study. Leaves out: drawing (`page`)."""

from collections.abc import Sequence

import numpy as np

from steersman.page.figures import Line, Panel
from steersman.studies.causal_minimax.measures import chosen, worlds
from steersman.studies.causal_minimax.names import COMPARED, EXACT, METHODS, PARTS
from steersman.studies.rl_curves import line
from steersman.studies.rl_evidence import mean
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference, Estimate

OURS = "causal minimax"
SHOWN = (OURS, "whole stable set", "ERM", "ERM without mutable", "GroupDRO", "IRM", "anchor")
"""Methods whose risks at the gate are drawn; ICP, surgery and the mean give 1."""
FILES = {"simulation": "published simulation", "mouse": "mice"}


def show(results: Sequence[Result]) -> Shown:
    """Classes against subsets, gaps, regrets by rows, the gate, test errors; every method against ours."""
    panels = [_counts(results), _evaluated(results), _gaps(results), *_regrets(results), _gate(results)]
    panels += [_tests(results, part) for part in FILES]
    return Shown(tuple(p for p in panels if p.lines), _differences(results))


def _flat(name: str, x: Sequence[float], y: Sequence[float]) -> Line:
    values = tuple(float(v) for v in y)
    return Line(name, tuple(float(v) for v in x), (), values, values, values)


def _counts(results: Sequence[Result]) -> Panel:
    """Classes by number of stable variables, a line for each kind of graph, and 2^d."""
    lines = []
    for r in results:
        if r.cell.part == PARTS["search"]:
            for kind, counts in r.value["counts"].items():
                sizes = sorted(counts, key=int)
                shares = [np.quantile(counts[d], [0.5, 0.0, 1.0]) for d in sizes]
                mid, low, high = (tuple(float(s[i]) for s in shares) for i in range(3))
                lines.append(Line(kind, tuple(map(float, sizes)), (), mid, low, high))
            lines.append(_flat("2^d", [int(d) for d in sizes], [2 ** int(d) for d in sizes]))
    note = "Median and range over random graphs. A star's classes are all subsets, so its line lies on 2^d."
    return Panel("Classes that are judged, against all subsets", "stable variables d", "classes", tuple(lines),
                 log_y=True, note=note)  # fmt: skip


def _evaluated(results: Sequence[Result]) -> Panel:
    """The same for the random worlds whose optimum was checked."""
    found = worlds(results, "exact")
    sizes = sorted({w["stable"] for w in found})
    lines = []
    for name, holds in (("condition holds", True), ("condition fails", False)):
        rows = [[w["classes"] for w in found if w["stable"] == d and w["holds"] == holds] for d in sizes]
        if sizes and all(rows):
            ends = [np.quantile(r, [0.5, 0.0, 1.0]) for r in rows]
            mid, low, high = (tuple(float(e[i]) for e in ends) for i in range(3))
            lines.append(Line(name, tuple(map(float, sizes)), (), mid, low, high))
    if lines:
        lines.append(_flat("2^d", sizes, [2**d for d in sizes]))
    return Panel("Classes in the worlds where every subset was judged too", "stable variables d", "classes",
                 tuple(lines), log_y=True, note="Median and range over worlds.")  # fmt: skip


def _gaps(results: Sequence[Result]) -> Panel:
    """How far the whole set is from the best, over worlds in order."""
    lines = []
    for name, holds in (("condition holds", True), ("condition fails", False)):
        gaps = sorted(w["gap"] for w in worlds(results, "exact") if w["holds"] == holds)
        if gaps:
            lines.append(_flat(name, (np.arange(len(gaps)) + 1) / len(gaps), gaps))
    return Panel("What the whole stable set costs", "share of worlds", "worst-case risk above the best subset's",
                 tuple(lines), note="Exact risks, worlds in order of the gap.")  # fmt: skip


def _regrets(results: Sequence[Result]) -> list[Panel]:
    """Mean regret by number of rows, where the condition holds and where it fails."""
    found = []
    for holds in (True, False):
        here = [w for w in worlds(results, "estimated") if w["holds"] == holds]
        sizes = sorted({w["rows"] for w in here})
        lines = [line(m, sizes, _by_seed(here, m, sizes)) for m in METHODS] if len(sizes) > 1 else []
        title = f"Regret where the condition {'holds' if holds else 'fails'}"
        found.append(Panel(title, "rows", "worst-case risk above the best stable predictor's", tuple(lines), log_x=True,
                           note="Mean over worlds with its 95 % interval."))  # fmt: skip
    return found


def _by_seed(here: list[dict[str, object]], method: str, sizes: Sequence[int]) -> list[list[float]]:
    seeds = sorted({w["seed"] for w in here})  # type: ignore[type-var]
    at = {(w["seed"], w["rows"]): w["regret"][method] for w in here}  # type: ignore[index]
    return [[float(at[s, n]) for n in sizes] for s in seeds]


def _gate(results: Sequence[Result]) -> Panel:
    """Exact worst-case risks of some methods over draws of rows, each method's in order."""
    found = [r.value["risk"] for r in results if r.cell.part == PARTS["gate"]]
    shares = (np.arange(len(found)) + 1) / max(len(found), 1)
    lines = [_flat(m, shares, sorted(v[m] for v in found)) for m in SHOWN] if len(found) > 1 else []
    return Panel("The gate: exact worst-case risk", "share of draws", "mean squared error", tuple(lines), log_y=True,
                 note="No stable variable: 1. The whole stable set with the truth known: 1.0786.")  # fmt: skip


def _tests(results: Sequence[Result], part: str) -> Panel:
    """Largest test error by split, scaled by training rows."""
    found = sorted((r for r in results if r.cell.part == PARTS[part]), key=lambda r: r.cell.seed)
    lines = []
    if len(found) > 1:
        x = [r.cell.seed for r in found]
        whole = [next(c["training"] for c in r.value["modes"]["corrected"] if c["whole"]) for r in found]
        lines = [_flat(OURS, x, [chosen(r.value)["training"] for r in found]), _flat("whole stable set", x, whole)]
        lines += [
            _flat(n, x, [r.value["baselines"][n]["training"] for r in found]) for n in found[0].value["baselines"]
        ]
    return Panel(f"Largest test error, {FILES[part]}", "split", "mean squared error", tuple(lines),
                 note="Scaled by training rows.")  # fmt: skip


def _differences(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Regret of each method less ours, in the worlds of the compared size."""
    found = []
    for holds in (False, True):
        here = [w for w in worlds(results, "estimated") if w["rows"] == COMPARED and w["holds"] == holds]
        for m in METHODS if len(here) > 1 else ():
            if m != OURS:
                i = mean([w["regret"][m] - w["regret"][OURS] for w in here])
                metric = f"regret, condition {'holds' if holds else 'fails'}"
                found.append(Difference(m, OURS, metric, Estimate(i.value, i.low, i.high, "", i.level)))
    return tuple(found)


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    exact, seen = worlds(results, "exact"), worlds(results, "estimated")
    if not exact:
        return "Nothing has been run yet."
    failing = [w for w in exact if not w["holds"]]
    beaten = sum(w["gap"] > 0 for w in failing)
    some, every = (sum(w[k] for w in exact) for k in ("classes", "subsets"))
    right = sum(w["by_class"] - w["best"] <= EXACT for w in exact)
    told = [
        f"In {right:,} of {len(exact):,} random worlds the best class was the best of all subsets ({some:,} were "
        f"judged instead of {every:,}); where the graph does not say that all stable variables are best, they were not "
        f"in {beaten} of {len(failing)}."
    ]
    here = [w for w in seen if w["rows"] == COMPARED]
    if here:
        regret = {m: float(np.mean([w["regret"][m] for w in here])) for m in (OURS, "whole stable set", "ERM")}
        told.append(f"From {COMPARED:,} rows the mean regret was " + ", ".join(
            f"{v:.4f} for {'the ' if k.startswith('whole') else ''}{k}" for k, v in regret.items()) + ".")  # fmt: skip
    return " ".join(told)
