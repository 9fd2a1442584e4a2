"""Small studies for the harness's tests: no torch, a few hundredths of a second a run."""

import os
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.stats import Interval
from steersman.store.files import read_json, write_json
from steersman.store.run import RunDir
from steersman.study.declare import (
    Arm,
    Artefact,
    Cell,
    Claim,
    Finding,
    Mode,
    ModeName,
    NotTestable,
    Result,
    Shown,
    Study,
    Word,
)
from steersman.study.progress import Progress

STEPS = 6
PAUSE = float(os.environ.get("TOY_PAUSE", "0.005"))
DATA = Path(os.environ.get("TOY_DATA", Path(__file__).with_name("toy_data.txt")))


def build(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    time.sleep(PAUSE)
    below = sum(read_json(path / "value.json") for path in inputs.values())
    write_json(folder / "value.json", settings["start"] + len(DATA.read_text()) + below)
    return f"starts at {settings['start']}"


def run(cell: Cell, directory: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """A random walk with a checkpoint at every step."""
    checkpoint = directory.checkpoints / "last.json"
    state = {"step": 0, "x": float(read_json(artefacts["base"] / "value.json"))}
    if checkpoint.is_file():
        state = read_json(checkpoint)
    directory.truncate_after("metrics", state["step"])
    progress = Progress(directory.path, STEPS, "steps", state["step"])
    for step in range(state["step"] + 1, STEPS + 1):
        time.sleep(PAUSE)
        generator = np.random.Generator(np.random.Philox(key=[cell.seed, step + 100 * len(cell.arm.name)]))
        state = {"step": step, "x": state["x"] * 0.9 + cell.arm.settings["drift"] + generator.normal()}
        directory.append("metrics", [state])
        write_json(checkpoint, state)
        progress.advance()
    threads = os.environ.get("OMP_NUM_THREADS")
    return {"x": state["x"], "steps": len(directory.read("metrics")), "threads": threads, "timing": {"tokens": STEPS}}


def _by_arm(results: Sequence[Result]) -> dict[str, list[float]]:
    found: dict[str, dict[int, float]] = {}
    for r in results:
        found.setdefault(r.cell.arm.name, {})[r.cell.seed] = r.value["x"]
    return {arm: [values[s] for s in sorted(values)] for arm, values in found.items()}


def _better(results: Sequence[Result]) -> Finding:
    arms = _by_arm(results)
    d = np.array(arms["drift"]) - np.array(arms["still"])
    flips = np.array(list(product((-1, 1), repeat=len(d)))) @ d
    p_for, p_against = float(np.mean(flips >= d.sum())), float(np.mean(flips <= d.sum()))
    estimate = Interval(float(d.mean()), float(d.min()), float(d.max()), 0.95, "range")
    return Finding(estimate, len(d), p_for, p_against, test="sign flips", reference=0.0, unit="x")


def _finite(results: Sequence[Result]) -> Finding:
    good = all(np.isfinite(r.value["x"]) for r in results)
    return Finding(None, len(results), holds=good, test="every value looked at")


def _never(results: Sequence[Result]) -> None:
    return None


STILL, DRIFT = Arm("still", {"drift": 0.0}, "no drift"), Arm("drift", {"drift": 1.0}, "drift of one a step")
ARTEFACTS = (
    Artefact("base", {"start": 1}, build, needs=("ground",), reads=(DATA,)),
    Artefact("ground", {"start": 2}, build),
)


def mode(name: ModeName, extra: int) -> Mode:
    if name == "gpu":
        raise UserError("study toy has no gpu mode", allowed="quick, full")
    seeds = {"quick": 2, "full": 6}[name] + extra
    cells = tuple(Cell("walk", arm, {"length": STEPS}, s, ("base",)) for s in range(seeds) for arm in (STILL, DRIFT))
    return Mode(name, cells, ARTEFACTS, 0.02)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    return f"Drift over {len(results)} walks: {words['T1']}."


STUDY = Study(
    name="toy",
    title="Walks that drift",
    question="Does a walk with drift end higher?",
    paper="nobody, nowhere",
    version=1,
    mode=mode,
    run=run,
    claims=(
        Claim("T1", "drift ends higher", "yes", _better, ("walk",), {"quick": 2, "full": 6}, "greater"),
        Claim("T2", "every walk is finite", "", _finite, ("walk",)),
        Claim("T3", "walks on the moon", "Table 9", _never, ("walk",)),
    ),
    answer=answer,
    show=lambda results: Shown(),
    not_testable=(NotTestable("the moon", "too far"),),
    equal="steps",
)


def breaking_run(cell: Cell, directory: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    if cell.seed == 0 and cell.arm.name == "still" and not Path(os.environ["TOY_CURE"]).exists():
        print("about to break")
        raise ZeroDivisionError("a bug in the toy")
    if cell.seed == 0 and cell.arm.name == "drift" and not Path(os.environ["TOY_CURE"]).exists():
        raise UserError("the toy was given nonsense", cure="Give it sense.")
    if cell.seed == 1 and cell.arm.name == "still" and not Path(os.environ["TOY_CURE"]).exists():
        os.kill(os.getpid(), 9)
    return run(cell, directory, artefacts)


def _replaced(name: str, **changes: Any) -> Study:
    fields = {f: getattr(STUDY, f) for f in Study.__dataclass_fields__}
    return Study(**{**fields, "name": name, **changes})


BREAKING = _replaced("breaking", run=breaking_run)


def no_build(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    raise UserError("the ground is missing")


def broken_mode(name: ModeName, extra: int) -> Mode:
    good = mode(name, extra)
    free = Cell("free", STILL, {}, 0)
    return Mode(name, (*good.cells, free), (Artefact("base", {"start": 3}, no_build),), 0.01)


def free_run(cell: Cell, directory: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    return {"x": 0.0}


GROUNDLESS = _replaced("groundless", mode=broken_mode, run=free_run)
