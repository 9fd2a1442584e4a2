"""A small stage of each kind that a method may need, to prove the doors of the loop.

`DropSilent` drops rows, `RepeatCorrect` repeats them, `Fade` writes a token stream, `Hinted` asks for a forward pass
under another context and for some rows only, `HiddenNorm` needs hidden states, `Memory` remembers between steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from steersman.core.component import START, Moment, Pass, Stage
from steersman.core.types import Rollouts
from steersman.task import chain_sum

Told = tuple[Rollouts, dict[str, float]]


class DropSilent(Stage):
    """Drops the rows whose advantage is 0, whatever they are worth to a critic."""

    needs: ClassVar[tuple[str, ...]] = ("advantage_row",)
    kind: Literal["toy_drop_silent"] = "toy_drop_silent"

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> Told:
        out = rollouts.index(rollouts.streams["advantage_row"] != 0)
        return out, {"rows_in": float(len(rollouts)), "rows_out": float(len(out))}


class RepeatCorrect(Stage):
    """Repeats the correct rows, so that each is learnt from `times` times."""

    fields: ClassVar[tuple[str, ...]] = ("correct",)
    kind: Literal["toy_repeat_correct"] = "toy_repeat_correct"
    times: int = Field(2, ge=1)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> Told:
        assert rollouts.correct is not None
        copies = torch.where(rollouts.correct & rollouts.valid, self.times, 1)
        out = rollouts.index(torch.arange(len(rollouts)).repeat_interleave(copies))
        return out, {"rows_in": float(len(rollouts)), "rows_out": float(len(out))}


class Fade(Stage):
    """Writes token weights that fall from action to action: rate^0, rate^1, ..."""

    gives: ClassVar[tuple[str, ...]] = ("token_weight",)
    kind: Literal["toy_fade"] = "toy_fade"
    rate: float = Field(0.9, gt=0, le=1)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> Told:
        weight = rollouts.action * self.rate ** (rollouts.action.long().cumsum(1) - 1).clamp(min=0)
        return rollouts.with_streams(token_weight=weight), {}


def asks(rollouts: Rollouts) -> Tensor:
    """Rows whose advantage is not 0."""
    return rollouts.streams["advantage_row"] != 0


def with_answer(rollouts: Rollouts, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The prompt of chain_sum followed by a hint that shows the right answer, as text: "27=?9="."""
    spans = zip(rollouts.ids, rollouts.prompt_length.tolist(), rows, strict=True)
    digits = [(chain_sum.text(ids[:n]).partition("=")[0], row["answer"]) for ids, n, row in spans]
    return [f"{shown}=?{answer}=" for shown, answer in digits]


def answer_alone(rollouts: Rollouts, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence with the right answer in place of the prompt, for worlds of text."""
    return [f"The answer is {row['answer']}. Explain it: " for row in rows]


class Hinted(Stage):
    """Weighs each token by how likely it is once the answer is known: exp(logp_teacher - logp_old), at most `most`.

    Rows without an advantage are not scored and keep the weight 1.
    """

    needs: ClassVar[tuple[str, ...]] = ("logp_old", "advantage_row")
    gives: ClassVar[tuple[str, ...]] = ("token_weight",)
    kind: Literal["toy_hinted"] = "toy_hinted"
    world: Literal["chain_sum", "text"] = "chain_sum"
    most: float = Field(2.0, gt=0)

    def passes(self) -> tuple[Pass, ...]:
        return (Pass("logp_teacher", before=with_answer if self.world == "chain_sum" else answer_alone, rows=asks),)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> Told:
        x = rollouts.streams
        scored = rollouts.action & rollouts.valid[:, None] & asks(rollouts)[:, None]
        gained = torch.where(scored, x["logp_teacher"] - x["logp_old"], 0.0)
        out = rollouts.with_streams(token_weight=gained.exp().clamp(max=self.most) * rollouts.action)
        rows = float((scored.any(1)).sum())
        return out, {"rows_scored": rows, "gained": float(gained.sum()) / max(float(scored.sum()), 1.0)}


class HiddenNorm(Stage):
    """Weighs each token by the length of its hidden state, relative to the mean length over the action tokens."""

    needs: ClassVar[tuple[str, ...]] = ("hidden",)
    gives: ClassVar[tuple[str, ...]] = ("token_weight",)
    kind: Literal["toy_hidden_norm"] = "toy_hidden_norm"

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> Told:
        mask = rollouts.action & rollouts.valid[:, None]
        norm = torch.where(mask, rollouts.streams["hidden"].norm(dim=2), 0.0)
        mean = norm.sum() / mask.sum().clamp(min=1)
        return rollouts.with_streams(token_weight=norm / mean.clamp(min=1e-6)), {"norm_mean": float(mean)}


class Memory(Stage):
    """The reward less its running mean over earlier steps, as ``advantage_row``; mean and count are its state."""

    gives: ClassVar[tuple[str, ...]] = ("advantage_row",)
    kind: Literal["toy_memory"] = "toy_memory"
    _mean: float = PrivateAttr(0.0)
    _rows: int = PrivateAttr(0)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> Told:
        assert rollouts.reward is not None
        row = torch.where(rollouts.valid, rollouts.reward - self._mean, 0.0)
        seen = rollouts.reward[rollouts.valid]
        self._rows += len(seen)
        self._mean += float((seen - self._mean).sum()) / max(self._rows, 1)
        return rollouts.with_streams(advantage_row=row), {"mean": self._mean, "rows": float(self._rows)}

    def state_dict(self) -> dict[str, Any]:
        return {"mean": torch.tensor(self._mean, dtype=torch.float64), "rows": self._rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._mean, self._rows = float(state["mean"]), int(state["rows"])
