"""Which pairs of factors interact: a group lasso, one group for each pair; arrays in, numbers of groups out.

Main effects are never penalised, so that no interaction comes without them (hierarchy). Groups are made orthonormal
after the main effects are taken out of them, which makes the choice free of how levels are coded. Squares are fitted
whatever the link: the question is which coefficients are zero. Leaves out: the fit that follows (`outcome`). Source:
Yuan and Lin 2006 (group lasso, blockwise descent); Lim and Hastie 2015 (hierarchical interactions), which the authors'
package calls.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from steersman.core import noise

PATH = 20
LOWEST = 0.02
"""Smallest penalty tried, as a part of the one that leaves nothing."""
FOLDS = 5
SWEEPS = 200
CONVERGED = 1e-7
RANK_ERROR = 1e-9


def screen(
    mains: np.ndarray,
    groups: Sequence[np.ndarray],
    outcome: np.ndarray,
    respondent: np.ndarray,
    constant: bool,
    seed: int = 0,
) -> tuple[int, ...]:
    """Numbers of the groups that are kept at the penalty with the least squared error on other respondents.

    min |y - X b - sum_g Z_g c_g|^2 / 2 + lam sum_g sqrt(k_g) |Z_g c_g|.

    Args:
        mains: X [n, m].
        groups: Z_g [n, k_g].
        outcome: y [n].
        respondent: [n] int, 0 .. G-1; folds are of whole respondents.
        constant: whether X has a constant; without one y is taken about 1/2.
        seed: of the folds.

    Edge cases: fewer respondents than folds make as many folds as respondents. No group, or none worth its penalty,
        keeps none.
    """
    if not groups:
        return ()
    x = np.concatenate([np.ones((len(mains), 1)), mains], 1) if constant else mains
    y = outcome if constant else outcome - 0.5
    whole = _Problem(x, groups, y)
    path = whole.most() * np.geomspace(1.0, LOWEST, PATH)
    count = int(respondent.max()) + 1
    folds = min(FOLDS, count)
    fold = (noise.generator(seed, "conjoint/screening").permutation(count) % folds)[respondent]
    error = np.zeros(PATH)
    for k in range(folds):
        rest = fold != k
        found = _Problem(x[rest], [z[rest] for z in groups], y[rest]).path(path * rest.mean())
        wide = np.concatenate([x[~rest], *(z[~rest] for z in groups)], 1)
        error += ((y[~rest][:, None] - wide @ found.T) ** 2).sum(0)
    sizes = np.cumsum([x.shape[1], *(z.shape[1] for z in groups)])
    last = whole.path(path)[int(error.argmin())]
    return tuple(i for i, (a, b) in enumerate(itertools.pairwise(sizes)) if np.any(last[a:b]))


class _Problem:
    """The lasso of one set of rows in orthonormal groups; coefficients are given back in the columns' own terms."""

    def __init__(self, x: np.ndarray, groups: Sequence[np.ndarray], y: np.ndarray) -> None:
        self.onto = np.linalg.pinv(x)
        self.free = self.onto @ y
        self.rest = y - x @ self.free
        self.groups, self.bases, self.back = groups, [], []
        for z in groups:
            left, size, right = np.linalg.svd(z - x @ (self.onto @ z), full_matrices=False)
            on = size > RANK_ERROR * max(1.0, float(np.linalg.norm(z)))
            self.bases.append(left[:, on])
            self.back.append(right[on].T / size[on])
        self.shift = [self.onto @ z for z in groups]
        joined = np.concatenate(self.bases, 1)
        self.gram, self.pull = joined.T @ joined, joined.T @ self.rest
        ends = np.cumsum([0, *(b.shape[1] for b in self.bases)])
        self.parts = [slice(a, b) for a, b in itertools.pairwise(ends)]

    def most(self) -> float:
        """The least penalty that leaves no group."""
        return max(float(np.linalg.norm(self.pull[s])) / max(1, s.stop - s.start) ** 0.5 for s in self.parts)

    def path(self, penalties: np.ndarray) -> np.ndarray:
        """Coefficients of all columns at each penalty [k, m + sum k_g], by blockwise descent from one to the next."""
        c, out = np.zeros(len(self.pull)), []
        for lam in penalties:
            for _ in range(SWEEPS):
                before = c.copy()
                for s in self.parts:
                    g = self.pull[s] - self.gram[s] @ c + c[s]
                    size, price = float(np.linalg.norm(g)), lam * (s.stop - s.start) ** 0.5
                    c[s] = g * max(0.0, 1 - price / size) if size else 0.0
                if np.abs(c - before).max(initial=0.0) <= CONVERGED:
                    break
            own = [b @ c[s] for b, s in zip(self.back, self.parts, strict=True)]
            mains = self.free - sum(shift @ o for shift, o in zip(self.shift, own, strict=True))
            out.append(np.concatenate([mains, *own]))
        return np.stack(out)
