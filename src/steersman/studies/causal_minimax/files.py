"""The two files of the authors: their simulation with its ten splits, and mouse measurements with splits of ours.

Environments of a split are trained on or tested on. Columns are standardised by the training rows, as whoever deploys a
predictor must ("training"), and for comparison each test environment by its own mean and spread, as the authors do
("own"): then even the mean has an error below one. Leaves out: shipping the files, which are the user's (`DATA`).
Source: github.com/lmz123321/which_invariance; the mouse measurements are the IMPC's.
"""

import csv
import gzip
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core import noise
from steersman.core.errors import UserError
from steersman.decide.invariance.data import Data
from steersman.decide.invariance.discrete import Function
from steersman.decide.invariance.fit import CausalMinimax
from steersman.decide.invariance.graph import MutableSCM
from steersman.decide.invariance.regressors import fit
from steersman.studies.causal_minimax.names import DATA, FILES
from steersman.study.declare import Artefact

RENAMED = {"M1": "X9", "M2": "X10", "Y": "Y"} | {f"X{a}": f"X{b}" for b, a in enumerate((2, 3, 4, 5, 6, 7, 10, 11), 1)}
"""The generator's names -> the file's."""
MOUSE = MutableSCM(["Y->X_5, X_1->X_2, X_3->X_2, X_5->X_2, Y->X_2, X_2->X_4"], "Y", ["X_5"])
MOUSE_TRAIN = 7
"""Knock-outs, besides the wild type, that a split trains on; the other six test."""
MODES = ("corrected", "official")
REGRESSOR = "mlp"
FOLDS, GRID = 2, 15


def path() -> Path | None:
    """The folder that the environment names; None where it names none.

    Raises:
        UserError: it is no folder, or lacks one of the files.
    """
    named = os.environ.get(DATA)
    if not named:
        return None
    folder = Path(named)
    if lost := [f for f in FILES if not (folder / f).is_file()]:
        raise UserError(f"{named!r} lacks {', '.join(lost)}", where=DATA, cure="put the files there, or unset it")
    return folder


def artefact(folder: Path) -> Artefact:
    """A copy of the files that runs read."""
    return Artefact("data", {"files": list(FILES)}, build, reads=tuple(folder / f for f in FILES))


def build(settings: Mapping[str, Any], target: Path, inputs: Mapping[str, Path]) -> str:
    """Copy the files."""
    folder = path()
    if folder is None:
        raise UserError("names no folder", where=DATA)
    for f in settings["files"]:
        shutil.copyfile(folder / f, target / f)
    return f"{len(settings['files'])} files"


def run(folder: Path, part: str, split: int) -> dict[str, Any]:
    """One split of one file: estimated risks and test errors of every class, by mode and standardisation."""
    graph, frame, train = (_simulation if part == "simulation" else _mouse)(folder, split)
    rows = np.isin(frame["E"], train)
    names = graph.nodes
    mean = {v: frame[v][rows].mean() for v in names}
    sd = {v: frame[v][rows].std() or 1.0 for v in names}
    z = {v: (frame[v] - mean[v]) / sd[v] for v in names}
    known = {v: z[v][rows] for v in names}
    others = [e for e in dict.fromkeys(frame["E"].tolist()) if e not in train]
    tests = {
        "training": [{v: z[v][frame["E"] == e] for v in names} for e in others],
        "own": [_own({v: z[v][frame["E"] == e] for v in names}) for e in others],
    }
    plain: dict[str, Function] = {"constant": lambda c: np.zeros(len(c["Y"]))}
    for name, used in (("ERM", [v for v in names if v != "Y"]), ("ERM without mutable", list(graph.stable))):
        plain[name] = _least_squares(known, used)
    out: dict[str, Any] = {
        "modes": {}, "train": [str(e) for e in train], "condition": bool(graph.whole_set_optimal()),
        "baselines": {k: {s: largest(f, t) for s, t in tests.items()} for k, f in plain.items()},
    }  # fmt: skip
    for mode in MODES:
        cm = CausalMinimax(graph, REGRESSOR, "direct", folds=FOLDS, mode=mode, grid=GRID, draws=1, shortcut=False,
                           seed=split).fit(known)  # type: ignore[arg-type]  # fmt: skip
        found = []
        for r in cm.ranking_:
            f = cm._whole.predictor(r.core)
            whole = set(graph.stable) <= r.core | r.free
            found.append({"core": sorted(r.core), "risk": r.risk, "whole": whole,
                          **{s: largest(f, t) for s, t in tests.items()}})  # fmt: skip
        out["modes"][mode] = found
    return out


def largest(function: Function, tests: list[dict[str, np.ndarray]]) -> float:
    """The largest mean squared error over test environments."""
    return max(float(((t["Y"] - function(t)) ** 2).mean()) for t in tests)


def _own(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Standardised by the rows themselves, with n - 1."""
    return {k: (v - v.mean()) / (v.std(ddof=1) or 1.0) for k, v in columns.items()}


def _least_squares(known: dict[str, np.ndarray], used: list[str]) -> Function:
    model = fit("linear", np.stack([known[v] for v in used], 1), known["Y"])
    return lambda c: model.predict(np.stack([c[v] for v in used], 1))


def _simulation(folder: Path, split: int) -> tuple[MutableSCM, dict[str, np.ndarray], list[str]]:
    graph = published(folder)
    with gzip.open(folder / FILES[0], "rt", newline="") as file:
        frame = _columns(list(csv.DictReader(file)), graph)
    splits = json.loads((folder / FILES[2]).read_text())
    return graph, frame, [str(e) for e in splits[sorted(splits)[split]]]


def published(folder: Path) -> MutableSCM:
    """The simulation's graph in the names of its file."""
    told = json.loads((folder / FILES[1]).read_text())
    edges = [(RENAMED[a], RENAMED[v]) for v in told["dag"] for a in told[v]["pa"]]
    return MutableSCM(edges, "Y", ["X9", "X10"], tuple(RENAMED.values()))


def _mouse(folder: Path, split: int) -> tuple[MutableSCM, dict[str, np.ndarray], list[str]]:
    with (folder / FILES[3]).open(newline="") as file:
        frame = _columns(list(csv.DictReader(file)), MOUSE)
    genes = [e for e in dict.fromkeys(frame["E"].tolist()) if e != "0"]
    order = noise.generator(split, "causal-minimax/mouse").permutation(len(genes))
    return MOUSE, frame, ["0", *(genes[i] for i in order[:MOUSE_TRAIN])]


def _columns(rows: list[dict[str, str]], graph: MutableSCM) -> dict[str, np.ndarray]:
    frame = {v: [r[v] for r in rows] for v in (*graph.nodes, "E")}
    data = Data.from_frame(frame, graph.nodes, "E")
    assert data.env is not None
    return data.columns | {"E": data.env}
