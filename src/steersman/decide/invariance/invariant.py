"""Subsets of variables given which the outcome does not depend on the environment, by tests of residuals.

Leaves out: fitting what is chosen (`baselines`). Sources: Peters, Bühlmann and Meinshausen 2016 (ICP, with tests of
means and variances); Rojas-Carulla et al. 2018 (of the accepted sets, the one that predicts best).
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.invariance.data import Columns, count, levels_of, stack

LEVEL = 0.05
MOST_SUBSETS = 4096


def icp(
    columns: Columns, y: str, names: Sequence[str], rows: Sequence[np.ndarray], level: float = LEVEL
) -> tuple[str, ...]:
    """Variables that are in every accepted set; none where nothing is accepted."""
    kept: set[str] | None = None
    for subset, _ in accepted(columns, y, names, rows, level):
        kept = set(subset) if kept is None else kept & set(subset)
        if not kept:
            break
    return tuple(v for v in names if kept and v in kept)


def causal_transfer(
    columns: Columns, y: str, names: Sequence[str], rows: Sequence[np.ndarray], level: float = LEVEL
) -> tuple[str, ...]:
    """The accepted set with the smallest error; none where nothing is accepted."""
    found = sorted(accepted(columns, y, names, rows, level), key=lambda f: f[1])
    return found[0][0] if found else ()


def accepted(
    columns: Columns, y: str, names: Sequence[str], rows: Sequence[np.ndarray], level: float = LEVEL
) -> Iterator[tuple[tuple[str, ...], float]]:
    """(subset, mean squared residual) of all subsets whose residuals look the same in all environments.

    Raises:
        UserError: more than `MOST_SUBSETS` subsets.
    """
    if 2 ** len(names) > MOST_SUBSETS:
        raise UserError(f"{len(names)} variables have {2 ** len(names):,} subsets", where="invariance test",
                        allowed=f"{MOST_SUBSETS:,}")  # fmt: skip
    for size in range(len(names) + 1):
        for subset in combinations(names, size):
            left = _residuals(columns, y, subset)
            if invariant_p(left, rows) > level:
                yield subset, float((left**2).mean())


def invariant_p(residuals: np.ndarray, rows: Sequence[np.ndarray]) -> float:
    """p-value that means and spreads are equal: each environment against the others, Bonferroni over all tests.

    Welch's test of the residuals, and of their distances from their environment's median (Brown and Forsythe's way to
    compare spreads).
    """
    code = np.empty(len(residuals), np.int64)
    far = np.empty(len(residuals))
    for i, r in enumerate(rows):
        code[r] = i
        far[r] = np.abs(residuals[r] - np.median(residuals[r]))
    smallest = min(float(_welch(x, code, len(rows)).min()) for x in (residuals, far))
    return min(1.0, smallest * 2 * len(rows))


def _welch(x: np.ndarray, code: np.ndarray, groups: int) -> np.ndarray:
    """[groups] two-sided p-values of each group's mean against that of all others."""
    import scipy.stats

    x = x - x.mean()
    n = np.bincount(code, minlength=groups).astype(float)
    total, square = np.bincount(code, x, groups), np.bincount(code, x * x, groups)
    m, rest = len(x) - n, x.sum() - total
    a, b = total / n, rest / m
    va = np.maximum(square / n - a * a, 0.0) / np.maximum(n - 1, 1)
    vb = np.maximum((square.sum() - square) / m - b * b, 0.0) / np.maximum(m - 1, 1)
    error = va + vb
    # Without any spread, only equal means are compatible with being equal.
    flat = error <= 1e-24 * max(float(square.sum()) / len(x), 1e-300)
    safe = np.where(flat, 1.0, error)
    free = safe**2 / np.maximum(va**2 / np.maximum(n - 1, 1) + vb**2 / np.maximum(m - 1, 1), 1e-300)
    p = 2 * scipy.stats.t.sf(np.abs(a - b) / np.sqrt(safe), free)
    return np.where(flat, np.where(np.abs(a - b) <= 1e-12, 1.0, 0.0), p)


def _residuals(columns: Columns, y: str, subset: Sequence[str]) -> np.ndarray:
    """Least squares with an intercept; cells' means where all variables are discrete."""
    n = count(columns)
    x = stack(columns, subset, n)
    if subset and all(levels_of(c) is not None for c in x.T):
        _, cell = np.unique(x, axis=0, return_inverse=True)
        cell = cell.ravel()
        return columns[y] - (np.bincount(cell, columns[y]) / np.bincount(cell))[cell]
    z = np.concatenate([np.ones((n, 1)), x], 1)
    return columns[y] - z @ np.linalg.lstsq(z, columns[y], rcond=None)[0]
