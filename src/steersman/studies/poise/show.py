"""Figures, tables and the sentence of the POISE study. Leaves out: drawing (`page`)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steersman.page.figures import Line, Panel
from steersman.studies.poise.claims import PROBE, TRAINING, gradients_of
from steersman.studies.poise.names import ARMS, OTHERS, PROBES
from steersman.studies.rl_curves import by_batch, by_series, by_tokens, differences, final, gaps, line, runs_of
from steersman.studies.rl_evidence import mean
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference, Estimate

MAIN_PROBES = ("all features", "alpha 0.01", "critic", "prompt tokens", "running mean", "sibling's reward")
FEATURES = ("all features", "prompt states", "reasoning states", "entropies", "segment entropies", "own reward")
PLACES = ("all features", "embeddings", "last layer", "projected", "alpha 100", "rows left out")
AXES = {"rows": "accuracy, equal generated responses", "batch": "accuracy, equal batches"}


def show(results: Sequence[Result]) -> Shown:
    """Errors of probes by examples, spread and bias of gradients, accuracy by responses, what the probe did online."""
    panels = (
        _errors(results, MAIN_PROBES, "Distance from the true value", "mae", "mean absolute error"),
        _errors(results, FEATURES, "Distance from the true value, by features", "mae", "mean absolute error"),
        _errors(results, PLACES, "Distance from the true value, by layer and penalty", "mae", "mean absolute error"),
        _errors(results, MAIN_PROBES, "Variance of the reward that the baseline takes away", "reduction", "share"),
        by_tokens(results, ARMS, "Held-out accuracy by generated responses", "responses generated", "rows", TRAINING),
        by_batch(results, ARMS, "Held-out accuracy by batches", TRAINING),
        replace(by_series(results, ARMS, "norm", "Norm of the gradient", "norm", TRAINING, 4), log_y=True),
        by_series(results, ARMS, "reduction", "Variance that the baseline takes away, online", "share", TRAINING, 4),
        by_series(results, ARMS, "r2", "R^2 of the probe on batches it has not seen", "R^2", TRAINING, 4),
        by_series(results, ARMS, "rows", "Responses generated for a batch", "responses", TRAINING, 4),
    )
    tables = (*_probes(results), *_gradients(results), *differences(results, "poise", ARMS, AXES, TRAINING))
    return Shown(tuple(p for p in panels if p.lines), tables)


def _errors(results: Sequence[Result], names: Sequence[str], title: str, key: str, label: str) -> Panel:
    """A figure of some probes by the number of examples."""
    runs = [r.value["sizes"] for r in results if r.cell.part == PROBE]
    lines: list[Line] = []
    for name in names if runs else ():
        sizes = sorted(int(n) for n in runs[0])
        values = [[float(run[str(n)][name][key]) for n in sizes] for run in runs]
        lines.append(line(name, [float(n) for n in sizes], values))
    note = "Band: 95 % t interval over seeds. True values: 64 responses to each of 256 held-out prompts."
    return Panel(title, "rollouts it was fitted to", label, tuple(lines), log_x=True, note=note)


def _probes(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Every probe minus the one with all features, at the most examples."""
    runs = [r.value["sizes"] for r in results if r.cell.part == PROBE]
    if len(runs) < 2:
        return ()
    n = max(runs[0], key=int)
    rows = []
    for name in (*PROBES[1:], *OTHERS):
        i = mean([run[n][name]["mae"] - run[n]["all features"]["mae"] for run in runs])
        metric = f"distance from the true value, {int(n):,} rollouts"
        rows.append(Difference(name, "all features", metric, Estimate(i.value, i.low, i.high, "", i.level)))
    return tuple(rows)


def _gradients(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Spread of every estimator minus POISE's."""
    found = gradients_of(results)
    if not found:
        return ()
    known = {name: np.asarray(v["distance"]) for name, v in found["estimators"].items()}
    rows = []
    for name in known:
        if name != "poise":
            i = mean((known[name] - known["poise"]).tolist())
            rows.append(
                Difference(name, "poise", "spread of the gradient", Estimate(i.value, i.low, i.high, "", i.level))
            )
    return tuple(rows)


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    told = []
    runs = [r.value["sizes"] for r in results if r.cell.part == PROBE]
    if runs:
        few, most = min(runs[0], key=int), max(runs[0], key=int)
        near = {n: float(np.mean([run[n]["all features"]["mae"] for run in runs])) for n in (few, most)}
        said = ", ".join(f"{x:.3f} with {int(n):,} rollouts" for n, x in near.items())
        critic = float(np.mean([run[most]["critic"]["mae"] for run in runs]))
        told.append(f"The probe's distance from the true value was {said}; a critic's {critic:.3f} with as many.")
    if found := gradients_of(results):
        spread = {k: float(np.mean(v["distance"])) for k, v in found["estimators"].items()}
        names = ("poise", "rloo 8x8", "rloo 32x2", "none", "true value 32x2")
        told.append("Spread of the gradient: " + ", ".join(f"{k} {spread[k]:.2f}" for k in names) + ".")
    ends = {n: float(np.mean([final(v) for v in of.values()])) for n in ARMS if (of := runs_of(results, n, TRAINING))}
    if ends:
        told.append("Mean accuracy at the end: " + ", ".join(f"{n} {x:.3f}" for n, x in ends.items()) + ".")
    gap = gaps(results, "poise", "dapo", "rows", TRAINING)
    if len(gap) > 1:
        i = mean(gap)
        told.append(
            f"After as many generated responses poise was {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}] from dapo."
        )
    return " ".join(told) or "Nothing has been run yet."
