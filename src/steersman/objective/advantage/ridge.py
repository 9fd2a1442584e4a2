"""Ridge regression in closed form on standardised columns, with the penalty chosen by leave-one-out errors.

Everything runs in float64. Leaves out: what the columns are (`advantage.internal`), when to fit (`advantage.poise`).
Sources: the leave-one-out errors of a linear smoother (Allen's PRESS, 1974), as in scikit-learn's RidgeCV; the rule for
constant columns as in its StandardScaler.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError

GRID = tuple(float(f"{10 ** (-2 + i / 2):.12g}") for i in range(15))
"""Penalties among which "auto" chooses: 15 from 1e-2 to 1e5, equally far apart on a log scale."""


@dataclass(frozen=True, slots=True)
class Ridge:
    """A fitted ridge regression: y(x) = intercept + sum_d weight_d (x_d - mean_d) / scale_d.

    Args:
        mean, scale, weight: ``[D]`` float64.
        intercept: mean of the targets.
        alpha: the penalty used.
        error: mean squared leave-one-out error of the examples it was fitted to.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    intercept: float
    alpha: float
    error: float

    def __call__(self, x: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        """Predictions, float64."""
        return self.intercept + (x.double() - self.mean) / self.scale @ self.weight


def fit_ridge(x: Tensor, y: Tensor, alpha: float | Literal["auto"] = "auto") -> Ridge:
    """Minimise sum_n (y_n - y(x_n))^2 + alpha |weight|^2 over weight and intercept, columns standardised first.

    With z = (x - mean) / scale (population deviation; a constant column has scale 1) and the centred targets, weight =
    (z'z + alpha I)^-1 z'y; the intercept is not penalised. "auto" takes the penalty of `GRID` with the least mean
    squared leave-one-out error, e_n / (1 - h_nn) with h the hat matrix, the smaller one of equals.

    Args:
        x: one example a row ``[N, D]``, any finite numbers; float32 and below are taken to float64 first.
        y: targets ``[N]``.
        alpha: > 0, or "auto".

    Returns:
        The fit. Of a given penalty and of "auto" alike it equals StandardScaler with Ridge or RidgeCV.

    Raises:
        UserError: no example, shapes that disagree, NaN or infinity, or a penalty that is not positive.

    Edge cases: fewer than two examples have no leave-one-out error, and "auto" takes the largest penalty; equal targets
    give weights of 0.
    """
    _check(x, y, alpha)
    x, y = x.double(), y.double()
    mean, scale = _standard(x)
    z, centre = (x - mean) / scale, y.mean()
    residual = y - centre
    wide = z.shape[0] <= z.shape[1]
    values, vectors = torch.linalg.eigh(z @ z.T if wide else z.T @ z)
    values = values.clamp(min=0)
    left = vectors * values.sqrt() if wide else z @ vectors
    grid = GRID if alpha == "auto" else (float(alpha),)
    errors = [_left_out(left, values, residual, a) for a in grid]
    best = min(range(len(grid)), key=errors.__getitem__) if len(y) > 1 else len(grid) - 1
    inside = (vectors.T @ (residual if wide else z.T @ residual)) / (values + grid[best])
    weight = z.T @ (vectors @ inside) if wide else vectors @ inside
    return Ridge(mean, scale, weight, float(centre), grid[best], errors[best])


def _check(x: Tensor, y: Tensor, alpha: float | str) -> None:
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(x):
        what = f"features are {tuple(x.shape)}, targets {tuple(y.shape)}"
        raise UserError(what, where="fit_ridge", allowed="[N, D] and [N], N >= 1")
    for name, values in (("features", x), ("targets", y)):
        bad = ~torch.isfinite(values).reshape(len(values), -1).all(1)
        if bool(bad.any()):
            raise UserError(f"{name} have NaN or infinity", where=f"fit_ridge, row {int(bad.nonzero()[0, 0])}")
    if alpha != "auto" and not (isinstance(alpha, int | float) and 0 < alpha < float("inf")):
        raise UserError(f"alpha is {alpha}", where="fit_ridge", allowed='a number > 0, or "auto"')


def _standard(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population deviation of each column, 1 where a column is constant but for rounding."""
    mean, variance = x.mean(0), x.var(0, correction=0)
    n, eps = len(x), torch.finfo(x.dtype).eps
    constant = variance <= n * eps * variance + (n * mean * eps).square()
    return mean, torch.where(constant, torch.ones_like(variance), variance.sqrt())


def _left_out(left: Tensor, values: Tensor, y: Tensor, alpha: float) -> float:
    """Mean squared leave-one-out error of the centred targets, the mean being left out of, too."""
    shrunk = 1 / (values + alpha)
    residual = y - left @ (shrunk * (left.T @ y))
    leverage = (left.square() @ shrunk) + 1 / len(y)
    return float((residual / (1 - leverage).clamp(min=torch.finfo(y.dtype).eps)).square().mean())


def principal(x: Float[Tensor, "N D"], most: int) -> tuple[Float[Tensor, " D"], Float[Tensor, "D K"]]:
    """Mean of some rows and their leading principal directions, K = min(most, N - 1, D) at least 1.

    Args:
        x: N >= 1 rows.
        most: >= 1.

    Returns:
        ``(mean, directions)``, float64; each direction has length 1 and its largest entry positive.
    """
    x = x.double()
    mean = x.mean(0)
    centred = x - mean
    wide = x.shape[0] <= x.shape[1]
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    keep = max(min(most, len(x) - 1, x.shape[1]), 1)
    top = vectors[:, -keep:].flip(1)
    if wide:  # directions of no spread stay 0
        top = centred.T @ top / values[-keep:].flip(0).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
    largest = top.gather(0, top.abs().argmax(0)[None])
    return mean, top * torch.where(largest < 0, -1.0, 1.0)
