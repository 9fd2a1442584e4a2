"""A forest plot: one row for each named quantity, a dot with its interval for each arm, and what it is held against.

Leaves out: computing anything, interaction. Source: none; rows stand in groups, as levels of a factor do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steersman.page.axis import Scale, scale_for
from steersman.page.figures import swatch
from steersman.page.html import Html, join, tag
from steersman.page.number import Estimate, interval, point
from steersman.page.theme import Mark

_WIDTH = 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 190, 14, 10, 40
_ROW, _EXTRA, _HEAD = 20.0, 9.0, 24.0
BAND = "fill:var(--muted);opacity:.18"
_NAME = 25
"""Characters of a row's name that are drawn."""


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity: its name, an estimate by arm, and the value it is compared with (None = none)."""

    name: str
    estimates: Mapping[str, Estimate]
    reference: float | None = None


@dataclass(frozen=True, slots=True)
class Forest:
    """One figure.

    Args:
        title: of the figure.
        x_label: what the axis is, with its unit.
        groups: (name of the group, its rows); an empty name draws no heading.
        limits: ends of the axis; None = what the rows need.
        band: (low, high) shaded behind all rows; None = none.
        note: below the figure.

    Raises:
        ValueError: an estimate that is not finite.
    """

    title: str
    x_label: str
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    limits: tuple[float, float] | None = None
    band: tuple[float, float] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for _, rows in self.groups:
            for row in rows:
                if not all(math.isfinite(e.value) for e in row.estimates.values()):
                    raise ValueError(f"forest {self.title!r}: {row.name!r} is not finite")


def forest(given: Forest, marks: Mapping[str, Mark]) -> Html:
    """Draw a forest plot as a figure with a caption; arms lie below one another within a row, and are named above.

    Args:
        given: the rows.
        marks: colour of every arm.

    Edge cases: intervals are cut at the ends of an axis whose limits are given; no interval (NaN) draws the dot alone.
    """
    rows = [row for _, rows in given.groups for row in rows]
    arms = dict.fromkeys(arm for row in rows for arm in row.estimates)
    legend = [tag("span", *(join(swatch(arm, marks[arm]), " ") for arm in arms))] if len(arms) > 1 else []
    caption = tag("figcaption", tag("b", given.title), *legend)
    if not rows:
        return tag("figure", caption, tag("p", "No values to draw.", class_="empty"))
    scale = _scale(given, rows)
    y, parts = float(_TOP), []
    for name, members in given.groups:
        if name:
            parts.append(tag("text", name, x=0, y=f"{y + 16:.1f}", class_="label", style="font-weight:600"))
            y += _HEAD
        for row in members:
            parts.append(_row(row, marks, scale, y, bool(name)))
            y += _height(row)
    height = y + _BOTTOM
    band = []
    if given.band is not None:
        low, high = (_at(scale, v) for v in given.band)
        band = [tag("rect", x=f"{low:.1f}", y=_TOP, width=f"{high - low:.1f}", height=f"{y - _TOP:.1f}", style=BAND)]
    axes = _axes(scale, y, given.x_label)
    svg = tag(
        "svg", *band, axes, *parts, class_="plot", viewBox=f"0 0 {_WIDTH} {height:.0f}", role="img",
        aria_label=f"{given.title}: {len(rows)} rows",
    )  # fmt: skip
    return tag("figure", caption, svg, given.note and tag("p", given.note, class_="note"))


def _height(row: Row) -> float:
    return _ROW + _EXTRA * max(0, len(row.estimates) - 1)


def _scale(given: Forest, rows: Sequence[Row]) -> Scale:
    if given.limits is not None:
        return Scale(*given.limits, _LEFT, _WIDTH - _RIGHT)
    values = [v for r in rows for e in r.estimates.values() for v in (e.value, e.low, e.high)]
    values += [r.reference for r in rows] + list(given.band or ())
    return scale_for(values, _LEFT, _WIDTH - _RIGHT)


def _at(scale: Scale, value: float) -> float:
    """Pixel of a value, at the edge where it lies beyond."""
    return scale(min(max(value, scale.low), scale.high)) or 0.0


def _row(row: Row, marks: Mapping[str, Mark], scale: Scale, y: float, inset: bool) -> Html:
    height = _height(row)
    name = row.name if len(row.name) <= _NAME else row.name[: _NAME - 1] + "…"
    parts = [tag("text", name, x=12 if inset else 0, y=f"{y + height / 2:.1f}", dy="0.35em")]
    if row.reference is not None:
        x = f"{_at(scale, row.reference):.1f}"
        parts.append(tag("line", x1=x, x2=x, y1=f"{y + 3:.1f}", y2=f"{y + height - 3:.1f}", class_="cut"))
    said = [row.name]
    for i, (arm, e) in enumerate(row.estimates.items()):
        line = y + _ROW / 2 + i * _EXTRA
        style = f"stroke:{marks[arm].colour};fill:{marks[arm].colour}"
        if not (math.isnan(e.low) or math.isnan(e.high)):
            ends = {"x1": f"{_at(scale, e.low):.1f}", "x2": f"{_at(scale, e.high):.1f}"}
            parts.append(tag("line", **ends, y1=f"{line:.1f}", y2=f"{line:.1f}", style=style, stroke_width=2))
        parts.append(tag("circle", cx=f"{_at(scale, e.value):.1f}", cy=f"{line:.1f}", r=3.8, style=style))
        said.append(f"{arm}: {point(e)} {interval(e)}")
    return tag("g", tag("title", "\n".join(said)), *parts)


def _axes(scale: Scale, base: float, label: str) -> Html:
    parts = [tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{base:.1f}", y2=f"{base:.1f}", class_="base")]
    for value, text in scale.ticks():
        x = f"{scale(value) or 0.0:.1f}"
        parts += [
            tag("line", x1=x, x2=x, y1=_TOP, y2=f"{base + 4:.1f}"),
            tag("text", text, x=x, y=f"{base + 17:.1f}", text_anchor="middle"),
        ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(tag("text", label, x=middle, y=f"{base + 35:.1f}", text_anchor="middle", class_="label"))
    return tag("g", *parts, class_="axes")
