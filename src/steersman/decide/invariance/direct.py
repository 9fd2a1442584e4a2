"""The worst intervention by the direct method: simulate every grid value for every row, take the one that costs most.

For one mutable variable at a time, the loss at each value is regressed on the variable's parents and the intervention
is its argmax; several variables take turns. What is found is judged on noise it has not seen, so its risk is a lower
bound without the winner's curse. Leaves out: discrete worlds (`exact`), networks (`gradient`).
Source: Liu et al. 2023 search by gradient alone, which stops at local optima; the direct method is ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from steersman.core import noise
from steersman.decide.invariance.data import Columns, count, levels_of, stack
from steersman.decide.invariance.discrete import Function
from steersman.decide.invariance.world import Policy, SampledWorld

BINS = 40
"""Most bins of a single parent, and most leaves of a tree of several."""
ROWS_A_BIN = 12
SWEEPS = 4
SAME = 1e-9


@dataclass(frozen=True)
class GridPolicy:
    """A mutable variable's intervention: the grid value with the largest smoothed loss at its parents.

    Args:
        name: the mutable variable.
        parents: what it sees.
        grid: [K] values it may take.
        cost: rows of parents [n, p] -> smoothed losses [n, K].
        seen: [r, p] some rows of the parents that it was learnt from.
    """

    name: str
    parents: tuple[str, ...]
    grid: np.ndarray
    cost: Callable[[np.ndarray], np.ndarray]
    seen: np.ndarray = field(repr=False)

    def __call__(self, columns: Columns) -> np.ndarray:
        return self.grid[self.cost(stack(columns, self.parents, count(columns))).argmax(1)]

    def rows(self, most: int = 25) -> list[dict[str, float]]:
        """The intervention as a table: its value at quantiles of a single parent, or at some rows of several."""
        at = self.seen
        if len(self.parents) == 1:
            at = np.unique(np.quantile(at[:, 0], np.linspace(0, 1, most)))[:, None]
        elif len(self.parents) > 1:
            at = np.unique(at, axis=0)[:most]
        else:
            at = np.zeros((1, 0))
        value = self(dict(zip(self.parents, at.T, strict=True)) or {"": at[:, :0].sum(1)})
        return [{**dict(zip(self.parents, row.tolist(), strict=True)), self.name: float(v)}
                for row, v in zip(at, value, strict=True)]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found: the policy, and the risks of all its starts on the noise they were found with."""

    policy: dict[str, Policy]
    starts: tuple[float, ...]


def search_direct(
    world: SampledWorld, function: Function, grid: int = 21, draws: int = 2, restarts: int = 3, seed: int = 0
) -> Search:
    """The policy of the direct method.

    Args:
        world: rows and mechanisms.
        function: the predictor.
        grid: values of a continuous mutable variable.
        draws: copies of the rows with noise of their own.
        restarts: starts where several variables take turns, at constants; one variable needs one.
        seed: of noise and starts.
    """
    names = [m for m in world.graph.nodes if m in world.graph.mutable]
    base = {k: np.tile(v, draws) for k, v in world.rows.items()}
    u = world.uniform(count(base), seed, "invariance/direct")
    grids = {m: world.ranges[m].grid(grid) for m in names}
    rng = noise.generator(seed, "invariance/direct/starts")
    found: list[tuple[float, dict[str, Policy]]] = []
    for start in range(restarts if len(names) > 1 else 1):
        where = {m: len(grids[m]) // 2 if start == 0 else int(rng.integers(len(grids[m]))) for m in names}
        policy: dict[str, Policy] = {m: constant(float(grids[m][where[m]])) for m in names}
        risk = -np.inf
        for _ in range(SWEEPS if len(names) > 1 else 1):
            trial = dict(policy)
            for m in names:
                trial[m] = _improve(world, function, base, u, trial, m, grids[m])
            now = float(losses(world, function, base, trial, u).mean())
            if now <= risk + SAME:
                break
            policy, risk = trial, now
        found.append((risk, policy))
    best = max(found, key=lambda r: r[0])
    return Search(best[1], tuple(r for r, _ in found))


def constant(value: float) -> Policy:
    """The policy that sets one value whatever the parents."""
    return lambda columns: np.full(count(columns), value)


def losses(
    world: SampledWorld, function: Function, base: Columns, policy: Mapping[str, Policy], u: Mapping[str, np.ndarray]
) -> np.ndarray:
    """[n] squared errors in the environment of a policy."""
    made = world.simulate(base, policy, u)
    return (made[world.graph.target] - function(made)) ** 2


def _improve(
    world: SampledWorld,
    function: Function,
    base: Columns,
    u: Mapping[str, np.ndarray],
    policy: Mapping[str, Policy],
    name: str,
    grid: np.ndarray,
) -> GridPolicy:
    """The best response of one variable to the policies of the others."""
    n, k = count(base), len(grid)
    many = {c: np.tile(v, k) for c, v in base.items()}
    noisy = {c: np.tile(v, k) for c, v in u.items()}
    values = np.repeat(grid, n)
    made = world.simulate(many, {**policy, name: lambda _: values}, noisy)
    loss = ((made[world.graph.target] - function(made)) ** 2).reshape(k, n).T
    parents = world.graph.parents(name)
    seen = stack({p: made[p][:n] for p in parents}, parents, n)
    return GridPolicy(name, parents, grid, smooth(seen, loss), seen[:: max(1, n // 200)])


def smooth(x: np.ndarray, loss: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Regress losses [n, K] on parents [n, p]: means of cells, quantile bins, or the leaves of one tree for all K.

    Edge cases: no parent gives the overall means.
    """
    if not x.shape[1]:
        mean = loss.mean(0)
        return lambda rows: np.broadcast_to(mean, (len(rows), len(mean)))
    if x.shape[1] == 1 and levels_of(x[:, 0]) is None:
        bins = max(1, min(BINS, len(x) // ROWS_A_BIN))
        cuts = np.unique(np.quantile(x[:, 0], np.linspace(0, 1, bins + 1)[1:-1]))
        return _cells(lambda rows: np.searchsorted(cuts, rows[:, 0], side="right"), len(cuts) + 1, x, loss)
    levels = [levels_of(column) for column in x.T]
    shape = tuple(len(v) if v is not None else 0 for v in levels)
    if all(shape) and np.prod(shape) <= len(x) / ROWS_A_BIN:
        known = [np.array(v) for v in levels]

        def cell(rows: np.ndarray) -> np.ndarray:
            places = [np.abs(rows[:, [j]] - v).argmin(1) for j, v in enumerate(known)]
            return np.ravel_multi_index(tuple(places), shape)

        return _cells(cell, int(np.prod(shape)), x, loss)
    from sklearn.tree import DecisionTreeRegressor

    leaf = max(ROWS_A_BIN, len(x) // BINS)
    tree = DecisionTreeRegressor(min_samples_leaf=leaf, random_state=0).fit(x, loss)
    return lambda rows: np.asarray(tree.predict(rows)).reshape(len(rows), loss.shape[1])


def _cells(
    cell: Callable[[np.ndarray], np.ndarray], cells: int, x: np.ndarray, loss: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Means of cells; a cell without rows has the overall means."""
    at = cell(x)
    rows = np.bincount(at, minlength=cells)
    sums = np.stack([np.bincount(at, column, minlength=cells) for column in loss.T], 1)
    means = np.where(rows[:, None] > 0, sums / np.maximum(rows, 1)[:, None], loss.mean(0))
    return lambda given: means[cell(given)]
