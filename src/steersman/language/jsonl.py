"""JSON Lines read defensively: one object a line, every complaint with file and line number, size limits.

A byte-order mark, CRLF line ends and blank lines are tolerated. Leaves out: what the fields mean (`records`).
"""

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is refused: no prompt and response come near, and it is usually a file that is not JSON Lines."""
_BOM = b"\xef\xbb\xbf"
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip",
    b"ARROW1": "Arrow",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken line and why."""

    line: int
    what: str


class Broken(Exception):
    """A line that cannot be used; becomes a `UserError` or an entry of `Problems`."""


@dataclass(slots=True)
class Problems:
    """Collects what is wrong with a file instead of stopping at the first fault (`steersman data check`)."""

    found: list[Problem] = field(default_factory=list)

    def add(self, line: int, what: str) -> None:
        """Record one fault."""
        self.found.append(Problem(line, what))


def complain(path: Path, line: int, what: str, good: int, problems: Problems | None) -> None:
    """Raise the error for a broken line, or record it where a collector is given.

    Args:
        path: the file.
        line: 1-based line number.
        what: what is wrong with the line.
        good: how many rows before it were fine.
        problems: the collector, or None to raise.

    Raises:
        UserError: if there is no collector.
    """
    if problems is not None:
        problems.add(line, what)
        return
    before = (
        "" if good == 0 else f". {good} row{'' if good == 1 else 's'} before it {'is' if good == 1 else 'are'} fine"
    )
    cure = f"See them all with: steersman data check {shlex.quote(str(path))}"
    raise UserError(f"{what}{before}.", where=f"{path}, line {line}", cure=cure)


def objects(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any] | Broken]]:
    """Yield ``(line number, object)`` for each line that is not blank; a broken line gives a `Broken` instead.

    Args:
        path: a JSON Lines file in UTF-8.

    Raises:
        UserError: no such file, a directory, a file that is not text, one that cannot be read, an empty one.
    """
    file = Path(path)
    if not file.exists():
        raise UserError("does not exist", where=str(file))
    if file.is_dir():
        raise UserError("is a directory, not a JSON Lines file", where=str(file))
    empty = True
    try:
        with file.open("rb") as stream:
            _check_text(file, stream.peek(4096)[:4096])
            number = 0
            while raw := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                too_long = len(raw) > MAX_LINE_BYTES
                while too_long and not raw.endswith(b"\n") and (raw := stream.readline(MAX_LINE_BYTES)):
                    pass
                if number == 1:
                    raw = raw.removeprefix(_BOM)
                if too_long:
                    empty = False
                    yield number, Broken(f"the line is longer than {MAX_LINE_BYTES} bytes")
                elif raw.strip():
                    empty = False
                    yield number, _parse(raw.rstrip(b"\r\n"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=str(file)) from None
    if empty:
        raise UserError("is empty", where=str(file), cure="It must hold one JSON object a line.")


def _check_text(file: Path, head: bytes) -> None:
    """Refuse what is plainly not JSON Lines, by its first bytes."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"is a {name} file", where=str(file), allowed="JSON Lines: one JSON object a line, UTF-8")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError("is UTF-16 text", where=str(file), cure="Save it as UTF-8.")
    if b"\x00" in head:
        raise UserError("is a binary file", where=str(file), allowed="JSON Lines: one JSON object a line, UTF-8")
    if head.removeprefix(_BOM).lstrip()[:1] == b"[":
        code = f"import json; [print(json.dumps(r)) for r in json.load(open({str(file)!r}))]"
        cure = f"Convert it: python -c {shlex.quote(code)} > rows.jsonl"
        raise UserError("is one JSON array", where=str(file), allowed="JSON Lines: one JSON object a line", cure=cure)


def _parse(raw: bytes) -> dict[str, Any] | Broken:
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
        raw_text_ok(value)
    except Broken as error:
        return error
    except UnicodeDecodeError as error:
        return Broken(f"is not UTF-8 (byte {error.start + 1} of the line)")
    except json.JSONDecodeError as error:
        return Broken(f"is not valid JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError) as error:
        return Broken(f"is not usable JSON ({'nested too deeply' if isinstance(error, RecursionError) else error})")
    return value if isinstance(value, dict) else Broken(f"is {kind(value)}, not a JSON object")


def raw_text_ok(value: Any) -> None:
    """Refuse text with half of a surrogate pair, which JSON can spell and no tokenizer can encode."""
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise Broken("text holds half of a surrogate pair (an escape such as \\ud83d without its partner)")
    elif isinstance(value, dict):
        for item in value.values():
            raw_text_ok(item)
    elif isinstance(value, list):
        for item in value:
            raw_text_ok(item)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        raise Broken(f'"{next(n for n in names if names.count(n) > 1)}" stands twice in one object')
    return out


def _constant(name: str) -> Any:
    raise Broken(f"holds {name}, which is not JSON")


def kind(value: Any) -> str:
    """A JSON value's type in plain words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    for types, name in (((int, float), "a number"), (str, "text"), (list, "a list"), (dict, "an object")):
        if isinstance(value, types):
            return name
    return type(value).__name__
