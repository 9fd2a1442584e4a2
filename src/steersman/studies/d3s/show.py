"""Figures, tables of arms against each other, and the sentence of the D3S study. Leaves out: drawing (`page`)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steersman.page.figures import Panel
from steersman.studies.d3s.claims import BARE, FOUR, MAIN, methods_of
from steersman.studies.d3s.names import BARE_ARMS, FOUR_ARMS, MAIN_ARMS, PARTS, VIEW_ARMS
from steersman.studies.rl_curves import (
    by_batch,
    by_series,
    by_tokens,
    differences,
    final,
    final_gaps,
    gaps,
    runs_of,
    strips,
)
from steersman.studies.rl_evidence import mean
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference, Estimate

AXES = {
    "batch": "accuracy, equal batches",
    "tokens": "accuracy, equal generated tokens",
    "trained": "accuracy, equal trained tokens",
}
METHODS = ("grpo", "random rows", "pods", "d1s_cross", "d2s", "d3s")
CONTROLS = ("d3s", "d2s", "d2s matched", "d3s random", "d2s oracle", "d3s oracle")
KINDS = {
    "norm": "gradient norm, first policy",
    "full": "gradient norm, divided by all tokens",
    "cosine": "cosine to the reference gradient",
}


def show(results: Sequence[Result]) -> Shown:
    """Accuracy by batches, generated and trained tokens; what is kept; tables at equal batches and equal tokens."""
    panels = (
        by_batch(results, METHODS, "Held-out accuracy by batches", MAIN),
        _trained(results, METHODS, "Held-out accuracy by tokens learnt from", MAIN),
        by_tokens(results, (*METHODS, "quarter batch"), part=MAIN),
        by_batch(results, CONTROLS, "Held-out accuracy, D3S and its controls", MAIN),
        by_series(results, METHODS, "filler", "Fillers among the tokens learnt from", "share", MAIN),
        by_series(results, METHODS, "decisive", "Running sums among the tokens learnt from", "share", MAIN),
        by_series(results, METHODS, "trained", "Tokens learnt from in a batch", "tokens", MAIN),
        replace(by_series(results, METHODS, "norm", "Norm of the gradient", "norm", MAIN), log_y=True),
        by_batch(results, BARE_ARMS, "Held-out accuracy without fillers", BARE),
        _trained(results, FOUR_ARMS, "Held-out accuracy by tokens learnt from, four updates", FOUR),
    )
    tables = (
        *_gradients(results),
        *differences(results, "grpo", MAIN_ARMS, AXES, MAIN),
        *differences(results, "grpo", BARE_ARMS, {k: f"{m}, no fillers" for k, m in AXES.items()}, BARE),
        *differences(results, FOUR_ARMS[0], FOUR_ARMS, AXES, FOUR),
    )
    return Shown(tuple(p for p in panels if p.lines), tables, *strips(results, PARTS["view"], VIEW_ARMS))


def _trained(results: Sequence[Result], names: Sequence[str], title: str, part: str) -> Panel:
    return by_tokens(results, names, title, "tokens learnt from", "trained", part)


def _gradients(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Every method minus GRPO on the same batches."""
    found = methods_of(results)
    rows = []
    for kind, metric in KINDS.items():
        for name in found:
            gap = [x - y for x, y in zip(found[name][kind], found["grpo"][kind], strict=True)]
            if name != "grpo" and len(gap) > 1:
                i = mean(gap)
                rows.append(Difference(name, "grpo", metric, Estimate(i.value, i.low, i.high, "", i.level)))
    return tuple(rows)


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    told = []
    ends = {n: float(np.mean([final(v) for v in runs.values()])) for n in MAIN_ARMS
            if (runs := runs_of(results, n, MAIN))}  # fmt: skip
    if ends:
        told.append("Mean accuracy at the end: " + ", ".join(f"{n} {x:.3f}" for n, x in ends.items()) + ".")
    for name, other in (("d3s", "grpo"), ("d1s_cross", "random rows")):
        gap = final_gaps(results, name, other, MAIN)
        if len(gap) > 1:
            i = mean(gap)
            told.append(f"After as many batches {name} was {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}] from {other}.")
    gap = gaps(results, "d3s", "grpo", "trained", MAIN)
    if len(gap) > 1:
        i = mean(gap)
        told.append(f"At equal trained tokens d3s was {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}] from grpo.")
    return " ".join(told) or "Nothing has been run yet."
