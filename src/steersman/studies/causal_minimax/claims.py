"""The claims of the causal-minimax study, stated before its first run.

Leaves out: measuring them (`measures`).
"""

from collections.abc import Callable, Sequence
from functools import partial

from steersman.studies.causal_minimax import measures as m
from steersman.studies.causal_minimax.names import PARTS, RANK, SAME
from steersman.study.declare import Claim, Finding, Result

Measure = Callable[[Sequence[Result]], Finding | None]


def _claim(name: str, text: str, paper: str, measure: Measure, part: str) -> Claim:
    return Claim(name, text, paper, measure, (PARTS[part],))


PROVED = "theorem"
OURS = "ours"
CLAIMS = (
    _claim("C1", "Where the condition holds, the whole stable set is best", PROVED, m.condition, "exact"),
    _claim("C2", "Subsets of one class have one risk", PROVED, m.classes_alike, "exact"),
    _claim("C3", "The class search finds the optimum over all subsets", PROVED, m.optimum_found, "exact"),
    _claim("C4", "The whole stable set is not always best", "abstract", m.not_always, "exact"),
    _claim("C5", "Classes: d + 1 on a path, (l + 1)(r + 1), 2^d on a star, 45 on the published graph", "45 of 256",
           m.counts, "search"),
    _claim("C6", "Sparse graphs of 12 variables need less than a quarter of the subsets", "polynomial", m.few,
           "search"),
    _claim("E1", "Where the condition fails, the choice from rows beats the whole stable set", "abstract",
           m.better_than_whole, "estimated"),
    _claim("E2", f"Where it holds, searching anyway loses less than {SAME:g}", OURS, m.nothing_lost, "estimated"),
    _claim("E3", f"Estimated risks rank the classes: correlation above {RANK:g}", "0.926 (mice)", m.ranks, "estimated"),
    _claim("E4", "It has less regret than every baseline", "abstract", m.rivals, "estimated"),
    _claim("G1", "At the gate, the choice from rows beats the whole stable set", OURS, m.gate, "gate"),
    _claim("S1", "Simulation, the authors' sample and scaling: risks rank test errors", "0.685 (one split)",
           partial(m.correlation, part="simulation", mode="official", scale="own"), "simulation"),
    _claim("S2", "Simulation, corrected, scaled by training rows: risks rank test errors", OURS,
           partial(m.correlation, part="simulation", mode="corrected", scale="training"), "simulation"),
    _claim("S3", "Simulation: the choice beats the whole stable set", "1.15 to 5.49",
           partial(m.against, part="simulation", other="whole stable set"), "simulation"),
    _claim("S4", "Simulation: the choice beats the mean", OURS,
           partial(m.against, part="simulation", other="constant"), "simulation"),
    _claim("M1", "Mice, the authors' sample and scaling: risks rank test errors", "0.926",
           partial(m.correlation, part="mouse", mode="official", scale="own"), "mouse"),
    _claim("M2", "Mice, corrected, scaled by training rows: risks rank test errors", OURS,
           partial(m.correlation, part="mouse", mode="corrected", scale="training"), "mouse"),
    _claim("M3", "Mice: the choice beats the whole stable set", "0.95 to 1.37",
           partial(m.against, part="mouse", other="whole stable set"), "mouse"),
    _claim("M4", "Mice: the choice beats the mean", OURS, partial(m.against, part="mouse", other="constant"), "mouse"),
    _claim("M5", "Mice, each environment scaled by itself: the choice beats the mean", OURS,
           partial(m.against, part="mouse", other="constant", scale="own"), "mouse"),
    _claim("M6", "Mice: the choice beats least squares on all variables", "abstract",
           partial(m.against, part="mouse", other="ERM"), "mouse"),
)  # fmt: skip
