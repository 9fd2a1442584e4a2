"""Worlds learnt from rows: stable mechanisms are fitted, and what follows from an intervention is drawn anew.

What no mutable variable causes keeps its rows; the rest is regenerated, causes first. Leaves out: worlds with tables
(`discrete`), the search for the worst intervention (`direct`, `gradient`).
Source: Liu et al. 2023, section 4; their code regenerates without noise and shuffles other variables, which is
`official` here and serves comparison alone.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steersman.core import noise
from steersman.core.errors import UserError
from steersman.decide.invariance.data import Columns, count, folds, levels_of, stack
from steersman.decide.invariance.graph import MutableSCM
from steersman.decide.invariance.ranges import Range
from steersman.decide.invariance.regressors import Model, Regressor, fit

Policy = Callable[[Columns], np.ndarray]
"""Columns of the parents (others may be there too) -> values of a mutable variable [n]."""

RESIDUAL_FOLDS = 3


@dataclass(frozen=True, slots=True)
class Additive:
    """x = g(pa) + a residual drawn from those of rows that g was not fitted on."""

    name: str
    parents: tuple[str, ...]
    model: Model
    residuals: np.ndarray

    def draw(self, columns: Columns, u: np.ndarray | None) -> np.ndarray:
        """Values for uniform noise u [n]; None = no noise."""
        mean = self.model.predict(stack(columns, self.parents, count(columns)))
        if u is None:
            return mean
        return mean + self.residuals[(u * len(self.residuals)).astype(np.int64)]


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of a few levels, with probabilities that depend on the parents; u picks by the inverse distribution."""

    name: str
    parents: tuple[str, ...]
    levels: np.ndarray
    probability: Callable[[np.ndarray], np.ndarray]

    def draw(self, columns: Columns, u: np.ndarray | None) -> np.ndarray:
        """Values for uniform noise u [n]; None = the mean."""
        p = self.probability(stack(columns, self.parents, count(columns)))
        if u is None:
            return p @ self.levels
        at = (np.cumsum(p, 1) < u[:, None]).sum(1).clip(0, len(self.levels) - 1)
        return self.levels[at]


Mechanism = Additive | Categorical


@dataclass(frozen=True)
class StablePredictor:
    """f_{S'}: a function of the chosen stable variables and of the mutable ones.

    Args:
        subset: S'.
        columns: inputs in the order of the model.
        model: the regression.
    """

    subset: frozenset[str]
    columns: tuple[str, ...]
    model: Model

    def __call__(self, columns: Columns) -> np.ndarray:
        return self.model.predict(stack(columns, self.columns, count(columns)))


@dataclass(frozen=True)
class SampledWorld:
    """Rows, and mechanisms for what follows from the mutable variables.

    Args:
        graph: the graph.
        rows: the rows that what is not regenerated is taken from.
        mechanisms: by variable, of everything that a mutable variable causes.
        ranges: what each mutable variable may be set to.
        noise: whether what is regenerated has noise.
    """

    graph: MutableSCM
    rows: Columns
    mechanisms: Mapping[str, Mechanism]
    ranges: Mapping[str, Range]
    noise: bool = True
    made: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        below = set(self.graph.descendants(self.graph.mutable, self.graph.mutable))
        object.__setattr__(self, "made", tuple(v for v in self.graph.nodes if v in below or v in self.graph.mutable))

    def on(self, rows: Columns) -> "SampledWorld":
        """The same mechanisms with other rows."""
        return replace(self, rows=rows)

    def uniform(self, rows: int, seed: int, purpose: str) -> dict[str, np.ndarray]:
        """Noise of its own for every variable that is made, [rows] each."""
        at = np.arange(rows)
        return {v: noise.uniform(seed, purpose, at, self.graph.nodes.index(v)) for v in self.made}

    def simulate(
        self, base: Columns, policy: Mapping[str, Policy], u: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """P_J: set each mutable variable to its policy and regenerate what follows, causes first.

        Args:
            base: rows [n]; of variables that nothing mutable causes, these are kept.
            policy: by mutable variable.
            u: noise of the variables that are made, [n] each.
        """
        out = dict(base)
        for v in self.made:
            if v in self.graph.mutable:
                out[v] = np.asarray(policy[v](out), float)
            else:
                out[v] = self.mechanisms[v].draw(out, u[v] if self.noise else None)
        return out

    def intervened(self, draws: int, seed: int, setting: str = "uniform") -> dict[str, np.ndarray]:
        """Rows under do(x_M): each mutable variable set at random on its own, what follows regenerated.

        Args:
            draws: copies of the rows.
            seed: of the draws.
            setting: uniform on the range, or permute: values of other rows.
        """
        if setting not in ("uniform", "permute"):
            raise UserError(f"{setting!r} is no setting", where="setting", allowed="uniform, permute")
        n = count(self.rows)
        base = {k: np.tile(v, draws) for k, v in self.rows.items()}
        u = self.uniform(n * draws, seed, "invariance/intervened")
        policy: dict[str, Policy] = {}
        for m in self.graph.mutable:
            if setting == "uniform":
                values = self.ranges[m].at(u[m])
            else:
                values = np.tile(self.rows[m], draws)[np.argsort(u[m], kind="stable")]
            policy[m] = lambda _, x=values: x
        return self.simulate(base, policy, u)

    def predictor(self, subset: Iterable[str], regressor: Regressor, sample: Columns, seed: int = 0) -> StablePredictor:
        """Regress the target on S' and the mutable variables in a sample of `intervened` rows."""
        kept = frozenset(subset)
        if lost := kept - set(self.graph.stable):
            raise UserError(f"{sorted(lost)} are not stable variables", where="subset",
                            allowed=", ".join(self.graph.stable))  # fmt: skip
        names = tuple(v for v in self.graph.nodes if v in kept or v in self.graph.mutable)
        x = stack(sample, names, count(sample))
        copies = max(1, len(x) // count(self.rows))
        return StablePredictor(kept, names, fit(regressor, x, sample[self.graph.target], seed, copies))


def learn_world(
    columns: Columns, graph: MutableSCM, regressor: Regressor, ranges: Mapping[str, Range], seed: int = 0
) -> SampledWorld:
    """Fit the mechanism of everything that a mutable variable causes.

    Args:
        columns: rows of all environments together: stable mechanisms are the same in all.
        graph: the graph.
        regressor: of the mechanisms.
        ranges: what each mutable variable may be set to.
        seed: of fits and of the folds whose residuals are kept.
    """
    mechanisms: dict[str, Mechanism] = {}
    for v in graph.descendants(graph.mutable, graph.mutable):
        mechanisms[v] = _mechanism(columns, v, graph.parents(v), regressor, seed)
    return SampledWorld(graph, {v: columns[v] for v in graph.nodes}, mechanisms, ranges)


def _mechanism(columns: Columns, name: str, parents: tuple[str, ...], regressor: Regressor, seed: int) -> Mechanism:
    n = count(columns)
    x, y = stack(columns, parents, n), columns[name]
    levels = levels_of(y)
    if levels is not None and len(levels) > 1:
        return Categorical(name, parents, np.array(levels), _probability(x, y, levels, regressor, seed))
    parts = min(RESIDUAL_FOLDS, n // 2)
    if parts < 2:
        raise UserError(f"{n} rows are too few to fit {name!r}", where="data", allowed="4 rows or more")
    fold = folds(n, parts, seed)
    left = np.empty(n)
    for k in range(parts):
        out = fold == k
        left[out] = y[out] - fit(regressor, x[~out], y[~out], seed).predict(x[out])
    return Additive(name, parents, fit(regressor, x, y, seed), left - left.mean())


def _probability(
    x: np.ndarray, y: np.ndarray, levels: tuple[float, ...], regressor: Regressor, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """[n, k] -> [n, L]: counts where all parents are discrete too, else a classifier of the regressor's kind."""
    parents = [levels_of(column) for column in x.T]
    if all(p is not None for p in parents) and np.prod([len(p or ()) for p in parents]) <= len(y) / 5:
        return _counted(x, y, np.array(levels), [np.array(p) for p in parents])
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    if regressor == "linear":
        model: Any = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), LogisticRegression())
    else:
        model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, early_stopping=False, random_state=seed)
    model.fit(x, y)
    return lambda rows: np.asarray(model.predict_proba(rows))


def _counted(
    x: np.ndarray, y: np.ndarray, levels: np.ndarray, parents: list[np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    shape = tuple(len(p) for p in parents)

    def cell(rows: np.ndarray) -> np.ndarray:
        # A value between two levels goes to the nearer one, as a range may hold more than was seen.
        places = [np.abs(rows[:, [j]] - p).argmin(1) for j, p in enumerate(parents)]
        return np.ravel_multi_index(tuple(places), shape) if shape else np.zeros(len(rows), np.int64)

    seen = np.zeros((int(np.prod(shape)) if shape else 1, len(levels)))
    np.add.at(seen, (cell(x), np.searchsorted(levels, y)), 1.0)
    table = (seen + seen.sum(0) / len(y)) / (seen.sum(1, keepdims=True) + 1)
    return lambda rows: table[cell(rows)]


def official(world: SampledWorld, seed: int) -> dict[str, np.ndarray]:
    """The authors' sample: X_do* = X_M^0 with what follows from it but is no child of Y is shuffled, column by column.

    What follows from X_do* is regenerated without noise, with arrows into X_do* removed. It is not a sample of
    do(x_M) where a strict subset is used; `learn_official` fits the mechanisms it needs.
    """
    graph = world.graph
    shuffled = official_shuffled(graph)
    out = dict(world.rows)
    n = count(world.rows)
    for v in shuffled:
        out[v] = world.rows[v][noise.generator(seed, "invariance/official", index=graph.nodes.index(v)).permutation(n)]
    for v in graph.descendants(shuffled, shuffled):
        out[v] = world.mechanisms[v].draw(out, None)
    return out


def official_shuffled(graph: MutableSCM) -> tuple[str, ...]:
    """X_do* of the authors' code."""
    first = graph.mutable_children
    children = graph.children(graph.target)
    return tuple(v for v in graph.nodes if v in first or (v in graph.descendants(first) and v not in children))


def learn_official(
    columns: Columns, graph: MutableSCM, regressor: Regressor, ranges: Mapping[str, Range], seed: int = 0
) -> SampledWorld:
    """A world without noise, with mechanisms for the authors' sample and for the adversary."""
    made = learn_world(columns, graph, regressor, ranges, seed)
    shuffled = official_shuffled(graph)
    more = {
        v: _mechanism(columns, v, graph.parents(v), regressor, seed)
        for v in graph.descendants(shuffled, shuffled)
        if v not in made.mechanisms
    }
    return replace(made, mechanisms={**made.mechanisms, **more}, noise=False)
