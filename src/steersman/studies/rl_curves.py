"""Reading the results of `rl_runs`, arms against each other, and their figures.

Leaves out: tests (`rl_evidence`), drawing (`page`), which arms and claims there are (each study).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steersman.page.figures import Line, Panel
from steersman.page.tokens import Sample, StreamInfo, from_json
from steersman.studies.rl_evidence import mean
from steersman.study.declare import Result
from steersman.study.report import Difference, Estimate

Value = Mapping[str, Any]
Runs = dict[int, Value]
BAND = "Band: 95 % t interval over seeds."
GRID = 25
"""Points of a curve by tokens."""


def runs_of(results: Sequence[Result], name: str, part: str | None = None) -> Runs:
    """Seed -> result of an arm, in the order of seeds; of one part of the study, or of all."""
    found = {r.cell.seed: r.value for r in results if r.cell.arm.name == name and part in (None, r.cell.part)}
    return dict(sorted(found.items()))


def final(value: Value) -> float:
    """Share of right answers at the end, on the judged prompts."""
    return float(value["final"][0] / value["final"][1])


def gain(value: Value) -> float:
    """Accuracy at the end less that of the policy it started from, on the same prompts."""
    return final(value) - float(value["start"][0] / value["start"][1])


def accuracy_at(value: Value, axis: str, x: float) -> float:
    """Held-out accuracy of a run's course at `x` batches or tokens, by linear interpolation."""
    course = value["course"]
    return float(np.interp(x, [p[axis] for p in course], [p["accuracy"] for p in course]))


def common(a: Value, b: Value, axis: str) -> float:
    """The largest number of batches or tokens that both runs have reached."""
    return float(min(v["course"][-1][axis] for v in (a, b)))


def pairs(results: Sequence[Result], a: str, b: str, part: str | None = None) -> list[tuple[Value, Value]]:
    """Results of two arms on the seeds that both have."""
    one, two = runs_of(results, a, part), runs_of(results, b, part)
    return [(one[s], two[s]) for s in one if s in two]


def gaps(results: Sequence[Result], a: str, b: str, axis: str, part: str | None = None) -> list[float]:
    """Arm `a` minus arm `b` in held-out accuracy where both have spent equally many batches, or tokens."""
    found = pairs(results, a, b, part)
    return [accuracy_at(x, axis, common(x, y, axis)) - accuracy_at(y, axis, common(x, y, axis)) for x, y in found]


def final_gaps(results: Sequence[Result], a: str, b: str, part: str | None = None) -> list[float]:
    """Arm `a` minus arm `b` in accuracy at the end on the judged prompts, seed by seed."""
    return [final(x) - final(y) for x, y in pairs(results, a, b, part)]


def differences(
    results: Sequence[Result], base: str, names: Sequence[str], axes: Mapping[str, str], part: str | None = None
) -> tuple[Difference, ...]:
    """Arms minus `base` in held-out accuracy at equal batches or tokens.

    Args:
        results: of the study.
        base: the arm compared with.
        names: the arms compared; those with fewer than two seeds are left out.
        axes: key of a course -> what the table calls it.
        part: of the study.
    """
    found = []
    for axis, metric in axes.items():
        for name in names:
            gap = gaps(results, name, base, axis, part) if name != base else []
            if len(gap) > 1:
                i = mean(gap)
                found.append(Difference(name, base, metric, Estimate(i.value, i.low, i.high, "", i.level)))
    return tuple(found)


def by_batch(
    results: Sequence[Result], names: Sequence[str], title: str, part: str | None = None, key: str = "accuracy"
) -> Panel:
    """What a course says at its evaluations, by batches."""
    lines = []
    for name in names:
        runs = runs_of(results, name, part)
        x = sorted({p["batch"] for v in runs.values() for p in v["course"]})
        rows = [{p["batch"]: p[key] for p in v["course"]} for v in runs.values()]
        lines += [line(name, x, [[row.get(b, math.nan) for b in x] for row in rows])] if rows else []
    return Panel(title, "batches learnt from", "share of held-out prompts", tuple(lines), note=BAND)


def by_tokens(
    results: Sequence[Result],
    names: Sequence[str],
    title: str = "Held-out accuracy by generated tokens",
    label: str = "tokens generated",
    axis: str = "tokens",
    part: str | None = None,
) -> Panel:
    """Held-out accuracy by what was spent, up to what every seed of an arm has spent."""
    lines = []
    for name in names:
        runs = runs_of(results, name, part)
        if runs:
            x = np.linspace(0.0, min(v["course"][-1][axis] for v in runs.values()), GRID)
            courses = [v["course"] for v in runs.values()]
            y = [np.interp(x, [p[axis] for p in c], [p["accuracy"] for p in c]).tolist() for c in courses]
            lines.append(line(name, x.tolist(), y))
    note = f"{BAND} Up to the tokens that every seed has reached; linear between evaluations."
    return Panel(title, label, "share of held-out prompts", tuple(lines), note=note)


def by_series(
    results: Sequence[Result],
    names: Sequence[str],
    key: str,
    title: str,
    label: str,
    part: str | None = None,
    block: int = 5,
) -> Panel:
    """A series of some arms, averaged over `block` batches at a time; an arm that has none of it is left out."""
    lines = []
    for name in names:
        seeds = [v["batches"][key] for v in runs_of(results, name, part).values()]
        size = min((len(s) for s in seeds), default=0) // block * block
        if not size:
            continue
        values = np.array([[math.nan if v is None else v for v in s[:size]] for s in seeds], dtype=float)
        if np.isnan(values).all():
            continue
        blocks = values.reshape(len(seeds), -1, block)
        x = [float(block) * (i + 1) for i in range(blocks.shape[1])]
        lines.append(line(name, x, blocks.mean(2).tolist()))
    return Panel(title, "batches learnt from", label, tuple(lines), note=f"{BAND} Means of {block} batches.")


def strips(
    results: Sequence[Result], part: str, arms: Sequence[str]
) -> tuple[tuple[Sample, ...], tuple[StreamInfo, ...]]:
    """Samples under some of the arms, and the streams they have; nothing where the part has not run.

    Args:
        results: of the study.
        part: whose runs are `rl_view.compare_arms`.
        arms: shown side by side.
    """
    found = [r.value for r in results if r.cell.part == part]
    if not found:
        return (), ()
    plain = [{**s, "views": [v for v in s["views"] if v["arm"] in arms]} for s in found[0]["samples"]]
    return tuple(map(from_json, plain)), tuple(StreamInfo(**s) for s in found[0]["streams"])


def line(name: str, x: Sequence[float], seeds: Sequence[Sequence[float]]) -> Line:
    """A line for each seed, their mean and its interval; positions without a value are gaps."""
    found = []
    for column in np.array(seeds, dtype=float).T:
        kept = column[np.isfinite(column)]
        i = mean(kept.tolist()) if len(kept) else None
        ends = (i.low, i.high) if i is not None and i.bounded else (math.nan, math.nan)
        found.append((math.nan if i is None else i.value, *ends))
    centre, low, high = zip(*found, strict=True)
    return Line(name, tuple(x), tuple(map(tuple, seeds)), centre, low, high)
