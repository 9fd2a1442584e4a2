"""KTO: single responses marked good or bad instead of pairs. Leaves out: how examples are mismatched (the learner).

Source: Ethayarajh et al. 2024, arXiv 2402.01306.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.loss.robust import check_positive, upcast


def mismatched_kl(log_ratio: Float[Tensor, "*N"]) -> Float[Tensor, ""]:
    """KTO's estimate of the KL to the reference: max(0, mean log-ratio of mismatched pairs), without gradient.

    Args:
        log_ratio: log pi - log ref ``[N]`` in nats of responses y_{i+1} to prompts x_i (rotate by one; reversing would
            pair the middle of an odd batch with itself).

    Raises:
        UserError: fewer than two rows, where nothing can be mismatched.
    """
    if log_ratio.numel() < 2:
        raise UserError("KTO needs at least two examples in a micro-batch to mismatch them", where="kto")
    return upcast(log_ratio, "log_ratio").detach().mean().clamp(min=0)


def kto(
    log_ratio: Float[Tensor, "*N"],
    desirable: Tensor,
    beta: float | int,
    reference_kl: float | int | Tensor,
    weight_desirable: float | int = 1.0,
    weight_undesirable: float | int = 1.0,
) -> Float[Tensor, "*N"]:
    """Kahneman-Tversky optimisation of single responses marked good or bad.

    loss = w_D (1 - sigma(beta (g - z0))) if desirable, else w_U (1 - sigma(beta (z0 - g))).

    Args:
        log_ratio: g = log pi - log ref ``[N]``, nats, summed over the response.
        desirable: bool ``[N]``.
        beta: > 0.
        reference_kl: z0 in nats, a number, a scalar tensor or ``[N]`` (see `mismatched_kl`); taken as max(0, z0) and
            never differentiated.
        weight_desirable: w_D >= 0; choose w_D n_D : w_U n_U between 1 and 4/3.
        weight_undesirable: w_U >= 0.

    Returns:
        ``[N]`` in [0, max(w_D, w_U)].

    Raises:
        UserError: beta not positive, `desirable` of another shape or not bool, a negative or NaN weight.

    Source: arXiv 2402.01306, equation 8 (constants that do not depend on the policy dropped).
    """
    g = upcast(log_ratio, "log_ratio")
    if desirable.dtype != torch.bool or desirable.shape != g.shape:
        what = f"desirable is {desirable.dtype} {tuple(desirable.shape)} for log-ratios {tuple(g.shape)}"
        raise UserError(what, where="desirable", allowed="one bool for each example")
    for name, weight in (("weight_desirable", weight_desirable), ("weight_undesirable", weight_undesirable)):
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"{name} is {weight}", where=name, allowed="a finite number >= 0")
    zero = torch.as_tensor(reference_kl, dtype=g.dtype, device=g.device).detach()
    if zero.ndim and zero.shape != g.shape:
        what = f"reference_kl has shape {tuple(zero.shape)} for log-ratios {tuple(g.shape)}"
        raise UserError(what, where="reference_kl", allowed="a number or one for each example")
    lead = check_positive(beta, "beta") * (g - zero.clamp(min=0))
    weight_of = torch.where(desirable, weight_desirable, weight_undesirable).to(g.dtype)
    return weight_of * torch.sigmoid(torch.where(desirable, -lead, lead))
