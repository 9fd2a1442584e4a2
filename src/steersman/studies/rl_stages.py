"""Stages of studies only.

`Learnt` counts what is learnt from, on any task. The others are for the running-sum task, whose exact truth they read:
`Kept` tells what is learnt from and changes nothing; `Decisive` is an oracle's choice of tokens. A recipe names them by
``kind = "steersman.studies.rl_stages:Kept"``. Leaves out: the truth itself (`task.chain_sum_truth`).
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.types import Rollouts
from steersman.objective.components_reward import Metrics
from steersman.objective.select.tokens import in_and_out, in_loss, weigh
from steersman.task.chain_sum import ChainSum
from steersman.task.chain_sum_truth import Role, read


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
