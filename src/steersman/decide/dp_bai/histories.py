"""DP-BAI by enumeration: the probability of every history of arms left, its error, and all that it gives away.

Where each phase pulls every arm left, noisy sums are independent whole numbers, and a phase uses no other phase's
rewards: the sets of arms left are a Markov chain whose every step is a finite sum. Nothing is simulated. Leaves out:
phases that pull a Max-Det collection, whose estimates share their noise (`play` simulates them), and continuous noise
(`exact` has it for two arms).
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.decide.dp_bai.ask_tell import DPBAI
from steersman.decide.dp_bai.plan import Plan
from steersman.decide.dp_bai.play import FAULTS, Fault
from steersman.decide.dp_bai.worlds import LinearArms, TableArms
from steersman.decide.privacy.laplace import DiscreteLaplace

TAIL = 70
"""Noise beyond this many scales is left out: it has a probability of exp(-70)."""
MOST_STEPS = 3_000_000
"""More (tables x arms) than this are not enumerated."""
Array = npt.NDArray[np.float64]
History = tuple[tuple[int, ...], ...]
Sums = tuple[tuple[int, ...], ...]
"""Of each phase, the sum of the rewards of every arm that the phase would use."""
Law = Callable[[int, int], Array]
"""From (phase, arm) to the probabilities of its sum of rewards, from 0."""


def survivors(laws: Array, keep: int) -> dict[tuple[int, ...], float]:
    """Probability that each set of `keep` rows holds the largest of independent whole numbers; ties go to lower rows.

    P(W) = sum over w in W and v of P(X_w = v) prod_{u in W, u != w} P(X_u is before) prod_{x not in W} P(X_x is after),
    where w is the last of W: before means X_u > v, or X_u = v and u < w.

    Args:
        laws: [n, V] probabilities over the same V values.
        keep: from 1 to n.

    Returns:
        By set, as positions in rising order; sets of probability 0 are left out.
    """
    count = len(laws)
    gap = np.zeros((count, 1))
    above = np.hstack([np.cumsum(laws[:, ::-1], 1)[:, ::-1][:, 1:], gap])
    below = np.hstack([gap, np.cumsum(laws, 1)[:, :-1]])
    found = {}
    for kept in itertools.combinations(range(count), keep):
        total = 0.0
        for last in kept:
            share = laws[last].copy()
            for other in set(range(count)) - {last}:
                ahead = other in kept
                tie = (other < last) == ahead
                share *= (above if ahead else below)[other] + (laws[other] if tie else 0.0)
            total += float(share.sum())
        if total > 0:
            found[kept] = total
    return found


def noise_law(scale: float) -> Array:
    """Probabilities of discrete Laplace noise from -J to J, J = 70 scales; without noise J = 0."""
    if scale == 0:
        return np.ones(1)
    reach = math.ceil(TAIL * scale)
    return DiscreteLaplace.pmf(np.arange(-reach, reach + 1), scale)


def _plan(options: DPBAI, features: npt.ArrayLike) -> Plan:
    plan = options.plan(features)
    if options.noise.grid != 1 or tuple(options.reward_range) != (0, 1):
        raise UserError("rewards other than 0 and 1 are not enumerated", allowed="grid 1, reward range (0, 1)")
    return plan


def _check(plan: Plan, active: tuple[int, ...], phase: int) -> None:
    if plan.collect(active, phase).weights is not None:
        raise UserError(
            f"phase {phase + 1} pulls only a part of the arms {active}, whose estimates share their noise",
            allowed='design "all", or arms of which each phase pulls all',
        )


def _scale(options: DPBAI, fault: Fault | None) -> float:
    if fault is not None and fault not in FAULTS:
        raise UserError(f"fault {fault!r}", allowed=", ".join(FAULTS))
    if math.isinf(options.epsilon) or fault == "no-noise":
        return 0.0
    return float(options.noise.scale(options.epsilon)) / (2 if fault == "half-scale" else 1)


def _walk(plan: Plan, law: Law, noise: Array) -> dict[History, float]:
    """Every history and its probability."""
    found: dict[History, float] = {(tuple(range(len(plan.points))),): 1.0}
    for phase in range(plan.phases):
        steps: dict[tuple[int, ...], dict[tuple[int, ...], float]] = {}
        after = {}
        for history, share in found.items():
            active = history[-1]
            if active not in steps:
                _check(plan, active, phase)
                laws = np.stack([np.convolve(law(phase, a), noise) for a in active])
                steps[active] = survivors(laws, plan.sizes[phase + 1])
            for kept, chance in steps[active].items():
                after[(*history, tuple(active[k] for k in kept))] = share * chance
        found = after
    return found


def exact_history(options: DPBAI, arms: LinearArms | TableArms) -> dict[History, float]:
    """Probability of every history of arms left, with discrete noise and 0/1 rewards.

    Args:
        options: DP-BAI with phases that pull every arm left (design "all"), grid 1.
        arms: with Bernoulli rewards, or with a table of them.

    Returns:
        From the sets of arms left, before each phase and at the end, to probabilities that sum to 1.

    Raises:
        UserError: options whose histories cannot be enumerated.

    Source: ours.
    """
    import scipy.stats

    plan = _plan(options, arms.features)
    pulls = [plan.spending.pulls(n) for n in plan.sizes[:-1]]
    before = [0, *itertools.accumulate(pulls)]
    if isinstance(arms, LinearArms) and arms.rewards != "bernoulli":
        raise UserError(f"{arms.rewards} rewards", allowed="bernoulli")

    def law(phase: int, arm: int) -> Array:
        values = np.arange(pulls[phase] + 1)
        if isinstance(arms, LinearArms):
            return np.asarray(scipy.stats.binom.pmf(values, pulls[phase], arms.means[arm]))
        told = int(arms.table[arm][before[phase] : before[phase + 1]].sum())
        return (values == told).astype(np.float64)

    return _walk(plan, law, noise_law(_scale(options, None)))


def exact_error(options: DPBAI, arms: LinearArms) -> float:
    """Probability that DP-BAI returns an arm that is not best; arguments and errors as `exact_history`."""
    best = arms.means.max()
    found = exact_history(options, arms)
    return min(1.0, math.fsum(share for history, share in found.items() if arms.means[history[-1][0]] < best))


def exact_loss(options: DPBAI, features: npt.ArrayLike, fault: Fault | None = None) -> float:
    """The most that the history of arms left gives away of one 0/1 reward, over all tables of rewards.

    max |ln P(history | table) - ln P(history | neighbour)| over every table, every reward of it and every history. A
    table enters by the sums of each phase's rewards alone, so these are what is enumerated.

    Args:
        options: DP-BAI with phases that pull every arm left (design "all"), grid 1, and a budget of a few pulls.
        features: [K, d].
        fault: planted on purpose, as in `play.dp_bai_procedure`.

    Returns:
        The loss in nats; at most epsilon for a correct mechanism, infinite if a history tells the reward.

    Raises:
        UserError: options whose histories cannot be enumerated, or too many tables.

    Source: ours.
    """
    tables = _Tables(_plan(options, features), noise_law(_scale(options, fault)), fault == "reuse")
    count, pulls = len(tables.plan.points), tables.pulls
    size = math.prod((n + 1) ** count for n in pulls)
    if size * count * len(pulls) > MOST_STEPS:
        raise UserError(f"{size:,} tables of {count} arms", allowed="fewer", cure="Lower the budget.")
    worst = 0.0
    for sums in itertools.product(*(itertools.product(range(n + 1), repeat=count) for n in pulls)):
        for phase, arm in itertools.product(range(len(pulls)), range(count)):
            if sums[phase][arm] < pulls[phase]:
                worst = max(worst, _distance(tables.chances(sums), tables.chances(_raised(sums, phase, arm))))
    return worst


class _Tables:
    """Chances of histories given a table of rewards, by the sums of each phase; what was computed is kept."""

    def __init__(self, plan: Plan, noise: Array, pool: bool) -> None:
        self.plan, self.noise, self.pool = plan, noise, pool
        self.pulls = [plan.spending.pulls(n) for n in plan.sizes[:-1]]
        self.steps: dict[Any, dict[tuple[int, ...], float]] = {}
        self.known: dict[Sums, dict[History, float]] = {}

    def chances(self, sums: Sums) -> dict[History, float]:
        """Probability of every history."""
        if sums not in self.known:
            found: dict[History, float] = {(tuple(range(len(self.plan.points))),): 1.0}
            for phase in range(len(self.pulls)):
                after = {}
                for history, share in found.items():
                    for kept, chance in self._step(phase, history[-1], sums).items():
                        after[(*history, kept)] = share * chance
                found = after
            self.known[sums] = found
        return self.known[sums]

    def _step(self, phase: int, active: tuple[int, ...], sums: Sums) -> dict[tuple[int, ...], float]:
        first = 0 if self.pool else phase
        told = tuple(sum(sums[p][a] for p in range(first, phase + 1)) for a in active)
        if (phase, active, told) not in self.steps:
            _check(self.plan, active, phase)
            values = np.arange(sum(self.pulls[first : phase + 1]) + 1)
            laws = np.stack([np.convolve(values == s, self.noise) for s in told])
            found = survivors(laws, self.plan.sizes[phase + 1])
            self.steps[phase, active, told] = {tuple(active[k] for k in kept): share for kept, share in found.items()}
        return self.steps[phase, active, told]


def _raised(sums: Sums, phase: int, arm: int) -> Sums:
    """The sums of the neighbour in which one more reward of the arm in that phase is 1."""
    row = tuple(s + (a == arm) for a, s in enumerate(sums[phase]))
    return (*sums[:phase], row, *sums[phase + 1 :])


def _distance(one: dict[History, float], other: dict[History, float]) -> float:
    if one.keys() != other.keys():
        return math.inf
    return max(abs(math.log(share / other[history])) for history, share in one.items())
