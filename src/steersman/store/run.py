"""A run directory: what was asked, what was measured, what came out.

``run.json`` (what defines the run, written first), ``metrics.jsonl`` (appended), ``samples.jsonl``, ``ckpt/``,
``timing.json`` (everything that depends on the machine, apart from the result) and ``result.json`` (written last and
atomically; a run with one is finished). A process that is killed may leave a torn last line in a JSONL file; reading
drops it, and `truncate_after` cuts what a resumed run will write again.
"""

import json
import os
from collections.abc import Iterable, Mapping
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
            known, wanted = read_json(file), {str(k): v for k, v in definition.items()}
            # As texts, in which NaN equals NaN.
            keys = {*known, *wanted} - _NOT_IDENTITY
            changed = sorted(k for k in keys if canonical(known.get(k)) != canonical(wanted.get(k)))
            if changed:
                raise UserError(
                    f"holds another run (different: {', '.join(changed)})",
                    where=str(self.path),
                    cure="Choose another output folder, or repeat the settings of run.json to resume.",
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

    def result(self) -> dict[str, Any]:
        """The finished run's result."""
        found: dict[str, Any] = read_json(self.path / "result.json")
        return found

    def timing(self) -> dict[str, Any]:
        """Seconds, memory and machine of a finished run; empty if nobody wrote them."""
        file = self.path / "timing.json"
        return read_json(file) if file.is_file() else {}


_NOT_IDENTITY = {"made_by"}


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
