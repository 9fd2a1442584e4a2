"""Reward models: the Bradley-Terry loss with margin and soft labels, its noise-corrected forms, and centring.

The three losses take the *difference* of rewards, so they cannot see a constant added to both; `reward_centering` fixes
it. Leaves out: the model that gives the rewards and its quality report (`reward`).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from steersman.core.errors import UserError
from steersman.objective.loss.robust import LossFn, check_flip_rate, robustify, soften, upcast


def _check_margin(margin: float | int | Tensor, like: Tensor) -> float | Tensor:
    if isinstance(margin, Tensor):
        if margin.ndim and margin.shape != like.shape:
            what = f"margin has shape {tuple(margin.shape)} for examples of shape {tuple(like.shape)}"
            raise UserError(what, where="margin", allowed="a number or one for each example")
        return margin.to(like)
    return margin


def _with_margin(margin: float | int | Tensor) -> LossFn:
    return lambda d: -logsigmoid(d - margin)


def bradley_terry(
    difference: Float[Tensor, "*N"], margin: float | int | Tensor = 0.0, label: Tensor | None = None
) -> Float[Tensor, "*N"]:
    """Negative log-likelihood of a preference under the Bradley-Terry model.

    loss = -[p log sigma(d - m) + (1 - p) log sigma(-d - m)],  d = r_first - r_second.

    Args:
        difference: d ``[N]``, reward units; bfloat16 and float16 are upcast.
        margin: m, a number or ``[N]``, reward units: how far the preferred side should lead.
        label: p ``[N]`` in [0, 1], the probability that the first side is preferred (0.5 a tie); None = 1.

    Returns:
        ``[N]`` float32 (float64 for float64 input).

    Raises:
        UserError: a margin or label of another length, a label outside [0, 1] or NaN, integer rewards.

    Edge cases: linear at large negative d with gradient -1, where the common log(sigma(d) + 1e-5) stops learning.

    Source: Bradley and Terry 1952; the margin as in Llama 2 (arXiv 2307.09288), mirrored for soft labels (ours).
    """
    d = upcast(difference, "difference")
    return soften(_with_margin(_check_margin(margin, d)), d, label)


def bradley_terry_unbiased(
    difference: Float[Tensor, "*N"],
    flip_rate: float | int | Tensor,
    margin: float | int | Tensor = 0.0,
    label: Tensor | None = None,
) -> Float[Tensor, "*N"]:
    """The Bradley-Terry loss whose expectation over label flips is the loss on clean labels.

    loss = T_eps of `bradley_terry`, [(1 - eps) l(d) - eps l(-d)] / (1 - 2 eps) with l(d) = -log sigma(d - m).

    Args:
        difference: d ``[N]``, reward units.
        flip_rate: eps in [0, 0.5), a number or ``[N]``.
        margin: m, a number or ``[N]``.
        label: observed p ``[N]`` in [0, 1]; None = 1.

    Returns:
        ``[N]``; may be negative and is unbounded below.

    Raises:
        UserError: as `bradley_terry`, and a flip rate out of range or of another length.

    Edge cases: eps = 0 is `bradley_terry`; m = 0 is `preference.rdpo` at beta = 1.

    Source: arXiv 2403.00409 (reward fitting); with a margin, ours.
    """
    d = upcast(difference, "difference")
    return soften(robustify(_with_margin(_check_margin(margin, d)), flip_rate), d, label)


def bradley_terry_forward(
    difference: Float[Tensor, "*N"],
    flip_rate: float | int | Tensor,
    margin: float | int | Tensor = 0.0,
    label: Tensor | None = None,
) -> Float[Tensor, "*N"]:
    """Negative log-likelihood of the *observed* preference when labels flip: bounded, and efficient in large samples.

    loss = -log[(1 - eps) sigma(d - m) + eps sigma(-d - m)]; with p, the mixture of both sides.

    Args:
        difference: d ``[N]``, reward units.
        flip_rate: eps in [0, 0.5), a number or ``[N]``.
        margin: m, a number or ``[N]``; only at m = 0 is the bracket a probability.
        label: observed p ``[N]`` in [0, 1]; None = 1.

    Returns:
        ``[N]``, between 0 and -log eps at m = 0.

    Raises:
        UserError: as `bradley_terry_unbiased`.

    Edge cases: eps = 0 is `bradley_terry`. Far on the wrong side the gradient vanishes: such labels count as flipped.

    Source: forward correction of Patrini et al. 2017, written with logaddexp so that it holds at |d| = 1e3.
    """
    d = upcast(difference, "difference")
    m = _check_margin(margin, d)
    rate = torch.as_tensor(check_flip_rate(flip_rate, d), dtype=d.dtype, device=d.device)
    keep, flip = torch.log1p(-rate), torch.log(rate)
    return soften(lambda x: -torch.logaddexp(keep + logsigmoid(x - m), flip + logsigmoid(-x - m)), d, label)


def reward_centering(reward_first: Float[Tensor, "*N"], reward_second: Tensor) -> Float[Tensor, "*N"]:
    """Penalty that fixes the additive constant a Bradley-Terry model leaves free.

    loss = (r_first + r_second)^2, to be added with a small coefficient (1e-2).

    Args:
        reward_first: ``[N]``, reward units.
        reward_second: ``[N]``, reward units.

    Returns:
        ``[N]``; zero where the two rewards sum to zero.

    Raises:
        UserError: sides of different length, or integer rewards.

    Source: Eisenstein et al. 2023 (arXiv 2312.09244).
    """
    first, second = upcast(reward_first, "reward_first"), upcast(reward_second, "reward_second")
    if first.shape != second.shape:
        what = f"reward_first has shape {tuple(first.shape)} and reward_second {tuple(second.shape)}"
        raise UserError(what, where="reward_centering", allowed="one reward for each side of each pair")
    return (first + second).square()
