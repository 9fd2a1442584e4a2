"""Rewards as stages: what a token's reward is made of.

Reward stages write ``token_reward``, in the order of the list, each onto what the one before wrote; where none does,
the row's `reward` falls due at its last action token. Rows with `valid` False get 0.
Leaves out: the formulas (`assemble`), where scores come from (`reward`), what they are compared with
(`components_advantage`).
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, Rollouts
from steersman.objective import assemble
from steersman.objective.components import NotNegative, Positive
from steersman.objective.divergence import adapt_beta, kl_value

Finite = Annotated[float, Field(allow_inf_nan=False)]
Metrics = dict[str, float]


def _reward(rollouts: Rollouts) -> Tensor:
    if rollouts.reward is None:
        raise UserError("the rollouts have no reward", where="stages", cure="Grade them before this stage.")
    return rollouts.reward


def counted(rollouts: Rollouts) -> Tensor:
    """Action tokens of valid rows, bool ``[N, L]``."""
    return rollouts.action & rollouts.valid[:, None]


def token_rewards(rollouts: Rollouts) -> Tensor:
    """The stream ``token_reward``, or the row's reward at its last action token where no stage has written one."""
    given = rollouts.streams.get("token_reward")
    return assemble.token_reward(_reward(rollouts), rollouts.action, valid=rollouts.valid) if given is None else given


def row_scores(rollouts: Rollouts) -> Tensor:
    """Sum of ``token_reward`` over the actions of each row ``[N]``, or its reward where there is neither."""
    given = rollouts.streams.get("token_reward")
    if given is None:
        return _reward(rollouts)
    acts = counted(rollouts)
    total = given.where(acts, given.new_zeros(())).double().sum(1).to(given.dtype)
    return total if rollouts.reward is None else total.where(acts.any(1), rollouts.reward.to(total.dtype))


def share(x: Tensor, of: Tensor) -> float:
    """Sum of `x` over the number of True in `of`, which may be none."""
    return float(x.detach().sum()) / max(int(of.sum()), 1)


class ShapeReward(Stage):
    """Scores normalised, clipped, and corrected where the response did not end (`assemble`); the first reward stage."""

    gives = ("token_reward",)
    kind: Literal["shape_reward"] = "shape_reward"
    mean: Finite | None = None
    std: Positive | None = None
    clip: Positive | None = None
    missing_eos: assemble.MissingEos = "none"
    missing_eos_value: Finite = 1.0

    @model_validator(mode="after")
    def _agree(self) -> "ShapeReward":
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean is {self.mean} and std is {self.std}; set both or neither")
        if self.missing_eos == "penalty" and self.missing_eos_value < 0:
            raise ValueError(f"missing_eos_value is {self.missing_eos_value}; a penalty is subtracted, so give it >= 0")
        return self

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``token_reward`` from the raw reward."""
        if "token_reward" in rollouts.streams:
            raise UserError(
                "token_reward exists already", where="ShapeReward", cure="Put it first of the reward stages."
            )
        valid, ended = rollouts.valid, rollouts.stop == STOP_EOS
        score = assemble.shape_score(_reward(rollouts), mean=self.mean, std=self.std, clip=self.clip, valid=valid)
        score = assemble.missing_eos(score, ended, self.missing_eos, self.missing_eos_value)
        reward = assemble.token_reward(score, rollouts.action, valid=valid)
        silent = float((valid & ~rollouts.action.any(1)).sum())
        metrics = {"not_ended_share": share(valid & ~ended, valid), "rows_without_action": silent}
        return rollouts.with_streams(token_reward=reward), metrics


class Overlong(Stage):
    """Soft punishment of responses near the limit (DAPO), added at the last action token."""

    gives = ("token_reward",)
    kind: Literal["overlong"] = "overlong"
    limit: int = Field(20480, gt=0)
    cache: int = Field(4096, gt=0)

    @model_validator(mode="after")
    def _agree(self) -> "Overlong":
        if self.cache > self.limit:
            raise ValueError(f"cache is {self.cache}, longer than limit {self.limit}")
        return self

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Add `assemble.overlong` of the number of action tokens."""
        reward = token_rewards(rollouts)
        acts = counted(rollouts)
        fine = assemble.overlong(acts.sum(1), self.limit, self.cache)
        due = assemble.token_reward(fine, rollouts.action, valid=rollouts.valid)
        return rollouts.with_streams(token_reward=reward + due), {"punished_share": share(fine < 0, rollouts.valid)}


class KLReward(Stage):
    """KL penalty in the reward (estimator k1).

    With a `target`, in nats a response, the coefficient starts at `beta` and adapts after each call by the rows of that
    call (`divergence.adapt_beta`). The loop calls a stage once for a batch of rollouts, however many updates the batch
    serves; put this one behind a filter that asks for refill rounds, or it is called once a round.
    """

    needs = ("logp_old", "logp_ref")
    gives = ("token_reward",)
    kind: Literal["kl_reward"] = "kl_reward"
    beta: NotNegative = 0.05
    target: Positive | None = None
    horizon: Positive = 10_000.0
    _beta: float | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _agree(self) -> "KLReward":
        if self.target is not None and self.beta == 0:
            raise ValueError("beta is 0, which a target cannot change; start at a beta > 0 or leave target out")
        return self

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Subtract beta (logp_old - logp_ref) at every action token."""
        base, acts = token_rewards(rollouts), counted(rollouts)
        old, ref = rollouts.streams["logp_old"], rollouts.streams["logp_ref"]
        beta = self.beta if self._beta is None else self._beta
        none = base.new_zeros(len(rollouts))
        reward = base + assemble.token_reward(none, acts, old, ref, beta)
        kl = share(kl_value(old, ref).double().where(acts, none.new_zeros(()).double()), rollouts.valid)
        if self.target is not None:
            self._beta = adapt_beta(beta, kl, int(rollouts.valid.sum()), self.target, self.horizon)
        return rollouts.with_streams(token_reward=reward), {"kl_row": kl, "beta": beta}

    def state_dict(self) -> dict[str, Any]:
        """The coefficient in use, where it has adapted."""
        return {} if self._beta is None else {"beta": self._beta}

    def load_state_dict(self, state: Any) -> None:
        """Restore what `state_dict` gave."""
        self._beta = float(state["beta"]) if "beta" in state else None


RewardStage = Annotated[ShapeReward | Overlong | KLReward, Field(discriminator="kind")]
"""Every reward stage a configuration can name by ``kind``."""
