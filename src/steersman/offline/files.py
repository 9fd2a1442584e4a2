"""A log from whatever file or folder the user has.

Parquet is streamed; a folder that `Transitions.save` wrote is mapped; NumPy and HDF5 archives in D4RL's names and
Minari data sets are read. Leaves out: the formats themselves. `allow_pickle` is never set.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import UserError, one_line
from steersman.offline.arrays import from_arrays, from_d4rl
from steersman.offline.by_minari import INSTALL, from_minari, is_minari
from steersman.offline.chunks import Log
from steersman.offline.columns import MANIFEST, open_columns
from steersman.offline.names import find
from steersman.offline.parquet import open_parquet

KINDS = "a Parquet file, a folder of Transitions.save, a Minari data set, or .npz or .hdf5 with one array a column"


def open_log(
    path: Path,
    named: Mapping[str, Sequence[str]] | None = None,
    n_actions: int | None = None,
    unflagged: str = "refuse",
) -> Log:
    """Open a log by what lies there.

    Args:
        path: a file or a folder.
        named: role -> columns (`names.find`), for tables whose columns have unusual names.
        n_actions: size of a discrete space, where the file does not know it.
        unflagged: what an episode's end without a flag means, see `arrays.from_arrays`.

    Raises:
        UserError: nothing there, an unknown kind of file, a broken file, values that cannot be used.
    """
    if not path.exists():
        raise UserError("does not exist", where=str(path), allowed=KINDS)
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return open_columns(path)
        if is_minari(path):
            return from_minari(path)
        raise UserError("is a folder of unknown content", where=str(path), allowed=KINDS)
    known = {"n_actions": n_actions, "unflagged": unflagged}
    ending = path.suffix.lower()
    if ending in (".npz", ".hdf5", ".h5"):
        return _from_table(_npz(path) if ending == ".npz" else _hdf5(path), str(path), named, known)
    with path.open("rb") as file:
        if file.read(4) == b"PAR1" or ending in (".parquet", ".pq"):
            return open_parquet(path, named, **known)  # type: ignore[arg-type]
    raise UserError(f"is of unknown kind {ending or '(no ending)'}", where=str(path), allowed=KINDS)


def _from_table(
    table: Mapping[str, np.ndarray], where: str, named: Mapping[str, Sequence[str]] | None, known: dict[str, Any]
) -> Log:
    if not named and {"observations", "actions", "rewards", "terminals"} <= table.keys():
        return from_d4rl(table, **known)
    c = find(list(table), where, named)

    def joined(names: tuple[str, ...]) -> np.ndarray:
        return table[names[0]] if len(names) == 1 else np.stack([table[k] for k in names], 1)

    n = len(table[c.reward])
    ends = [table[k] if k else np.zeros(n, bool) for k in (c.terminated, c.truncated)]
    after, ids = joined(c.next_obs) if c.next_obs else None, table[c.episode] if c.episode else None
    extra = {name: joined(columns) for name, columns in c.extra}
    more = {"next_obs": after, "episode": ids, "extra": extra}
    return from_arrays(joined(c.obs), joined(c.action), table[c.reward], *ends, **more, **known)


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {k: archive[k] for k in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        raise UserError(f"cannot be read as a NumPy archive ({one_line(str(error))})", where=str(path)) from None


def _hdf5(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError:
        raise UserError("HDF5 needs the package h5py", where=str(path), cure=INSTALL) from None
    try:
        with h5py.File(path) as file:
            return {k: x[()] for k, x in file.items() if isinstance(x, h5py.Dataset) and x.ndim}
    except OSError as error:
        raise UserError(f"cannot be read as HDF5 ({one_line(str(error))})", where=str(path)) from None
