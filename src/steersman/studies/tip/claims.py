"""The claims of the TIP study, written down before its first run, and what measures each.

Known before they were written: the paper's tables, and the figures of a pilot with one seed and another student, on the
same task (full .406 exact match, Q3 at 10 % .496, divergence at 10 % .457, Soft-OR at 50 % .404 and at 20 % .330,
entropy top 20 % .191, random 20 % .295; carries .58 under Soft-OR at 20 %, .01 under entropy top 20 %). Margins were
chosen from those. Seeds are the units of every test. Leaves out: arms (`arms`), tests (`rl_evidence`).
"""

from collections.abc import Callable, Sequence

import numpy as np

from steersman.studies.rl_curves import pairs, runs_of
from steersman.studies.rl_evidence import above, within
from steersman.studies.tip.names import CHUNK, HIGH_DIVERGENCE, HIGH_ENTROPY, KINDS, PARTS, PLANTED
from steersman.study.declare import Claim, Finding, Result

FIRST, MAIN, LIMITS, MEMORY = (PARTS[k] for k in ("first", "main", "limits", "memory"))
FEW = 0.02
"""Share of the carries that a rule which is blind for them keeps; at random it would be its `keep`."""
UNCHANGED = 0.05
LIFTED = 0.1
CLOSE = 0.03
PLANTED_WELL = 0.8
LAW = 0.01
"""Largest error of the law of memory, as a share of what was measured."""
FLAT = 0.05
EQUAL = "start, steps, prompts and rollouts drawn, learning rate, tokens learnt from"
STEPS = "start, steps, prompts drawn, learning rate; not the tokens learnt from"

Measure = Callable[[Sequence[Result]], Finding | None]


def share(value: object, kind: str) -> float:
    """Right answers of a kind at the end (`planted_policy.judge`)."""
    right, of = value["judged"][kind]  # type: ignore[index]
    return float(right / of)


def gained(value: object, kind: str) -> float:
    """The same, less the student's before training."""
    right, of = value["began"][kind]  # type: ignore[index]
    return share(value, kind) - float(right / of)


def last(value: object, key: str) -> float:
    """Mean of a series over the last ten steps."""
    series = [x for x in value["batches"][key][-10:] if x is not None]  # type: ignore[index]
    return float(np.mean(series)) if series else float("nan")


def gap(a: str, b: str, kind: str = "exact", part: str = MAIN, equal: str = EQUAL, least: float = 0.0) -> Measure:
    """Arm `a` minus arm `b` in a share of right answers."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = [share(x, kind) - share(y, kind) for x, y in pairs(results, a, b, part)]
        return above(found, least, unit=f"share right, {kind}", equal=equal)

    return measure


def rises(name: str, kind: str, least: float) -> Measure:
    """What an arm gained over the student."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above([gained(v, kind) for v in runs_of(results, name, MAIN).values()], least, unit=f"gained, {kind}")

    return measure


def stays(name: str, kind: str) -> Measure:
    """An arm leaves a kind of digit as it was."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = [gained(v, kind) for v in runs_of(results, name, MAIN).values()]
        return within([(name, found, 0.0, UNCHANGED)], unit=f"gained, {kind}")

    return measure


def as_good(a: str, b: str) -> Measure:
    """Two arms within `CLOSE` of one another."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = [share(x, "exact") - share(y, "exact") for x, y in pairs(results, a, b, MAIN)]
        return within([(f"{a} - {b}", found, 0.0, CLOSE)], unit="share right, exact", equal=STEPS)

    return measure


def drifts(a: str, b: str) -> Measure:
    """At the end the divergence over all tokens is larger under arm `a` than under arm `b`."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = [last(x, "divergence_all") - last(y, "divergence_all") for x, y in pairs(results, a, b, MAIN)]
        return above(found, 0.0, unit="nats a token", equal=STEPS)

    return measure


def planted(results: Sequence[Result]) -> Finding | None:
    """P1: every kind lies in its quadrant."""
    found = [r.value["kinds"] for r in results if r.cell.part == FIRST]
    if not found:
        return None
    inside = {k: found[0][k]["in_quadrant"] for k in KINDS}
    told = ", ".join(f"{k} {inside[k]:.1%} in {PLANTED[k]}" for k in KINDS)
    limits = f"High: entropy above {HIGH_ENTROPY} log V, divergence above {HIGH_DIVERGENCE} nats."
    return Finding(
        None, len(KINDS), holds=min(inside.values()) >= PLANTED_WELL, counted="kinds", detail=f"{told}. {limits}"
    )


def blind(results: Sequence[Result]) -> Finding | None:
    """B1: what top entropy keeps of the carries in the first batch."""
    found = [r.value["kept"] for r in results if r.cell.part == FIRST]
    names = [n for n in (found[0] if found else {}) if n in ("entropy top 20", "entropy top 10")]
    if not names:
        return None
    kept = {n: found[0][n]["carry"] for n in names}
    beside = [n for n in ("soft-or 20", "soft-or 10", "q3 10") if n in found[0]]
    told = ", ".join(f"{n} {found[0][n]['carry']:.1%}" for n in (*names, *beside))
    return Finding(None, len(kept), holds=max(kept.values()) <= FEW, counted="rules", detail=f"Carries kept: {told}.")


def peaks(results: Sequence[Result], variant: str) -> list[dict[str, float]]:
    """Measured sizes of a variant."""
    return [p for r in results if r.cell.part == MEMORY for p in r.value["peaks"] if p["variant"] == variant]


def law(results: Sequence[Result]) -> Finding | None:
    """M1: bytes = copies x kept tokens x V x 4 + constant x V, one pair of numbers for all sizes."""
    found = peaks(results, "whole")
    if not found:
        return None
    size = np.array([[int(p["keep"] * p["rows"] + 1e-9) * p["vocabulary"] * 4, p["vocabulary"] * 4] for p in found])
    bytes_ = np.array([p["bytes"] for p in found], dtype=float)
    fit, *_ = np.linalg.lstsq(size, bytes_, rcond=None)
    worst = float(np.max(np.abs(size @ fit / bytes_ - 1)))
    told = (
        f"{fit[0]:.2f} copies of the kept logits and {fit[1]:.1f} vectors of the vocabulary; worst error {worst:.2%}."
    )
    return Finding(None, len(found), holds=worst <= LAW, counted="sizes", test="least squares", detail=told)


def grows(results: Sequence[Result]) -> Finding | None:
    """M2: chunks alone do not bound what autograd keeps."""
    return _ratio(results, "chunks", lambda x: x > 1 + FLAT, "Most to least kept")


def flat(results: Sequence[Result]) -> Finding | None:
    """M3: with recomputing, what is kept beyond two chunks costs nothing; a second one is begun before the first one's
    memory is free."""
    return _ratio(results, "recompute", lambda x: x <= 1 + FLAT, "All kept to the least that fills two chunks")


def _ratio(results: Sequence[Result], variant: str, good: Callable[[float], bool], told: str) -> Finding | None:
    found = [p for p in peaks(results, variant) if int(p["keep"] * p["rows"] + 1e-9) >= 2 * CHUNK]
    sizes = sorted({(p["vocabulary"], p["rows"]) for p in found})
    if not sizes:
        return None
    ratios = []
    for size in sizes:
        mine = {p["keep"]: p["bytes"] for p in found if (p["vocabulary"], p["rows"]) == size}
        ratios.append(mine[max(mine)] / mine[min(mine)])
    detail = f"{told}: {min(ratios):.2f} to {max(ratios):.2f} times the bytes."
    return Finding(None, len(sizes), holds=all(map(good, ratios)), counted="sizes", detail=detail)


def _claim(id: str, text: str, paper: str, measure: Measure, part: str = MAIN) -> Claim:
    return Claim(id, text, paper, measure, (part,))


PAPER, CONTROL, PREDICTED, PILOT = "arXiv 2604.14084", "our control", "our prediction", "our pilot"
HARD = "saturated, fast"
CLAIMS: tuple[Claim, ...] = (
    _claim("P1", "Every planted kind of token lies in the quadrant it was planted in", "our testbed", planted, FIRST),
    _claim("B1", "The largest 20 % of the entropies hold almost no carry, where the student is sure and wrong",
           f"{PAPER}: proposition 2, blind spot", blind, FIRST),
    _claim("B2", "Learning from them leaves the carries as they were", f"{PAPER}: proposition 2",
           stays("entropy top 20", "carry")),
    _claim("B3", f"Soft-OR at 20 % lifts the carries by more than {LIFTED}", f"{PAPER}: section 6; {PILOT}: by .58",
           rises("soft-or 20", "carry", LIFTED)),
    _claim("B4", "Like for like: carries are more often right under Soft-OR at 20 % than under entropy top 20 %",
           f"{PAPER}: table 5", gap("soft-or 20", "entropy top 20", "carry")),
    _claim("F0", f"Learning from all tokens lifts the carries by more than {LIFTED}", PILOT,
           rises("full", "carry", LIFTED)),
    _claim("F1", "Q3 at 10 % is right more often than learning from all tokens", f"{PILOT}: .496 against .406",
           gap("q3 10", "full", equal=STEPS)),
    _claim("F2", "Q3 at 10 % is right more often than random tokens of the same number", CONTROL,
           gap("q3 10", "random 10")),
    _claim("F3", "Soft-OR at 50 % is as good as all tokens", f"{PAPER}: 79.1 against 76.7",
           as_good("soft-or 50", "full")),
    _claim("F4", "Entropy sampled at 50 % is as good as all tokens", f"{PAPER}: 78.6 against 76.7",
           as_good("entropy sampled 50", "full")),
    _claim("F5", "Q3 at 10 % is right more often than divergence alone at 10 %", f"{PAPER}: 76.1 against 74.3",
           gap("q3 10", "divergence 10")),
    _claim("F6", "The bottom half by Soft-OR teaches less than a random half", f"{PAPER}: table 6; {CONTROL}",
           gap("random 50", "bottom 50")),
    _claim("R1", "Soft-OR at 20 % is right more often than random tokens of the same number", CONTROL,
           gap("soft-or 20", "random 20")),
    _claim("R2", "Entropy sampled at 20 % is right more often than random tokens of the same number", CONTROL,
           gap("entropy sampled 20", "random 20")),
    _claim("R3", "The largest entropies at 20 % are right less often than as many sampled by entropy",
           PREDICTED, gap("entropy sampled 20", "entropy top 20")),
    _claim("D1", "Narrow selection lets the divergence of all tokens drift: Q3 at 10 % ends above all tokens",
           f"{PILOT}: .93 against .62", drifts("q3 10", "full")),
    _claim("L1", "Predicted failure: with a saturated student and a high rate Q3 at 20 % is right less often than all "
           "tokens", f"{PILOT}: .00 against .22",
           gap(f"full, {HARD}", f"q3 20, {HARD}", part=LIMITS, equal=STEPS), LIMITS),
    _claim("L2", "So is Soft-OR at 20 %", f"{PILOT}: .03 against .22",
           gap(f"full, {HARD}", f"soft-or 20, {HARD}", part=LIMITS, equal=STEPS), LIMITS),
    _claim("L3", "It is the rate: with a saturated student and the low rate Q3 at 20 % is right more often than with "
           "the high one", PREDICTED,
           gap("q3 20, saturated, slow", f"q3 20, {HARD}", part=LIMITS, equal=STEPS), LIMITS),
    _claim("L4", "An anchor of 5 % of the other tokens helps there", PREDICTED,
           gap(f"q3 20 + anchor, {HARD}", f"q3 20, {HARD}", part=LIMITS, equal=STEPS), LIMITS),
    _claim("L5", "So does the forward KL as the loss, a departure from the paper", PREDICTED,
           gap(f"q3 20, forward KL, {HARD}", f"q3 20, {HARD}", part=LIMITS), LIMITS),
    _claim("M1", "With whole logits, peak memory is a number of copies of the kept rows and a constant",
           f"{PAPER}: memory falls with what is kept, and flattens", law, MEMORY),
    _claim("M2", "Chunks alone do not bound it: autograd keeps what each needs", "our derivation", grows, MEMORY),
    _claim("M3", "With chunks computed again it does not depend on what is kept beyond two chunks", "our derivation",
           flat, MEMORY),
)  # fmt: skip
