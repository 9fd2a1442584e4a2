"""Conjoint: is the best stochastic policy over profiles found, is it known how well, and what does an opponent change?

Worlds with a known truth (`average`, `contest`, `networks`, `proxy`) and, in the full size, the survey of Ono and
Burden where the environment names its file (`survey`). Claims were declared before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.conjoint import claims, show
from steersman.studies.conjoint.names import SURVEY
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 1.5, "full": 18.0}
NOTES = {
    "quick": "Small grids with 100 surveys a setting; no primaries, no real survey.",
    "full": "All grids with 400 surveys a setting, games through primaries, sixteen blocks of the small parts.",
}
ABSENT = f" The real survey is left out: no file is named by the environment variable {SURVEY}."
PRESENT = " The real survey with 200 draws of respondents."


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies.conjoint.arms import cells
    from steersman.studies.conjoint.survey import artefact, path

    file = path() if name == "full" else None
    found = cells(name, extra_seeds, file is not None)
    note = NOTES[name] + ("" if name == "quick" else PRESENT if file else ABSENT)
    return Mode(name, found, () if file is None else (artefact(file),), MINUTES[name], note)


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    from steersman.studies.conjoint import arms

    return arms.run(cell, artefacts)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="conjoint",
    title="Which profiles to field, alone and against an opponent",
    question="Is the best policy over profiles found with honest intervals, and what do an opponent and a weak proxy "
    "of the voters' side change?",
    paper="Jerzak, Chandra, Hazra: Selecting Optimal Candidate Profiles in Adversarial Environments Using Conjoint "
    "Analysis and Machine Learning, 2025, arXiv 2504.19043",
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("Figures of the Bayesian transformer", "another model than ours, which has no standard errors"),
        NotTestable("The exact figures of the paper's survey", "respondents' partisanship is not in the public file"),
        NotTestable("Agreement on personality traits", "the 1,152 profiles that can be enumerated leave traits out"),
    ),
    equal="the surveys; of solvers the slopes asked for, first step and start",
    method_page="docs/conjoint.md",
    preload=("torch", "scipy.stats", "steersman.studies.conjoint.networks", "steersman.studies.conjoint.contest"),
)
