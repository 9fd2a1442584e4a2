"""Rows weighed by what they earned: reward-weighted distillation as a stage, before any loss.

Leaves out: weights of a sampler that is not the policy (`components_policy`), rows that are dropped or repeated by rank
(`components_filtration`).
Source: the repository of TIP, arXiv 2604.14084, whose paper does not have it.
"""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components import Positive
from steersman.objective.components_reward import Metrics, row_scores


def reward_weights(score: Tensor, temperature: float | int, valid: Tensor | None = None) -> Float[Tensor, " N"]:
    """Weights of rows that rise with their score and are 1 on average.

    w_i = n softmax(r / temperature)_i over the n rows that count.

    Args:
        score: r ``[N]``.
        temperature: > 0; small = the best rows only, large = all alike.
        valid: rows that count ``[N]`` bool; None = all.

    Returns:
        ``[N]`` float32 (float64 for float64 scores), without a gradient, 0 where not valid.

    Raises:
        UserError: a temperature that is not above 0; names a row that counts and has no finite score.

    Edge cases: no row that counts gives zeros; equal scores give 1 exactly.
    """
    if not 0 < temperature < float("inf"):
        raise UserError(f"is {temperature}", where="temperature", allowed="a finite number > 0")
    there = torch.ones_like(score, dtype=torch.bool) if valid is None else valid
    bad = there & ~torch.isfinite(score)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise UserError(f"the reward is {float(score[row])}", where=f"row {row}", allowed="finite")
    if not bool(there.any()):
        return torch.zeros_like(score)
    x = torch.where(there, score.detach().double() / temperature, -torch.inf)
    # Over the mean and not the sum times n, so that equal scores give exactly 1.
    raw = (x - x.max()).exp()
    return (raw / raw[there].mean()).to(torch.promote_types(score.dtype, torch.float32))


class RewardWeight(Stage):
    """Weighs responses by softmax(reward / temperature) over the step, so that losses learn from the better ones."""

    kind: Literal["reward_weight"] = "reward_weight"
    temperature: Positive = Field(1.0, description="in rewards; small = the best responses only, large = all alike")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Multiply the rows' weights (`reward_weights`)."""
        w = reward_weights(row_scores(rollouts), self.temperature, rollouts.valid)
        kept = w[rollouts.valid].double()
        # of n rows with these weights: as many as say the same as n_eff equal ones
        effective = float(kept.sum().square() / kept.square().sum()) if len(kept) else 0.0
        told = {"weight_max": float(kept.max()) if len(kept) else 0.0, "rows_effective": effective}
        return replace(rollouts, weight=rollouts.weight * w.to(rollouts.weight.dtype)), told
