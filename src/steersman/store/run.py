"""A run directory: what was asked, what was measured, what came out.

``run.json`` (what defines the run, written first), ``metrics.jsonl`` (appended), ``samples.jsonl``, ``ckpt/``,
``timing.json`` (everything that depends on the machine, apart from the result), ``stopped.json`` (the error that ended
the run, until it goes on) and ``result.json`` (written last and atomically; a run with one is finished). A process that
is killed may leave a torn last line in a JSONL file; reading drops it, and `truncate_after` cuts what a resumed run
will write again.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.core.errors import CorruptFile, UserError
from steersman.store.files import cannot_write, canonical, read_json, tag, untag, write_bytes, write_json


@dataclass(frozen=True, slots=True)
class RunDir:
    """The files of one run under `path`; creating the object touches nothing.

    Args:
        path: the folder.
        writes: False = this process only reads, because another process of the same run writes.
    """

    path: Path
    writes: bool = True

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / "ckpt"

    @property
    def finished(self) -> bool:
        """Whether ``result.json`` is there."""
        return (self.path / "result.json").is_file()

    def start(self, definition: Mapping[str, Any]) -> None:
        """Write ``run.json``, or check that the one there says the same.

        Raises:
            UserError: the folder holds another run.
        """
        file = self.path / "run.json"
        if file.is_file():
            found = differences(read_json(file), dict(definition))
            if found:
                more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
                raise UserError(
                    f"holds another run, made with {', '.join(found[:MOST_NAMED])}{more}",
                    where=str(self.path),
                    cure="Choose another output folder, or give the values of the run that is there.",
                )
            return
        if self.writes:
            write_json(file, dict(definition))

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to ``<name>.jsonl`` and flush them to the operating system."""
        if not self.writes:
            return
        file = self.path / f"{name}.jsonl"
        text = "".join(json.dumps(tag(dict(r)), ensure_ascii=False, allow_nan=False) + "\n" for r in rows)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as out:
                out.write(text.encode())
        except OSError as error:
            raise cannot_write(file, error) from None

    def read(self, name: str) -> list[dict[str, Any]]:
        """All whole rows of ``<name>.jsonl``; a torn last line (killed while writing) is dropped.

        Raises:
            CorruptFile: another line is not JSON; names it.
        """
        file = self.path / f"{name}.jsonl"
        if not file.is_file():
            return []
        rows = []
        for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
            try:
                rows += [untag(json.loads(line))] if line else []
            except ValueError as error:
                raise CorruptFile(f"is not valid JSON ({error})", where=f"{file}:{number}") from None
        return rows

    def truncate_after(self, name: str, step: int) -> None:
        """Drop the rows whose ``step`` is greater than `step`, so that a resumed run does not write them twice."""
        file = self.path / f"{name}.jsonl"
        if self.writes and file.is_file():
            kept = [r for r in self.read(name) if r.get("step", 0) <= step]
            write_bytes(file, "".join(json.dumps(tag(r), ensure_ascii=False) + "\n" for r in kept).encode())

    def finish(self, result: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Write ``timing.json``, then ``result.json``; from then on the run is finished."""
        if not self.writes:
            return
        write_json(self.path / "timing.json", dict(timing))
        write_json(self.path / "result.json", dict(result))

    def stopped(self, why: str) -> None:
        """Keep the message of the error that ended the run; a disk that takes nothing more does not hide that error."""
        if self.writes:
            with suppress(UserError, OSError):
                write_json(self.path / "stopped.json", {"why": why})

    def goes_on(self) -> None:
        """Forget why it had stopped."""
        if self.writes:
            (self.path / "stopped.json").unlink(missing_ok=True)

    def why_stopped(self) -> str | None:
        """The message that ended the run, or ``None`` where it was not an error that did."""
        file = self.path / "stopped.json"
        return str(read_json(file)["why"]) if file.is_file() else None

    def result(self) -> dict[str, Any]:
        """The finished run's result."""
        found: dict[str, Any] = read_json(self.path / "result.json")
        return found

    def timing(self) -> dict[str, Any]:
        """Seconds, memory and machine of a finished run; empty if nobody wrote them."""
        file = self.path / "timing.json"
        return read_json(file) if file.is_file() else {}


_NOT_IDENTITY = {"made_by"}
MOST_NAMED = 5
"""Differences that are named."""
_MOST_SHOWN = 40
_HASH = re.compile(r'"[0-9a-f]{16}"')


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In which keys the definition of a run differs from the one asked for, one text each: key, value there, value now.

    Args:
        known: what the run there was made with.
        wanted: what is asked for. Keys that are no part of the identity are left out at the top of both.
    """
    there, now = (_flat({str(k): v for k, v in x.items() if k not in _NOT_IDENTITY}) for x in (known, wanted))
    # As texts, in which NaN equals NaN.
    changed = [k for k in dict.fromkeys([*now, *there]) if _text(there, k) != _text(now, k)]
    # An empty table that is filled now is told by what fills it.
    return [_told(k, there, now) for k in changed if not any(o.startswith(f"{k}.") for o in changed)]


def _told(key: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = _short(there, key), _short(now, key)
    if _HASH.fullmatch(old) and _HASH.fullmatch(new):
        return f"other contents of {key}"
    return f"{key} = {old} (now {new})"


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Values by dotted key; lists of tables by number, other lists as they are."""
    if value and isinstance(value, list | tuple) and all(isinstance(v, Mapping) for v in value):
        value = {str(i): v for i, v in enumerate(value)}
    if not isinstance(value, Mapping) or (path and not value):
        return {path: value}
    return {k: v for name, x in value.items() for k, v in _flat(x, f"{path}.{name}" if path else str(name)).items()}


def _text(values: Mapping[str, Any], key: str) -> str:
    return canonical(values[key]) if key in values else ""


def _short(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "absent"
    text = json.dumps(tag(values[key]), ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def writable(folder: Path) -> None:
    """Create `folder` and refuse one that cannot be written, before any work is done.

    Raises:
        UserError: names the folder and the cause.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror})", where=str(folder), cure="Choose another folder with --out."
        ) from None
