"""How far a run is, for the line that a person watches: one small file, rewritten now and then.

Nothing depends on it: it is not flushed, may be missing, and is removed when the run ends. Leaves out: drawing
(`cli`).
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

_FILE = "progress.json"
_INTERVAL = 0.3


class Progress:
    """Counts the work of one run; safe to call at every step.

    Args:
        folder: the run's folder (`RunDir.path`).
        total: units of work of the whole run.
        unit: what is counted, such as "pairs".
        done: units that an interrupted attempt has behind it.
    """

    def __init__(self, folder: Path, total: int, unit: str = "steps", done: int = 0) -> None:
        self._file, self._total, self._unit = folder / _FILE, total, unit
        self._first = self._done = done
        self._begin = time.monotonic()
        self._written = float("-inf")

    def advance(self, units: int = 1) -> None:
        """Count `units` more; writes at most three times a second."""
        self._done += units
        now = time.monotonic()
        if now - self._written < _INTERVAL:
            return
        self._written = now
        rate = (self._done - self._first) / max(now - self._begin, 1e-9)
        text = json.dumps({"done": self._done, "total": self._total, "unit": self._unit, "rate": rate})
        temporary = self._file.with_suffix(".tmp")
        try:
            temporary.write_text(text)
            os.replace(temporary, self._file)
        except OSError:
            return  # only a convenience: a full disk is reported by the writes that matter


@dataclass(frozen=True, slots=True)
class Seen:
    """What `read_progress` found: units done of a total, their name, and the rate of this attempt per second."""

    done: int
    total: int
    unit: str
    rate: float


def read_progress(folder: Path) -> Seen | None:
    """How far the run in `folder` says it is; None if it does not say."""
    try:
        found = json.loads((folder / _FILE).read_text())
        return Seen(int(found["done"]), int(found["total"]), str(found["unit"]), float(found["rate"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def clear_progress(folder: Path) -> None:
    """Remove the file at the end of a run."""
    (folder / _FILE).unlink(missing_ok=True)
    (folder / _FILE).with_suffix(".tmp").unlink(missing_ok=True)
