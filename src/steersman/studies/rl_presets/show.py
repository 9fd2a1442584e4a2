"""Figures, tables of arms against each other, and the sentence of the presets' study. Leaves out: drawing (`page`)."""

from collections.abc import Sequence

import numpy as np

from steersman.studies.rl_curves import by_batch, by_series, by_tokens, final, gaps, runs_of
from steersman.studies.rl_curves import differences as compared
from steersman.studies.rl_evidence import mean
from steersman.studies.rl_presets.claims import FOUR, ONE, PLAIN
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference

AXES = {"batch": "accuracy, equal batches", "tokens": "accuracy, equal generated tokens"}
FEW = (PLAIN, "dapo", "grpo x4", "ppo")


def show(results: Sequence[Result]) -> Shown:
    """Accuracy by batches and by tokens, silent groups, tokens of a batch; both tables of differences."""
    panels = (
        by_batch(results, ONE, "Held-out accuracy, one update of a batch"),
        by_batch(results, FOUR, "Held-out accuracy, four updates of a batch"),
        by_tokens(results, (PLAIN, "grpo", "rloo", "dapo")),
        by_series(results, FEW, "zero_signal", "Groups that teach nothing", "share of the groups drawn"),
        by_series(results, FEW, "tokens", "Tokens generated for a batch", "tokens"),
        by_series(results, FEW, "entropy", "Entropy of the policy", "nats a token"),
    )
    return Shown(tuple(p for p in panels if p.lines), differences(results))


def differences(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Every arm minus GRPO with as many updates of a batch: at equal batches, then at equal generated tokens."""
    own = FOUR[0] if runs_of(results, FOUR[0]) else PLAIN
    of_axis = ({axis: metric} for axis, metric in AXES.items())
    return tuple(d for one in of_axis for base, names in ((PLAIN, ONE), (own, FOUR))
                 for d in compared(results, base, names, one))  # fmt: skip


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
