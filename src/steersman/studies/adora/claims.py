"""The claims of the ADORA study, written down before its first run, and what measures each.

Known before they were written: the paper's and the repository's tables, and the figures of a prototype of three arms in
two worlds with two seeds (40 batches, another architecture). Where long is good it saw accuracy .78 for GRPO, .78 for
attenuation and .765 for amplification; where short is good .76, .73 and .756, and longer responses under attenuation
(18.3 against 17.9 tokens). No setting was chosen by a run of this study. Seeds are the units of every test, or prompts
where classes are compared. Leaves out: arms (`arms`), tests (`rl_evidence`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steersman.studies.adora.names import AMPLIFIED, ATTENUATED, JOINED, PARTS, WORLDS
from steersman.studies.rl_curves import final, final_gaps, gain, pairs, runs_of
from steersman.studies.rl_evidence import above, all_above, within
from steersman.study.declare import Claim, Finding, Result

LEARNT = 0.1
"""What GRPO must gain for comparisons with it to mean anything."""
SAME = 0.03
"""Final accuracies of two settings this close count as the same."""
OFTEN = 0.2
"""Share of prompts whose class changes from draw to draw that we call often."""
LATE = 5
"""Batches at the end over which the length of responses is averaged."""
LONG, SHORT, GRID, OTHERS, CLASSES = (PARTS[k] for k in ("long", "short", "grid", "joined", "classes"))
EQUAL = "batches, and tokens generated but for the length of responses"

Measure = Callable[[Sequence[Result]], Finding | None]
Value = Mapping[str, Any]


def late_length(value: Value) -> float:
    """Mean tokens of a response over the last batches of a run."""
    return float(np.mean(value["batches"]["length"][-LATE:]))


def slope(value: Value) -> float:
    """Least-squares slope of the mean length of responses, tokens a batch."""
    y = np.asarray(value["batches"]["length"], dtype=float)
    return float(np.polyfit(np.arange(len(y)), y, 1)[0])


def compare(results: Sequence[Result], a: str, b: str, part: str, of: Callable[[Value], float]) -> list[float]:
    """Arm `a` minus arm `b` in some quantity of a run, seed by seed."""
    return [of(x) - of(y) for x, y in pairs(results, a, b, part)]


def classes_of(results: Sequence[Result], world: str) -> Value | None:
    """What `classes.run` found in a world."""
    found = [r.value for r in results if r.cell.part == CLASSES and r.cell.task["world"] == world]
    return found[0] if found else None


def tables(results: Sequence[Result]) -> Finding | None:
    """X1."""
    found = classes_of(results, WORLDS[0])
    if found is None:
        return None
    good, cells = found["tables"]
    return Finding(None, cells, holds=good == cells, counted="cells of the table", test="comparison of every cell",
                   detail=f"{good} of {cells} weights are those of the program.")  # fmt: skip


def flickers(results: Sequence[Result]) -> Finding | None:
    """X2: the share of prompts whose class by length changes between two draws of 8, in both worlds."""
    found = {w: classes_of(results, w) for w in WORLDS}
    if any(v is None for v in found.values()):
        return None
    settings = [(PARTS[w], v["flicker"]["length"]["8"], OFTEN) for w, v in found.items() if v is not None]
    return all_above(settings, unit=f"share of prompts, less {OFTEN}", counted="prompts", equal="weights and prompts")


def settles(results: Sequence[Result]) -> Finding | None:
    """X3: changes at groups of 8 minus changes at groups of 64, prompt by prompt."""
    found = {w: classes_of(results, w) for w in WORLDS}
    if any(v is None for v in found.values()):
        return None
    settings = []
    for w, v in found.items():
        if v is not None:
            few, many = (v["flicker"]["length"][g] for g in ("8", "64"))
            settings.append((PARTS[w], [a - b for a, b in zip(few, many, strict=True)], 0.0))
    return all_above(settings, unit="share of prompts", counted="prompts", equal="weights and prompts")


def learns(results: Sequence[Result]) -> Finding | None:
    """G0."""
    settings = [(p, [gain(v) for v in runs_of(results, "grpo", p).values()], LEARNT) for p in (LONG, SHORT)]
    return all_above(settings, unit=f"accuracy gained, less {LEARNT}")


def ends(a: str, b: str, part: str, sign: int = 1) -> Measure:
    """Arm `a` minus arm `b` at the end on the judged prompts, or the reverse."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above([sign * x for x in final_gaps(results, a, b, part)], 0.0, unit="accuracy", equal=EQUAL)

    return measure


def stays_longer(results: Sequence[Result]) -> Finding | None:
    """V1."""
    gap = compare(results, "attenuate", "grpo", SHORT, late_length)
    return above(gap, 0.0, unit="tokens of a response", equal="batches")


def grows(name: str) -> Measure:
    """L1, L2: the slope of the length, the arm minus GRPO, in both worlds."""

    def measure(results: Sequence[Result]) -> Finding | None:
        settings = [(p, compare(results, name, "grpo", p, slope), 0.0) for p in (LONG, SHORT)]
        return all_above(settings, unit="tokens a batch", equal="batches")

    return measure


def hit(results: Sequence[Result]) -> Finding | None:
    """V3: share of groups with a signal that attenuation reweighs, short-good minus long-good."""
    one, two = (runs_of(results, "attenuate", p) for p in (SHORT, LONG))
    shares = [[float(np.mean([x or 0.0 for x in v[s]["batches"]["reweighted"]])) for s in one if s in two]
              for v in (one, two)]  # fmt: skip
    gap = [a - b for a, b in zip(*shares, strict=True)]
    told = f"Means: {np.mean(shares[0]):.3f} and {np.mean(shares[1]):.3f}." if gap else ""
    return above(gap, 0.0, unit="share of groups", detail=told)


def robust(results: Sequence[Result]) -> Finding | None:
    """S1: the published settings against every other tau and weight."""
    settings = []
    for base, others in (("amplify", AMPLIFIED), ("attenuate", ATTENUATED)):
        own = runs_of(results, base, LONG)
        for name in others:
            runs = runs_of(results, name, GRID)
            gap = [final(v) - final(own[s])
                   for s, v in runs.items() if s in own]  # fmt: skip
            settings.append((name, gap, 0.0, SAME))
    return within(settings, unit="accuracy, less that of the published setting", equal=EQUAL)


def _claim(id: str, text: str, paper: str, measure: Measure, *parts: str) -> Claim:
    return Claim(id, text, paper, measure, parts)


PAPER, REPO, CONTROL, PREDICTED = "arXiv 2602.10019", "ShadeCloak/ADORA", "our control", "our prediction"
TEXT, VISION = f"{PAPER}: +3.5 % over GRPO on text", f"{REPO}: MathVista 73.5 against 70.2"
CLAIMS: tuple[Claim, ...] = (
    _claim("X1", "Our presets give the weights of both released programs, edge cases included", REPO, tables, CLASSES),
    _claim("X2", f"With 8 responses the length criterion changes its mind on more than {OFTEN:.0%} of the prompts from "
           "one draw to the next, in both worlds", "asked by a reviewer", flickers, CLASSES),
    _claim("X3", "With 64 responses it does so less often, in both worlds", PREDICTED, settles, CLASSES),
    _claim("G0", f"GRPO learns: it gains more than {LEARNT} in both worlds", "our testbed", learns, LONG, SHORT),
    _claim("H1", "Where long is good, amplification is more accurate than GRPO", TEXT,
           ends("amplify", "grpo", LONG), LONG),
    _claim("H2", "Where long is good, attenuation is more accurate than GRPO", VISION,
           ends("attenuate", "grpo", LONG), LONG),
    _claim("H3", "Where short is good, amplification is more accurate than GRPO", TEXT,
           ends("amplify", "grpo", SHORT), SHORT),
    _claim("V1", "Where short is good, attenuation keeps responses longer than GRPO does", PREDICTED, stays_longer,
           SHORT),
    _claim("V2", "Where short is good, attenuation is less accurate than GRPO", PREDICTED,
           ends("attenuate", "grpo", SHORT, -1), SHORT),
    _claim("V3", "Attenuation reweighs more groups where short is good than where long is", PREDICTED, hit, LONG,
           SHORT),
    _claim("L1", "Amplification sustains length: it grows faster than under GRPO, in both worlds", PAPER,
           grows("amplify"), LONG, SHORT),
    _claim("L2", "So does attenuation", REPO, grows("attenuate"), LONG, SHORT),
    _claim("K1", "Where long is good, amplification is more accurate than the same weights on random prompts", CONTROL,
           ends("amplify", "amplify permuted", LONG), LONG),
    _claim("K2", "Where long is good, attenuation is more accurate than the same weights on random prompts", CONTROL,
           ends("attenuate", "attenuate permuted", LONG), LONG),
    _claim("K3", "Where long is good, amplification with mean weight 1 is more accurate than GRPO", CONTROL,
           ends("amplify mean1", "grpo", LONG), LONG),
    _claim("K4", "Where long is good, attenuation with mean weight 1 is more accurate than GRPO", CONTROL,
           ends("attenuate mean1", "grpo", LONG), LONG),
    _claim("S1", f"Where long is good, no other tau or weight of the grid ends more than {SAME} from the published one",
           f"{PAPER}: little tuning", robust, LONG, GRID),
    *(
        _claim(f"J{i + 1}", f"Where long is good, {name} with amplification is more accurate than without",
               f"{PAPER}: for any method with advantages", ends(joined, name, OTHERS), OTHERS)
        for i, (name, joined) in enumerate(JOINED.items())
    ),
)  # fmt: skip
