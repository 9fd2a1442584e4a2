"""Ridge regression in closed form on standardised columns, with the penalty chosen by leave-out errors.

Rows of one group are left out together: rollouts of one prompt share most of their features, so that leaving out one of
them would only ask whether its siblings remember the prompt. Everything runs in float64. Leaves out: what the columns
are (`advantage.internal`), when to fit (`advantage.poise`).
Sources: the leave-one-out errors of a linear smoother (Allen's PRESS, 1974), as in scikit-learn's RidgeCV, and for
blocks the same identity with matrices; the rule for constant columns as in scikit-learn's StandardScaler.
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
        error: mean squared leave-out error of the examples it was fitted to.
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


def fit_ridge(x: Tensor, y: Tensor, alpha: float | Literal["auto"] = "auto", group: Tensor | None = None) -> Ridge:
    """Minimise sum_n (y_n - y(x_n))^2 + alpha |weight|^2 over weight and intercept, columns standardised first.

    With z = (x - mean) / scale (population deviation; a constant column has scale 1) and the centred targets, weight =
    (z'z + alpha I)^-1 z'y; the intercept is not penalised. "auto" takes the penalty of `GRID` with the least mean
    squared leave-out error, (I - H_gg)^-1 e_g for the rows g of a group, with H the hat matrix, the smaller one of
    equals. Means and deviations of columns are those of all rows.

    Args:
        x: one example a row ``[N, D]``, any finite numbers; float32 and below are taken to float64 first.
        y: targets ``[N]``.
        alpha: > 0, or "auto".
        group: ``[N]`` integers; rows of equal numbers are left out together. None = each by itself.

    Returns:
        The fit; without groups it equals scikit-learn's StandardScaler with Ridge or RidgeCV.

    Raises:
        UserError: no example, shapes that disagree, NaN or infinity, or a penalty that is not positive.

    Edge cases: with fewer than two groups there is no leave-out error, and "auto" takes the largest penalty; equal
    targets give weights of 0.
    """
    _check(x, y, alpha)
    blocks = _blocks(torch.arange(len(y)) if group is None else group.cpu())
    x, y = x.double(), y.double()
    mean, scale = _standard(x)
    z, centre = (x - mean) / scale, y.mean()
    residual = y - centre
    wide = z.shape[0] <= z.shape[1]
    values, vectors = torch.linalg.eigh(z @ z.T if wide else z.T @ z)
    values = values.clamp(min=0)
    left = vectors * values.sqrt() if wide else z @ vectors
    grid = GRID if alpha == "auto" else (float(alpha),)
    errors = [_left_out(left, values, residual, a, blocks) for a in grid]
    several = sum(map(len, blocks)) > 1
    best = min(range(len(grid)), key=errors.__getitem__) if several else len(grid) - 1
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


def _blocks(group: Tensor) -> list[Tensor]:
    """Rows of each group, ``[groups, size]`` for each size that there is."""
    _, place, count = torch.unique(group, return_inverse=True, return_counts=True)
    order = place.argsort(stable=True)
    size = count[place[order]]
    return [order[size == n].view(-1, n) for n in count.unique().tolist()]


def _left_out(left: Tensor, values: Tensor, y: Tensor, alpha: float, blocks: list[Tensor]) -> float:
    """Mean squared error of the centred targets with each block left out, their mean being left out of it, too."""
    shrunk = 1 / (values + alpha)
    residual = y - left @ (shrunk * (left.T @ y))
    total = 0.0
    for rows in blocks:
        part = left[rows]  # [G, m, K]
        hat = (part * shrunk) @ part.transpose(1, 2) + 1 / len(y)
        kept = torch.eye(rows.shape[1], dtype=y.dtype) - hat
        floor = torch.finfo(y.dtype).eps * torch.eye(rows.shape[1], dtype=y.dtype)  # all rows in one block: singular
        total += float(torch.linalg.solve(kept + floor, residual[rows][..., None]).square().sum())
    return total / len(y)


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
