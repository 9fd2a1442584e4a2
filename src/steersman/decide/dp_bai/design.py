"""Which arms a phase pulls: a Max-Det collection, whose every other arm is a combination with weights in [-1, 1].

If d arms of maximal |det| span the features, Cramer's rule gives every arm as a = sum_j alpha_j b_j with
|alpha_j| <= 1 (putting a in b_j's place multiplies |det| by |alpha_j|). Only this property is used by the method, so a
swap search that ends when no |alpha_j| exceeds 1 + SLACK serves where trying every set is too dear. Everything here is
a function of public features. Source: Chen, Karthik, Chee and Tan, ICLR 2024. Leaves out: how often arms are pulled
(`phases`).
"""

import itertools
import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError

RANK = 1e-9
"""Singular values below this share of the largest count as zero."""
SLACK = 1e-6
"""How far above 1 a weight may lie when the swap search ends."""
MOST_SETS = 200_000
"""More sets than this are searched by swaps."""
TIE = 1e-9
"""Sets whose log |det| lie this close to the best are as good; the first in lexicographic order is taken."""
CHUNK = 20_000

Matrix = npt.NDArray[np.float64]


def check_features(features: npt.ArrayLike) -> Matrix:
    """The features as float64 ``[K, d]``.

    Raises:
        UserError: not a table of finite numbers, no arm, or nothing but zeros.
    """
    try:
        table = np.asarray(features, np.float64)
    except (TypeError, ValueError):
        raise UserError("are not a table of numbers", where="features", allowed="K rows of d numbers") from None
    if table.ndim != 2 or 0 in table.shape:
        raise UserError(f"have shape {table.shape}", where="features", allowed="K rows of d numbers, both at least 1")
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise UserError(
            f"{table[row, column]} in row {row}, column {column}", where="features", allowed="finite numbers"
        )
    if not table.any():
        raise UserError("are all zero", where="features", cure="An arm without features tells nothing about any other.")
    return table


def coordinates(features: Matrix) -> Matrix:
    """Coordinates ``[K, r]`` of the arms in their own span, r = rank, with orthonormal columns.

    The left singular vectors: A = U S V^T. Weights and the order of |det| are those of the features themselves, since
    both are unchanged by an invertible map of the columns.
    """
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    points = left[:, : int((values > RANK * values[0]).sum())]
    points[~features.any(1)] = 0.0  # an arm without features, not the residue of rounding
    return points


def ranks(sets: Matrix) -> npt.NDArray[np.int64]:
    """Rank of each of ``[G, s, d]`` sets of `coordinates`."""
    values = np.linalg.svd(sets, compute_uv=False)
    return (values > RANK * values[:, :1]).sum(1)


def max_det(features: npt.ArrayLike, search: Literal["auto", "exact", "swap"] = "auto") -> tuple[int, ...]:
    """Rows of a Max-Det collection: r of the features with the largest |det|, r = their rank.

    Args:
        features: [K, d] numbers, of any rank >= 1.
        search: "exact" tries every set; "swap" starts from a pivoted QR and swaps while some weight exceeds 1 + 1e-6,
            which gives the property that the method uses but perhaps not the largest determinant; "auto" is exact up
            to 200,000 sets.

    Returns:
        The rows, in rising order. Of equally good sets the exact search takes the first in lexicographic order.

    Raises:
        UserError: features that are not finite or all zero.

    Edge cases: the result of the exact search does not change under an invertible map of the columns. Duplicate arms
        are allowed: the earlier one is taken.

    Source: Chen et al. 2024; the swap search is ours.
    """
    points = coordinates(check_features(features))
    count, rank = points.shape
    if search == "exact" or (search == "auto" and math.comb(count, rank) <= MOST_SETS):
        return _exact(points)
    return _swap(points)


def _exact(points: Matrix) -> tuple[int, ...]:
    count, rank = points.shape
    sets = itertools.combinations(range(count), rank)
    best, found = -math.inf, tuple(range(rank))
    while chunk := list(itertools.islice(sets, CHUNK)):
        _, logs = np.linalg.slogdet(points[np.array(chunk)])
        top = float(logs.max())
        if top > best + TIE:
            found, best = chunk[int(np.argmax(logs >= top - TIE))], top
    return found


def _swap(points: Matrix) -> tuple[int, ...]:
    from scipy.linalg import qr

    rank = points.shape[1]
    rows = np.array(qr(points.T, mode="r", pivoting=True)[1][:rank])
    while True:
        weights = np.abs(coefficients(points, rows))
        arm, place = np.unravel_index(int(weights.argmax()), weights.shape)
        if weights[arm, place] <= 1 + SLACK:
            return tuple(sorted(int(r) for r in rows))
        rows[place] = arm


def coefficients(points: Matrix, rows: npt.ArrayLike) -> Matrix:
    """Weights alpha ``[K, r]`` with points = alpha @ points[rows]; `points` are `coordinates`, `rows` a basis."""
    basis = points[np.asarray(rows)]
    return np.linalg.solve(basis.T, points.T).T


def random_spanning(features: npt.ArrayLike, generator: np.random.Generator) -> tuple[int, ...]:
    """A random set of arms that spans: the first that do in a random order (the control of Max-Det)."""
    points = coordinates(check_features(features))
    rows: list[int] = []
    for row in generator.permutation(len(points)):
        if ranks(points[[*rows, row]][None])[0] > len(rows):
            rows.append(int(row))
    return tuple(sorted(rows))
