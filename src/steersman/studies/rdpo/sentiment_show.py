"""Figures, differences and coloured samples of Part B, and its sentence. Leaves out: drawing (`page`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steersman.page.figures import Line, Panel
from steersman.page.tokens import Sample, StreamInfo, View
from steersman.stats import Interval, t_interval
from steersman.studies.rdpo.sentiment_claims import BT, RATE, Runs, Settings, last
from steersman.study.declare import Result
from steersman.study.report import Difference, Estimate

CURVES = ("dpo", "rdpo", "cdpo", "fwd", "dpo clean")
METRICS = (
    ("gold", "Gold score of what the policy writes", "log-odds of positive"),
    ("kl", "KL to the reference", "nats a response"),
    ("accuracy_clean", "Accuracy on clean validation pairs", "share"),
)
METRIC, UNIT = "gold score", "log-odds"
STREAMS = (
    StreamInfo("log_ratio", "nats", "signed", "log-probability gained over the reference policy"),
    StreamInfo("entropy", "nats", "sequential", "uncertainty of the policy before the token"),
    StreamInfo("logp_ref", "nats", "sequential", "log-probability under the reference policy"),
)


def panels(results: Sequence[Result]) -> tuple[Panel, ...]:
    """Courses over training at the main flip rate, gold against KL, and the final gold score by flip rate."""
    runs = Runs(results)
    if not runs.found:
        return ()
    found = [_course(runs, metric, title, label) for metric, title, label in METRICS]
    return tuple(p for p in [*found, _by_rate(runs)] if p.lines)


def _course(runs: Runs, metric: str, title: str, label: str) -> Panel:
    lines = []
    for name in CURVES:
        seeds = list(runs.of(BT, name).values())
        if not seeds:
            continue
        steps = sorted({row["step"] for value in seeds for row in value["course"]})
        rows = [{row["step"]: row.get(metric, math.nan) for row in value["course"]} for value in seeds]
        lines.append(_line(name, steps, [[row.get(s, math.nan) for s in steps] for row in rows]))
    note = f"{100 * RATE:.0f} % of labels flipped ('dpo clean': none). Band: 95 % t interval over seeds."
    return Panel(title, "optimiser step", label, tuple(lines), note=note)


def _by_rate(runs: Runs) -> Panel:
    rates = sorted(rate for labels, rate in runs.found if labels == "bradley_terry")
    lines = []
    for name in ("dpo", "rdpo"):
        kept = [r for r in rates if runs.of(("bradley_terry", r), name)]
        by_rate = [runs.of(("bradley_terry", r), name) for r in kept]
        seeds = sorted(set().union(*by_rate)) if by_rate else []
        values = [[last("gold")(found[s]) if s in found else math.nan for found in by_rate] for s in seeds]
        if len(kept) > 1:
            lines.append(_line(name, kept, values))
    return Panel("Gold score by share of wrong labels", "flip rate", "log-odds of positive", tuple(lines))


def _line(name: str, x: Sequence[float], seeds: Sequence[Sequence[float]]) -> Line:
    columns = np.array(seeds, dtype=float)
    intervals = [_interval(column[np.isfinite(column)]) for column in columns.T]
    return Line(
        name,
        tuple(x),
        tuple(map(tuple, seeds)),
        tuple(i.value for i in intervals),
        tuple(i.low for i in intervals),
        tuple(i.high for i in intervals),
    )


def _interval(values: "np.ndarray[Any, Any]") -> Interval:
    if not len(values):
        return Interval(math.nan, math.nan, math.nan, 0.95)
    found = t_interval(values)
    return found if found.bounded else Interval(found.value, math.nan, math.nan, found.level)


def differences(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Every arm at the main flip rate minus DPO with the same settings, in final gold score."""
    runs = Runs(results)
    base = runs.of(BT, "dpo")
    found = []
    for name in runs.found.get(BT, {}):
        seeds = sorted(set(base) & set(runs.of(BT, name)))
        if name == "dpo" or len(seeds) < 2:
            continue
        gaps = np.array([last("gold")(runs.of(BT, name)[s]) - last("gold")(base[s]) for s in seeds])
        i = t_interval(gaps)
        found.append(Difference(name, "dpo", METRIC, Estimate(i.value, i.low, i.high, UNIT, i.level)))
    return tuple(found)


def samples(results: Sequence[Result]) -> tuple[Sample, ...]:
    """The same continuations of the base policy as each arm of the first seed sees them, token by token."""
    strips = {name: arm[0]["strip"] for name, arm in _first_seed(results).items() if "strip" in arm.get(0, {})}
    if not strips:
        return ()
    texts = next(iter(strips.values()))
    found = []
    for row, tokens in enumerate(texts["tokens"]):
        given = texts["prompt_tokens"][row]
        pad: tuple[float | None, ...] = (None,) * given
        views = tuple(
            View(name, {s.name: pad + tuple(strip[s.name][row]) for s in STREAMS}) for name, strip in strips.items()
        )
        title = f"unseen prompt {row + 1}, gold score {texts['gold'][row]:+.2f}"
        found.append(Sample(title, tuple(tokens), given, views, caption=CAPTION))
    return tuple(found)


CAPTION = "Written by the base policy; coloured by what each arm made of it. Prompt tokens were given."


def _first_seed(results: Sequence[Result]) -> Mapping[str, Mapping[int, Mapping[str, Any]]]:
    runs = Runs(results)
    return {name: runs.of(BT, name) for name in CURVES if runs.of(BT, name)}


def sentence(results: Sequence[Result], words: Mapping[str, str]) -> str:
    """What Part B found, in one or two sentences; empty where it was not run."""
    runs = Runs(results)
    told = _gap(runs, BT, "rdpo", "dpo")
    if told is None:
        return ""
    gap, n = told
    direction = "higher" if gap.value > 0 else "lower"
    first = (
        f"On film reviews with {100 * RATE:.0f} % wrong labels, text written by rDPO scored {abs(gap.value):.2f} "
        f"{direction} than DPO's with the same settings (95 % interval {gap.low:+.2f} to {gap.high:+.2f}, {n} seeds)"
    )
    tail = "; that could be chance" if words.get("C4a") == "inconclusive" else ""
    step = {
        "contradicted": " DPO given rDPO's initial step size scored higher than rDPO.",
        "supported": " It still does against DPO given rDPO's initial step size.",
    }
    return f"{first}{tail}.{step.get(words.get('C4f', ''), '')}"


def _gap(runs: Runs, world: Settings, a: str, b: str) -> tuple[Interval, int] | None:
    one, two = runs.of(world, a), runs.of(world, b)
    seeds = sorted(set(one) & set(two))
    if len(seeds) < 2:
        return None
    return t_interval(np.array([last("gold")(one[s]) - last("gold")(two[s]) for s in seeds])), len(seeds)
