"""Rewards and advantages as stages: what a token's reward is made of, and what it is compared with.

Two layers of streams. Reward stages write ``token_reward``; where none does, the row's `reward` falls due at its last
action token. Advantage stages read that: those of whole responses take its sum over the row and give ``advantage_row``
(then `UniformCredit`, or a stage that credits tokens, gives ``advantage``), those of tokens give ``advantage``.
Rows with `valid` False are in no statistic and get 0. The stages' metrics count rows and groups without a signal.
Leaves out: the formulas (`assemble`, `advantage`), and ReMax, whose baseline needs a second rollout.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, Rollouts
from steersman.objective import assemble
from steersman.objective.advantage import gae as tokens
from steersman.objective.advantage import group as rows
from steersman.objective.components import NotNegative, Positive
from steersman.objective.divergence import adapt_beta, kl_value

Finite = Annotated[float, Field(allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1)]
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


def _share(x: Tensor, of: Tensor) -> float:
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
        metrics = {"not_ended_share": _share(valid & ~ended, valid), "rows_without_action": silent}
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
        return rollouts.with_streams(token_reward=reward + due), {"punished_share": _share(fine < 0, rollouts.valid)}


class KLReward(Stage):
    """KL penalty in the reward (estimator k1); with a `target` its coefficient adapts after each step."""

    needs = ("logp_old", "logp_ref")
    gives = ("token_reward",)
    kind: Literal["kl_reward"] = "kl_reward"
    beta: NotNegative = 0.05
    target: Positive | None = None
    horizon: Positive = 10_000.0
    _beta: float | None = PrivateAttr(None)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Subtract beta (logp_old - logp_ref) at every action token."""
        base, acts = token_rewards(rollouts), counted(rollouts)
        old, ref = rollouts.streams["logp_old"], rollouts.streams["logp_ref"]
        beta = self.beta if self._beta is None else self._beta
        none = base.new_zeros(len(rollouts))
        reward = base + assemble.token_reward(none, acts, old, ref, beta)
        kl = _share(kl_value(old, ref).double().where(acts, none.new_zeros(()).double()), rollouts.valid)
        if self.target is not None:
            self._beta = adapt_beta(beta, kl, int(rollouts.valid.sum()), self.target, self.horizon)
        return rollouts.with_streams(token_reward=reward), {"kl_row": kl, "beta": beta}

    def state_dict(self) -> dict[str, Any]:
        """The coefficient in use, where it has adapted."""
        return {} if self._beta is None else {"beta": self._beta}

    def load_state_dict(self, state: Any) -> None:
        """Restore what `state_dict` gave."""
        self._beta = float(state["beta"]) if "beta" in state else None


class _RowAdvantage(Stage):
    """A stage that gives ``advantage_row`` from scores and groups, and counts rows and groups without a signal."""

    gives = ("advantage_row",)

    def row(self, score: Tensor, group: Tensor, length: Tensor, valid: Tensor) -> Tensor:
        """Advantage ``[N]`` of scores ``[N]``; `length` = action tokens."""
        raise TypeError(f"{type(self).__name__} is a base class")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage_row``."""
        score, valid = row_scores(rollouts), rollouts.valid
        value = self.row(score, rollouts.group, counted(rollouts).sum(1), valid)
        return rollouts.with_streams(advantage_row=value), _group_metrics(score, rollouts.group, valid)


def _group_metrics(score: Tensor, group: Tensor, valid: Tensor) -> Metrics:
    found = rows.group_counts(score, group, valid)
    return {
        "rows": float(found.rows),
        "invalid_rows": float(found.invalid_rows),
        "groups": float(found.groups),
        "singletons": float(found.singletons),
        "zero_signal_groups": float(found.zero_signal),
        "silent_row_share": found.silent_rows / max(found.rows - found.invalid_rows, 1),
    }


class GRPO(_RowAdvantage):
    """Group-relative advantage (arXiv 2402.03300); ``scale = "none"`` is Dr.GRPO (arXiv 2503.20783)."""

    kind: Literal["grpo"] = "grpo"
    scale: rows.Scale = "group"
    eps: NotNegative = 1e-6

    def row(self, score: Tensor, group: Tensor, length: Tensor, valid: Tensor) -> Tensor:
        """`advantage.group.grpo`."""
        return rows.grpo(score, group, self.scale, self.eps, valid)


class RLOO(_RowAdvantage):
    """Leave-one-out advantage (arXiv 2402.14740)."""

    kind: Literal["rloo"] = "rloo"

    def row(self, score: Tensor, group: Tensor, length: Tensor, valid: Tensor) -> Tensor:
        """`advantage.group.rloo`."""
        return rows.rloo(score, group, valid)


class OPO(_RowAdvantage):
    """Advantage against the length-weighted mean of the group (arXiv 2505.23585)."""

    kind: Literal["opo"] = "opo"

    def row(self, score: Tensor, group: Tensor, length: Tensor, valid: Tensor) -> Tensor:
        """`advantage.group.opo`."""
        return rows.opo(score, group, length, valid)


class PassK(_RowAdvantage):
    """Only the best row of a group is rewarded, by its lead (verl's ``grpo_passk``)."""

    kind: Literal["passk"] = "passk"
    scale: rows.Scale = "group"
    eps: NotNegative = 1e-6

    def row(self, score: Tensor, group: Tensor, length: Tensor, valid: Tensor) -> Tensor:
        """`advantage.group.passk`."""
        return rows.passk(score, group, self.scale, self.eps, valid)


class UniformCredit(Stage):
    """Every action token of a row gets the row's advantage."""

    needs = ("advantage_row",)
    gives = ("advantage",)
    kind: Literal["uniform"] = "uniform"

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage``."""
        value = tokens.broadcast(rollouts.streams["advantage_row"], rollouts.action)
        return rollouts.with_streams(advantage=value), {}


class ReinforcePP(Stage):
    """REINFORCE++ (arXiv 2501.03262): discounted returns whitened over the batch's action tokens."""

    gives = ("advantage",)
    kind: Literal["reinforce_pp"] = "reinforce_pp"
    gamma: Unit = 1.0

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage`` (`advantage.gae.reinforce_pp`)."""
        value = tokens.reinforce_pp(token_rewards(rollouts), counted(rollouts), self.gamma)
        return rollouts.with_streams(advantage=value), {}


class ReinforcePPBaseline(Stage):
    """REINFORCE++-baseline (arXiv 2501.03262): centred in the group, whitened over the batch's action tokens."""

    gives = ("advantage",)
    kind: Literal["reinforce_pp_baseline"] = "reinforce_pp_baseline"

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage`` (`advantage.gae.reinforce_pp_baseline`)."""
        score, group, valid = row_scores(rollouts), rollouts.group, rollouts.valid
        value = tokens.reinforce_pp_baseline(score, group, rollouts.action, valid)
        return rollouts.with_streams(advantage=value), _group_metrics(score, group, valid)


class GAE(Stage):
    """Generalised advantage estimation (arXiv 1506.02438), whitened over the batch's action tokens unless switched off.

    Rows that were cut count as ended; bootstrapping them needs a value after the last token, which `advantage.gae.gae`
    takes and no stream carries.
    """

    needs = ("value",)
    gives = ("advantage",)
    kind: Literal["gae"] = "gae"
    gamma: Unit = 1.0
    lam: Unit = 0.95
    whiten: bool = True

    def estimate(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """(advantage before whitening, returns); the returns are what the critic is fitted to."""
        mask = counted(rollouts)
        return tokens.gae(token_rewards(rollouts), rollouts.streams["value"], mask, self.gamma, self.lam)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage``."""
        value, returns = self.estimate(rollouts)
        mask = counted(rollouts)
        metrics = {"return_mean": _share(returns, mask), "advantage_mean": _share(value, mask)}
        return rollouts.with_streams(advantage=tokens.whiten(value, mask) if self.whiten else value), metrics


RewardStage = Annotated[ShapeReward | Overlong | KLReward, Field(discriminator="kind")]
"""Every reward stage a configuration can name by ``kind``."""

AdvantageComponent = Annotated[
    GRPO | RLOO | OPO | PassK | ReinforcePP | ReinforcePPBaseline | GAE, Field(discriminator="kind")
]
"""Every advantage stage a configuration can name by ``kind``."""
