"""Transitions in Parquet files, streamed: a log larger than memory is read in chunks.

Leaves out: which column is what (`names`), measures. Source: the Parquet format, read by polars.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import UserError, one_line
from steersman.offline.arrays import actions, flags, following, numeric, observations, rewards
from steersman.offline.chunks import FIRST, INSIDE, LATE, ROWS, Chunk, check_unflagged, no_ends, split
from steersman.offline.names import Columns, find
from steersman.offline.transitions import EXTRA, Transitions
from steersman.store.files import cannot_write


@dataclass(frozen=True, slots=True)
class ParquetLog:
    """A Parquet file as a log that is never in memory as a whole; make it with `open_parquet`.

    Args:
        path: the file.
        columns: which column is what.
        rows: how many there are.
        n_actions: size of a discrete space; None = continuous, or not known.
        unflagged: what the end of an episode without a flag means.
    """

    path: Path
    columns: Columns
    rows: int
    n_actions: int | None = None
    unflagged: str = "refuse"

    def __len__(self) -> int:
        return self.rows

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """The file's rows in order, at most `rows` + 1 at a time.

        Raises:
            UserError: empty cells, wrong types, an episode without an end; each names row and column.
        """
        for chunk, _ in self.parts(rows):
            yield chunk

    def parts(self, rows: int = ROWS) -> Iterator[tuple[Chunk, dict[str, np.ndarray]]]:
        """`chunks` with the further columns of the same rows (next_obs, extra ones).

        A row's end is only known once the row after it is seen, so the last row waits for the next part of the file.
        """
        held: dict[str, np.ndarray] = {}
        begin, start, ended = FIRST, 0, False
        for frame in self._frames(rows):
            part = self._arrays(frame, start + (1 if held else 0))
            whole = {k: np.concatenate([held[k], x]) if held else x for k, x in part.items()}
            starts, done, stopped = split(
                whole["terminated"], whole["truncated"], whole.get("episode"), self.unflagged, start
            )
            whole |= {"terminated": done, "truncated": stopped}
            begins = _begins(starts, whole.get("late"), begin)
            ended = ended or bool((done | stopped).any())
            yield from self._emit(whole, begins, slice(0, -1), start)
            held = {k: x[-1:] for k, x in whole.items()}
            start, begin = start + len(begins) - 1, int(begins[-1])
        if not held:
            raise UserError("has no rows", where=str(self.path))
        if self.unflagged in ("terminated", "truncated") and not (held["terminated"][0] or held["truncated"][0]):
            held[self.unflagged] = np.ones(1, bool)
            ended = True
        if not ended and not self.columns.episode:
            raise no_ends(self.rows)
        yield from self._emit(held, np.array([begin], np.uint8), slice(0, 1), start)

    def _emit(
        self, whole: Mapping[str, np.ndarray], begins: np.ndarray, rows: slice, start: int
    ) -> Iterator[tuple[Chunk, dict[str, np.ndarray]]]:
        names = ("obs", "action", "reward", "terminated", "truncated")
        if not len(begins[rows]):
            return
        chunk = Chunk(start, *(whole[k][rows] for k in names), begins[rows])
        yield chunk, {k: x[rows] for k, x in whole.items() if k in ("next_obs", *EXTRA)}

    def _frames(self, rows: int) -> Iterator[Any]:
        import polars

        with _readable(self.path):
            yield from polars.scan_parquet(self.path).select(self.columns.all()).collect_batches(chunk_size=rows)

    def _arrays(self, frame: Any, start: int) -> dict[str, np.ndarray]:
        """The columns of a part of the file as checked arrays."""
        c = self.columns
        out = {"obs": observations("obs", _matrix(frame, c.obs, start))}
        out["action"], _ = actions(_matrix(frame, c.action, start), self.n_actions, start)
        out["reward"] = rewards(_matrix(frame, (c.reward,), start))
        for name in ("terminated", "truncated"):
            column = getattr(c, name)
            out[name] = (
                flags(column, _matrix(frame, (column,), start), start) if column else np.zeros(len(out["reward"]), bool)
            )
        if c.episode:
            _no_nulls(frame, c.episode, start)
            out["episode"] = frame[c.episode].to_numpy()
        if c.late:
            out["late"] = flags(c.late, _matrix(frame, (c.late,), start), start)
        if c.next_obs:
            out["next_obs"] = observations("next_obs", _matrix(frame, c.next_obs, start))
        return out | {name: _matrix(frame, columns, start) for name, columns in c.extra}


def open_parquet(
    path: Path,
    named: Mapping[str, Sequence[str]] | None = None,
    n_actions: int | None = None,
    unflagged: str = "refuse",
) -> ParquetLog:
    """Look at a Parquet file's columns and size; rows are read by `chunks`.

    Args:
        path: the file.
        named: role -> columns, where they have not their usual names (`names.USUAL`).
        n_actions: size of a discrete space.
        unflagged: what the end of an episode without a flag means, see `arrays.from_arrays`.

    Raises:
        UserError: no such file, not Parquet, a column that is missing.
    """
    import polars

    check_unflagged(unflagged)
    if not path.is_file():
        raise UserError("does not exist", where=str(path))
    with _readable(path):
        table = polars.scan_parquet(path)
        columns = table.collect_schema().names()
        rows = int(table.select(polars.len()).collect().item())
    if rows == 0:
        raise UserError("has no rows", where=str(path))
    return ParquetLog(path, find(columns, str(path), named), rows, n_actions, unflagged)


def read_parquet(path: Path, **known: Any) -> Transitions:
    """A whole Parquet file as transitions.

    Args:
        path: the file; `known`: options of `open_parquet`.

    Raises:
        UserError: everything that `open_parquet` and `Transitions.check` refuse.
    """
    log = open_parquet(path, **known)
    parts = list(log.parts())
    names = ("obs", "action", "reward", "terminated", "truncated", "begin")
    got = {k: np.concatenate([getattr(chunk, k) for chunk, _ in parts]) for k in names}
    more = {k: np.concatenate([extra[k] for _, extra in parts]) for k in parts[0][1]}
    begin = got.pop("begin")
    offsets = np.concatenate([np.flatnonzero(begin), [len(begin)]]).astype(np.int64)
    after = more.pop("next_obs", None)
    if after is None:
        after, sure = following(got["obs"], offsets, got["terminated"])
        if "bootstrap" not in more and not sure.all():
            more["bootstrap"] = sure
    late = begin[offsets[:-1]] == LATE
    return Transitions(
        **got, next_obs=after, episode=offsets, n_actions=log.n_actions, started=~late if late.any() else None,
        extra=more,
    ).check()  # fmt: skip


def write_parquet(data: Transitions, path: Path) -> None:
    """Write transitions as a Parquet file with a column for each number; reads back with `read_parquet`.

    Raises:
        UserError: observations of more than one dimension.
        RunStopped: the disk is full or the place cannot be written.

    Edge cases: an episode that is cut inside the log reads back with ``unflagged="cut"``.
    """
    import polars

    if data.obs.ndim > 2:
        shape = list(data.obs.shape)
        raise UserError(f"observations are {shape}", where="write_parquet", allowed="[N, D]", cure="flatten them first")
    count = len(data.episode) - 1
    columns: dict[str, np.ndarray] = {}
    for name, x in data.columns().items():
        wide = x.reshape(len(x), -1)
        single = wide.shape[1] == 1 and name not in ("obs", "next_obs")
        columns |= {name if single else f"{name}_{j}": wide[:, j] for j in range(wide.shape[1])}
    columns["episode"] = np.repeat(np.arange(count), np.diff(data.episode))
    if data.started is not None and not data.started.all():
        columns["late"] = np.repeat(~data.started, np.diff(data.episode))
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        polars.DataFrame({k: np.ascontiguousarray(v) for k, v in columns.items()}).write_parquet(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what polars says of a broken file into one message."""
    import polars

    try:
        yield
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"cannot be read as Parquet ({one_line(str(error))})", where=str(path),
            cure="the file may be cut off or of another format; write or fetch it again",
        ) from None  # fmt: skip


def _begins(starts: np.ndarray, late: np.ndarray | None, first: int) -> np.ndarray:
    begins = np.where(starts, FIRST, INSIDE).astype(np.uint8)
    begins[0] = first
    if late is not None:
        begins[(begins != INSIDE) & late] = LATE
    return begins


def _no_nulls(frame: Any, name: str, start: int) -> None:
    if frame[name].null_count():
        row = int(frame[name].is_null().arg_true()[0])
        raise UserError(
            "is empty", where=f"{name}, row {start + row:,}", cure="remove or repair the rows without a value"
        )


def _matrix(frame: Any, names: Sequence[str], start: int) -> np.ndarray:
    """Columns of numbers as an array: [n] of one column, [n, D] of several or of one with lists."""
    for name in names:
        _no_nulls(frame, name, start)
    if len(names) == 1:
        return _numbers(frame[names[0]], start)
    parts = [_numbers(frame[name], start) for name in names]
    for name, x in zip(names, parts, strict=True):
        if x.ndim != 1:
            raise UserError(
                "is a column of lists, beside others", where=name, allowed="one column of lists, or numbers"
            )
    return np.stack(parts, 1)


def _numbers(column: Any, start: int) -> np.ndarray:
    import polars

    if column.dtype == polars.List:
        lengths = column.list.len()
        if lengths.n_unique() > 1:
            row = int((lengths != lengths[0]).arg_true()[0])
            raise UserError(
                f"has {lengths[row]} entries, the rows before {lengths[0]}", where=f"{column.name}, row {start + row:,}"
            )
        column = column.list.to_array(int(lengths[0]))
    return numeric(column.name, column.to_numpy())
