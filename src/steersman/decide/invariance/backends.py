"""Cross-fitting: predictors and interventions are found on some rows and judged on the others.

A `Part` holds a world learnt from its training rows and one to judge in. Leaves out: the order of things (`fit`).
Source: sample splitting is ours; the authors fit and judge on the same rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.invariance.data import LEVELS, Columns, Data, folds, levels_of
from steersman.decide.invariance.discrete import MAX_STATES, DiscreteSCM, Function, TablePredictor
from steersman.decide.invariance.graph import MutableSCM
from steersman.decide.invariance.ranges import Range, Ranges, ranges_of
from steersman.decide.invariance.regressors import Regressor
from steersman.decide.invariance.risk import WorstCase, WorstCaseRisk
from steersman.decide.invariance.tables import count_world
from steersman.decide.invariance.world import SampledWorld, StablePredictor, learn_official, learn_world, official

MODES = ("corrected", "official")


@dataclass(frozen=True)
class Part:
    """One split.

    Args:
        train: the rows that are learnt from.
        risk: the search, in the world learnt from them.
        judged: the world of the other rows; None = the same.
        predictor: subset -> f of that subset.
    """

    train: Data
    risk: WorstCaseRisk
    judged: DiscreteSCM | SampledWorld | None
    predictor: Callable[[Iterable[str]], TablePredictor | StablePredictor]

    def worst(self, function: Function) -> WorstCase:
        """The worst intervention found in the training rows' world, judged in the other."""
        return self.risk.of(function, self.judged)


@dataclass(frozen=True, slots=True)
class Setup:
    """How worlds are learnt: everything of `CausalMinimax` that matters for that.

    Args:
        graph, regressor, mutable_range, mode: as there.
        levels: levels of all variables for a world of tables; None = rows and mechanisms.
        ranges: what each mutable variable may be set to, from all rows.
        search: options of `WorstCaseRisk`.
        draws: copies of the rows in the sample that predictors are fitted on.
        seed: of everything random.
    """

    graph: MutableSCM
    regressor: Regressor
    mutable_range: Ranges
    mode: str
    levels: Mapping[str, tuple[float, ...]] | None
    ranges: Mapping[str, Range]
    search: Mapping[str, Any]
    draws: int
    seed: int

    def whole(self, data: Data) -> Part:
        """A part that learns from all rows and judges in the same world."""
        return self._part(data, None)

    def parts(self, data: Data, number: int) -> list[Part]:
        """One part for each fold."""
        fold = folds(len(data), number, self.seed, data.env)
        return [self._part(data.take(np.flatnonzero(fold != k)), data.take(np.flatnonzero(fold == k)))
                for k in range(number)]  # fmt: skip

    def _part(self, train: Data, test: Data | None) -> Part:
        if self.levels is not None:
            return self._tables(train, test)
        learn = learn_official if self.mode == "official" else learn_world
        world = learn(train.columns, self.graph, self.regressor, self.ranges, self.seed)
        # Without a mutable variable nothing is drawn, and copies of the rows would all be the same.
        copies = self.draws if self.graph.mutable else 1
        sample = official(world, self.seed) if self.mode == "official" else world.intervened(copies, self.seed)
        other = None if test is None else world.on({v: test.columns[v] for v in self.graph.nodes})

        def predictor(subset: Iterable[str]) -> StablePredictor:
            return world.predictor(subset, self.regressor, sample, self.seed)

        return Part(train, WorstCaseRisk(world, seed=self.seed, **self.search), other, predictor)

    def _tables(self, train: Data, test: Data | None) -> Part:
        assert self.levels is not None
        world = count_world(train.columns, self.graph, self.levels)
        other = None if test is None else count_world(test.columns, self.graph, self.levels, prior=world)
        allowed = self.mutable_range if isinstance(self.mutable_range, Mapping) else None
        search = {k: v for k, v in self.search.items() if k in ("restarts",)}
        return Part(train, WorstCaseRisk(world, "exact", allowed, seed=self.seed, **search), other, world.predictor)


def all_levels(columns: Columns, graph: MutableSCM, asked: str) -> dict[str, tuple[float, ...]] | None:
    """Levels of every variable, if the world is to be one of tables, else None.

    Args:
        columns: the rows.
        graph: the graph.
        asked: exact = tables or an error; auto = tables where all variables are discrete and states are few.

    Raises:
        UserError: exact was asked for and a variable is continuous, or there are too many states.
    """
    if asked not in ("auto", "exact"):
        return None
    found = {v: levels_of(columns[v]) for v in graph.nodes}
    if asked == "exact":
        few = {v: tuple(np.unique(columns[v]).tolist()) for v in graph.nodes}
        found = {v: few[v] if len(few[v]) <= LEVELS else None for v in graph.nodes}
    levels = {v: x for v, x in found.items() if x is not None}
    states = float(np.prod([float(len(x)) for x in levels.values()]))
    if len(levels) == len(graph.nodes) and states <= MAX_STATES:
        return levels
    if asked == "exact":
        wrong = [v for v in graph.nodes if v not in levels]
        said = f"{wrong} have more than {LEVELS} levels" if wrong else f"{states:,.0f} states"
        raise UserError(said, where="adversary", allowed="discrete variables for the exact one",
                        cure='adversary="direct"')  # fmt: skip
    return None


def setup(
    graph: MutableSCM,
    data: Data,
    regressor: Regressor,
    adversary: str,
    mutable_range: Ranges,
    mode: str,
    search: Mapping[str, Any],
    draws: int,
    seed: int,
) -> Setup:
    """Check the options against the data and say how worlds are learnt."""
    if mode not in MODES:
        raise UserError(f"{mode!r} is no mode", where="mode", allowed=", ".join(MODES))
    ranges = ranges_of(data.columns, graph.mutable, mutable_range)
    levels = all_levels(data.columns, graph, adversary) if mode == "corrected" else None
    if mode == "official" and adversary == "exact":
        raise UserError("the official mode has no exact adversary", where="mode", allowed="direct, gradient")
    options = dict(search)
    if levels is None:
        bounded = not (mutable_range is None and adversary == "gradient")
        options |= {"adversary": "direct" if adversary == "auto" else adversary, "bounded": bounded}
    return Setup(graph, regressor, mutable_range, mode, levels, ranges, options, draws, seed)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean over folds and its standard error."""
    x = np.array(values)
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float("nan")
