"""Figures as inline SVG: curves with a line per seed and a band, and a dot with its interval for a table row.

Leaves out: choosing what to show, statistics (bands and means arrive computed), interaction (``static/page.js`` reads
the numbers embedded beside a figure). Colours are CSS custom properties, so one drawing serves light, dark and print.
Source: none; arms are named at the end of their line rather than in a legend.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steersman.page.axis import Scale, scale_for, spread
from steersman.page.html import Html, join, json_block, tag
from steersman.page.number import Estimate, interval, is_missing, point
from steersman.page.theme import Mark

_WIDTH, _HEIGHT = 520, 300
_TOP, _BOTTOM = 12, 40
_CHAR, _NAME_CHAR = 7.4, 8.6  # generous widths of a 12 px character, plain and bold, for whatever sans there is
_LABEL_GAP = 16.0
_LABEL_MAX = 22
_DOTS_MAX = 12  # up to this many x values every seed is drawn as a point as well
_ROW_WIDTH, _ROW_HEIGHT = 260, 34


@dataclass(frozen=True, slots=True)
class Line:
    """One arm's curve.

    Args:
        arm: name, shown at the end of the line.
        x: positions, ascending.
        seeds: one tuple of y per seed, aligned to `x`; NaN where a run has no value.
        mean, low, high: centre and interval, aligned to `x`; NaN allowed.
    Raises: ValueError when a length differs from that of `x`.
    """

    arm: str
    x: tuple[float, ...]
    seeds: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("low", self.low), ("high", self.high)):
            if len(values) != len(self.x):
                raise ValueError(f"line {self.arm!r}: {name} has {len(values)} values for {len(self.x)} of x")
        if any(len(seed) != len(self.x) for seed in self.seeds):
            raise ValueError(f"line {self.arm!r}: every seed needs {len(self.x)} values")


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure: the curves of one metric, what its axes mean, and a note set below it."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    log_x: bool = False
    log_y: bool = False
    note: str = ""


def curves(panel: Panel, marks: Mapping[str, Mark]) -> Html:
    """Draw a panel as a figure with a caption.

    Args:
        panel: the curves.
        marks: colour and dash of every arm (`theme.marks`).
    Returns: a ``figure`` element; the numbers lie beside the drawing for the tooltip.
    Edge cases: NaN breaks a line and is counted in the note, as are values that a log axis cannot show; an arm without
        any value is named in the note rather than drawn at zero; a panel without values says so.
    """
    caption = tag("figcaption", tag("b", panel.title), tag("span", panel.y_label))
    note = " ".join(filter(None, [panel.note, *_missing(panel)]))
    drawn = [line for line in panel.lines if _ends(line, panel)]
    if not drawn:
        body = tag("p", "No values to draw.", class_="empty")
        return tag("figure", caption, body, note and tag("p", note, class_="note"), class_="curves")
    values = [v for ln in drawn for row in (ln.mean, ln.low, ln.high, *ln.seeds) for v in row]
    height = max(_HEIGHT, _TOP + _BOTTOM + _LABEL_GAP * len(drawn))
    sy = scale_for(values, height - _BOTTOM, _TOP, log=panel.log_y)
    left = 10 + _CHAR * max((len(text) for _, text in sy.ticks()), default=1)
    right = _WIDTH - 18 - _NAME_CHAR * max(len(_short(ln.arm)) for ln in drawn)
    sx = scale_for([x for ln in drawn for x in ln.x], left, right, log=panel.log_x, pad=0.02)
    axes = _axes(panel, sx, sy, height)
    arms = [_arm(ln, marks[ln.arm], sx, sy) for ln in drawn]
    svg = tag(
        "svg", axes, *arms, *_names(drawn, marks, sx, sy, panel, height), tag("line", class_="cursor"),
        viewBox=f"0 0 {_WIDTH} {height:g}", role="img", aria_label=_summary(panel, drawn), class_="plot",
    )  # fmt: skip
    data = json_block(_tooltip(panel, drawn, marks, sx), class_="data")
    return tag("figure", caption, svg, data, note and tag("p", note, class_="note"), class_="curves")


def _short(name: str) -> str:
    return name if len(name) <= _LABEL_MAX else name[: _LABEL_MAX - 1] + "…"


def _drawable(value: float, log: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not log)


def _ends(line: Line, panel: Panel) -> tuple[float, float] | None:
    """The last point of a line that can be drawn."""
    points = zip(line.x, line.mean, strict=True)
    usable = [(x, y) for x, y in points if _drawable(x, panel.log_x) and _drawable(y, panel.log_y)]
    return usable[-1] if usable else None


def _missing(panel: Panel) -> list[str]:
    """What the drawing does not show, in words."""
    rows = [(ln, row) for ln in panel.lines for row in (ln.seeds or (ln.mean,))]
    lost = sum(not math.isfinite(v) for _, row in rows for v in row)
    hidden = sum(math.isfinite(v) and v <= 0 for _, row in rows for v in row) if panel.log_y else 0
    total = sum(len(row) for _, row in rows)
    absent = [ln.arm for ln in panel.lines if not _ends(ln, panel)]
    said = []
    if lost:
        said.append(f"{lost:,} of {total:,} values are missing or not finite; lines are broken there.")
    if hidden:
        said.append(f"{hidden:,} of {total:,} values are not positive and cannot be drawn on a log axis.")
    if absent and len(absent) < len(panel.lines):
        said.append(f"Not drawn, no values: {', '.join(absent)}.")
    return said


def _axes(panel: Panel, sx: Scale, sy: Scale, height: float) -> Html:
    base = height - _BOTTOM
    parts = []
    for value, text in sy.ticks():
        y = _px(sy(value))
        zero = "zero" if value == 0 else None
        parts += [
            tag("line", x1=_px(sx.start), x2=_px(sx.end), y1=y, y2=y, class_=zero),
            tag("text", text, x=_px(sx.start - 7), y=y, dy="0.35em", text_anchor="end"),
        ]
    free = -math.inf  # where the next label may begin
    for value, text in sx.ticks():
        at, half = sx(value) or 0.0, _NAME_CHAR * (len(text) + 1) / 2  # phones set it larger
        parts.append(tag("line", x1=_px(at), x2=_px(at), y1=base, y2=base + 4, class_="tick"))
        if at - half >= free:
            parts.append(tag("text", text, x=_px(at), y=base + 17, text_anchor="middle"))
            free = at + half
    middle = _px((sx.start + sx.end) / 2)
    parts.append(tag("line", x1=_px(sx.start), x2=_px(sx.end), y1=base, y2=base, class_="base"))
    parts.append(tag("text", panel.x_label, x=middle, y=base + 35, text_anchor="middle", class_="label"))
    return tag("g", *parts, class_="axes")


def _px(value: float | None) -> str:
    return f"{value:.1f}".removesuffix(".0") if value is not None else ""


def _runs(xs: Sequence[float | None], *rows: Sequence[float | None]) -> list[list[tuple[float, ...]]]:
    """Split points into unbroken runs."""
    out: list[list[tuple[float, ...]]] = [[]]
    for values in zip(xs, *rows, strict=True):
        if any(v is None for v in values):
            out.append([])
        else:
            out[-1].append(tuple(v for v in values if v is not None))
    return [run for run in out if run]


def _path(points: Sequence[tuple[float, ...]]) -> str:
    return "M" + "L".join(f"{_px(x)},{_px(y)}" for x, y in points)


def _arm(line: Line, mark: Mark, sx: Scale, sy: Scale) -> Html:
    xs = [sx(x) for x in line.x]
    mean, low, high = ([sy(v) for v in row] for row in (line.mean, line.low, line.high))
    dots = len(line.x) <= _DOTS_MAX
    parts = []
    for run in _runs(xs, low, high):
        if len(run) == 1:
            x, a, b = run[0]
            parts.append(tag("line", x1=_px(x), x2=_px(x), y1=_px(a), y2=_px(b), class_="whisker"))
        else:
            edge = [(x, a) for x, a, _ in run] + [(x, b) for x, _, b in reversed(run)]
            parts.append(tag("path", d=_path(edge) + "Z", class_="band"))
    for seed in line.seeds:
        ys = [sy(v) for v in seed]
        parts += [tag("path", d=_path(run), class_="seed") for run in _runs(xs, ys) if len(run) > 1]
        if dots:
            parts += [tag("circle", cx=_px(x), cy=_px(y), r=1.8, class_="dot") for run in _runs(xs, ys) for x, y in run]
    for run in _runs(xs, mean):
        parts.append(tag("path", d=_path(run), class_="mean", stroke_dasharray=mark.dash or None))
        if dots or len(run) == 1:
            parts += [tag("circle", cx=_px(x), cy=_px(y), r=3.2, class_="centre") for x, y in run]
    return tag("g", *parts, class_="arm", data_arm=line.arm, style=f"--c:{mark.colour}")


def _names(
    lines: Sequence[Line], marks: Mapping[str, Mark], sx: Scale, sy: Scale, panel: Panel, height: float
) -> list[Html]:
    ends = [end for ln in lines if (end := _ends(ln, panel))]
    wanted = [(sx(x) or 0.0, sy(y) or 0.0) for x, y in ends]
    places = spread([y for _, y in wanted], _LABEL_GAP, _TOP, height - _BOTTOM)
    out = []
    for line, (x, y), at in zip(lines, wanted, places, strict=True):
        lead = tag(
            "path",
            d=_path([(x + 4, y), (sx.end + 5, y), (sx.end + 11, at)]),
            class_="leader early" if x < sx.end - 12 else "leader",
        )
        full = tag("title", line.arm) if _short(line.arm) != line.arm else ""
        text = tag("text", full, _short(line.arm), x=_px(sx.end + 14), y=_px(at), dy="0.35em", class_="name")
        style = f"--c:{marks[line.arm].colour}"
        out.append(tag("g", lead, text, class_="arm", data_arm=line.arm, style=style))
    return out


def _summary(panel: Panel, lines: Sequence[Line]) -> str:
    """The figure in words, for those who cannot see it."""
    last = []
    for line in lines:
        end = _ends(line, panel)
        if end:
            k = max(i for i, pair in enumerate(zip(line.x, line.mean, strict=True)) if pair == end)
            e = _estimate(line, k)
            last.append(f"{line.arm} {point(e)} {interval(e)}")
    return f"{panel.title}: {panel.y_label} over {panel.x_label}. At the end: {'; '.join(last)}."


def _estimate(line: Line, k: int) -> Estimate:
    low, high = sorted((line.low[k], line.high[k])) if not math.isnan(line.low[k] + line.high[k]) else (math.nan,) * 2
    return Estimate(line.mean[k], low, high)


def _tooltip(panel: Panel, lines: Sequence[Line], marks: Mapping[str, Mark], sx: Scale) -> dict[str, object]:
    """For each x: its pixel, its text, and a row of text per arm."""
    points: dict[float, list[list[str]]] = {}
    for line in lines:
        for k, x in enumerate(line.x):
            if sx(x) is None:
                continue
            e = _estimate(line, k)
            n = sum(math.isfinite(seed[k]) for seed in line.seeds)
            points.setdefault(x, []).append([line.arm, marks[line.arm].colour, point(e), interval(e), f"n = {n}"])
    return {"label": panel.x_label, "points": [[round(sx(x) or 0, 1), f"{x:g}", points[x]] for x in sorted(points)]}


def row_scale(estimates: Sequence[tuple[Estimate | None, float | None, float | None]]) -> Scale:
    """The common axis of several table rows.

    Args:
        estimates: (estimate, reference, margin) per row; the axis holds every interval, reference and margin.
    """
    values: list[float | None] = []
    for estimate, reference, margin in estimates:
        if estimate is not None:
            values += [estimate.value, estimate.low, estimate.high]
        if reference is not None:
            values.append(reference)
            values += [reference - margin, reference + margin] if margin is not None else []
    return scale_for(values, 12.0, _ROW_WIDTH - 12.0, pad=0.08)


def row_interval(
    estimate: Estimate | None,
    scale: Scale,
    *,
    reference: float | None = None,
    margin: float | None = None,
    ticks: bool = False,
    colour: str = "var(--ink)",
) -> Html:
    """A dot with its interval on a common axis, to stand in a table row.

    Args:
        estimate: what to draw; ``None`` or a NaN value draws the axis alone.
        scale: the axis that all rows of one unit share (`row_scale`).
        reference: value marked by a line, such as the value under the null hypothesis.
        margin: half-width of the shaded zone around `reference`.
        ticks: write the numbers of the axis below.
    Edge cases: an infinite bound runs to the edge of the drawing and ends in an arrow.
    """
    middle, bottom = 17.0, float(_ROW_HEIGHT)
    height = _ROW_HEIGHT + (16 if ticks else 0)
    parts = []
    if reference is not None and margin is not None:
        a, b = scale(reference - margin) or 0.0, scale(reference + margin) or 0.0
        parts.append(tag("rect", x=_px(a), y=3, width=_px(b - a), height=bottom - 6, class_="margin"))
    for value, text in scale.ticks(3):
        x = _px(scale(value))
        parts.append(tag("line", x1=x, x2=x, y1=bottom - 3, y2=bottom, class_="tick"))
        parts += [tag("text", text, x=x, y=bottom + 12, text_anchor="middle")] if ticks else []
    parts.append(tag("line", x1=2, x2=_ROW_WIDTH - 2, y1=bottom, y2=bottom, class_="base"))
    if reference is not None:
        x = _px(scale(reference))
        parts.append(tag("line", x1=x, x2=x, y1=3, y2=bottom, class_="reference"))
    words = "no value"
    if estimate is not None and not is_missing(estimate.value):
        words = f"{point(estimate)} {interval(estimate)} {estimate.unit}".strip()
        parts += _bar(estimate, scale, middle)
    box = f"0 0 {_ROW_WIDTH} {height}"
    return tag("svg", *parts, viewBox=box, class_="row", role="img", aria_label=words, style=f"--c:{colour}")


def _bar(estimate: Estimate, scale: Scale, y: float) -> list[Html]:
    low, high = estimate.low, estimate.high
    parts = []
    if not math.isnan(low) and not math.isnan(high):
        left = scale(low) if math.isfinite(low) else 3.0
        right = scale(high) if math.isfinite(high) else _ROW_WIDTH - 3.0
        parts.append(tag("line", x1=_px(left), x2=_px(right), y1=y, y2=y, class_="bar"))
        for bound, x, side in ((low, left, 1), (high, right, -1)):
            edge = float(x or 0.0)
            tip = [(edge + 5 * side, y - 4), (edge, y), (edge + 5 * side, y + 4)]
            cap = [(edge, y - 4), (edge, y + 4)]
            parts.append(tag("path", d=_path(cap if math.isfinite(bound) else tip), class_="bar"))
    at = scale(estimate.value)
    return [*parts, tag("circle", cx=_px(at), cy=y, r=4.2, class_="centre")] if at is not None else parts


def swatch(name: str, mark: Mark) -> Html:
    """An arm's name with its colour before it."""
    return tag("span", tag("i", class_="swatch", style=f"--c:{mark.colour}"), join(name), class_="armname")
