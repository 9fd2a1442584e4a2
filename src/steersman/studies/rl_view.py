"""A study's run that trains nothing: what every arm makes of one batch at the first policy's weights, token by token.

The batch is that of a run's first step, and schedules stand at their middle. Shown are all responses to the first
prompts that have right and wrong ones, so that every advantage is defined; nothing else is chosen.
Leaves out: following rows through stages (`train.show`), drawing (`page.tokens`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steersman.core.component import Moment
from steersman.core.config import read as read_config
from steersman.core.config import validate
from steersman.core.types import Rollouts
from steersman.language.load import load_model
from steersman.page.tokens import as_json
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_parts import needs_reference, stages_of, terms_of
from steersman.studies.rl_runs import OURS
from steersman.study.declare import Cell
from steersman.task.chain_sum import EOS, ChainSum
from steersman.task.chain_sum_truth import Role, read
from steersman.task.worlds import ChainSumWorld
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Drawing
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.show import compare_stages, graded_rollouts, token_table

MIDDLE = (50, 101)
"""Step and steps of a run half way through."""


def compare_arms(cell: Cell, task: ChainSum, policy: Path) -> dict[str, Any]:
    """Draw, compare, and tell.

    Args:
        cell: its arm's settings name the recipes (``methods``), its task how many prompts are shown (``prompts``).
        task: the running sums that all of them learn.
        policy: folder of the model.

    Returns:
        ``samples`` as `page.tokens.as_json` writes them, ``streams`` (what each is), ``kept``: rows and tokens of the
        batch that each arm learns from.
    """
    methods: Mapping[str, Any] = cell.arm.settings["methods"]
    recipes = {name: recipe_of_arm(settings) for name, settings in methods.items()}
    one, world = next(iter(recipes.values())), ChainSumWorld(task)
    model = load_model(policy)
    told = any(needs_reference(r) for r in recipes.values())
    reference = load_model(policy).requires_grad_(False) if told else None
    engine = LocalEngine(model, Optimiser(model.named_parameters(), AdamW(), 1), reference=reference)
    drawing = Drawing(one.rollout.samples, one.rollout.max_new_tokens, (EOS,))
    first = Moment(seed=cell.seed, step=0, total=MIDDLE[1])
    rollouts, rows = graded_rollouts(engine, world, drawing, one.budget.batch, first)
    at = Moment(seed=cell.seed, step=MIDDLE[0], total=MIDDLE[1])
    terms = {n: terms_of(r) for n, r in recipes.items() if r.teacher is not None}
    stages = {n: stages_of(r) for n, r in recipes.items()}
    made = compare_stages(engine, world, rollouts, stages, rows, at=at, terms=terms)
    decisive = read(task, rollouts).role == Role.DECISIVE
    which = _mixed(rollouts, int(cell.task["prompts"]))
    samples, streams = token_table(rollouts, world.pieces(rollouts), made, truth=decisive, which=which.tolist())
    kept = {n: {"rows": int(m.copies.sum()), "tokens": int(m.kept.sum())} for n, m in made.items()}
    described = [{"name": s.name, "unit": s.unit, "scale": s.scale, "meaning": s.meaning} for s in streams]
    return {"samples": [as_json(s) for s in samples], "streams": described, "kept": kept}


def recipe_of_arm(settings: Mapping[str, Any]) -> RLRecipe:
    """The recipe of an arm's settings, which name no model."""
    return validate(RLRecipe, read_config(None, (), {**settings, "model": {"path": "policy"}}), OURS)


def _mixed(rollouts: Rollouts, most: int) -> Tensor:
    """Rows of the first `most` prompts that have right and wrong responses."""
    assert rollouts.correct is not None
    groups, place = torch.unique(rollouts.group, return_inverse=True)
    right = torch.zeros(len(groups)).index_add(0, place, rollouts.correct.float())
    mixed = (right > 0) & (right < torch.bincount(place))
    return torch.isin(place, mixed.nonzero()[:most, 0]).nonzero()[:, 0]
