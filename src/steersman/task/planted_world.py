"""The planted-quadrant testbed as a world: prompts, grades, and texts of its tokens.

Leaves out: the task itself (`planted`), its recipe (`recipes.rl_tasks`).
"""

from collections.abc import Sequence
from typing import Any

import torch

from steersman.core.component import Hinted
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.encode import check_ids
from steersman.reward.verifiable import Graded, Row
from steersman.task import planted
from steersman.task.planted import Planted
from steersman.task.world import Prompts
from steersman.task.worlds import HELD_OUT_SEED


class PlantedWorld:
    """Prompts are made when drawn; the answer is the result with its most significant digit first.

    Args:
        task: the knobs.
        held_out_size: prompts of evaluation, drawn independently of training; 0 = none.
    """

    gives = ("correct", "answer")

    def __init__(self, task: Planted, held_out_size: int = 0) -> None:
        if held_out_size < 0:
            raise UserError(f"is {held_out_size}", where="held_out_size", allowed="0 or more")
        self.task, self.held_out_size = task, held_out_size

    def draw(self, n: int, seed: int, step: int, round: int = 0) -> Prompts:
        """`n` training prompts."""
        return self._prompts(planted.prompts(self.task, n, seed, step, round), f"planted, step {step}")

    def held_out(self, n: int | None = None) -> Prompts | None:
        """The first `n` prompts of evaluation (None = all); None where there are none."""
        size = self.held_out_size if n is None else min(n, self.held_out_size)
        if size < 1:
            return None
        return self._prompts(planted.prompts(self.task, size, HELD_OUT_SEED, purpose="held-out"), "planted, held out")

    def grade(self, rollouts: Rollouts, rows: Sequence[Row]) -> Graded:
        """1 if format and all digits are right, else 0. Invalid rows stay invalid."""
        if len(rows) != len(rollouts):
            raise UserError(f"{len(rows)} rows for {len(rollouts)} responses", where="grade")
        scores = planted.grade(self.task, rollouts)
        answers = (_number(digits) for digits in planted.written_digits(rollouts))
        readable = scores.parts["format_ok"].tolist()
        return Graded(scores, tuple(a if good else None for a, good in zip(answers, readable, strict=True)))

    def texts(self, rollouts: Rollouts) -> list[tuple[str, str]]:
        """(prompt, response) of each row, e.g. ("012+044=", ".a1:c1;b1,h0<eos>")."""
        spans = zip(rollouts.ids, rollouts.prompt_length.tolist(), rollouts.length.tolist(), strict=True)
        return [(planted.text(ids[:begin]), planted.text(ids[begin:end])) for ids, begin, end in spans]

    def pieces(self, rollouts: Rollouts) -> list[list[str]]:
        """The text of each token of a row."""
        rows = zip(rollouts.ids.tolist(), rollouts.length.tolist(), strict=True)
        return [[planted.TOKENS[i] for i in ids[:n]] for ids, n in rows]

    def encode(self, before: Sequence[Any]) -> list[list[int]]:
        """Token ids of texts such as "012+044="; ids are taken as they are, and there is no place for anything else."""
        return [_ids(x, f"context, row {i}") for i, x in enumerate(before)]

    def close(self) -> None:
        """Nothing was started."""

    def _prompts(self, made: Rollouts, name: str) -> Prompts:
        right, _, _ = planted.truth(self.task, made.ids)
        rows = tuple({"id": f"{name}, prompt {i}", "answer": _number(digits)} for i, digits in enumerate(right))
        return Prompts(tuple(map(tuple, made.ids.tolist())), made.group, rows)


def _number(digits: torch.Tensor) -> str:
    return "".join(planted.TOKENS[d] for d in digits.flip(0).tolist())


def _ids(before: Any, where: str) -> list[int]:
    allowed = "token ids, or text of the task's tokens"
    if isinstance(before, Hinted):
        raise UserError("planted has no token that could introduce a hint", where=where, allowed=allowed)
    if isinstance(before, str) and before and all(c in planted.TOKENS for c in before):
        return [planted.TOKENS.index(c) for c in before]
    if isinstance(before, str) or not before or isinstance(before[0], dict):
        raise UserError(f"{before!r} is no text of planted", where=where, allowed=allowed)
    return check_ids(before, where)
