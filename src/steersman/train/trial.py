"""The loop `trial`: a procedure played many times at once, and a journal for the one time it is played on people.

Two uses that must not be confused. *Simulation*: a procedure is a function of `TrialNoise`, whose every number is a
function of (seed, purpose, replication, position, step); results do not depend on how replications are batched.
*Real use*: the noise that protects people comes from the operating system, and what it was added to is written to a
`Journal` before anything is decided by it; an entry exists once, so a crash resumes from what was written and never
draws the noise of an entry a second time once any of it could be seen. Leaves out: what a procedure decides (`decide`),
and exact enumerators, which stand beside the procedures they check.
"""

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.core import noise
from steersman.core.errors import CorruptFile, RunStopped, UserError
from steersman.store.files import cannot_write, canonical, digest, read_json

MAX_REPLICATIONS = 2**62
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TrialNoise:
    """Counter-based noise of a batch of replications; for simulations only, never for people.

    Args:
        seed: of the simulation; equal seeds give paired noise to two procedures.
        index: [R] int64 numbers of the replications.
    """

    seed: int
    index: npt.NDArray[np.int64]

    def uniform(self, purpose: str, positions: int = 1, step: int = 0, first: int = 0) -> npt.NDArray[np.float64]:
        """[R, positions] numbers in (0, 1): of each replication, at the positions first, first + 1, ..."""
        at = np.arange(first, first + positions)
        return noise.uniform(self.seed, purpose, self.index[:, None], at[None, :], step)

    def rows(self, chosen: Array) -> "TrialNoise":
        """The noise of some of the replications, by mask or by position."""
        return TrialNoise(self.seed, self.index[chosen])


Procedure = Callable[[TrialNoise], Mapping[str, Array]]


def run_trials(
    procedure: Procedure, replications: int, seed: int = 0, batch: int = 20_000, first: int = 0
) -> dict[str, Array]:
    """Play a procedure in replications first, ..., first + replications - 1 and put the outcomes together.

    Args:
        procedure: from the noise of R replications to named outcomes ``[R, ...]``.
        replications: how many, >= 1.
        seed: of the noise.
        batch: replications played at once; bounds memory, changes nothing else.
        first: number of the first replication, so that a simulation can be prolonged.

    Returns:
        Each outcome ``[replications, ...]``, in the order of the replications.

    Raises:
        UserError: counts below 1, or outcomes that do not have one row for each replication.
        RunStopped: an outcome is NaN; the message names it and the first such replication.

    Source: ours.
    """
    if replications < 1 or batch < 1 or not 0 <= first < MAX_REPLICATIONS:
        raise UserError(f"replications {replications}, batch {batch}, first {first}", allowed="at least 1, 1 and 0")
    parts: dict[str, list[Array]] = {}
    for start in range(first, first + replications, batch):
        index = np.arange(start, min(start + batch, first + replications))
        outcome = procedure(TrialNoise(seed, index))
        if parts and outcome.keys() != parts.keys():
            raise UserError(f"outcomes {sorted(outcome)} after {sorted(parts)}", allowed="the same names in each batch")
        for name, value in outcome.items():
            parts.setdefault(name, []).append(_checked(name, np.asarray(value), index))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _checked(name: str, value: Array, index: npt.NDArray[np.int64]) -> Array:
    if value.ndim == 0 or len(value) != len(index):
        raise UserError(f"outcome {name} has shape {value.shape}", allowed=f"{len(index)} rows, one a replication")
    if value.dtype.kind == "f" and np.isnan(value).any():
        row = int(np.argwhere(np.isnan(value))[0][0])
        raise RunStopped(f"outcome {name} is NaN in replication {index[row]}")
    return value


class Journal:
    """Numbered entries of a real experiment, each written once, to disk before it is used.

    The folder holds ``about.json`` (what experiment this is) and ``0001.json``, ``0002.json``, ... An entry comes into
    being whole, by linking a finished file to its name, which fails if the name exists: two processes that resume the
    same experiment cannot both write an entry, and none is ever replaced. Until then it is ``.0001.json.part``. If a
    process dies there, the experiment goes on with what that file holds, as it can be read; a second draw beside it
    would tell more than one.

    Args:
        folder: where; made if it is not there.
        about: what identifies the experiment, JSON. An existing journal must say the same.

    Raises:
        UserError: the folder holds the journal of another experiment, or other files.
        CorruptFile: an entry is missing, altered or unreadable.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise UserError("is a file, no folder", where=str(folder), cure="Name a new or empty folder.")
        head = folder / "about.json"
        if not head.exists():
            if folder.is_dir() and any(p for p in folder.iterdir() if not p.name.startswith(".")):
                raise UserError("holds files, but no journal", where=str(folder), cure="Name a new or empty folder.")
            with suppress(FileExistsError):  # another process made it in this moment; it is compared below
                _write_once(head, {"about": about, "digest": digest(about)}, None)
        if canonical(_read(head, "about")) != canonical(about):
            raise UserError(
                "is the journal of another experiment: its options or arms differ",
                where=str(folder),
                cure="Continue with the options it was begun with, or name a new folder.",
            )
        self.entries: list[Any] = [_read(p, "entry") for p in self._files()]
        self._recover()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:04d}.json"

    def _recover(self) -> None:
        """Take over the entry that a process wrote and died before naming, and clear away what is left of others."""
        path = self._path(len(self.entries) + 1)
        part = _part(path)
        if part.exists():
            with suppress(CorruptFile):  # cut short: it was never whole on disk
                entry = _read(part, "entry")
                with suppress(FileExistsError):  # its writer is alive after all and has just named it
                    os.link(part, path)
                    _sync(self.folder)
                self.entries.append(entry)
        for left in self.folder.glob(".*.json.part"):
            with suppress(FileNotFoundError):
                left.unlink()

    def _files(self) -> list[Path]:
        found = sorted(p for p in self.folder.iterdir() if re.fullmatch(r"\d{4,}\.json", p.name))
        for number, path in enumerate(found, 1):
            if int(path.stem) != number:
                raise CorruptFile(f"entry {number} is missing", where=str(self.folder))
        return found

    def append(self, entry: Any) -> None:
        """Write the next entry; when this returns it is on disk, and only then may it be used.

        Raises:
            RunStopped: that entry exists already (another process wrote it), or the disk refuses.
        """
        path = self._path(len(self.entries) + 1)
        try:
            _write_once(path, {"entry": entry, "digest": digest(entry)}, _part(path))
        except FileExistsError:
            raise RunStopped(
                f"{path} is or is being written: another process has drawn this noise, and it is not drawn twice.\n"
                "       Start again; the experiment goes on from what was written."
            ) from None
        self.entries.append(entry)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write_once(path: Path, value: Any, part: Path | None) -> None:
    """Write JSON whole and durably under a name that must not exist (FileExistsError if it does).

    `part` is its name until then, which must not exist either, so that nobody writes it twice at once; None for any.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if part is None:
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        else:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            temporary = str(part)
        with os.fdopen(handle, "wb", buffering=0) as file:
            _write_all(file.fileno(), f"{canonical(value)}\n".encode())
            os.fsync(file.fileno())
        os.link(temporary, path)
        _sync(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path, key: str) -> Any:
    found = read_json(path)
    if not isinstance(found, dict) or found.keys() != {key, "digest"} or found["digest"] != digest(found[key]):
        raise CorruptFile("was altered: its digest is not that of its contents", where=str(path))
    return found[key]
