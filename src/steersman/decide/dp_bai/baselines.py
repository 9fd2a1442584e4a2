"""What DP-BAI is compared with: OD-LinBAI, its two private versions, sequential halving, uniform allocation, pooling.

Sources: Yang and Tan, "Minimax Optimal Fixed-Budget Best Arm Identification in Linear Bandits", NeurIPS 2022
(OD-LinBAI); Karnin, Koren and Somekh, ICML 2013 (sequential halving). DP-OD with noise on the features is our
reconstruction of the baseline of Chen et al. 2024, whose code is not public. Leaves out: real experiments (only `DPBAI`
asks people).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from steersman.core.errors import RunStopped, UserError
from steersman.decide.dp_bai.ask_tell import DPBAI
from steersman.decide.dp_bai.phases import BudgetTooSmall, halving
from steersman.decide.dp_bai.play import LaplaceNoise, Law, distinct_rows, dp_bai_procedure
from steersman.decide.dp_bai.worlds import LinearArms
from steersman.train.trial import Procedure, TrialNoise

RANK = 1e-9
RESIDUE = 1e-9
"""Rounding residue of a weight times a budget, which must not become a pull."""
GAP = 1e-4
"""The design is good enough when its worst variance is at most d (1 + GAP); the optimum has d."""
MOST_UPDATES = 200_000
NEGLIGIBLE = 1e-4
"""Weights below this share are dropped from a design."""
Floats = npt.NDArray[np.float64]


def sequential_halving(n_arms: int, budget: int, epsilon: float = math.inf) -> DPBAI:
    """Sequential halving, which ignores features: DP-BAI with plain halving that pulls every arm left."""
    return DPBAI(epsilon, budget, design="all", sizes=halving(n_arms))


def uniform(n_arms: int, budget: int, epsilon: float = math.inf) -> DPBAI:
    """Every arm pulled equally often, once and for all: DP-BAI of one phase that pulls every arm; n_arms >= 2."""
    return DPBAI(epsilon, budget, design="all", sizes=(n_arms, 1))


@dataclass(frozen=True, slots=True)
class PooledMeans:
    """DP-BAI whose means are those of all phases so far, with noise as if of one: an ablation, and NOT private.

    A reward enters the sums of every phase its arm survives, so each phase gives away epsilon anew. Only simulations
    play it; there is no way to start it on people.

    Args:
        options: of DP-BAI.
    """

    options: DPBAI

    @property
    def promise(self) -> float:
        """Infinite: nothing is promised."""
        return math.inf

    def procedure(self, arms: LinearArms, law: Law = "laplace") -> Procedure:
        """The ablation over replications, see `play.dp_bai_procedure`."""
        return dp_bai_procedure(self.options, arms, law, "reuse")


def g_optimal(features: npt.ArrayLike) -> Floats:
    """A G-optimal design: weights that minimise the largest variance max_i a_i^T V(pi)^{-1} a_i.

    pi_i <- pi_i v_i / d with v_i = a_i^T V(pi)^{-1} a_i, V = sum_i pi_i a_i a_i^T; at the optimum the largest variance
    is d (Kiefer and Wolfowitz 1960). With g = max_i v_i / d - 1, an arm whose v_i is below
    d (1 + g/2 - sqrt(g (4 + g - 4/d)) / 2) is in no optimal design and is dropped on the way, which matters here: a
    needless arm is pulled at least once, and brings a whole draw of noise with it. Of the result the d (d+1) / 2
    largest weights are kept, which suffice.

    Args:
        features: [K, d] of rank d.

    Returns:
        [K] weights that sum to 1.

    Raises:
        RunStopped: no convergence.

    Source: Silvey, Titterington and Torsney 1978 for the update; Harman and Pronzato 2007 for the arms dropped.
    """
    a = np.asarray(features, np.float64)
    count, dim = a.shape
    weights = np.full(count, 1 / count)
    for _ in range(MOST_UPDATES):
        variance = np.einsum("id,de,ie->i", a, np.linalg.inv(a.T @ (weights[:, None] * a)), a)
        if variance.max() <= dim * (1 + GAP):
            kept = weights >= max(NEGLIGIBLE, np.sort(weights)[-min(count, dim * (dim + 1) // 2)])
            return np.where(kept, weights, 0.0) / weights[kept].sum()
        gap = variance.max() / dim - 1
        least = dim * (1 + gap / 2 - math.sqrt(max(0.0, gap * (4 + gap - 4 / dim))) / 2)
        weights = np.where(variance < least, 0.0, weights * variance)
        weights /= weights.sum()
    raise RunStopped(f"the design of {count} arms did not converge in {MOST_UPDATES} updates")


@dataclass(frozen=True, slots=True)
class ODLinBAI:
    """OD-LinBAI: rounds of a G-optimal design over the arms left, least squares, and halving of the dimension.

    Args:
        budget: T.
        epsilon: infinity for the method as published.
        noise: where noise goes if epsilon is finite: on each coordinate of b = sum_t a_t X_t with scale
            max_i ||a_i||_1 / epsilon ("features"), or on each arm's sum of rewards with scale 1 / epsilon ("arms").
    """

    budget: int
    epsilon: float = math.inf
    noise: Literal["features", "arms"] = "features"

    @property
    def promise(self) -> float:
        """Epsilon for a change of one reward; either noise is as large as one reward can move what it is added to."""
        return self.epsilon

    def procedure(self, arms: LinearArms, law: Law = "laplace") -> Procedure:
        """The method over replications.

        Raises:
            BudgetTooSmall: with the least budget that works.
            UserError: options that cannot be; noise on features that is not continuous.
        """
        if not self.epsilon > 0 or self.noise not in ("features", "arms"):
            raise UserError(f"epsilon {self.epsilon}, noise {self.noise!r}", allowed="above 0; features or arms")
        if law != "laplace" and self.noise == "features" and math.isfinite(self.epsilon):
            raise UserError(f"law {law!r} with noise on features", allowed="laplace: those sums are not whole numbers")
        points = span(arms.features)
        dim = points.shape[1]
        sizes = [len(points), *(math.ceil(dim / 2**r) for r in range(1, max(1, math.ceil(math.log2(dim))) + 1))]
        rounds = len(sizes) - 1
        fixed = min(len(points), dim * (dim + 1) // 2) + sum(sizes[1:-1])
        if self.budget < fixed + rounds:
            raise BudgetTooSmall(self.budget, fixed + rounds)
        return partial(_od, self, arms, points, sizes, (self.budget - fixed) / rounds, law)


def span(features: Floats) -> Floats:
    """The features, or where they lack rank, their coordinates in an orthonormal basis of the span of the rows."""
    _, values, basis = np.linalg.svd(features, full_matrices=False)
    rank = int((values > RANK * values[0]).sum())
    return features if rank == features.shape[1] else features @ basis[:rank].T


def _od(
    method: ODLinBAI, arms: LinearArms, points: Floats, sizes: list[int], each: float, law: Law, noise: TrialNoise
) -> dict[str, Any]:
    active = np.ones((len(noise.index), len(points)), bool)
    spent = np.zeros(len(noise.index), np.int64)
    for number in range(len(sizes) - 1):
        after = np.zeros_like(active)
        sets, which = distinct_rows(active)
        for group, mask in enumerate(sets):
            rows, left = np.flatnonzero(which == group), np.flatnonzero(mask)
            if sizes[number + 1] >= len(left):
                after[np.ix_(rows, left)] = True
                continue
            local = span(points[left])
            pulls = np.ceil(g_optimal(local) * each - RESIDUE).astype(np.int64)
            spent[rows] += pulls.sum()
            estimates = _estimate(method, arms, local, left, pulls, law, noise.rows(rows), number)
            order = np.argsort(-estimates, axis=1, kind="stable")[:, : sizes[number + 1]]
            after[rows[:, None], left[order]] = True
        active = after
    return {"arm": active.argmax(1), "pulls": spent}


def _estimate(
    method: ODLinBAI, arms: LinearArms, local: Floats, left: Any, pulls: Any, law: Law, noise: TrialNoise, number: int
) -> Floats:
    """[R, left] estimates of one round, by least squares on its rewards alone."""
    replications, (count, dim) = len(noise.index), local.shape
    private = math.isfinite(method.epsilon)
    on_arms = LaplaceNoise(1 / method.epsilon if private and method.noise == "arms" else 0.0, law)
    sums = np.zeros((replications, count))
    none = np.zeros(replications, np.int64)
    for place in np.flatnonzero(pulls):
        arm = int(left[place])
        told = arms.sums(noise, arm, none + pulls[place], number, none, law != "laplace")
        sums[:, place] = told + on_arms.draw(noise, arm, number)
    b = sums @ local
    if private and method.noise == "features":
        spread = LaplaceNoise(float(np.abs(local).sum(1).max()) / method.epsilon, law)
        b = b + np.stack([spread.draw(noise, len(arms.means) + axis, number) for axis in range(dim)], 1)
    theta = np.linalg.solve(local.T @ (pulls[:, None] * local), b.T).T
    return theta @ local.T
