"""Figures, tables of arms against each other, and the sentence of the CEPO study. Leaves out: drawing (`page`)."""

from collections.abc import Sequence

import numpy as np

from steersman.page.figures import Panel
from steersman.studies.cepo.claims import EVIDENCE, MAIN, NOISE, log_ratios, ratio, value_of
from steersman.studies.cepo.names import MAIN_ARMS, NOISE_ARMS, PARTS, VIEW_ARMS
from steersman.studies.rl_curves import by_batch, by_series, differences, final, final_gaps, line, runs_of, strips
from steersman.studies.rl_evidence import mean
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference, Estimate

AXES = {"batch": "accuracy, equal batches"}
CREDITS = ("grpo", "rlsd", "cepo", "cepo own", "cepo modal", "cepo shuffled", "cepo exact", "oracle")
OTHERS = ("grpo", "cepo", "opsd", "sdpo", "grpo 5x")
SERIES = {
    "up": ("Evidence in responses with A > 0", "nats a token"),
    "down": ("Evidence in responses with A < 0", "nats a token"),
    "wrong_down": ("Tokens with evidence against the direction, A < 0", "share"),
    "clipped": ("Tokens whose weight is at a bound", "share"),
    "scored": ("Tokens of extra forward passes", "tokens a batch"),
}


def show(results: Sequence[Result]) -> Shown:
    """Accuracy by batches, evidence by batches, tables at equal batches, the token view."""
    panels = (
        by_batch(results, CREDITS, "Held-out accuracy, kinds of credit", MAIN),
        by_batch(results, OTHERS, "Held-out accuracy, learning from oneself and a larger rate", MAIN),
        by_batch(results, NOISE_ARMS, "Held-out accuracy with eight fillers", NOISE),
        _steps(results),
        *(by_series(results, CREDITS, k, title, label, MAIN) for k, (title, label) in SERIES.items()),
    )
    tables = (
        *_evidence(results),
        *differences(results, "grpo", MAIN_ARMS, AXES, MAIN),
        *differences(results, "grpo", NOISE_ARMS, {k: f"{m}, eight fillers" for k, m in AXES.items()}, NOISE),
    )
    return Shown(tuple(p for p in panels if p.lines), tables, *strips(results, PARTS["view"], VIEW_ARMS))


def _steps(results: Sequence[Result]) -> Panel:
    """Evidence of each running sum of right responses, at the first policy."""
    found = value_of(results, EVIDENCE)
    steps = {} if found is None else found["steps"]
    lines = tuple(line(m, list(range(1, len(steps[m]) + 1)), [steps[m]]) for m in ("rlsd", "cepo") if steps.get(m))
    note = "First policy, mean over responses." + (
        f" Exact evidence of rlsd: {', '.join(f'{x:.2f}' for x in steps['exact rlsd'])}."
        if steps.get("exact rlsd")
        else ""
    )
    return Panel("Evidence of each running sum of right responses", "running sum", "nats", lines, note=note)


def _evidence(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Decisive to filler evidence, CEPO minus RLSD, prompt by prompt."""
    found = value_of(results, EVIDENCE)
    if found is None:
        return ()
    rows = []
    for metric, of, to in (
        ("running sums to fillers", "decisive", "filler"),
        ("copies to fillers", "copied", "filler"),
    ):
        cepo, rlsd = (log_ratios(found["prompts"][m], of, to) for m in ("cepo", "rlsd"))
        if len(cepo) == len(rlsd) > 1:
            i = mean([a - b for a, b in zip(cepo, rlsd, strict=True)])
            rows.append(
                Difference("cepo", "rlsd", f"log ratio, {metric}", Estimate(i.value, i.low, i.high, "", i.level))
            )
    return tuple(rows)


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    told = []
    found = value_of(results, EVIDENCE)
    if found is not None and found["prompts"]["cepo"]["filler"]:
        ratios = [f"{ratio(found['prompts'][m]):.0f} times ({m.upper()})" for m in ("cepo", "rlsd")]
        told.append(f"Running sums get {' and '.join(ratios)} the evidence of fillers.")
        told.append(f"The first error of wrong responses is found with area {mean(found['auc']['cepo']).value:.2f}.")
    ends = {n: float(np.mean([final(v) for v in runs.values()])) for n in MAIN_ARMS
            if (runs := runs_of(results, n, MAIN))}  # fmt: skip
    if ends:
        told.append("Mean accuracy at the end: " + ", ".join(f"{n} {x:.3f}" for n, x in ends.items()) + ".")
    gap = final_gaps(results, "cepo", "grpo", MAIN)
    if len(gap) > 1:
        i = mean(gap)
        told.append(f"After as many batches cepo was {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}] from grpo.")
    return " ".join(told) or "Nothing has been run yet."
