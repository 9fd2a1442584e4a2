"""DP-BAI played many times at once, for error probabilities and audits; its noise is a seed's and protects nobody.

Leaves out: the one experiment on people (`ask_tell`).
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.decide.dp_bai.ask_tell import DPBAI
from steersman.decide.dp_bai.design import ranks
from steersman.decide.dp_bai.plan import Collection, Plan
from steersman.decide.dp_bai.worlds import LinearArms, TableArms
from steersman.decide.privacy.bits import SeededBits
from steersman.decide.privacy.laplace import discrete_laplace, inverse_discrete_laplace, inverse_laplace
from steersman.stats import Interval, wilson
from steersman.train.trial import Procedure, TrialNoise, run_trials

Law = Literal["laplace", "discrete", "exact"]
LAWS = ("laplace", "discrete", "exact")
Fault = Literal["half-scale", "no-noise", "reuse"]
FAULTS = ("half-scale", "no-noise", "reuse")
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class LaplaceNoise:
    """Noise of R replications on the sums of one arm in one phase.

    Args:
        scale: of the noise; 0 for none.
        law: "laplace" and "discrete" are floating-point inverse CDFs, quick; "exact" is the sampler that protects
            people, fed by seeded bits: slow, and the same law as "discrete".
    """

    scale: float
    law: Law

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise UserError(f"law {self.law!r}", allowed=", ".join(LAWS))

    def draw(self, noise: TrialNoise, arm: int, phase: int) -> Array:
        """[R] draws."""
        if self.scale == 0:
            return np.zeros(len(noise.index))
        if self.law == "exact":
            from fractions import Fraction

            scale = Fraction(repr(self.scale))
            bits = (SeededBits(noise.seed, f"dp-bai/{arm}/{phase}/{i}") for i in noise.index)
            return np.array([discrete_laplace(scale, b) for b in bits], np.float64)
        inverse = inverse_laplace if self.law == "laplace" else inverse_discrete_laplace
        return inverse(noise.uniform(f"dp-bai/noise/{arm}", 1, phase)[:, 0], self.scale)


class Algorithm(Protocol):
    """What `simulate` can play: DP-BAI, its baselines and its ablations."""

    @property
    def promise(self) -> float:
        """Epsilon that it would promise on people, for a change of one reward; infinite for none."""

    def procedure(self, arms: LinearArms, law: Law = "laplace") -> Procedure:
        """A procedure with the outcome ``arm``: [R] the arm returned."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """Outcome of a simulation.

    Args:
        error: share of replications that returned an arm which is not best, with its Wilson interval.
        arm: [replications] the arms returned.
        law: of the noise.
        promise: epsilon that the algorithm would promise on people; infinite for none.
        certified: always False: a simulation protects nobody.
    """

    error: Interval
    arm: Array
    law: Law
    promise: float
    certified: bool = False


def simulate(
    algorithm: Algorithm,
    arms: LinearArms,
    trials: int = 50_000,
    seed: int = 0,
    law: Law = "laplace",
    batch: int = 20_000,
) -> Simulated:
    """Play an algorithm on arms whose truth is known.

    Args:
        algorithm: `DPBAI` or a baseline.
        arms: features, means and rewards.
        trials: replications.
        seed: two algorithms with the same seed meet paired rewards.
        law: of the noise, see `LaplaceNoise`.
        batch: replications at once; bounds memory, changes nothing else.

    Returns:
        The error with its 95 % interval. Where several arms are equally good, any of them is right.

    Raises:
        UserError: options that cannot be.
    """
    arm = run_trials(algorithm.procedure(arms, law), trials, seed, batch)["arm"]
    wrong = arms.means[arm] < arms.means.max()
    return Simulated(wilson(int(wrong.sum()), trials), arm, law, algorithm.promise)


def dp_bai_procedure(
    options: DPBAI, arms: LinearArms | TableArms, law: Law = "laplace", fault: Fault | None = None
) -> Procedure:
    """DP-BAI as a procedure over replications.

    Args:
        options: of the method; rewards must have the range [0, 1].
        arms: what is pulled.
        law: of the noise.
        fault: a mistake planted on purpose: noise of "half-scale", "no-noise", or the "reuse" of earlier phases'
            rewards in a phase's sums. The last is also the control that pools means; none of them is private.

    Returns:
        Procedure with outcomes ``arm`` [R]; ``survived`` [R, K] phases that each arm survived; ``released`` [R, M, K]
        the noisy sums in rewards, infinite where an arm was not pulled; ``counted`` [R, M, K] rewards in each sum.

    Raises:
        UserError: a range other than [0, 1]; a finer grid with rewards that would need it.
    """
    if tuple(options.reward_range) != (0, 1):
        raise UserError(f"reward range {options.reward_range}", allowed="(0, 1) in simulations")
    if fault is not None and fault not in FAULTS:
        raise UserError(f"fault {fault!r}", allowed=", ".join(FAULTS))
    whole = law != "laplace"
    if whole and options.noise.grid > 1 and isinstance(arms, LinearArms) and arms.rewards != "bernoulli":
        raise UserError(
            f"grid {options.noise.grid} with {arms.rewards} rewards",
            allowed="grid 1, or bernoulli rewards, or law laplace",
        )
    plan = options.plan(arms.features)
    # Of sums in units of the grid, since there the discrete noise is whole.
    scale = 0.0 if options.epsilon == np.inf or fault == "no-noise" else float(options.noise.scale(options.epsilon))
    noise_law = LaplaceNoise(scale / 2 if fault == "half-scale" else scale, law)
    return lambda noise: _play(plan, arms, noise, noise_law, whole, options.noise.grid, fault == "reuse")


def _play(
    plan: Plan, arms: LinearArms | TableArms, noise: TrialNoise, law: LaplaceNoise, whole: bool, grid: int, pool: bool
) -> dict[str, Array]:
    count, replications = len(plan.points), len(noise.index)
    active = np.ones((replications, count), bool)
    used, total = np.zeros((replications, count), np.int64), np.zeros((replications, count))
    survived = np.zeros((replications, count), np.int16)
    released = np.full((replications, plan.phases, count), np.inf)
    counted = np.zeros((replications, plan.phases, count), np.int64)
    for phase in range(plan.phases):
        chosen, pulls, groups = _collect(plan, active, phase)
        means = np.full((replications, count), -np.inf)
        for arm in np.flatnonzero(chosen.any(0)):
            rows = np.flatnonzero(chosen[:, arm])
            mine = noise.rows(rows)
            sums = arms.sums(mine, int(arm), pulls[rows], phase, used[rows, arm], whole)
            used[rows, arm] += pulls[rows]
            total[rows, arm] += sums
            counts = used[rows, arm] if pool else pulls[rows]
            noisy = (total[rows, arm] if pool else sums) + law.draw(mine, int(arm), phase) / grid
            released[rows, phase, arm], counted[rows, phase, arm] = noisy, counts
            means[rows, arm] = noisy / counts
        for rows, left, collection in groups:
            means[np.ix_(rows, left)] = collection.estimates(means[np.ix_(rows, collection.arms)])
        order = np.argsort(-means, axis=1, kind="stable")[:, : plan.sizes[phase + 1]]
        active = np.zeros_like(active)
        np.put_along_axis(active, order, True, 1)
        survived += active
    return {"arm": active.argmax(1), "survived": survived, "released": released, "counted": counted}


def _collect(plan: Plan, active: Array, phase: int) -> tuple[Array, Array, list[tuple[Array, Array, Collection]]]:
    """Who pulls what: mask of arms, pulls of each, and the replications of each set that does not pull all."""
    size = plan.sizes[phase]
    sets, which = distinct_rows(active)
    arms = np.nonzero(sets)[1].reshape(len(sets), size)
    pulls_all = np.array([plan.pulls_all(int(r), size) for r in ranks(plan.points[arms])])
    chosen, pulls = active.copy(), np.full(len(active), plan.spending.pulls(size), np.int64)
    groups = []
    for number in np.flatnonzero(~pulls_all):
        rows = np.flatnonzero(which == number)
        collection = plan.collect(tuple(int(a) for a in arms[number]), phase)
        chosen[rows] = False
        chosen[np.ix_(rows, collection.arms)] = True
        pulls[rows] = collection.pulls
        groups.append((rows, arms[number], collection))
    return chosen, pulls, groups


def distinct_rows(active: Array) -> tuple[Array, Array]:
    """The distinct rows of a mask, and which of them each row is."""
    packed = np.ascontiguousarray(np.packbits(active, axis=1))
    _, first, which = np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_index=True, return_inverse=True)
    return active[first], which.ravel()
