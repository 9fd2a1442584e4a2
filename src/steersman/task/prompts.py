"""Prompts whose answers can be checked: the user's JSON Lines, and the generators of reasoning-gym.

A source is a finite list of prompts, made or read; which of them a step sees is a function of (seed, step, round): the
list is gone through in a new random order each time. Leaves out: grading (`reward.verifiable`), token ids (`language`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from steersman.core.component import Component
from steersman.core.errors import UserError
from steersman.core.noise import permutation
from steersman.language.jsonl import Broken, kind, objects
from steersman.language.records import Text, read_prompts
from steersman.reward.verifiable import require

MAX_SIZE = 10_000_000
"""Prompts of a generator: item i of seed s comes from its random seed s * MAX_SIZE + i, below 2^32."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt and what its grader needs.

    Args:
        id: the user's id, or where the prompt comes from; it names the row in messages.
        prompt: plain text or a conversation.
        row: JSON values for the grader: `id`, `answer` (text, or None where a scorer needs none) and all other columns.
        difficulty: the user's figure; None = not given.
    """

    id: str
    prompt: Text
    row: Mapping[str, Any]
    difficulty: float | None = None


class Questions(Protocol):
    """A finite list of questions; they may be made when they are asked for."""

    def __len__(self) -> int:
        """Number of questions."""

    def __getitem__(self, index: int) -> Question:
        """The question with this number, the same each time."""


def draw(source: Questions, n: int, seed: int, step: int = 0, round: int = 0, rounds: int = 1) -> list[int]:
    """Numbers of the prompts that a step uses, a function of the arguments alone.

    The draws of step 0, round 0; step 0, round 1; ...; step 1, round 0; ... stand one behind the other in a sequence
    of random orders of the whole source: prompt p of the sequence is number p mod N of order p div N.

    Args:
        source: the prompts, N of them.
        n: prompts of a step, >= 1.
        seed: the run's seed.
        step: step of the run, >= 0.
        round: refill round within the step, 0 <= round < rounds.
        rounds: most rounds a step may have; a refill round then never repeats what its step has seen, save where an
            order ends.

    Returns:
        `n` numbers; a number may come twice where an order ends within a step or n > N.
    """
    if n < 1 or step < 0 or not 0 <= round < rounds:
        raise UserError(f"n {n}, step {step}, round {round} of {rounds} is impossible", where="prompts")
    if len(source) < 1:
        raise UserError("there are no prompts", where="prompts")
    place = np.arange(n) + (step * rounds + round) * n
    order, at = np.divmod(place, len(source))
    orders = {int(o): permutation(len(source), seed, "prompts", int(o)).numpy() for o in np.unique(order)}
    return [int(orders[int(o)][a]) for o, a in zip(order, at, strict=True)]


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """The questions of a JSON Lines file, in file order; their ids are distinct."""

    path: Path
    rows: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Question:
        return self.rows[index]


def read_questions(path: Path, needs_answer: bool = True) -> QuestionFile:
    """Read rows of `prompt` and `answer`, with `id` and `difficulty` if given; other columns go to the grader.

    Args:
        path: the file.
        needs_answer: False = rows may lack `answer` (a reward function or a reward model judges them).

    Raises:
        UserError: file and line of the first row that cannot be used, and how many more there are.
    """
    prompts = read_prompts(path).rows  # has complained of broken lines, so that the lines below are the same
    found: list[Question] = []
    faults: list[tuple[int, str]] = []
    lines: dict[str, int] = {}
    for prompt, (line, value) in zip(prompts, objects(path), strict=True):
        try:
            if isinstance(value, Broken):
                raise value
            question = _question(path, line, prompt.prompt, value, needs_answer)
            if question.id in lines:
                raise Broken(f'"id" {question.id!r} was used before, in line {lines[question.id]}')
            lines[question.id] = line
            found.append(question)
        except Broken as error:
            faults.append((line, str(error)))
    if faults:
        rest = len(faults) - 1
        cure = f"{rest} more line{'s' if rest > 1 else ''} cannot be used." if rest else ""
        raise UserError(faults[0][1], where=f"{path}, line {faults[0][0]}", cure=cure)
    return QuestionFile(path, tuple(found))


def _question(path: Path, line: int, prompt: Text, value: Mapping[str, Any], needs_answer: bool) -> Question:
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise Broken('"prompt" is empty')
    name = value.get("id")
    if name is None:
        name = f"{path}, line {line}"
    elif isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise Broken(f'"id" is {"empty" if name == "" else f"{kind(name)}, not text or a whole number"}')
    row = {k: v for k, v in value.items() if k != "prompt"} | {"id": str(name), "answer": _answer(value, needs_answer)}
    return Question(str(name), prompt, row, _difficulty(value))


def _answer(value: Mapping[str, Any], needed: bool) -> str | None:
    answer = value.get("answer")
    if answer is None:
        if needed:
            if "answer" in value:
                raise Broken('"answer" is null, not text or a number')
            near = get_close_matches("answer", value, n=1)
            raise Broken('"answer" is missing' + (f"; did you mean {near[0]!r}?" if near else ""))
        return None
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise Broken(f'"answer" is {kind(answer)}, not text or a number')
    if needed and not str(answer).strip():
        raise Broken('"answer" is empty')
    return str(answer)


def _difficulty(value: Mapping[str, Any]) -> float | None:
    given = value.get("difficulty")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise Broken(f'"difficulty" is {kind(given)}, not a number')
    if not math.isfinite(given):
        raise Broken(f'"difficulty" is {given}, not a finite number')
    return float(given)


class ReasoningGymTask(Component):
    """Prompts of one generator of the package reasoning-gym; grade them with ``compare.kind = "reasoning_gym"``."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"
    name: str = Field(description="The generator, e.g. chain_sum or countdown.")
    config: dict[str, Any] = Field(default_factory=dict, description="The generator's own options.")
    size: int = Field(10_000, ge=1, le=MAX_SIZE, description="Number of prompts.")
    seed: int = Field(0, ge=0, le=400, description="Seed of the prompts; take another one for held-out prompts.")


@dataclass(frozen=True, slots=True)
class ReasoningGymQuestions:
    """The items of a generator, made when asked for.

    Args:
        task: which generator and options.

    Raises:
        UserError: the package is not installed, no such generator, or options it does not accept.
    """

    task: ReasoningGymTask
    _data: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require("reasoning_gym", "task")
        from reasoning_gym.factory import DATASETS, create_dataset

        name, config = self.task.name, self.task.config
        if name not in DATASETS:
            near = get_close_matches(name, DATASETS, n=1)
            cure = f"Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"reasoning-gym has no generator {name!r}", where="task.name", cure=cure)
        if clash := {"size", "seed"} & config.keys():
            raise UserError(f"{min(clash)} belongs beside the options", where="task.config", cure="Set it in [task].")
        try:
            data = create_dataset(name, **config, size=self.task.size, seed=self.task.seed * MAX_SIZE)
            data[0]  # some options are only found impossible here
        except Exception as error:  # whatever a generator raises on options it cannot use
            raise UserError(f"{name} refuses its options: {error}", where="task.config") from None
        object.__setattr__(self, "_data", data)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Question:
        if not 0 <= index < len(self):
            raise IndexError(index)
        item, task = self._data[index], self.task
        # The size as asked for, not as found: from it the grader makes the same generator.
        made_from = {"name": task.name, "config": task.config, "size": task.size, "seed": task.seed * MAX_SIZE}
        made_from["index"] = index
        answer = item["answer"]
        row = {"id": f"{task.name}, seed {task.seed}, item {index}", "reasoning_gym": made_from}
        return Question(row["id"], item["question"], row | {"answer": None if answer is None else str(answer)})
