"""Axes: a scale from values to pixels, and the ticks a person would have chosen.

Leaves out: drawing (`figures`). Source: ticks are multiples of 1, 2 or 5 times a power of ten (Heckbert 1990).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steersman.page.html import Html, tag
from steersman.page.number import number, superscript

_PAD = 0.05
_TINY = 1e-300  # a log axis never reaches zero; smaller spans and values count as none
_SAME = 1e-9  # values closer than this share of their size are one value: rounding is not worth an axis


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values in [low, high] to pixels in [start, end], linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float | None) -> float | None:
        """Pixel of a value, or ``None`` where it cannot be drawn (missing, infinite, not positive on a log axis)."""
        if value is None or not math.isfinite(value) or (self.log and value <= _TINY):
            return None
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Values and labels of about `count` ticks inside the scale."""
        if self.log and math.log10(self.high) - math.log10(self.low) >= 0.9:
            values = _log_ticks(self.low, self.high, count)
            return [(v, _log_label(v)) for v in values]
        step = nice_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        if self.log and last < first:
            return [(v, number(v)) for v in (self.low, self.high)]
        return [(i * step, number(i * step, places)) for i in range(first, last + 1) if not self.log or i > 0]


def nice_step(raw: float) -> float:
    """The 1, 2 or 5 times a power of ten that is nearest to `raw` (> 0) in ratio."""
    power = 10.0 ** math.floor(math.log10(raw))
    return power * next(m for m, limit in ((1, 2), (2, 10), (5, 50), (10, 100)) if (raw / power) ** 2 < limit)


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    decades = math.log10(high) - math.log10(low)
    if decades < 2.5:
        span = range(math.floor(math.log10(low)), last + 1)
        return [m * 10.0**e for e in span for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    stride = max(1, math.ceil(decades / count))
    return [10.0**e for e in range(first, last + 1) if e % stride == 0]


def _log_label(value: float) -> str:
    exponent = math.log10(value)
    plain = 1e-3 <= value < 1e5
    return f"{value:,g}" if plain or abs(exponent - round(exponent)) > 1e-9 else f"10{superscript(round(exponent))}"


def scale_for(
    values: Iterable[float | None], start: float, end: float, *, log: bool = False, pad: float = _PAD
) -> Scale:
    """A scale that holds every value that can be drawn, with a little room at both ends.

    Args:
        values: any floats; missing, infinite and (on a log axis) non-positive ones are left out.
        start, end: pixels of the low and the high end.
        log: logarithmic axis.
        pad: room at each end as a share of the span.
    Edge cases: no value gives [0, 1] (log: [0.1, 10]); a single value, up to rounding, is put in the middle.
    """
    usable = [v for v in values if v is not None and math.isfinite(v) and (v > _TINY or not log)]
    if not usable:
        return Scale(0.1, 10.0, start, end, True) if log else Scale(0.0, 1.0, start, end)
    low, high = min(usable), max(usable)
    if log:
        room = 10 ** (pad * (math.log10(high) - math.log10(low))) if high > low else 2.0
        return Scale(max(low / room, _TINY), high * room, start, end, True)
    size = max(abs(low), abs(high))
    room = (high - low) * pad if high - low > max(size * _SAME, _TINY) else size / 2 or 1.0
    room = room if room > _TINY else 1.0
    return Scale(low - room, high + room, start, end)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart until neighbours are `gap` pixels from one another, each as near its place as the order allows.

    Args:
        positions: wanted pixels, any order.
        gap: least distance between two labels.
        low, high: the room; when it is too small for all, the labels run past `high` rather than overlap.
    Returns: places in the order given.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    groups: list[tuple[list[int], float]] = []  # members in order, wanted centre
    for i in order:
        members, centre = [i], positions[i]
        while groups and groups[-1][1] + gap * len(groups[-1][0]) / 2 > centre - gap * len(members) / 2 + 1e-9:
            before, other = groups.pop()
            centre = (other * len(before) + centre * len(members)) / (len(before) + len(members))
            members = before + members
        groups.append((members, centre))
    placed = [0.0] * len(positions)
    for members, centre in groups:
        for k, i in enumerate(members):
            placed[i] = centre + gap * (k - (len(members) - 1) / 2)
    for k, i in reversed(list(enumerate(order))):
        ceiling = high if k == len(order) - 1 else placed[order[k + 1]] - gap
        placed[i] = min(placed[i], ceiling)
    for k, i in enumerate(order):
        floor = low if k == 0 else placed[order[k - 1]] + gap
        placed[i] = max(placed[i], floor)
    return placed


Ticks = Sequence[tuple[float, str]]


def axes(x_label: str, sx: Scale, sy: Scale, *, left: float, right: float, base: float, rows: Ticks) -> Html:
    """Grid lines with their values, ticks below them, and the name of the x axis.

    Args:
        x_label: below the ticks.
        sx, sy: of the figure.
        left, right, base: the sides of what is drawn in, pixels of the figure.
        rows: values and labels of the grid lines, as `Scale.ticks` gives them.
    """
    parts = []
    for value, text in rows:
        y = f"{sy(value) or 0.0:.1f}"
        parts += [
            tag("line", x1=left, x2=right, y1=y, y2=y),
            tag("text", text, x=left - 7, y=y, dy="0.35em", text_anchor="end"),
        ]
    for value, text in sx.ticks():
        x = f"{sx(value) or 0.0:.1f}"
        parts += [
            tag("line", x1=x, x2=x, y1=base, y2=base + 4, class_="tick"),
            tag("text", text, x=x, y=base + 17, text_anchor="middle"),
        ]
    parts.append(tag("line", x1=left, x2=right, y1=base, y2=base, class_="base"))
    parts.append(tag("text", x_label, x=(left + right) / 2, y=base + 35, text_anchor="middle", class_="label"))
    return tag("g", *parts, class_="axes")
