"""Losses under wrong preference labels: the noise-correcting transform, soft labels, and the checks all losses share.

Noise model: an observed preference is the opposite of the clean one with probability eps < 1/2, independently of the
pair (Ray Chowdhury, Kini, Natarajan, "Provably Robust DPO", ICML 2024, arXiv 2403.00409); eps may differ by example.
Rankings of more than two responses would need a noise model on permutations and have no interface here: correct their
pairs one by one, which assumes that pairs flip independently. Leaves out: how eps is found (`objective.flip_rate`).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError

LossFn = Callable[[Tensor], Tensor]
"""A loss as a function of the margin z or h, elementwise: ``[N] -> [N]``."""

_RANGE = "0 <= flip_rate < 0.5, one number or one for each example"


def upcast(x: Tensor, name: str) -> Tensor:
    """`x` in float32 (float64 stays float64), refusing what is not floating point."""
    if not x.is_floating_point():
        raise UserError(f"{name} has dtype {x.dtype}", where=name, allowed="a floating-point tensor")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_positive(value: float | int, name: str) -> float:
    """`value` if it is a finite number above 0.

    Raises:
        UserError: names the argument and the value.
    """
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name} is {value}", where=name, allowed="a finite number > 0")
    return value


def margin_of(h: Tensor, beta: float | int) -> Tensor:
    """z = beta h in float32 (float64 for float64 input)."""
    return upcast(h, "h") * check_positive(beta, "beta")


def check_flip_rate(flip_rate: Any, like: Tensor) -> float | Tensor:
    """`flip_rate` as a float, or as a floating-point tensor shaped like `like`.

    Raises:
        UserError: negative, NaN, 0.5 or more, or a length other than that of `like`; names the first bad example.
    """
    if not isinstance(flip_rate, Tensor):
        if flip_rate is None or isinstance(flip_rate, str):
            raise UserError(f"flip_rate is {flip_rate!r}", where="flip_rate", allowed=_RANGE)
        if isinstance(flip_rate, (int, float)):
            if not 0 <= flip_rate < 0.5:  # NaN fails both comparisons
                raise UserError(f"flip_rate is {flip_rate}", where="flip_rate", allowed=_RANGE)
            return float(flip_rate)
        flip_rate = torch.as_tensor(flip_rate)
    rate = upcast(flip_rate, "flip_rate").to(like.device)
    if rate.ndim and rate.shape != like.shape:
        what = f"flip_rate has shape {tuple(rate.shape)} for examples of shape {tuple(like.shape)}"
        raise UserError(what, where="flip_rate", allowed=_RANGE)
    bad = ~((rate >= 0) & (rate < 0.5))
    if bool(bad.any()):
        row = int(bad.flatten().nonzero()[0, 0])
        what = f"flip_rate is {float(rate.flatten()[row])} for example {row}"
        raise UserError(what, where="flip_rate", allowed=_RANGE)
    return rate


def check_label(label: Tensor, like: Tensor) -> Tensor:
    """`label` in the dtype of `like`.

    Raises:
        UserError: another shape than `like`, or a value that is NaN or outside [0, 1]; names the first bad example.
    """
    if label.shape != like.shape:
        what = f"label has shape {tuple(label.shape)} for examples of shape {tuple(like.shape)}"
        raise UserError(what, where="label", allowed="one probability for each example")
    value = label.to(like)
    bad = ~((value >= 0) & (value <= 1))
    if bool(bad.any()):
        row = int(bad.flatten().nonzero()[0, 0])
        raise UserError(f"label is {float(value.flatten()[row])} for example {row}", where="label", allowed="[0, 1]")
    return value


def noise_odds(flip_rate: float | int | Tensor, like: Tensor) -> float | Tensor:
    """c = eps / (1 - 2 eps), the weight that unbiasedness puts on the opposite label, in the dtype of `like`."""
    rate = check_flip_rate(flip_rate, like)
    odds = rate / (1 - 2 * rate)
    return odds.to(like.dtype) if isinstance(odds, Tensor) else odds


def robustify(loss_fn: LossFn, flip_rate: float | int | Tensor) -> LossFn:
    """The loss whose expectation over label flips equals `loss_fn` on clean labels.

    T_eps[l](z) = [(1 - eps) l(z) - eps l(-z)] / (1 - 2 eps) = l(z) + c (l(z) - l(-z)),  c = eps / (1 - 2 eps).

    Args:
        loss_fn: l, elementwise on margins z ``[N]``.
        flip_rate: eps in [0, 0.5), a number or ``[N]``.

    Returns:
        A function of the same kind.

    Raises:
        UserError: when the result is called with a flip rate out of range or of another length than its margins.

    Edge cases: eps = 0 returns the values of `loss_fn` exactly. The result may be negative and unbounded below, which
    is not a bug (see `is_bounded_below`); watch the accuracy on pairs or the forward likelihood, not the loss.

    Source: arXiv 2403.00409, the loss; Natarajan et al. 2013 (unbiased estimators under label noise).
    """

    def robust(z: Tensor) -> Tensor:
        right = loss_fn(z)
        return right + noise_odds(flip_rate, z) * (right - loss_fn(-z))

    return robust


def is_bounded_below(loss_fn: LossFn, flip_rate: float | int) -> bool:
    """Whether T_eps of `loss_fn` stops falling at large margins, judged at |z| = 1e2, 1e3 and 1e4.

    Args:
        loss_fn: elementwise on float64 margins.
        flip_rate: eps in [0, 0.5).

    Returns:
        False if the transformed loss falls by more than 1 from 1e3 to 1e4 on either side after falling before.

    Edge cases: a numerical probe, so a loss that falls more slowly than that (a logarithm) counts as bounded.
    """
    z = torch.tensor([1e2, 1e3, 1e4], dtype=torch.float64)
    robust = robustify(loss_fn, flip_rate)
    sides = (robust(z), robust(-z))
    return not any(bool((v[2] < v[1] - 1) & (v[1] < v[0])) for v in sides)


def soften(loss_fn: LossFn, h: Tensor, label: Tensor | None) -> Tensor:
    """A loss of labelled pairs turned into one of soft labels: p l(h) + (1 - p) l(-h).

    Args:
        loss_fn: l, elementwise.
        h: margins ``[N]``.
        label: p ``[N]`` in [0, 1], the probability that the first side is preferred (0.5 a tie); None = 1.

    Returns:
        ``[N]``. With T_eps[l] for l this is p' l + (1 - p') l(-h), p' = (p - eps) / (1 - 2 eps): the two commute.

    Raises:
        UserError: a label of another shape, NaN or outside [0, 1].
    """
    if label is None:
        return loss_fn(h)
    right = loss_fn(h)
    p = check_label(label, right)
    return p * right + (1 - p) * loss_fn(-h)


def gradient_weight(loss_fn: LossFn, z: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """How hard each example pushes its margin up: w = -d loss / d z, by automatic differentiation.

    Args:
        loss_fn: elementwise loss.
        z: margins ``[N]``; its own graph is not touched.

    Returns:
        ``[N]`` without a graph; for DPO sigma(-z), for rDPO sigma(-z) + eps / (1 - 2 eps) (with z = beta h).
    """
    with torch.enable_grad():
        point = upcast(z, "z").detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss_fn(point).sum(), point)
    return -slope
