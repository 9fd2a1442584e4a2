"""From the tables `task` and `reward` to prompts and a grader; what cannot be graded or answered is refused here.

Leaves out: the worlds (`task.worlds`), graders (`reward`), training (`recipes.rl_job`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from steersman.core.errors import UserError
from steersman.language.hints import check_answer
from steersman.language.load import check_same_vocabulary, load_tokenizer
from steersman.objective.credit.references import right_answers
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_tasks import (
    ChainSumPrompts,
    GymQuestions,
    ModelReward,
    PlantedPrompts,
    QuestionFiles,
    TinyCodePrompts,
)
from steersman.recipes.teachers import SelfTeacher
from steersman.reward.code_grader import grader_of
from steersman.reward.model import RewardModel, build_reward_model, load_reward_model
from steersman.reward.sandbox import Sandbox
from steersman.reward.verifiable import Grader, Row, Verifiable
from steersman.store.files import read_json
from steersman.task import chain_sum, planted, tiny_code_language
from steersman.task.planted_world import PlantedWorld
from steersman.task.prompts import QuestionFile, Questions, ReasoningGymQuestions, read_questions
from steersman.task.tiny_code_world import TinyCodeWorld
from steersman.task.world import World
from steersman.task.worlds import ChainSumWorld, TextWorld


def make_world(
    recipe: RLRecipe,
    tokenizer: Any,
    context: int | None,
    *,
    allow_import: Sequence[str] = (),
    device: torch.device | None = None,
    micro_tokens: int = 4096,
) -> tuple[World, int | None, list[str]]:
    """The recipe's prompts and grader.

    Args:
        recipe: with its task and reward.
        tokenizer: the policy's.
        context: most tokens the policy accepts; None = no limit.
        allow_import: packages of the user's own functions.
        device: of a reward model.
        micro_tokens: tokens of one of its forward passes.

    Returns:
        The world; the number of training prompts, None where they never run out; lines about the prompts.

    Raises:
        UserError: a file or package that is not there or is broken, prompts that are too long or cannot be graded, a
            vocabulary that is not the policy's.
    """
    task = recipe.task
    if isinstance(task, ChainSumPrompts):
        return _chain_sum(recipe, task, tokenizer, context), None, ["chain_sum: prompts are made as they are needed"]
    if isinstance(task, PlantedPrompts):
        _check_tokens("planted", planted.TOKENS, tokenizer)
        _check_room(planted.PROMPT, task.max_response, recipe, context)
        return PlantedWorld(task, task.evaluation), None, ["planted: prompts are made as they are needed"]
    device = device or torch.device("cpu")
    if isinstance(task, TinyCodePrompts):
        world = _tiny_code(recipe, task, tokenizer, context, device, micro_tokens)
        return world, None, ["tiny_code: prompts are made as they are needed"]
    train, held_out = _questions(recipe)
    grader = _grader(recipe, tokenizer, allow_import, device, micro_tokens)
    texts = TextWorld(
        train,
        tokenizer,
        grader,
        held_out=held_out,
        chat=task.chat,
        context=context,
        max_new_tokens=recipe.rollout.max_new_tokens,
    )
    shown = [q.row for q in train.rows] if isinstance(train, QuestionFile) else []
    if isinstance(task, GymQuestions):  # made when drawn: what is wrong with the first ones is said now
        shown = list(texts.draw(recipe.budget.batch, recipe.budget.seed, 0).rows)
        texts.held_out(recipe.evaluation.prompts)
    _check_shown(recipe, shown, tokenizer)
    if isinstance(grader, Grader):
        grader.start()
    notes = [f"{len(train):,} prompts, {'no' if held_out is None else f'{len(held_out):,}'} held-out ones"]
    if texts.leaked:
        notes.append(f"warning: {texts.leaked:,} held-out prompts are training prompts too")
    return texts, len(train), notes


def _chain_sum(recipe: RLRecipe, task: ChainSumPrompts, tokenizer: Any, context: int | None) -> World:
    _check_tokens("chain_sum", chain_sum.TOKENS, tokenizer)
    _check_room(task.longest + 1, task.max_response, recipe, context)
    return ChainSumWorld(task, task.evaluation)


def _tiny_code(
    recipe: RLRecipe, task: TinyCodePrompts, tokenizer: Any, context: int | None, device: torch.device, micro: int
) -> World:
    _check_tokens("tiny_code", tiny_code_language.TOKENS, tokenizer)
    _check_room(task.max_prompt, task.max_response, recipe, context)
    reward = recipe.reward
    model = _reward_model(reward, tokenizer, device, micro) if isinstance(reward, ModelReward) else None
    sandbox = None if task.sandbox == "none" else Sandbox(task.sandbox)
    purposes = task.purpose, task.evaluation_purpose
    return TinyCodeWorld(task, task.evaluation, *purposes, sandbox=sandbox, model=model)


def _check_tokens(name: str, tokens: Sequence[str], tokenizer: Any) -> None:
    if tuple(tokenizer.convert_ids_to_tokens(list(range(len(tokens))))) != tuple(tokens):
        cure = f"Give a model that was trained on {name}; docs/rl.md says how to make one."
        raise UserError(f"the model's tokens are not those of {name}", where="task", cure=cure)


def _check_room(longest: int, enough: int, recipe: RLRecipe, context: int | None) -> None:
    """Prompts of up to `longest` tokens and the responses allowed fit the policy's context."""
    most = longest + recipe.rollout.max_new_tokens
    if context is not None and most > context:
        what = f"prompts and responses have up to {most} tokens, more than the model's context of {context}"
        raise UserError(what, where="rollout.max_new_tokens", cure=f"{enough} are enough for this task.")


def _questions(recipe: RLRecipe) -> tuple[Questions, Questions | None]:
    """Training prompts and held-out prompts."""
    task, reward = recipe.task, recipe.reward
    if isinstance(task, GymQuestions):
        return ReasoningGymQuestions(task), ReasoningGymQuestions(task.held_out()) if task.evaluation else None
    assert isinstance(task, QuestionFiles)
    answers = isinstance(reward, Verifiable) and reward.compare.kind != "reasoning_gym"
    train, held_out = (None if f is None else read_questions(Path(f), answers) for f in (task.train, task.evaluation))
    assert isinstance(train, QuestionFile)
    return train, held_out


def _check_shown(recipe: RLRecipe, rows: Sequence[Row], tokenizer: Any) -> None:
    """Refuse prompts without what a stage's passes show of them, or whose tokens cannot say it."""
    shown = [c for s in recipe.stages for c in s.columns]
    shown += recipe.teacher.columns if isinstance(recipe.teacher, SelfTeacher) else ()
    for column in dict.fromkeys(shown):
        for row, answer in zip(rows, right_answers(rows, column), strict=True):
            check_answer(answer, tokenizer, str(row["id"]))


def _grader(
    recipe: RLRecipe, tokenizer: Any, allow_import: Sequence[str], device: torch.device, micro_tokens: int
) -> Any:
    reward = recipe.reward
    if isinstance(reward, ModelReward):
        return _reward_model(reward, tokenizer, device, micro_tokens)
    return None if reward is None else grader_of(reward, allow_import)


def _reward_model(spec: ModelReward, tokenizer: Any, device: torch.device, micro_tokens: int) -> RewardModel:
    folder = Path(spec.path)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not any("SequenceClassification" in str(a) for a in config.get("architectures") or []):
        cure = "Train one with: steersman train reward"
        raise UserError("is no folder of a reward model", where=f"reward.path ({folder})", cure=cure)
    _same_tokens(tokenizer, load_tokenizer(folder), f"reward.path ({folder})")
    if not spec.normalise:
        found = RewardModel(build_reward_model(folder, 0), micro_tokens)
    elif (folder / "reward.json").is_file():
        found = load_reward_model(folder, micro_tokens)
    else:
        cure = "Set reward.normalise = false."
        raise UserError("has no reward.json with the mean and spread of rewards", where=str(folder), cure=cure)
    found.model.to(device)
    return found


def _same_tokens(policy: Any, other: Any, where: str) -> None:
    """Tokens of the policy mean the same to the other model, which may have more (a pad token of its own)."""
    known = other.get_vocab()
    if any(known.get(token) != i for token, i in policy.get_vocab().items()):
        check_same_vocabulary(policy, other, where=where)
