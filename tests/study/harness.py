"""Running the harness as a user does: the command line in a process of its own, on the toy studies."""

import os
import subprocess
import sys
from pathlib import Path

TOYS = Path(__file__).parent / "toys"
LIMIT_SECONDS = 120


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TOY_")}
    return {**kept, "PYTHONPATH": str(TOYS), "NO_COLOR": "1", "OMP_NUM_THREADS": "2", **more}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "steersman.cli.main", *words]


def steersman(*words: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), env=environment(**more), cwd=cwd, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )


def study(verb: str, root: Path, *words: str, name: str = "STUDY", toys: str = "toy_study", **more: str):
    return steersman(
        "study", verb, f"{toys}:{name}", "--allow-import", toys, "--root", str(root), *words, **more
    )  # fmt: skip


def results(root: Path, name: str = "toy") -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in sorted((root / name).glob("*/result.json"))}
