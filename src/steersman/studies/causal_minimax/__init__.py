"""Causal minimax: which stable variables should a predictor carry into new environments, and can rows tell?

Random worlds in which everything is a sum (`exact`), the same worlds seen through rows (`estimated`), the continuous
counterexample (`gate`), the size of the search (`search`), and in the full size the authors' two files where the
environment names their folder (`files`). Claims were declared before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.causal_minimax import arms, claims
from steersman.studies.causal_minimax.names import DATA
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Shown, Study, Word

MINUTES = {"quick": 1.0, "full": 18.0}
NOTES = {
    "quick": "100 exact worlds, 20 seen through 2,000 rows, two draws of the gate; none of the authors' files.",
    "full": "600 exact worlds, 100 seen through 500 to 10,000 rows, twelve draws of the gate.",
}
ABSENT = f" The authors' files are left out: no folder is named by the environment variable {DATA}."
PRESENT = " The authors' simulation with its ten splits, mice with 45."


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies.causal_minimax.files import artefact, path

    folder = path() if name == "full" else None
    found = arms.cells(name, extra_seeds, folder is not None)
    note = NOTES[name] + ("" if name == "quick" else PRESENT if folder else ABSENT)
    return Mode(name, found, () if folder is None else (artefact(folder),), MINUTES[name], note)


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    return arms.run(cell, artefacts)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    from steersman.studies.causal_minimax import figures

    return figures.sentence(results)


def show(results: Sequence[Result]) -> Shown:
    """The figures of the report."""
    from steersman.studies.causal_minimax import figures

    return figures.show(results)


STUDY = Study(
    name="causal-minimax",
    title="Which stable information to carry into new environments",
    question="Does choosing a subset of the stable variables by its worst-case risk beat taking all of them, least "
    "squares and invariant predictors, and when is all of them best?",
    paper="Liu, Zheng, Sun, Fang, Wang: Which Invariance Should We Transfer? A Causal Minimax Learning Approach. "
    "ICML 2023 (arXiv 2107.01876)",
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show,
    not_testable=(
        NotTestable("The Alzheimer table (ADNI)", "its data need a personal agreement"),
        NotTestable("Published figures of HRM and IB-IRM", "the paper's text could not be read; neither is built here"),
        NotTestable("The authors' 45 splits of the mice", "they are not in the file; ours are drawn"),
    ),
    equal="worlds, rows, environments and regressor of all methods; judged by exact risks, or on the same test rows",
    method_page="docs/causal-minimax.md",
    preload=("torch", "scipy.stats", "scipy.optimize", "sklearn.ensemble", "sklearn.tree",
             "steersman.studies.causal_minimax.gate", "steersman.studies.causal_minimax.search"),
)  # fmt: skip
