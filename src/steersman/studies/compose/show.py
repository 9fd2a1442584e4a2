"""Figures, tables, the token view and the sentence of the study of combinations. Leaves out: drawing (`page`)."""

from collections.abc import Sequence

import numpy as np

from steersman.studies.compose.names import ALL, COMBINED, METHODS, PLAIN, TRAINED, VIEW
from steersman.studies.rl_curves import by_batch, by_series, by_tokens, differences, final, gaps, runs_of, strips
from steersman.studies.rl_evidence import mean
from steersman.study.declare import Result, Shown

AXES = {"tokens": "accuracy, equal generated tokens", "trained": "accuracy, equal trained tokens"}
VIEWED = (PLAIN, *METHODS, COMBINED)
"""Arms that the token view shows side by side."""
SINGLE = (PLAIN, *METHODS, COMBINED)


def show(results: Sequence[Result]) -> Shown:
    """Accuracy by generated and by trained tokens, what is learnt from; both tables; one batch token by token."""
    panels = (
        by_tokens(results, ALL, part=TRAINED),
        by_tokens(results, ALL, "Held-out accuracy by tokens learnt from", "tokens learnt from", "trained", TRAINED),
        by_batch(results, SINGLE, "Held-out accuracy, each method alone and all together", TRAINED),
        by_series(results, ALL, "trained", "Tokens learnt from in a batch", "tokens", TRAINED),
        by_series(results, ALL, "norm", "Norm of the gradient", "norm", TRAINED),
        by_series(results, SINGLE, "length", "Length of the responses", "tokens", TRAINED),
    )
    samples, streams = strips(results, VIEW, VIEWED)
    tables = (
        *differences(results, PLAIN, ALL, AXES, TRAINED),
        *differences(results, COMBINED, ALL[4:7], AXES, TRAINED),
    )
    return Shown(tuple(p for p in panels if p.lines), tables, samples, streams)


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    told = []
    ends = {n: float(np.mean([final(v) for v in runs.values()])) for n in ALL if (runs := runs_of(results, n, TRAINED))}
    if ends:
        told.append("Mean accuracy at the end: " + ", ".join(f"{n} {x:.3f}" for n, x in ends.items()) + ".")
    for axis, words in (("tokens", "equal generated tokens"), ("trained", "equal trained tokens")):
        gap = gaps(results, COMBINED, PLAIN, axis, TRAINED)
        if len(gap) > 1:
            i = mean(gap)
            told.append(f"At {words} all three were {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}] from grpo.")
    kept = next((r.value["kept"] for r in results if r.cell.part == VIEW), None)
    if kept:
        share = kept[COMBINED]["tokens"] / kept[PLAIN]["tokens"]
        told.append(f"Half way through the schedules all three learn from {share:.1%} of a batch's tokens.")
    return " ".join(told) or "Nothing has been run yet."
