"""The page of a gradient diagnosis: every figure as a plot with intervals, shape by shape, and the table behind it.

Leaves out: the figures (`gradient`), primitives (`page`).
"""

import math
from collections.abc import Mapping

from steersman.assure.diagnose.gradient import GradientDiagnosis, GradientRow
from steersman.page.forest import Forest, Row, forest
from steersman.page.html import Column, Html, section, shell, table, tag
from steersman.page.number import MISSING, Estimate, interval, number, point
from steersman.page.theme import Mark
from steersman.stats.gradient_quality import FIGURES
from steersman.stats.intervals import Interval

TITLES = {
    "signal": "Signal against noise",
    "cosine": "Where one batch points",
    "direction": "Where the mean points",
    "length": "How long the mean is",
    "spread": "Spread",
    "square": "Squared mean",
}
LABELS = {
    "signal": "|E g|² / tr Cov(g)",
    "cosine": "cosine of one batch's gradient with the reference",
    "direction": "cos(E g, reference)",
    "length": "E g along the reference, as a share of it",
    "spread": "tr Cov(g)",
    "square": "|E g|²",
}
HEADS = {"cosine": "cos(g, reference)", "length": "length along it"}
"""Of columns, where a label is too long."""
NOTES = {
    "signal": "Free of an estimator's scale. Its inverse is how many batches to average until signal equals noise.",
    "cosine": "The noise of the reference is taken out.",
    "direction": "1 = no bias but for the length; the line is at 1. An interval at 1 is wider than it need be.",
    "length": "1 = no bias along the reference. Advantages divided by a deviation have another length on purpose.",
    "spread": "Compare within one scale of advantages only.",
}
ONE = ("direction", "length")
"""Figures that are 1 without bias."""


def estimate(x: Interval) -> Estimate:
    """An interval as pages and terminals show it."""
    return Estimate(x.value, x.low, x.high, level=x.level) if x.bounded else Estimate(x.value, math.nan, math.nan)


def shown(x: Interval) -> str:
    """A figure with its interval as text; a dash where there is none."""
    return f"{point(estimate(x))} {interval(estimate(x))}" if x.bounded else MISSING


def page(found: GradientDiagnosis, facts: Mapping[str, str]) -> Html:
    """A self-contained page.

    Args:
        found: the diagnosis.
        facts: what was looked at, by name.
    """
    listed = tag("dl", *(x for k, v in facts.items() for x in (tag("dt", k), tag("dd", v))), class_="facts")
    plots = [_plot(found, name) for name in TITLES if name != "square"]
    lead = (
        f"Each from {found.batches:,} batches; the reference is the mean of {found.reference_batches:,} others, of "
        f"whose squared length {found.reliability:.0%} is not noise. Bars are 95 % intervals."
    )
    return shell(
        "Gradient diagnosis",
        tag("h1", "How good are the gradients?"),
        tag("p", sentence(found), class_="sentence"),
        listed,
        section("Figures", tag("div", *plots, class_="figures"), anchor="figures", lead=lead),
        section("All numbers", _table(found), anchor="numbers"),
    )


def sentence(found: GradientDiagnosis) -> str:
    """What came out, in plain words."""
    best = found.clearest
    if best is None:
        return "No estimator's gradient can be told from noise with so few batches."
    told = f"{named(best)} has the clearest gradient: signal against noise {shown(best.found.signal)}."
    astray = found.astray
    if not astray:
        return f"{told} Of those that can be told from noise none points elsewhere than the reference in the mean."
    names = ", ".join(f"{named(r)} (cosine {shown(r.found.direction)})" for r in astray)
    return f"{told} The mean gradient points elsewhere than the reference with {names}."


def named(row: GradientRow) -> str:
    """An estimator and its batches."""
    return f"{row.estimator} on {row.shape}"


def _plot(found: GradientDiagnosis, name: str) -> Html:
    groups = []
    for shape in found.shapes:
        rows = [
            Row(r.estimator, {"": estimate(x)}, 1.0 if name in ONE else None)
            for r in found.rows
            if r.shape == shape and (x := getattr(r.found, name)).bounded
        ]
        if rows:
            groups.append((f"{shape} responses", tuple(rows)))
    return forest(Forest(TITLES[name], LABELS[name], tuple(groups), note=NOTES[name]), {"": Mark("var(--arm-0)", "")})


def _table(found: GradientDiagnosis) -> Html:
    columns = [
        Column("estimator", "head"),
        Column("prompts x responses"),
        *(Column(HEADS.get(k, LABELS[k]), "number") for k in FIGURES),
    ]
    columns.append(Column("batches without a signal", "number"))
    rows = [
        (r.estimator, str(r.shape), *(shown(getattr(r.found, k)) for k in FIGURES), f"{number(100 * r.silent)} %")
        for r in found.rows
    ]
    return table(columns, rows, label="figures of every estimator", empty="Nothing was measured.")
