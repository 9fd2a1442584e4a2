"""Discrete worlds, in which predictors and worst-case risks are sums over all states: nothing is sampled.

Arrays have an axis for each variable, causes first (`MutableSCM.nodes`); an axis of length one means that the variable
does not matter. Leaves out: the maximum over interventions (`exact`), estimating (`tables`).
Source: Liu et al. 2023, section 3; enumeration is ours.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from steersman.core import noise
from steersman.core.errors import UserError
from steersman.decide.invariance.data import Columns, count
from steersman.decide.invariance.graph import MutableSCM

MAX_STATES = 2**20
SUMS_TO_ONE = 1e-9

Function = Callable[[Columns], np.ndarray]
"""Columns -> predictions [n]."""


@dataclass(frozen=True)
class DiscreteSCM:
    """A world with a table for every stable mechanism.

    Args:
        graph: the graph.
        values: levels of every variable, numbers in ascending order.
        tables: p(v | pa_v) of the target and every stable variable: axes are `graph.parents(v)`, then v itself. Tables
            of mutable variables are one environment's mechanism: they serve `sample` alone, never a risk.

    Raises:
        UserError: a table missing, of another shape, negative or not summing to one; too many states.
    """

    graph: MutableSCM
    values: Mapping[str, tuple[float, ...]]
    tables: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        for v in self.graph.nodes:
            if v not in self.values or list(self.values[v]) != sorted(set(self.values[v])):
                raise UserError("needs levels in ascending order", where=f"values of {v}")
            if v in self.graph.mutable and v not in self.tables:
                continue
            shape = tuple(len(self.values[p]) for p in (*self.graph.parents(v), v))
            table = self.tables.get(v)
            if table is None or np.shape(table) != shape:
                raise UserError(f"has shape {np.shape(table) if table is not None else None}", where=f"table of {v}",
                                allowed=f"{shape}: the levels of {(*self.graph.parents(v), v)}")  # fmt: skip
            if (np.asarray(table) < 0).any() or np.abs(np.sum(table, -1) - 1).max() > SUMS_TO_ONE:
                raise UserError("is no distribution in its last axis", where=f"table of {v}")
        if math.prod(self.shape) > MAX_STATES:
            raise UserError(f"{math.prod(self.shape):,} states", where="discrete world", allowed=f"{MAX_STATES:,}",
                            cure='adversary="direct"')  # fmt: skip

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of levels of each node."""
        return tuple(len(self.values[v]) for v in self.graph.nodes)

    def axis(self, name: str) -> int:
        """Axis of a variable."""
        return self.graph.nodes.index(name)

    def spread(self, name: str) -> np.ndarray:
        """The levels of a variable along its own axis."""
        shape = [1] * len(self.shape)
        shape[self.axis(name)] = -1
        return np.array(self.values[name]).reshape(shape)

    def factor(self, name: str) -> np.ndarray:
        """p(v | pa_v) with one axis for each variable."""
        around = (*self.graph.parents(name), name)
        shape = [n if v in around else 1 for v, n in zip(self.graph.nodes, self.shape, strict=True)]
        axes = sorted(range(len(around)), key=lambda i: self.axis(around[i]))
        return np.transpose(self.tables[name], axes).reshape(shape)

    @cached_property
    def held(self) -> np.ndarray:
        """p(y, x_S | do(x_M)) for every state: the product of all mechanisms that do not change."""
        p = np.ones([1] * len(self.shape))
        for v in self.graph.nodes:
            if v not in self.graph.mutable:
                p = p * self.factor(v)
        return np.broadcast_to(p, self.shape)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """All states as rows."""
        grid = np.meshgrid(*(self.values[v] for v in self.graph.nodes), indexing="ij")
        return {v: g.ravel() for v, g in zip(self.graph.nodes, grid, strict=True)}

    def predictor(self, subset: Iterable[str]) -> "TablePredictor":
        """f_{S'} = E[Y | x_{S'}, do(x_M)], exactly.

        Edge cases: where a state of S' cannot occur under do(x_M), the mean of Y there is taken: no environment that
            is allowed ever shows it.
        """
        kept = frozenset(subset)
        if lost := kept - set(self.graph.stable):
            raise UserError(f"{sorted(lost)} are not stable variables", where="subset",
                            allowed=", ".join(self.graph.stable))  # fmt: skip
        gone = [v for v in self.graph.nodes if v == self.graph.target or (v in self.graph.stable and v not in kept)]
        return TablePredictor(self, kept, self._mean(self.held, gone))

    def _mean(self, p: np.ndarray, gone: Iterable[str]) -> np.ndarray:
        """E[Y | the axes that are kept], where p gives them any weight, else E[Y]."""
        axes = tuple(self.axis(v) for v in gone)
        y = self.spread(self.graph.target)
        weight, total = p.sum(axes, keepdims=True), (p * y).sum(axes, keepdims=True)
        overall = float((p * y).sum() / p.sum())
        return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), overall)

    @cached_property
    def joint(self) -> np.ndarray:
        """p(y, x) of the environment whose mechanisms the tables of the mutable variables are.

        Raises:
            UserError: a mutable variable without a table.
        """
        if lost := [m for m in self.graph.mutable if m not in self.tables]:
            raise UserError(f"no mechanism is given for {lost}", where="tables", cure="an environment needs them all")
        p = self.held
        for m in self.graph.mutable:
            p = p * self.factor(m)
        return p

    def regression(self, on: Iterable[str]) -> "TablePredictor":
        """E[Y | some variables] in the environment of the tables: what least squares learns from endless data."""
        kept = frozenset(on)
        gone = [v for v in self.graph.nodes if v == self.graph.target or v not in kept]
        return TablePredictor(self, kept & set(self.graph.stable), self._mean(self.joint, gone))

    def alike(self, other: "DiscreteSCM") -> bool:
        """Whether arrays of one mean the same in the other."""
        return self.graph.nodes == other.graph.nodes and self.values == other.values

    def table(self, function: Function) -> np.ndarray:
        """A function's value at every state; ``table`` of a `TablePredictor` of this world is its own."""
        if isinstance(function, TablePredictor) and function.world.alike(self):
            return function.values
        return np.asarray(function(self.columns), float).reshape(self.shape)

    def losses(self, function: Function) -> np.ndarray:
        """c = p(y, x_S | do(x_M)) (y - f)^2 at every state; an environment's risk is its sum under the mechanisms."""
        return self.held * (self.spread(self.graph.target) - self.table(function)) ** 2

    def sample(self, rows: int, seed: int, mechanisms: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Rows of one environment.

        Args:
            rows: how many.
            seed: of the draws.
            mechanisms: tables of the mutable variables; None = those of the world.
        """
        world = self if mechanisms is None else DiscreteSCM(self.graph, self.values, {**self.tables, **mechanisms})
        cumulative = np.cumsum(world.joint.ravel())
        u = noise.uniform(seed, "invariance/states", np.arange(rows)) * cumulative[-1]
        state = np.unravel_index(np.searchsorted(cumulative, u, side="right").clip(0, len(cumulative) - 1), self.shape)
        return {v: np.array(self.values[v])[s] for v, s in zip(self.graph.nodes, state, strict=True)}

    def places(self, columns: Columns, name: str) -> np.ndarray:
        """[n] number of each value's level.

        Raises:
            UserError: a value that is no level.
        """
        levels, given = np.array(self.values[name]), np.asarray(columns[name], float)
        at = np.searchsorted(levels, given).clip(0, len(levels) - 1)
        if (bad := np.flatnonzero(levels[at] != given)).size:
            raise UserError(f"{given[bad[0]]:g} was not seen in fitting", where=f"column {name}, row {bad[0] + 1}",
                            allowed=", ".join(f"{v:g}" for v in levels))  # fmt: skip
        return at


@dataclass(frozen=True)
class TablePredictor:
    """A predictor of a discrete world: its value at every state; an axis of length one does not matter."""

    world: DiscreteSCM
    subset: frozenset[str]
    values: np.ndarray

    def __call__(self, columns: Columns) -> np.ndarray:
        at = []
        for v, size in zip(self.world.graph.nodes, self.values.shape, strict=True):
            at.append(self.world.places(columns, v) if size > 1 else np.zeros(count(columns), np.int64))
        return self.values[tuple(at)]
