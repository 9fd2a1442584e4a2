"""The claims of the CEPO study, written down before its first run, and what measures each.

Known before they were written: the paper's tables; a prototype's figures (mean |delta| on running sums over that on
fillers 330 for CEPO and 73 for RLSD; accuracy after 40 batches .70 to .71 for GRPO, RLSD and CEPO alike on four seeds,
.95 for a six times larger rate; mean delta -0.53 at the error and -0.72 at other steps of wrong responses). The exact
world (`coin`) was computed while it was written. No setting was chosen by a run of this study. S0, C4e and N4 were
declared after the first quick run, which showed that the policy uses a told answer at the last running sum alone.
Seeds, or prompts where evidence is compared, are the units of every test. Leaves out: arms (`arms`), tests
(`rl_evidence`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from steersman.stats import paired_bootstrap
from steersman.studies.cepo.names import FAST, PARTS
from steersman.studies.rl_curves import final_gaps, gain, pairs, runs_of
from steersman.studies.rl_evidence import above, mean
from steersman.study.declare import Claim, Finding, Result

LEARNT = 0.1
"""What GRPO must gain for comparisons with it to mean anything."""
FINDS = 0.75
"""Area under the curve from which evidence is said to find an error."""
TIMES = 10.0
CHEAP = 1.25
"""The paper's own figure is 1.10."""
EXACT = 1e-9
NEAR = 1e-6
MAIN, NOISE, EVIDENCE, COIN = (PARTS[k] for k in ("main", "noise", "evidence", "coin"))
EQUAL = "learning rate, batches, prompts and responses drawn"

Measure = Callable[[Sequence[Result]], Finding | None]


def value_of(results: Sequence[Result], part: str) -> Mapping[str, Any] | None:
    """What a part that is a single run returned."""
    found = [r.value for r in results if r.cell.part == part]
    return found[0] if found else None


def log_ratios(prompts: Mapping[str, Sequence[float]], of: str = "decisive", to: str = "filler") -> list[float]:
    """log of mean |delta| on one kind of token over that on another, prompt by prompt."""
    return [math.log(a / b) for a, b in zip(prompts[of], prompts[to], strict=True) if a > 0 and b > 0]


def sits(results: Sequence[Result]) -> Finding | None:
    """C1."""
    found = value_of(results, EVIDENCE)
    if found is None:
        return None
    cepo, rlsd = (log_ratios(found["prompts"][m]) for m in ("cepo", "rlsd"))
    if len(cepo) != len(rlsd) or len(cepo) < 2:
        return None
    told = ", ".join(f"{m} {ratio(found['prompts'][m]):.3g}" for m in ("cepo", "rlsd"))
    tested = above([a - b for a, b in zip(cepo, rlsd, strict=True)], 0.0, unit="log ratio", counted="prompts",
                   equal="responses", detail=f"Ratio of means over prompts: {told}.")  # fmt: skip
    assert tested is not None
    interval = paired_bootstrap(cepo, rlsd)
    return replace(tested, estimate=interval, test="one-sided t test over prompts; bootstrap interval")


def ratio(prompts: Mapping[str, Sequence[float]]) -> float:
    """Mean |delta| on running sums over that on fillers."""
    return mean(prompts["decisive"]).value / mean(prompts["filler"]).value


def sharp(results: Sequence[Result]) -> Finding | None:
    """C2."""
    found = value_of(results, EVIDENCE)
    if found is None:
        return None
    bad, tokens = found["sharpness"]
    return Finding(None, tokens, holds=bad == 0, counted="tokens", test="exact comparison, token by token",
                   detail=f"{bad} violations.")  # fmt: skip


def localises(method: str) -> Measure:
    """C3."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = value_of(results, EVIDENCE)
        if found is None:
            return None
        exact, signed, bayes = (
            found[k][n] for k, n in (("auc", f"exact {method}"), ("signed", method), ("bayes", method))
        )
        told = ", ".join(f"{p} {x:+.2f}" for p, x in signed.items() if x is not None)
        detail = f"Exact evidence: {mean(exact).value:.3f}. Mean delta: {told}." if exact else ""
        detail += "" if bayes is None else f" Correlation with exact evidence on running sums: {bayes:.2f}."
        return above(found["auc"][method], FINDS, unit="area under the curve", counted="prompts", detail=detail)

    return measure


def learns(results: Sequence[Result]) -> Finding | None:
    """G0."""
    return above([gain(v) for v in runs_of(results, "grpo", MAIN).values()], LEARNT, unit="accuracy gained")


def ends_above(a: str, b: str, part: str = MAIN, equal: str = EQUAL) -> Measure:
    """Arm `a` minus arm `b` on the judged prompts at the end."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above(final_gaps(results, a, b, part), 0.0, unit="accuracy", equal=equal)

    return measure


def gains(arm: str) -> Measure:
    """What an arm gains over the policy it started from."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above([gain(v) for v in runs_of(results, arm, MAIN).values()], 0.0, unit="accuracy gained")

    return measure


def rate_matters(results: Sequence[Result]) -> Finding | None:
    """C5: (GRPO at five times the rate - GRPO) - 10 (CEPO - GRPO), seed by seed."""
    fast, cepo = (final_gaps(results, a, "grpo", MAIN) for a in (FAST, "cepo"))
    if len(fast) != len(cepo) or len(fast) < 2:
        return None
    told = f"Five times the rate {mean(fast).value:+.3f}, CEPO {mean(cepo).value:+.3f}."
    return above([f - TIMES * c for f, c in zip(fast, cepo, strict=True)], 0.0, unit="accuracy", detail=told,
                 equal="batches, prompts and responses drawn, not the learning rate")  # fmt: skip


def exactly(holds: Callable[[Mapping[str, Any]], tuple[bool, str]]) -> Measure:
    """C6: a statement about the world of two tokens."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = value_of(results, COIN)
        if found is None:
            return None
        good, told = holds(found)
        return Finding(None, 16, holds=good, counted="cases", test="sum over all cases", detail=told)

    return measure


def plateau(v: Mapping[str, Any]) -> tuple[bool, str]:
    """OPSD's loss ends at its least value and the policy at the coin's chance."""
    x = v["opsd"]["coin"]
    good = abs(x["loss"] - x["least"]) < NEAR and abs(x["bit"] - 0.5) < NEAR
    return good, f"Loss {x['loss']:.4f}, least {x['least']:.4f} (log 2 less what is not sure), P(1) {x['bit']:.4f}."


def still(v: Mapping[str, Any]) -> tuple[bool, str]:
    """Expected gradients at the coin vanish at one half."""
    g = {m: x[0] for m, x in v["gradient"].items()}
    return all(abs(x) < EXACT for x in g.values()), ", ".join(f"{m} {x:.1e}" for m, x in g.items()) + "."


def untouched(v: Mapping[str, Any]) -> tuple[bool, str]:
    """Expected gradients at the coin vanish at the untrained policy."""
    g = {m: x[1] for m, x in v["gradient"].items()}
    told = ", ".join(f"{m} {x:+.4f}" for m, x in g.items())
    return all(abs(x) < EXACT for x in g.values()), f"At P(1) = {v['start']['bit']}: {told}."


def benign(v: Mapping[str, Any]) -> tuple[bool, str]:
    """Without a coin OPSD makes the policy right and leaves its habit."""
    x = v["opsd"]["benign"]
    return x["right"] > 0.99 and abs(x["bit"] - v["start"]["bit"]) < NEAR, f"P(right) ends at {x['right']:.3f}."


def below(v: Mapping[str, Any]) -> tuple[bool, str]:
    """With the coin OPSD ends below the untrained policy, without it above."""
    told = ", ".join(f"{w} {a:.3f} -> {b:.3f}" for w, (a, b) in v["value"].items())
    (coin, fallen), (plain, risen) = (v["value"][w] for w in ("coin", "benign"))
    return fallen < coin and risen > plain, f"{told}."


def cheap(results: Sequence[Result]) -> Finding | None:
    """C7: CPU seconds of CEPO's runs over GRPO's, seed by seed; the reference has the side of the claim."""
    grpo, cepo = runs_seconds(results, "grpo"), runs_seconds(results, "cepo")
    ratios = [cepo[s] / grpo[s] for s in grpo if s in cepo]
    if len(ratios) < 2:
        return None
    work = [_work(b) / _work(a) for a, b in pairs(results, "grpo", "cepo", MAIN)]
    detail = f"Arithmetic (2 a token drawn or scored, 6 a token learnt from): {mean(work).value:.3f}."
    return above([CHEAP - r for r in ratios], 0.0, unit=f"{CHEAP} less the ratio of CPU seconds",
                 detail=f"Ratio {mean(ratios).value:.3f}. {detail}", equal=EQUAL)  # fmt: skip


def runs_seconds(results: Sequence[Result], arm: str) -> dict[int, float]:
    """CPU seconds of an arm's runs by seed."""
    found = [r for r in results if r.cell.part == MAIN and r.cell.arm.name == arm and "cpu_seconds" in r.timing]
    return {r.cell.seed: float(r.timing["cpu_seconds"]) for r in found}


def _work(value: Mapping[str, Any]) -> float:
    drawn, scored = (sum(value["batches"][k]) for k in ("tokens", "scored"))
    return float(2 * drawn + 2 * scored + 6 * drawn)


def _claim(id: str, text: str, paper: str, measure: Measure, part: str = MAIN) -> Claim:
    return Claim(id, text, paper, measure, (part,))


PAPER, CONTROL, PREDICTED = "arXiv 2605.19436", "our control", "our prediction"
CLAIMS: tuple[Claim, ...] = (
    _claim("C1", "Evidence sits on the decisive tokens, more with CEPO than with RLSD", f"{PAPER}: evidence",
           sits, EVIDENCE),
    _claim("C2", "CEPO credits more than RLSD exactly where P- < P_S, and blames more exactly where P- > P_S",
           f"{PAPER}: sharpness", sharp, EVIDENCE),
    _claim("C3", f"In wrong responses CEPO finds the first wrong step: area above {FINDS}; we predict that it fails",
           f"{PAPER}: credit at decisive tokens", localises("cepo"), EVIDENCE),
    _claim("C3r", f"So does RLSD: area above {FINDS}; we predict that it fails", PREDICTED, localises("rlsd"),
           EVIDENCE),
    _claim("G0", f"GRPO learns: it gains more than {LEARNT}", "our testbed", learns),
    _claim("C4", "CEPO is more accurate than GRPO", f"{PAPER}: 43.43 against 41.17 (2B)", ends_above("cepo", "grpo")),
    _claim("C4r", "CEPO is more accurate than RLSD", f"{PAPER}: 43.43 against 40.05 (the five numbers average 40.97)",
           ends_above("cepo", "rlsd")),
    _claim("C4s", "CEPO is more accurate than with the same evidence at random tokens", CONTROL,
           ends_above("cepo", "cepo shuffled")),
    _claim("C4o", "Credit by the truth is more accurate than GRPO: there is something to gain", CONTROL,
           ends_above("oracle", "grpo")),
    _claim("C4e", "With exact evidence CEPO is more accurate than GRPO", CONTROL, ends_above("cepo exact", "grpo")),
    _claim("C4w", "A response's own wrong answer is better than the worst response's", "our question",
           ends_above("cepo own", "cepo")),
    _claim("C4m", "The most frequent wrong answer is better than the worst response's", "our question",
           ends_above("cepo modal", "cepo")),
    _claim("N1", "With eight fillers a step CEPO is more accurate than GRPO", f"{PAPER}: credit in long responses",
           ends_above("cepo", "grpo", NOISE), NOISE),
    _claim("N2", "With eight fillers a step CEPO is more accurate than RLSD", PAPER,
           ends_above("cepo", "rlsd", NOISE), NOISE),
    _claim("N3", "With eight fillers a step credit by the truth is more accurate than GRPO", CONTROL,
           ends_above("oracle", "grpo", NOISE), NOISE),
    _claim("N4", "With eight fillers a step and exact evidence CEPO is more accurate than GRPO", CONTROL,
           ends_above("cepo exact", "grpo", NOISE), NOISE),
    _claim("C5", f"Five times the learning rate gains {TIMES:.0f} times what CEPO does", PREDICTED, rate_matters),
    _claim("S0", "OPSD gains where the answer is a function of the prompt", PREDICTED, gains("opsd")),
    _claim("S1", "OPSD is less accurate than GRPO", f"{PAPER}: 34.96 against 41.17 (2B)", ends_above("grpo", "opsd")),
    _claim("S2", "SDPO is less accurate than GRPO", f"{PAPER}: 35.70 against 41.17 (2B)", ends_above("grpo", "sdpo")),
    _claim("C6a", "Hidden coin: OPSD's loss ends at log 2 and its policy at one half", PREDICTED, exactly(plateau),
           COIN),
    _claim("C6b", "Hidden coin: at one half RLSD and CEPO leave the coin's token alone in expectation", PREDICTED,
           exactly(still), COIN),
    _claim("C6c", "Hidden coin: so they do at the untrained policy", f"{PAPER}: no leak", exactly(untouched), COIN),
    _claim("C6d", "Without a coin OPSD makes the policy right", PREDICTED, exactly(benign), COIN),
    _claim("C6e", "With it OPSD falls below the untrained policy where the usual beginning is wanted, else it rises",
           f"{PAPER}: below the untrained model", exactly(below), COIN),
    _claim("C7", f"A run of CEPO costs less than {CHEAP} times one of GRPO", f"{PAPER}: 6 h 34 against 5 h 58",
           cheap),
)  # fmt: skip
