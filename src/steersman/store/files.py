"""Atomic writes, JSON in which NaN stays NaN, and hashes of contents.

A file appears whole or not at all: it is written under a temporary name in the same folder, flushed to disk and
renamed. JSON has no NaN, and writing `null` would turn "not measured" into "absent"; non-finite numbers are therefore
tagged as ``{"$float": "nan"}``. Leaves out: what the files mean (`store.run`, `store.checkpoint`).
"""

import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from steersman.core.errors import CorruptFile, RunStopped, UserError

MAX_JSON_BYTES = 256 * 2**20
"""Larger JSON files are refused: nothing this library writes comes near."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically, creating its folder.

    Raises:
        RunStopped: the disk is full or the place cannot be written; what was there before is untouched.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        # Gone after the renaming; still there after any failure, an interrupt included.
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def cannot_write(path: Path, error: OSError) -> RunStopped:
    """The message for a write that failed, by cause."""
    why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else (error.strerror or str(error))
    return RunStopped(
        f"cannot write {path}: {why}\n       What was finished before is valid; free space or choose another folder, "
        "then run the same command again."
    )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, sort_keys: bool = True) -> None:
    """Write JSON atomically: two-space indent, non-finite numbers tagged, keys sorted or in the order given."""
    text = json.dumps(tag(value), sort_keys=sort_keys, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        UserError: the file is missing or may not be read.
        CorruptFile: it is not JSON, or absurdly large.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CorruptFile(f"is larger than {MAX_JSON_BYTES} bytes", where=str(path))
        return untag(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise UserError("does not exist", where=str(path)) from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except RecursionError:
        raise CorruptFile("is nested too deeply", where=str(path)) from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise CorruptFile(f"is not valid JSON ({error})", where=str(path)) from None


def tag(value: Any) -> Any:
    """Replace non-finite numbers by tagged objects, recursively; tuples become lists, keys become strings.

    An object of the caller's that looks like a tag is escaped by one more ``$``, so that `untag` gives it back.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, dict):
        return {_escape(str(k), len(value)): tag(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [tag(v) for v in value]
    return value


def untag(value: Any) -> Any:
    """Undo `tag`."""
    if isinstance(value, dict):
        if value.keys() == {"$float"}:
            return float(value["$float"])
        return {k[1:] if len(value) == 1 and _ESCAPED.fullmatch(k) else k: untag(v) for k, v in value.items()}
    return [untag(v) for v in value] if isinstance(value, list) else value


_ESCAPED = re.compile(r"\$\$+float")


def _escape(key: str, size: int) -> str:
    return f"${key}" if size == 1 and (key == "$float" or _ESCAPED.fullmatch(key)) else key


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces; equal values have equal texts."""
    return json.dumps(tag(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """Hexadecimal hash of a JSON value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(path: Path, length: int = 16) -> str:
    """Hash of what a file or folder *contains*; its own name and place do not enter, names inside a folder do.

    Hidden files and folders (``.git``, ``.cache``) do not enter.

    Raises:
        UserError: nothing is there.
    """
    if path.is_file():
        return sha256(path)[:length]
    if not path.is_dir():
        raise UserError("does not exist", where=str(path))
    inside: Iterable[Path] = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())
    names = [p for p in inside if not any(part.startswith(".") for part in p.parts)]
    return digest([[p.as_posix(), sha256(path / p)] for p in names], length)
