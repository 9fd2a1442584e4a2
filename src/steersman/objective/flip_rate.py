"""How often preference labels are wrong: estimated from margins by likelihood, or from an audited sample.

Over-estimating the rate makes rDPO run away on clear pairs while under-estimating it merely corrects too little, so the
recommended value is the lower end of the interval. Two independent annotations of the same pairs are no estimator here:
their disagreement also contains the genuine ambiguity of the pairs. Leaves out: the model that gives the margins.
Source: the noise model of arXiv 2403.00409; the estimators are ours.
"""

from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.loss.robust import check_label, upcast
from steersman.stats import wilson

_TOP = 0.499  # the largest rate tried; at 0.5 labels carry no information
_COARSE, _SCALES, _GOLDEN_STEPS, _FINE = 51, 21, 18, 10
_WIDEST = 0.25  # an interval wider than half of [0, 0.5) is reported as not identified
_HIGH = 0.4


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated flip rate.

    Args:
        value: most likely rate, in [0, 0.5).
        low: lower end of the confidence interval.
        high: upper end.
        recommended: the rate to train with: `low`.
        method: "likelihood" or "audit".
        identified: False = the data cannot tell; `low` and `high` then are the whole range.
        scale: factor from the given margins to clean log-odds (likelihood only).
        warning: what the user must know; "" if nothing.
    """

    value: float
    low: float
    high: float
    recommended: float
    method: str
    identified: bool = True
    scale: float | int | None = None
    warning: str = ""


def _log_likelihood(m: Tensor, p: Tensor, rate: Tensor, scale: Tensor) -> Tensor:
    """Mean log-likelihood ``[E]`` of labels p at margins m ``[n]`` for rates and scales ``[E]``.

    The observed probability of the first side is q = eps + (1 - 2 eps) sigma(s m).
    """
    clean = torch.sigmoid(scale[:, None] * m)
    q = (rate[:, None] + (1 - 2 * rate[:, None]) * clean).clamp(1e-300, 1.0)
    other = (rate[:, None] + (1 - 2 * rate[:, None]) * torch.sigmoid(-scale[:, None] * m)).clamp(1e-300, 1.0)
    # where: a label that is certain takes nothing from the other side, not even 0 times a very large number
    return (torch.where(p > 0, p * q.log(), 0.0) + torch.where(p < 1, (1 - p) * other.log(), 0.0)).mean(1)


def _profile(m: Tensor, p: Tensor, rate: Tensor, scale: float | int | None) -> tuple[Tensor, Tensor]:
    """For each rate ``[E]`` the best log-likelihood over the scale, and that scale."""
    if scale is not None:
        fixed = torch.full_like(rate, scale)
        return _log_likelihood(m, p, rate, fixed), fixed
    grid = torch.logspace(-2, 3, _SCALES, dtype=torch.float64) / m.abs().mean()
    values = torch.stack([_log_likelihood(m, p, rate, s.expand_as(rate)) for s in grid], 1)
    best = values.argmax(1)
    low, high = grid[(best - 1).clamp(min=0)].log(), grid[(best + 1).clamp(max=_SCALES - 1)].log()
    golden = (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = (_log_likelihood(m, p, rate, x.exp()) for x in (left, right))
    for _ in range(_GOLDEN_STEPS):
        keep_left = at_left > at_right
        low, high = torch.where(keep_left, low, left), torch.where(keep_left, right, high)
        probe = torch.where(keep_left, high - golden * (high - low), low + golden * (high - low))
        at_probe = _log_likelihood(m, p, rate, probe.exp())
        left, right = torch.where(keep_left, probe, right), torch.where(keep_left, left, probe)
        at_left, at_right = torch.where(keep_left, at_probe, at_right), torch.where(keep_left, at_left, at_probe)
    middle = ((low + high) / 2).exp()
    return _log_likelihood(m, p, rate, middle), middle


def _refined(m: Tensor, p: Tensor, scale: float | int | None, drop: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rates, profile and scales on a grid that is finer around the peak and the two ends of the interval."""
    rate = torch.linspace(0, _TOP, _COARSE, dtype=torch.float64)
    value, scales = _profile(m, p, rate, scale)
    inside = (value >= value.max() - drop).nonzero().flatten()
    step = float(rate[1])
    centres = {float(rate[i]) for i in (int(value.argmax()), int(inside[0]), int(inside[-1]))}
    around = torch.linspace(-step, step, 2 * _FINE + 1, dtype=torch.float64)
    more = torch.cat([(c + around).clamp(0, _TOP) for c in sorted(centres)]).unique()  # type: ignore[no-untyped-call]
    more_value, more_scales = _profile(m, p, more, scale)
    rate, value, scales = (torch.cat(x) for x in ((rate, more), (value, more_value), (scales, more_scales)))
    order = rate.argsort(stable=True)
    return rate[order], value[order], scales[order]


def _crossing(rate: Tensor, value: Tensor, level: float | int, inner: int, outer: int) -> float:
    """Where the profile crosses `level` between two neighbouring grid points, by linear interpolation."""
    if not 0 <= outer < rate.numel():
        return float(rate[inner])
    span = float(value[inner] - value[outer])
    share = float(value[inner] - level) / span if span > 0 else 0.0
    return float(rate[inner] + share * (rate[outer] - rate[inner]))


def profile_flip_rate(
    margin: Float[Tensor, "*N"],
    label: Tensor | None = None,
    *,
    scale: float | int | None = None,
    level: float | int = 0.95,
) -> Estimate:
    """The flip rate that makes held-out preferences most likely, with a profile-likelihood interval.

    Maximises sum log q, q = eps + (1 - 2 eps) sigma(s m), over eps and the scale s > 0 together (the forward-corrected
    loss of the pairs). The interval holds every eps whose best log-likelihood over s is within chi2_1(level) / 2 of the
    maximum. eps shows as the share of clear pairs that contradict their label; near m = 0 only (1 - 2 eps) s can be
    seen, so without clear pairs the rate is not identified.

    Args:
        margin: m ``[N]``, any unit: h or z of pairs that the model was not trained on, positive = the observed label
            is reproduced (first side preferred, with `label`).
        label: observed p ``[N]`` in [0, 1]; None = 1.
        scale: s if the margins are known to be clean log-odds up to this factor; None = estimated.
        level: confidence level in (0, 1).

    Returns:
        `Estimate`; `recommended` is the lower end.

    Raises:
        UserError: fewer than two margins, one that is not finite, only zeros, a bad label, scale or level.

    Edge cases: margins of a model that is often confidently wrong look like flipped labels, so the estimate is of label
    noise *and* model error; margins of training pairs are memorised and give too low a rate. An interval wider than
    0.25 is reported as the whole range with `identified` False.
    """
    m = upcast(margin, "margin").detach().double().cpu().flatten()
    if m.numel() < 2 or not bool(torch.isfinite(m).all()) or not bool((m != 0).any()):
        what = f"cannot estimate from {m.numel()} margins ({int((~torch.isfinite(m)).sum())} not finite)"
        raise UserError(what, where="margin", allowed="two or more finite margins that are not all zero")
    if not 0 < level < 1:
        raise UserError(f"level is {level}", where="level", allowed="(0, 1)")
    if scale is not None and not 0 < scale < float("inf"):
        raise UserError(f"scale is {scale}", where="scale", allowed="a finite number > 0, or None")
    p = torch.ones_like(m) if label is None else check_label(label.detach().cpu().flatten(), m)
    drop = NormalDist().inv_cdf((1 + level) / 2) ** 2 / 2 / m.numel()
    rate, value, scales = _refined(m, p, scale, drop)
    peak = int(value.argmax())
    inside = (value >= value[peak] - drop).nonzero().flatten()
    first, last = int(inside[0]), int(inside[-1])
    threshold = float(value[peak]) - drop
    low = _crossing(rate, value, threshold, first, first - 1)
    high = _crossing(rate, value, threshold, last, last + 1)
    identified = high - low <= _WIDEST
    low, high = (low, high) if identified else (0.0, 0.5)
    warning = _warning(float(rate[peak]), identified)
    return Estimate(float(rate[peak]), low, high, low, "likelihood", identified, float(scales[peak]), warning)


def _warning(value: float | int, identified: bool) -> str:
    if not identified:
        return "The margins do not reveal a flip rate (too few pairs or none that is clear); audit some labels instead."
    if value > _HIGH:
        return f"A flip rate of {value:.2f} leaves almost no information in the labels; corrected losses will be noisy."
    return ""


def audit_flip_rate(disagreements: int, n: int, level: float | int = 0.95) -> Estimate:
    """The flip rate from a sample of pairs labelled again by a trusted judge, with Wilson's interval.

    value = disagreements / n.

    Args:
        disagreements: audited pairs whose label was wrong, 0 <= disagreements <= n.
        n: audited pairs, >= 1, drawn at random.
        level: confidence level in (0, 1).

    Returns:
        `Estimate`; `recommended` is the lower end.

    Raises:
        UserError: impossible counts, or half of the labels or more wrong.
    """
    interval = wilson(disagreements, n, level)
    if interval.value >= 0.5:
        raise UserError(
            f"{disagreements} of {n} audited labels are wrong",
            where="audit_flip_rate",
            allowed="less than half",
            cure="Such labels teach nothing, or chosen and rejected were exchanged throughout.",
        )
    warning = _warning(interval.value, True)
    return Estimate(interval.value, interval.low, interval.high, interval.low, "audit", warning=warning)
