"""Stages of studies only.

`Learnt` counts what is learnt from, on any task. The others are for the running-sum task, whose exact truth they read:
`Kept` tells what is learnt from and changes nothing; `Decisive` is an oracle's choice of tokens, `OracleCredit` its
share of each in the credit, `ExactCredit` a share by exact evidence, `TrueValue` an oracle's baseline. A recipe names
them by ``kind = "steersman.studies.rl_stages:Kept"``. Leaves out: the truth itself (`task.chain_sum_truth`).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.types import Rollouts
from steersman.objective.components_credit import ContrastiveCredit, rejected
from steersman.objective.components_reward import Metrics, counted, row_scores, share
from steersman.objective.credit.cepo import evidence
from steersman.objective.select.tokens import in_and_out, in_loss, weigh
from steersman.task.chain_sum import ChainSum, read_digits, target
from steersman.task.chain_sum_truth import Role, answer_given_prefix, offsets_to_come, read

CERTAIN = 10.0
"""Evidence, in nats, that reaches every bound of a weight."""


def _roles(fillers: int, rollouts: Rollouts) -> Tensor:
    """`Role` of each token ``[N, L]``."""
    return read(ChainSum(fillers=fillers), rollouts).role


class Learnt(Stage):
    """Reports rows and tokens in the loss; changes nothing."""

    kind: Literal["learnt"] = "learnt"

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Count."""
        mask = in_loss(rollouts)
        return rollouts, {"rows": float(mask.any(1).sum()), "tokens": float(mask.sum())}


class Kept(Stage):
    """Reports rows and tokens in the loss and what share of the tokens is decisive or filler; changes nothing."""

    kind: Literal["kept"] = "kept"
    fillers: int = Field(1, ge=0, description="the task's")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Count."""
        mask = in_loss(rollouts)
        told = {"rows": float(mask.any(1).sum()), "tokens": float(mask.sum())}
        if not len(rollouts) or not bool(mask.any()):
            return rollouts, told
        role = _roles(self.fillers, rollouts)[mask]
        shares = {"decisive": Role.DECISIVE, "filler": Role.FILLER}
        return rollouts, told | {name: float((role == r).double().mean()) for name, r in shares.items()}


class Decisive(Stage):
    """Keeps the running sums alone, the only tokens where an answer is won or lost: what no method can know."""

    gives = ("token_weight",)
    kind: Literal["decisive"] = "decisive"
    fillers: int = Field(1, ge=0, description="the task's")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Multiply ``token_weight`` by 1 at running sums and by 0 elsewhere."""
        if not len(rollouts):
            return rollouts, {}
        out = weigh(rollouts, (_roles(self.fillers, rollouts) == Role.DECISIVE) & in_loss(rollouts))
        return out, in_and_out(rollouts, out)


class TrueValue(Stage):
    """Advantages against the share of right answers that the demonstrator gives to the prompt, exactly.

    It is fixed given the prompt, so the gradient is unbiased whatever the policy is.
    """

    gives = ("advantage_row",)
    kind: Literal["true_value"] = "true_value"
    error: float = Field(description="the task's")
    error_hard: float = Field(description="the task's")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage_row``."""
        task = ChainSum(error=self.error, error_hard=self.error_hard)
        value = offsets_to_come(task, read_digits(rollouts)[0])[:, 0, 0]
        advantage = torch.where(rollouts.valid, row_scores(rollouts).double() - value, 0.0)
        return rollouts.with_streams(advantage_row=advantage.float()), {"baseline_mean": float(value.mean())}


class OracleCredit(Stage):
    """Contrastive credit with the truth in the place of evidence: what no method can know.

    Of a response with A > 0 the running sums, of one with A < 0 those that are wrong, get the largest weight, and all
    other tokens the smallest.
    """

    needs = ("advantage_row",)
    gives = ("advantage",)
    kind: Literal["oracle_credit"] = "oracle_credit"
    fillers: int = Field(1, ge=0, description="the task's")
    lam: float = Field(0.5, ge=0, le=1, description="as of contrastive_credit")
    decay: int = Field(25, ge=0, description="as of contrastive_credit")
    eps_w: float = Field(0.5, gt=0, description="as of contrastive_credit")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage``."""
        mask, a = counted(rollouts), rollouts.streams["advantage_row"].detach()
        if not len(rollouts):
            return rollouts.with_streams(advantage=torch.zeros(mask.shape)), {}
        lam = ContrastiveCredit(lam=self.lam, decay=self.decay).share(at)
        decisive = true_steps(ChainSum(fillers=self.fillers), rollouts, a < 0)
        told = a.sign()[:, None] * torch.where(decisive, CERTAIN, -CERTAIN)
        value = evidence(a, told, torch.zeros_like(told), mask, lam, self.eps_w)
        return rollouts.with_streams(advantage=value), {"decisive": share(decisive & mask, mask)}


class ExactCredit(Stage):
    """Contrastive credit with the demonstrator's exact evidence in the place of the policy's.

    It is what CEPO would do if the policy understood exactly what a told answer means.
    """

    needs = ("advantage_row",)
    gives = ("advantage",)
    fields = ("correct", "answer")
    kind: Literal["exact_credit"] = "exact_credit"
    fillers: int = Field(1, ge=0, description="the task's")
    error: float = Field(0.12, ge=0, le=0.9, description="the task's")
    lam: float = Field(0.5, ge=0, le=1, description="as of contrastive_credit")
    decay: int = Field(25, ge=0, description="as of contrastive_credit")
    eps_w: float = Field(0.5, gt=0, description="as of contrastive_credit")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage``."""
        mask, a = counted(rollouts), rollouts.streams["advantage_row"].detach()
        if not len(rollouts):
            return rollouts.with_streams(advantage=torch.zeros(mask.shape)), {}
        lam = ContrastiveCredit(lam=self.lam, decay=self.decay).share(at)
        found = exact_evidence(
            ChainSum(fillers=self.fillers, error=self.error), rollouts, rejected(rollouts, "lowest", at)
        )
        told = found["cepo"].nan_to_num(0.0, CERTAIN, -CERTAIN).to(a.dtype)
        return rollouts.with_streams(advantage=evidence(a, told, torch.zeros_like(told), mask, lam, self.eps_w)), {}


def exact_evidence(task: ChainSum, rollouts: Rollouts, wrong: Sequence[str | None]) -> dict[str, Tensor]:
    """What each token changed in log P(r+) ("rlsd"), and in its log-odds against a wrong answer ("cepo"), by Bayes.

    The probabilities are the demonstrator's, float64 ``[N, L]``; infinite where one becomes certain or impossible, NaN
    where a response keeps no grammar or there is no wrong answer.
    """
    other = torch.tensor([-1 if w is None else int(w) for w in wrong])

    def gained(answer: Tensor) -> Tensor:
        before, after = answer_given_prefix(task, rollouts, answer)
        return after.log() - before.log()

    rlsd = gained(target(rollouts))
    cepo = rlsd - gained(other.clamp(min=0))
    return {"rlsd": rlsd, "cepo": torch.where((other >= 0)[:, None], cepo, torch.nan)}


def true_steps(task: ChainSum, rollouts: Rollouts, wrong: Tensor) -> Tensor:
    """Running sums ``[N, L]`` bool; in rows where `wrong` ``[N]`` those alone that do not follow."""
    found = read(task, rollouts)
    step = found.step.clamp(min=0, max=found.error.shape[1] - 1)
    return (found.role == Role.DECISIVE) & (found.error.gather(1, step) | ~wrong[:, None])
