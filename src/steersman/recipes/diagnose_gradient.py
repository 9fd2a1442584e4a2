"""Measure the gradients that advantage estimators give at a policy's weights: `steersman diagnose gradient`.

Nothing is trained. All estimators have one objective, the mean over responses of the sum of A log p, so that they
differ in their advantages and in what they drop or weigh; estimators on batches of one shape see the same rollouts.
Stages that remember something have seen the first batches of a run, and the same ones for every batch measured. What
can be refused is refused before anything is sampled. Leaves out: the figures (`assure.diagnose.gradient`), gradients
(`train.gradients`), the command line (`cli.diagnose`).
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from steersman.assure.diagnose.gradient import GradientDiagnosis, Shape, as_json, diagnose_gradients
from steersman.assure.diagnose.gradient_page import page
from steersman.core.component import Moment, Stage
from steersman.core.config import Source, validate
from steersman.core.errors import UserError
from steersman.objective.components import Aggregation
from steersman.objective.components_advantage import RLOO, Baseline, UniformCredit
from steersman.objective.components_policy import Reinforce
from steersman.page.html import Html
from steersman.recipes.diagnose_policy import GradedQuestion, Opened, Say, check_policy, graded_task, longest, opened
from steersman.recipes.evaluate_task import GYM, Asked
from steersman.recipes.presets import COMBINED, PRESETS
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_checks import check_method
from steersman.recipes.rl_parts import stages_of
from steersman.task.chain_sum import ChainSum
from steersman.train.engine.work import MOST_SAMPLES
from steersman.train.gradients import WIDTH, gradients, sketched, taught
from steersman.train.terms import policy_term

DEFAULT = ("grpo", "rloo", "poise")
SHAPES = ("16x4",)
EXAMPLE = 'half=[{kind="baseline",value=0.5},"uniform"]'
OBJECTIVE: dict[str, Any] = {"loss": {"kind": "reinforce"}, "aggregate": {"mode": "seq_mean_token_sum"}}
TERMS = (policy_term(Reinforce(), Aggregation(mode="seq_mean_token_sum")),)
TOTAL = 10**6
"""Optimiser steps of the run of which stages are told to see the beginning."""
LEAST = 3
"""Batches without which nothing has an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientQuestion(GradedQuestion):
    """What is looked at; `samples` is that of `shapes`.

    Args:
        estimators: presets of `steersman train rl`, or ``NAME=STAGES`` with stages as a recipe writes them.
        shapes: prompts and responses of each, ``16x4``.
        batches: that are measured of each shape, >= 3.
        reference_batches: of the first shape, whose mean gradient the others are held against, >= 3.
        warmup: batches of each shape that stages with a memory have seen before.
    """

    estimators: tuple[str, ...] = DEFAULT
    shapes: tuple[str, ...] = SHAPES
    batches: int = 32
    reference_batches: int = 64
    warmup: int = 4


@dataclass(frozen=True, slots=True)
class GradientAnswer:
    """The figures as JSON values, the page, and the diagnosis itself."""

    summary: dict[str, Any]
    page: Html
    found: GradientDiagnosis


def diagnose_gradient(asked: GradientQuestion, say: Say = lambda line: None) -> GradientAnswer:
    """Draw, grade, differentiate, compare.

    Raises:
        UserError: a folder, a task, an estimator or a number that cannot be used, before anything is sampled; rewards
            that give no gradient.
    """
    shapes = _checked(asked)
    given = graded_task(asked)
    made = {shape: _estimators(asked, given, shape, say) for shape in shapes}
    with opened(asked, given, say, itself=True) as at:
        work = (asked.warmup + asked.batches) * len(shapes)
        say(f"drawing {work:,} batches of responses of at most {at.drawing.max_new_tokens:,} tokens")
        seen = {shape: _measured(asked, at, shape, stages) for shape, stages in made.items()}
        say(f"drawing {asked.reference_batches:,} batches for the reference")
        found = diagnose_gradients(seen, _reference(asked, at, shapes[0]))
        parameters = sum(p.numel() for p in at.engine.policy.parameters() if p.requires_grad)
        about = {"model": str(asked.model), "task": asked.task, "seed": asked.seed, "warmup": asked.warmup}
        about |= {"parameters": parameters, "kept": min(parameters, WIDTH), "temperature": asked.temperature}
        summary = about | as_json(found)
        return GradientAnswer(summary, page(found, _facts(asked, summary)), found)


def _checked(asked: GradientQuestion) -> list[Shape]:
    """The shapes of batches, after all numbers were looked at."""
    check_policy(asked)
    for name in ("batches", "reference_batches"):
        if getattr(asked, name) < LEAST:
            where = f"--{name.replace('_', '-')}"
            raise UserError(f"is {getattr(asked, name)}", where=where, allowed=f"{LEAST} or more")
    if asked.warmup < 0:
        raise UserError(f"is {asked.warmup}", where="--warmup", allowed="0 or more")
    if not asked.estimators or not asked.shapes:
        raise UserError("nothing to compare", where="--estimator" if asked.shapes else "--batch")
    return [_shape(text) for text in dict.fromkeys(asked.shapes)]


def _shape(text: str) -> Shape:
    found = re.fullmatch(r"(\d{1,9})\s*[xX]\s*(\d{1,9})", text.strip())
    if found is None or min(shape := [int(x) for x in found.groups()]) < 1 or shape[1] > MOST_SAMPLES:
        allowed = f"PROMPTSxRESPONSES, e.g. 16x4, at most {MOST_SAMPLES:,} responses"
        raise UserError(f"is {text!r}", where="--batch", allowed=allowed)
    return Shape(*shape)


def _estimators(asked: GradientQuestion, given: Asked, shape: Shape, say: Say) -> dict[str, tuple[Stage, ...]]:
    """Name -> stages of its own."""
    found: dict[str, tuple[Stage, ...]] = {}
    for text in asked.estimators:
        name, values = _written(text)
        if name in found:
            cure = "Give one of them another name: NAME=STAGES."
            raise UserError(f"{name} comes twice", where="--estimator", cure=cure)
        where = f"--estimator {name}"
        fixed = {"model": {"path": str(asked.model)}, **OBJECTIVE, **_task(asked, given)}
        drawn = {"samples": shape.samples, "max_new_tokens": longest(asked, given), "minibatches": 1, "epochs": 1}
        source = Source({**values, **fixed, "rollout": drawn}, {}, where)
        recipe = validate(RLRecipe, source, asked.allow_import)
        if recipe.critic is not None:
            raise UserError("needs a critic, of which there is none yet to be measured", where=where)
        try:
            notes = check_method(recipe)
        except UserError as error:
            place = f"{where} on {shape}, {error.where}"
            cure = _here(error.cure, shape)
            raise UserError(error.what, where=place, allowed=error.allowed, cure=cure) from None
        for note in notes:
            say(f"{name} on {shape}: {note}")
        found[name] = stages_of(recipe)
    return found


def _here(cure: str, shape: Shape) -> str:
    """A recipe's advice on `rollout.samples` as an option of this verb."""
    more = f"--batch {shape.prompts}x{max(shape.samples, 2)}"
    return re.sub(r"(Set|Raise) rollout\.samples( = \d+)?( or more)?", f"Ask for {more}", cure)


def _written(text: str) -> tuple[str, dict[str, Any]]:
    """The name of an estimator, and the keys of a recipe that say what it is."""
    name, written, stages = (x.strip() for x in text.partition("="))
    known = [*PRESETS, *COMBINED]
    if not written:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            cure = f"Did you mean {near[0]}?" if near else f"Or stages of your own: {EXAMPLE}"
            raise UserError(f"{name!r} is not known", where="--estimator", allowed=", ".join(known), cure=cure)
        return name, {"preset": name}
    try:
        return name, tomllib.loads(f"stages = {stages}")
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"stages cannot be read: {error}", where=f"--estimator {name}", allowed=EXAMPLE) from None


def _task(asked: GradientQuestion, given: Asked) -> dict[str, Any]:
    """The task and its grader as a recipe writes them."""
    if isinstance(given.task, ChainSum):
        return {"task": given.task.model_dump(mode="json", exclude_none=True)}
    gym = asked.task.startswith(GYM)
    files = {"kind": "reasoning_gym", "name": asked.task.removeprefix(GYM)} if gym else {"train": asked.task}
    assert given.reward is not None
    return {"task": {**files, "chat": asked.chat}, "reward": given.reward.model_dump(mode="json", exclude_none=True)}


def _measured(
    asked: GradientQuestion, at: Opened, shape: Shape, estimators: Mapping[str, Sequence[Stage]]
) -> dict[str, Tensor]:
    """A gradient a batch of every estimator."""
    common = at.engine, at.world, replace(at.drawing, samples=shape.samples), shape.prompts
    ready = taught(*common, estimators, asked.warmup, asked.seed, TOTAL)
    now = Moment(asked.seed, asked.warmup, TOTAL)
    return gradients(*common, ready, TERMS, asked.batches, asked.seed, first=asked.warmup, told=now, keep=sketched)


def _reference(asked: GradientQuestion, at: Opened, shape: Shape) -> Tensor:
    """Gradients without bias, of prompts and noise of their own."""
    alone = shape.samples < 2
    stages = [Baseline(value=0.0) if alone else RLOO(), UniformCredit()]
    common = at.engine, at.world, replace(at.drawing, samples=shape.samples), shape.prompts
    batches = asked.reference_batches
    return gradients(*common, {"": lambda: stages}, TERMS, batches, asked.seed + 1, keep=sketched)[""]


def _facts(asked: GradientQuestion, summary: dict[str, Any]) -> dict[str, str]:
    size = f"{summary['parameters']:,} parameters"
    if summary["kept"] < summary["parameters"]:
        size += f", projected on {summary['kept']:,} numbers"
    return {
        "policy": f"{summary['model']} ({size})",
        "prompts": str(summary["task"]),
        "batches": f"{summary['batches']:,} of each shape, {', '.join(asked.shapes)}, after {asked.warmup} that stages "
        "with a memory have seen",
        "objective": "mean over responses of the sum of A log p over tokens, the same for all",
        "reference": f"{summary['reference_batches']:,} other batches with the leave-one-out baseline (of single "
        "responses: none)",
    }
