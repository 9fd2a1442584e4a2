"""The token view: a text as tokens coloured by what methods see in them.

One sample is one text; its views are methods on the same tokens, either a box of text each or aligned under each token,
so that they can be compared token by token. Above them a map says which samples each method uses at all. The data are
embedded once as JSON; ``static/tokens.js`` builds the tokens and recolours them by class.
Leaves out: tokenising and decoding (tokens arrive as text), computing any stream. Source: none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from steersman.core.errors import UserError
from steersman.page.html import Html, json_block, tag
from steersman.page.theme import STEPS, Mark

KEPT = "kept"
"""Name of the stream that is always there where a method chooses: kept, or dropped. Any other must be described."""
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
    """What one arm saw in a text.

    Args:
        arm: name of the method.
        streams: a value per token for each stream (``None``: no value there).
        dropped: the tokens it does not learn from, one entry per token; ``None`` where it chooses nothing.
        copies: how often it uses the whole text; 0 = it dropped the response, and so all its tokens.
    """

    arm: str
    streams: Mapping[str, tuple[float | None, ...]]
    dropped: tuple[bool, ...] | None = None
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One text under one or several views.

    Args:
        title: what this text is.
        tokens: each token's decoded text, in order; spaces belong to the token that carries them.
        prompt_tokens: how many of the first tokens were given rather than sampled.
        views: at least one; every stream and `dropped` has one entry per token.
        truth: positions of the tokens that the task knows to matter, underlined; ``None`` where it does not know.
        caption: one line below.
        notes: (name, value) of what is known of the whole text, such as its reward.
        group: key of the prompt; samples of one stand together in the map.
        mark: word for a token in `truth`.
    Raises: UserError where a length or a position does not fit the tokens.
    """

    title: str
    tokens: tuple[str, ...]
    prompt_tokens: int
    views: tuple[View, ...]
    truth: tuple[int, ...] | None = None
    caption: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    group: str = ""
    mark: str = "decisive"

    def __post_init__(self) -> None:
        n, where = len(self.tokens), f"sample {self.title!r}"
        if not 0 <= self.prompt_tokens <= n:
            raise UserError(f"prompt_tokens is {self.prompt_tokens} for {n} tokens", where=where, allowed=f"0 to {n}")
        if bad := [i for i in self.truth or () if not 0 <= i < n]:
            raise UserError(f"truth names position {bad[0]}, but there are {n} tokens", where=where)
        for view in self.views:
            if view.copies < 0:
                raise UserError(f"{view.arm}: copies is {view.copies}", where=where, allowed="0 or more")
            for name, values in {**view.streams, "dropped": view.dropped}.items():
                if values is not None and len(values) != n:
                    raise UserError(f"{view.arm}: {name} has {len(values)} values for {n} tokens", where=where)


def as_json(sample: Sample) -> dict[str, Any]:
    """A sample as plain JSON values, for a run's result; missing and non-finite values become null."""
    plain = asdict(sample)
    for view in plain["views"]:
        view["streams"] = {k: [_finite(v) for v in values] for k, values in view["streams"].items()}
    return plain


def from_json(plain: Mapping[str, Any]) -> Sample:
    """Undo `as_json`."""
    views = tuple(
        View(
            v["arm"],
            {k: tuple(values) for k, values in v["streams"].items()},
            None if v["dropped"] is None else tuple(v["dropped"]),
            v["copies"],
        )
        for v in plain["views"]
    )
    truth = None if plain["truth"] is None else tuple(plain["truth"])
    known = {"tokens": tuple(plain["tokens"]), "notes": tuple((a, b) for a, b in plain["notes"])}
    return Sample(**{**plain, **known, "views": views, "truth": truth})


def token_view(samples: Sequence[Sample], streams: Sequence[StreamInfo], marks: Mapping[str, Mark]) -> Html:
    """The widget: a picker of samples and streams, a map of what each arm uses, and the tokens of each view.

    Args:
        samples: texts to step through.
        streams: what can be chosen, in the order of the keys 1-9; `KEPT` is added where a view drops something.
        marks: colour of every arm.
    Returns: the widget, or one sentence where there is nothing to show.
    Raises: UserError for a stream in a view that `streams` does not describe, and for one described as `KEPT`.
    Edge cases: the scale of a stream is common to all samples and views; values beyond the 98th percentile of their
        size take the end colour; missing values stay uncoloured and are shown as "–"; dropped tokens keep their colour
        and are hatched and struck through, whatever the stream.
    """
    if not samples:
        return tag("p", "No samples were recorded.", class_="empty")
    known = {s.name for s in streams}
    if KEPT in known:
        raise UserError(f"stream {KEPT!r} is made here", where="streams", cure="Give it another name.")
    for sample in samples:
        for view in sample.views:
            if unknown := sorted(set(view.streams) - known):
                raise UserError(f"stream {unknown[0]!r} is not described", where=f"sample {sample.title!r}, {view.arm}")
    columns: dict[tuple[float | None, ...], int] = {}
    shown = [_sample(s, marks, columns) for s in samples]
    chosen = any(v.dropped is not None or not v.copies for s in samples for v in s.views)
    kept = {"name": KEPT, "unit": "", "scale": "kept", "meaning": "what each method learns from"}
    data = {
        "steps": STEPS,
        "streams": [_stream(s, samples) for s in streams] + ([kept] if chosen else []),
        "columns": [[_plain(v) for v in values] for values in columns],
        "samples": shown,
    }
    fallback = tag("noscript", tag("p", "The token view needs JavaScript.", class_="empty"))
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


def _sample(
    sample: Sample, marks: Mapping[str, Mark], columns: dict[tuple[float | None, ...], int]
) -> dict[str, object]:
    """A sample for the script; equal columns of several arms are stored once, as places in `columns`."""
    views = []
    for view in sample.views:
        dropped = None if view.dropped is None else [i for i, d in enumerate(view.dropped) if d]
        if not view.copies:
            dropped = list(range(sample.prompt_tokens, len(sample.tokens)))
        places = {name: columns.setdefault(_keyed(values), len(columns)) for name, values in view.streams.items()}
        views.append(
            {
                "arm": view.arm,
                "colour": marks[view.arm].colour,
                "streams": places,
                "dropped": dropped,
                "copies": view.copies,
            }
        )
    return {
        "title": sample.title, "tokens": list(sample.tokens), "prompt": sample.prompt_tokens, "views": views,
        "truth": None if sample.truth is None else list(sample.truth), "caption": sample.caption,
        "notes": [list(n) for n in sample.notes], "group": sample.group, "mark": sample.mark,
    }  # fmt: skip


def _keyed(values: tuple[float | None, ...]) -> tuple[float | None, ...]:
    """Values that can be compared: NaN, which equals nothing, as missing."""
    return tuple(None if v is None or math.isnan(v) else v for v in values)


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else _round(value)


def _plain(value: float | None) -> float | str | None:
    """A value as JSON can hold it: missing becomes null (never 0), infinity becomes a word that JavaScript reads."""
    if value is None or math.isnan(value):
        return None
    return _round(value) if math.isfinite(value) else f"{'-' if value < 0 else ''}Infinity"
