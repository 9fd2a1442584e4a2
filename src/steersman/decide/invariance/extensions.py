"""Graphs in which some edges have no direction: every graph they may stand for, and a choice that is safe in all.

Leaves out: learning such a graph (`discover`). Source: Dor and Tarsi 1992 (consistent extensions: no cycle, no new
collider between variables that are not adjacent); choosing over extensions is ours.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.invariance.backends import mean_and_error
from steersman.decide.invariance.classes import stable_classes
from steersman.decide.invariance.fit import CausalMinimax
from steersman.decide.invariance.graph import Edge, MutableSCM, parse_edges

MAX_EXTENSIONS = 16
MAX_TRIED = 100_000


@dataclass(frozen=True, slots=True)
class PartialGraph:
    """Edges of which some have no direction.

    Args:
        directed: (cause, effect).
        undirected: pairs.
        target, mutable, variables: as in `MutableSCM`.
    """

    directed: tuple[Edge, ...]
    undirected: tuple[Edge, ...]
    target: str
    mutable: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()

    @staticmethod
    def from_text(text: str, target: str, mutable: Sequence[str] = (), variables: Sequence[str] = ()) -> "PartialGraph":
        """Edges as `parse_edges` reads them."""
        found = parse_edges(text)
        return PartialGraph(
            tuple((a, b) for a, arrow, b in found if arrow == "->"),
            tuple((a, b) for a, arrow, b in found if arrow == "--"), target, tuple(mutable), tuple(variables),
        )  # fmt: skip

    def extensions(self, limit: int = MAX_EXTENSIONS) -> list[MutableSCM]:
        """The directed graphs it may stand for, one of each kind that matters here.

        Two graphs are of one kind if the mutable variables and what follows from them have the same parents, and the
        classes of subsets are the same: predictor and risks are then the same too.

        Args:
            limit: most kinds.

        Returns:
            Graphs without a cycle and without a new collider between variables that are not adjacent; where there is
            none, those without a cycle.

        Raises:
            UserError: a cycle among the directed edges, more than `limit` kinds, or too many undirected edges.
        """
        if 2 ** len(self.undirected) > MAX_TRIED:
            raise UserError(f"{len(self.undirected)} edges have no direction", where="edges",
                            allowed=f"{MAX_TRIED.bit_length() - 1} or fewer", cure=_CURE)  # fmt: skip
        for strict in (True, False):
            found: dict[Any, MutableSCM] = {}
            for graph in self._oriented(strict):
                found.setdefault(_kind(graph), graph)
                if len(found) > limit:
                    shown = ", ".join(f"{a} -- {b}" for a, b in self.undirected)
                    raise UserError(f"more than {limit} graphs fit the edges without direction: {shown}", where="edges",
                                    cure=_CURE)  # fmt: skip
            if found:
                return list(found.values())
        return [self._graph(())]  # the directed edges have a cycle, which is named

    def _graph(self, more: Iterable[Edge]) -> MutableSCM:
        return MutableSCM((*self.directed, *more), self.target, self.mutable, self.variables)

    def _oriented(self, strict: bool) -> Iterator[MutableSCM]:
        near = {frozenset(e) for e in (*self.directed, *self.undirected)}
        old = _colliders(self.directed, near)
        for bits in range(2 ** len(self.undirected)):
            more = [(b, a) if bits >> i & 1 else (a, b) for i, (a, b) in enumerate(self.undirected)]
            if strict and _colliders((*self.directed, *more), near) - old:
                continue
            try:
                yield self._graph(more)
            except UserError as error:
                if "cycle" not in error.what:
                    raise


_CURE = "say more with --edges: in which direction do these edges point?"


def _colliders(edges: Iterable[Edge], near: set[frozenset[str]]) -> set[tuple[frozenset[str], str]]:
    above: dict[str, list[str]] = {}
    for a, b in edges:
        above.setdefault(b, []).append(a)
    pairs = ((frozenset(p), b) for b, causes in above.items() for p in combinations(sorted(set(causes)), 2))
    return {(p, b) for p, b in pairs if p not in near}


def _kind(graph: MutableSCM) -> Any:
    moved = {*graph.mutable, *graph.descendants(graph.mutable)}
    return (
        frozenset((v, frozenset(graph.parents(v))) for v in moved),
        frozenset(c.core for c in stable_classes(graph)),
    )


@dataclass(frozen=True, slots=True)
class OverExtensions:
    """What came out for every graph that fits, and the choice that is safest over all of them.

    Args:
        fitted: a fit for each graph.
        risks: [g, h] worst-case risk of the predictor of graph g's best class, in the world of graph h.
        chosen: the graph whose predictor has the smallest largest risk.
    """

    fitted: tuple[CausalMinimax, ...]
    risks: np.ndarray
    chosen: int

    @property
    def best(self) -> CausalMinimax:
        """The fit that was chosen."""
        return self.fitted[self.chosen]


def fit_extensions(
    options: CausalMinimax,
    graphs: Sequence[MutableSCM],
    frame: Any,
    env: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> OverExtensions:
    """Fit every graph, and take the predictor whose largest risk over all of them is the smallest.

    Args:
        options: everything but the graph.
        graphs: such as `PartialGraph.extensions`.
        frame, env: as in `CausalMinimax.fit`.
        say: told what is being done.
    """
    fitted = []
    for i, graph in enumerate(graphs, 1):
        if len(graphs) > 1:
            say(f"graph {i} of {len(graphs)}")
        fitted.append(replace(options, graph=graph).fit(frame, env))
    risks = np.array([[_cross(a, b) for b in fitted] for a in fitted])
    return OverExtensions(tuple(fitted), risks, int(risks.max(1).argmin()))


def _cross(a: CausalMinimax, b: CausalMinimax) -> float:
    """Risk of a's best predictor in b's world, fold by fold; both have the same folds."""
    if a is b:
        return a.best_.risk
    pairs = zip(a._parts, b._parts, strict=True)
    return mean_and_error([there.worst(here.predictor(a.best_.core)).risk for here, there in pairs])[0]
