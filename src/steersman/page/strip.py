"""The token strip: a text as a paragraph of tokens coloured by what a method sees in them.

One sample is one text; several views (methods) show the same tokens, one below the other, so that they can be compared
token by token. The data are embedded once as JSON; ``static/page.js`` builds the tokens and recolours them by class.
Leaves out: tokenising and decoding (tokens arrive as text), computing any stream. Source: none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from steersman.core.errors import UserError
from steersman.page.html import Html, json_block, tag
from steersman.page.theme import STEPS, Mark

_COVERED = 0.98  # share of values inside the colour scale; the rest take the end colour, and the scale says so
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a stream is.

    Args:
        name: key of the stream in every view.
        unit: such as "nats"; empty for a pure number.
        scale: "signed" (diverging, centred at zero) or "sequential" (from the least to the greatest value).
        meaning: one line for the reader.
    """

    name: str
    unit: str
    scale: Literal["signed", "sequential"]
    meaning: str


@dataclass(frozen=True, slots=True)
class View:
    """What one arm saw: a value per token for each stream (``None``: no value there), and the tokens it dropped."""

    arm: str
    streams: dict[str, tuple[float | None, ...]]
    dropped: tuple[bool, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One text under one or several views.

    Args:
        title: what this text is.
        tokens: each token's decoded text, in order; spaces belong to the token that carries them.
        prompt_tokens: how many of the first tokens were given rather than sampled.
        views: at least one; every stream and `dropped` has one entry per token.
        truth: positions of the tokens that the task knows to matter, underlined; ``None`` where it does not know.
        caption: one line below, such as "31 of 40 kept tokens are decisive".
    Raises: UserError where a length or a position does not fit the tokens.
    """

    title: str
    tokens: tuple[str, ...]
    prompt_tokens: int
    views: tuple[View, ...]
    truth: tuple[int, ...] | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        n, where = len(self.tokens), f"sample {self.title!r}"
        if not 0 <= self.prompt_tokens <= n:
            raise UserError(f"prompt_tokens is {self.prompt_tokens} for {n} tokens", where=where, allowed=f"0 to {n}")
        if bad := [i for i in self.truth or () if not 0 <= i < n]:
            raise UserError(f"truth names position {bad[0]}, but there are {n} tokens", where=where)
        for view in self.views:
            for name, values in {**view.streams, "dropped": view.dropped}.items():
                if values is not None and len(values) != n:
                    raise UserError(f"{view.arm}: {name} has {len(values)} values for {n} tokens", where=where)


def strip(samples: Sequence[Sample], streams: Sequence[StreamInfo], marks: Mapping[str, Mark]) -> Html:
    """The widget: a picker of samples and streams, and the tokens of each view.

    Args:
        samples: texts to step through.
        streams: what can be chosen, in the order of the keys 1-9.
        marks: colour of every arm.
    Returns: the widget, or one sentence where there is nothing to show.
    Raises: UserError for a stream in a view that `streams` does not describe.
    Edge cases: the scale of a stream is common to all samples and views; values beyond the 98th percentile of their
        size take the end colour; missing values stay uncoloured and are shown as "–".
    """
    if not samples:
        return tag("p", "No samples were recorded.", class_="empty")
    known = {s.name for s in streams}
    for sample in samples:
        for view in sample.views:
            if unknown := sorted(set(view.streams) - known):
                raise UserError(f"stream {unknown[0]!r} is not described", where=f"sample {sample.title!r}, {view.arm}")
    data = {
        "steps": STEPS,
        "streams": [_stream(s, samples) for s in streams],
        "samples": [_sample(s, marks) for s in samples],
    }
    fallback = tag("noscript", tag("p", "The token strip needs JavaScript.", class_="empty"))
    return tag("div", fallback, json_block(data, class_="data"), class_="tokens")


def _stream(info: StreamInfo, samples: Sequence[Sample]) -> dict[str, object]:
    values = [v for s in samples for view in s.views for v in view.streams.get(info.name, ()) if v is not None]
    low, high, clipped = bounds(values, info.scale)
    return {
        "name": info.name, "unit": info.unit, "scale": info.scale, "meaning": info.meaning,
        "low": low, "high": high, "clipped": clipped,
    }  # fmt: skip


def bounds(values: Sequence[float], scale: str) -> tuple[float, float, bool]:
    """Ends of a colour scale and whether some values lie beyond them.

    Args:
        values: all values of a stream; NaN and infinity are left out.
        scale: "signed" gives (-m, m); "sequential" starts at zero unless there are negative values.
    Edge cases: no values, or all zero, give a scale of width one.
    """
    finite = sorted(v for v in values if math.isfinite(v))
    if not finite:
        return (-1.0, 1.0, False) if scale == "signed" else (0.0, 1.0, False)
    sizes = sorted(map(abs, finite)) if scale == "signed" else finite
    high = sizes[min(len(sizes) - 1, math.ceil(_COVERED * len(sizes)) - 1)] or sizes[-1]
    low = -high if scale == "signed" else min(0.0, finite[0])
    if high <= low:
        high, low = (1.0, -1.0) if scale == "signed" else (low + 1.0, low)
    return _round(low), _round(high), finite[-1] > high or finite[0] < low


def _sample(sample: Sample, marks: Mapping[str, Mark]) -> dict[str, object]:
    views = [
        {
            "arm": view.arm,
            "colour": marks[view.arm].colour,
            "streams": {name: [_plain(v) for v in values] for name, values in view.streams.items()},
            "dropped": None if view.dropped is None else [i for i, d in enumerate(view.dropped) if d],
        }
        for view in sample.views
    ]
    return {
        "title": sample.title, "tokens": list(sample.tokens), "prompt": sample.prompt_tokens, "views": views,
        "truth": None if sample.truth is None else list(sample.truth), "caption": sample.caption,
    }  # fmt: skip


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _plain(value: float | None) -> float | str | None:
    """A value as JSON can hold it: missing becomes null (never 0), infinity becomes a word that JavaScript reads."""
    if value is None or math.isnan(value):
        return None
    return _round(value) if math.isfinite(value) else f"{'-' if value < 0 else ''}Infinity"
