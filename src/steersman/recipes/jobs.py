"""Carry a recipe out: load, encode, train, export. What `steersman train` does, and what a notebook calls.

Leaves out: the command line (`cli`), what a recipe may say (`recipes.training`).
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from steersman.core.config import dump
from steersman.core.errors import UserError
from steersman.core.types import Pairs
from steersman.language.load import context_length, load_model, load_tokenizer, save_model
from steersman.language.precision import set_precision
from steersman.recipes.checks import check_data, check_model, check_trained_folder
from steersman.recipes.data import read_data
from steersman.recipes.learners import Bench, Say
from steersman.recipes.training import AnyRecipe, Recipe, RewardRecipe, Runtime
from steersman.reward.model import build_reward_model, quality_report, save_reward_model, score_rows
from steersman.store.checkpoint import list_checkpoints
from steersman.store.files import content_hash, digest, write_json
from steersman.store.provenance import made_by
from steersman.store.run import RunDir, writable
from steersman.train.fit import fit
from steersman.train.loop import Fitted, Habits, Watch
from steersman.train.lora import add_lora


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished job: where it wrote, how training ended, and what was measured."""

    folder: Path
    fitted: Fitted | None
    result: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())


def identity(recipe: AnyRecipe) -> dict[str, Any]:
    """What defines the result: the recipe with contents instead of paths."""
    return _with_paths(recipe, content_hash)


def output_folder(recipe: Any, runtime: Runtime) -> Path:
    """Where a job writes: the folder asked for, or one named after its identity."""
    return Path(runtime.out) if runtime.out else Path("runs") / f"{recipe.verb}-{digest(identity(recipe), 10)}"


def carry_out(
    recipe: Recipe, runtime: Runtime, *, say: Say = print, watch: Watch | None = None, resume: Path | None = None
) -> Outcome:
    """Train as the recipe says and export a folder that plain `transformers` loads; continues where it stopped.

    Args:
        recipe: what to do.
        runtime: how.
        say: told what is being done, a line each.
        watch: told about progress.
        resume: a checkpoint to continue from instead of the newest.

    Returns:
        The outcome; a finished job is not done again.

    Raises:
        UserError: bad input, before any training.
        RunStopped: training could not go on; the last checkpoint is good.
    """
    known = identity(recipe)
    run = RunDir(output_folder(recipe, runtime))
    writable(run.path)
    if run.finished:
        run.start({**known, "made_by": made_by()})
        return Outcome(run.path, None, run.result(), ("already finished; nothing to do",))
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    device = pick_device(runtime)
    check_trained_folder(recipe)
    say(f"loading {recipe.model.path}")
    tokenizer = load_tokenizer(recipe.model.path)
    check_model(recipe, tokenizer)
    model = load_trained(recipe, device)
    data = read_data(recipe, tokenizer, context_length(model.config))
    for note in data.notes:
        say(note)
    check_data(recipe, data)
    begin(run, {**known, "made_by": made_by()})
    note_paths(run, recipe)
    bench = Bench(recipe, runtime, run, model, tokenizer, data, device, say)
    learner = bench.learner()
    habits = habits_of(runtime, recipe.budget.total(learner.rows))
    fitted = fit(learner, recipe.budget, run, habits, watch=watch, resume=resume)
    result = _export(bench, fitted)
    run.finish(result, {"seconds": fitted.seconds, "tokens": fitted.tokens})
    return Outcome(run.path, fitted, result, data.notes)


_CHECKPOINTS, _STEPS_BETWEEN = 5, 10  # of a run that does not say how often: five, but not every few steps
_BEFORE_TRAINING = (
    "run.json", "recipe.json", "flip_rate.json", "before.json", "metrics.jsonl", "clock.jsonl", "samples.jsonl",
    "reference", "best", "rollouts",
)  # fmt: skip


def habits_of(runtime: Runtime, total: int) -> Habits:
    """How often a run of `total` steps is logged, evaluated and saved."""
    every = runtime.checkpoint_every or max(-(-total // _CHECKPOINTS), _STEPS_BETWEEN)
    return Habits(runtime.log_every, runtime.evaluate_every, every, runtime.keep)


def begin(run: RunDir, definition: dict[str, Any]) -> None:
    """Start or continue a run; one that failed before its first checkpoint gives its folder to a corrected recipe."""
    try:
        run.start(definition)
    except UserError:
        if list_checkpoints(run.checkpoints) or not (run.path / "recipe.json").is_file():
            raise
        for path in [run.path / name for name in _BEFORE_TRAINING]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        run.start(definition)


def note_paths(run: RunDir, recipe: AnyRecipe) -> None:
    """The recipe with its paths, so that ``--resume FOLDER`` needs nothing else; no part of the identity."""
    write_json(run.path / "recipe.json", _with_paths(recipe, lambda path: str(path.resolve())))


def _with_paths(recipe: AnyRecipe, change: Callable[[Path], str]) -> dict[str, Any]:
    """The resolved recipe with every path in it (`AnyRecipe.paths`) replaced by what `change` makes of it."""
    values = dump(recipe)
    for path in recipe.paths:
        *tables, key = path.split(".")
        inside: Any = values
        for table in tables:
            inside = inside.get(table) if isinstance(inside, dict) else None
        # A key of that name need not be a path: `task.evaluation` of a generator is a number.
        if isinstance(inside, dict) and isinstance(inside.get(key), str):
            inside[key] = change(Path(inside[key]))
    return values


def pick_device(runtime: Runtime) -> torch.device:
    """The device a job runs on.

    Raises:
        UserError: CUDA was asked for and is not there.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise UserError("'cuda' is not available here", where="runtime.device", allowed="auto, cpu")
    wants_gpu = runtime.device == "cuda" or (runtime.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if wants_gpu else "cpu")


def load_trained(recipe: Any, device: torch.device) -> Any:
    """The model that is to be trained, with adapters, checkpointing and precision as the recipe says."""
    spec, seed = recipe.model, recipe.budget.seed
    if isinstance(recipe, RewardRecipe):
        model: Any = build_reward_model(Path(spec.path), seed).to(device)
    else:
        model = load_model(spec.path, device=device)
    if spec.lora is not None:
        model = add_lora(model, spec.lora.rank, spec.lora.alpha, spec.lora.targets, seed)
    if spec.activation_checkpointing:
        # The method's new name; the old one warns.
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    set_precision(model, spec.precision)
    return model


def _export(bench: Bench, fitted: Fitted) -> dict[str, Any]:
    """Write the trained model and return what was measured."""
    recipe, folder = bench.recipe, bench.run.path / "model"
    result: dict[str, Any] = {
        "verb": recipe.verb,
        "steps": fitted.steps,
        "reason": fitted.reason,
        "tokens": fitted.tokens,
        "evaluation": dict(fitted.evaluation),
        "best_step": fitted.best_step,
    }
    if bench.flips is not None:
        result["flip_rate"] = bench.flips
    if isinstance(recipe, RewardRecipe):
        held_out = bench.data.held_out or bench.data.train
        result["report"] = _reward_report(bench, held_out.data.to(bench.device))
        result["report_on"] = "held-out pairs" if bench.data.held_out else "training pairs (no held-out file)"
        save_reward_model(bench.model, bench.tokenizer, folder, result["report"])
    else:
        keep = "separate" if recipe.model.lora is not None and not recipe.model.lora.merge else "merge"
        save_model(bench.model, bench.tokenizer, folder, adapter=keep)
    return result


def _reward_report(bench: Bench, pairs: Pairs) -> dict[str, Any]:
    micro = bench.runtime.micro_tokens
    first, second = (score_rows(bench.model, side, micro).cpu() for side in (pairs.first, pairs.second))
    lengths = [side.action.sum(1).cpu() for side in (pairs.first, pairs.second)]
    return quality_report(first, second, pairs.label.cpu(), lengths[0], lengths[1])
