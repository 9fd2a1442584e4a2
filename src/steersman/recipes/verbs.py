"""Every verb of `steersman train`: its recipe, what checks it, what carries it out, what estimates it.

Leaves out: all of these themselves.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersman.recipes import estimate, jobs, rl_estimate, rl_job, training
from steersman.recipes.distill import DistillRecipe
from steersman.recipes.inventory import InventoryRecipe
from steersman.recipes.jobs import Outcome
from steersman.recipes.learners import Say
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_checks import check_method
from steersman.recipes.training import KeepsDefaults, Runtime
from steersman.train.loop import Watch

RECIPES: dict[str, type[KeepsDefaults]] = {
    **training.RECIPES,
    "rl": RLRecipe,
    "distill": DistillRecipe,
    "inventory": InventoryRecipe,
}
"""The recipe of each verb; `inventory` is carried out by `inventory_job`."""
HABITS: dict[str, dict[str, Any]] = {"rl": {"log_every": 1}, "distill": {"log_every": 1}}
"""Defaults of `Runtime` that a verb has of its own: a step with responses takes long and is worth a line."""


def check(recipe: KeepsDefaults) -> list[str]:
    """Refuse what can be seen to be impossible in the recipe alone; gives lines about what is odd."""
    return check_method(recipe) if isinstance(recipe, RLRecipe) else []


def carry_out(
    recipe: Any,
    runtime: Runtime,
    *,
    allow_import: Sequence[str] = (),
    say: Say = print,
    watch: Watch | None = None,
    resume: Path | None = None,
) -> Outcome:
    """Train as a recipe of any verb says; see `jobs.carry_out` and `rl_job.carry_out_rl`."""
    known: dict[str, Any] = {"say": say, "watch": watch, "resume": resume}
    if isinstance(recipe, RLRecipe):
        return rl_job.carry_out_rl(recipe, runtime, allow_import=allow_import, **known)
    return jobs.carry_out(recipe, runtime, **known)


def measures(recipe: Any, runtime: Runtime, allow_import: Sequence[str] = ()) -> dict[str, Any]:
    """What a job would cost, as JSON values; trains and writes nothing."""
    if isinstance(recipe, RLRecipe):
        return rl_estimate.measures(recipe, runtime, allow_import)
    return estimate.measures(recipe, runtime)


def described(recipe: Any, runtime: Runtime, allow_import: Sequence[str] = ()) -> str:
    """The same for people."""
    if isinstance(recipe, RLRecipe):
        return rl_estimate.described(recipe, runtime, allow_import)
    return estimate.estimate(recipe, runtime)
