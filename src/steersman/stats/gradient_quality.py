"""How good a gradient estimator is, against a reference: spread, signal against noise, direction; with intervals.

Everything follows from inner products of gradients, so they may have been projected (`train.gradients.sketched`).
Intervals are the jackknife's, over the batches of the estimator and over those of the reference, which is an estimate,
too. Leaves out: computing gradients (`train.gradients`), spreads of allocations (`gradients`).
Source: arXiv 2605.07579, section 3.3 (spread, squared mean); the jackknife of two samples: Efron and Stein 1981.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.core.errors import UserError
from steersman.stats.intervals import Interval, unbounded

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GradientQuality:
    """Of an estimator; g is the gradient of one batch, r that of one batch of the reference.

    Args:
        spread: tr Cov(g).
        square: |E g|^2.
        signal: |E g|^2 / tr Cov(g): how much of a batch's gradient is not noise; free of the estimator's scale.
        cosine: E cos(g, E r): how well the gradient of one batch points; 0 in a batch without a signal.
        direction: cos(E g, E r): 1 where the estimator is unbiased but for its length.
        length: E g . E r / |E r|^2: 1 where it is unbiased along the reference.
    """

    spread: Interval
    square: Interval
    signal: Interval
    cosine: Interval
    direction: Interval
    length: Interval


FIGURES = ("spread", "square", "signal", "cosine", "direction", "length")
"""Names of the figures of `GradientQuality`."""
LEAST = (0.0, *[-math.inf] * (len(FIGURES) - 1))
"""Where the interval of each is cut: neither a spread nor its estimate is negative; the others' estimates can be."""


def quality(g: ArrayLike, reference: ArrayLike, level: float = 0.95) -> GradientQuality:
    """Figures of an estimator from independent batches, all squares without the noise's own part in them.

    With means over batches a and b != a: tr Cov = mean |g_a|^2 - |E g|^2, |E g|^2 = mean g_a . g_b, likewise of r, and
    products of g and r as they are, since the reference's batches are others.

    Args:
        g: a row a batch ``[B, P]``, B >= 3.
        reference: rows of other batches ``[R, P]``, R >= 3, by an estimator without bias.
        level: of the intervals.

    Raises:
        UserError: fewer rows, other widths, NaN or infinity.

    Edge cases: where a square comes out at or below 0 there is no direction, and its figures are NaN without bounds: so
    many batches cannot tell the gradient from noise.
    """
    x, r = np.asarray(g, dtype=float), np.asarray(reference, dtype=float)
    for name, rows in (("gradients", x), ("the reference", r)):
        if rows.ndim != 2 or len(rows) < 3 or rows.shape[1] != x.shape[-1] or not np.isfinite(rows).all():
            raise UserError(f"{name} are {rows.shape}", where="quality", allowed="finite, [3 or more, P], P the same")
    return GradientQuality(*_jackknifed(_Sums.of(x @ x.T, x @ r.T, r @ r.T), level))


def reliability(reference: ArrayLike) -> float:
    """Share of a reference's squared mean that is not noise, |E r|^2 / |mean r|^2; at most 1, below 0 = nothing."""
    r = np.asarray(reference, dtype=float)
    inner = r @ r.T
    total = float(inner.mean())
    square = (float(inner.sum()) - float(np.trace(inner))) / (len(r) * (len(r) - 1))
    return square / total if total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Sums:
    """What the figures follow from: numbers, or arrays of them with one batch left out in each entry.

    Args:
        n, total, own: of the estimator: batches, sum of all inner products, and of each batch's with itself.
        m, far_total, far_own: of the reference, likewise.
        along: sum of inner products of both sides.
        pointing: the same with the estimator's gradients at length 1.
    """

    n: int
    total: Array
    own: Array
    m: int
    far_total: Array
    far_own: Array
    along: Array
    pointing: Array

    @classmethod
    def of(cls, own: Array, cross: Array, far: Array) -> tuple["_Sums", "_Sums", "_Sums"]:
        """Of all batches, without each of the estimator's, without each of the reference's."""
        size = np.sqrt(np.diag(own))[:, None]
        unit = np.divide(cross, size, out=np.zeros_like(cross), where=size > 0)
        (n, m), one, other = cross.shape, (own.sum(), np.trace(own)), (far.sum(), np.trace(far))
        both = cross.sum(), unit.sum()
        return (
            cls(n, *one, m, *other, *both),
            cls(n - 1, *_without(own), m, *other, both[0] - cross.sum(1), both[1] - unit.sum(1)),
            cls(n, *one, m - 1, *_without(far), both[0] - cross.sum(0), both[1] - unit.sum(0)),
        )

    def figures(self) -> Array:
        """The figures in the order of `FIGURES`, a row each; NaN where there is none."""
        square = (self.total - self.own) / (self.n * (self.n - 1))
        spread = self.own / self.n - square
        far = (self.far_total - self.far_own) / (self.m * (self.m - 1))
        along, pointing = self.along / (self.n * self.m), self.pointing / (self.n * self.m)
        with np.errstate(invalid="ignore", divide="ignore"):
            there = np.where(far > 0, far, np.nan)
            signal = square / np.where(spread > 0, spread, np.nan)
            direction = along / np.sqrt(np.where(square > 0, square, np.nan) * there)
            found = spread, square, signal, pointing / np.sqrt(there), direction, along / there
        return np.stack(np.broadcast_arrays(*found))


def _without(inner: Array) -> tuple[Array, Array]:
    """Sums of `_Sums.total` and `_Sums.own` without each batch."""
    own = np.diag(inner)
    return inner.sum() - 2 * inner.sum(1) + own, own.sum() - own


def _jackknifed(sums: tuple[_Sums, _Sums, _Sums], level: float) -> list[Interval]:
    """Each figure with its interval: batches of either side are left out one at a time."""
    import scipy.stats

    value, *fewer = (s.figures() for s in sums)
    spread = [np.square(x - x.mean(1, keepdims=True)).sum(1) * (x.shape[1] - 1) / x.shape[1] for x in fewer]
    freedom = min(x.shape[1] for x in fewer) - 1
    half = scipy.stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(spread[0] + spread[1])
    return [
        Interval(float(v), float(max(v - h, least)), float(v + h), level, "jackknife")
        if math.isfinite(v) and math.isfinite(h)
        else unbounded(float(v), level, "undefined: not told from noise")
        for v, h, least in zip(value, half, LEAST, strict=True)
    ]
