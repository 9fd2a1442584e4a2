"""A directed graph as a figure: causes above their effects, each node and edge of a kind of its own.

Leaves out: what the kinds mean, learning graphs, interaction. Source: layers by longest path and order by the mean
place of the causes, as Sugiyama, Tagawa and Toda 1981; hundreds of nodes are not drawn well.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from steersman.page.figures import swatch
from steersman.page.html import Html, join, tag
from steersman.page.theme import Mark

_WIDTH, _ROW, _TOP, _HIGH = 520, 74, 12, 30
_LETTER, _LEAST, _MOST = 7.6, 34, 120
_NAME = 15
"""Characters of a name that are drawn."""
_BEND = 34.0
_SWEEPS = 8
_HEAD = 7.0

Line = Literal["solid", "bold", "dashed"]


@dataclass(frozen=True, slots=True)
class Graph:
    """One figure.

    Args:
        title: of the figure.
        nodes: name -> kind, a key of the marks it is drawn with.
        edges: (cause, effect, how it is drawn); "dashed" has no arrow's head: its direction is not known.
        note: below the figure.

    Raises:
        ValueError: an edge of an unknown node, or a cycle among the edges with a head.
    """

    title: str
    nodes: Mapping[str, str]
    edges: tuple[tuple[str, str, Line], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for a, b, _ in self.edges:
            if a not in self.nodes or b not in self.nodes:
                raise ValueError(f"graph {self.title!r}: edge {a!r} to {b!r} of an unknown node")
        _layers(self)


def dag(given: Graph, marks: Mapping[str, Mark]) -> Html:
    """Draw a graph as a figure with a caption that names the kinds.

    Args:
        given: nodes and edges.
        marks: colour of every kind.

    Edge cases: names beyond 15 letters are cut, and shown whole on hover.
    """
    kinds = dict.fromkeys(given.nodes.values())
    legend = [tag("span", *(join(swatch(kind, marks[kind]), " ") for kind in kinds))]
    caption = tag("figcaption", tag("b", given.title), *legend)
    if not given.nodes:
        return tag("figure", caption, tag("p", "No variables to draw.", class_="empty"))
    layers = _ordered(given)
    place = _places(layers)
    lines = [_edge(place, layers, a, b, how) for a, b, how in given.edges]
    boxes = [_node(name, place[name], marks[kind], kind) for name, kind in given.nodes.items()]
    height = _TOP * 2 + _HIGH + _ROW * (len(layers) - 1)
    said = "; ".join(f"{a} {'--' if how == 'dashed' else 'to'} {b}" for a, b, how in given.edges)
    svg = tag("svg", *lines, *boxes, class_="plot", viewBox=f"0 0 {_WIDTH} {height}", role="img",
              aria_label=f"{given.title}: {said or 'no edges'}")  # fmt: skip
    return tag("figure", caption, svg, given.note and tag("p", given.note, class_="note"))


def _layers(given: Graph) -> list[list[str]]:
    """Nodes by the longest path that leads to them; an edge without direction keeps its ends apart as written."""
    above: dict[str, set[str]] = {v: set() for v in given.nodes}
    for a, b, how in given.edges:
        if how != "dashed" or a not in _reached(b, given.edges):
            above[b].add(a)
    depth: dict[str, int] = {}
    waiting = dict(above)
    while waiting:
        free = [v for v, causes in waiting.items() if causes <= depth.keys()]
        if not free:
            raise ValueError(f"graph {given.title!r} has a cycle among {sorted(waiting)}")
        for v in free:
            depth[v] = 1 + max((depth[c] for c in above[v]), default=-1)
            del waiting[v]
    found: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=0))]
    for v, d in depth.items():
        found[d].append(v)
    return found


def _reached(start: str, edges: Iterable[tuple[str, str, Line]]) -> set[str]:
    found, todo = {start}, [start]
    while todo:
        v = todo.pop()
        for a, b, _ in edges:
            if a == v and b not in found:
                found.add(b)
                todo.append(b)
    return found


def _ordered(given: Graph) -> list[list[str]]:
    """Each layer in the order of the mean place of what its nodes are tied to, a few times down and up."""
    layers = _layers(given)
    tied: dict[str, list[str]] = {v: [] for v in given.nodes}
    for a, b, _ in given.edges:
        tied[a].append(b)
        tied[b].append(a)
    for sweep in range(_SWEEPS):
        place = {v: x for layer in layers for v, x in zip(layer, _spread(len(layer)), strict=True)}
        depth = {v: d for d, layer in enumerate(layers) for v in layer}
        for d, layer in enumerate(layers):
            means = {}
            for v in layer:
                others = [w for w in tied[v] if (depth[w] < d) == (sweep % 2 == 0) and depth[w] != d]
                means[v] = sum(place[w] for w in others) / len(others) if others else place[v]
            layers[d] = sorted(layer, key=means.__getitem__)
    return layers


def _spread(count: int) -> list[float]:
    return [(i + 0.5) / count for i in range(count)]


def _places(layers: list[list[str]]) -> dict[str, tuple[float, float]]:
    """Centre of every node; layers are set off a little in turn, so that edges over two layers miss the one between."""
    found = {}
    for d, layer in enumerate(layers):
        off = (d % 2 - 0.5) * 0.3 / max(len(layer), 2)
        for v, x in zip(layer, _spread(len(layer)), strict=True):
            found[v] = (20 + (x + off) * (_WIDTH - 40), _TOP + _HIGH / 2 + d * _ROW)
    return found


def _wide(name: str) -> float:
    return min(max(len(_short(name)) * _LETTER + 16, _LEAST), _MOST + 16)


def _short(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def _node(name: str, at: tuple[float, float], mark: Mark, kind: str) -> Html:
    x, y, wide = *at, _wide(name)
    shape = {"x": f"{x - wide / 2:.1f}", "y": f"{y - _HIGH / 2:.1f}", "width": f"{wide:.1f}", "height": _HIGH, "rx": 6}
    style = f"fill:var(--paper);stroke:{mark.colour};stroke-width:2.2"
    box = tag("rect", **shape, style=style, stroke_dasharray=mark.dash or None)
    tint = tag("rect", **shape, style=f"fill:{mark.colour};opacity:.14")
    text = tag("text", _short(name), x=f"{x:.1f}", y=f"{y:.1f}", dy="0.35em", text_anchor="middle", class_="label")
    return tag("g", tag("title", f"{name}: {kind}"), box, tint, text)


def _edge(place: Mapping[str, tuple[float, float]], layers: list[list[str]], a: str, b: str, how: Line) -> Html:
    """A straight line to the next layer, a bent one past others; the head lies at the edge of the effect's box."""
    (x1, y1), (x2, y2) = place[a], place[b]
    depth = {v: d for d, layer in enumerate(layers) for v in layer}
    far = abs(depth[b] - depth[a])
    bend = 0.0
    if far != 1:
        side = 1 if (x1 + x2) / 2 >= _WIDTH / 2 else -1
        bend = side * _BEND * max(far - 1, 1)
    cx, cy = (x1 + x2) / 2 + bend, (y1 + y2) / 2 - (_ROW / 2 if far == 0 else 0)
    sx, sy = _border(a, (x1, y1), (cx, cy))
    ex, ey = _border(b, (x2, y2), (cx, cy))
    colour = "var(--ink)" if how == "bold" else "var(--muted)"
    style = f"fill:none;stroke:{colour};stroke-width:{2.4 if how == 'bold' else 1.4}"
    path = tag("path", d=f"M{sx:.1f} {sy:.1f}Q{cx:.1f} {cy:.1f} {ex:.1f} {ey:.1f}", style=style,
               stroke_dasharray="5 4" if how == "dashed" else None)  # fmt: skip
    if how == "dashed":
        return path
    dx, dy = ex - cx, ey - cy
    size = (dx * dx + dy * dy) ** 0.5 or 1.0
    ux, uy = dx / size * _HEAD, dy / size * _HEAD
    corners = ((ex, ey), (ex - ux - uy / 2, ey - uy + ux / 2), (ex - ux + uy / 2, ey - uy - ux / 2))
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in corners)
    return tag("g", path, tag("polygon", points=points, style=f"fill:{colour}"))


def _border(name: str, centre: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Where the line from a node's centre leaves its box."""
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    wide, high = _wide(name) / 2 + 2, _HIGH / 2 + 2
    share = max(abs(dx) / wide, abs(dy) / high) or 1.0
    return centre[0] + dx / share, centre[1] + dy / share
