"""JSON Lines for tests."""

import json
from pathlib import Path


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write rows to a JSON Lines file."""
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path
