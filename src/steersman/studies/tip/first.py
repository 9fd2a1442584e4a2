"""What every rule keeps of one batch of the student's responses, with nothing trained; and where each planted kind of
token lies in the plane of entropy and divergence.

Leaves out: training (`studies.rl_runs`), what is concluded (`claims`).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from steersman.assure.diagnose.tokens import TokenDiagnosis, diagnose_tokens
from steersman.assure.diagnose.tokens_page import samples_of
from steersman.core.component import Moment
from steersman.core.config import read, validate
from steersman.language.load import load_model
from steersman.objective.components_tip import SelectTokens
from steersman.page.tokens import as_json
from steersman.recipes.diagnose_tokens import score
from steersman.recipes.rl import RLRecipe
from steersman.studies.planted_policy import SPARE, model_folder
from steersman.studies.rl_runs import OURS
from steersman.studies.tip.names import HIGH_DIVERGENCE, HIGH_ENTROPY, KINDS, PLANTED
from steersman.study.declare import Cell
from steersman.task.planted import EOS, RESPONSE, VOCABULARY, Kind, Planted, PlantedTeacher, kinds
from steersman.task.planted_world import PlantedWorld
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Drawing
from steersman.train.optimise import AdamW, Optimiser

SHOWN = 6
"""Responses in the token view."""


def run(cell: Cell, policy: Path) -> dict[str, Any]:
    """Draw, score, choose.

    Args:
        cell: its arm's settings name the recipes (``methods``), its task how many prompts are drawn (``prompts``).
        policy: folder of the student's artefact.

    Returns:
        ``kinds``: of each kind its share, mean entropy (share of log V) and divergence (nats), and the share of it that
        lies in its planted quadrant; ``kept``: arm -> kind -> share of it that is kept; ``made``: arm -> kind -> share
        of what is kept; ``overlap``: Jaccard of what two arms keep; ``shares`` of the quadrants; ``samples``: a few
        responses under every arm, with the digits that receive a carry marked.
    """
    methods = cell.arm.settings["methods"]
    recipes = {
        n: validate(RLRecipe, read(None, (), {**s, "model": {"path": "policy"}}), OURS) for n, s in methods.items()
    }
    stages = {n: s for n, r in recipes.items() for s in r.stages if isinstance(s, SelectTokens)}
    task, model = Planted(), load_model(model_folder(policy))
    engine = LocalEngine(model, Optimiser(model.named_parameters(), AdamW(), 1), teacher=PlantedTeacher(task))
    prompts = PlantedWorld(task).draw(int(cell.task["prompts"]), cell.seed, 0)
    at = Moment(seed=cell.seed)
    drawn = engine.sample(prompts, Drawing(1, RESPONSE + SPARE, (EOS,)), at, cell.seed)
    high = HIGH_ENTROPY * math.log(VOCABULARY)
    found = diagnose_tokens(score(engine, drawn), stages, at, high, HIGH_DIVERGENCE)
    kind = {k: (kinds(task, drawn) == Kind[k.upper()]) & found.mask for k in KINDS}
    return {
        "kinds": {k: _measured(found, k, here) for k, here in kind.items()},
        "kept": {n: {k: _share(kept & here, here) for k, here in kind.items()} for n, kept in found.kept.items()},
        "made": {n: {k: _share(kept & here, kept) for k, here in kind.items()} for n, kept in found.kept.items()},
        "overlap": found.overlap(),
        "shares": found.quadrants.share,
        "samples": _samples(found, kind["carry"], PlantedWorld(task).pieces(drawn)),
    }


def _samples(found: TokenDiagnosis, carry: Tensor, pieces: list[list[str]]) -> list[dict[str, Any]]:
    """The first responses with a carry, under every rule."""
    which = carry.any(1).nonzero()[:SHOWN, 0].tolist()
    shown = samples_of(found, pieces, which)
    marked = [carry[i].nonzero()[:, 0].tolist() for i in which]
    return [as_json(replace(s, truth=tuple(m), mark="carry")) for s, m in zip(shown, marked, strict=True)]


def _measured(found: TokenDiagnosis, kind: str, here: Tensor) -> dict[str, float]:
    streams: Mapping[str, Tensor] = found.rollouts.streams
    inside = found.quadrants.label == int(PLANTED[kind][1])
    return {
        "share": _share(here, found.mask),
        "entropy": float(streams["entropy"][here].double().mean()) / math.log(VOCABULARY),
        "divergence": float(streams["divergence"][here].double().mean()),
        "in_quadrant": _share(here & inside, here),
    }


def _share(x: Tensor, of: Tensor) -> float:
    return int(x.sum()) / max(int(of.sum()), 1)
