"""Transitions on disk as memory-mapped columns: one safetensors file and a manifest.

safetensors stores every tensor as plain bytes at a known place, so a column is a `numpy.memmap` at its offset: opening
costs nothing, and a batch reads only the rows it draws. The manifest is written last; a folder without one does not
exist for the loader. Leaves out: compression, exchange with other programs (`parquet`, `by_minari`).
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import CorruptFile, UserError
from steersman.offline.transitions import Transitions
from steersman.store.files import cannot_write, read_json, write_json

FORMAT = 1
"""Version of the folder's layout; a loader refuses a newer one."""
DATA, MANIFEST = "columns.safetensors", "manifest.json"
_NAMES = {
    "F64": "f8", "F32": "f4", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U64": "u8", "U32": "u4",
    "U16": "u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_DTYPES = {np.dtype(v): k for k, v in _NAMES.items()}
_ALIGN = 64
_MOST_HEADER = 2**20
_REQUIRED = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "episode")


def save_columns(data: Transitions, folder: Path) -> Path:
    """Write transitions so that `open_columns` maps them; gives the folder.

    Raises:
        RunStopped: the disk is full or the place cannot be written.
    """
    parts = dict(data.columns()) | {"episode": data.episode}
    if data.started is not None:
        parts["started"] = data.started
    (folder / MANIFEST).unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{DATA}.part"
        with temporary.open("wb") as file:
            places = _write_header(file, parts)
            for name, x in parts.items():
                file.seek(places[name])
                for a in range(0, len(x), 2**16):  # a mapped column may be larger than memory
                    file.write(np.ascontiguousarray(x[a : a + 2**16]).tobytes())
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / DATA)
    except OSError as error:
        raise cannot_write(folder / DATA, error) from None
    write_json(
        folder / MANIFEST,
        {"format": FORMAT, "rows": len(data), "bytes": size, "n_actions": data.n_actions, "extra": list(data.extra)},
    )
    return folder


def _write_header(file: Any, parts: dict[str, np.ndarray]) -> dict[str, int]:
    """Write safetensors' header; gives each column's place in the file."""
    header, at = {}, 0
    for name, x in parts.items():
        if x.dtype not in _DTYPES:
            raise UserError(f"is {x.dtype}", where=f"column {name}", allowed=", ".join(_NAMES.values()))
        size = x.dtype.itemsize * x.size
        header[name] = {"dtype": _DTYPES[x.dtype], "shape": list(x.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGN)
    file.write(len(text).to_bytes(8, "little") + text)
    return {name: 8 + len(text) + int(entry["data_offsets"][0]) for name, entry in header.items()}


def open_columns(folder: Path) -> Transitions:
    """Map the columns of a folder, read-only.

    Raises:
        UserError: no such folder, a newer layout.
        CorruptFile: a file that is missing, shortened or not what the manifest says.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError("holds no transitions", where=str(folder), allowed=f"a folder with {MANIFEST}")
    known = read_json(folder / MANIFEST)
    path = folder / DATA
    try:
        if int(known["format"]) > FORMAT:
            raise UserError(f"has layout {known['format']}", where=str(folder), cure="upgrade steersman")
        if path.stat().st_size != int(known["bytes"]):
            raise CorruptFile(f"has {path.stat().st_size:,} bytes, not {known['bytes']:,}", where=str(path))
        parts = _map(path)
        extra = {str(k): parts.pop(k) for k in known["extra"]}
        required = {k: parts.pop(k) for k in _REQUIRED}
        n_actions, started = known["n_actions"], parts.pop("started", None)
    except FileNotFoundError:
        raise CorruptFile("is missing", where=str(path)) from None
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise CorruptFile(f"does not fit its manifest ({error})", where=str(folder)) from None
    started = None if started is None else np.asarray(started)
    offsets = np.asarray(required.pop("episode"))
    return Transitions(**required, episode=offsets, n_actions=n_actions, started=started, extra=extra)


def _map(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= _MOST_HEADER:
            raise CorruptFile("has no safetensors header", where=str(path))
        header = json.loads(file.read(length))
    out = {}
    for name, entry in header.items():
        start, stop = (int(v) for v in entry["data_offsets"])
        dtype, shape = np.dtype(_NAMES[entry["dtype"]]), tuple(int(n) for n in entry["shape"])
        if stop - start != dtype.itemsize * int(np.prod(shape)):
            raise CorruptFile(f"column {name} does not fill its place", where=str(path))
        # A plain view of the map: the subclass costs more for a gather than the gather itself.
        out[str(name)] = np.asarray(np.memmap(path, dtype, "r", 8 + length + start, shape))
    return out
