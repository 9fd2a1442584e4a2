"""The claims of the study of combinations, written down before its first run, and what measures each.

Known before they were written: prototypes of ADORA and of D3S alone, two seeds each (ADORA no better than GRPO at equal
batches, D3S slightly worse at equal batches and ahead by tokens learnt from); nothing of PF-PPO on this task, and
nothing of a combination. No setting was chosen by a run of this study. Seeds are the units.
Leaves out: arms (`arms`), tests (`rl_evidence`).
"""

from collections.abc import Callable, Sequence

from steersman.studies.compose.names import COMBINED, METHODS, PLAIN, TRAINED
from steersman.studies.rl_curves import gain, gaps, runs_of
from steersman.studies.rl_evidence import above, all_above
from steersman.study.declare import Claim, Finding, Result

LEARNT = 0.05
"""What GRPO must gain for comparisons with it to mean anything."""
LOST = 0.03
"""Accuracy that a combination may lose at equal generated tokens and count as no worse."""
FEW = 0.1
"""Share of GRPO's tokens."""
EQUAL = {
    "tokens": "tokens generated, not the tokens learnt from",
    "trained": "tokens learnt from, not the tokens generated",
}
PAIRS = ("adora + pf-ppo", "adora + d3s", "pf-ppo + d3s")
Measure = Callable[[Sequence[Result]], Finding | None]


def learns(results: Sequence[Result]) -> Finding | None:
    """G1: the gain of plain GRPO."""
    return above([gain(v) for v in runs_of(results, PLAIN, TRAINED).values()], LEARNT, unit="accuracy gained")


def ahead(a: str, b: str, axis: str, margin: float = 0.0) -> Measure:
    """Arm `a` minus arm `b` is above -margin at equal tokens."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above(gaps(results, a, b, axis, TRAINED), -margin, unit="accuracy", equal=EQUAL[axis])

    return measure


def whole_beats_pairs(results: Sequence[Result]) -> Finding | None:
    """W1: all three minus each pair, at equal trained tokens; the weakest decides."""
    found = [(pair, gaps(results, COMBINED, pair, "trained", TRAINED), 0.0) for pair in PAIRS]
    return all_above(found, unit="accuracy", equal=EQUAL["trained"])


def few_tokens(results: Sequence[Result]) -> Finding | None:
    """T1: how far below `FEW` the combination's share of GRPO's trained tokens is."""
    whole, plain = (runs_of(results, name, TRAINED) for name in (COMBINED, PLAIN))
    share = [whole[s]["course"][-1]["trained"] / plain[s]["course"][-1]["trained"] for s in whole if s in plain]
    told = ", ".join(f"{x:.3f}" for x in share)
    return above([FEW - x for x in share], 0.0, unit="share below 0.1", equal="batches",
                 detail=f"Shares: {told}.")  # fmt: skip


def effects_add_up(results: Sequence[Result]) -> Finding | None:
    """A1: what the combination gains on GRPO, less the sum of what each method gains alone."""
    alone = [gaps(results, method, PLAIN, "tokens", TRAINED) for method in METHODS]
    whole = gaps(results, COMBINED, PLAIN, "tokens", TRAINED)
    rest = [w - sum(parts) for w, *parts in zip(whole, *alone, strict=True)] if all(alone) else []
    return above(rest, 0.0, unit="accuracy", equal=EQUAL["tokens"])


OURS = "our question"
TITLES = {"adora": "ADORA", "pf-ppo": "PF-PPO", "d3s": "D3S"}
PAPERS = {
    "adora": "arXiv 2602.10019: faster and better than GRPO",
    "pf-ppo": "arXiv 2409.06957: filtered PPO beats PPO on all samples",
    "d3s": "arXiv 2509.22115: better than GRPO at fewer tokens",
}
CLAIMS: tuple[Claim, ...] = (
    Claim("G1", f"Plain GRPO gains more than {LEARNT} in accuracy", "precondition of what follows", learns, (TRAINED,)),
    Claim("T1", "All three together learn from less than a tenth of GRPO's tokens", OURS, few_tokens, (TRAINED,)),
    *(
        Claim(f"E{i + 1}", f"At equal generated tokens {TITLES[m]} alone is more accurate than GRPO", PAPERS[m],
              ahead(m, PLAIN, "tokens"), (TRAINED,))
        for i, m in enumerate(METHODS)
    ),
    *(
        Claim(f"L{i + 1}", f"At equal trained tokens {TITLES[m]} alone is more accurate than GRPO", PAPERS[m],
              ahead(m, PLAIN, "trained"), (TRAINED,))
        for i, m in enumerate(METHODS[1:])
    ),
    Claim("C1", f"At equal generated tokens all three together lose less than {LOST} to GRPO", OURS,
          ahead(COMBINED, PLAIN, "tokens", LOST), (TRAINED,)),
    Claim("C2", "At equal trained tokens all three together are more accurate than GRPO", OURS,
          ahead(COMBINED, PLAIN, "trained"), (TRAINED,)),
    Claim("W1", "At equal trained tokens all three together are more accurate than each pair", OURS,
          whole_beats_pairs, (TRAINED,)),
    Claim("A1", "At equal generated tokens the whole gains more than the sum of what each gains alone", OURS,
          effects_add_up, (TRAINED,)),
)  # fmt: skip
