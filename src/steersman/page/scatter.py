"""A plane with a few named points, and lines that part it.

Leaves out: many points (`plane`), what the axes mean, choosing. Source: none; names stand beside their point.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steersman.page.axis import Scale, axes, scale_for, spread
from steersman.page.html import Html, tag
from steersman.page.number import number
from steersman.page.theme import Mark

_WIDTH, _HEIGHT = 520, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40
_CHAR, _GAP = 7.4, 15.0


@dataclass(frozen=True, slots=True)
class Point:
    """One named point: its place, its group (which has the colour), and half the width of its spread along x."""

    name: str
    x: float
    y: float
    group: str
    x_spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Scatter:
    """One figure.

    Args:
        title: of the figure.
        x_label, y_label: what the axes are, with their unit.
        points: what is drawn; the last is drawn on top and larger.
        x_cuts, y_cuts: lines that part the plane.
        note: below the figure.

    Raises:
        ValueError: a point that is not finite.
    """

    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    x_cuts: tuple[float, ...] = ()
    y_cuts: tuple[float, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for p in self.points for v in (p.x, p.y, p.x_spread)):
            raise ValueError(f"scatter {self.title!r}: a point is not finite")


def scatter(given: Scatter, marks: Mapping[str, Mark]) -> Html:
    """Draw named points as a figure with a caption.

    Args:
        given: the points.
        marks: colour of every group.
    """
    caption = tag("figcaption", tag("b", given.title), tag("span", given.y_label))
    note = given.note and tag("p", given.note, class_="note")
    if not given.points:
        return tag("figure", caption, tag("p", "No values to draw.", class_="empty"), note)
    xs = [v for p in given.points for v in (p.x - p.x_spread, p.x + p.x_spread)]
    sx = scale_for([*xs, *given.x_cuts], _LEFT, _WIDTH - _RIGHT, pad=0.08)
    sy = scale_for([*(p.y for p in given.points), *given.y_cuts], _HEIGHT - _BOTTOM, _TOP, pad=0.08)
    said = "; ".join(f"{p.name} at {number(p.x, 2)}, {number(p.y, 2)}" for p in given.points)
    sides = {"left": _LEFT, "right": _WIDTH - _RIGHT, "base": _HEIGHT - _BOTTOM}
    grid = axes(given.x_label, sx, sy, **sides, rows=sy.ticks())
    svg = tag(
        "svg", grid, *_cuts(given, sx, sy), *_points(given.points, marks, sx, sy), class_="plot",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{given.title}: {said}.",
    )  # fmt: skip
    return tag("figure", caption, svg, note)


def _at(scale: Scale, value: float) -> float:
    return scale(value) or 0.0


def _cuts(given: Scatter, sx: Scale, sy: Scale) -> list[Html]:
    across = [f"{_at(sx, value):.1f}" for value in given.x_cuts]
    down = [f"{_at(sy, value):.1f}" for value in given.y_cuts]
    lines = [tag("line", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="cut") for x in across]
    return lines + [tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="cut") for y in down]


def _points(points: Sequence[Point], marks: Mapping[str, Mark], sx: Scale, sy: Scale) -> list[Html]:
    """Dots, and their names to the right, or to the left where there is no room; names do not overlap.

    The name of a point with a spread stands above it, off the bar.
    """
    wanted = [_at(sy, p.y) - (_GAP if p.x_spread else 0) for p in points]
    places = spread(wanted, _GAP, _TOP + 6, _HEIGHT - _BOTTOM - 6)
    out = []
    for i, (p, y_name) in enumerate(zip(points, places, strict=True)):
        x, y, last = _at(sx, p.x), _at(sy, p.y), i == len(points) - 1
        style = f"stroke:{marks[p.group].colour};fill:{marks[p.group].colour}"
        left = x + 10 + _CHAR * len(p.name) > _WIDTH - _RIGHT
        parts = []
        if p.x_spread:
            a, b = f"{_at(sx, p.x - p.x_spread):.1f}", f"{_at(sx, p.x + p.x_spread):.1f}"
            parts.append(tag("line", x1=a, x2=b, y1=f"{y:.1f}", y2=f"{y:.1f}", style=style, stroke_width=2))
        parts.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=6 if last else 4, style=style))
        name = {"x": f"{x - 10 if left else x + 10:.1f}", "y": f"{y_name:.1f}", "dy": "0.35em"}
        weight = "font-weight:600" if last else None
        parts.append(tag("text", p.name, **name, text_anchor="end" if left else "start", style=weight))
        title = tag("title", f"{p.name}: {number(p.x, 3)}, {number(p.y, 3)}")
        out.append(tag("g", title, *parts))
    return out
