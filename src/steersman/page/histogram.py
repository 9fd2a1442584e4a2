"""A histogram as a figure: bars of equal width, and named lines to hold them against.

Leaves out: choosing what to show. Source: the number of bars is the rule of Freedman and Diaconis (1981), 5 to 40.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steersman.page.axis import Scale, axes, scale_for
from steersman.page.html import Html, tag
from steersman.page.number import number
from steersman.page.theme import Mark

_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 26, 40
_FEWEST, _MOST = 5, 40


@dataclass(frozen=True, slots=True)
class Histogram:
    """One figure.

    Args:
        title: of the figure.
        x_label, y_label: what is counted, and what of.
        values: all finite.
        lines: (name, value) to be marked on the axis.
        note: below the figure.

    Raises:
        ValueError: a value that is not finite.
    """

    title: str
    x_label: str
    y_label: str
    values: Sequence[float]
    lines: tuple[tuple[str, float], ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not np.isfinite(np.asarray(self.values, float)).all() or not all(math.isfinite(v) for _, v in self.lines):
            raise ValueError(f"histogram {self.title!r}: a value is not finite")


def bars(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Counts [k] and edges [k + 1] of bars of equal width; few distinct whole numbers get a bar each."""
    x = np.asarray(values, float)
    low, high = float(x.min()), float(x.max())
    if high == low:
        return np.array([len(x)]), np.array([low - 0.5, high + 0.5])
    if (x == np.round(x)).all() and high - low < _MOST:
        edges = np.arange(low, high + 2) - 0.5
        return np.histogram(x, edges)[0], edges
    q1, q3 = np.quantile(x, [0.25, 0.75])
    width = 2 * (q3 - q1) / len(x) ** (1 / 3)
    count = _MOST if width <= 0 else int(min(_MOST, max(_FEWEST, math.ceil((high - low) / width))))
    return np.histogram(x, count)


def histogram(given: Histogram, mark: Mark) -> Html:
    """Draw a histogram as a figure with a caption.

    Args:
        given: the values.
        mark: colour of the bars.

    Edge cases: lines beyond the values widen the axis.
    """
    caption = tag("figcaption", tag("b", given.title), tag("span", given.y_label))
    note = given.note and tag("p", given.note, class_="note")
    if not len(given.values):
        return tag("figure", caption, tag("p", "No values to draw.", class_="empty"), note)
    counts, edges = bars(given.values)
    # A single bar would fill the figure, as if values were spread.
    room = [edges[0] - 3, edges[-1] + 3] if len(counts) == 1 else []
    sx = scale_for([*edges.tolist(), *room, *(v for _, v in given.lines)], _LEFT, _WIDTH - _RIGHT, pad=0.02)
    sy = Scale(0.0, float(counts.max()) * 1.05, _HEIGHT - _BOTTOM, _TOP)
    drawn = []
    for n, a, b in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        x, y = _at(sx, a), _at(sy, n)
        box = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{max(_at(sx, b) - x - 1, 0.5):.1f}"}
        title = tag("title", f"{number(a)} to {number(b)}: {n:,}")
        drawn.append(tag("rect", title, **box, height=f"{_HEIGHT - _BOTTOM - y:.1f}"))
    said = (
        f"{given.title}: {len(given.values):,} values from {number(min(given.values))} to {number(max(given.values))}."
    )
    whole = [(n, text) for n, text in sy.ticks(4) if n == round(n)]  # what is counted is whole
    sides = {"left": _LEFT, "right": _WIDTH - _RIGHT, "base": _HEIGHT - _BOTTOM}
    grid = axes(given.x_label, sx, sy, **sides, rows=whole)
    svg = tag(
        "svg", grid, tag("g", *drawn, style=f"fill:{mark.colour}"), *_lines(given, sx),
        class_="plot", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=said,
    )  # fmt: skip
    return tag("figure", caption, svg, note)


def _at(scale: Scale, value: float) -> float:
    return scale(value) or 0.0


def _lines(given: Histogram, sx: Scale) -> list[Html]:
    out = []
    for name, value in given.lines:
        x = _at(sx, value)
        anchor = "end" if x > _WIDTH - _RIGHT - 40 else "start" if x < _LEFT + 40 else "middle"
        out += [
            tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="cut"),
            tag("text", name, x=f"{x:.1f}", y=_TOP - 10, text_anchor=anchor),
        ]
    return out
