"""From the table `teacher` to what an engine takes; what cannot teach the policy is refused before weights are read.

Leaves out: what the table may say (`recipes.teachers`), the engine's own check (`train.engine.teacher`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steersman.core.config import import_object
from steersman.core.errors import UserError
from steersman.language.load import (
    check_folder,
    check_same_vocabulary,
    context_length,
    load_model,
    load_tokenizer,
    vocabulary,
)
from steersman.language.precision import set_precision
from steersman.recipes.jobs import load_trained
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_parts import copied_every
from steersman.recipes.rl_tasks import PlantedPrompts
from steersman.recipes.teachers import ModelTeacher, OwnTeacher, SelfTeacher, TaskTeacher
from steersman.store.checkpoint import load_checkpoint
from steersman.store.files import read_json
from steersman.task.planted import PlantedTeacher
from steersman.train.engine.teacher import check_vocabulary
from steersman.train.parameters import load_trainable_state


@dataclass(frozen=True, slots=True)
class Found:
    """Where a model is: its folder, and a checkpoint whose weights replace those in it."""

    folder: Path
    checkpoint: Path | None = None


@dataclass(frozen=True, slots=True)
class TeacherReady:
    """A teacher that nothing but its weights can stop.

    Args:
        known: an analytic policy.
        found: where its model is.
        shared: ids that it has in common with the policy where their spare rows differ.
        context: most tokens of a row that its model accepts.
    """

    known: Any = None
    found: Found | None = None
    shared: int | None = None
    context: int | None = None


NOBODY = TeacherReady()


def smallest(first: int | None, second: int | None) -> int | None:
    """The smaller of two limits; None = no limit."""
    known = [x for x in (first, second) if x is not None]
    return min(known) if known else None


def find_model(path: str, where: str) -> Found:
    """The folder of a model, of a finished run, or of a checkpoint of a run.

    Raises:
        UserError: it is none of them; a checkpoint of adapters alone.
    """
    folder = Path(path)
    if (folder / "manifest.json").is_file() and (folder.parent.parent / "recipe.json").is_file():
        model = read_json(folder.parent.parent / "recipe.json")["model"]
        if model.get("lora") is not None:
            cure = "Give the folder of the run once it is finished."
            raise UserError("is a checkpoint of adapters, not of a whole model", where=f"{where} ({path})", cure=cure)
        return Found(Path(model["path"]), folder)
    if (folder / "recipe.json").is_file() and (folder / "model").is_dir():
        return Found(folder / "model")
    return Found(folder)


def prepare_teacher(recipe: RLRecipe, tokenizer: Any, config: Any, allow_import: Sequence[str]) -> TeacherReady:
    """Check the teacher of a recipe; reads no weights.

    Raises:
        UserError: no such model, another vocabulary than the policy's, a shorter context than is needed, an object
            that is no analytic policy, a task without a teacher.
    """
    spec, rows = recipe.teacher, config.get_text_config().vocab_size
    if isinstance(spec, ModelTeacher):
        return prepare_model(spec, tokenizer, rows)
    if isinstance(spec, TaskTeacher):
        if not isinstance(recipe.task, PlantedPrompts):
            what = f"the task {recipe.task.kind} has no teacher of its own"
            raise UserError(what, where="teacher.kind", cure='Give a model: teacher = { path = "..." }')
        return TeacherReady(PlantedTeacher(recipe.task))
    if isinstance(spec, OwnTeacher):
        found = import_object(spec.object, allow_import, "teacher.object")
        known = found() if isinstance(found, type) else found
        check_vocabulary(rows, known, None)
        return TeacherReady(known)
    return TeacherReady()


def prepare_model(spec: ModelTeacher, tokenizer: Any, rows: int, key: str = "teacher.path") -> TeacherReady:
    """Check another model as a teacher; reads no weights.

    Args:
        spec: where it is.
        tokenizer: the policy's.
        rows: of the policy's vocabulary.
        key: what messages call its place.

    Raises:
        UserError: no such model, another vocabulary than the policy's.
    """
    where = f"{key} ({spec.path})"
    found = find_model(spec.path, key)
    own = check_folder(found.folder)
    check_same_vocabulary(tokenizer, load_tokenizer(found.folder), where=where, other="teacher")
    text = own.get("text_config") or own
    shared = None if text["vocab_size"] == rows else vocabulary(tokenizer)
    return TeacherReady(found=found, shared=shared, context=_context(found.folder))


def _context(folder: Path) -> int | None:
    from transformers import AutoConfig

    return context_length(AutoConfig.from_pretrained(folder, local_files_only=True))


def teacher_options(recipe: RLRecipe, ready: TeacherReady, device: torch.device) -> dict[str, Any]:
    """The options of an engine that give it the recipe's teacher; loads its weights."""
    spec, every = recipe.teacher, copied_every(recipe)
    if every is not None:
        model = load_trained(recipe, device).requires_grad_(False)
        return {"teacher": model, "teacher_rate": 1.0, "teacher_every": every}
    if ready.known is not None:
        return {"teacher": ready.known}
    if isinstance(spec, SelfTeacher) and spec.version == "average":
        model = load_trained(recipe, device).requires_grad_(False)
        return {"teacher": model, "teacher_rate": spec.rate, "teacher_every": spec.every}
    if isinstance(spec, SelfTeacher) and spec.version == "mixture":
        model = load_model(recipe.model.reference or recipe.model.path, device=device).requires_grad_(False)
        set_precision(model, recipe.model.precision)
        return {"teacher": model, "teacher_mix": spec.rate}
    if ready.found is None:
        return {}
    model = load_found(ready.found, device)
    set_precision(model, recipe.model.precision)
    return {"teacher": model, "shared_vocabulary": ready.shared}


def load_found(found: Found, device: torch.device, dtype: str = "float32") -> Any:
    """A model as it was found, frozen."""
    model: Any = load_model(found.folder, device=device, dtype=dtype)
    if found.checkpoint is not None:
        load_trainable_state(model, _weights(found.checkpoint))
    return model.requires_grad_(False)


def _weights(checkpoint: Path) -> dict[str, Any]:
    """The policy's parameters in a checkpoint of any verb."""
    learner = load_checkpoint(checkpoint)[1]["learner"]
    weights: dict[str, Any] = learner["engine"]["models"]["policy"] if "engine" in learner else learner["model"]
    return weights
