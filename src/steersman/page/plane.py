"""A plane of many points as a figure: how dense they lie, which of them are chosen, and the four quarters by name.

Points are counted in cells, so that a million of them weigh as much as a hundred. Leaves out: what the axes mean,
choosing (`assure`), interaction.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from steersman.page.axis import Scale, axes, scale_for
from steersman.page.html import Html, tag
from steersman.page.number import number
from steersman.page.theme import Mark

_WIDTH, _HEIGHT = 520, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 10, 40
_COLUMNS, _ROWS = 56, 35
_FAINTEST = 0.16  # of a cell with a single point


@dataclass(frozen=True, slots=True)
class Plane:
    """One figure.

    Args:
        title: of the figure.
        x_label, y_label: what the axes are, with their unit.
        x, y: the points; all finite.
        chosen: which points are set in colour before the others; None = all.
        x_cut, y_cut: lines that part the plane; None = no line.
        corners: names of the quarters: high x and y, high x, high y, neither.
        y_floor: > 0: the y axis is logarithmic, and what lies below stands at the floor; None = linear.
        note: below the figure.

    Raises:
        ValueError: lists of different lengths, or a point that is not finite.
    """

    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    y: Sequence[float]
    chosen: Sequence[bool] | None = None
    x_cut: float | None = None
    y_cut: float | None = None
    corners: tuple[str, str, str, str] = ("", "", "", "")
    y_floor: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        sizes = {len(self.x), len(self.y)} | ({len(self.chosen)} if self.chosen is not None else set())
        if len(sizes) > 1:
            raise ValueError(f"plane {self.title!r}: lists of {sorted(sizes)} entries")
        if not all(math.isfinite(v) for v in (*self.x, *self.y)):
            raise ValueError(f"plane {self.title!r}: a point is not finite")


def plane(given: Plane, mark: Mark) -> Html:
    """Draw a plane as a figure with a caption; cells of more points are darker.

    Args:
        given: the points.
        mark: colour of the chosen ones.
    """
    caption = tag("figcaption", tag("b", given.title), tag("span", given.y_label))
    if not given.x:
        return tag("figure", caption, tag("p", "No values to draw.", class_="empty"))
    y = [v if given.y_floor is None else max(v, given.y_floor) for v in given.y]
    sx = scale_for([*given.x, given.x_cut], _LEFT, _WIDTH - _RIGHT, pad=0.02)
    cut = None if given.y_cut is None else max(given.y_cut, given.y_floor or given.y_cut)
    sy = scale_for([*y, cut], _HEIGHT - _BOTTOM, _TOP, log=given.y_floor is not None, pad=0.03)
    places = [_cell(sx(a), sy(b)) for a, b in zip(given.x, y, strict=True)]
    picked = [True] * len(places) if given.chosen is None else given.chosen
    most = max(Counter(places).values())
    layers = [
        _cells([p for p, c in zip(places, picked, strict=True) if not c], most, "var(--faint)"),
        _cells([p for p, c in zip(places, picked, strict=True) if c], most, mark.colour),
    ]
    parts = [
        axes(given.x_label, sx, sy, left=_LEFT, right=_WIDTH - _RIGHT, base=_HEIGHT - _BOTTOM, rows=sy.ticks()),
        *layers,
        *_quarters(given, sx, sy, cut),
    ]
    words = f"{given.title}: {len(places):,} points, {sum(map(bool, picked)):,} of them chosen."
    box = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "role": "img", "aria_label": words}
    note = " ".join(filter(None, [given.note, _below(given)]))
    return tag("figure", caption, tag("svg", *parts, class_="plot", **box), note and tag("p", note, class_="note"))


def _below(given: Plane) -> str:
    if given.y_floor is None:
        return ""
    n = sum(v < given.y_floor for v in given.y)
    return f"{n:,} of {len(given.y):,} lie below {number(given.y_floor)} and stand at the bottom." if n else ""


def _cell(x: float | None, y: float | None) -> tuple[int, int]:
    across = ((x or 0.0) - _LEFT) / (_WIDTH - _RIGHT - _LEFT) * _COLUMNS
    down = ((y or 0.0) - _TOP) / (_HEIGHT - _BOTTOM - _TOP) * _ROWS
    return min(max(int(across), 0), _COLUMNS - 1), min(max(int(down), 0), _ROWS - 1)


def _cells(places: Sequence[tuple[int, int]], most: int, colour: str) -> Html:
    wide, high = (_WIDTH - _RIGHT - _LEFT) / _COLUMNS, (_HEIGHT - _BOTTOM - _TOP) / _ROWS
    drawn = []
    for (i, j), n in sorted(Counter(places).items()):
        strength = _FAINTEST + (1 - _FAINTEST) * (math.log(n) / math.log(most) if most > 1 else 1.0)
        x, y = f"{_LEFT + i * wide:.1f}", f"{_TOP + j * high:.1f}"
        drawn.append(tag("rect", x=x, y=y, width=f"{wide:.1f}", height=f"{high:.1f}", fill_opacity=f"{strength:.2f}"))
    return tag("g", *drawn, style=f"fill:{colour}")


def _quarters(given: Plane, sx: Scale, sy: Scale, cut: float | None) -> list[Html]:
    """The parting lines, and the names of the quarters in their corners."""
    out, line = [], {"class_": "cut"}
    if given.x_cut is not None:
        x = f"{sx(given.x_cut) or 0.0:.1f}"
        out.append(tag("line", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM, **line))
    if cut is not None:
        y = f"{sy(cut) or 0.0:.1f}"
        out.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, **line))
    right, left, top, bottom = _WIDTH - _RIGHT - 6, _LEFT + 6, _TOP + 16, _HEIGHT - _BOTTOM - 8
    spots = ((right, top, "end"), (right, bottom, "end"), (left, top, "start"), (left, bottom, "start"))
    for name, (x_at, y_at, anchor) in zip(given.corners, spots, strict=True):
        if name:
            out.append(tag("text", name, x=x_at, y=y_at, text_anchor=anchor, class_="corner"))
    return out
