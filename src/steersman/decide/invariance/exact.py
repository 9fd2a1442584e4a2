"""The largest risk over all deterministic interventions of a discrete world.

The risk is multilinear in the mutable mechanisms, so its supremum is attained where each is a function of its parents.
Leaves out: sampling (`direct`, `gradient`). Source: Liu et al. 2023, section 3.2; the maximum by enumeration is ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from steersman.core import noise
from steersman.decide.invariance.data import Columns, count
from steersman.decide.invariance.discrete import DiscreteSCM

MOST_COMBINATIONS = 20_000
AT_ONCE = 4_000_000
"""States times combinations that are summed at once."""
SWEEPS = 200


@dataclass(frozen=True)
class TablePolicy:
    """A mutable variable's intervention: one level for each configuration of its parents.

    Args:
        world: whose levels these are.
        name: the mutable variable.
        choice: number of the level, with an axis for each variable (length one but for the parents).
    """

    world: DiscreteSCM
    name: str
    choice: np.ndarray

    def __call__(self, columns: Columns) -> np.ndarray:
        at = []
        for v, size in zip(self.world.graph.nodes, self.choice.shape, strict=True):
            at.append(self.world.places(columns, v) if size > 1 else np.zeros(count(columns), np.int64))
        return np.array(self.world.values[self.name])[self.choice[tuple(at)]]

    def rows(self) -> list[dict[str, float]]:
        """The intervention as a table: a row for each configuration of the parents."""
        parents = [v for v, n in zip(self.world.graph.nodes, self.choice.shape, strict=True) if n > 1]
        found = []
        for values in product(*(self.world.values[p] for p in parents)):
            row = dict(zip(parents, values, strict=True))
            at = tuple(self.world.values[v].index(row[v]) if v in row else 0 for v in self.world.graph.nodes)
            found.append({**row, self.name: self.world.values[self.name][int(self.choice[at])]})
        return found


@dataclass(frozen=True, slots=True)
class Maximum:
    """A largest risk, where it is attained, and whether it is known to be the largest."""

    risk: float
    policy: dict[str, TablePolicy]
    exact: bool
    how: str
    restarts: tuple[float, ...] = ()


def maximise(
    world: DiscreteSCM,
    losses: np.ndarray,
    allowed: Mapping[str, Sequence[int]] | None = None,
    restarts: int = 10,
    seed: int = 0,
) -> Maximum:
    """max over J of sum over states of c prod_j 1{x_j = J_j(pa_j)}.

    For one mutable variable the maximum separates over the configurations z of its parents: sum_z max_m c(z, m). For
    several it is exact by backward induction where each sees what the one before it saw and chose, and by enumerating
    all but one of them where that is few enough; otherwise coordinate ascent with restarts gives a lower bound.

    Args:
        world: the world.
        losses: c with an axis for each variable (`DiscreteSCM.losses`).
        allowed: numbers of the levels that a mutable variable may take; None = all.
        restarts: of coordinate ascent.
        seed: of its starts.

    Edge cases: no mutable variable: the sum itself.
    """
    graph = world.graph
    names = [v for v in graph.nodes if v in graph.mutable]
    levels = {m: tuple((allowed or {}).get(m, range(len(world.values[m])))) for m in names}
    if not names:
        return Maximum(float(losses.sum()), {}, True, "nothing changes")
    if _recall(world, names):
        choices = _backward(world, losses, names, levels)
        return _found(world, losses, choices, True, "one maximum for each configuration of the parents")
    last = max(names, key=lambda m: _configurations(world, m) * math.log(len(levels[m]) + 1e-12))
    others = [m for m in names if m != last]
    many = sum(_configurations(world, m) * math.log(max(len(levels[m]), 1)) for m in others)
    if many <= math.log(MOST_COMBINATIONS):
        choices = _enumerate(world, losses, others, last, levels)
        return _found(world, losses, choices, True, "enumeration")
    return _ascend(world, losses, names, levels, restarts, seed)


def risk_under(world: DiscreteSCM, losses: np.ndarray, choices: Mapping[str, np.ndarray]) -> float:
    """The risk where each mutable variable follows its choice."""
    for m, choice in choices.items():
        losses = losses * _indicator(world, m, choice)
    return float(losses.sum())


def _found(world: DiscreteSCM, losses: np.ndarray, choices: Mapping[str, np.ndarray], exact: bool, how: str) -> Maximum:
    policy = {m: TablePolicy(world, m, choices[m]) for m in world.graph.mutable}
    return Maximum(risk_under(world, losses, choices), policy, exact, how)


def _indicator(world: DiscreteSCM, name: str, choice: np.ndarray) -> np.ndarray:
    shape = [1] * len(world.shape)
    shape[world.axis(name)] = -1
    return np.arange(len(world.values[name])).reshape(shape) == choice


def _configurations(world: DiscreteSCM, name: str) -> int:
    return math.prod(len(world.values[p]) for p in world.graph.parents(name))


def _recall(world: DiscreteSCM, names: Sequence[str]) -> bool:
    """Whether each mutable variable has the one before it, and all that one's parents, among its own parents."""
    pa = world.graph.parents
    return all({*pa(a), a} <= set(pa(b)) for a, b in pairwise(names))


def _best(world: DiscreteSCM, losses: np.ndarray, name: str, levels: Sequence[int]) -> np.ndarray:
    """The level that costs most for each configuration of the parents, all other mechanisms inside `losses`.

    `losses` may have one more axis in front, of alternatives.
    """
    extra = losses.ndim - len(world.shape)
    kept = {*world.graph.parents(name), name}
    gone = tuple(i + extra for i, v in enumerate(world.graph.nodes) if v not in kept)
    cost = losses.sum(gone, keepdims=True)
    axis = world.axis(name) + extra
    return np.array(levels)[np.argmax(np.take(cost, levels, axis), axis, keepdims=True)]


def _backward(
    world: DiscreteSCM, losses: np.ndarray, names: Sequence[str], levels: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    choices: dict[str, np.ndarray] = {}
    for m in reversed(names):
        choices[m] = _best(world, losses, m, levels[m])
        losses = losses * _indicator(world, m, choices[m])
    return choices


def _policies(world: DiscreteSCM, name: str, levels: Sequence[int]) -> np.ndarray:
    """[K, ...] every function from configurations of the parents to levels."""
    shape = [len(world.values[v]) if v in world.graph.parents(name) else 1 for v in world.graph.nodes]
    return np.array(list(product(levels, repeat=math.prod(shape)))).reshape(-1, *shape)


def _enumerate(
    world: DiscreteSCM, losses: np.ndarray, others: Sequence[str], last: str, levels: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Every combination of the others' policies, the last one's maximum for each of them."""
    all_policies = [_policies(world, m, levels[m]) for m in others]
    combinations = np.stack(np.meshgrid(*(np.arange(len(p)) for p in all_policies), indexing="ij"), -1)
    combinations = combinations.reshape(-1, len(others))
    block, best, found = max(1, AT_ONCE // losses.size), -math.inf, {}
    for at in range(0, len(combinations), block):
        picked = combinations[at : at + block]
        cost = losses[None]
        for j, m in enumerate(others):
            choice = all_policies[j][picked[:, j]]
            shape = [1] * (len(world.shape) + 1)
            shape[world.axis(m) + 1] = -1
            cost = cost * (np.arange(len(world.values[m])).reshape(shape) == choice)
        choice = _best(world, cost, last, levels[last])
        shape = [1] * (len(world.shape) + 1)
        shape[world.axis(last) + 1] = -1
        taken = cost * (np.arange(len(world.values[last])).reshape(shape) == choice)
        totals = taken.reshape(len(picked), -1).sum(1)
        i = int(totals.argmax())
        if totals[i] > best:
            best = float(totals[i])
            found = {m: all_policies[j][picked[i, j]] for j, m in enumerate(others)} | {last: choice[i]}
    return found


def _ascend(
    world: DiscreteSCM,
    losses: np.ndarray,
    names: Sequence[str],
    levels: Mapping[str, Sequence[int]],
    restarts: int,
    seed: int,
) -> Maximum:
    rng = noise.generator(seed, "invariance/ascent")
    runs: list[tuple[float, dict[str, np.ndarray]]] = []
    for _ in range(max(1, restarts)):
        shapes = {m: [len(world.values[v]) if v in world.graph.parents(m) else 1 for v in world.graph.nodes]
                  for m in names}  # fmt: skip
        choices = {m: np.array(levels[m])[rng.integers(len(levels[m]), size=shapes[m])] for m in names}
        before = -math.inf
        for _ in range(SWEEPS):
            for m in names:
                rest = losses
                for other in names:
                    if other != m:
                        rest = rest * _indicator(world, other, choices[other])
                choices[m] = _best(world, rest, m, levels[m])
            now = risk_under(world, losses, choices)
            if now <= before:
                break
            before = now
        runs.append((risk_under(world, losses, choices), choices))
    best = max(runs, key=lambda r: r[0])
    made = _found(world, losses, best[1], False, f"coordinate ascent from {len(runs)} starts: a lower bound")
    return Maximum(made.risk, made.policy, False, made.how, tuple(r for r, _ in runs))
