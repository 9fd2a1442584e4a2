"""Where a result was made: library version, hash of the library's own source, versions, machine.

None of it enters a run's identity; a finished run whose `source` differs from today's is shown as stale.
"""

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import steersman


@cache
def source_hash() -> str:
    """Hash of every Python file of the installed library that can change a result (not `cli`, `page`)."""
    root = Path(steersman.__file__).parent
    total = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).as_posix()
        if not name.startswith(("cli/", "page/", "study/report", "study/show")):
            total.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def made_by() -> dict[str, str]:
    """Versions that made a run: steersman, its source, python, torch, numpy, transformers."""
    found = {"steersman": steersman.__version__, "source": source_hash(), "python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "transformers", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """One line on the machine: cores, memory, architecture."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        memory = float("nan")
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, {platform.system()}"
