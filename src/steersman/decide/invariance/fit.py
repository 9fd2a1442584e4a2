"""Which stable variables to transfer: the class of subsets with the smallest worst-case risk.

Leaves out: the graph's search (`classes`), predictors and risks (`backends`), the graph's discovery (`discover`).
Source: Liu et al. 2023, Algorithm 1; cross-fitting, ranges, standard errors and the check of all subsets are ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.invariance import regressors
from steersman.decide.invariance.backends import Part, Setup, mean_and_error, setup
from steersman.decide.invariance.classes import (
    MAX_CLASSES,
    Interval,
    all_subsets,
    beam_classes,
    class_of,
    shown,
    stable_classes,
)
from steersman.decide.invariance.data import Data
from steersman.decide.invariance.discrete import Function, TablePredictor
from steersman.decide.invariance.graph import MutableSCM
from steersman.decide.invariance.ranges import Ranges
from steersman.decide.invariance.regressors import Regressor
from steersman.decide.invariance.risk import WorstCase
from steersman.decide.invariance.world import StablePredictor

SEARCHES = ("classes", "beam", "exhaustive")
SAME = 1e-12
"""Risks closer than this are equal; the smaller core goes first."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A class of subsets with its worst-case risk.

    Args:
        core: the subset that stands for the class; empty = the mutable variables alone.
        free: stable variables that would change nothing.
        risk: mean over the folds of the risk under the worst intervention found, judged on held-out rows.
        se: standard error of that mean over folds.
        folds: the risk of each fold.
        near_best: within one standard error of the best.
    """

    core: frozenset[str]
    free: frozenset[str]
    risk: float
    se: float
    folds: tuple[float, ...]
    near_best: bool = False

    def __str__(self) -> str:
        return shown(self.core)


@dataclass
class CausalMinimax:
    """Choose the subset of stable variables whose predictor has the smallest worst-case risk, and fit it.

    argmin over S' of max over J of E_{P_J} (Y - E[Y | x_{S'}, do(x_M)])^2.

    Args:
        graph: the graph, with target and mutable variables.
        regressor: linear, mlp, boosting, or a scikit-learn regressor; of mechanisms and of the predictor.
        adversary: auto (exact where every variable is discrete, else direct), exact, direct, gradient.
        mutable_range: what the mutable variables may be set to: observed, a factor, (low, high) by variable, None.
        folds: of cross-fitting.
        mode: corrected, or official: the authors' sample and regeneration without noise, for comparison alone.
        search: classes (all of them), exhaustive (every subset, as a check), beam (INEXACT: some classes).
        max_classes: the search stops with an error beyond so many.
        beam: width of the inexact search.
        grid: values of a continuous mutable variable that are tried.
        draws: copies of the rows that are regenerated.
        restarts: of the gradient adversary, 5 or more.
        prefer: lowest = the smallest risk; smallest = the smallest core within one standard error of it.
        shortcut: take the whole stable set where the graph alone says that it is best.
        seed: same seed, same answer.
    """

    graph: MutableSCM
    regressor: Regressor = "mlp"
    adversary: Literal["auto", "exact", "direct", "gradient"] = "auto"
    mutable_range: Ranges = "observed"
    folds: int = 5
    mode: Literal["corrected", "official"] = "corrected"
    search: Literal["classes", "exhaustive", "beam"] = "classes"
    max_classes: int = MAX_CLASSES
    beam: int = 4
    grid: int = 21
    draws: int = 2
    restarts: int = 5
    prefer: Literal["lowest", "smallest"] = "lowest"
    shortcut: bool = True
    seed: int = 0
    say: Callable[[str], None] = field(default=lambda line: None, repr=False)
    """Told what is being done, a line each."""

    def __post_init__(self) -> None:
        regressors.check(self.regressor)
        for name, value, allowed in (
            ("adversary", self.adversary, ("auto", "exact", "direct", "gradient")),
            ("mode", self.mode, ("corrected", "official")),
            ("search", self.search, SEARCHES),
            ("prefer", self.prefer, ("lowest", "smallest")),
        ):
            if value not in allowed:
                raise UserError(f"{value!r} is no {name}", where=name, allowed=", ".join(allowed))
        if self.adversary == "gradient" and self.restarts < 5:
            raise UserError(f"{self.restarts} restarts", where="restarts", allowed="5 or more: it is not concave")

    def fit(self, frame: Any, env: str | None = None) -> "CausalMinimax":
        """Rank the classes and fit the best one's predictor on all rows.

        Args:
            frame: gives a column of numbers by name, for every variable of the graph.
            env: column of the environment, None = not known; it spreads folds evenly and is needed for nothing else
                once the graph and the mutable variables are given.

        Returns:
            Itself, with `best_`, `ranking_` (by risk), `predictor_`, `worst_case_` (of the predictor, in the world
            learnt from all rows), `status_`, `condition_`, `classes_` (how many were judged), `subsets_` (2^n),
            `exact_search_`, `notes_`.

        Raises:
            UserError: see `Data.from_frame` and the options; too many classes.
        """
        data = Data.from_frame(frame, self.graph.nodes, env)
        how = self._setup(data)
        self.notes_ = _notes(self.graph, data, how)
        self.condition_ = self.graph.whole_set_optimal()
        self.subsets_ = 2 ** len(self.graph.stable)
        self._parts = how.parts(data, self.folds)
        self.exact_search_ = True
        scores: dict[Interval, Ranked] = {}

        def score(c: Interval) -> float:
            scores[c] = self._ranked(c)
            return scores[c].risk

        if self.condition_ and self.shortcut and self.search != "exhaustive":
            self.status_ = "whole stable set optimal by graphical condition"
            score(class_of(self.graph, self.graph.stable))
        elif self.search == "beam":
            _, rounds = beam_classes(self.graph, score, self.beam, self.max_classes)
            self.exact_search_ = False
            self.status_ = f"best of {len(scores)} classes seen in {rounds} rounds of a beam; others were not looked at"
        else:
            every = self.search == "exhaustive"
            classes = all_subsets(self.graph) if every else stable_classes(self.graph, self.max_classes)
            for i, c in enumerate(classes, 1):
                self.say(f"{i} of {len(classes)} {'subsets' if every else 'classes'}: {c}")
                score(c)
            self.status_ = f"best of all {len(classes)} {'subsets' if every else 'classes'}"
        if not self.graph.mutable:
            self.status_ = "nothing changes: least squares on all variables"
        self.classes_ = len(scores)
        self.ranking_ = _ranking(list(scores.values()))
        near = [r for r in self.ranking_ if r.near_best]
        self.best_ = self.ranking_[0] if self.prefer == "lowest" else min(near, key=lambda r: (len(r.core), r.risk))
        whole = how.whole(data)
        self.predictor_ = whole.predictor(self.best_.core)
        self.worst_case_: WorstCase = whole.worst(self.predictor_)
        self._whole = whole
        return self

    def predict(self, frame: Any) -> np.ndarray:
        """Predictions [n] for new rows, which need the columns `inputs_` alone.

        Raises:
            UserError: not fitted yet, a column missing, a value that is no number.
        """
        return self.predictor_(Data.from_frame(frame, self.inputs_).columns) if self.inputs_ else self._same(frame)

    @property
    def inputs_(self) -> tuple[str, ...]:
        """Columns that the predictor reads.

        Raises:
            UserError: not fitted yet.
        """
        f: TablePredictor | StablePredictor | None = getattr(self, "predictor_", None)
        if f is None:
            raise UserError("is not fitted yet", where="CausalMinimax", cure="call fit first")
        if isinstance(f, StablePredictor):
            return f.columns
        return tuple(v for v, n in zip(f.world.graph.nodes, f.values.shape, strict=True) if n > 1)

    def judge(self, make: Callable[[Data], Function]) -> Ranked:
        """The worst-case risk of any other way to predict, by the same folds and the same search.

        Args:
            make: training rows -> predictor.
        """
        found = [p.worst(make(p.train)).risk for p in self._parts]
        return Ranked(frozenset(), frozenset(), *mean_and_error(found), tuple(found))

    def worst_case_of(self, function: Function) -> WorstCase:
        """The worst environment of any predictor, in the world learnt from all rows."""
        return self._whole.worst(function)

    def _same(self, frame: Any) -> np.ndarray:
        rows = len(frame[next(str(c) for c in frame)])
        return self.predictor_({"": np.zeros(rows)})

    def _setup(self, data: Data) -> Setup:
        search = {"grid": self.grid, "draws": self.draws, "restarts": self.restarts}
        return setup(self.graph, data, self.regressor, self.adversary, self.mutable_range, self.mode, search,
                     self.draws, self.seed)  # fmt: skip

    def _ranked(self, c: Interval) -> Ranked:
        found = [_risk(p, c) for p in self._parts]
        return Ranked(c.core, c.free, *mean_and_error(found), tuple(found))


def _risk(part: Part, c: Interval) -> float:
    return part.worst(part.predictor(c.core)).risk


def _ranking(found: list[Ranked]) -> list[Ranked]:
    """By risk, smaller cores first among equals; those within one standard error of the best are marked."""
    order = sorted(found, key=lambda r: (round(r.risk / SAME) * SAME, len(r.core), sorted(r.core)))
    best = order[0]
    edge = best.risk + (best.se if np.isfinite(best.se) else 0.0)
    return [Ranked(r.core, r.free, r.risk, r.se, r.folds, r.risk <= edge) for r in order]


def _notes(graph: MutableSCM, data: Data, how: Setup) -> list[str]:
    """What a reader of the result must know, a sentence each."""
    notes = []
    still = [v for v in graph.nodes if float(np.ptp(data.columns[v])) == 0.0]
    if graph.target in still:
        raise UserError("is constant: there is nothing to predict", where=f"column {graph.target}")
    if still:
        notes.append(f"Constant, so of no use: {', '.join(still)}.")
    if data.env is not None and len(data.environments) == 1:
        notes.append("One environment only: the mutable variables and the graph are taken on trust.")
    if how.levels is None and how.mutable_range is None and graph.mutable:
        notes.append("No range of the mutable variables is given: the worst-case risk may have no bound.")
    if how.mode == "official":
        notes.append("The authors' procedure, for comparison: its figures are no risks of the environments allowed.")
    return notes
