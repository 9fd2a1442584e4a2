"""KL divergence to a reference: estimators on sampled tokens with a stated gradient, the exact one, a controller.

l = logp - logp_ref. k1 = l, k2 = l^2 / 2, k3 = exp(-l) - 1 + l >= 0. Under samples of pi, E k1 = E k3 = KL(pi || ref)
and k2 is biased. What matters in a *loss* is the gradient, which differs from estimator to estimator:

    written as a loss   expected gradient
    k1                  0: pure noise, refused
    k2                  that of KL(pi || ref), "reverse"
    k3                  that of KL(ref || pi), "forward"
    rho k3, d rho kept  that of KL(pi || ref), "reverse"

So value and gradient are chosen apart. In a *reward*, through which no gradient flows, k1 is right and k3 is not
(`objective.assemble`). Leaves out: chunking over tokens of large vocabularies (`language.head`).
Sources: Schulman 2020, "Approximating KL divergence"; the table of gradients is derived here and tested in closed form.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.loss.policy import LOG_RATIO, log_ratio, same_shape
from steersman.objective.loss.robust import check_positive, upcast

Estimator = Literal["k1", "k2", "k3"]
Gradient = Literal["reverse", "forward", "as_written"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
GRADIENTS: tuple[str, ...] = get_args(Gradient)


def check_pair(estimator: str, gradient: str) -> None:
    """Refuse unknown names, and k1 as a loss with the gradient of its own formula."""
    if estimator not in ESTIMATORS:
        raise UserError(f"unknown estimator {estimator!r}", where="estimator", allowed=", ".join(ESTIMATORS))
    if gradient not in GRADIENTS:
        raise UserError(f"unknown gradient {gradient!r}", where="gradient", allowed=", ".join(GRADIENTS))
    if (estimator, gradient) == ("k1", "as_written"):
        raise UserError(
            'k1 in a loss with gradient "as_written" is pure noise: the expectation of its gradient is exactly 0',
            where="estimator, gradient",
            cure='Use gradient "reverse" or "forward", another estimator, or k1 in the reward.',
        )


def kl_value(logp: Tensor, logp_ref: Tensor, estimator: str = "k1") -> Float[Tensor, "*N"]:
    """The value of an estimator on sampled tokens, without a gradient.

    Args:
        logp: log pi(token), nats, any shape.
        logp_ref: the reference's, same shape.
        estimator: k1 = l, k2 = l^2 / 2, k3 = exp(-l) - 1 + l.

    Returns:
        Same shape, float32 (float64 for float64 input).

    Raises:
        UserError: shapes that disagree, an unknown estimator.

    Edge cases: in k3 the exponent is held in [-20, 20].
    """
    check_pair(estimator, "reverse")
    if logp.shape != logp_ref.shape:
        what = f"logp has shape {tuple(logp.shape)}, logp_ref {tuple(logp_ref.shape)}"
        raise UserError(what, where="kl_value")
    gap = (upcast(logp, "logp") - upcast(logp_ref, "logp_ref")).detach()
    if estimator == "k1":
        return gap
    # expm1 keeps k3 accurate and >= 0 where l is tiny.
    return gap.square() / 2 if estimator == "k2" else (-gap).clamp(-LOG_RATIO, LOG_RATIO).expm1() + gap


def kl_penalty(
    logp: Tensor,
    logp_ref: Tensor,
    logp_old: Tensor | None = None,
    estimator: str = "k3",
    gradient: str = "reverse",
) -> Float[Tensor, "N L"]:
    """KL penalty of sampled tokens as a differentiable loss, with the gradient that was asked for.

    value = rho k(l);  gradient = rho c(l) grad logp, with c = l ("reverse": in expectation that of KL(pi || ref)) or
    c = 1 - exp(-l) ("forward": that of KL(ref || pi)). rho = exp(logp - logp_old), 1 without logp_old. "as_written" is
    the derivative of k itself: forward for k3, reverse for k2. rho k3 differentiated through rho too is "reverse".

    Args:
        logp: log pi(token) ``[N, L]``, nats, carries the gradient.
        logp_ref: the reference's ``[N, L]``.
        logp_old: that of the policy that drew the tokens ``[N, L]``; None = the tokens come from the live policy. With
            it both value and gradient are unbiased off-policy (k2's value stays biased).
        estimator: of the value.
        gradient: see above.

    Returns:
        ``[N, L]`` float32 (float64 for float64 logp); aggregate over action tokens and multiply by beta.

    Raises:
        UserError: shapes other than ``[N, L]``, unknown names, k1 with "as_written" (its gradient is noise).

    Edge cases: l = 0 gives 0 and no gradient. The exponents are held in [-20, 20] (verl holds k3 in [-10, 10] too).
    The KL of whole sequences has a further term, the score of earlier tokens; like every published loss this is the sum
    of the KLs of single tokens at the states visited.
    """
    check_pair(estimator, gradient)
    others = {"logp_ref": logp_ref} if logp_old is None else {"logp_ref": logp_ref, "logp_old": logp_old}
    same_shape("kl_penalty", logp=logp, **others)
    x = upcast(logp, "logp")
    with torch.no_grad():
        gap = x - upcast(logp_ref, "logp_ref")
        reverse = gradient == "reverse" or (gradient == "as_written" and estimator == "k2")
        slope = gap if reverse else -(-gap).clamp(-LOG_RATIO, LOG_RATIO).expm1()
        value = kl_value(x, logp_ref, estimator)
        if logp_old is not None:
            rho = log_ratio(x, logp_old).exp()
            value, slope = rho * value, rho * slope
    return value + slope * (x - x.detach())


def exact_kl(logits: Tensor, logits_ref: Tensor, direction: str = "reverse") -> Float[Tensor, "*N"]:
    """Divergence of two categorical distributions from their logits, differentiable.

    reverse: KL(pi || ref) = sum_v pi_v (log pi_v - log ref_v);  forward: KL(ref || pi).

    Args:
        logits: of pi ``[..., V]``, carries the gradient.
        logits_ref: of the reference ``[..., V]``, without one.
        direction: which of the two.

    Returns:
        ``[...]`` >= 0 up to rounding, nats, float32 (float64 for float64 logits).

    Raises:
        UserError: shapes that disagree, an unknown direction.

    Edge cases: a token of probability 0 (logit -inf) contributes 0, and +inf if only the second one excludes it.
    """
    if logits.shape != logits_ref.shape or logits.ndim == 0:
        what = f"logits have shape {tuple(logits.shape)} and {tuple(logits_ref.shape)}"
        raise UserError(what, where="exact_kl", allowed="the same shape [..., V]")
    if direction not in ("reverse", "forward"):
        raise UserError(f"unknown direction {direction!r}", where="direction", allowed="reverse, forward")
    log_p = torch.log_softmax(upcast(logits, "logits"), -1)
    log_q = torch.log_softmax(upcast(logits_ref, "logits_ref").detach(), -1)
    if direction == "forward":
        log_p, log_q = log_q, log_p
    p = log_p.exp()
    # The difference is cut before the product: 0 times an infinity would reach the gradient as NaN.
    return (p * torch.where(p == 0, torch.zeros_like(p), log_p - log_q)).sum(-1)


def adapt_beta(
    beta: float | int,
    observed: float | int,
    n: int,
    target: float | int = 6.0,
    horizon: float | int = 10_000,
    clip: float | int = 0.2,
) -> float:
    """One step of the adaptive KL controller.

    beta' = beta (1 + clip(KL / target - 1, -c, c) n / horizon).

    Args:
        beta: >= 0, the coefficient now.
        observed: KL of this step, nats a sequence; an estimate may be negative.
        n: >= 0, number of samples of this step.
        target: > 0, the KL wanted.
        horizon: > 0, samples over which the coefficient may change by the factor 1 + c.
        clip: c > 0.

    Returns:
        The coefficient of the next step.

    Raises:
        UserError: a value out of range, NaN or infinite.

    Edge cases: clip n / horizon of 1 or more could bring the coefficient to 0 for good, and is refused.

    Source: Ziegler et al. 2019, arXiv 1909.08593.
    """
    for name, number in {"target": target, "horizon": horizon, "clip": clip}.items():
        check_positive(float(number), name)
    if not (math.isfinite(beta) and beta >= 0 and math.isfinite(observed) and n >= 0):
        what = f"beta is {beta}, observed {observed}, n {n}"
        raise UserError(what, where="adapt_beta", allowed="finite numbers, beta and n >= 0")
    if clip * n / horizon >= 1:
        raise UserError(f"horizon {horizon} is too short for {n} samples a step", where="adapt_beta, horizon")
    return float(beta) * (1 + min(max(observed / target - 1, -clip), clip) * n / horizon)
