"""The claims of the presets' study, written down before its first run, and what measures each.

Margins and sizes were chosen after a pilot of every arm on seeds 900 to 904, which no size of the study uses. Seeds are
the units of every test but P1 and P2, which speak of each seed. Leaves out: arms and runs (`arms`), tests
(`rl_evidence`).
"""

from collections.abc import Callable, Sequence

import numpy as np

from steersman.studies.rl_curves import accuracy_at, common, final, gain, gaps, pairs, runs_of
from steersman.studies.rl_evidence import above, each_above, within
from steersman.study.declare import Claim, Finding, Result

PLAIN = "plain grpo"
ONE = (PLAIN, "grpo", "dr_grpo", "rloo", "reinforce_pp", "dapo")
FOUR = ("grpo x4", "gspo", "cispo", "sapo", "ppo")
"""Arms with one update of a batch, and with four; the first of each is what the others are compared with."""
PRESET_ARMS = {name: name.removesuffix(" x4") for name in (*ONE[1:], *FOUR)}
"""Arm -> preset."""
PARTS = ("one update", "four updates")

GOAL, GAIN, SAME = 0.95, 0.3, 0.02
REFERENCE = ((20, 0.844, 0.05), (40, 0.957, 0.03), (60, 0.982, 0.02))
"""Step, accuracy of the testbed's reference (one seed, another architecture), margin."""
LATE = 5
"""Batches at the end over which the share of silent groups is averaged."""

Measure = Callable[[Sequence[Result]], Finding | None]


def reaches(name: str) -> Measure:
    """P1, P2: the goal on each seed."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = [v["final"] for v in runs_of(results, name).values()]
        return each_above([k for k, _ in found], [n for _, n in found], GOAL, unit="accuracy")

    return measure


def shape(results: Sequence[Result]) -> Finding | None:
    """P3: accuracy at three steps against the reference."""
    found = list(runs_of(results, PLAIN).values())
    settings = [(f"step {s}", [accuracy_at(v, "batch", s) for v in found], at, m) for s, at, m in REFERENCE]
    return within(settings, unit="accuracy, less the reference's")


def learns(name: str) -> Measure:
    """L claims: the gain in accuracy."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = list(runs_of(results, name).values())
        ends = ", ".join(f"{final(v):.3f}" for v in found)
        detail = f"Accuracy at the end by seed: {ends}." if found else ""
        return above([gain(v) for v in found], GAIN, unit="accuracy gained", detail=detail)

    return measure


def ratio_of_tokens(results: Sequence[Result]) -> Finding | None:
    """D1: tokens that DAPO has generated for every token of plain GRPO, after equally many batches learnt from."""
    found = []
    for dapo, plain in pairs(results, "dapo", PLAIN):
        at = common(dapo, plain, "batch")
        spent = [float(np.interp(at, *zip(*((p["batch"], p["tokens"]) for p in v["course"]), strict=True)))
                 for v in (dapo, plain)]  # fmt: skip
        found.append(spent[0] / spent[1])
    return above(found, 1.0, unit="times as many tokens", equal="batches learnt from, not the tokens generated")


def dapo_ahead(axis: str, equal: str) -> Measure:
    """D2, D3: DAPO minus plain GRPO."""

    def measure(results: Sequence[Result]) -> Finding | None:
        return above(gaps(results, "dapo", PLAIN, axis), 0.0, unit="accuracy", equal=equal)

    return measure


def only_signal(results: Sequence[Result]) -> Finding | None:
    """D4: groups without a signal among those that DAPO learns from."""
    batches = [n for v in runs_of(results, "dapo").values() for n in v["batches"]["silent_kept"]]
    if not batches:
        return None
    bad = sum(n != 0 for n in batches)
    detail = f"{bad} of {len(batches)} batches had a group whose scores were all equal."
    return Finding(None, len(batches), holds=bad == 0, detail=detail, counted="batches")


def silent(results: Sequence[Result]) -> Finding | None:
    """Z1: share of plain GRPO's groups that teach nothing, at the end."""
    late = [float(np.mean(v["batches"]["zero_signal"][-LATE:])) for v in runs_of(results, PLAIN).values()]
    return above(late, 0.5, unit="share of groups")


def as_good(name: str) -> Measure:
    """F claims: final accuracy beside clipped GRPO's with the same four updates."""

    def measure(results: Sequence[Result]) -> Finding | None:
        gap = [final(a) - final(b) for a, b in pairs(results, name, FOUR[0])]
        return within([(name, gap, 0.0, SAME)], unit="accuracy")

    return measure


def _claim(id: str, text: str, paper: str, measure: Measure, parts: tuple[str, ...]) -> Claim:
    return Claim(id, text, paper, measure, parts)


TITLES = {
    "dr_grpo": "Dr.GRPO",
    "rloo": "RLOO",
    "reinforce_pp": "REINFORCE++",
    "dapo": "DAPO",
    "ppo": "PPO",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "sapo": "SAPO",
}
OURS, REF = "our testbed", "the testbed's reference: .844, .957, .982 at steps 20, 40, 60"
CLAIMS: tuple[Claim, ...] = (
    _claim("P1", "Plain GRPO climbs from about 0.54 to at least 0.95 within 60 steps on each seed",
           REF, reaches(PLAIN), PARTS[:1]),
    _claim("P2", "So does the preset grpo, with its KL", OURS, reaches("grpo"), PARTS[:1]),
    _claim("P3", "Plain GRPO's accuracy at steps 20, 40, 60 is the reference's to within .05, .03, .02",
           REF, shape, PARTS[:1]),
    *(
        _claim(f"L{i + 1}", f"{title} learns: its accuracy rises by more than {GAIN}", "each method's own paper",
               learns(name), (PARTS[name in FOUR],))
        for i, (name, title) in enumerate(TITLES.items())
    ),
    _claim("D1", "DAPO generates more tokens than GRPO for as many batches",
           "arXiv 2503.14476: dynamic sampling draws until the batch is full", ratio_of_tokens, PARTS[:1]),
    _claim("D2", "At equal batches DAPO is more accurate than plain GRPO",
           "arXiv 2503.14476: fewer steps", dapo_ahead("batch", "batches learnt from, not the tokens generated"),
           PARTS[:1]),
    _claim("D3", "At equal generated tokens DAPO is more accurate than plain GRPO",
           "our control", dapo_ahead("tokens", "tokens generated, not the updates"), PARTS[:1]),
    _claim("D4", "Every group that DAPO learns from has right and wrong answers",
           "arXiv 2503.14476, equation 11", only_signal, PARTS[:1]),
    _claim("Z1", "At the end most of plain GRPO's groups teach nothing: all right or all wrong",
           OURS, silent, PARTS[:1]),
    *(
        _claim(f"F{i + 1}", f"With four updates of a batch {TITLES[name]} ends within {SAME} of clipped GRPO",
               OURS, as_good(name), PARTS[1:])
        for i, name in enumerate(("gspo", "cispo", "sapo"))
    ),
)  # fmt: skip
