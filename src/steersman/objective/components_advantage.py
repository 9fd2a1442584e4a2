"""Advantages as stages: what a reward is compared with.

Those of whole responses take the sum of a row's token rewards and give ``advantage_row`` (then `UniformCredit`, or a
stage that credits tokens, gives ``advantage``); those of tokens give ``advantage``. Rows with `valid` False are in no
statistic and get 0. The stages' metrics count rows and groups without a signal.
Leaves out: the formulas (`advantage`), what a reward is made of (`components_reward`). Two advantages are functions
only: `advantage.group.remax`, whose baseline is the score of a second, greedy response, and `normalise_then_sum`, since
rollouts carry one reward a row.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.objective.advantage import gae as tokens
from steersman.objective.advantage import group as rows
from steersman.objective.components import NotNegative
from steersman.objective.components_reward import Finite, Metrics, counted, row_scores, share, token_rewards

Unit = Annotated[float, Field(ge=0, le=1)]


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
        "zero_signal_count": float(found.zero_signal),
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


class Baseline(Stage):
    """The score less one number for the whole batch; groups play no role.

    A_i = S_i - b, b = `value`, or the mean score of the batch's valid rows (flash_reinforce in OpenRLHF). That mean
    includes row i, which multiplies the expected gradient by (N - 1) / N; equal scores then get exactly 0.
    """

    gives = ("advantage_row",)
    kind: Literal["baseline"] = "baseline"
    value: Finite | Literal["batch_mean"] = "batch_mean"

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage_row``: `advantage.group.remax` of a constant, or `grpo` of the batch as one group."""
        score, valid = row_scores(rollouts), rollouts.valid
        if self.value == "batch_mean":
            baseline = share(score.where(valid, score.new_zeros(())).double(), valid)
            row = rows.grpo(score, torch.zeros_like(rollouts.group), "none", valid=valid)
        else:
            baseline = self.value
            row = rows.remax(score, torch.full_like(score, baseline), valid)
        silent = share(valid & (row == 0), valid)
        counts = {"rows": float(len(rollouts)), "invalid_rows": float((~valid).sum())}
        return rollouts.with_streams(advantage_row=row), counts | {"baseline": baseline, "silent_row_share": silent}


class GAE(Stage):
    """Generalised advantage estimation (arXiv 1506.02438), whitened over the batch's action tokens unless switched off.

    Rows that were cut count as ended (`truncation` "end"), or go on with what the critic says of the state after their
    last token ("bootstrap", which needs ``value_end``).
    """

    gives = ("advantage", "returns")
    kind: Literal["gae"] = "gae"
    gamma: Unit = 1.0
    lam: Unit = 0.95
    whiten: bool = True
    truncation: Literal["end", "bootstrap"] = "end"

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # of the instance: bootstrapping needs more
        """Streams of this stage as it is configured."""
        return ("value", "value_end") if self.truncation == "bootstrap" else ("value",)

    def estimate(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """(advantage before whitening, returns); the returns are what the critic is fitted to."""
        end = None
        if self.truncation == "bootstrap":
            given = rollouts.streams["value_end"]
            end = given.where((rollouts.stop == STOP_LENGTH) & rollouts.valid, given.new_zeros(()))
        reward, mask = token_rewards(rollouts), counted(rollouts)
        return tokens.gae(reward, rollouts.streams["value"], mask, self.gamma, self.lam, bootstrap=end)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write ``advantage``, and ``returns`` from the advantage before whitening."""
        value, returns = self.estimate(rollouts)
        mask = counted(rollouts)
        metrics = {"return_mean": share(returns, mask), "advantage_mean": share(value, mask)}
        if self.whiten:
            value = tokens.whiten(value, mask)
        return rollouts.with_streams(advantage=value, returns=returns), metrics


AdvantageComponent = Annotated[
    GRPO | RLOO | OPO | PassK | Baseline | ReinforcePP | ReinforcePPBaseline | GAE, Field(discriminator="kind")
]
"""Every advantage stage a configuration can name by ``kind``."""
