"""The losses of the policy-gradient loop as components: policy, critic, KL, and the correction for another sampler.

Every policy loss is called as ``loss(logp, logp_old, advantage, mask)`` and gives ``[N, L]``, so a loop needs to know
none of them; ``clipped_tokens`` with the same arguments says which tokens its bounds caught, to be counted over a step.
Leaves out: the formulas (`loss.policy`, `loss.value`, `loss.importance`, `divergence`), averaging (`Aggregation`).
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.core.component import START, Component, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components import NotNegative, Positive
from steersman.objective.divergence import Estimator, Gradient, check_pair, kl_penalty
from steersman.objective.loss import importance, policy
from steersman.objective.loss.value import clipped_value
from steersman.objective.select.tokens import weigh

EpsLow = Annotated[float, Field(ge=0, le=1)]
TokenPair = tuple[Tensor, Tensor]


class _PolicyLoss(Component):
    """A loss of the policy with the one signature of them all."""

    needs: ClassVar[tuple[str, ...]] = ("logp_old", "advantage")
    whole_rows: ClassVar[bool] = False
    """Whether `mask` is all action tokens of a row, those that selection leaves out of the loss among them."""

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        """Loss of each token ``[N, L]``."""
        raise TypeError(f"{type(self).__name__} is a base class")

    def clipped_tokens(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> TokenPair:
        """Tokens of the mask caught by the (lower, upper) bound, two bool ``[N, L]``; none where there is no bound."""
        none = torch.zeros_like(mask)
        return none, none.clone()


class Reinforce(_PolicyLoss):
    """Score-function estimator (Williams 1992); takes logp_old and ignores it."""

    needs = ("advantage",)
    kind: Literal["reinforce"] = "reinforce"

    def __call__(self, logp: Tensor, logp_old: Tensor | None, advantage: Tensor, mask: Tensor) -> Tensor:
        """`loss.policy.reinforce`."""
        return policy.reinforce(logp, advantage)


class Clipped(_PolicyLoss):
    """Clipped ratio with DAPO's bounds (arXiv 2503.14476); PPO and GRPO have 0.2 for both; `dual` is off unless set."""

    kind: Literal["clipped"] = "clipped"
    eps_low: EpsLow = 0.2
    eps_high: NotNegative = 0.28
    dual: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        """`loss.policy.clipped`."""
        return policy.clipped(logp, logp_old, advantage, self.eps_low, self.eps_high, self.dual)

    def clipped_tokens(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> TokenPair:
        """`loss.policy.clipped_tokens` within the mask."""
        ratio = policy.log_ratio(logp.detach(), logp_old).exp()
        low, high = policy.clipped_tokens(ratio, advantage, self.eps_low, self.eps_high)
        return low & mask, high & mask


class GSPO(_PolicyLoss):
    """Sequence ratio clipped as a whole (arXiv 2507.18071); aggregate with seq_mean_token_mean."""

    whole_rows = True
    kind: Literal["gspo"] = "gspo"
    eps_low: EpsLow = 3e-4
    eps_high: NotNegative = 4e-4

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        """`loss.policy.gspo`."""
        return policy.gspo(logp, logp_old, advantage, mask, self.eps_low, self.eps_high)

    def clipped_tokens(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> TokenPair:
        """Tokens of the rows whose sequence ratio is clipped."""
        ratio = policy.sequence_log_ratio(logp.detach(), logp_old, mask).exp()[:, None].expand(mask.shape)
        low, high = policy.clipped_tokens(ratio, advantage, self.eps_low, self.eps_high)
        return low & mask, high & mask


class CISPO(_PolicyLoss):
    """Importance weight cut at `cap` without dropping a gradient (arXiv 2506.13585); `cap` bounds the ratio itself."""

    kind: Literal["cispo"] = "cispo"
    cap: Positive = 5.0

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        """`loss.policy.cispo`."""
        return policy.cispo(logp, logp_old, advantage, self.cap)

    def clipped_tokens(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> TokenPair:
        """Nothing below; above, the tokens whose ratio is cut, whatever the sign of the advantage."""
        return torch.zeros_like(mask), mask & (policy.log_ratio(logp.detach(), logp_old).exp() > self.cap)


class SAPO(_PolicyLoss):
    """Soft gate in place of the clip (arXiv 2511.20347)."""

    kind: Literal["sapo"] = "sapo"
    tau_pos: Positive = 1.0
    tau_neg: Positive = 1.05

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        """`loss.policy.sapo`."""
        return policy.sapo(logp, logp_old, advantage, self.tau_pos, self.tau_neg)


PolicyLoss = Annotated[Reinforce | Clipped | GSPO | CISPO | SAPO, Field(discriminator="kind")]
"""Every policy loss a configuration can name by ``kind``."""


class ClippedValue(Component):
    """Loss of the critic (arXiv 1707.06347); `clip` in units of the reward, None = plain squared error."""

    needs = ("value",)
    kind: Literal["clipped_value"] = "clipped_value"
    clip: Positive | None = 0.2

    def __call__(self, value: Tensor, value_old: Tensor, returns: Tensor) -> Tensor:
        """`loss.value.clipped_value`."""
        return clipped_value(value, value_old, returns, self.clip)


class KLLoss(Component):
    """KL penalty in the loss, its value and its gradient chosen apart (`divergence`); already multiplied by `beta`.

    `beta` 0.04 is that of arXiv 2402.03300. The penalty in the reward is another component, `KLReward`.
    """

    needs = ("logp_ref",)
    kind: Literal["kl_loss"] = "kl_loss"
    beta: NotNegative = 0.04
    estimator: Estimator = "k3"
    gradient: Gradient = "reverse"

    @model_validator(mode="after")
    def _agree(self) -> "KLLoss":
        check_pair(self.estimator, self.gradient)
        return self

    def __call__(self, logp: Tensor, logp_ref: Tensor, logp_old: Tensor | None = None) -> Tensor:
        """beta times `divergence.kl_penalty`."""
        return self.beta * kl_penalty(logp, logp_ref, logp_old, self.estimator, self.gradient)


class ImportanceCorrection(Stage):
    """Token weights that correct for a sampler whose distribution is not the trainer's (`loss.importance`)."""

    needs = ("logp_old",)
    gives = ("token_weight",)
    fields = ("logp_behaviour",)
    kind: Literal["importance"] = "importance"
    mode: importance.Correction = "token_truncate"
    high: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    low: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _agree(self) -> "ImportanceCorrection":
        importance.check_band(self.mode, self.high, self.low)
        return self

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        """Multiply ``token_weight`` (1 where nobody wrote it) by the weight of each token."""
        if rollouts.logp_behaviour is None:
            raise UserError("the rollouts carry no logp_behaviour", where="ImportanceCorrection")
        mask = rollouts.action & rollouts.valid[:, None]
        old = rollouts.streams["logp_old"]
        w = importance.importance_weight(old, rollouts.logp_behaviour, mask, self.mode, self.high, self.low)
        tokens = max(int(mask.sum()), 1)
        metrics = {"weight_mean": float(w.sum()) / tokens, "dropped_share": float((mask & (w == 0)).sum()) / tokens}
        return weigh(rollouts, w), metrics
