"""Runs on the survey of Ono and Burden: games between inferred sides, with respondents drawn again.

The file is the user's: `SURVEY` names it. Leaves out: shipping it. Source: Ono and Burden 2019, as distributed with the
R package factorEx; profiles of all offices, seven factors, 1,152 profiles.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint import (
    ConjointData,
    Primary,
    average_case,
    bootstrap_respondents,
    general_models,
    infer_groups,
    primary_models,
    read_csv,
    solve_game,
)
from steersman.studies.conjoint.names import SURVEY, SURVEY_FACTORS
from steersman.study.declare import Artefact

PARTIES = ("Dem", "Rep")
FACTORS = list(SURVEY_FACTORS)


def path() -> Path | None:
    """The survey that the environment names; None where it names none.

    Raises:
        UserError: it names a file that is not there.
    """
    named = os.environ.get(SURVEY)
    if not named:
        return None
    found = Path(named)
    if not found.is_file():
        raise UserError(f"there is no file {named!r}", where=SURVEY, cure="the survey as CSV or CSV.GZ, or unset it")
    return found


def artefact(file: Path) -> Artefact:
    """A copy of the survey that runs read."""
    return Artefact("survey", {"name": file.name}, build, reads=(file,))


def build(settings: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]) -> str:
    """Copy the file that the environment names, once it was read."""
    file = path()
    if file is None:
        raise UserError("names no file", where=SURVEY)
    data = read(file)
    shutil.copyfile(file, folder / settings["name"])
    return f"{len(data):,} pairs of {len(np.unique(data.cluster)):,} respondents"


def read(file: Path) -> ConjointData:
    """The pairs with their seven factors, parties and respondents."""
    return ConjointData.from_frame(read_csv(file), "Y", FACTORS, "pair_id", "id", party="party")


def run(folder: Path, interactions: str, primaries: bool, lam: float, seed: int, resamples: int) -> dict[str, Any]:
    """One setting: the estimate, and draws of respondents.

    Returns:
        of the estimate and of each draw: the Democratic share of the average case and of the equilibrium, and by factor
        how far the parties are apart (total variation); of the estimate also exploitability, policies, the proxy.
    """
    (file,) = (f for f in folder.iterdir() if f.is_file())
    inferred = infer_groups(read(file), PARTIES)
    data, design = inferred.data, list(inferred.data.design)

    def solve(d: ConjointData, restarts: int) -> tuple[Any, Any]:
        models, shares = general_models(d, PARTIES, interactions)
        stage = Primary(models=primary_models(d, PARTIES, interactions)) if primaries else None
        options: dict[str, Any] = {"institution": stage, "design": design, "lam": lam, "restarts": restarts}
        return average_case(models, shares, **options), solve_game(models, shares, **options)

    def told(d: ConjointData) -> np.ndarray:
        average, game = solve(d, 1)
        return np.array([average.value, game.value, *_apart(game), game.exploitability])

    average, game = solve(data, 5)
    draws = bootstrap_respondents(data, told, resamples, seed) if resamples else np.zeros((0, 3 + len(FACTORS)))
    return {
        "respondents": inferred.respondents, "agreement": inferred.agreement,
        "average": average.value, "average_se": average.se, "equilibrium": game.value, "se": game.se,
        "exploitability": game.exploitability, "apart": _apart(game), "boundary": game.boundary,
        "policy": {p: game.policy[p].to_dict() for p in PARTIES}, "average_policy": average.policy.to_dict(),
        "draws": [[float(f"{v:.8g}") for v in row] for row in draws],
    }  # fmt: skip


def _apart(game: Any) -> list[float]:
    """Total variation between the two parties by factor, in the order of `FACTORS`."""
    a, b = (game.policy[p] for p in PARTIES)
    return [float(np.abs(x - y).sum() / 2) for x, y in zip(a.parts, b.parts, strict=True)]
