"""What `steersman evaluate` can be asked about: where prompts come from, what grades responses, and the policy's world.

Leaves out: sampling and measuring (`evaluate`), grading itself (`reward`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from steersman.core.component import Component
from steersman.core.config import read, validate
from steersman.core.errors import UserError
from steersman.reward.verifiable import Grader, ReasoningGym, Reward, RewardFunction, Verifiable
from steersman.task import chain_sum
from steersman.task.chain_sum import ChainSum
from steersman.task.prompts import (
    Question,
    QuestionFile,
    Questions,
    ReasoningGymQuestions,
    ReasoningGymTask,
    read_questions,
)
from steersman.task.world import World
from steersman.task.worlds import ChainSumWorld, TextWorld

MADE = 200
"""Prompts of a task that makes its own, unless another number is asked for."""
GYM = "reasoning_gym:"
ALLOWED = "a JSON Lines file of prompts, reasoning_gym:NAME, or chain_sum"


class PromptFile(Component):
    """Prompts of the user's own."""

    kind: Literal["file"] = "file"
    path: str = Field(description="JSONL file of prompt and answer")


class EvaluationTask(Component):
    """Prompts, and what grades the responses to them; chain_sum grades itself."""

    kind: Literal["evaluation"] = "evaluation"
    task: Annotated[PromptFile | ReasoningGymTask | ChainSum, Field(discriminator="kind")]
    reward: Reward | None = Field(None, description="absent = nothing is graded, or the task grades itself")


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompts ready to be answered.

    Args:
        name: of the prompts, for people.
        task: where they come from.
        reward: what grades; None = chain_sum grades itself, or nothing is graded.
        questions: the prompts; None for chain_sum, which makes token ids.
        size: number of prompts.
        chat: whether a text prompt is a user's turn.
        allow_import: packages of the user's own functions.
    """

    name: str
    task: PromptFile | ReasoningGymTask | ChainSum
    reward: Verifiable | RewardFunction | None
    questions: Questions | None
    size: int
    chat: bool = False
    allow_import: tuple[str, ...] = ()

    @property
    def graded(self) -> bool:
        """Whether responses are graded by the task."""
        return self.questions is None or self.reward is not None

    @property
    def turns(self) -> bool:
        """Whether prompts are conversations, or become such."""
        rows = self.questions.rows if isinstance(self.questions, QuestionFile) else ()
        return self.chat or any(not isinstance(q.prompt, str) for q in rows)

    @property
    def rule(self) -> str:
        """How responses are graded, for people."""
        if isinstance(self.reward, RewardFunction):
            return f"graded by {self.reward.function}"
        if isinstance(self.reward, Verifiable):
            return f"answers: {self.reward.extract.kind}, compared: {self.reward.compare.kind}"
        return "graded by the task" if self.graded else "not graded"


def read_task(
    task: str,
    *,
    extract: str | None = None,
    compare: str | None = None,
    reward: str | None = None,
    overrides: Sequence[str] = (),
    time_limit: float | None = None,
    limit: int | None = None,
    chat: bool = False,
    allow_import: Sequence[str] = (),
) -> Asked:
    """Read what the command line says of a task; everything that can be refused without a model is.

    Args:
        task: a file, ``reasoning_gym:NAME`` or ``chain_sum``.
        extract, compare: kinds of the rule; None = the last box, and equal text or reasoning-gym's own scorer.
        reward: ``package.module:function`` instead of a rule.
        overrides: further options, ``task.KEY=VALUE`` and ``reward.KEY=VALUE``.
        time_limit: seconds that one call of `reward` may take; None = its default.
        limit: first so many prompts; None = all of a file, `MADE` of others.
        chat: whether a text prompt is a user's turn.
        allow_import: packages that may be imported.

    Raises:
        UserError: options that exclude each other, an unknown kind, prompts that cannot be read or graded.
    """
    base, ruled = _base(task, extract, compare, reward, time_limit), extract is not None or compare is not None
    ruled |= any(o.lstrip().startswith("reward.") for o in overrides)
    if base["task"]["kind"] == "chain_sum":
        own = [n for n, v in (("--extract", extract), ("--compare", compare), ("--reward", reward)) if v is not None]
        if chat:
            raise UserError("does not apply: chain_sum has no text", where="--chat")
        if own or ruled:
            raise UserError("does not apply: chain_sum grades itself", where=own[0] if own else "--set reward")
    spec = validate(EvaluationTask, read(None, overrides, base), allow_import)
    questions, graded = _questions(spec, ruled)
    most = (len(questions) if isinstance(spec.task, PromptFile) else MADE) if questions is not None else MADE
    size = min(limit or most, len(questions)) if questions is not None else limit or most
    if isinstance(questions, QuestionFile):
        questions = replace(questions, rows=questions.rows[:size])
    named = spec.task.path if isinstance(spec.task, PromptFile) else task
    return Asked(named, spec.task, spec.reward if graded else None, questions, size, chat, tuple(allow_import))


def make_world(asked: Asked, tokenizer: Any, context: int | None, max_new_tokens: int | None) -> World:
    """Prompts and grader for one policy.

    Args:
        asked: the task.
        tokenizer: the policy's.
        context: most tokens it accepts; None = no limit.
        max_new_tokens: tokens that a prompt must leave room for; None = one.

    Raises:
        UserError: a prompt without room, by its id; a tokenizer that is not chain_sum's.
    """
    if asked.questions is None:
        assert isinstance(asked.task, ChainSum)
        if tuple(tokenizer.convert_ids_to_tokens(list(range(chain_sum.VOCABULARY)))) != chain_sum.TOKENS:
            what = "the model's tokens are not those of chain_sum"
            raise UserError(what, where="--task chain_sum", cure="Give a model that was trained on chain_sum.")
        most = asked.task.longest + 1 + (max_new_tokens or asked.task.max_response)
        if context is not None and most > context:
            what = f"prompts and responses have up to {most} tokens, more than the model's context of {context}"
            raise UserError(what, where="--task chain_sum", cure="Lower task.k or --max-new-tokens.")
        return ChainSumWorld(asked.task, asked.size)
    grader = None if asked.reward is None else Grader(asked.reward, asked.allow_import)
    world = TextWorld(
        asked.questions,
        tokenizer,
        grader,
        held_out=asked.questions,
        chat=asked.chat,
        context=context,
        max_new_tokens=max_new_tokens or 1,
    )
    if grader is not None:
        grader.start()  # a broken package or function is known before anything is sampled
    return world


def given(asked: Asked, decoded: Sequence[str]) -> list[Any]:
    """The prompt of each row as it was given, text or turns; of chain_sum, which gives none, its tokens as text."""
    if asked.questions is None:
        return list(decoded)
    each = [_as_given(asked.questions[i]) for i in range(asked.size)]
    samples = len(decoded) // asked.size
    return [each[i // samples] for i in range(len(decoded))]


def _as_given(question: Question) -> Any:
    return question.prompt if isinstance(question.prompt, str) else list(question.prompt)


def _base(
    task: str, extract: str | None, compare: str | None, reward: str | None, time_limit: float | None
) -> dict[str, Any]:
    """The options as the tables of an `EvaluationTask`."""
    if task == "chain_sum":
        return {"task": {"kind": "chain_sum"}}
    gym = task.startswith(GYM)
    if not gym and not Path(task).is_file():
        what = "is a folder" if Path(task).is_dir() else "does not exist"
        raise UserError(what, where=f"--task {task}", allowed=ALLOWED)
    source: Mapping[str, Any] = {"kind": "reasoning_gym", "name": task.removeprefix(GYM)} if gym else {"path": task}
    if reward is not None:
        if extract is not None or compare is not None:
            where = "--extract" if extract is not None else "--compare"
            raise UserError("does not apply: --reward grades", where=where, allowed="a rule or a function")
        function = {"kind": "function", "function": reward}
        graded: dict[str, Any] = function if time_limit is None else function | {"time_limit": time_limit}
    else:
        if compare == ReasoningGym().kind and not gym:
            what = "grades items of reasoning-gym only"
            raise UserError(what, where="--compare reasoning_gym", cure="Give --task reasoning_gym:NAME.")
        compared = compare or (ReasoningGym().kind if gym else "exact")
        graded = {"kind": "verifiable", "extract": {"kind": extract or "boxed"}, "compare": {"kind": compared}}
    return {"task": {"kind": "file", **source}, "reward": graded}


def _questions(spec: EvaluationTask, ruled: bool) -> tuple[Questions | None, bool]:
    """The prompts, and whether they are graded: rows without any answer are not, unless a rule was asked for."""
    if isinstance(spec.task, ChainSum):
        return None, True
    if isinstance(spec.task, ReasoningGymTask):
        return ReasoningGymQuestions(spec.task), True
    found = read_questions(Path(spec.task.path), needs_answer=False)
    if isinstance(spec.reward, RewardFunction):
        return found, True
    if not ruled and all(q.row["answer"] is None for q in found.rows):
        return found, False
    return read_questions(Path(spec.task.path)), True
