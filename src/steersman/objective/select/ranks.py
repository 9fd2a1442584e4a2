"""Statistics and orders of a population of tokens: quantile, min-max, and the first k in a reproducible order.

A population is all tokens of a step (scope "batch") or those of one rollout ("sequence"); tensors come in with a row
for each population, and a mask says which entries count. None of it depends on the order or number of padded entries.
Leaves out: what tokens are compared by (`select.tokens`).
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steersman.core.errors import UserError

Scope = Literal["batch", "sequence"]
SCOPES: tuple[str, ...] = get_args(Scope)
RESOLUTION = 2.0**-16
"""Scores that differ by less than about this share of the largest count as equal in a stage (`coarse`)."""
_WHOLE = 1e-9
"""keep * n this close below a whole number counts as that number: 0.29 * 100 is 29, not 28.999999999999996."""


def known(where: str, mask: Tensor | None, **given: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The mask (None = all) and the tensors that are given, without gradients and at least in float32.

    Raises:
        UserError: shapes that disagree, a mask that is not bool, NaN or infinity inside the mask.
    """
    found = {name: x.detach() for name, x in given.items() if x is not None}
    like = next(iter(found.values()))
    mask = torch.ones(like.shape, dtype=torch.bool, device=like.device) if mask is None else mask
    for name, x in found.items():
        if mask.dtype != torch.bool or x.shape != mask.shape or not x.is_floating_point():
            what = f"{name} is {x.dtype} of shape {tuple(x.shape)}, mask {mask.dtype} of shape {tuple(mask.shape)}"
            raise UserError(what, where=where, allowed="floating point, and a bool mask of the same shape")
        bad = mask & ~torch.isfinite(x)
        if bool(bad.any()):
            place = bad.nonzero()[0].tolist()
            at = f"token {place[-1]}" + (f" of row {place[0]}" if len(place) > 1 else "")
            raise UserError(f"{name} is {float(x[tuple(place)])} at {at}", where=where, allowed="finite")
        found[name] = x.to(torch.promote_types(x.dtype, torch.float32))
    return mask, found


def check_scope(scope: str) -> None:
    """Refuse unknown scopes, and the one whose result depends on memory settings."""
    if scope in SCOPES:
        return
    cure = ""
    if scope == "microbatch":
        cure = "What is kept would then depend on how a step is cut to fit into memory; sequence is the smallest scope."
    raise UserError(f"unknown scope {scope!r}", where="scope", allowed=", ".join(SCOPES), cure=cure)


def populations(x: Tensor, scope: str) -> Tensor:
    """The tensor with a row for each population: one of everything, or its own rows."""
    check_scope(scope)
    if scope == "sequence" and x.ndim != 2:
        raise UserError(f"has shape {tuple(x.shape)}", where="scope sequence", allowed="[N, L]")
    return x.reshape(1, -1) if scope == "batch" else x


def at_most(keep: float | int, of: Int[Tensor, "*P"]) -> Int[Tensor, "*P"]:
    """keep * of, rounded down, at least 1 and at most `of` (0 of 0)."""
    return (keep * of.double() + _WHOLE).floor().long().clamp(min=1).minimum(of)


def quantile(x: Float[Tensor, "P M"], mask: Bool[Tensor, "P M"], q: float | int) -> Float[Tensor, "P 1"]:
    """The q-quantile of the masked entries of each row, interpolated linearly; 0 where there are none.

    `torch.quantile` knows no masks and refuses more than 2^24 numbers.
    """
    n = mask.sum(1, keepdim=True)
    ordered = torch.where(mask, x, torch.inf).sort(1).values
    if not x.shape[1]:
        return x.new_zeros(x.shape[0], 1)
    place = q * (n - 1).clamp(min=0).double()
    low = place.floor().long()
    at_low, at_high = ordered.gather(1, low), ordered.gather(1, torch.minimum(low + 1, (n - 1).clamp(min=0)))
    found = torch.lerp(at_low.double(), at_high.double(), place - low).to(x.dtype)
    return torch.where(n > 0, found, 0.0)


def min_max(x: Float[Tensor, "P M"], mask: Bool[Tensor, "P M"]) -> Float[Tensor, "P M"]:
    """(x - min) / (max - min) over the masked entries of a row; 0 where all are equal, and outside the mask."""
    if not x.shape[1]:
        return x
    low = torch.where(mask, x, torch.inf).amin(1, keepdim=True)
    high = torch.where(mask, x, -torch.inf).amax(1, keepdim=True)
    spread = high - low
    return torch.where(mask & (spread > 0), (x - low) / spread, 0.0)


def first(score: Tensor, mask: Tensor, count: Tensor, noise: Tensor | None) -> Bool[Tensor, "P M"]:
    """The masked entries of largest score in each row.

    Args:
        score: ``[P, M]``; what stands outside the mask may be anything.
        mask: ``[P, M]``.
        count: how many of each row, at most those of its mask ``[P]``.
        noise: ``[P, M]``, the smaller goes first of equal scores; None = the one further left.

    Returns:
        bool ``[P, M]``; the sets of a smaller and a larger count are nested.
    """
    key = torch.where(mask, score.double(), -torch.inf)
    order = torch.arange(key.shape[1], device=key.device).expand(key.shape)
    if noise is not None:
        order = noise.argsort(dim=1, stable=True)
    order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
    rank = torch.arange(key.shape[1], device=key.device).expand(key.shape)
    return torch.zeros_like(mask).scatter(1, order, rank < count[:, None]) & mask


def race(weight: Tensor, noise: Tensor) -> Float[Tensor, "P M"]:
    """A score by which the first k are k draws without replacement with probabilities proportional to `weight`.

    -E / w with E = -log(noise) exponential: the order in which clocks of rate w ring (Efraimidis and Spirakis 2006).
    """
    return noise.double().log() / weight.double()


def chances(weight: Tensor, mask: Tensor, count: Tensor, noise: Tensor) -> Float[Tensor, "P M"]:
    """Probability that a masked entry is among the first `count` of a `race`, given the noise of all others.

    1 - exp(-w t) with t the time at which the first entry that was not drawn rings (Cohen and Kaplan 2007). Dividing
    what was drawn by it gives unbiased sums. 1 where all of a row are drawn; outside the mask anything.
    """
    rings = torch.where(mask, -race(weight, noise), torch.inf).sort(1).values
    rings = torch.cat([rings, torch.full_like(rings[:, :1], torch.inf)], 1)
    return -torch.expm1(-weight.double() * rings.gather(1, count[:, None]))


def coarse(score: Tensor, mask: Tensor, scope: str = "batch") -> Float[Tensor, "*S"]:
    """The score rounded to multiples of `RESOLUTION` of the largest in size of its population.

    Two forward passes that were cut into other micro-batches differ by rounding. Tokens with the same context, such as
    the first ones of a prompt's samples, would then be ordered by that rounding; equal, they are ordered by noise.
    """
    rows, inside = populations(score, scope).double(), populations(mask, scope)
    if not rows.numel():
        return score.double()
    most = torch.where(inside, rows.abs(), 0.0).amax(1, keepdim=True)
    unit = torch.where(most > 0, most * RESOLUTION, 1.0)
    return (rows / unit).round().mul(RESOLUTION).reshape(score.shape)


def whole_share(keep: object, where: str) -> float:
    """`keep` as a number in (0, 1], or a refusal."""
    if not isinstance(keep, float | int) or isinstance(keep, bool) or not (math.isfinite(keep) and 0 < keep <= 1):
        raise UserError(f"keep is {keep}", where=where, allowed="0 < keep <= 1")
    return float(keep)
