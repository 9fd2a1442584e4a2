"""Divergences: KL estimators on sampled tokens with a stated gradient, exact ones over the vocabulary, a controller.

l = logp - logp_ref. k1 = l, k2 = l^2 / 2, k3 = exp(-l) - 1 + l >= 0. Under samples of pi, E k1 = E k3 = KL(pi || ref)
and k2 is biased. What matters in a *loss* is the gradient, which differs from estimator to estimator:

    written as a loss   expected gradient
    k1                  0: pure noise, refused
    k2                  that of KL(pi || ref), "reverse"
    k3                  that of KL(ref || pi), "forward"
    rho k3, d rho kept  that of KL(pi || ref), "reverse"

So value and gradient are chosen apart. In a *reward*, through which no gradient flows, k1 is right and k3 is not
(`objective.assemble`). `divergence` and `entropy` are the exact ones, for distributions that are known whole.
Leaves out: large vocabularies, tile by tile (`language.head`, `language.head_divergence`).
Sources: Schulman 2020, "Approximating KL divergence"; the table of gradients is derived here and tested in closed form.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.loss.policy import LOG_RATIO, log_ratio, same_shape
from steersman.objective.loss.robust import check_positive, upcast

Estimator = Literal["k1", "k2", "k3"]
Gradient = Literal["reverse", "forward", "as_written"]
Kind = Literal["reverse_kl", "forward_kl", "jsd"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)
DIVERGENCES: tuple[str, ...] = get_args(Kind)
SAMPLED = "sampled"
"""The estimate of reverse_kl from the token that was drawn (`sampled_unchecked`)."""
FORMS = (*DIVERGENCES, SAMPLED)
OF = ("policy", "teacher")
"""Whose likeliest tokens are counted."""
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


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    kind: str = "reverse_kl",
    beta: float | int = 0.5,
    top_k: int | None = None,
    of: str = "policy",
    tail: bool = True,
) -> Float[Tensor, "*N"]:
    """Divergence of two categorical distributions from their logits, differentiable in the student's.

    With p = softmax(student_logits), q = softmax(teacher_logits), m = beta q + (1 - beta) p, sums over the vocabulary:
    reverse_kl  KL(p || q) = sum p (log p - log q)     d/dz_j = p_j (log p_j - log q_j - KL)
    forward_kl  KL(q || p) = sum q (log q - log p)     d/dz_j = p_j - q_j
    jsd         beta KL(q || m) + (1 - beta) KL(p || m)

    Args:
        student_logits: ``[..., V]``, carries the gradient.
        teacher_logits: ``[..., V]``, without one.
        kind: see above.
        beta: of jsd, in (0, 1): weight of the teacher in m.
        top_k: K >= 1; the K likeliest tokens count one by one and all others together as one, so the result is a lower
            bound. None, or K >= V: the whole vocabulary.
        of: whose K likeliest: "policy" = the student's, "teacher".
        tail: False = the others do not count: p and q are those of the K tokens alone, renormalised. Then it bounds
            nothing, and has no gradient for the student's mass outside.

    Returns:
        ``[...]`` >= 0 up to rounding, nats, float32 (float64 for float64 logits).

    Raises:
        UserError: shapes that disagree, an unknown kind, beta or top_k out of range, NaN or +inf among the logits or a
            row that is -inf throughout.

    Edge cases: a token of probability 0 (logit -inf) contributes 0, and the KL is +inf if only its second argument
    excludes it; jsd stays finite. The ends of jsd's beta give 0 and not the KLs: jsd / beta -> KL(q || p) for
    beta -> 0, jsd / (1 - beta) -> KL(p || q) for beta -> 1; so they are refused (TRL makes them the two KLs).

    Source: GKD, arXiv 2306.13649 (its beta weighs the teacher as here); the tail as one token: SDPO, arXiv 2601.20802;
    the teacher's K alone: OPSD, arXiv 2601.18734.
    """
    if student_logits.shape != teacher_logits.shape or 0 in (student_logits.ndim, *student_logits.shape[-1:]):
        what = f"logits have shape {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise UserError(what, where="divergence", allowed="the same shape [..., V]")
    check_form(kind, beta, top_k, of)
    for name, x in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        _check_logits(x, name)
    return divergence_unchecked(student_logits, teacher_logits, kind, beta, top_k, of, tail)


def check_form(
    kind: str, beta: float | int, top_k: int | None, of: str = "policy", names: Sequence[str] = DIVERGENCES
) -> None:
    """Refuse an unknown divergence, and numbers out of range; `names` are those that can be computed."""
    if kind not in names:
        raise UserError(f"unknown divergence {kind!r}", where="kind", allowed=", ".join(names))
    if of not in OF:
        raise UserError(f"is {of!r}", where="of", allowed=", ".join(OF))
    if kind == SAMPLED and top_k is not None:
        raise UserError("sampled reads the token that was drawn and no other", where="top_k", cure="Leave it out.")
    if kind == "jsd" and not 0 < beta < 1:
        what = f"beta is {beta}"
        cure = "The ends are the two KLs only after division by beta or 1 - beta; use forward_kl or reverse_kl."
        raise UserError(what, where="beta of jsd", allowed="0 < beta < 1", cure=cure)
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}", where="top_k", allowed="1 or more")


def _check_logits(logits: Tensor, name: str) -> None:
    bad = ~torch.isfinite(logits.detach().amax(-1))  # NaN wins a maximum
    if bool(bad.any()):
        place = tuple(bad.nonzero()[0].tolist())
        found = float(logits[place].detach().amax())
        raise UserError(f"hold {found} at {list(place)}", where=name, allowed="finite logits, -inf for some")


def divergence_unchecked(
    student_logits: Tensor,
    teacher_logits: Tensor,
    kind: str,
    beta: float | int,
    top_k: int | None,
    of: str = "policy",
    tail: bool = True,
) -> Float[Tensor, "*N"]:
    """`divergence` for callers that check its result: NaN in gives NaN out, and nothing waits for an accelerator."""
    log_p = torch.log_softmax(upcast(student_logits, "student_logits"), -1)
    log_q = torch.log_softmax(upcast(teacher_logits, "teacher_logits").detach(), -1)
    if top_k is not None and top_k < log_p.shape[-1]:
        chosen = (log_p.detach() if of == "policy" else log_q).topk(top_k).indices
        cut = _with_tail if tail else _alone
        log_p, log_q = cut(log_p, chosen), cut(log_q, chosen)
    if kind == "jsd":
        p, q = log_p.exp(), log_q.exp()
        m = beta * q + (1 - beta) * p
        log_m = torch.where(m == 0, torch.ones_like(m), m).log()
        return beta * _kl(q, log_q, log_m) + (1 - beta) * _kl(p, log_p, log_m)
    first, second = (log_p, log_q) if kind == "reverse_kl" else (log_q, log_p)
    return _kl(first.exp(), first, second)


def sampled_unchecked(student_logits: Tensor, teacher_logits: Tensor, drawn: Tensor) -> Float[Tensor, "*N"]:
    """How much likelier the student finds the token that was drawn; its gradient pulls towards the teacher.

    value = g = log p(y) - log q(y);  gradient = g grad log p(y). If p drew y, E value = KL(p || q), and E gradient is
    the gradient of KL(p || q): that of log p(y) itself, which the derivative of the value would add, is 0 on average.

    Args:
        student_logits: ``[..., V]``, carries the gradient.
        teacher_logits: ``[..., V]``, without one.
        drawn: y ``[...]`` int64.

    Returns:
        ``[...]``, nats, of either sign. NaN in gives NaN out; +inf where only the teacher excludes the token.

    Source: the sampled variants of OPSD, arXiv 2601.18734, and SDPO, arXiv 2601.20802.
    """
    log_p = torch.log_softmax(upcast(student_logits, "student_logits"), -1).gather(-1, drawn[..., None])[..., 0]
    log_q = torch.log_softmax(upcast(teacher_logits, "teacher_logits").detach(), -1).gather(-1, drawn[..., None])[
        ..., 0
    ]
    gap = log_p.detach() - log_q
    return gap + gap * (log_p - log_p.detach())


def _alone(log_p: Tensor, chosen: Tensor) -> Tensor:
    """Log-probabilities of the chosen tokens among themselves."""
    return torch.log_softmax(log_p.gather(-1, chosen), -1)


def _kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    # The difference is cut before the product: 0 times an infinity would reach the gradient as NaN.
    return (p * torch.where(p == 0, torch.zeros_like(p), log_p - log_q)).sum(-1)


def _with_tail(log_p: Tensor, chosen: Tensor) -> Tensor:
    """Log-probabilities of the chosen tokens and of all others together."""
    others = torch.ones_like(log_p).scatter(-1, chosen, 0.0)
    rest = (log_p.exp() * others).sum(-1, keepdim=True)  # not 1 less the others: exact where it is tiny
    log_rest = torch.where(rest == 0, torch.ones_like(rest), rest).log()
    log_rest = torch.where(rest == 0, torch.full_like(rest, -math.inf), log_rest)
    return torch.cat([log_p.gather(-1, chosen), log_rest], -1)


def entropy(logits: Tensor, normalize: bool = False) -> Float[Tensor, "*N"]:
    """Entropy of categorical distributions from their logits, differentiable.

    H = -sum_v p_v log p_v with p = softmax(logits); normalised: H / log V, in [0, 1].

    Args:
        logits: ``[..., V]``.
        normalize: divide by log V, the largest there is.

    Returns:
        ``[...]``, nats or a share, float32 (float64 for float64 logits).

    Raises:
        UserError: a scalar, NaN or +inf among the logits, or a row that is -inf throughout.

    Edge cases: a logit of -inf contributes 0. V = 1 gives 0.
    """
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise UserError(f"logits have shape {tuple(logits.shape)}", where="entropy", allowed="[..., V], V >= 1")
    _check_logits(logits, "logits")
    log_p = torch.log_softmax(upcast(logits, "logits"), -1)
    p = log_p.exp()
    found = -(p * torch.where(p == 0, torch.zeros_like(p), log_p)).sum(-1)
    return found / max(math.log(logits.shape[-1]), 1e-9) if normalize else found


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
