"""TinyCode as a world that a loop can be given. Leaves out: the task itself (`tiny_code`)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from steersman.core.component import Hinted
from steersman.core.errors import UserError
from steersman.core.types import Rollouts, Scores
from steersman.language.encode import check_ids
from steersman.language.hints import spliced
from steersman.reward.model import RewardModel
from steersman.reward.sandbox import Sandbox
from steersman.reward.verifiable import Graded, Row
from steersman.task.tiny_code import Asked, TinyCode, grade, prompts
from steersman.task.tiny_code_functions import Purpose
from steersman.task.tiny_code_language import text_of, tokenize
from steersman.task.world import Prompts
from steersman.task.worlds import model_scores

HELD_OUT_SEED = 0
"""Seed of the held-out prompts; they are the same for every run."""
HELD_OUT_STEP = 2**31
"""Step of the held-out prompts, which no run reaches: they are new even where training asks for the same functions."""


class TinyCodeWorld:
    """Prompts of one purpose, held-out prompts of another.

    Args:
        task: the knobs.
        held_out_size: prompts of evaluation; 0 = none.
        purpose: whose functions training asks for.
        held_out_purpose: whose functions evaluation asks for; another purpose has none of the functions of training.
        sandbox: where programs run; None = the language's own evaluator, with the same grades.
        model: gives the reward in place of the tests, which then only say what is correct; None = they give both.

    Raises:
        UserError: a negative size, an unknown purpose, or no function of the wanted sizes.
    """

    gives = ("correct", "answer")

    def __init__(
        self,
        task: TinyCode,
        held_out_size: int = 0,
        purpose: Purpose = "rl",
        held_out_purpose: Purpose = "validation",
        sandbox: Sandbox | None = None,
        model: RewardModel | None = None,
    ) -> None:
        if held_out_size < 0:
            raise UserError(f"is {held_out_size}", where="held_out_size", allowed="0 or more")
        self.task, self.held_out_size, self.sandbox = task, held_out_size, sandbox
        self.purpose, self.held_out_purpose, self.model = purpose, held_out_purpose, model
        for asked in dict.fromkeys((purpose, held_out_purpose) if held_out_size else (purpose,)):
            prompts(task, 1, HELD_OUT_SEED, purpose=asked)

    def draw(self, n: int, seed: int, step: int, round: int = 0) -> Prompts:
        """`n` training prompts."""
        return _prompts(prompts(self.task, n, seed, step, round, self.purpose))

    def held_out(self, n: int | None = None) -> Prompts | None:
        """The first `n` prompts of evaluation (None = all); None where there are none."""
        size = self.held_out_size if n is None else min(n, self.held_out_size)
        if size < 1:
            return None
        return _prompts(prompts(self.task, size, HELD_OUT_SEED, HELD_OUT_STEP, purpose=self.held_out_purpose))

    def grade(self, rollouts: Rollouts, rows: Sequence[Row]) -> Graded:
        """1 if a response is right on all its tests, else 0, or what the reward model says; the answer is its text.

        Invalid rows stay invalid, and a row that the reward model cannot score becomes so.
        """
        tested = grade(rollouts, rows, self.sandbox)
        if self.model is None:
            return tested
        paid, said = model_scores(self.model, rollouts), tested.scores
        valid = paid.valid & said.valid
        scores = Scores(torch.where(valid, paid.value, torch.nan), valid, said.parts, paid.errors | said.errors)
        return replace(tested, scores=scores)

    def texts(self, rollouts: Rollouts) -> list[tuple[str, str]]:
        """(prompt, response) of each row, e.g. ("f(2)=5 f(-1)=-1 f(4)=9 ; ", "x*2+1<eos>")."""
        spans = zip(rollouts.ids.tolist(), rollouts.prompt_length.tolist(), rollouts.length.tolist(), strict=True)
        return [(text_of(ids[:begin]), text_of(ids[begin:end])) for ids, begin, end in spans]

    def pieces(self, rollouts: Rollouts) -> list[list[str]]:
        """The text of each token of a row."""
        rows = zip(rollouts.ids.tolist(), rollouts.length.tolist(), strict=True)
        return [[text_of([i]) for i in ids[:n]] for ids, n in rows]

    def encode(self, before: Sequence[Any]) -> list[list[int]]:
        """Token ids of texts such as "f(2)=5 ; "; ids are taken as they are."""
        return [_ids(x, f"context, row {i}") for i, x in enumerate(before)]

    def close(self) -> None:
        """End the sandbox."""
        if self.sandbox is not None:
            self.sandbox.close()


def _prompts(asked: Asked) -> Prompts:
    given = asked.prompts
    ids = zip(given.ids.tolist(), given.prompt_length.tolist(), strict=True)
    return Prompts(tuple(tuple(row[:n]) for row, n in ids), given.group, asked.rows)


def _ids(before: Any, where: str) -> list[int]:
    if isinstance(before, Hinted):
        if before.place == "in_user_turn":
            raise UserError("TinyCode has no conversations", where="hint.place", allowed="after_prompt")
        return spliced(before, lambda text: _ids(text, where))
    if isinstance(before, str) and before:
        try:
            return tokenize(before)
        except ValueError as error:
            raise UserError(str(error), where=where, allowed="token ids, or text of TinyCode's tokens") from None
    if not before or isinstance(before[0], dict):
        raise UserError("TinyCode has no conversations", where=where, allowed="token ids, or text")
    return check_ids(before, where)
