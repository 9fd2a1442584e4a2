"""The claims of the PF-PPO study, and what measures each.

Written before the first version ran; known then: the paper's tables, the range-restriction null and one simulation of
it, how often two policies and two reward models are right. That version's quick size was seen, in which PPO learnt
nothing; this one keeps its claims, adds G0, and takes those about training for undecided where PPO does not learn: then
a filter that is ahead only follows a bad reward less far.
Seeds are the units of every test. Leaves out: arms (`arms`), tests (`rl_evidence`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.reward.reliability import CLOSED
from steersman.studies.pf_ppo.names import ALL, EXACT, RANDOM, RELIABILITY, SINGLE, STRATEGY_OF, TESTS, TRAINED
from steersman.studies.rl_curves import final, final_gaps, gain, gaps, pairs, runs_of
from steersman.studies.rl_evidence import above, all_above, within
from steersman.study.declare import Claim, Finding, Result
from steersman.study.plan import ALPHA

ORDER = ("bon", "none", "br", "bw")
"""Filters by R^2, as the paper's table has them."""
CLOSE = 0.01
"""Margin of R^2 between simulation and formula."""
MIDDLE, ENDS = slice(3, 7), (0, 1, 8, 9)
"""Tenths of the reward."""
MOST = 5
"""Fewest strategies that make a rank correlation."""
EASY, HARD = "3", "4"
"""Nodes of the shortest program."""
EQUAL = {
    "batch": "batches and responses drawn, not the tokens learnt from",
    "same": "batches, responses drawn, rows learnt from",
    "trained": "tokens learnt from, not the responses drawn",
    "responses": "responses drawn and learnt from, not the prompts",
}
Measure = Callable[[Sequence[Result]], Finding | None]


def measured(results: Sequence[Result]) -> list[Mapping[str, Any]]:
    """What `reliability.run` found, by seed."""
    return [r.value for r in sorted((r for r in results if r.cell.part == RELIABILITY), key=lambda r: r.cell.seed)]


def column(results: Sequence[Result], strategy: str, key: str) -> list[float]:
    """A number of a filter's line, by seed; NaN where it is not defined."""
    found = [v["table"][strategy][key] for v in measured(results)]
    return [math.nan if x is None else float(x) for x in found]


def unreliable_middle(results: Sequence[Result]) -> Finding | None:
    """C1: unexplained variance of the score at moderate rewards, less that at the ends."""
    curves = [[b["unexplained"] for b in v["curve"]] for v in measured(results)]
    gap = [float(np.mean(c[MIDDLE]) - np.mean([c[i] for i in ENDS])) for c in curves if len(c) == 10]
    return above(gap, 0.0, unit="variance of the score", equal="responses")


def order(results: Sequence[Result]) -> Finding | None:
    """C2: R^2 of each filter above that of the one before."""
    steps = _steps({k: column(results, k, "r2") for k in ORDER}, results)
    return all_above(steps, unit="R^2", equal="responses")


def order_by_range(results: Sequence[Result]) -> Finding | None:
    """C2': the same for a reward that is equally reliable everywhere."""
    steps = _steps({k: [v["simulated"][k] for v in measured(results)] for k in ORDER}, results)
    return all_above(steps, unit="R^2", equal="responses")


def _steps(by: Mapping[str, list[float]], results: Sequence[Result]) -> list[tuple[str, list[float], float]]:
    if not measured(results):
        return []
    return [(f"{b} - {a}", [y - x for x, y in zip(by[a], by[b], strict=True)], 0.0) for a, b in pairwise(ORDER)]


def formula(results: Sequence[Result]) -> Finding | None:
    """N1: simulated R^2 beside the formula's."""
    found = measured(results)
    settings = (
        [(k, [v["simulated"][k] for v in found], found[0]["expected"][k], CLOSE) for k in CLOSED] if found else []
    )
    return within(settings, unit="R^2")


def excess(results: Sequence[Result]) -> Finding | None:
    """C2'': R^2 of br and bw less what their range explains."""
    found = [(k, column(results, k, "excess"), 0.0) for k in ("br", "bw")] if measured(results) else []
    return all_above(found, unit="R^2 above its null", equal="responses")


def learns(part: str) -> Measure:
    """G0, G1: the gain of PPO on all five."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above([gain(v) for v in runs_of(results, ALL, part).values()], 0.0, unit="accuracy gained")

    return measure


def where_it_learns(measure: Measure, part: str = TRAINED) -> Measure:
    """The measure, unless PPO on all five of that part does not learn; then the claim is undecided.

    Not learning: its gain is not above 0 by a one-sided t test at alpha, alone and so without correction.
    """

    def measured_or_not(results: Sequence[Result]) -> Finding | None:
        found, plain = measure(results), learns(part)(results)
        if found is not None and plain is not None and not (plain.p_for is not None and plain.p_for < ALPHA):
            assert plain.estimate is not None
            i = plain.estimate
            told = f"PPO on all five gains {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}] in accuracy"
            raise UserError(f"precondition failed, {told}", where="pf-ppo", cure="Read the tables as they are.")
        return found

    return measured_or_not


def ahead(a: str, b: str, equal: str, part: str = TRAINED) -> Measure:
    """Accuracy of arm `a` minus arm `b` at the end, on the same prompts."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above(final_gaps(results, a, b, part), 0.0, unit="accuracy", equal=EQUAL[equal])

    return where_it_learns(measure, part)


def ahead_by_tokens(a: str, b: str) -> Measure:
    """Held-out accuracy of arm `a` minus arm `b` where both have learnt from as many tokens."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above(gaps(results, a, b, "trained", TRAINED), 0.0, unit="accuracy", equal=EQUAL["trained"])

    return where_it_learns(measure)


def ranks(key: str) -> Measure:
    """C5: Spearman's correlation of a filter's R^2 (or its null) with its accuracy at the end, by seed."""

    def measure(results: Sequence[Result]) -> Finding | None:
        from scipy.stats import spearmanr

        finals = {name: {s: final(v) for s, v in runs_of(results, name, TRAINED).items()} for name in STRATEGY_OF}
        names = [n for n, by_seed in finals.items() if by_seed]
        if len(names) < MOST or not measured(results):
            return None
        worth = [float(np.nanmean(column(results, STRATEGY_OF[n], key))) for n in names]
        seeds = sorted(set.intersection(*(set(finals[n]) for n in names)))
        found = [float(spearmanr(worth, [finals[n][s] for n in names]).statistic) for s in seeds]
        detail = f"{len(names)} strategies. By seed: " + ", ".join(f"{x:+.2f}" for x in found) + "."
        return above([x for x in found if not math.isnan(x)], 0.0, unit="rank correlation", detail=detail)

    return where_it_learns(measure)


def harder(results: Sequence[Result]) -> Finding | None:
    """C6: what bw gains on ppo-m at larger programs, less the same at smaller ones."""

    def at(value: Mapping[str, Any], size: str) -> float:
        right, n = value["by_size"][size]
        return float(right / n)

    found = [(at(a, HARD) - at(b, HARD)) - (at(a, EASY) - at(b, EASY)) for a, b in pairs(results, "bw", ALL, TRAINED)]
    return above(found, 0.0, unit="accuracy", equal=EQUAL["batch"])


PAPER = "arXiv 2409.06957"
T = (TRAINED,)
R = (RELIABILITY,)
CLAIMS: tuple[Claim, ...] = (
    Claim("C1", "The reward model is less reliable at moderate rewards than at the ends", f"{PAPER}, section 3",
          unreliable_middle, R),
    Claim("C2", "R^2 rises from best of five over no filter and best-random to best-worst", f"{PAPER}, table 1",
          order, R),
    Claim("C2'", "So it does for a reward that is equally reliable everywhere", "our control: restriction of range",
          order_by_range, R),
    Claim("N1", f"The formula of the null is right to {CLOSE}", "ours", formula, R),
    Claim('C2"', "R^2 of best-random and best-worst is larger than their range explains", "our control", excess, R),
    Claim("G0", "Paid by the tests themselves, PPO on all five responses learns", "what could be had", learns(TESTS),
          (TESTS,)),
    Claim("G1", "Paid by the reward model, PPO on all five responses learns", "precondition of what follows",
          learns(TRAINED), T),
    Claim("C3", "Best of five alone is worse than PPO with one response a prompt", f"{PAPER}, table 3",
          ahead(SINGLE, "bon", "batch"), T),
    Claim("C3'", "Best of five alone is worse than PPO on all five", f"{PAPER}, table 3",
          ahead(ALL, "bon", "batch"), T),
    Claim("C4a", "Best-random is more accurate than PPO on all five", f"{PAPER}, table 3",
          ahead("br", ALL, "batch"), T),
    Claim("C4b", "Best-worst is more accurate than PPO on all five", f"{PAPER}, table 3",
          ahead("bw", ALL, "batch"), T),
    Claim("C4c", "At equal trained tokens best-worst is more accurate than PPO on all five",
          f"{PAPER}: fewer gradient samples", ahead_by_tokens("bw", ALL), T),
    Claim("C4d", "Best-random is more accurate than two of five at random", "our control",
          ahead("br", RANDOM, "same"), T),
    Claim("C4e", "Best-worst is more accurate than two of five at random", "our control",
          ahead("bw", RANDOM, "same"), T),
    Claim("S1", "PPO on five responses a prompt is more accurate than on one", f"{PAPER}, table 3",
          ahead(ALL, SINGLE, "responses"), T),
    Claim("H1", "With a reward equally reliable everywhere best-worst is more accurate than PPO on all five too",
          "our control: contrast, not reliability", ahead("bw", ALL, "batch", EXACT), (EXACT,)),
    Claim("C5", "Over the strategies R^2 goes with accuracy at the end", f"{PAPER}, table 3", ranks("r2"), (*R, *T)),
    Claim("C5'", "So does its range-restriction null", "our control", ranks("null"), (*R, *T)),
    Claim("C6", "Best-worst gains more on PPO on all five where programs are larger", f"{PAPER}, section 5",
          where_it_learns(harder), T),
)  # fmt: skip
