"""A network of places as a figure: places in columns from left to right, and what flows between them.

Leaves out: what places and flows mean, layouts that avoid crossings, interaction. Source: none; a place stands one
column to the right of the rightmost place that leads to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steersman.page.html import Html, tag
from steersman.page.theme import Mark

_WIDTH, _TOP, _BOTTOM = 720.0, 14.0, 12.0
_BOX, _ROW = 40.0, 54.0
_GAP = 0.42
"""Share of a column that is left between boxes."""
_THIN, _THICK = 1.0, 6.0
_NAME = 18
"""Characters of a name that are drawn."""


@dataclass(frozen=True, slots=True)
class Node:
    """A place: its name, a second line, and the arm whose colour it has (empty = none)."""

    name: str
    note: str = ""
    arm: str = ""


@dataclass(frozen=True, slots=True)
class Flow:
    """What goes from one place to another: a label, and how much (None = not known)."""

    source: str
    target: str
    label: str = ""
    amount: float | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """One figure.

    Args:
        title: of the figure.
        caption: beside the title.
        nodes: the places; names differ.
        flows: between them, without circles.
        note: below the figure.

    Raises:
        ValueError: a flow between places that are not there, or a circle.
    """

    title: str
    caption: str
    nodes: tuple[Node, ...]
    flows: tuple[Flow, ...]
    note: str = ""

    def __post_init__(self) -> None:
        names = {n.name for n in self.nodes}
        odd = [x for f in self.flows for x in (f.source, f.target) if x not in names]
        if odd:
            raise ValueError(f"network {self.title!r}: there is no place {odd[0]!r}")
        columns(self.nodes, self.flows)


def columns(nodes: Sequence[Node], flows: Sequence[Flow]) -> dict[str, int]:
    """Column of each place by name, from 0.

    Raises:
        ValueError: the flows go round.
    """
    at = {n.name: 0 for n in nodes}
    for _ in range(len(nodes) + 1):
        moved = False
        for f in flows:
            if at[f.target] <= at[f.source]:
                at[f.target], moved = at[f.source] + 1, True
        if not moved:
            return at
    raise ValueError("flows go round")


def network(given: Network, marks: Mapping[str, Mark]) -> Html:
    """Draw a network as a figure with a caption; thicker lines carry more.

    Args:
        given: places and flows.
        marks: colour of every arm that a place names.

    Edge cases: without places the figure says so; long names are cut, the whole stands in the tooltip.
    """
    caption = tag("figcaption", tag("b", given.title), tag("span", given.caption))
    if not given.nodes:
        return tag("figure", caption, tag("p", "No places to draw.", class_="empty"))
    column = columns(given.nodes, given.flows)
    rows = {c: [n for n in given.nodes if column[n.name] == c] for c in range(max(column.values()) + 1)}
    height = _TOP + _BOTTOM + _ROW * max(len(r) for r in rows.values())
    step = _WIDTH / len(rows)
    wide = step * (1 - _GAP) if len(rows) > 1 else min(step, 180.0)
    place = {}
    for c, members in rows.items():
        first = (height - _ROW * len(members)) / 2
        for i, n in enumerate(members):
            place[n.name] = (c * step + (step - wide) / 2, first + _ROW * i + (_ROW - _BOX) / 2)
    most = max((f.amount or 0.0 for f in given.flows), default=0.0)
    lines = [_flow(f, place, wide, most) for f in given.flows]
    boxes = [_node(n, place[n.name], wide, marks) for n in given.nodes]
    words = f"{given.title}: {len(given.nodes)} places, {len(given.flows)} flows between them."
    svg = tag("svg", *lines, *boxes, class_="plot", viewBox=f"0 0 {_WIDTH:g} {height:g}", role="img", aria_label=words)
    return tag("figure", caption, svg, given.note and tag("p", given.note, class_="note"))


def _flow(f: Flow, place: Mapping[str, tuple[float, float]], wide: float, most: float) -> Html:
    (x0, y0), (x1, y1) = place[f.source], place[f.target]
    x0, y0, y1 = x0 + wide, y0 + _BOX / 2, y1 + _BOX / 2
    middle = (x0 + x1) / 2
    width = _THIN if f.amount is None or most <= 0 else _THIN + (_THICK - _THIN) * f.amount / most
    path = f"M{x0:.1f},{y0:.1f}C{middle:.1f},{y0:.1f} {middle:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"
    style = f"fill:none;stroke:var(--muted);stroke-opacity:.55;stroke-width:{width:.1f}"
    # The label stands near the target, where flows of one source are apart.
    label = tag("text", f.label, x=f"{x1 - 6:.1f}", y=f"{y1 - 5:.1f}", text_anchor="end", class_="label")
    carries = "" if f.amount is None else f", {f.amount:.3g}"
    told = tag("title", f"{f.source} to {f.target}: {f.label}{carries}")
    return tag("g", tag("path", d=path, style=style), label, told)


def _node(n: Node, at: tuple[float, float], wide: float, marks: Mapping[str, Mark]) -> Html:
    x, y = at
    colour = marks[n.arm].colour if n.arm else "var(--muted)"
    shown = n.name if len(n.name) <= _NAME else n.name[: _NAME - 1] + "…"
    style = f"fill:var(--paper);stroke:{colour};stroke-width:1.6"
    centre = f"{x + wide / 2:.1f}"
    box = tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{wide:.1f}", height=_BOX, rx=5, style=style)
    up = y + (16 if n.note else 24)
    name = tag("text", shown, x=centre, y=f"{up:.1f}", text_anchor="middle", style="font-weight:600")
    note = tag("text", n.note, x=centre, y=f"{y + 31:.1f}", text_anchor="middle") if n.note else ""
    return tag("g", tag("title", f"{n.name} {n.note}".strip()), box, name, note)
