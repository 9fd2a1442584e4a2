"""Preference losses on the margin that are not logistic: IPO, hinge (SLiC), probit, and their noise-robust forms.

Same conventions as `preference`, from where they are importable too. Leaves out: soft labels (`robust.soften` makes
them of any loss).
Sources: IPO arXiv 2310.12036; SLiC arXiv 2305.10425; their noise-robust forms are named in arXiv 2403.00409 and derived
here.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from steersman.core.errors import UserError
from steersman.objective.loss.robust import check_flip_rate, check_positive, margin_of, robustify, upcast


def ipo(h: Float[Tensor, "*N"], tau: float | int | Tensor) -> Float[Tensor, "*N"]:
    """Identity preference optimisation: regress the margin on a fixed target.

    loss = (h - 1 / (2 tau))^2.

    Args:
        h: difference of log-ratios ``[N]``, nats. Summed log-probabilities; divide h by lengths first for the averaged
            variant that some libraries call by the same name.
        tau: > 0, a number or ``[N]``.

    Returns:
        ``[N]``, >= 0.

    Raises:
        UserError: tau not positive and finite.

    Source: arXiv 2310.12036, equation 17.
    """
    x = upcast(h, "h")
    if not isinstance(tau, Tensor):
        return (x - 1 / (2 * check_positive(tau, "tau"))).square()
    if not bool((torch.isfinite(tau) & (tau > 0)).all()):
        raise UserError("tau has a value that is not positive", where="tau", allowed="finite numbers > 0")
    return (x - (1 / (2 * tau)).to(x)).square()


def ripo(h: Float[Tensor, "*N"], tau: float | int, flip_rate: float | int | Tensor) -> Float[Tensor, "*N"]:
    """IPO made unbiased under label flips, which is IPO at a smaller tau.

    loss = (h - 1 / (2 tau (1 - 2 eps)))^2 = `ipo` at tau (1 - 2 eps); equals T_eps of IPO up to a constant.

    Args:
        h: difference of log-ratios ``[N]``, nats.
        tau: > 0.
        flip_rate: eps in [0, 0.5), a number or ``[N]``.

    Returns:
        ``[N]``, >= 0 (unlike `rdpo`, bounded below).

    Raises:
        UserError: tau not positive, or a flip rate out of range or of another length.

    Source: completing the square in T_eps of IPO (ours; the constant is dropped).
    """
    return ipo(h, check_positive(tau, "tau") * (1 - 2 * check_flip_rate(flip_rate, h)))


def slic(h: Float[Tensor, "*N"], beta: float | int) -> Float[Tensor, "*N"]:
    """Hinge loss on the margin: max(0, 1 - z), z = beta h.

    Args:
        h: difference of log-ratios ``[N]``, nats.
        beta: > 0.

    Returns:
        ``[N]``, >= 0.

    Source: arXiv 2305.10425 in the form of arXiv 2309.06657 (with a reference).
    """
    return relu(1 - margin_of(h, beta))


def rslic(h: Float[Tensor, "*N"], beta: float | int, flip_rate: float | int | Tensor) -> Float[Tensor, "*N"]:
    """Hinge loss made unbiased under label flips.

    loss = T_eps of max(0, 1 - z): 1 - z / (1 - 2 eps) for |z| <= 1 and -eps (1 + z) / (1 - 2 eps) beyond z = 1.

    Args:
        h: difference of log-ratios ``[N]``, nats.
        beta: > 0.
        flip_rate: eps in [0, 0.5), a number or ``[N]``.

    Returns:
        ``[N]``; unbounded below for eps > 0, `slic` bit for bit at eps = 0.

    Source: arXiv 2403.00409 names the extension; the pieces are ours.
    """
    return robustify(lambda z: relu(1 - z), flip_rate)(margin_of(h, beta))


class _LogNormalCDF(torch.autograd.Function):
    """log Phi(z) with the gradient phi / Phi = sqrt(2 / pi) / erfcx(-z / sqrt 2).

    The library's own gradient takes the exponential of a difference of squares and is 4 per cent off at z = -1e3.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        out: Tensor = torch.special.log_ndtr(z)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        slope: Tensor = math.sqrt(2 / math.pi) / torch.special.erfcx(-z / math.sqrt(2))
        return grads[0] * slope


def _log_normal_cdf(z: Tensor) -> Tensor:
    out: Tensor = _LogNormalCDF.apply(z)  # type: ignore[no-untyped-call]
    return out


def probit(h: Float[Tensor, "*N"], beta: float | int, flip_rate: float | int | Tensor = 0.0) -> Float[Tensor, "*N"]:
    """Preference loss under a probit (Thurstone) model, unbiased under label flips.

    loss = T_eps[l] with l(z) = -log Phi(z), z = beta h.

    Args:
        h: difference of log-ratios ``[N]``, nats.
        beta: > 0.
        flip_rate: eps in [0, 0.5), a number or ``[N]``.

    Returns:
        ``[N]``; falls like -eps z^2 / 2 for eps > 0, so it runs away faster than `rdpo`.

    Source: arXiv 2403.00409 names the extension; the form is ours.
    """
    return robustify(lambda z: -_log_normal_cdf(z), flip_rate)(margin_of(h, beta))
