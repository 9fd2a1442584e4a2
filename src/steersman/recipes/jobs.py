"""Carry a recipe out: load, encode, train, export. What `steersman train` does, and what a notebook calls.

Leaves out: the command line (`cli`), what a recipe may say (`recipes.training`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steersman.core.config import dump
from steersman.core.errors import UserError
from steersman.core.types import Pairs
from steersman.language.encode import Encoded, encode_completions, encode_pairs
from steersman.language.load import check_same_vocabulary, context_length, load_model, load_tokenizer, save_model
from steersman.language.records import Records, read_completions, read_pairs, read_rated
from steersman.language.precision import set_precision
from steersman.objective.components import KTO
from steersman.recipes.flips import settle_flip_rate
from steersman.recipes.training import PreferenceRecipe, Recipe, RewardRecipe, Runtime, SftRecipe
from steersman.reward.model import build_reward_model, quality_report, save_reward_model, score_rows
from steersman.store.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from steersman.store.files import content_hash, digest, write_json
from steersman.store.provenance import made_by
from steersman.store.run import RunDir, writable
from steersman.train.fit import Budget, Fitted, Habits, Learner, Watch, fit
from steersman.train.lora import add_lora
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.preference import PreferenceLearner, summed_logp
from steersman.train.reward_model import RewardLearner
from steersman.train.sft import SftLearner
from steersman.train.unpaired import UnpairedLearner, mismatched

Say = Callable[[str], None]
"""Called with one line about what is being done."""


@dataclass(frozen=True, slots=True)
class Data:
    """Encoded training and held-out rows, and lines about what was dropped or cut."""

    train: Encoded[Any, Any]
    held_out: Encoded[Any, Any] | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished job: where it wrote, how training ended, and what was measured."""

    folder: Path
    fitted: Fitted | None
    result: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())


def identity(recipe: Recipe) -> dict[str, Any]:
    """What defines the result: the recipe with contents instead of paths."""
    values = dump(recipe)
    values["model"] |= {
        k: content_hash(Path(values["model"][k])) for k in ("path", "reference") if values["model"].get(k)
    }
    values["data"] |= {
        k: content_hash(Path(values["data"][k])) for k in ("train", "evaluation") if values["data"].get(k)
    }
    return values


def output_folder(recipe: Recipe, runtime: Runtime) -> Path:
    """Where a job writes: the folder asked for, or one named after its identity."""
    return Path(runtime.out) if runtime.out else Path("runs") / f"{recipe.verb}-{digest(identity(recipe), 10)}"


def read_data(recipe: Recipe, tokenizer: Any, context: int | None) -> Data:
    """Read and encode the recipe's files.

    Raises:
        UserError: names file, line and cause.
    """
    notes: list[str] = []
    found = []
    for name in (recipe.data.train, recipe.data.evaluation):
        found.append(_encode(recipe, Path(name), tokenizer, context, notes) if name else None)
    train, held_out = found
    assert train is not None
    return Data(train, held_out, tuple(notes))


def _encode(recipe: Recipe, path: Path, tokenizer: Any, context: int | None, notes: list[str]) -> Encoded[Any, Any]:
    settings: Any = {"truncation": recipe.data.truncation, "context": context, "where": path}
    records: Records[Any]
    if isinstance(recipe, SftRecipe):
        records = read_completions(path)
        encoded: Encoded[Any, Any] = encode_completions(records.rows, tokenizer, **settings)
    elif isinstance(recipe, PreferenceRecipe) and isinstance(recipe.loss, KTO):
        records = read_rated(path)
        encoded = encode_completions(records.rows, tokenizer, **settings)
    else:
        records = read_pairs(path)
        encoded = encode_pairs(records.rows, tokenizer, **settings)
    notes.extend(_remarks(path, records, encoded))
    return encoded


def _remarks(path: Path, records: Records[Any], encoded: Encoded[Any, Any]) -> list[str]:
    """One line for everything that was dropped, cut or odd."""
    report = encoded.report
    counts = {
        "pairs with identical sides dropped": len(records.identical) + report.dropped_identical,
        "too long, dropped": report.dropped_long,
        "prompts cut on the left": report.truncated_prompt,
        "responses cut on the right": report.truncated_completion,
        "ties (label 0.5)": records.ties,
        "responses with an end-of-sequence token inside": report.inner_end,
    }
    lines = [f"{path.name}: {report.rows_out} rows, {report.tokens} tokens, longest {report.longest}"]
    return lines + [f"{path.name}: {n} {what}" for what, n in counts.items() if n]


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
    say(f"loading {recipe.model.path}")
    tokenizer = load_tokenizer(recipe.model.path)
    model = _load(recipe, device)
    data = read_data(recipe, tokenizer, context_length(model.config))
    for note in data.notes:
        say(note)
    run.start({**known, "made_by": made_by()})
    _note_paths(run, recipe)
    job = _Job(recipe, runtime, run, model, tokenizer, data, device, say)
    learner = job.learner()
    budget, habits = recipe.budget, Habits(**{k: getattr(runtime, k) for k in _HABITS})
    fitted = fit(learner, budget, run, habits, watch=watch, resume=resume)
    result = job.export(learner, fitted)
    run.finish(result, {"seconds": fitted.seconds, "tokens": fitted.tokens})
    return Outcome(run.path, fitted, result, data.notes)


_HABITS = ("log_every", "evaluate_every", "checkpoint_every", "keep")


def _note_paths(run: RunDir, recipe: Recipe) -> None:
    """The recipe with its paths, so that ``--resume FOLDER`` needs nothing else; no part of the identity."""
    write_json(run.path / "recipe.json", _with_paths(recipe, lambda path: str(path.resolve())))


def _with_paths(recipe: Recipe, change: Callable[[Path], str]) -> dict[str, Any]:
    """The resolved recipe with every path replaced by what `change` makes of it."""
    values = dump(recipe)
    for table, names in (("model", ("path", "reference")), ("data", ("train", "evaluation"))):
        values[table] |= {k: change(Path(values[table][k])) for k in names if values[table].get(k)}
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


def _load(recipe: Recipe, device: torch.device) -> Any:
    spec, seed = recipe.model, recipe.budget.seed
    if isinstance(recipe, RewardRecipe):
        model: Any = build_reward_model(Path(spec.path), seed).to(device)
    else:
        model = load_model(spec.path, device=device)
    if spec.lora is not None:
        model = add_lora(model, spec.lora.rank, spec.lora.alpha, spec.lora.targets, seed)
    if spec.activation_checkpointing:
        model.gradient_checkpointing_enable()
    set_precision(model, spec.precision)
    return model


class _Job:
    """The pieces of one job, between loading and export."""

    def __init__(
        self,
        recipe: Recipe,
        runtime: Runtime,
        run: RunDir,
        model: Any,
        tokenizer: Any,
        data: Data,
        device: torch.device,
        say: Say,
    ) -> None:
        self.recipe, self.runtime, self.run = recipe, runtime, run
        self.model, self.tokenizer, self.data, self.device, self.say = model, tokenizer, data, device, say
        self.flips: dict[str, Any] | None = None

    def _optimiser(self, optim: AdamW, budget: Budget) -> Optimiser:
        return Optimiser(self.model.named_parameters(), optim, budget.total(len(self.data.train.data)))

    def learner(self) -> Learner:
        """The learner of the recipe's verb, at its starting point."""
        recipe, data, micro = self.recipe, self.data, self.runtime.micro_tokens
        train = data.train.data.to(self.device)
        held_out = data.held_out.data.to(self.device) if data.held_out else None
        if isinstance(recipe, SftRecipe):
            if recipe.loss.prompt:
                train = _learn_prompt(train)
            optimiser = self._optimiser(recipe.optim, recipe.budget)
            return SftLearner(self.model, train, optimiser, micro, reduce=recipe.loss.reduce, held_out=held_out)
        if isinstance(recipe, RewardRecipe):
            margin = data.train.column("margin", 0.0).to(self.device)
            optimiser = self._optimiser(recipe.optim, recipe.budget)
            return RewardLearner(self.model, train, self._reward_loss(recipe), optimiser, micro, held_out, margin)
        if isinstance(recipe.loss, KTO):
            return self._unpaired(recipe, recipe.loss, train, held_out)
        return self._preference(recipe, train, held_out)

    def _reward_loss(self, recipe: RewardRecipe) -> Any:
        if recipe.loss.flip_rate == "auto":
            raise UserError(
                '"auto" estimates from a preference policy\'s margins',
                where="loss.flip_rate",
                allowed="a number in [0, 0.5)",
                cure="Estimate it with: steersman train preference --loss rdpo --flip-rate auto",
            )
        return recipe.loss

    def _preference(self, recipe: PreferenceRecipe, train: Pairs, held_out: Pairs | None) -> PreferenceLearner:
        reference = self._reference({"first": train.first, "second": train.second}, "train", recipe.logp)
        sides = {"first": held_out.first, "second": held_out.second} if held_out else {}
        held_reference = self._reference(sides, "held_out", recipe.logp) if held_out else None
        rates = self.data.train.column("flip_rate")
        flip_rate = rates.to(self.device) if bool(torch.isfinite(rates).all()) else None
        if flip_rate is None and bool(torch.isfinite(rates).any()):
            row = self.data.train.rows[int(torch.isnan(rates).nonzero()[0, 0])]
            where = f"{recipe.data.train}, line {row.line}"
            raise UserError("flip_rate is missing while other rows have one", where=where)
        known: Any = {"logp": recipe.logp, "held_out": held_out, "flip_rate": flip_rate}
        known["held_out_reference"] = (held_reference["first"], held_reference["second"]) if held_reference else None

        def build(loss: Any) -> PreferenceLearner:
            optimiser = self._optimiser(recipe.optim, recipe.budget)
            both = reference["first"], reference["second"]
            return PreferenceLearner(self.model, train, both, loss, optimiser, self.runtime.micro_tokens, **known)

        loss: Any = recipe.loss
        if getattr(loss, "flip_rate", None) == "auto" and flip_rate is None:
            loss, self.flips = settle_flip_rate(self.model, loss, build, recipe.budget, self.run, self.say)
        return build(loss)

    def _unpaired(self, recipe: PreferenceRecipe, loss: KTO, train: Any, held_out: Any) -> UnpairedLearner:
        liked = self.data.train.column("desirable").bool().to(self.device)
        other = mismatched(self.data.train.data).to(self.device)
        reference = self._reference({"rows": train, "other": other}, "train", "sum")
        watched = None
        if held_out is not None and self.data.held_out is not None:
            judged = self.data.held_out.column("desirable").bool().to(self.device)
            watched = held_out, judged, self._reference({"rows": held_out}, "held_out", "sum")["rows"]
        optimiser = self._optimiser(recipe.optim, recipe.budget)
        micro = self.runtime.micro_tokens
        scored = reference["rows"], other, reference["other"]
        return UnpairedLearner(self.model, train, liked, *scored, loss, optimiser, micro, watched)

    def _reference(self, sides: Mapping[str, Any], name: str, logp: Any) -> dict[str, Tensor]:
        """Reference log-probs of `sides`, computed once and kept with the run."""
        root = self.run.path / "reference" / name
        if (known := latest_checkpoint(root)) is not None:
            return {k: x.to(self.device) for k, x in load_checkpoint(known)[1].items()}
        self.say(f"reference log-probs of {sum(len(s) for s in sides.values())} responses")
        spec = self.recipe.model
        reference = self.model
        if spec.reference is not None:
            reference = load_model(spec.reference, device=self.device)
            check_same_vocabulary(self.tokenizer, load_tokenizer(spec.reference))
            set_precision(reference, spec.precision)
        found = {k: summed_logp(reference, s, self.runtime.micro_tokens, logp) for k, s in sides.items()}
        save_checkpoint(root, 0, found)
        return found

    def export(self, learner: Learner, fitted: Fitted) -> dict[str, Any]:
        """Write the trained model and return what was measured."""
        result: dict[str, Any] = {
            "verb": self.recipe.verb,
            "steps": fitted.steps,
            "reason": fitted.reason,
            "tokens": fitted.tokens,
            "evaluation": dict(fitted.evaluation),
            "best_step": fitted.best_step,
        }
        if self.flips is not None:
            result["flip_rate"] = self.flips
        lora = self.recipe.model.lora
        if isinstance(self.recipe, RewardRecipe):
            held_out = self.data.held_out or self.data.train
            result["report"] = self._reward_report(held_out.data.to(self.device))
            result["report_on"] = "held-out pairs" if self.data.held_out else "training pairs (no held-out file)"
            save_reward_model(self.model, self.tokenizer, self.run.path / "model", result["report"])
        else:
            keep = "merge" if lora is None or lora.merge else "separate"
            save_model(self.model, self.tokenizer, self.run.path / "model", adapter=keep)
        return result

    def _reward_report(self, pairs: Pairs) -> dict[str, Any]:
        micro = self.runtime.micro_tokens
        first, second = (score_rows(self.model, side, micro).cpu() for side in (pairs.first, pairs.second))
        lengths = [side.action.sum(1).cpu() for side in (pairs.first, pairs.second)]
        return quality_report(first, second, pairs.label.cpu(), lengths[0], lengths[1])


def _learn_prompt(data: Any) -> Any:
    """Every token but a row's first becomes an action; the first has nothing that predicts it."""
    from dataclasses import replace

    position = torch.arange(data.ids.shape[1], device=data.ids.device)
    action = (position >= 1) & (position < data.length[:, None])
    return replace(data, prompt_length=torch.ones_like(data.prompt_length), action=action)
