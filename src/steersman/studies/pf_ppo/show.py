"""Figures, tables and the sentence of the PF-PPO study. Leaves out: drawing (`page`)."""

from collections.abc import Sequence

import numpy as np

from steersman.page.figures import Panel
from steersman.studies.pf_ppo.claims import column, measured
from steersman.studies.pf_ppo.names import ALL, EXACT, FULL_ARMS, NOISY_ARMS, RANDOM, SINGLE, STRATEGIES, TESTS, TRAINED
from steersman.studies.rl_curves import by_batch, by_series, by_tokens, differences, final, gaps, line, runs_of
from steersman.studies.rl_evidence import mean
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference, Estimate

AXES = {"tokens": "accuracy, equal generated tokens", "trained": "accuracy, equal trained tokens"}
MAIN = (SINGLE, ALL, RANDOM, "bon", "br", "bw")
OTHERS = (ALL, "top", "top-random", "top-bottom", "pow-1", "pow-2", "pow-3", "grpo", "oracle filter")
KEYS = {"r2": "R²", "null": "by range"}


def show(results: Sequence[Result]) -> Shown:
    """R^2 beside its null, where the reward is unreliable; accuracy by generated and trained tokens; both tables."""
    panels = (
        *_reliability(results),
        by_tokens(results, MAIN, part=TRAINED),
        by_tokens(results, MAIN, "Held-out accuracy by tokens learnt from", "tokens learnt from", "trained", TRAINED),
        *_compared(by_batch(results, OTHERS, "Held-out accuracy, other strategies and controls", TRAINED)),
        *_compared(by_batch(results, NOISY_ARMS, "Held-out accuracy, a reward equally reliable everywhere", EXACT)),
        by_batch(results, (ALL,), "Held-out accuracy, the tests as reward", TESTS),
        by_series(results, MAIN, "reward", "What the reward model pays", "mean reward", TRAINED, block=4),
        by_series(results, MAIN, "accuracy", "Right answers among the responses drawn", "share", TRAINED, block=4),
    )
    tables = (
        *_against_none(results),
        *differences(results, ALL, FULL_ARMS, AXES, TRAINED),
        *differences(results, RANDOM, ("bon", "br", "bw"), AXES, TRAINED),
        *differences(results, ALL, NOISY_ARMS, {k: f"{m}, exact rewards" for k, m in AXES.items()}, EXACT),
    )
    return Shown(tuple(p for p in panels if p.lines), tables)


def _compared(panel: Panel) -> tuple[Panel, ...]:
    """The panel, unless it has a single arm."""
    return (panel,) if len(panel.lines) > 1 else ()


def _reliability(results: Sequence[Result]) -> tuple[Panel, ...]:
    """R^2 and its null by filter (positions are filters in a fixed order), and the curve by tenths of the reward."""
    found = measured(results)
    if not found:
        return ()
    place = [float(i + 1) for i in range(len(STRATEGIES))]
    lines = tuple(
        line(KEYS[key], place, np.array([column(results, k, key) for k in STRATEGIES]).T.tolist()) for key in KEYS
    )
    named = ", ".join(f"{i} {name}" for i, name in enumerate(STRATEGIES, 1))
    note = f"By range: what a reward equally reliable everywhere would give. Filters: {named}. Lines guide the eye."
    curves = [v["curve"] for v in found if len(v["curve"]) == 10]
    tenth = [float(i + 1) for i in range(10)]
    bins = tuple(
        line(label, tenth, [[b[key] for b in c] for c in curves])
        for key, label in (("unexplained", "unexplained"), ("score", "right answers"))
        if curves
    )
    return (
        Panel("R² of the reward under each filter", "filter", "R²", lines, note=note),
        Panel(
            "Where the reward is unreliable",
            "tenth of the responses by reward",
            "variance, or share",
            bins,
            note="Unexplained: variance of being right around the line in the reward.",
        ),
    )


def _against_none(results: Sequence[Result]) -> tuple[Difference, ...]:
    """R^2 of every filter less that without one, then less its own null."""
    rows = []
    if len(measured(results)) > 1:
        plain = column(results, "none", "r2")
        for name in STRATEGIES[1:]:
            gap = [x - y for x, y in zip(column(results, name, "r2"), plain, strict=True)]
            rows += _row(name, "none", "R²", gap)
        for name in STRATEGIES[1:]:
            rows += _row(name, "its null", "R²", column(results, name, "excess"))
    return tuple(rows)


def _row(a: str, b: str, metric: str, gap: Sequence[float]) -> list[Difference]:
    if not np.isfinite(gap).all():
        return []
    i = mean(gap)
    return [Difference(a, b, metric, Estimate(i.value, i.low, i.high, "", i.level))]


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    told = []
    if found := measured(results):
        r2 = {k: float(np.nanmean(column(results, k, "r2"))) for k in ("bon", "none", "br", "bw")}
        null = {k: float(np.nanmean(column(results, k, "null"))) for k in r2}
        told.append(
            "R² (what its range alone gives): " + ", ".join(f"{k} {r2[k]:.3f} ({null[k]:.3f})" for k in r2) + "."
        )
        passes = {k: float(np.mean([v["passes"][k] for v in found])) for k in found[0]["passes"]}
        told.append(
            f"Of five responses one is right in {passes['one']:.1%}, the one of largest reward in "
            f"{passes['best by reward']:.1%}, any in {passes['any']:.1%}."
        )
    ends = {n: float(np.mean([final(v) for v in runs.values()])) for n in FULL_ARMS
            if (runs := runs_of(results, n, TRAINED))}  # fmt: skip
    if ends:
        told.append("Mean accuracy at the end: " + ", ".join(f"{n} {x:.3f}" for n, x in ends.items()) + ".")
    if runs := runs_of(results, ALL, TESTS):
        told.append(f"Paid by the tests themselves {ALL} ends at {np.mean([final(v) for v in runs.values()]):.3f}.")
    if runs := runs_of(results, ALL, TRAINED):
        start = next(iter(runs.values()))["start"]
        told.append(f"All start at {start[0] / start[1]:.3f}.")
    gap = gaps(results, "bw", ALL, "trained", TRAINED)
    if len(gap) > 1:
        i = mean(gap)
        told.append(f"At equal trained tokens bw was {i.value:+.3f} [{i.low:+.3f}, {i.high:+.3f}] from {ALL}.")
    return " ".join(told) or "Nothing has been run yet."
