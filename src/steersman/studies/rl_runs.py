"""One run of a study whose arms are recipes of `steersman train rl`, by default on the running-sum task.

Train from a supervised policy (`chain_sum_policy`), keep a series of every batch and the held-out accuracy on the way,
then judge on unseen prompts. Leaves out: which recipes and seeds (each study's ``arms``), what is concluded
(`rl_curves`, `rl_evidence`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.core.config import dump, read, validate
from steersman.language.load import load_model
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_job import carry_out_rl
from steersman.recipes.training import Runtime
from steersman.store.run import RunDir
from steersman.studies.chain_sum_policy import count_right, judged
from steersman.study.declare import Arm, Cell
from steersman.study.progress import Progress
from steersman.task.chain_sum import ChainSum

TOKENS = {"tokens": "train/tokens_generated"}
"""Axes of a course besides batches: its name and the series of a batch that is added up."""

OURS = ("steersman",)
"""Packages whose own stages (`rl_stages`) a recipe of a study may name."""


def arm_of(name: str, meaning: str, values: Mapping[str, Any]) -> Arm:
    """An arm: its settings are the whole resolved recipe without the model's folder.

    Args:
        name: of the arm.
        meaning: one line for the reader.
        values: tables of the recipe as a user writes them, without ``model``.
    """
    recipe = dump(validate(RLRecipe, read(None, (), {**values, "model": {"path": "policy"}}), OURS))
    del recipe["model"]
    return Arm(name, recipe, meaning)


def updates_of(settings: Mapping[str, Any]) -> int:
    """Optimiser steps of a batch."""
    return int(settings["rollout"]["minibatches"]) * int(settings["rollout"]["epochs"])


def recipe_of(cell: Cell, model: str) -> RLRecipe:
    """The recipe of a run: the arm's, with the model's folder, the seed, the length and the held-out prompts."""
    values: dict[str, Any] = {**cell.arm.settings, "model": {"path": model}}
    steps = int(cell.task["batches"]) * updates_of(cell.arm.settings)
    values["budget"] = {**values["budget"], "seed": cell.seed, "steps": steps}
    values["task"] = {**values["task"], "evaluation": int(cell.task["held_out"])}
    return validate(RLRecipe, read(None, (), values), OURS)


def train(
    recipe: RLRecipe,
    cell: Cell,
    run_dir: RunDir,
    policy: Path,
    series: Mapping[str, str],
    axes: Mapping[str, str] = TOKENS,
    judge: Callable[[Any], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train one arm from the supervised policy and judge it; continues from the run's own checkpoint.

    Args:
        recipe: what to do.
        cell: its task says batches, evaluate_every (batches), judged (prompts).
        run_dir: of the run.
        policy: folder of the artefact it starts from.
        series: what is kept of each batch, by its name in ``metrics.jsonl``.
        axes: metrics of a batch that are added up along the course.
        judge: model -> ``start`` and ``final`` on another task; None = of the running-sum task.

    Returns:
        ``start`` and ``final``: right answers and prompts judged; ``course``: batch, sums of `axes` so far and held-out
        accuracy; ``batches``: a list for each of `series` with a value a batch, None where an arm has none.
    """
    task, updates = cell.task, recipe.rollout.updates
    every = int(task["evaluate_every"]) * updates
    runtime = Runtime(
        out=str(run_dir.path / "training"),
        device="cpu",
        threads=1,
        log_every=updates,
        evaluate_every=every,
        checkpoint_every=every,
        keep=1,
    )
    progress, seen = Progress(run_dir.path, task["batches"], "batches"), [0]

    def watch(step: int, total: int, metrics: Mapping[str, float]) -> None:
        progress.advance(step // updates - seen[0])
        seen[0] = step // updates

    outcome = carry_out_rl(recipe, runtime, say=lambda line: None, watch=watch)
    rows = RunDir(outcome.folder).read("metrics")
    model = load_model(outcome.folder / "model")
    return {
        **(_sums_judged(model, cell, recipe, policy) if judge is None else judge(model)),
        "course": _course(rows, axes, updates, outcome.result["before"]["accuracy"]),
        "batches": {name: [row.get(key) for row in _trained(rows)] for name, key in series.items()},
        "timing": {"tokens": outcome.result["tokens"]},
    }


def _sums_judged(model: Any, cell: Cell, recipe: RLRecipe, policy: Path) -> dict[str, Any]:
    knobs = {k: v for k, v in cell.arm.settings["task"].items() if k in ChainSum.model_fields}
    n = int(cell.task["judged"])
    right = count_right(model, ChainSum.model_validate(knobs), n, recipe.rollout.max_new_tokens)
    return {"start": list(judged(policy)), "final": [right, n]}


def _trained(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the metrics that are a batch."""
    return [row for row in rows if TOKENS["tokens"] in row]


def _course(
    rows: Sequence[Mapping[str, Any]], axes: Mapping[str, str], updates: int, before: float
) -> list[dict[str, float]]:
    """Held-out accuracy by batches and by what was spent so far."""
    trained = _trained(rows)
    found: list[dict[str, float]] = [{"batch": 0, **dict.fromkeys(axes, 0.0), "accuracy": before}]
    for row in rows:
        if "eval/accuracy" in row:
            batch = row["step"] // updates
            spent = {name: sum(r.get(key) or 0.0 for r in trained[:batch]) for name, key in axes.items()}
            found.append({"batch": batch, **spent, "accuracy": row["eval/accuracy"]})
    return found
