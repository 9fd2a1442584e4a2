"""Training rows in the ecosystem's usual JSON Lines formats, each as a frozen record that knows its line.

Formats: ``text``; ``prompt``/``completion``; ``messages`` (the last turn is the response); ``prompt``/``chosen``/
``rejected``, where chosen and rejected may be whole conversations that begin with the prompt;
``prompt``/``completion``/``label`` (unpaired); and ``prompt`` alone. Text and conversations may be mixed within a row:
text beside a conversation counts as the user's, or the assistant's, turn. Optional columns: ``weight`` (any format);
``label`` (the probability that chosen is the better one, 0.5 = a tie), ``flip_rate`` and ``margin`` (pairs). Other
columns are ignored and counted. Leaves out: JSON itself (`jsonl`), token ids (`encode`), statistics of a file
(`data_check`).
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from steersman.core.errors import UserError
from steersman.language.chat import Message
from steersman.language.jsonl import Broken, Problems, complain, kind, objects

Text = str | tuple[Message, ...]
"""Plain text, or the turns of a conversation."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and the response to imitate; a row of ``text`` has an empty prompt."""

    line: int
    prompt: Text
    completion: Text
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to a prompt; `label` is the probability that `chosen` is the better one."""

    line: int
    prompt: Text
    chosen: Text
    rejected: Text
    label: float = 1.0
    flip_rate: float | None = None
    margin: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Rated:
    """A prompt, a response, and whether it is desirable."""

    line: int
    prompt: Text
    completion: Text
    desirable: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to respond to."""

    line: int
    prompt: Text


Row = TypeVar("Row", Completion, Pair, Rated, Prompt)


@dataclass(frozen=True, slots=True)
class Records(Generic[Row]):
    """What a reader took from a file.

    Args:
        path: the file.
        rows: the usable rows in file order.
        identical: lines of pairs whose sides are the same; they carry no preference and were dropped.
        ties: number of kept pairs with label 0.5.
        ignored: columns that no reader uses -> number of rows that have them.
    """

    path: Path
    rows: tuple[Row, ...]
    identical: tuple[int, ...] = ()
    ties: int = 0
    ignored: Mapping[str, int] | None = None

    def __len__(self) -> int:
        return len(self.rows)


class _Identical(Exception):
    """The two sides of a pair are the same."""


def read_completions(path: str | os.PathLike[str], problems: Problems | None = None) -> Records[Completion]:
    """Read rows to imitate: ``text``, ``prompt``/``completion`` or ``messages``.

    Args:
        path: JSON Lines file.
        problems: collects every fault instead of raising at the first.

    Raises:
        UserError: names file and line, what is missing and what was found.
    """
    return _read(path, _completion, {"text", "prompt", "completion", "messages", "weight"}, problems)


def read_pairs(path: str | os.PathLike[str], problems: Problems | None = None) -> Records[Pair]:
    """Read preference pairs ``prompt``/``chosen``/``rejected``; see `read_completions` for arguments and errors.

    Where chosen and rejected are conversations the prompt may be left out: it is then their longest common beginning.
    """
    known = {"prompt", "chosen", "rejected", "label", "flip_rate", "margin", "weight"}
    return _read(path, _pair, known, problems)


def read_rated(path: str | os.PathLike[str], problems: Problems | None = None) -> Records[Rated]:
    """Read unpaired ratings ``prompt``/``completion``/``label``; see `read_completions` for arguments and errors."""
    return _read(path, _rated, {"prompt", "completion", "label", "weight"}, problems)


def read_prompts(path: str | os.PathLike[str]) -> Records[Prompt]:
    """Read prompts to respond to, the column ``prompt`` of rows that may have others; errors as `read_completions`."""
    problems = Problems()
    records = _read(path, _prompt, {"prompt"}, problems)
    if problems.found:
        first, rest = problems.found[0], len(problems.found) - 1
        cure = f"{rest} more line{'s' if rest > 1 else ''} cannot be used." if rest else ""
        raise UserError(first.what, where=f"{path}, line {first.line}", cure=cure)
    return records


def detect(path: str | os.PathLike[str]) -> str:
    """Which format a file has, by the columns of its first readable row: "pairs", "rated" or "completions".

    Raises:
        UserError: no row has the columns of a known format, or the file cannot be read.
    """
    first: tuple[int, dict[str, Any]] | None = None
    broken: list[tuple[int, Broken]] = []
    for line, value in objects(path):
        if isinstance(value, Broken):
            broken.append((line, value))
            continue
        first = first or (line, value)
        if "chosen" in value or "rejected" in value:
            return "pairs"
        if "completion" in value and "label" in value:
            return "rated"
        if "completion" in value or "messages" in value or "text" in value:
            return "completions"
    if first is None:
        cure = f"None of the {len(broken):,} lines of the file is a JSON object." if len(broken) > 1 else ""
        raise UserError(str(broken[0][1]), where=f"{path}, line {broken[0][0]}", cure=cure)
    allowed = "text | prompt, completion | messages | prompt, chosen, rejected | prompt, completion, label"
    raise UserError(f"unknown format (found: {_found(first[1])})", where=f"{path}, line {first[0]}", allowed=allowed)


READERS: dict[str, Callable[..., Records[Any]]] = {
    "completions": read_completions,
    "pairs": read_pairs,
    "rated": read_rated,
}


def _read(
    path: str | os.PathLike[str],
    parse: Callable[[int, dict[str, Any]], Row],
    known: set[str],
    problems: Problems | None,
) -> Records[Row]:
    rows: list[Row] = []
    identical: list[int] = []
    ignored: Counter[str] = Counter()
    for line, value in objects(path):
        try:
            if isinstance(value, Broken):
                raise value
            rows.append(parse(line, value))
            ignored.update(value.keys() - known)
        except _Identical:
            identical.append(line)
        except Broken as error:
            complain(Path(path), line, str(error), len(rows) + len(identical), problems)
    if not rows and problems is None:
        raise UserError(f"no usable row: all {len(identical)} pairs have identical sides", where=str(path))
    ties = sum(isinstance(row, Pair) and row.label == 0.5 for row in rows)
    return Records(Path(path), tuple(rows), tuple(identical), ties, dict(sorted(ignored.items())))


def _completion(line: int, value: dict[str, Any]) -> Completion:
    weight = _number(value, "weight", 1.0, 0.0, math.inf)
    if "completion" in value:
        prompt, completion = _sides(_need(value, "prompt"), _response(value, "completion"))
        return Completion(line, prompt, completion, weight)
    if "messages" in value:
        turns = _text(value, "messages")
        if isinstance(turns, str):
            raise Broken('"messages" is text, not a list of {"role", "content"}')
        if len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise Broken('"messages" must end with a turn by "assistant" after at least one other turn')
        _nonempty(turns[-1:], "the last turn")
        return Completion(line, turns[:-1], turns[-1:], weight)
    if "text" in value:
        text = _response(value, "text")
        if not isinstance(text, str):
            raise Broken('"text" is a list, not text')
        return Completion(line, "", text, weight)
    if "prompt" in value:
        raise Broken(f'"completion" is missing (found: {_found(value)})')
    raise Broken(f'none of "completion", "messages", "text" is there (found: {_found(value)})')


def _prompt(line: int, value: dict[str, Any]) -> Prompt:
    prompt = _need(value, "prompt")
    if not isinstance(prompt, str) and not prompt:
        raise Broken('"prompt" is a conversation without a turn')
    return Prompt(line, prompt)


def _rated(line: int, value: dict[str, Any]) -> Rated:
    prompt, completion = _sides(_need(value, "prompt"), _response(value, "completion"))
    label = value.get("label")
    if "label" not in value:
        raise Broken(f'"label" is missing (found: {_found(value)})')
    if not isinstance(label, bool) and label not in (0, 1):
        raise Broken(f'"label" is {kind(label) if not isinstance(label, int | float) else label}, not true or false')
    return Rated(line, prompt, completion, bool(label), _number(value, "weight", 1.0, 0.0, math.inf))


def _pair(line: int, value: dict[str, Any]) -> Pair:
    chosen, rejected = _response(value, "chosen"), _response(value, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise Broken(f'"chosen" is {_form(chosen)} but "rejected" is {_form(rejected)}')
    if "prompt" in value:
        prompt = _need(value, "prompt")
    elif isinstance(chosen, str) or isinstance(rejected, str):
        raise Broken(f'"prompt" is missing (found: {_found(value)})')
    else:
        prompt = _common(chosen, rejected)
    prompt, chosen = _sides(prompt, chosen)
    _, rejected = _sides(prompt, rejected)
    flip = _number(value, "flip_rate", math.nan, 0.0, 0.5, open_end=True)
    pair = Pair(
        line,
        prompt,
        chosen,
        rejected,
        _number(value, "label", 1.0, 0.0, 1.0),
        None if math.isnan(flip) else flip,
        _number(value, "margin", 0.0, -math.inf, math.inf),
        _number(value, "weight", 1.0, 0.0, math.inf),
    )
    if chosen == rejected:
        raise _Identical
    return pair


def _common(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns both conversations begin with, leaving each at least its last turn."""
    limit = min(len(chosen), len(rejected)) - 1
    n = next((i for i in range(limit) if chosen[i] != rejected[i]), limit)
    if n == 0:
        raise Broken('"prompt" is missing, and "chosen" and "rejected" do not begin with the same turn')
    return chosen[:n]


def _sides(prompt: Text, response: Text) -> tuple[Text, Text]:
    """Bring prompt and response to one form and take the prompt off a response that repeats it."""
    if isinstance(prompt, str) and isinstance(response, str):
        return prompt, response
    before = (({"role": "user", "content": prompt},) if prompt else ()) if isinstance(prompt, str) else prompt
    after = ({"role": "assistant", "content": response},) if isinstance(response, str) else response
    if len(after) > len(before) and after[: len(before)] == before:
        after = after[len(before) :]
    elif isinstance(prompt, str) and len(after) > 2 and after[0]["role"] == "system" and after[1:2] == before:
        before, after = after[:2], after[2:]
    if not before:
        raise Broken("the conversation has no turn before the response")
    if after[0]["role"] != "assistant":
        raise Broken(f'the response begins with a turn by "{after[0]["role"]}", not by "assistant"')
    _nonempty(after, "the response")
    return before, after


def _need(value: dict[str, Any], name: str) -> Text:
    if name not in value:
        raise Broken(f'"{name}" is missing (found: {_found(value)})')
    return _text(value, name)


def _response(value: dict[str, Any], name: str) -> Text:
    text = _need(value, name)
    if not text or (isinstance(text, str) and not text.strip()):
        raise Broken(f'"{name}" is empty')
    if not isinstance(text, str):
        _nonempty(text[-1:], f'the last turn of "{name}"')
    return text


def _text(value: dict[str, Any], name: str) -> Text:
    found = value[name]
    if isinstance(found, str):
        return found
    if not isinstance(found, list):
        raise Broken(f'"{name}" is {kind(found)}, not text or a list of messages')
    return tuple(_message(turn, f'"{name}", turn {i}') for i, turn in enumerate(found, 1))


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise Broken(f"{where} is {kind(turn)}, not an object with role and content")
    for key in ("role", "content"):
        if not isinstance(turn.get(key), str):
            state = f"is {kind(turn[key])}, not text" if key in turn else "is missing"
            raise Broken(f'{where}: "{key}" {state}')
    if not turn["role"]:
        raise Broken(f'{where}: "role" is empty')
    return {"role": turn["role"], "content": turn["content"]}


def _nonempty(turns: tuple[Message, ...], what: str) -> None:
    if not all(turn["content"].strip() for turn in turns if turn["role"] == "assistant"):
        raise Broken(f"{what} is empty")


def _number(
    value: dict[str, Any], name: str, default: float, low: float, high: float, *, open_end: bool = False
) -> float:
    """An optional number in [low, high], or in [low, high) with `open_end`; null counts as absent."""
    found = value.get(name)
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise Broken(f'"{name}" is {kind(found)}, not a number')
    inside = low <= found < high if open_end or math.isinf(high) else low <= found <= high
    if not math.isfinite(found) or not inside:
        bounds = f"[{low:g}, {high:g}{')' if open_end else ']'}" if math.isfinite(high) else f"at least {low:g}, finite"
        raise Broken(f'"{name}" is {found} (allowed: {bounds})')
    return float(found)


def _form(text: Text) -> str:
    return "text" if isinstance(text, str) else "a conversation"


def _found(value: dict[str, Any], most: int = 8) -> str:
    names = [str(k)[:40] for k in value]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") if names else "nothing"
