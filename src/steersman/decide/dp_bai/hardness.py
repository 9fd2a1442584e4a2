"""How hard an instance is, and the published bound on the error; both need the true means, so they serve studies.

Source: Chen, Karthik, Chee and Tan, ICLR 2024; the constant 65 is recalled, not quoted. Leaves out: the lower bound,
which is about all instances at once and cannot be computed for one.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.decide.dp_bai.phases import schedule

CONSTANT = 65


@dataclass(frozen=True, slots=True)
class Hardness:
    """Hardness of an instance.

    Args:
        bai: max_i i / gap_i^2, what it costs without privacy.
        private: max_i i / gap_i / epsilon, what privacy adds.
    """

    bai: float
    private: float

    @property
    def total(self) -> float:
        """H, their sum."""
        return self.bai + self.private


def hardness(means: npt.ArrayLike, dim: int, epsilon: float) -> Hardness:
    """H_BAI = max_{2 <= i <= min(d^2, K)} i / gap_(i)^2 and H_pri = max_i i / gap_(i) / epsilon.

    Args:
        means: [K] of the arms, K >= 2.
        dim: d >= 1, the rank of the features. Where d = 1, which the paper leaves out, i goes to K.
        epsilon: > 0; infinity makes H_pri 0.

    Returns:
        Both, infinite where two arms are best.

    Raises:
        UserError: fewer than two means, NaN, or an epsilon or a dimension out of range.
    """
    mu = np.sort(np.asarray(means, np.float64))[::-1]
    if mu.ndim != 1 or len(mu) < 2 or not np.isfinite(mu).all() or dim < 1 or not epsilon > 0:
        raise UserError(
            f"{len(np.atleast_1d(mu))} means, dimension {dim}, epsilon {epsilon}",
            allowed="two or more numbers, 1 or more, above 0",
        )
    most = len(mu) if dim == 1 else min(dim * dim, len(mu))
    rank, gap = np.arange(2, most + 1), mu[0] - mu[1:most]
    if not gap.min() > 0:
        return Hardness(math.inf, 0.0 if math.isinf(epsilon) else math.inf)
    return Hardness(float((rank / gap**2).max()), float((rank / gap).max() / epsilon))


def error_bound(means: npt.ArrayLike, dim: int, epsilon: float, budget: int) -> float:
    """min(1, exp(-T' / (65 M H))) with T' = T - M floor(d^2/4): the published bound, for budgets large enough.

    Args:
        means: [K].
        dim: d.
        epsilon: > 0.
        budget: T.

    Returns:
        The bound; 1 where it says nothing.

    Raises:
        UserError: as `hardness`.
    """
    hard = hardness(means, dim, epsilon).total
    phases = len(schedule(len(np.asarray(means)), dim)) - 1
    left = budget - phases * (dim * dim // 4)
    return min(1.0, math.exp(-left / (CONSTANT * phases * hard)))
