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
    """p-value that means and variances are equal: each environment against the others, Bonferroni over all tests."""
    import scipy.stats

    smallest = 1.0
    for r in rows:
        other = np.setdiff1d(np.arange(len(residuals)), r)
        a, b = residuals[r], residuals[other]
        if np.ptp(a) == 0 and np.ptp(b) == 0:
            smallest = min(smallest, 1.0 if a[0] == b[0] else 0.0)
            continue
        mean = scipy.stats.ttest_ind(a, b, equal_var=False).pvalue
        spread = scipy.stats.levene(a, b).pvalue
        smallest = min(smallest, *(float(p) for p in (mean, spread) if np.isfinite(p)))
    return min(1.0, smallest * 2 * len(rows))


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
