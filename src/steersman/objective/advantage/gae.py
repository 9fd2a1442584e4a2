"""Advantages of single tokens: discounted returns, generalised advantage estimation, whitening over the batch.

`mask` marks the action tokens that count (of valid rows). Positions outside it contribute nothing and *do not shift
time*: a tool's output between two actions neither discounts nor is worth V = 0; a row is computed as if it consisted of
its action tokens only. What stands there may be NaN. Results are 0 there. Sums run in float64.
Leaves out: what a reward is made of (`objective.assemble`), the critic and its loss (`loss.value`).
Sources: GAE arXiv 1506.02438; REINFORCE++ arXiv 2501.03262.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.advantage.group import grpo
from steersman.objective.advantage.segment import EQUAL


def _masked(x: Tensor, mask: Tensor, where: str) -> Tensor:
    """`x` in float64 with 0 outside the mask.

    Raises:
        UserError: not floating point, not of the mask's shape ``[N, L]``, or NaN or infinite inside the mask.
    """
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise UserError(f"mask is {mask.dtype} of shape {tuple(mask.shape)}", where=where, allowed="bool [N, L]")
    if x.shape != mask.shape or not x.is_floating_point():
        what = f"is {x.dtype} of shape {tuple(x.shape)} with a mask of shape {tuple(mask.shape)}"
        raise UserError(what, where=where, allowed="floating point, of the shape of the mask")
    bad = mask & ~torch.isfinite(x)
    if bool(bad.any()):
        row, token = (int(i) for i in bad.nonzero()[0])
        raise UserError(f"is {float(x[row, token])} at token {token}", where=f"{where}, row {row}", allowed="finite")
    return torch.where(mask, x, torch.zeros_like(x)).double()


def _check_unit(value: float | int, name: str) -> float:
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}", where=name, allowed="0 <= value <= 1")
    return float(value)


def broadcast(advantage: Tensor, mask: Tensor) -> Float[Tensor, "N L"]:
    """The advantage of a row at each of its action tokens, 0 elsewhere."""
    if advantage.shape != mask.shape[:1]:
        raise UserError(f"{tuple(advantage.shape)} values for a mask of {tuple(mask.shape)}", where="broadcast")
    return advantage[:, None] * mask


def gae(
    reward: Tensor,
    value: Tensor,
    mask: Tensor,
    gamma: float | int = 1.0,
    lam: float | int = 0.95,
    *,
    bootstrap: Tensor | None = None,
) -> tuple[Float[Tensor, "N L"], Float[Tensor, "N L"]]:
    """Generalised advantage estimation over the action tokens of each row.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  R_t = A_t + V_t, with t counting action
    tokens and V after the last of them = `bootstrap`, 0 if the row ended by itself.

    Args:
        reward: r ``[N, L]``, due at the token.
        value: V ``[N, L]``, expected return before the token.
        mask: action tokens that count ``[N, L]``.
        gamma: discount in [0, 1].
        lam: in [0, 1]; 1 = Monte-Carlo returns less V, 0 = one step.
        bootstrap: V of the state after the last token ``[N]``: for rows that were cut, 0 for those that ended.

    Returns:
        (advantage, returns), each ``[N, L]`` float32 (float64 if both inputs are), 0 outside the mask.

    Raises:
        UserError: shapes or dtypes that disagree, NaN or infinity inside the mask, gamma or lam outside [0, 1].

    Edge cases: a row without action tokens gets zeros. Rewards outside the mask are not counted.

    Source: arXiv 1506.02438; verl carries V over gaps in the same way, OpenRLHF takes a gap for V = 0.
    """
    r, v = _masked(reward, mask, "gae, reward"), _masked(value, mask, "gae, value")
    gamma, lam = _check_unit(gamma, "gamma"), _check_unit(lam, "lam")
    next_value = r.new_zeros(r.shape[0])
    if bootstrap is not None:
        ones = torch.ones(bootstrap.shape, dtype=torch.bool, device=bootstrap.device)
        if bootstrap.shape != mask.shape[:1]:
            raise UserError(f"has shape {tuple(bootstrap.shape)} for {mask.shape[0]} rows", where="gae, bootstrap")
        next_value = _masked(bootstrap[:, None], ones[:, None], "gae, bootstrap")[:, 0]
    carry, columns = torch.zeros_like(next_value), []
    for r_t, v_t, on in zip(*(x.unbind(1)[::-1] for x in (r, v, mask)), strict=True):
        step = r_t + gamma * next_value - v_t + gamma * lam * carry
        carry, next_value = torch.where(on, step, carry), torch.where(on, v_t, next_value)
        columns.append(torch.where(on, step, torch.zeros_like(step)))
    advantage = torch.stack(columns[::-1], 1) if columns else r
    dtype = torch.promote_types(torch.promote_types(reward.dtype, value.dtype), torch.float32)
    return advantage.to(dtype), (advantage + v).to(dtype)


def whiten(x: Tensor, mask: Tensor, eps: float | int = 1e-8) -> Float[Tensor, "N L"]:
    """Values brought to mean 0 and variance 1 over the tokens of the mask.

    x' = (x - mean) / sqrt(var + eps), mean and population variance over all masked tokens of the batch; long rows
    therefore weigh more.

    Args:
        x: ``[N, L]``.
        mask: tokens that count ``[N, L]``; pass the whole optimisation batch, not a micro-batch.
        eps: >= 0.

    Returns:
        ``[N, L]`` float32 (float64 for float64 input), 0 outside the mask.

    Raises:
        UserError: shapes or dtypes that disagree, NaN or infinity inside the mask, negative eps.

    Edge cases: equal values (max - min <= 1e-8 max(1, |mean|)), a single token or none give exactly 0.

    Source: the standard of PPO for language models; verl divides the variance by n - 1, OpenRLHF clamps it at 1e-8.
    """
    if not 0 <= eps < float("inf"):
        raise UserError(f"eps is {eps}", where="whiten, eps", allowed="a finite number >= 0")
    values, dtype = _masked(x, mask, "whiten"), torch.promote_types(x.dtype, torch.float32)
    kept = values[mask]
    if kept.numel() == 0 or bool(kept.max() - kept.min() <= EQUAL * kept.mean().abs().clamp(min=1)):
        return (values - values).to(dtype)
    scaled = (values - kept.mean()) / (kept.var(correction=0) + eps).sqrt()
    return torch.where(mask, scaled, torch.zeros_like(scaled)).to(dtype)


def reinforce_pp(
    reward: Tensor, mask: Tensor, gamma: float | int = 1.0, eps: float | int = 1e-8
) -> Float[Tensor, "N L"]:
    """REINFORCE++: the discounted return from each token on, whitened over all action tokens of the batch.

    x_t = sum_{s >= t} gamma^(s - t) r_s over action tokens; A = `whiten` of x. No groups; the KL penalty usually stands
    in the reward (estimator k1).

    Args:
        reward: r ``[N, L]``, due at the token.
        mask: action tokens that count ``[N, L]``.
        gamma: in [0, 1].
        eps: as in `whiten`.

    Returns:
        ``[N, L]`` float32 (float64 for float64 input), 0 outside the mask.

    Raises:
        UserError: as `gae` and `whiten`.

    Source: arXiv 2501.03262.
    """
    returns, _ = gae(reward, torch.zeros_like(reward), mask, gamma, 1.0)
    return whiten(returns, mask, eps)


def reinforce_pp_baseline(
    score: Tensor,
    group: Tensor,
    mask: Tensor,
    valid: Tensor | None = None,
    eps: float | int = 1e-8,
) -> Float[Tensor, "N L"]:
    """REINFORCE++-baseline: the score less its group's mean, at each action token, whitened over the batch's tokens.

    A = `whiten` of (S_i - mu_g) at the action tokens of valid rows.

    Args:
        score: S ``[N]``.
        group: prompt id of each row ``[N]``.
        mask: action tokens that count ``[N, L]``.
        valid: ``[N]``; False = no score.
        eps: as in `whiten`.

    Returns:
        ``[N, L]`` float32 (float64 for float64 scores), 0 outside the mask and in rows that are not valid.

    Raises:
        UserError: as `grpo` and `whiten`.

    Edge cases: because whitening subtracts a mean over tokens, a row of a silent group gets a value other than 0 when
    lengths differ with the score.

    Source: arXiv 2501.03262.
    """
    row = grpo(score, group, "none", valid=valid)
    counted = mask if valid is None else mask & valid[:, None]
    return whiten(broadcast(row, counted), counted, eps)
