"""Weights for rows that another policy drew: a sampler of its own arithmetic, or an older version of the weights.

Three policies: behaviour b (what was really sampled from), old (the training forward at rollout weights), the live one.
The objective is sum w L(live / old) with w = old / b: from the OLD log-probabilities, never the live ones, and without
a gradient. A weight of a token is biased but of low variance; a weight of a sequence is unbiased but heavy-tailed.
Leaves out: the losses that w multiplies (`loss.policy`). Sources: truncated importance sampling (Ionides 2008; TIS in
verl, sequence mask in TRL), IcePop, and the off-policy sequence mask of DeepSeek-V3.2.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.loss.policy import LOG_RATIO, log_ratio, same_shape

Correction = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "sequence_geometric"]
CORRECTIONS: tuple[str, ...] = get_args(Correction)


def check_band(mode: str, high: float | int, low: float | int) -> None:
    """Refuse an unknown mode, bounds that do not enclose 1, and a lower bound where truncation would ignore it."""
    if mode not in CORRECTIONS:
        raise UserError(f"unknown mode {mode!r}", where="importance, mode", allowed=", ".join(CORRECTIONS))
    if not (0 <= low <= 1 <= high and math.isfinite(high)):
        raise UserError(f"low is {low} and high is {high}", where="importance", allowed="0 <= low <= 1 <= high")
    if mode.endswith("truncate") and low != 0:
        raise UserError(f"low is {low} in mode {mode}, which cuts from above only", where="importance, low")


def importance_weight(
    logp_old: Tensor,
    logp_behaviour: Tensor,
    mask: Tensor,
    mode: str = "token_truncate",
    high: float | int = 2.0,
    low: float | int = 0.0,
) -> Float[Tensor, "N L"]:
    """Factor of each token's loss that corrects for rows drawn by another policy than the old one.

    w_t = exp(logp_old_t - logp_behaviour_t); W = prod_t w_t over the row's mask; M = W^(1 / tokens). Then
    token_truncate      min(w_t, high)
    token_mask          w_t if low <= w_t <= high else 0
    sequence_truncate   min(W, high)
    sequence_mask       W if low <= W <= high else 0
    sequence_geometric  1 if low <= M <= high else 0 (rows are kept or rejected, not weighed)

    Args:
        logp_old: ``[N, L]``, nats, of the training forward at rollout weights.
        logp_behaviour: ``[N, L]``, nats, as recorded by the sampler.
        mask: bool ``[N, L]``, the action tokens.
        mode: see above.
        high: >= 1; 2 for truncated weights, 3 for sequence_mask in TRL, 5 with low 0.5 in OpenRLHF.
        low: in [0, 1]; 0 for the modes that truncate.

    Returns:
        ``[N, L]`` float32 (float64 for float64 input), without a gradient, 0 outside the mask.

    Raises:
        UserError: shapes other than ``[N, L]``, a mask that is not bool, an unknown mode, bounds that do not enclose 1.

    Edge cases: log-ratios are held in [-20, 20], per token and again in their sum over a row. Equal log-probabilities
    give exactly 1. What stands outside the mask may be anything.
    """
    same_shape("importance_weight", logp_old=logp_old, logp_behaviour=logp_behaviour, mask=mask)
    if mask.dtype != torch.bool:
        raise UserError(f"mask is {mask.dtype}", where="importance_weight", allowed="bool")
    check_band(mode, high, low)
    gap = log_ratio(logp_old.detach(), logp_behaviour)
    gap = torch.where(mask, gap, torch.zeros_like(gap))
    if mode != "token_truncate" and mode != "token_mask":
        row = gap.sum(1, keepdim=True)
        gap = row / mask.sum(1, keepdim=True).clamp(min=1) if mode == "sequence_geometric" else row
        gap = gap.clamp(-LOG_RATIO, LOG_RATIO).expand(mask.shape)
    w = gap.exp()
    if mode.endswith("truncate"):
        return torch.where(mask, w.clamp(max=high), torch.zeros_like(w))
    kept = mask & ((w < low) | (w > high)).logical_not()  # written so that NaN stays NaN
    return torch.where(kept, torch.ones_like(w) if mode == "sequence_geometric" else w, torch.zeros_like(w))


def off_policy_mask(
    logp: Tensor, logp_behaviour: Tensor, advantage: Tensor, mask: Tensor, delta: float | int
) -> Bool[Tensor, "N L"]:
    """Tokens that stay in the loss when bad rows the policy has already moved away from are dropped.

    kept_t = m_t and not (A_t < 0 and mean_t m (logp_behaviour - logp) > delta).

    Args:
        logp: ``[N, L]``, nats, live policy; no gradient is taken.
        logp_behaviour: ``[N, L]``, nats.
        advantage: A ``[N, L]``.
        mask: m ``[N, L]`` bool.
        delta: >= 0, nats a token.

    Returns:
        bool ``[N, L]``, a subset of the mask; count what is missing.

    Raises:
        UserError: shapes other than ``[N, L]``, a mask that is not bool, negative delta.

    Source: DeepSeek-V3.2, the off-policy sequence mask.
    """
    same_shape("off_policy_mask", logp=logp, logp_behaviour=logp_behaviour, advantage=advantage, mask=mask)
    if mask.dtype != torch.bool:
        raise UserError(f"mask is {mask.dtype}", where="off_policy_mask", allowed="bool")
    if not 0 <= delta < float("inf"):
        raise UserError(f"delta is {delta}", where="off_policy_mask, delta", allowed="a finite number >= 0")
    gap = torch.where(mask, logp_behaviour.detach() - logp.detach(), 0.0).sum(1) / mask.sum(1).clamp(min=1)
    return mask & ~((advantage < 0) & (gap > delta)[:, None])
