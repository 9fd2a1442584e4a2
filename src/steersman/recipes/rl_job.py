"""Carry an rl recipe out: load models, make the world and the engine, train, export. What `steersman train rl` does.

Everything that can be refused without weights is refused before any is read. Leaves out: the command line (`cli`), the
loop (`train.rl`), what a recipe may say (`recipes.rl`).
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from steersman.recipes.rl import Critic, RLRecipe
from steersman.recipes.rl_checks import check_layers, check_method, check_phases
from steersman.recipes.rl_parts import drawing_of, needs_reference, settings_of, stages_of, terms_of, total_steps
from steersman.recipes.rl_world import make_world
from steersman.recipes.teachers_load import NOBODY, TeacherReady, prepare_teacher, smallest, teacher_options
from steersman.recipes.training import Runtime
from steersman.reward.model import build_reward_model, check_reward_folder
from steersman.store.checkpoint import latest_checkpoint
from steersman.store.files import read_json, write_json
from steersman.store.provenance import made_by
from steersman.store.run import RunDir, writable
from steersman.task.world import World
from steersman.train.engine.distributed import engine_for
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.processes import Processes, launched, start
from steersman.train.loop import Fitted, Watch
from steersman.train.optimise import Optimiser
from steersman.train.rl import Auxiliary, RLLearner, rl
from steersman.train.terms import sft_term

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ready:
    """A recipe that nothing but its weights can stop: tokenizer, configuration, world, length, second data, notes."""

    tokenizer: Any
    config: Any
    world: World
    total: int
    auxiliary: Auxiliary | None
    notes: tuple[str, ...]
    teacher: TeacherReady = NOBODY


def make_ready(
    recipe: RLRecipe, runtime: Runtime, allow_import: Sequence[str] = (), device: torch.device | None = None
) -> Ready:
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
    check_layers(recipe, config)
    if spec.reference is not None:
        check_folder(spec.reference)
        check_same_vocabulary(tokenizer, load_tokenizer(spec.reference), where=f"model.reference ({spec.reference})")
    if recipe.critic is not None and recipe.critic.path is not None:
        check_reward_folder(Path(recipe.critic.path))
        check_same_vocabulary(
            tokenizer, load_tokenizer(recipe.critic.path), where=f"critic.path ({recipe.critic.path})"
        )
    teacher = prepare_teacher(recipe, tokenizer, config, allow_import)
    context = smallest(context_length(config), teacher.context)
    second, lines = _auxiliary(recipe, tokenizer, context)
    device = pick_device(runtime) if device is None else device
    known: dict[str, Any] = {"allow_import": allow_import, "device": device, "micro_tokens": runtime.micro_tokens}
    world, prompts, found = make_world(recipe, tokenizer, context, **known)
    total = total_steps(recipe, prompts)
    check_phases(recipe, total)
    return Ready(tokenizer, config, world, total, second, (*found, *lines, *notes), teacher)


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

    Under ``torchrun`` all processes work on the one run; the first of them writes and speaks.

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
    device = pick_device(runtime)
    with start(device.type) if launched() else nullcontext() as processes:  # type: ignore[arg-type]
        main = processes is None or processes.rank == 0
        folder = output_folder(recipe, runtime)
        job = _Job(recipe, runtime, RunDir(folder, writes=main), processes, say if main else _nothing)
        return job.run_it(allow_import, watch if main else None, resume)


def _nothing(line: str) -> None:
    """What processes other than the first say."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One job in one process; `processes` are all of them, None = this is the only one."""

    recipe: RLRecipe
    runtime: Runtime
    run: RunDir
    processes: Processes | None
    say: Say

    @property
    def device(self) -> torch.device:
        return pick_device(self.runtime) if self.processes is None else self.processes.device

    def run_it(self, allow_import: Sequence[str], watch: Watch | None, resume: Path | None) -> Outcome:
        recipe, run = self.recipe, self.run
        known = {**identity(recipe), "made_by": made_by()}
        if run.finished:
            run.start(known)
            return Outcome(run.path, None, run.result(), ("already finished; nothing to do",))
        if self.runtime.threads:
            torch.set_num_threads(self.runtime.threads)
        self._as_one(lambda: writable(run.path))
        ready = make_ready(recipe, self.runtime, allow_import, self.device)
        try:
            for note in ready.notes:
                self.say(note)
            self._as_one(lambda: self._begin(known))
            self.say(f"loading {recipe.model.path}")
            learner = self._learner(ready)
            before = self._before(learner, resume)
            habits = habits_of(self.runtime, ready.total)
            fitted = rl(learner, recipe.budget, run, habits, watch=watch, resume=resume)
            result = self._export(ready, learner, fitted, before)
            self._as_one(lambda: self._finish(result, fitted))
            return Outcome(run.path, fitted, result, ready.notes)
        finally:
            ready.world.close()

    def _as_one(self, work: Callable[[], None]) -> None:
        """Work on files, which the first process does while the others wait; its errors are everybody's."""
        mine = work if self.run.writes else lambda: None
        mine() if self.processes is None else self.processes.together(mine)

    def _first(self, look: Callable[[], T]) -> T:
        """What the first process finds on disk: another that looks by itself may find what the first wrote since."""
        if self.processes is None:
            return look()
        found: T = self.processes.gather(self.processes.together(lambda: look() if self.run.writes else None))[0]
        return found

    def _begin(self, known: dict[str, Any]) -> None:
        begin(self.run, known)
        note_paths(self.run, self.recipe)

    def _finish(self, result: dict[str, Any], fitted: Fitted) -> None:
        """From now on the run is finished; rollouts of a step that failed once, and was made again, are of no use."""
        self.run.finish(result, {"seconds": fitted.seconds, "tokens": fitted.tokens})
        shutil.rmtree(self.run.path / "rollouts", ignore_errors=True)

    def _learner(self, ready: Ready) -> RLLearner:
        recipe, engine = self.recipe, self._engine(ready)
        stops = stop_ids(engine.policy, ready.tokenizer)
        drawing = drawing_of(recipe, stops, ready.tokenizer, self.runtime.decode_tokens)
        settings = settings_of(recipe, drawing, ready.auxiliary)
        parts = stages_of(recipe), terms_of(recipe)
        seed, told = recipe.budget.seed, {"run": self.run, "say": self.say}
        return RLLearner(engine, ready.world, *parts, settings, seed, ready.total, **told)

    def _engine(self, ready: Ready) -> LocalEngine:
        """Policy, reference, teacher and critic, with the optimisers of what is trained."""
        recipe, spec, total = self.recipe, self.recipe.model, ready.total
        policy = load_trained(recipe, self.device)
        known: dict[str, Any] = {"micro_tokens": self.runtime.micro_tokens}
        known |= teacher_options(recipe, ready.teacher, self.device)
        if spec.reference is not None or (needs_reference(recipe) and spec.lora is None):
            known["reference"] = load_model(spec.reference or spec.path, device=self.device).requires_grad_(False)
            set_precision(known["reference"], spec.precision)
        if recipe.critic is not None:
            critic = self._critic(recipe.critic)
            optimiser = Optimiser(critic.named_parameters(), recipe.critic.optim, total)
            known |= {"critic": critic, "critic_optimiser": optimiser}
        return engine_for(self.processes, policy, Optimiser(policy.named_parameters(), recipe.optim, total), **known)

    def _critic(self, spec: Critic) -> Any:
        model = self.recipe.model
        critic: Any = build_reward_model(Path(spec.path or model.path), self.recipe.budget.seed).to(self.device)
        if model.activation_checkpointing:
            (getattr(critic, "activation_checkpointing_enable", None) or critic.gradient_checkpointing_enable)()
        set_precision(critic, model.precision)
        return critic

    def _before(self, learner: RLLearner, resume: Path | None) -> dict[str, float]:
        """What the policy was worth before its first step, measured once and kept with the run."""
        file = self.run.path / "before.json"
        there, begun = self._first(lambda: [file.is_file(), latest_checkpoint(self.run.checkpoints) is not None])
        if there:
            return dict(read_json(file))
        if resume is not None or begun:
            return {}
        found = learner.evaluate()
        self._as_one(lambda: write_json(file, found))
        return found

    def _export(self, ready: Ready, learner: RLLearner, fitted: Fitted, before: dict[str, float]) -> dict[str, Any]:
        """Write policy and critic, and return what was measured."""
        lora, folder = self.recipe.model.lora, self.run.path
        keep: Any = "separate" if lora is not None and not lora.merge else "merge"
        policy = learner.engine.whole("policy")  # every process takes part
        self._as_one(lambda: _save(policy, ready.tokenizer, folder / "model", keep))
        if self.recipe.critic is not None:
            critic = learner.engine.whole("critic")
            self._as_one(lambda: _save(critic, ready.tokenizer, folder / "critic", "merge"))
        return {
            "verb": self.recipe.verb,
            "steps": fitted.steps,
            **self._first(lambda: steps_without_signal(self.run)),
            "reason": fitted.reason,
            "tokens": fitted.tokens,
            "before": before,
            "evaluation": dict(fitted.evaluation),
            "best_step": fitted.best_step,
        }


def steps_without_signal(run: RunDir) -> dict[str, int]:
    """Steps that taught nothing, by the run's metrics: `skipped` for want of a token, or with a gradient of 0.

    A row of metrics is the mean over the steps since the one before, so steps with a gradient of 0 count where all
    steps of their row had one.
    """
    skipped, flat, before = 0.0, 0.0, 0
    for row in run.read("metrics"):
        if "train/skipped" not in row:
            continue
        steps, before = row["step"] - before, row["step"]
        skipped += row["train/skipped"] * steps
        flat += (1 - row["train/skipped"]) * steps * (row.get("train/grad_norm") == 0)
    return {"skipped": round(skipped), "no_gradient": round(flat)}


def _save(model: Any, tokenizer: Any, folder: Path, adapter: Any) -> None:
    save_model(model, tokenizer, folder, adapter=adapter)
