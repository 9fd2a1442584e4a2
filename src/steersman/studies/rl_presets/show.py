"""Figures, tables of arms against each other, and the sentence of the presets' study. Leaves out: drawing (`page`)."""

import math
from collections.abc import Sequence

import numpy as np

from steersman.page.figures import Line, Panel
from steersman.studies.rl_presets.claims import FOUR, ONE, PLAIN, Runs, final, gaps, runs_of
from steersman.studies.rl_presets.evidence import mean
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference, Estimate

BAND = "Band: 95 % t interval over seeds."
GRID = 25
"""Points of a curve by tokens."""


def show(results: Sequence[Result]) -> Shown:
    """Accuracy by batches and by tokens, silent groups, tokens of a batch; both tables of differences."""
    panels = (
        _by_batch(results, ONE, "Held-out accuracy, one update of a batch"),
        _by_batch(results, FOUR, "Held-out accuracy, four updates of a batch"),
        _by_tokens(results, (PLAIN, "grpo", "rloo", "dapo")),
        _series(results, "zero_signal", "Groups that teach nothing", "share of the groups drawn"),
        _series(results, "tokens", "Tokens generated for a batch", "tokens"),
        _series(results, "entropy", "Entropy of the policy", "nats a token"),
    )
    return Shown(tuple(p for p in panels if p.lines), differences(results))


def differences(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Every arm minus GRPO with as many updates of a batch: at equal batches, then at equal generated tokens."""
    found = []
    for axis, metric in (("batch", "accuracy, equal batches"), ("tokens", "accuracy, equal generated tokens")):
        for group in (ONE, FOUR):
            base = PLAIN if group is ONE or not runs_of(results, FOUR[0]) else FOUR[0]
            for name in group:
                gap = gaps(results, name, base, axis) if name != base else []
                if len(gap) > 1:
                    i = mean(gap)
                    found.append(Difference(name, base, metric, Estimate(i.value, i.low, i.high, "accuracy", i.level)))
    return tuple(found)


def _by_batch(results: Sequence[Result], names: Sequence[str], title: str) -> Panel:
    lines = []
    for name in names:
        runs = runs_of(results, name)
        x = sorted({p["batch"] for v in runs.values() for p in v["course"]})
        rows = [{p["batch"]: p["accuracy"] for p in v["course"]} for v in runs.values()]
        lines += [_line(name, x, [[row.get(b, math.nan) for b in x] for row in rows])] if rows else []
    return Panel(title, "batches learnt from", "share of 1,000 prompts", tuple(lines), note=BAND)


def _by_tokens(results: Sequence[Result], names: Sequence[str]) -> Panel:
    lines = []
    for name in names:
        runs = runs_of(results, name)
        if runs:
            x = np.linspace(0.0, min(v["course"][-1]["tokens"] for v in runs.values()), GRID)
            lines.append(_line(name, x.tolist(), _interpolated(runs, x)))
    note = f"{BAND} Up to the tokens that every seed has generated; linear between evaluations."
    return Panel("Held-out accuracy by generated tokens", "tokens generated", "share of 1,000 prompts", tuple(lines),
                 note=note)  # fmt: skip


def _interpolated(runs: Runs, x: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[list[float]]:
    courses = [v["course"] for v in runs.values()]
    return [np.interp(x, [p["tokens"] for p in c], [p["accuracy"] for p in c]).tolist() for c in courses]


def _series(results: Sequence[Result], key: str, title: str, label: str) -> Panel:
    """A series of some arms, averaged over five batches at a time."""
    lines = []
    for name in (PLAIN, "dapo", "grpo x4", "ppo"):
        seeds = [v["batches"][key] for v in runs_of(results, name).values()]
        if not seeds:
            continue
        size = min(len(s) for s in seeds) // 5 * 5
        values = np.array([[math.nan if v is None else v for v in s[:size]] for s in seeds], dtype=float)
        blocks = values.reshape(len(seeds), -1, 5)
        x = [5.0 * (i + 1) for i in range(blocks.shape[1])]
        lines.append(_line(name, x, blocks.mean(2).tolist()))
    return Panel(title, "batches learnt from", label, tuple(lines), note=f"{BAND} Means of five batches.")


def _line(name: str, x: Sequence[float], seeds: Sequence[Sequence[float]]) -> Line:
    found = []
    for column in np.array(seeds, dtype=float).T:
        kept = column[np.isfinite(column)]
        i = mean(kept.tolist()) if len(kept) else None
        ends = (i.low, i.high) if i is not None and i.bounded else (math.nan, math.nan)
        found.append((math.nan if i is None else i.value, *ends))
    centre, low, high = zip(*found, strict=True)
    return Line(name, tuple(x), tuple(map(tuple, seeds)), centre, low, high)


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    told = []
    plain = runs_of(results, PLAIN)
    if plain:
        ends = [final(v) for v in plain.values()]
        told.append(f"Plain GRPO ended between {min(ends):.3f} and {max(ends):.3f} on {len(ends)} seeds.")
    others = {n: float(np.mean([final(v) for v in runs.values()])) for n in (*ONE[1:], *FOUR)
              if (runs := runs_of(results, n))}  # fmt: skip
    if others:
        listed = ", ".join(f"{name} {value:.3f}" for name, value in others.items())
        told.append(f"Mean accuracy at the end of the others: {listed}.")
    for axis, words in (("batch", "equal batches"), ("tokens", "equal generated tokens")):
        gap = gaps(results, "dapo", PLAIN, axis)
        if len(gap) > 1:
            i = mean(gap)
            told.append(f"At {words} DAPO was {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}] from plain GRPO.")
    return " ".join(told) or "Nothing has been run yet."
