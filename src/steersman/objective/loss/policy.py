"""Policy-gradient losses of single tokens: REINFORCE, clipped ratios (PPO, DAPO), GSPO, CISPO, SAPO.

logp is log pi(token) under the live policy and carries the gradient; logp_old is the same of the policy that drew the
rows, from a *training* forward pass at rollout weights, and carries none, nor does the advantage. rho = exp(l) with
l = logp - logp_old held in [-20, 20]. On the first update after a rollout rho = 1: the loss then reads -mean(A), which
is 0 for centred advantages, while its gradient is that of REINFORCE; ``logp.detach()`` may stand for logp_old there.
Every tensor is ``[N, L]`` (an advantage ``[N]`` is refused: `advantage.gae.broadcast` makes it one a token).
Leaves out: averaging and the mask (`reduce.aggregate`; only GSPO needs the mask), KL (`divergence`), corrections for
another sampler (`loss.importance`).
Sources: PPO arXiv 1707.06347; dual clip arXiv 1912.09729; DAPO arXiv 2503.14476; GSPO arXiv 2507.18071; CISPO arXiv
2506.13585; SAPO arXiv 2511.20347.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.loss.robust import check_positive, upcast

LOG_RATIO = 20.0
"""Log-ratios are held within plus and minus this (nats)."""


def same_shape(where: str, **tensors: Tensor) -> None:
    """Refuse tensors that are not all ``[N, L]`` of the shape of the first one, naming the argument."""
    first, like = next(iter(tensors.items()))
    if like.ndim != 2:
        raise UserError(f"{first} has shape {tuple(like.shape)}", where=where, allowed="[N, L]")
    for name, x in tensors.items():
        if x.shape != like.shape:
            hint = "" if x.ndim == 2 else "One value a row? `advantage.gae.broadcast(x, mask)` gives one a token."
            what = f"{name} has shape {tuple(x.shape)}, {first} has {tuple(like.shape)}"
            raise UserError(what, where=where, allowed=f"the shape [N, L] of {first}", cure=hint)


def _bounds(eps_low: float | int, eps_high: float | int) -> None:
    if not 0 <= eps_low <= 1:
        raise UserError(f"eps_low is {eps_low}", where="eps_low", allowed="0 <= eps_low <= 1")
    if not 0 <= eps_high < float("inf"):
        raise UserError(f"eps_high is {eps_high}", where="eps_high", allowed="a finite number >= 0")


def log_ratio(logp: Tensor, logp_old: Tensor) -> Tensor:
    """l = logp - logp_old in float32 or wider, held in [-20, 20], without a gradient through logp_old."""
    return (upcast(logp, "logp") - upcast(logp_old, "logp_old").detach()).clamp(-LOG_RATIO, LOG_RATIO)


def sequence_log_ratio(logp: Tensor, logp_old: Tensor, mask: Tensor) -> Tensor:
    """Mean of l over the tokens of each row ``[N]``; 0 for a row without tokens."""
    gap = log_ratio(logp, logp_old)
    return torch.where(mask, gap, torch.zeros_like(gap)).sum(1) / mask.sum(1).clamp(min=1)


def reinforce(logp: Tensor, advantage: Tensor) -> Float[Tensor, "N L"]:
    """Score-function estimator: loss_t = -A_t logp_t.

    Args:
        logp: ``[N, L]``, nats; bfloat16 and float16 are upcast.
        advantage: A ``[N, L]``, without a gradient.

    Returns:
        ``[N, L]`` float32 (float64 for float64 logp).

    Raises:
        UserError: shapes other than ``[N, L]``, integer input.

    Edge cases: its value says nothing about progress; watch the reward.

    Source: Williams 1992.
    """
    same_shape("reinforce", logp=logp, advantage=advantage)
    return -upcast(advantage, "advantage").detach() * upcast(logp, "logp")


def _clip(ratio: Tensor, a: Tensor, eps_low: float | int, eps_high: float | int, dual: float | int | None) -> Tensor:
    loss = torch.maximum(-ratio * a, -ratio.clamp(1 - eps_low, 1 + eps_high) * a)
    return loss if dual is None else torch.where(a < 0, torch.minimum(loss, -dual * a), loss)


def clipped(
    logp: Tensor,
    logp_old: Tensor,
    advantage: Tensor,
    eps_low: float | int = 0.2,
    eps_high: float | int = 0.28,
    dual: float | int | None = None,
) -> Float[Tensor, "N L"]:
    """Clipped ratio of PPO and GRPO, with separate bounds (DAPO's clip-higher) and the optional dual clip.

    loss = -min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A); with dual = c, where A < 0: min(loss, -c A).

    Args:
        logp: ``[N, L]``, nats.
        logp_old: ``[N, L]``.
        advantage: A ``[N, L]``.
        eps_low: in [0, 1].
        eps_high: >= 0; PPO has 0.2 for both bounds, DAPO 0.2 and 0.28.
        dual: c > 1 (3 in verl); None = off.

    Returns:
        ``[N, L]`` float32 (float64 for float64 logp).

    Raises:
        UserError: shapes other than ``[N, L]``, bounds out of range.

    Edge cases: rho = 1 gives the gradient of `reinforce`. A clipped token has gradient 0 (`clipped_tokens`).

    Source: arXiv 1707.06347, 2503.14476, 1912.09729. TRL's ``delta`` bounds rho from above instead of the dual clip.
    """
    same_shape("clipped", logp=logp, logp_old=logp_old, advantage=advantage)
    _bounds(eps_low, eps_high)
    if dual is not None and not 1 < dual < float("inf"):
        raise UserError(f"dual is {dual}", where="dual", allowed="a finite number > 1, or None")
    a = upcast(advantage, "advantage").detach()
    return _clip(log_ratio(logp, logp_old).exp(), a, eps_low, eps_high, dual)


def gspo(
    logp: Tensor,
    logp_old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    eps_low: float | int,
    eps_high: float | int,
) -> Float[Tensor, "N L"]:
    """Sequence ratio clipped as a whole, in the form with one advantage a token (GSPO-token).

    s_i = exp(sum_t m l / sum_t m);  rho_t = sg(s_i) exp(logp_t - sg(logp_t));  loss as in `clipped` with this rho_t.

    Args:
        logp: ``[N, L]``, nats.
        logp_old: ``[N, L]``.
        advantage: A ``[N, L]``; equal over the tokens of a row in plain GSPO.
        mask: m ``[N, L]`` bool, the tokens that count; the same as in the aggregation.
        eps_low: in [0, 1], about 3e-4, because a mean of log-ratios moves little.
        eps_high: >= 0, about 4e-4.

    Returns:
        ``[N, L]`` float32 (float64 for float64 logp), 0 outside the mask. Aggregate with seq_mean_token_mean, the
        mean over each row first: with equal advantages in a row that is GSPO, in value and in gradient.

    Raises:
        UserError: shapes other than ``[N, L]``, a mask that is not bool, bounds out of range.

    Edge cases: what stands outside the mask may be anything. Rows without tokens give zeros.

    Source: arXiv 2507.18071.
    """
    same_shape("gspo", logp=logp, logp_old=logp_old, advantage=advantage, mask=mask)
    _bounds(eps_low, eps_high)
    _bool(mask, "gspo")
    x = torch.where(mask, upcast(logp, "logp"), 0.0)
    a = torch.where(mask, upcast(advantage, "advantage").detach(), 0.0)
    row = sequence_log_ratio(x.detach(), torch.where(mask, logp_old.detach(), 0.0), mask)
    return _clip(row.exp()[:, None] * (x - x.detach()).exp(), a, eps_low, eps_high, None)


def _bool(mask: Tensor, where: str) -> None:
    if mask.dtype != torch.bool:
        raise UserError(f"mask is {mask.dtype}", where=where, allowed="bool")


def cispo(logp: Tensor, logp_old: Tensor, advantage: Tensor, cap: float | int) -> Float[Tensor, "N L"]:
    """Importance weight cut from above and without a gradient, so no token's gradient is ever dropped.

    loss = -sg(min(rho, cap)) A logp.

    Args:
        logp: ``[N, L]``, nats.
        logp_old: ``[N, L]``.
        advantage: A ``[N, L]``.
        cap: > 0, the largest *ratio* (5 = five times as likely). Published code gives ``epsilon_high`` two meanings:
            cap (TRL) and cap - 1 (the paper's 1 + eps).

    Returns:
        ``[N, L]`` float32 (float64 for float64 logp).

    Raises:
        UserError: shapes other than ``[N, L]``, cap not positive.

    Source: arXiv 2506.13585.
    """
    same_shape("cispo", logp=logp, logp_old=logp_old, advantage=advantage)
    weight = log_ratio(logp.detach(), logp_old).exp().clamp(max=check_positive(float(cap), "cap"))
    return -weight * upcast(advantage, "advantage").detach() * upcast(logp, "logp")


def sapo(
    logp: Tensor, logp_old: Tensor, advantage: Tensor, tau_pos: float | int = 1.0, tau_neg: float | int = 1.05
) -> Float[Tensor, "N L"]:
    """Soft gate in place of the clip: the gradient fades as the ratio leaves 1 on either side.

    loss = -(4 / tau) sigma(tau (rho - 1)) A, tau = tau_pos where A > 0 and tau_neg elsewhere.

    Args:
        logp: ``[N, L]``, nats.
        logp_old: ``[N, L]``.
        advantage: A ``[N, L]``.
        tau_pos: > 0.
        tau_neg: > 0; larger than tau_pos makes negative advantages fade sooner.

    Returns:
        ``[N, L]`` float32 (float64 for float64 logp); the gradient is that of rho A times sech^2(tau (rho - 1) / 2).

    Raises:
        UserError: shapes other than ``[N, L]``, a tau that is not positive.

    Edge cases: at rho = 1 the value is -(2 / tau) A, not -A; the gradient is that of `reinforce`.

    Source: arXiv 2511.20347.
    """
    same_shape("sapo", logp=logp, logp_old=logp_old, advantage=advantage)
    pos, neg = check_positive(float(tau_pos), "tau_pos"), check_positive(float(tau_neg), "tau_neg")
    a = upcast(advantage, "advantage").detach()
    tau = torch.where(a > 0, torch.full_like(a, pos), neg)
    return -4 / tau * torch.sigmoid(tau * (log_ratio(logp, logp_old).exp() - 1)) * a


def clipped_tokens(
    ratio: Tensor, advantage: Tensor, eps_low: float | int, eps_high: float | int
) -> tuple[Bool[Tensor, "N L"], Bool[Tensor, "N L"]]:
    """Which tokens `clipped` gives no gradient: (low, high) = (rho < 1 - eps_low and A < 0, rho > 1 + eps_high, A > 0).

    Args:
        ratio: rho ``[N, L]``.
        advantage: A ``[N, L]``.
        eps_low: in [0, 1].
        eps_high: >= 0 (CISPO: cap - 1, where tokens are cut but keep a gradient).

    Returns:
        Two bool ``[N, L]``, to be counted over the tokens of a whole step.
    """
    return (ratio < 1 - eps_low) & (advantage < 0), (ratio > 1 + eps_high) & (advantage > 0)


def clip_shares(
    logp: Tensor,
    logp_old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    eps_low: float | int = 0.2,
    eps_high: float | int = 0.28,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Shares of the mask's tokens that are clipped below and above.

    Args:
        logp: ``[N, L]``, nats.
        logp_old: ``[N, L]``.
        advantage: A ``[N, L]``.
        mask: tokens that count ``[N, L]`` bool.
        eps_low: in [0, 1].
        eps_high: >= 0.

    Returns:
        (low, high) in [0, 1]; 0 for a mask without tokens. For the sequence ratio of GSPO use `clipped_tokens`.

    Raises:
        UserError: shapes other than ``[N, L]``, a mask that is not bool, bounds out of range.
    """
    same_shape("clip_shares", logp=logp, logp_old=logp_old, advantage=advantage, mask=mask)
    _bounds(eps_low, eps_high)
    _bool(mask, "clip_shares")
    low, high = clipped_tokens(log_ratio(logp.detach(), logp_old).exp(), advantage, eps_low, eps_high)
    tokens = mask.sum().clamp(min=1)
    return (low & mask).sum() / tokens, (high & mask).sum() / tokens
