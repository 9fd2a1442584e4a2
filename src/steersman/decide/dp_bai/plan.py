"""What a phase does with the arms that are left: which it pulls, how often, and how it estimates the others.

Everything is a function of the public features, the options and the set of arms left, which is itself private by then.
Leaves out: rewards and noise (`ask_tell`, `play`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from steersman.core import noise
from steersman.core.errors import UserError
from steersman.decide.dp_bai.design import (
    check_features,
    coefficients,
    coordinates,
    max_det,
    random_spanning,
    ranks,
)
from steersman.decide.dp_bai.phases import Rounding, Spending, check_budget, check_sizes, collected, schedule

Design = Literal["max-det", "all", "random"]


@dataclass(frozen=True, slots=True)
class Collection:
    """What one phase pulls.

    Args:
        arms: the arms pulled, in rising order.
        pulls: N >= 1 of each.
        weights: [active, arms] to estimate every active arm from those pulled; None where all are pulled.
    """

    arms: tuple[int, ...]
    pulls: int
    weights: npt.NDArray[np.float64] | None

    def estimates(self, means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[..., active] estimates from ``[..., arms]`` noisy means: sum_j alpha_ij mean_j."""
        return means if self.weights is None else means @ self.weights.T


@dataclass(frozen=True, slots=True)
class Plan:
    """An experiment before its first reward.

    Args:
        points: [K, d] coordinates of the arms, d their rank.
        sizes: s_1 = K, ..., s_{M+1} = 1.
        spending: pulls of each arm of a phase.
        design: "max-det", or one of its controls: "all" active arms, or a "random" set that spans.
        seed: of the random sets; it protects nobody.
    """

    points: npt.NDArray[np.float64]
    sizes: tuple[int, ...]
    spending: Spending
    design: Design
    seed: int

    @property
    def phases(self) -> int:
        """M."""
        return len(self.sizes) - 1

    def pulls_all(self, rank: int, size: int) -> bool:
        """Whether a phase pulls every arm: rank >= sqrt(size), since its variance is d^2 M/T then, against s M/T."""
        return self.design == "all" or rank * rank >= size

    def collect(self, active: Sequence[int], phase: int) -> Collection:
        """What phase `phase` (from 0) pulls when the arms `active` (rising) are left.

        Edge cases: where no arm left has any features, one is pulled and all are estimated as 0.
        """
        points = self.points[list(active)]
        rank = int(ranks(points[None])[0])
        if self.pulls_all(rank, len(active)):
            return Collection(tuple(active), self.spending.pulls(len(active)), None)
        if rank == 0:
            return Collection((active[0],), self.spending.pulls(1), np.zeros((len(active), 1)))
        if self.design == "random":
            rows = random_spanning(points, noise.generator(self.seed, "dp-bai/spanning", phase))
        else:
            rows = max_det(points)
        arms = tuple(active[r] for r in rows)
        return Collection(arms, self.spending.pulls(len(arms)), coefficients(coordinates(points), rows))

    def survivors(self, active: Sequence[int], estimates: npt.NDArray[np.float64], phase: int) -> tuple[int, ...]:
        """The arms with the largest estimates, as many as the next size says; of equals the lowest number."""
        order = np.argsort(-estimates, kind="stable")[: self.sizes[phase + 1]]
        return tuple(sorted(active[i] for i in order))


def make_plan(
    features: npt.ArrayLike, budget: int, rounding: Rounding, design: Design, sizes: Sequence[int] | None, seed: int
) -> Plan:
    """Check features, sizes and budget, and fix everything that does not depend on rewards.

    Raises:
        UserError: features or sizes that cannot be used.
        BudgetTooSmall: with the least budget that works.
    """
    if rounding not in ("floor", "paper") or design not in ("max-det", "all", "random"):
        raise UserError(f"rounding {rounding!r}, design {design!r}", allowed="floor or paper; max-det, all or random")
    points = coordinates(check_features(features))
    count, rank = points.shape
    chosen = schedule(count, rank) if sizes is None else check_sizes(sizes, count)
    spending = Spending(budget, len(chosen) - 1, rank, rounding)
    if count > 1:
        check_budget(spending, collected(chosen, rank, design == "all"))
    return Plan(points, chosen, spending, design, seed)
