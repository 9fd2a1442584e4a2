"""Figures of Part A and its sentence for the top of the report. Leaves out: drawing (`page.figures`)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from steersman.page.figures import Line, Panel
from steersman.stats import t_interval, wilson
from steersman.studies.rdpo.exact_claims import predicted
from steersman.studies.rdpo.exact_data import (
    CURVES,
    DIMENSION,
    FEATURES,
    FLIP_RATES,
    LABELS,
    NORM,
    SAMPLES,
    Point,
    Table,
    at,
    derivative,
)
from steersman.study.declare import Result
from steersman.task.log_linear import gaussian_length_ratio

EVERY_RATE = (0.0, *FLIP_RATES)
CEILING = "dpo clean"
PREDICTED = "rdpo, predicted"


def show(results: Sequence[Result]) -> tuple[Panel, ...]:
    """The panels of Part A, in the order of the claims; empty where nothing of Part A was run."""
    table = Table(results)
    if not table.points():
        return ()
    panels = [
        *(_error_by_samples(table, features) for features in FEATURES),
        *(_error_by_rate(table, features) for features in FEATURES),
        *(
            _by_rate(table, "cosine", features, "Error of direction", "1 - cosine to theta*", log=True)
            for features in FEATURES
        ),
        _by_rate(table, "length", "gaussian", "Length against the truth's", "||theta|| / ||theta*||", log=True),
        _by_rate(table, "regularised", "gaussian", "How much worse the policy is", "KL(pi || pi*), nats", log=True),
        _by_rate(table, "greedy", "gaussian", "Reward lost by the best-scored answer", "reward", log=True),
        _wrong_rate(table),
        *(_at_bound(table, features) for features in FEATURES),
    ]
    return tuple(panel for panel in panels if panel.lines)


def _curve(
    table: Table, name: str, x: Sequence[float], points: Sequence[Point], metric: str, square: bool = False
) -> Line | None:
    """A line over points with the t interval over seeds; errors as the root of the mean square."""
    columns = [{s: _drawn(metric, v) for s, v in table.values(p, metric).items()} for p in points]
    kept = [(v, column) for v, column in zip(x, columns, strict=True) if column]
    if not kept:
        return None
    seeds = sorted(set().union(*(column for _, column in kept)))
    single = tuple(tuple(column.get(seed, math.nan) for _, column in kept) for seed in seeds)
    power, root = (2.0, math.sqrt) if square else (1.0, float)
    intervals = [t_interval(np.array(list(column.values())) ** power) for _, column in kept]
    return Line(
        name,
        tuple(v for v, _ in kept),
        single,
        tuple(root(i.value) for i in intervals),
        tuple(root(max(i.low, 0.0)) if square else i.low for i in intervals),
        tuple(root(i.high) for i in intervals),
    )


def _drawn(metric: str, value: float) -> float:
    """A metric as it is drawn: cosines, which crowd below 1, as their distance to 1."""
    return 1.0 - value if metric == "cosine" else value


def _law(name: str, x: Sequence[float], y: Sequence[float]) -> Line:
    """A line that is computed and has neither seeds nor an interval."""
    values = tuple(float(v) for v in y)
    return Line(name, tuple(x), (), values, values, values)


def _lines(*lines: Line | None) -> tuple[Line, ...]:
    return tuple(line for line in lines if line is not None)


def _error_by_samples(table: Table, features: str) -> Panel:
    rate = 0.3
    sizes = sorted({p.samples for p in table.points() if p.features == features and p.dimension == DIMENSION})

    def points(loss: str, eps: float) -> list[Point]:
        return [Point(features, DIMENSION, n, eps, loss, eps) for n in sizes]

    curves = [_curve(table, LABELS[loss], sizes, points(loss, rate), "error", True) for loss in CURVES]
    clean = _curve(table, CEILING, sizes, points("dpo", 0.0), "error", True)
    law = [_law(PREDICTED, sizes, [predicted(p) for p in points("rdpo", rate)])] if sizes else []
    return Panel(
        f"Error by number of pairs, {features} features, 30 % of labels wrong",
        "pairs",
        "||theta - theta*||, root mean square",
        _lines(*curves, clean, *law) if any(curves) else (),
        log_x=True,
        log_y=True,
        note="Predicted: the sandwich covariance, no fitted constant. A slope of -1/2 is the theory's rate.",
    )


def _error_by_rate(table: Table, features: str) -> Panel:
    losses = [*CURVES, "dpo_tuned"]
    curves = [
        _curve(table, LABELS[loss], EVERY_RATE, [at(features, e, loss) for e in EVERY_RATE], "error", True)
        for loss in losses
    ]
    clean = table.values(at(features, 0.0, "dpo"), "error")
    laws = []
    if clean:
        base = math.sqrt(float(np.mean(np.square(list(clean.values())))))
        laws = [
            _law(PREDICTED, EVERY_RATE, [predicted(at(features, e, "rdpo")) for e in EVERY_RATE]),
            _law("1/(1 - 2 eps)", EVERY_RATE, [base / (1 - 2 * e) for e in EVERY_RATE]),
        ]
    return Panel(
        f"Error by share of wrong labels, {features} features, {SAMPLES:,} pairs",
        "share of wrong labels",
        "||theta - theta*||, root mean square",
        _lines(*curves, *laws),
        log_y=True,
        note="1/(1 - 2 eps): the bound's factor times the error without flips.",
    )


def _by_rate(table: Table, metric: str, features: str, title: str, label: str, log: bool = False) -> Panel:
    # tuning beta leaves DPO's direction and greedy choice as they are, and IPO and rIPO share theirs
    directional = metric in ("cosine", "greedy")
    losses = [*CURVES, "ripo", "probit"] if directional else [*CURVES, "dpo_tuned", "ipo", "ripo", "probit"]
    curves = [
        _curve(table, LABELS[loss], EVERY_RATE, [at(features, e, loss) for e in EVERY_RATE], metric) for loss in losses
    ]
    note = "IPO's margin target is arbitrary, so is its length." if metric == "length" else ""
    if metric == "length" and features == "gaussian" and any(curves):
        curves += [_law(f"{LABELS[loss]}, predicted", EVERY_RATE, _limits(loss)) for loss in ("dpo", "cdpo")]
        note += " Predicted: the limit of infinitely many pairs; rDPO's and the forward correction's is 1."
    return Panel(
        f"{title}, {features} features, {SAMPLES:,} pairs",
        "share of wrong labels",
        label,
        _floored(_lines(*curves)) if log else _lines(*curves),
        log_y=log,
        note=note,
    )


def _limits(loss: str) -> list[float]:
    """Length ratio of DPO or cDPO with infinitely many pairs, for each flip rate."""
    return [gaussian_length_ratio(derivative(loss, rate), rate, NORM) for rate in EVERY_RATE]


def _floored(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """On a log axis an interval that reaches below zero is drawn down to a tenth of its centre."""

    def low(line: Line) -> tuple[float, ...]:
        return tuple(b if b > 0 or m <= 0 else m / 10 for m, b in zip(line.mean, line.low, strict=True))

    return tuple(replace(line, low=low(line)) for line in lines)


def _wrong_rate(table: Table) -> Panel:
    assumed = sorted({p.assumed for p in table.points() if p.loss == "rdpo" and p.flip_rate == 0.3})
    curves = [
        _curve(table, f"rdpo, {f}", assumed, [at(f, 0.3, "rdpo", e) for e in assumed], "error", True) for f in FEATURES
    ]
    return Panel(
        f"rDPO told a wrong flip rate (true: 30 %), {SAMPLES:,} pairs",
        "flip rate the loss assumes",
        "||theta - theta*||, root mean square",
        _lines(*curves) if len(assumed) > 1 else (),
        log_y=True,
        note="At 0 the loss is DPO. Errors are bounded by the ball: at most five times ||theta*||.",
    )


def _at_bound(table: Table, features: str) -> Panel:
    """How often a fit ran into the ball, by number of pairs, at the highest flip rate; Wilson's intervals."""
    rate = FLIP_RATES[-1]
    sizes = sorted({p.samples for p in table.points() if p.features == features and p.dimension == DIMENSION})
    lines, stopped, total = [], 0, 0
    for point in table.points():
        converged = list(table.values(point, "converged").values())
        stopped, total = stopped + converged.count(0.0), total + len(converged)
    for loss in CURVES:
        columns = [
            list(table.values(Point(features, DIMENSION, n, rate, loss, rate), "at_bound").values()) for n in sizes
        ]
        kept = [(n, wilson(int(sum(column)), len(column))) for n, column in zip(sizes, columns, strict=True) if column]
        if kept:
            x, shares = zip(*kept, strict=True)
            ends = (tuple(getattr(share, end) for share in shares) for end in ("value", "low", "high"))
            lines.append(Line(LABELS[loss], tuple(float(v) for v in x), (), *ends))
    return Panel(
        f"Fits that ran into the ball ||theta|| <= 4 ||theta*||, {features} features, {rate:.0%} of labels wrong",
        "pairs",
        "share of fits",
        tuple(lines),
        log_x=True,
        note=f"Without the ball these have no finite solution or a very distant one. Of all {total:,} fits of Part A "
        f"{stopped:,} did not converge.",
    )


def sentence(results: Sequence[Result]) -> str:
    """What Part A found, in one sentence for the top of the report; empty where it was not run."""
    table = Table(results)

    def miss(loss: str) -> float:
        values = np.array(list(table.values(at("gaussian", 0.3, loss), "error").values()))
        return math.sqrt(float(np.mean(values**2))) if len(values) else math.nan

    rms = {loss: miss(loss) for loss in ("rdpo", "dpo", "cdpo", "dpo_tuned")}
    if any(math.isnan(v) for v in rms.values()):
        return ""
    return (
        f"Where the truth is known (30 % of {SAMPLES:,} labels wrong, truth of length 2), rDPO missed it by "
        f"{rms['rdpo']:.2f}, DPO by {rms['dpo']:.2f} and cDPO by {rms['cdpo']:.2f}; DPO with the best beta an oracle "
        f"could choose missed it by {rms['dpo_tuned']:.2f}."
    )
