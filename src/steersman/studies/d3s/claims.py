"""The claims of the D3S study, written down before its first run, and what measures each.

Known before they were written: the paper's tables, and the figures of a prototype of seven arms with two seeds (40
batches, another architecture): norms GRPO < PODS < D1S < D1S-Cross < D2S; accuracy .69 for GRPO, .67 for a quarter of
the rows, .61 for D2S, .65 for D3S; 80 % of D2S's tokens were fillers. No setting was chosen by a run of this study.
Seeds, or batches where gradients are compared, are the units of every test. Leaves out: arms (`arms`), tests
(`rl_evidence`).
"""

import itertools
from collections.abc import Callable, Sequence

from steersman.stats import t_interval
from steersman.studies.d3s.names import PARTS
from steersman.studies.rl_curves import final_gaps, gain, gaps, runs_of
from steersman.studies.rl_evidence import above, all_above
from steersman.study.declare import Claim, Finding, Result

LEARNT = 0.1
"""What GRPO must gain for comparisons with it to mean anything."""
HALF = 0.5
NORMS = ("grpo", "pods", "d1s", "d1s_cross", "d2s")
MAIN, BARE, FOUR, GRADIENTS = (PARTS[k] for k in ("main", "bare", "four", "gradients"))
EQUAL = {
    "batch": "batches, prompts and tokens generated, not the tokens learnt from",
    "trained": "tokens learnt from, not the tokens generated",
    "same": "batches, tokens generated, and the number of rows learnt from",
    "tokens": "batches, tokens generated, rows and tokens learnt from",
    "rows": "batches, tokens generated, rows learnt from",
    "rows_generated": "batches, rows learnt from, not the tokens generated",
    "trained_about": "batches, tokens generated, and in all about the tokens learnt from",
}

Measure = Callable[[Sequence[Result]], Finding | None]


def methods_of(results: Sequence[Result]) -> dict[str, dict[str, list[float]]]:
    """Method -> what `gradients.run` reported of it; empty where it has not run."""
    found = [r.value["methods"] for r in results if r.cell.part == GRADIENTS]
    return dict(found[0]) if found else {}


def optimal(results: Sequence[Result]) -> Finding | None:
    """S1."""
    found = [r.value["optimal"] for r in results if r.cell.part == GRADIENTS]
    if not found:
        return None
    good, cases = found[0]
    return Finding(None, cases, holds=good == cases, counted="random cases", test="comparison with every subset",
                   detail=f"{good} of {cases} selections of at most 9 rows, half of them with ties.")  # fmt: skip


def ordered(results: Sequence[Result]) -> Finding | None:
    """N1: each norm above the one before it, batch by batch."""
    found = methods_of(results)
    if not found:
        return None
    steps = [
        (f"{b} - {a}", [y - x for x, y in zip(found[a]["norm"], found[b]["norm"], strict=True)], 0.0)
        for a, b in itertools.pairwise(NORMS)
    ]
    return all_above(steps, unit="gradient norm", counted="batches", equal="weights and rollouts")


def nearer(a: str, b: str) -> Measure:
    """N2 to N4: the cosine to the reference gradient, arm `a` minus arm `b`, batch by batch."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = methods_of(results)
        if not found:
            return None
        gap = [x - y for x, y in zip(found[a]["cosine"], found[b]["cosine"], strict=True)]
        ratios = {n: found[n]["snr"] for n in (a, b)}
        told = ", ".join(f"{n} {'undefined' if r is None else format(r, '.3g')}" for n, r in ratios.items())
        return above(gap, 0.0, unit="cosine", counted="batches", equal="weights and rollouts",
                     detail=f"Signal-to-noise ratio: {told}.")  # fmt: skip

    return measure


def learns(results: Sequence[Result]) -> Finding | None:
    """G0."""
    return above([gain(v) for v in runs_of(results, "grpo", MAIN).values()], LEARNT, unit="accuracy gained")


def ends_above(a: str, b: str, equal: str, part: str = MAIN) -> Measure:
    """Arm `a` minus arm `b` on the judged prompts at the end."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above(final_gaps(results, a, b, part), 0.0, unit="accuracy", equal=EQUAL[equal])

    return measure


def cheaper(a: str, b: str, part: str = MAIN) -> Measure:
    """Arm `a` minus arm `b` where both have learnt from as many tokens."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above(gaps(results, a, b, "trained", part), 0.0, unit="accuracy", equal=EQUAL["trained"])

    return measure


def mostly_fillers(results: Sequence[Result]) -> Finding | None:
    """F1: the share of fillers among D2S's tokens, mean over a run's batches."""
    shares = [[x for x in v["batches"]["filler"] if x is not None] for v in runs_of(results, "d2s", MAIN).values()]
    means = [sum(s) / len(s) for s in shares if s]
    of_all = [v["batches"]["filler"][0] for v in runs_of(results, "grpo", MAIN).values()]
    told = f"Of all tokens of a batch: {t_interval(of_all).value:.3f}." if len(of_all) > 1 else ""
    return above(means, HALF, unit="share of fillers", detail=told)


def _claim(id: str, text: str, paper: str, measure: Measure, part: str = MAIN) -> Claim:
    return Claim(id, text, paper, measure, (part,))


PAPER, CONTROL, PREDICTED = "arXiv 2509.22115", "our control", "our prediction"
CLAIMS: tuple[Claim, ...] = (
    _claim("S1", "The rows chosen have the largest variance of all sets of as many rows", PAPER, optimal, GRADIENTS),
    _claim("N1", "Norm of the first gradient: GRPO < PODS < D1S < D1S-Cross < D2S",
           f"{PAPER}: propositions 1 and 2, figure of norms", ordered, GRADIENTS),
    _claim("N2", "The larger norm is information: D1S-Cross points nearer to the true gradient than GRPO does",
           f"{PAPER}: learning from the informative rows", nearer("d1s_cross", "grpo"), GRADIENTS),
    _claim("N3", "So does D2S", f"{PAPER}: and the informative tokens", nearer("d2s", "grpo"), GRADIENTS),
    _claim("N4", "D1S-Cross points nearer to it than as many random rows do", CONTROL,
           nearer("d1s_cross", "random rows"), GRADIENTS),
    _claim("N5", "D2S points nearer to it than D1S-Cross with as many random tokens does", CONTROL,
           nearer("d2s", "d2s random tokens"), GRADIENTS),
    _claim("G0", f"GRPO learns: it gains more than {LEARNT}", "our testbed", learns),
    _claim("E1", "After as many batches D3S is more accurate than GRPO",
           f"{PAPER}: 34.3 against 29.8", ends_above("d3s", "grpo", "batch")),
    _claim("E2", "After as many batches D1S-Cross is more accurate than GRPO",
           f"{PAPER}: 34.1 against 29.8", ends_above("d1s_cross", "grpo", "batch")),
    _claim("E3", "After learning from as many tokens D3S is more accurate than GRPO",
           f"{PAPER}: fewer than 20 % of the tokens", cheaper("d3s", "grpo")),
    _claim("E4", "After learning from as many tokens D1S-Cross is more accurate than GRPO",
           PAPER, cheaper("d1s_cross", "grpo")),
    _claim("R1", "D1S-Cross is more accurate than as many random rows", CONTROL,
           ends_above("d1s_cross", "random rows", "same")),
    _claim("R2", "D3S is more accurate than as many random rows and tokens", CONTROL,
           ends_above("d3s", "d3s random", "tokens")),
    _claim("R3", "D1S-Cross is more accurate than a batch of a quarter of the size", CONTROL,
           ends_above("d1s_cross", "quarter batch", "rows_generated")),
    _claim("A1", "D1S-Cross is more accurate than D1S", f"{PAPER}: 34.1 against 31.3",
           ends_above("d1s_cross", "d1s", "same")),
    _claim("A2", "D3S is more accurate than PODS", f"{PAPER}: 34.3 against 34.1", ends_above("d3s", "pods", "batch")),
    _claim("A3", "D3S is more accurate than D3S-I", "our question", ends_above("d3s", "d3s_i", "tokens")),
    _claim("C1", "The schedule helps: D3S is more accurate than D2S", f"{PAPER}: 34.3 against 31.3",
           ends_above("d3s", "d2s", "batch")),
    _claim("C2", "It helps by more than its tokens: D3S is more accurate than D2S with as many tokens in all", CONTROL,
           ends_above("d3s", "d2s matched", "trained_about")),
    _claim("F1", "With fillers, which mean nothing, most tokens that D2S keeps are fillers", PREDICTED,
           mostly_fillers),
    _claim("F2", "With fillers tokens by |A| H are better than as many at random", PAPER,
           ends_above("d2s", "d2s random tokens", "tokens")),
    _claim("F3", "Without fillers tokens by |A| H are better than as many at random", PAPER,
           ends_above("d2s", "d2s random tokens", "tokens", BARE), BARE),
    _claim("F4", "With fillers the running sums alone are better than tokens by |A| H", PREDICTED,
           ends_above("d2s oracle", "d2s", "rows")),
    _claim("F5", "D3S is more accurate with |A| H than with H alone", PAPER,
           ends_above("d3s", "d3s entropy", "tokens")),
    _claim("F6", "D3S is more accurate with |A| H than with |A| alone", PAPER,
           ends_above("d3s", "d3s advantage", "tokens")),
    _claim("B1", "Without fillers, after as many batches D3S is more accurate than GRPO", PAPER,
           ends_above("d3s", "grpo", "batch", BARE), BARE),
    _claim("B2", "Without fillers, after learning from as many tokens D3S is more accurate than GRPO", PAPER,
           cheaper("d3s", "grpo", BARE), BARE),
    _claim("B3", "Without fillers D3S is more accurate than as many random rows and tokens", CONTROL,
           ends_above("d3s", "d3s random", "tokens", BARE), BARE),
    _claim("M1", "After as many batches GSPO with D3S is more accurate than GSPO", f"{PAPER}: 35.8, GSPO's not known",
           ends_above("gspo + d3s", "gspo", "batch", FOUR), FOUR),
    _claim("M2", "After learning from as many tokens GSPO with D3S is more accurate than GSPO",
           f"{PAPER}: 5.5 times as fast", cheaper("gspo + d3s", "gspo", FOUR), FOUR),
)  # fmt: skip
