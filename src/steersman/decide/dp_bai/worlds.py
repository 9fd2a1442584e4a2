"""Arms whose truth is known: what a simulation pulls, sums of rewards at a time.

Leaves out: procedures that pull them (`play`, `baselines`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.decide.dp_bai.design import check_features
from steersman.train.trial import TrialNoise

MOST_NUMBERS = 4_000_000
"""Uniform numbers drawn at once."""
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LinearArms:
    """Arms with features, means in [0, 1], and independent rewards.

    Args:
        features: [K, d].
        means: [K]; rewards of arm i have mean means[i].
        rewards: "bernoulli" 0 or 1; or "uniform" on [0, 2 mean], for means up to 1/2.
    """

    features: Any
    means: Any
    rewards: Literal["bernoulli", "uniform"] = "bernoulli"

    def __post_init__(self) -> None:
        features, means = check_features(self.features), np.asarray(self.means, np.float64)
        most = {"bernoulli": 1.0, "uniform": 0.5}.get(self.rewards)
        if most is None:
            raise UserError(f"rewards {self.rewards!r}", allowed="bernoulli or uniform")
        if means.shape != (len(features),) or not ((means >= 0) & (means <= most)).all():
            raise UserError(f"means {means}", allowed=f"one for each of {len(features)} arms, from 0 to {most:g}")
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "means", means)

    @staticmethod
    def of(
        features: npt.ArrayLike, theta: npt.ArrayLike, rewards: Literal["bernoulli", "uniform"] = "bernoulli"
    ) -> "LinearArms":
        """Arms whose means are <a_i, theta>."""
        table = check_features(features)
        return LinearArms(table, table @ np.asarray(theta, np.float64), rewards)

    def sums(self, noise: TrialNoise, arm: int, pulls: Counts, phase: int, used: Counts, whole: bool) -> Floats:
        """[R] sums of the next `pulls` rewards of one arm; `used` is ignored, as rewards do not depend on their place.

        Args:
            noise: of R replications; procedures that pull an arm in the same phase have paired rewards.
            arm: its number.
            pulls: [R] how many.
            phase: from 0.
            used: [R] how many were pulled before.
            whole: rewards are first rounded to 0 or 1 without bias, which makes them Bernoulli whatever they were.
        """
        if self.rewards == "bernoulli" or whole:
            return self._binomial(noise, arm, pulls, phase)
        found = np.zeros(len(pulls))
        step = max(1, MOST_NUMBERS // max(1, len(pulls)))
        for first in range(0, int(pulls.max(initial=0)), step):
            u = noise.uniform(f"dp-bai/reward/{arm}", min(step, int(pulls.max()) - first), phase, first)
            found += np.where(first + np.arange(u.shape[1]) < pulls[:, None], u, 0.0).sum(1)
        return found * 2 * self.means[arm]

    def _binomial(self, noise: TrialNoise, arm: int, pulls: Counts, phase: int) -> Floats:
        """One uniform number through the inverse of the binomial CDF."""
        import scipy.stats

        u = noise.uniform(f"dp-bai/reward/{arm}", 1, phase)[:, 0]
        found = np.zeros(len(pulls))
        for n in np.unique(pulls):
            rows = pulls == n
            cdf = scipy.stats.binom.cdf(np.arange(n), n, self.means[arm])
            found[rows] = np.searchsorted(cdf, u[rows])
        return found


@dataclass(frozen=True)
class TableArms:
    """Arms whose n-th reward stands in a table: two neighbouring tables are what an audit compares.

    Args:
        features: [K, d].
        table: [K, T] rewards of 0 or 1.
    """

    features: Any
    table: npt.NDArray[np.int64]

    def sums(self, noise: TrialNoise, arm: int, pulls: Counts, phase: int, used: Counts, whole: bool) -> Floats:
        """[R] sums of the next `pulls` rewards of the arm's row, after the `used` first."""
        total = np.concatenate([[0], np.cumsum(self.table[arm])])
        return (total[used + pulls] - total[used]).astype(np.float64)
