"""The arms and claims of Part B, written down before its first run, and what measures each.

All comparisons are paired over seeds: a seed fixes labels, flips, data order and evaluation noise, so two arms of one
seed differ in their loss alone. Selection of a setting uses the likelihood of noisy validation labels, which needs no
clean label. Leaves out: running arms (`sentiment`), drawing (`sentiment_show`).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steersman.stats import permutation_test, t_interval
from steersman.study.declare import Arm, Cell, Claim, Finding, ModeName, Result

PART = "sentiment"
LR = 6e-4  # chosen from trials of DPO on seed 0 (1e-4 to 1e-3); one rDPO run, at 1e-3, had been seen by then
BETAS = (0.03, 0.1, 0.3)
RATE = 0.3
SEEDS: dict[str, int] = {"quick": 3, "full": 10}
SIZE = {"steps": 60, "batch": 64}
OFTEN, SELDOM = 10, 20  # steps between evaluations: often where courses are compared at equal KL
SAME = "pairs, labels and flips, data order, gradient steps, learning rate, beta, reference, evaluation noise"

Array = np.ndarray[Any, np.dtype[Any]]
Settings = tuple[str, float]  # (labels, flip rate)
BT: Settings = ("bradley_terry", RATE)


def arm(loss: str, beta: float = 0.1, lr: float = LR, clean: bool = False, name: str = "") -> Arm:
    """An arm of Part B; losses that take a flip rate are told the true one (lexicon: the audited one)."""
    scale = "tau" if loss.endswith("ipo") else "beta"
    settings: dict[str, Any] = {"kind": loss, scale: beta}
    if loss in ("cdpo", "rdpo", "ripo", "forward_corrected_dpo"):
        settings["flip_rate"] = "true"
    optim = {"lr": lr, "schedule": "linear", "warmup": 0.1}
    return Arm(name or loss, {"loss": settings, "optim": optim, "clean": clean}, MEANINGS.get(name or loss, ""))


MEANINGS = {
    "dpo": "DPO, beta .1",
    "rdpo": "rDPO, beta .1, told the flip rate",
    "cdpo": "conservative DPO, beta .1, told the flip rate",
    "fwd": "forward-corrected DPO, beta .1, told the flip rate",
    "dpo lr": "DPO at learning rate / (1 - 2 eps), rDPO's initial step size",
    "dpo clean": "DPO on the same labels without flips: a ceiling",
}
DPO, RDPO, CDPO = arm("dpo"), arm("rdpo"), arm("cdpo")
FWD = arm("forward_corrected_dpo", name="fwd")
DPO_LR = arm("dpo", lr=LR / (1 - 2 * RATE), name="dpo lr")
CLEAN = arm("dpo", clean=True, name="dpo clean")
DPO_BETAS = tuple(DPO if b == 0.1 else arm("dpo", b, name=f"dpo b{b:g}") for b in BETAS)
RDPO_BETAS = tuple(RDPO if b == 0.1 else arm("rdpo", b, name=f"rdpo b{b:g}") for b in BETAS)
IPO, RIPO = arm("ipo"), arm("ripo")


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of Part B, seed by seed, so that an interrupted study has whole pairs."""
    if mode == "gpu":
        return ()
    rates: list[tuple[Settings, tuple[Arm, ...]]] = [(BT, (DPO, RDPO, CDPO))]
    if mode == "full":
        betas = tuple(one for one in (*DPO_BETAS, *RDPO_BETAS) if one not in (DPO, RDPO))
        rates = [
            (BT, (DPO, RDPO, CDPO, FWD, DPO_LR, CLEAN, *betas, IPO, RIPO)),
            (("bradley_terry", 0.2), (DPO, RDPO)),
            (("bradley_terry", 0.4), (DPO, RDPO)),
            (("sign", RATE), (DPO, RDPO)),
            (("lexicon", 0.0), (DPO, RDPO, FWD)),
        ]
    return tuple(
        Cell(PART, one, _task((labels, rate), one), seed, ("gold", "base", "world"))
        for seed in range(SEEDS[mode] + extra_seeds)
        for (labels, rate), arms in rates
        for one in arms
    )


def _task(world: Settings, one: Arm) -> dict[str, Any]:
    every = OFTEN if world == BT and one in (DPO, RDPO) else SELDOM
    return {"labels": world[0], "flip_rate": world[1], **SIZE, "evaluate_every": every}


class Runs:
    """Results of Part B by (labels, flip rate), arm and seed."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.found: dict[Settings, dict[str, dict[int, Mapping[str, Any]]]] = {}
        for r in results:
            if r.cell.part == PART:
                key = (str(r.cell.task["labels"]), float(r.cell.task["flip_rate"]))
                self.found.setdefault(key, {}).setdefault(r.cell.arm.name, {})[r.cell.seed] = r.value

    def of(self, world: Settings, name: str) -> dict[int, Mapping[str, Any]]:
        """Seed -> result of one arm; empty where it was not run."""
        return self.found.get(world, {}).get(name, {})

    def selected(self, world: Settings, names: Sequence[str]) -> dict[int, Mapping[str, Any]]:
        """Seed -> result of the arm whose noisy validation labels are most likely; needs all of them."""
        seeds = set.intersection(*(set(self.of(world, n)) for n in names)) if names else set()
        options = {s: [self.of(world, n)[s] for n in names] for s in seeds}
        return {s: max(found, key=lambda v: float(v["last"]["likelihood"])) for s, found in options.items()}


def last(metric: str) -> Callable[[Mapping[str, Any]], float]:
    """The last evaluation's value of a metric."""
    return lambda value: float(value["last"][metric])


def paired(
    a: Mapping[int, Mapping[str, Any]],
    b: Mapping[int, Mapping[str, Any]],
    metric: Callable[[Mapping[str, Any]], float] = last("gold"),
    *,
    equal: str = SAME,
    detail: str = "",
) -> Finding | None:
    """a minus b in a metric over the seeds both have: t interval, exact one-sided sign-flip permutation tests."""
    seeds = sorted(set(a) & set(b))
    if len(seeds) < 2:
        return None
    x, y = (np.array([metric(arm[s]) for s in seeds]) for arm in (a, b))
    keep = np.isfinite(x) & np.isfinite(y)
    if keep.sum() < 2:
        return None
    x, y = x[keep], y[keep]
    if not keep.all():
        detail = f"{detail} {int((~keep).sum())} of {len(keep)} seeds have no common KL and are left out.".strip()
    p_for, p_against = (permutation_test(x, y, alternative=side).p_value for side in ("greater", "less"))
    return Finding(
        t_interval(x - y),
        len(x),
        p_for,
        p_against,
        test="paired sign-flip permutation test over seeds, one-sided",
        equal=equal,
        reference=0.0,
        unit="gold score (log-odds)",
        detail=detail or f"Means {x.mean():+.3f} and {y.mean():+.3f}.",
    )


def same_settings(rate: float, labels: str = "bradley_terry") -> Callable[[Sequence[Result]], Finding | None]:
    """rDPO minus DPO with the same hyperparameters."""

    def measure(results: Sequence[Result]) -> Finding | None:
        runs = Runs(results)
        return paired(runs.of((labels, rate), "rdpo"), runs.of((labels, rate), "dpo"))

    return measure


def against(name: str, equal: str = SAME) -> Callable[[Sequence[Result]], Finding | None]:
    """rDPO minus another arm at the main flip rate."""

    def measure(results: Sequence[Result]) -> Finding | None:
        runs = Runs(results)
        return paired(runs.of(BT, "rdpo"), runs.of(BT, name), equal=equal)

    return measure


def tuned(results: Sequence[Result]) -> Finding | None:
    """Both losses with beta chosen by noisy validation likelihood; the oracle's choice is told beside it."""
    runs = Runs(results)
    a, b = ([one.name for one in arms] for arms in (RDPO_BETAS, DPO_BETAS))
    if not all(runs.of(BT, n) for n in (*a, *b)):
        return None
    best = [{n: float(np.mean([last("gold")(v) for v in runs.of(BT, n).values()])) for n in names} for names in (a, b)]
    oracle = " and ".join(f"{max(x, key=lambda n: x[n])} ({max(x.values()):+.3f})" for x in best)
    told = f"Chosen by an oracle on the gold score itself: {oracle}."
    equal = "pairs, labels and flips, data order, gradient steps, learning rate; beta chosen from .03, .1, .3 for each"
    return paired(runs.selected(BT, a), runs.selected(BT, b), equal=equal, detail=told)


def matched_kl(results: Sequence[Result]) -> Finding | None:
    """Gold score at the same KL, half of what both arms reach: courses from the base policy on, interpolated."""
    runs = Runs(results)
    a, b = runs.of(BT, "rdpo"), runs.of(BT, "dpo")
    seeds = sorted(set(a) & set(b))
    if not seeds:
        return None
    common = {s: 0.5 * min(max(p["kl"] for p in arm[s]["course"]) for arm in (a, b)) for s in seeds}
    at = [{s: {"last": {"gold": gold_at(arm[s]["course"], common[s])}} for s in seeds} for arm in (a, b)]
    equal = f"KL to the reference (mean {np.mean(list(common.values())):.2f} nats a response), pairs, labels and flips"
    return paired(at[0], at[1], equal=equal)


def gold_at(course: Sequence[Mapping[str, float]], kl: float) -> float:
    """Gold score where a run's course first reaches a KL, by linear interpolation; NaN where it never does."""
    for before, after in itertools.pairwise(course):
        if before["kl"] <= kl <= after["kl"] and after["kl"] > before["kl"]:
            share = (kl - before["kl"]) / (after["kl"] - before["kl"])
            return before["gold"] + share * (after["gold"] - before["gold"])
    return float("nan")


def lexicon(results: Sequence[Result]) -> Finding | None:
    """rDPO minus DPO on labels from a sentiment lexicon."""
    runs, world = Runs(results), ("lexicon", 0.0)
    rates = [float(v["assumed_rate"]) for v in runs.of(world, "rdpo").values()]
    told = f"Assumed rate {np.mean(rates):.3f}, the lower end of an audit of 200 pairs." if rates else ""
    return paired(runs.of(world, "rdpo"), runs.of(world, "dpo"), detail=told)


FULL = {"full": SEEDS["full"]}
BOTH = {"quick": SEEDS["quick"], "full": SEEDS["full"]}


def _claim(
    id: str, text: str, paper: str, measure: Callable[[Sequence[Result]], Finding | None], pairs: Mapping[str, int]
) -> Claim:
    return Claim(id, text, paper, measure, (PART,), pairs, "greater")


ABSTRACT, OURS = "abstract: more robust than DPO under noise (IMDb)", "our control"
CLAIMS: tuple[Claim, ...] = (
    _claim("C4a", "At 30 % flips rDPO writes higher-scored text than DPO with the same settings",
           ABSTRACT, same_settings(RATE), BOTH),
    _claim("C4b", "The same at 20 % flips", ABSTRACT, same_settings(0.2), FULL),
    _claim("C4c", "The same at 40 % flips", ABSTRACT, same_settings(0.4), FULL),
    _claim("C4d", "At 30 % flips rDPO writes higher-scored text than cDPO with the same settings",
           "abstract: more robust than practitioners' heuristics", against("cdpo"), BOTH),
    _claim("C4e", "At 30 % flips it still does once beta is tuned for both, without clean labels",
           OURS, tuned, FULL),
    _claim("C4f", "At 30 % flips it still does against DPO at rDPO's initial step size, lr / (1 - 2 eps)",
           OURS, against("dpo lr", "pairs, labels and flips, data order, steps, beta, initial step size"), FULL),
    _claim("C4g", "At 30 % flips it still does at equal KL to the reference", OURS, matched_kl, FULL),
    _claim("C4h", "With labels that are always right before 30 % are flipped it still does",
           OURS, same_settings(RATE, "sign"), FULL),
    _claim("C6b", "At 30 % flips rDPO writes higher-scored text than forward correction",
           "no statement in the abstract; open", against("fwd"), FULL),
    _claim("C8", "With labels from a sentiment lexicon, whose errors depend on the text, rDPO beats DPO",
           "outside the paper's noise model", lexicon, FULL),
)  # fmt: skip
