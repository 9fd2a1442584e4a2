"""The claims of the POISE study, written down before its first full run, and what measures each.

Known before they were written: the paper's tables, a prototype's figures on another policy (POISE 2.0, RLOO 8 x 8 2.9,
RLOO 32 x 2 4.3, constant 2.0), and one seed of the probes and 24 batches of gradients with which the code was tried; no
setting was chosen by them. Seeds, or batches where gradients are compared, are the units of every test.
Leaves out: arms (`arms`), tests (`rl_evidence`).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from steersman.stats.gradients import allocation
from steersman.studies.poise.names import PARTS
from steersman.studies.rl_curves import gain, gaps, pairs, runs_of
from steersman.studies.rl_evidence import above, all_above, within
from steersman.study.declare import Claim, Finding, Result

PROBE, GRADIENTS, TRAINING = (PARTS[k] for k in ("probe", "gradients", "training"))
LEARNT = 0.1
"""What GRPO must gain for comparisons of training to mean anything."""
NEAR = 0.05
"""Share of the exact gradient within which a bias along it counts as none."""
LAW = 0.15
"""Share of the predicted spread within which the measured one agrees with proposition 1."""
EIGHTH = -1 / 8
"""What the mean of a group of eight, which contains the response itself, takes from the gradient."""
SAME = "weights and 64 responses of a batch"

Measure = Callable[[Sequence[Result]], Finding | None]


def probes_of(results: Sequence[Result], name: str, size: str, key: str) -> list[float]:
    """A figure of one probe, a value a seed; `size` "least" or "most" examples that every run has."""
    runs = [r.value["sizes"] for r in results if r.cell.part == PROBE]
    sizes = sorted({int(n) for run in runs for n in run})
    if not sizes:
        return []
    n = str(sizes[0] if size == "least" else sizes[-1])
    found = [run[n][name][key] for run in runs]
    return [float(x) for x in found if x is not None]


def better(a: str, b: str, size: str, key: str = "mae") -> Measure:
    """Probe `b`'s error minus probe `a`'s against the true value, seed by seed."""

    def measure(results: Sequence[Result]) -> Finding | None:
        one, two = (probes_of(results, name, size, key) for name in (a, b))
        gap = [y - x for x, y in zip(one, two, strict=True)]
        return above(gap, 0.0, unit="mean absolute error", equal="rollouts", detail=_means({a: one, b: two}))

    return measure


def _means(values: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{k} {np.mean(x):.3f}" for k, x in values.items() if len(x)) + "."


def gradients_of(results: Sequence[Result]) -> Mapping[str, Any]:
    """What `estimates.run` reported; empty where it has not run."""
    found = [r.value for r in results if r.cell.part == GRADIENTS]
    return found[0] if found else {}


def estimator(results: Sequence[Result], name: str, key: str) -> list[float]:
    """A number a batch of an estimator."""
    found = gradients_of(results)
    return list(found["estimators"][name][key]) if found else []


def along(name: str, reference: float) -> Measure:
    """Bias along the exact gradient, as a share of it."""

    def measure(results: Sequence[Result]) -> Finding | None:
        x = estimator(results, name, "along")
        if not x:
            return None
        size = gradients_of(results)["estimators"][name]["bias"]
        told = f"Size of the bias in any direction: {np.sqrt(max(size, 0.0)):.3f} of the exact gradient."
        found = within([(name, x, reference, NEAR)], unit="share of the gradient", counted="batches", equal=SAME)
        return None if found is None else _with_detail(found, told)

    return measure


def _with_detail(found: Finding, told: str) -> Finding:
    return replace(found, detail=f"{found.detail} {told}".strip())


def biased(name: str) -> Measure:
    """Whether differences from the exact gradient agree between halves of the batches."""

    def measure(results: Sequence[Result]) -> Finding | None:
        x = estimator(results, name, "leak")
        size = gradients_of(results)["estimators"][name]["bias"] if x else 0.0
        return above(x, 0.0, unit="squared share of the gradient", counted="batches of the second half", equal=SAME,
                     detail=f"Size of the bias: {np.sqrt(max(size, 0.0)):.3f} of the exact gradient.")  # fmt: skip

    return measure


def quieter(*names: str) -> Measure:
    """Each estimator's spread below the next one's, batch by batch."""

    def measure(results: Sequence[Result]) -> Finding | None:
        if not gradients_of(results):
            return None
        d = {name: estimator(results, name, "distance") for name in names}
        steps = [
            (f"{b} - {a}", [y - x for x, y in zip(d[a], d[b], strict=True)], 0.0) for a, b in itertools.pairwise(names)
        ]
        return all_above(steps, unit="trace of the covariance", counted="batches", equal=SAME)

    return measure


def law(results: Sequence[Result]) -> Finding | None:
    """C3: spread at four allocations against what single gradients predict."""
    found = gradients_of(results)
    if not found:
        return None
    settings = []
    for m in (1, 2, 4, 8):
        wanted = allocation(*found["parts"], 64 // m, m)
        x = estimator(results, f"true value {64 // m}x{m}", "distance")
        settings.append((f"{64 // m} x {m}", [v / wanted - 1 for v in x], 0.0, LAW))
    return within(settings, unit="share of the prediction", counted="batches", equal=SAME)


def fewer_prompts_noisier(results: Sequence[Result]) -> Finding | None:
    """C3: one response of each prompt has less spread than eight."""
    if not gradients_of(results):
        return None
    one, eight = (estimator(results, f"true value {x}", "distance") for x in ("64x1", "8x8"))
    return above([y - x for x, y in zip(one, eight, strict=True)], 0.0, unit="trace of the covariance",
                 counted="batches", equal=SAME)  # fmt: skip


def learns(results: Sequence[Result]) -> Finding | None:
    """G0."""
    return above([gain(v) for v in runs_of(results, "grpo", TRAINING).values()], LEARNT, unit="accuracy gained")


def ahead(a: str, b: str) -> Measure:
    """Arm `a` minus arm `b` in held-out accuracy after as many generated responses."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above(gaps(results, a, b, "rows", TRAINING), 0.0, unit="accuracy", equal="responses generated")

    return measure


def smaller_norm(a: str, b: str, told: str) -> Measure:
    """The mean norm of arm `b`'s gradients minus arm `a`'s."""

    def measure(results: Sequence[Result]) -> Finding | None:
        def mean(value: Mapping[str, Any]) -> float:
            return float(np.mean([x for x in value["batches"]["norm"] if x is not None]))

        gap = [mean(y) - mean(x) for x, y in pairs(results, a, b, TRAINING)]
        return above(gap, 0.0, unit="gradient norm", equal="responses of a batch", detail=told)

    return measure


def _claim(id: str, text: str, paper: str, measure: Measure, part: str) -> Claim:
    return Claim(id, text, paper, measure, (part,))


PAPER, CONTROL, PREDICTED = "arXiv 2605.07579", "our control", "our prediction"
ROWS_AND_UNITS = "Advantages of both are rewards less a baseline."
OTHER_UNITS = "DAPO divides advantages by a deviation below one half, so its norm is larger for that alone."
CLAIMS: tuple[Claim, ...] = (
    _claim("A1", "With 256 rollouts the penalty chosen by prompts left out beats the paper's 0.01", PREDICTED,
           better("all features", "alpha 0.01", "least"), PROBE),
    _claim("A1b", "With 256 rollouts choosing it by prompts left out beats choosing it by rows left out", PREDICTED,
           better("all features", "rows left out", "least"), PROBE),
    _claim("A2", "With most rollouts the probe is nearer to the true value than a critic of the policy's size",
           f"{PAPER}: error .141 against .262", better("all features", "critic", "most"), PROBE),
    _claim("A3", "So it is with fewest rollouts", PAPER, better("all features", "critic", "least"), PROBE),
    _claim("A4", "It is nearer than the prompt's states alone", f"{PAPER}: .126 against .234",
           better("all features", "prompt states", "most"), PROBE),
    _claim("A5", "It is nearer than three entropies alone", f"{PAPER}: .126 against .152",
           better("all features", "entropies", "most"), PROBE),
    _claim("A6", "A probe that learns a rollout's own reward is farther from the true value", CONTROL,
           better("all features", "own reward", "most"), PROBE),
    _claim("A7", "It is nearer than what the prompt's tokens alone tell a ridge", CONTROL,
           better("all features", "prompt tokens", "most"), PROBE),
    _claim("C1", "POISE's gradient is the exact one: no bias along it", f"{PAPER}: equation 7",
           along("poise", 0.0), GRADIENTS),
    _claim("C1b", "The mean of a group of eight takes an eighth of it", "arithmetic", along("group mean", EIGHTH),
           GRADIENTS),
    _claim("C2", "Spread at 64 responses: POISE 32 x 2 < RLOO 8 x 8 < RLOO 32 x 2", PAPER,
           quieter("poise", "rloo 8x8", "rloo 32x2"), GRADIENTS),
    _claim("C2b", "POISE 32 x 2 has less spread than a constant baseline on 64 x 1", CONTROL,
           quieter("poise", "constant"), GRADIENTS),
    _claim("C2c", "POISE 32 x 2 has less spread than no baseline on 64 x 1", CONTROL, quieter("poise", "none"),
           GRADIENTS),
    _claim("C3", "With a fixed baseline the spread is S_w / (n m) + S_b / n", f"{PAPER}: proposition 1", law,
           GRADIENTS),
    _claim("C3b", "One response of each prompt has less spread than eight", f"{PAPER}: proposition 1",
           fewer_prompts_noisier, GRADIENTS),
    _claim("C4", "A baseline from the rollout's own states is biased", f"{PAPER}: section 3.2",
           biased("own rollout"), GRADIENTS),
    _claim("C4b", "Refitting before use is biased while there are few examples", PREDICTED,
           biased("refit before use"), GRADIENTS),
    _claim("G0", f"GRPO learns: it gains more than {LEARNT}", "our testbed", learns, TRAINING),
    _claim("C5", "After as many generated responses POISE is more accurate than DAPO's dynamic sampling",
           f"{PAPER}: the same level in 3/4 of the time", ahead("poise", "dapo"), TRAINING),
    _claim("C5b", "It is more accurate than GRPO", PAPER, ahead("poise", "grpo"), TRAINING),
    _claim("C5c", "It is more accurate than RLOO with two responses", CONTROL, ahead("poise", "rloo"), TRAINING),
    _claim("C5d", "It is more accurate than PPO with a critic", PAPER, ahead("poise", "ppo"), TRAINING),
    _claim("C5e", "It is more accurate than a constant baseline with one response", CONTROL,
           ahead("poise", "constant"), TRAINING),
    _claim("C5f", "It is more accurate than with the prompt's states and one response", CONTROL,
           ahead("poise", "poise, prompt only"), TRAINING),
    _claim("C6", "Its gradients are smaller than DAPO's", f"{PAPER}: throughout training",
           smaller_norm("poise", "dapo", OTHER_UNITS), TRAINING),
    _claim("C6b", "Its gradients are smaller than RLOO's with two responses", CONTROL,
           smaller_norm("poise", "rloo", ROWS_AND_UNITS), TRAINING),
)  # fmt: skip
