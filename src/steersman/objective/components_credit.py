"""Contrastive credit as a stage: CEPO, RLSD, and what lies between them, as settings of one component.

It stands behind the stage that gives an advantage and writes the advantage of each token. The policy scores its own
responses twice more, told the right answer and told a wrong one (or nothing), only in rows with an advantage and only
while the schedule is above 0. Nothing is sampled and nothing remembered.
Leaves out: the formula (`credit.cepo`), the answers (`credit.references`), the words (`credit.hints`), the passes
themselves (`train.passes`).
Sources: CEPO arXiv 2605.19436; RLSD arXiv 2604.03128.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.core.component import START, Moment, Pass, Stage
from steersman.core.types import Rollouts
from steersman.objective.components import Positive
from steersman.objective.components_reward import Metrics, counted, share
from steersman.objective.credit.cepo import Credit, credit
from steersman.objective.credit.demonstrate import Row, ToldRight, response_ids
from steersman.objective.credit.hints import Hint, prompts
from steersman.objective.credit.references import Rule, rejected_rows, right_answers, wrong_answers
from steersman.objective.select.noise import row_noise, token_noise

Shown = Literal["answer", "response", "prefix", "suffix"]
RIGHT, OTHER = "logp_teacher", "logp_teacher_wrong"


@dataclass(frozen=True, slots=True)
class WithSignal:
    """Rows with an advantage that is not 0."""

    stream: str

    def __call__(self, rollouts: Rollouts) -> Tensor:
        """bool ``[N]``."""
        a = rollouts.streams[self.stream]
        return a != 0 if a.ndim == 1 else ((a != 0) & counted(rollouts)).any(1)


@dataclass(frozen=True, slots=True)
class ToldWrong:
    """A wrong answer before each response, or tokens of a rejected one; where a group has none, the bare prompt or
    nothing to score."""

    hint: Hint
    column: str
    rule: Rule
    fallback: Literal["rlsd", "uniform"]
    at: Moment
    show: Shown = "answer"
    tokens: int = 0

    def __call__(self, rollouts: Rollouts, rows: Sequence[Row]) -> list[Any]:
        """What stands before each response."""
        if self.show == "answer":
            given: Sequence[Any] = rejected(rollouts, self.rule, self.at, right_answers(rows, self.column))
        else:
            given = [None if i is None else self._cut(response_ids(rollouts, i)) for i in others(rollouts, self.at)]
        told = self.hint.tell(rollouts, rows, given)
        if self.fallback == "uniform":
            return list(told)
        return [own if hinted is None else hinted for own, hinted in zip(prompts(rollouts), told, strict=True)]

    def _cut(self, ids: tuple[int, ...]) -> tuple[int, ...] | None:
        """What is shown of a response; of a short one all of it, and None of an empty one."""
        if self.show == "response":
            return ids or None
        return (ids[: self.tokens] if self.show == "prefix" else ids[-self.tokens :]) or None


def untold(rollouts: Rollouts, rows: Sequence[Row]) -> list[Any]:
    """The bare prompt before each response."""
    return list(prompts(rollouts))


def rejected(rollouts: Rollouts, rule: Rule, at: Moment, right: Sequence[str] | None = None) -> list[str | None]:
    """`credit.references.wrong_answers` of graded rollouts; ties are broken by the moment's noise."""
    assert rollouts.answer is not None
    assert rollouts.correct is not None
    assert rollouts.reward is not None
    noise = row_noise(rollouts, at, "contrastive_credit/negative")
    known = rollouts.correct, rollouts.reward, rollouts.group, right, rule, noise, rollouts.valid
    return wrong_answers(rollouts.answer, *known)


def others(rollouts: Rollouts, at: Moment) -> list[int | None]:
    """`credit.references.rejected_rows` of graded rollouts; ties are broken by the moment's noise."""
    assert rollouts.correct is not None
    assert rollouts.reward is not None
    noise = row_noise(rollouts, at, "contrastive_credit/negative")
    return rejected_rows(rollouts.correct, rollouts.reward, rollouts.group, noise, rollouts.valid)


class ContrastiveCredit(Stage):
    """Shares out each advantage by how much the right answer, against a wrong one, speaks for a token (CEPO).

    ``negative = "none"`` compares with the policy that is told nothing, which is RLSD; under fallback "rlsd" so do the
    rows of groups without a wrong answer, with the teacher that is told nothing. A row whose told prompt does not fit
    the context keeps its advantage for all tokens, and is counted. `shuffle` is a control: the same evidence at
    random tokens of the row.
    """

    gives = ("advantage",)
    kind: Literal["contrastive_credit"] = "contrastive_credit"
    stream: Literal["advantage_row", "advantage"] = Field(
        "advantage_row", description="the advantage there is when it runs: of responses, or of tokens"
    )
    reference: str = Field("answer", min_length=1, description="column of the prompt with the right answer")
    hint: Hint = Field(Hint(), description="where and in which words an answer is told")
    negative: Literal[Rule, "none"] = Field("lowest", description="which wrong answer is told; none = RLSD")
    show: Shown = Field("answer", description="of the rejected response its answer, all of it, or one end of it")
    show_tokens: int | None = Field(None, ge=1, description="length of that end")
    fallback: Literal["rlsd", "uniform"] = Field("rlsd", description="where a group has no wrong answer")
    teacher: Literal["policy", "reference", "copy"] = Field(
        "policy", description="who is told: the policy, the frozen reference, or a copy of the policy"
    )
    sync: int | None = Field(None, ge=1, description="optimiser steps after which a copy is taken anew")
    lam: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="share of the advantage it governs at first")
    decay: int = Field(25, ge=0, description="optimiser steps until that share is 0; 0 = it stays as it is")
    eps_w: Positive = Field(0.5, description="bound of a token's weight, 1 +- eps_w")
    shuffle: bool = Field(False, description="control: the same evidence at random tokens of the row")

    @model_validator(mode="after")
    def _belongs(self) -> "ContrastiveCredit":
        if self.show != "answer" and self.negative != "lowest":
            raise ValueError(f'show = "{self.show}" is of the rejected response of lowest reward: negative = "lowest"')
        if (self.show_tokens is not None) != (self.show in ("prefix", "suffix")):
            raise ValueError("show_tokens is the length of a prefix or suffix, and goes with show of that name")
        if (self.sync is not None) != (self.teacher == "copy"):
            raise ValueError('sync says when a copy is taken, and goes with teacher = "copy"')
        return self

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # of the instance: advantages come in two streams
        """The stream of this stage as it is configured."""
        return (self.stream,)

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]  # only wrong answers are looked for in rollouts
        """Fields of the rollouts that this stage reads as it is configured."""
        if self.negative == "none":
            return ()
        return ("correct", "answer") if self.show == "answer" else ("correct",)

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The column of the right answer."""
        return (self.reference,)

    def share(self, at: Moment) -> float:
        """lam (1 - step / decay), not below 0, with steps counted from 0."""
        return self.lam * max(0.0, 1 - at.step / self.decay) if self.decay else self.lam

    def passes(self) -> tuple[Pass, ...]:
        """The two passes of the first step."""
        return self._passes(START)

    def passes_now(self, at: Moment) -> tuple[Pass, ...]:
        """Two passes, or none once the schedule has reached 0."""
        return self._passes(at) if self.share(at) > 0 else ()

    def _passes(self, at: Moment) -> tuple[Pass, ...]:
        by = "teacher" if self.teacher == "copy" else self.teacher
        known: dict[str, Any] = {"by": by, "rows": WithSignal(self.stream), "optional": True}
        right = Pass(RIGHT, before=ToldRight(self.hint, self.reference), **known)
        if self.negative == "none":
            return right, Pass(OTHER, before=untold, **{**known, "by": "policy"})
        shown = self.show, self.show_tokens or 0
        wrong = ToldWrong(self.hint, self.reference, self.negative, self.fallback, at, *shown)
        return right, Pass(OTHER, before=wrong, **known)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage`` (`credit.cepo.evidence`)."""
        mask, lam = counted(rollouts), self.share(at)
        a = rollouts.streams[self.stream].detach()
        a = (a[:, None] if a.ndim == 1 else a).where(mask, a.new_zeros(()))
        if lam == 0:
            return rollouts.with_streams(advantage=a), {"lam": lam}
        signal = (a != 0).any(1)
        right, other = (rollouts.streams[k].detach() for k in (RIGHT, OTHER))
        lost = signal & (torch.isnan(right) | torch.isnan(other) | ~mask).all(1)
        used = mask & (signal & ~lost)[:, None]
        if self.shuffle:
            other = right - _shuffled(right - other, used, token_noise(rollouts, at, "contrastive_credit/shuffle"))
        found = credit(a, right, other, used, lam, self.eps_w)
        out = torch.where(used, found.advantage, a)
        told = {"lam": lam, "rows": float((signal & ~lost).sum()), "lost_rows": float(lost.sum())}
        if self.negative != "none":
            known = rejected(rollouts, self.negative, at) if self.show == "answer" else others(rollouts, at)
            told["no_negative_rows"] = float((signal & torch.tensor([x is None for x in known]).to(signal)).sum())
        return rollouts.with_streams(advantage=out), told | _metrics(a, out, found, used)


def _shuffled(x: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
    """The values inside the mask in a random order within each row."""
    out = torch.zeros_like(x)
    for row in mask.any(1).nonzero()[:, 0].tolist():
        there = mask[row].nonzero()[:, 0]
        out[row, there] = x[row, there[noise[row, there].argsort()]]
    return out


def _metrics(a: Tensor, out: Tensor, found: Credit, used: Tensor) -> Metrics:
    """Evidence by the sign of the advantage, and what it did to it."""
    up, down = used & (a > 0), used & (a < 0)
    acted = up | down
    size = share((out[acted].double() / a[acted].double()).abs(), acted)
    return {
        "delta_mean_up": share(found.delta[up].double(), up),
        "delta_mean_down": share(found.delta[down].double(), down),
        "delta_sd_up": _spread(found.delta[up]),
        "delta_sd_down": _spread(found.delta[down]),
        "wrong_direction_up": share((found.delta[up] < 0).double(), up),
        "wrong_direction_down": share((found.delta[down] > 0).double(), down),
        "clipped": share(found.clipped.double(), acted),
    } | ({"size": size} if bool(acted.any()) else {})


def _spread(x: Tensor) -> float:
    return float(x.double().std(correction=0)) if len(x) else 0.0
