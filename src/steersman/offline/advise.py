"""Which family of offline methods can work on a log, and the evidence for it.

The evidence is a table of another study: mean performance of nine methods on 30 cells (6 tasks x 5 kinds of data),
split by TQ and by SACo. A log is put beside the cells like it, and every family is judged by how it did there.
Leaves out: measuring, training.
Source: Schweighofer et al. 2022, tables A.5 to A.11; means over cells computed from the tables.
"""

from dataclasses import dataclass
from typing import Any

from steersman.page.number import number

SCHEMES = {
    "random": (0.000, 0.662), "mixed": (0.068, 0.693), "replay": (0.597, 1.000), "noisy": (0.430, 0.842),
    "expert": (0.682, 0.270),
}  # fmt: skip
"""(TQ, SACo) of the paper's five kinds of data, means over 6 tasks and 5 seeds."""
FAMILIES = {
    "imitation": ("BC",),
    "value of the behaviour": ("BVE", "MCE"),
    "off-policy Q-learning": ("DQN", "QRDQN", "REM"),
    "constrained methods": ("BCQ", "CQL", "CRR"),
}
"""Families and their methods in the paper, simplest first."""
MEANS = {
    "all": (30, {"BC": 0.42, "BVE": 0.65, "MCE": 0.62, "DQN": 0.68, "QRDQN": 0.68, "REM": 0.67, "BCQ": 0.78,
                 "CQL": 0.77, "CRR": 0.79}),
    "TQ > 0.6": (8, {"BC": 0.79, "BVE": 0.45, "MCE": 0.57, "DQN": 0.52, "QRDQN": 0.51, "REM": 0.50, "BCQ": 0.80,
                     "CQL": 0.76, "CRR": 0.82}),
    "SACo < 0.45": (9, {"BC": 0.40, "BVE": 0.34, "MCE": 0.32, "DQN": 0.34, "QRDQN": 0.33, "REM": 0.28, "BCQ": 0.61,
                        "CQL": 0.57, "CRR": 0.59}),
    "SACo > 0.8": (13, {"BC": 0.51, "BVE": 0.77, "MCE": 0.79, "DQN": 0.90, "QRDQN": 0.90, "REM": 0.87, "BCQ": 0.90,
                        "CQL": 0.85, "CRR": 0.96}),
}  # fmt: skip
"""Stratum -> (cells, mean performance omega of each method there); omega: 0 = random policy, 1 = best policy known."""
GOVERNED_BY = {
    "imitation": "TQ",
    "value of the behaviour": "SACo",
    "off-policy Q-learning": "SACo",
    "constrained methods": "either",
}
"""Which measure a family's performance follows in the paper: r with TQ and with SACo is 0.97 and 0.12 for BC, about
-0.2 and 0.4 for BVE and MCE, -0.2 and 0.6 for the DQN family, 0.3 and 0.5 for the constrained methods, which did well
where either is high."""
HIGH_TQ, LOW_SACO, HIGH_SACO = 0.6, 0.45, 0.8
"""The table's thresholds."""
NEAR = 0.05
"""Means this close count as equal: the strata have 8 to 13 cells."""
USELESS_TQ = 0.1
GOOD, HALF = 0.75, 0.5
"""Expected performance from which a family works although others do better, and from which it may."""
R_BC_TQ = 0.97
"""Pearson correlation of BC's performance with TQ over the 150 data sets."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One family: what may be expected of it on this log.

    Args:
        family, methods: name and the paper's methods.
        verdict: "works", "may work", or "unlikely".
        expected: performance to be expected (0 = random, 1 = best policy known).
        evidence: stratum -> mean performance of the family there.
        reason: one sentence.
    """

    family: str
    methods: tuple[str, ...]
    verdict: str
    expected: float
    evidence: dict[str, float]
    reason: str


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommendation with its evidence, or the reason why there is none.

    Args:
        family: to begin with; None = nothing is recommended.
        sentence: the recommendation or what is missing for it.
        strata: which cells of the paper the log is like, by TQ and by SACo.
        judged: every family, best first; empty without a recommendation.
        limits: what the evidence does not cover.
    """

    family: str | None
    sentence: str
    strata: tuple[str, ...] = ()
    judged: tuple[Judged, ...] = ()
    limits: tuple[str, ...] = ()


def family_mean(family: str, stratum: str) -> float:
    """Mean performance of a family's methods in a stratum of the table."""
    values = [MEANS[stratum][1][m] for m in FAMILIES[family]]
    return sum(values) / len(values)


def strata_of(tq: float, saco: float) -> tuple[str, str]:
    """The strata of the table that a log falls into, by TQ and by SACo; "all" where it falls into none."""
    by_tq = "TQ > 0.6" if tq > HIGH_TQ else "all"
    return by_tq, "SACo < 0.45" if saco < LOW_SACO else "SACo > 0.8" if saco > HIGH_SACO else "all"


def expected(family: str, tq: float, saco: float) -> tuple[float, str]:
    """What a family may reach on a log (0 = random, 1 = best policy known), and the stratum that says so.

    Each family is judged in the stratum of the measure that governs it. The constrained family takes the better stratum
    where TQ or SACo is high, else the worse; imitation reaches about TQ, or its stratum's mean where that is more.
    """
    by_tq, by_saco = strata_of(tq, saco)
    if GOVERNED_BY[family] == "SACo":
        return family_mean(family, by_saco), by_saco
    if GOVERNED_BY[family] == "TQ":
        return max(min(tq, 1.0), family_mean(family, by_tq) if tq > HIGH_TQ else 0.0), by_tq
    both = [(family_mean(family, s), s) for s in (by_tq, by_saco)]
    high = [(m, s) for m, s in both if s in ("TQ > 0.6", "SACo > 0.8")]
    return max(high) if high else min(both)


def simplest(tq: float, saco: float) -> str:
    """The simplest family whose expected performance is within 0.05 of the best."""
    worth = {f: expected(f, tq, saco)[0] for f in FAMILIES}
    return next(f for f in FAMILIES if worth[f] >= max(worth.values()) - NEAR)


def advise(tq: float | None, saco: float | None, discrete: bool) -> Advice:
    """Judge the families on a log; the simplest within 0.05 of the best is recommended.

    Args:
        tq: trajectory quality; None = low or high were not given.
        saco: coverage; None = no reference was given.
        discrete: whether actions are indices, as in the paper.

    Returns:
        Without `tq` or `saco` an advice that recommends nothing and says what is missing.
    """
    if tq is None or saco is None:
        needs = (("a reference, for coverage", saco), ("low and high returns, for quality", tq))
        missing = " and ".join(word for word, value in needs if value is None)
        return Advice(None, f"No family of methods is recommended: that needs {missing}.")
    worth = {f: expected(f, tq, saco) for f in FAMILIES}
    best = max(value for value, _ in worth.values())
    family = simplest(tq, saco)
    strata = strata_of(tq, saco)
    judged = tuple(
        Judged(
            f, FAMILIES[f], _verdict(worth[f][0], best), worth[f][0], {s: family_mean(f, s) for s in strata},
            _reason(f, worth[f][1], tq),
        )
        for f in sorted(FAMILIES, key=lambda f: -worth[f][0])
    )  # fmt: skip
    return Advice(family, _sentence(family, tq, saco), strata, judged, _limits(tq, saco, discrete))


def _verdict(worth: float, best: float) -> str:
    if worth >= min(best - NEAR, GOOD):
        return "works"
    return "may work" if worth >= HALF else "unlikely"


def _reason(family: str, stratum: str, tq: float) -> str:
    cells, value = MEANS[stratum][0], number(family_mean(family, stratum), 2)
    where = f"the paper's {cells} cells" + ("" if stratum == "all" else f" with {stratum}")
    if family == "imitation":
        more = f"; {value} on average in {where}" if tq > HIGH_TQ else ""
        return f"It repeats the behaviour: about TQ = {number(tq, 2)}, which it follows (r = {R_BC_TQ}){more}."
    told = {"SACo": "It follows coverage, not quality", "either": "It did well where either measure is high"}
    return f"{told[GOVERNED_BY[family]]}: {value} on average in {where}."


def _sentence(family: str, tq: float, saco: float) -> str:
    place = f"TQ {number(tq, 2)}, SACo {number(saco, 2)}"
    methods = ", ".join(FAMILIES[family])
    why = {
        "imitation": "The behaviour is good enough to be repeated, and nothing did clearly better on data like these.",
        "off-policy Q-learning": "Coverage is wide enough for plain Q-learning, which did about as well as the "
        "constrained methods.",
        "constrained methods": "Neither the behaviour nor coverage is good enough for the simpler families; methods "
        "that stay near the data did best.",
    }
    told = f"Begin with {family} ({methods}): {place}. {why[family]}"
    if tq < USELESS_TQ and saco < LOW_SACO:
        told += " Behaviour is near random and coverage small: better or wider data would help more than any method."
    return told


def _limits(tq: float, saco: float, discrete: bool) -> tuple[str, ...]:
    out = [
        "The evidence is from six small tasks with discrete actions, in 8 to 30 cells a stratum; the thresholds are "
        "those of a table, not laws.",
        "The paper counts the best checkpoint of each run, which an offline user cannot know.",
        "SACo says nothing of a world's own randomness.",
    ]
    moved = ((tq + a, saco + b) for a, b in ((NEAR, 0), (-NEAR, 0), (0, NEAR), (0, -NEAR)))
    if others := sorted({simplest(*place) for place in moved} - {simplest(tq, saco)}):
        out.insert(0, f"A threshold is near: {NEAR} more or less in TQ or SACo, and it would be {' or '.join(others)}.")
    if not discrete:
        out.append("Actions here are continuous: read BC, TD3 or SAC, and TD3+BC, IQL or CQL for the families.")
    if not (-0.2 <= tq <= 1.2 and saco <= 1.5):
        out.append("The log lies outside of what the paper saw; the advice extrapolates.")
    return tuple(out)


def as_json(advice: Advice) -> dict[str, Any]:
    """An advice as JSON values."""
    families = [
        {
            "family": j.family,
            "methods": list(j.methods),
            "verdict": j.verdict,
            "expected": j.expected,
            "evidence": j.evidence,
            "reason": j.reason,
        }
        for j in advice.judged
    ]
    return {"family": advice.family, "sentence": advice.sentence, "like": list(advice.strata), "families": families,
            "limits": list(advice.limits)}  # fmt: skip
