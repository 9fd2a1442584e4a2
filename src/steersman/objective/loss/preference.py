"""Offline preference losses, one value an example, stable at any margin: the DPO family, its noise-robust forms, KTO.

`h` is the difference of log-ratios in nats, [log pi(y_1) - log ref(y_1)] - [log pi(y_2) - log ref(y_2)], with
log-probabilities summed over the response including its end-of-sequence token; side 1 is the one observed as preferred
unless a label says otherwise. z = beta h and l(z) = -log sigma(z). Because l(-z) = l(z) + z, the logistic losses are
l(z) plus a linear term, which is how they are computed. Every preference loss of the library can be imported from
here; those that are not logistic in h live in `margin`, `kto` and `bradley_terry`.
Leaves out: averaging (`objective.reduce`), log-probabilities (`language`), hyperparameters (`objective.components`).
Sources: DPO arXiv 2305.18290; cDPO Mitchell 2023; rDPO arXiv 2403.00409; forward correction Patrini et al. 2017.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from steersman.objective.loss.bradley_terry import (
    bradley_terry,
    bradley_terry_forward,
    bradley_terry_unbiased,
    reward_centering,
)
from steersman.objective.loss.kto import kto, mismatched_kl
from steersman.objective.loss.margin import ipo, probit, ripo, rslic, slic
from steersman.objective.loss.robust import (
    check_flip_rate,
    check_label,
    check_positive,
    gradient_weight,
    is_bounded_below,
    margin_of,
    robustify,
    soften,
)

__all__ = [
    "bradley_terry",
    "bradley_terry_forward",
    "bradley_terry_unbiased",
    "cdpo",
    "dpo",
    "forward_corrected_dpo",
    "gradient_weight",
    "ipo",
    "is_bounded_below",
    "kto",
    "mismatched_kl",
    "probit",
    "rdpo",
    "reward_centering",
    "ripo",
    "robustify",
    "rslic",
    "safeguards_active",
    "slic",
    "soften",
]


def _orient(z: Tensor, label: Tensor | None) -> tuple[Tensor, float | Tensor]:
    """The margin of the likelier side and the label's probability of the other one, in [0, 0.5].

    Working from the likelier side keeps label 0 exactly the mirror image of label 1.
    """
    if label is None:
        return z, 0.0
    p = check_label(label, z)
    first = p >= 0.5
    return torch.where(first, z, -z), torch.where(first, 1 - p, p)


def _unbiased_slope(minor: float | Tensor, flip_rate: float | int | Tensor, z: Tensor) -> Tensor:
    """k = 1 - p' = (minor - eps) / (1 - 2 eps), the slope of the linear term, expanded to the shape of z."""
    rate = check_flip_rate(flip_rate, z)
    k = (minor - rate) / (1 - 2 * rate)
    return torch.as_tensor(k, dtype=z.dtype, device=z.device).expand(z.shape)


def dpo(h: Float[Tensor, "*N"], beta: float | int, label: Tensor | None = None) -> Float[Tensor, "*N"]:
    """Direct preference optimisation.

    loss = p l(z) + (1 - p) l(-z), z = beta h.

    Args:
        h: difference of log-ratios ``[N]``, nats; bfloat16 and float16 are upcast.
        beta: > 0, strength of the tie to the reference.
        label: p ``[N]`` in [0, 1], the probability that the first side is preferred (0.5 a tie); None = 1.

    Returns:
        ``[N]`` float32 (float64 for float64 input); population minimiser sigma(z) = P(first preferred).

    Raises:
        UserError: beta not a positive number; a label of another length, NaN or outside [0, 1]; integer h.

    Edge cases: h = 0 gives log 2; linear with slope -1 in z far on the wrong side; NaN stays NaN.

    Source: arXiv 2305.18290, equation 7.
    """
    s, k = _orient(margin_of(h, beta), label)
    return k * s - logsigmoid(s)


def cdpo(
    h: Float[Tensor, "*N"], beta: float | int, flip_rate: float | int | Tensor, label: Tensor | None = None
) -> Float[Tensor, "*N"]:
    """Conservative DPO: label smoothing towards the opposite preference.

    loss = (1 - eps) l(z) + eps l(-z) = l(z) + eps z; with p, p is replaced by (1 - eps) p + eps (1 - p).

    Args:
        h: difference of log-ratios ``[N]``, nats.
        beta: > 0.
        flip_rate: eps in [0, 0.5), a number or ``[N]``.
        label: p ``[N]`` in [0, 1]; None = 1.

    Returns:
        ``[N]``, bounded below; minimiser sigma(z) = (1 - eps) q + eps (1 - q) at observed win frequency q.

    Raises:
        UserError: as `dpo`, and a flip rate out of range or of another length.

    Edge cases: eps = 0 is `dpo` bit for bit. On flipped labels it shrinks twice; it does not correct (see `rdpo`).

    Source: Mitchell 2023, "A note on DPO with noisy preferences".
    """
    s, minor = _orient(margin_of(h, beta), label)
    rate = check_flip_rate(flip_rate, s)
    k = torch.as_tensor(minor * (1 - 2 * rate) + rate, dtype=s.dtype, device=s.device)
    return k * s - logsigmoid(s)


def rdpo(
    h: Float[Tensor, "*N"],
    beta: float | int,
    flip_rate: float | int | Tensor,
    label: Tensor | None = None,
    *,
    max_margin: float | int | None = None,
    clip_weight: float | int | None = None,
) -> Float[Tensor, "*N"]:
    """Robust DPO: over label flips its expectation, and that of its gradient, are those of DPO on clean labels.

    loss = [(1 - eps) l(z) - eps l(-z)] / (1 - 2 eps) = l(z) - c z, c = eps / (1 - 2 eps); with p, p is replaced by
    p' = (p - eps) / (1 - 2 eps), which may lie outside [0, 1].

    Args:
        h: difference of log-ratios ``[N]``, nats.
        beta: > 0.
        flip_rate: eps in [0, 0.5), a number or ``[N]``.
        label: observed p ``[N]`` in [0, 1]; None = 1.
        max_margin: if set, the term -c z gives no gradient where z > max_margin (> 0).
        clip_weight: if set, the gradient weight |sigma(-z) + c| is held at this value (> 0) or below.

    Returns:
        ``[N]``; negative and unbounded below by design, so early stopping on it means nothing. The two safeguards leave
        the value as it is and change the gradient only; they bring bias back (count them with `safeguards_active`).

    Raises:
        UserError: as `cdpo`, and a safeguard that is not a positive number.

    Edge cases: eps = 0 is `dpo` bit for bit. Near z = 0 the step is 1 / (1 - 2 eps) times that of DPO: a fair
    comparison rescales the learning rate. Long responses have large z and dominate the linear term.

    Source: arXiv 2403.00409 (the loss); the one-term identity, soft labels and safeguards are ours.
    """
    s, minor = _orient(margin_of(h, beta), label)
    k = _unbiased_slope(minor, flip_rate, s)
    stopped, factor = _safeguards(s, k, max_margin, clip_weight)
    loss = k * (s if stopped is None else torch.where(stopped, s.detach(), s)) - logsigmoid(s)
    # Scaling the difference to its own detached value scales the gradient and leaves the value exactly as it is.
    return loss if factor is None else loss.detach() + factor * (loss - loss.detach())


def _safeguards(
    s: Tensor, k: Tensor, max_margin: float | int | None, clip_weight: float | int | None
) -> tuple[Tensor | None, Tensor | None]:
    """Where the linear term is stopped, and by how much each gradient is scaled (None = safeguard off)."""
    stopped = factor = None
    with torch.no_grad():
        slope = k
        if max_margin is not None:
            stopped = (s > check_positive(max_margin, "max_margin")) & (k < 0)
            slope = torch.where(stopped, torch.zeros_like(k), k)
        if clip_weight is not None:
            weight = (torch.sigmoid(-s) - slope).abs()
            factor = check_positive(clip_weight, "clip_weight") / weight.clamp(min=clip_weight)
    return stopped, factor


def safeguards_active(
    h: Float[Tensor, "*N"],
    beta: float | int,
    flip_rate: float | int | Tensor,
    label: Tensor | None = None,
    *,
    max_margin: float | int | None = None,
    clip_weight: float | int | None = None,
) -> Bool[Tensor, "*N"]:
    """Which examples of `rdpo` had their gradient changed by a safeguard; same arguments as `rdpo`.

    Returns:
        bool ``[N]``; its mean is the share to log.
    """
    s, minor = _orient(margin_of(h.detach(), beta), label)
    stopped, factor = _safeguards(s, _unbiased_slope(minor, flip_rate, s), max_margin, clip_weight)
    active = torch.zeros_like(s, dtype=torch.bool)
    active = active if stopped is None else active | stopped
    return active if factor is None else active | (factor < 1)


def forward_corrected_dpo(
    h: Float[Tensor, "*N"], beta: float | int, flip_rate: float | int | Tensor
) -> Float[Tensor, "*N"]:
    """Negative log-likelihood of the observed preference when labels flip with probability eps.

    loss = -log[(1 - 2 eps) sigma(z) + eps], z = beta h.

    Args:
        h: difference of log-ratios ``[N]``, nats.
        beta: > 0.
        flip_rate: eps in [0, 0.5), a number or ``[N]``.

    Returns:
        ``[N]`` in (-log(1 - eps), -log eps): bounded, minimised like `rdpo` at sigma(z) = (q - eps) / (1 - 2 eps).

    Edge cases: eps = 0 is `dpo` bit for bit. Gradient weight (1 - 2 eps) p (1 - p) / q: zero far on either side.

    Source: forward correction (Patrini et al. 2017) applied to DPO (ours).
    """
    return bradley_terry_forward(margin_of(h, beta), flip_rate)
