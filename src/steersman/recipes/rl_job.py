"""Carry an rl recipe out: load models, make the world and the engine, train, export. What `steersman train rl` does.

Everything that can be refused without weights is refused before any is read. Leaves out: the command line (`cli`), the
loop (`train.rl`), what a recipe may say (`recipes.rl`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steersman.language.encode import encode_completions
from steersman.language.load import (
    check_folder,
    check_same_vocabulary,
    check_tokenizer_fits,
    context_length,
    load_model,
    load_tokenizer,
    save_model,
    stop_ids,
)
from steersman.language.precision import set_precision
from steersman.language.records import read_completions
from steersman.recipes.jobs import (
    Outcome,
    begin,
    habits_of,
    identity,
    load_trained,
    note_paths,
    output_folder,
    pick_device,
)
from steersman.recipes.learners import Say
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_checks import check_method, check_phases
from steersman.recipes.rl_parts import drawing_of, needs_reference, settings_of, stages_of, terms_of, total_steps
from steersman.recipes.rl_world import make_world
from steersman.recipes.training import Runtime
from steersman.reward.model import build_reward_model, check_reward_folder
from steersman.store.checkpoint import latest_checkpoint
from steersman.store.files import read_json, write_json
from steersman.store.provenance import made_by
from steersman.store.run import RunDir, writable
from steersman.task.world import World
from steersman.train.engine.local import LocalEngine
from steersman.train.loop import Fitted, Watch
from steersman.train.optimise import Optimiser
from steersman.train.rl import Auxiliary, RLLearner, rl
from steersman.train.terms import sft_term


@dataclass(frozen=True, slots=True)
class Ready:
    """A recipe that nothing but its weights can stop: tokenizer, configuration, world, length, second data, notes."""

    tokenizer: Any
    config: Any
    world: World
    total: int
    auxiliary: Auxiliary | None
    notes: tuple[str, ...]


def make_ready(recipe: RLRecipe, runtime: Runtime, allow_import: Sequence[str] = ()) -> Ready:
    """Check a recipe and everything it names, and read its prompts; no policy is loaded.

    Raises:
        UserError: whatever would stop the job before its first step.
    """
    from transformers import AutoConfig

    notes, spec = check_method(recipe), recipe.model
    check_folder(spec.path)
    tokenizer = load_tokenizer(spec.path)
    config = AutoConfig.from_pretrained(spec.path, local_files_only=True)
    check_tokenizer_fits(tokenizer, config, where=spec.path)
    if spec.reference is not None:
        check_folder(spec.reference)
        check_same_vocabulary(tokenizer, load_tokenizer(spec.reference), where=f"model.reference ({spec.reference})")
    if recipe.critic is not None and recipe.critic.path is not None:
        check_reward_folder(Path(recipe.critic.path))
        check_same_vocabulary(
            tokenizer, load_tokenizer(recipe.critic.path), where=f"critic.path ({recipe.critic.path})"
        )
    context = context_length(config)
    second, lines = _auxiliary(recipe, tokenizer, context)
    known = {"allow_import": allow_import, "device": pick_device(runtime), "micro_tokens": runtime.micro_tokens}
    world, prompts, found = make_world(recipe, tokenizer, context, **known)
    total = total_steps(recipe, prompts)
    check_phases(recipe, total)
    return Ready(tokenizer, config, world, total, second, (*found, *lines, *notes))


def _auxiliary(recipe: RLRecipe, tokenizer: Any, context: int | None) -> tuple[Auxiliary | None, list[str]]:
    """The second stream of data, encoded."""
    spec = recipe.auxiliary
    if spec is None:
        return None, []
    rows = read_completions(Path(spec.data)).rows
    encoded = encode_completions(rows, tokenizer, spec.truncation, context=context, where=spec.data)
    note = f"{Path(spec.data).name}: {encoded.report.rows_out} rows of the second stream"
    return Auxiliary(encoded.data, sft_term(spec.weight), spec.batch), [note]


def carry_out_rl(
    recipe: RLRecipe,
    runtime: Runtime,
    *,
    allow_import: Sequence[str] = (),
    say: Say = print,
    watch: Watch | None = None,
    resume: Path | None = None,
) -> Outcome:
    """Train as the recipe says and export folders that plain `transformers` loads; continues where it stopped.

    Args:
        recipe: what to do.
        runtime: how.
        allow_import: packages of the user's own reward function.
        say: told what is being done, a line each.
        watch: told about progress.
        resume: a checkpoint to continue from instead of the newest.

    Returns:
        The outcome; a finished job is not done again.

    Raises:
        UserError: bad input, before any training.
        RunStopped: training could not go on; the last checkpoint is good.
    """
    known = {**identity(recipe), "made_by": made_by()}
    run = RunDir(output_folder(recipe, runtime))
    writable(run.path)
    if run.finished:
        run.start(known)
        return Outcome(run.path, None, run.result(), ("already finished; nothing to do",))
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    ready = make_ready(recipe, runtime, allow_import)
    try:
        for note in ready.notes:
            say(note)
        begin(run, known)
        note_paths(run, recipe)
        say(f"loading {recipe.model.path}")
        learner = _learner(recipe, runtime, ready, run, say)
        before = _before(learner, run, resume)
        habits = habits_of(runtime, ready.total)
        fitted = rl(learner, recipe.budget, run, habits, watch=watch, resume=resume)
        result = _export(recipe, ready, learner, run, fitted, before)
        run.finish(result, {"seconds": fitted.seconds, "tokens": fitted.tokens})
        return Outcome(run.path, fitted, result, ready.notes)
    finally:
        ready.world.close()


def _learner(recipe: RLRecipe, runtime: Runtime, ready: Ready, run: RunDir, say: Say) -> RLLearner:
    engine = _engine(recipe, runtime, ready.total)
    stops = stop_ids(engine.policy, ready.tokenizer)
    drawing = drawing_of(recipe, stops, ready.tokenizer, runtime.decode_tokens)
    settings = settings_of(recipe, drawing, ready.auxiliary)
    parts = stages_of(recipe), terms_of(recipe)
    return RLLearner(engine, ready.world, *parts, settings, recipe.budget.seed, ready.total, run=run, say=say)


def _engine(recipe: RLRecipe, runtime: Runtime, total: int) -> LocalEngine:
    """Policy, reference and critic with their optimisers."""
    device, spec = pick_device(runtime), recipe.model
    policy = load_trained(recipe, device)
    reference = None
    if spec.reference is not None or (needs_reference(recipe) and spec.lora is None):
        reference = load_model(spec.reference or spec.path, device=device).requires_grad_(False)
        set_precision(reference, spec.precision)
    critic = None if recipe.critic is None else _critic(recipe, device)
    return LocalEngine(
        policy,
        Optimiser(policy.named_parameters(), recipe.optim, total),
        reference=reference,
        critic=critic,
        critic_optimiser=critic and Optimiser(critic.named_parameters(), recipe.critic.optim, total),
        micro_tokens=runtime.micro_tokens,
    )


def _critic(recipe: RLRecipe, device: torch.device) -> Any:
    assert recipe.critic is not None
    critic: Any = build_reward_model(Path(recipe.critic.path or recipe.model.path), recipe.budget.seed).to(device)
    if recipe.model.activation_checkpointing:
        (getattr(critic, "activation_checkpointing_enable", None) or critic.gradient_checkpointing_enable)()
    set_precision(critic, recipe.model.precision)
    return critic


def _before(learner: RLLearner, run: RunDir, resume: Path | None) -> dict[str, float]:
    """What the policy was worth before its first step, measured once and kept with the run."""
    file = run.path / "before.json"
    if not file.is_file() and resume is None and latest_checkpoint(run.checkpoints) is None:
        found = learner.evaluate()
        if learner.engine.main:
            write_json(file, found)
        return found
    return dict(read_json(file)) if file.is_file() else {}


def _export(
    recipe: RLRecipe, ready: Ready, learner: RLLearner, run: RunDir, fitted: Fitted, before: dict[str, float]
) -> dict[str, Any]:
    """Write policy and critic, and return what was measured."""
    lora = recipe.model.lora
    keep: Any = "separate" if lora is not None and not lora.merge else "merge"
    save_model(learner.engine.whole("policy"), ready.tokenizer, run.path / "model", adapter=keep)
    if recipe.critic is not None:
        save_model(learner.engine.whole("critic"), ready.tokenizer, run.path / "critic")
    return {
        "verb": recipe.verb,
        "steps": fitted.steps,
        "reason": fitted.reason,
        "tokens": fitted.tokens,
        "before": before,
        "evaluation": dict(fitted.evaluation),
        "best_step": fitted.best_step,
    }
