"""Figures, tables of arms against each other, and the sentence of the ADORA study. Leaves out: drawing (`page`)."""

from collections.abc import Sequence

import numpy as np

from steersman.objective.advantage.adora import longer_by_chance
from steersman.page.figures import Panel
from steersman.studies.adora.claims import GRID, LONG, OTHERS, SHORT, classes_of, late_length
from steersman.studies.adora.names import CRITERIA, GROUPS, JOINED, MAIN_ARMS, PARTS, VIEW_ARMS, WORLDS
from steersman.studies.rl_curves import by_batch, by_series, differences, final, final_gaps, line, runs_of, strips
from steersman.studies.rl_evidence import mean
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference

AXES = {
    "batch": "accuracy, equal batches",
    "tokens": "accuracy, equal generated tokens",
    "trained": "accuracy, equal trained tokens",
}
FEW = ("grpo", "amplify", "attenuate")
CONTROLS = ("grpo", "amplify", "amplify mean1", "amplify permuted", "attenuate", "attenuate mean1",
            "attenuate permuted")  # fmt: skip


def show(results: Sequence[Result]) -> Shown:
    """Accuracy and length in both worlds, controls, classes at fixed weights; tables at equal batches and tokens."""
    panels = (
        *(by_batch(results, FEW, f"Held-out accuracy where {part}", part) for part in (LONG, SHORT)),
        *(by_series(results, FEW, "length", f"Length of responses where {part}", "tokens", part)
          for part in (LONG, SHORT)),
        *(by_series(results, FEW, "reweighted", f"Groups with another weight where {part}",
                    "share of groups with a signal", part) for part in (LONG, SHORT)),
        *(by_batch(results, CONTROLS[3:], f"Held-out accuracy of controls where {part}", part)
          for part in (LONG, SHORT) if runs_of(results, "amplify permuted", part)),
        by_batch(results, (*JOINED, *JOINED.values()), "Held-out accuracy with other methods", OTHERS),
        *(_flicker(results, world) for world in WORLDS),
        *(_longer(results, world) for world in WORLDS),
    )  # fmt: skip
    tables = (
        *(d for part in (LONG, SHORT) for d in _table(results, part)),
        *(d for name, joined in JOINED.items() for d in differences(results, name, (joined,), AXES, OTHERS)),
    )
    return Shown(tuple(p for p in panels if p.lines), tables, *strips(results, PARTS["view"], VIEW_ARMS))


def _table(results: Sequence[Result], part: str) -> tuple[Difference, ...]:
    return differences(results, "grpo", MAIN_ARMS, {k: f"{m}, {part}" for k, m in AXES.items()}, part)


def _flicker(results: Sequence[Result], world: str) -> Panel:
    """Share of prompts whose class changes, by the size of the group."""
    found = classes_of(results, world)
    lines = []
    for criterion in CRITERIA:
        if found is None:
            break
        shares = [float(np.mean(found["flicker"][criterion][str(g)])) for g in GROUPS]
        lines.append(line(criterion, GROUPS, [shares]))
    note = "Two draws of responses at the first policy's weights. One draw of prompts, so no band."
    return Panel(f"Prompts that change class where {PARTS[world]}", "responses of a prompt", "share of prompts",
                 tuple(lines), log_x=True, note=note)  # fmt: skip


def _longer(results: Sequence[Result], world: str) -> Panel:
    """How often the length criterion holds, by the number of right responses of 8."""
    found = classes_of(results, world)
    lines = []
    if found is not None:
        seen = found["longer"]
        right = [k for k, n in enumerate(seen["groups"], 1) if n]
        for name, key in (("seen", "holds"), ("dealt at random", "chance")):
            lines.append(line(name, right, [[seen[key][k - 1] / seen["groups"][k - 1] for k in right]]))
        lines.append(line("normal lengths", right, [[longer_by_chance(k, 8 - k) for k in right]]))
    return Panel(f"Length criterion by right responses where {PARTS[world]}", "right responses of 8",
                 "share of groups", tuple(lines), note="First policy.")  # fmt: skip


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    told = []
    for part in (LONG, SHORT):
        runs = {n: r for n in FEW if (r := runs_of(results, n, part))}
        if runs:
            ends = {n: (np.mean([final(v) for v in r.values()]), np.mean([late_length(v) for v in r.values()]))
                    for n, r in runs.items()}  # fmt: skip
            listed = ", ".join(f"{n} {a:.3f} with {t:.1f} tokens" for n, (a, t) in ends.items())
            told.append(f"Where {part}: {listed}.")
    for name in FEW[1:]:
        gap = final_gaps(results, name, "grpo", LONG)
        if len(gap) > 1:
            i = mean(gap)
            told.append(f"Where {LONG}, {name} was {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}] from grpo.")
    grid = {r.cell.arm.name for r in results if r.cell.part == GRID}
    if grid:
        found = [np.mean([final(v) for v in runs_of(results, n, GRID).values()]) for n in sorted(grid)]
        told.append(f"Other values of tau and weight ended between {min(found):.3f} and {max(found):.3f}.")
    return " ".join(told) or "Nothing has been run yet."
