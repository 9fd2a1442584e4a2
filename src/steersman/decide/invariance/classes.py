"""Which subsets of the stable variables give the same predictor, and how to find one of each kind.

S_1 and S_2 give the same f and the same worst-case risk if the target has the same Markov boundary within each, in the
graph without the mutable variables. Every class is an interval of subsets: a core, and variables that add nothing to
it. Leaves out: risks (`risk`), choosing (`fit`).
Source: Liu et al. 2023, Definition 4.1 and Algorithm 2; the authors build maximal ancestral graphs by an R routine, and
the same recursion needs d-separation alone.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from steersman.core.errors import UserError
from steersman.decide.invariance.graph import Masks, MutableSCM

MAX_CLASSES = 20_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A class of subsets: the core together with any of the free variables.

    Args:
        core: the common Markov boundary; the smallest member, and the cheapest to fit.
        free: variables that may be added and change nothing.
    """

    core: frozenset[str]
    free: frozenset[str] = frozenset()

    def __contains__(self, subset: object) -> bool:
        return isinstance(subset, Iterable) and self.core <= set(subset) <= self.core | self.free

    @property
    def size(self) -> int:
        """Number of members, 2^f."""
        return int(2 ** len(self.free))

    def subsets(self) -> Iterator[frozenset[str]]:
        """All members, the core first."""
        for extra in _subsets(sorted(self.free)):
            yield self.core | frozenset(extra)

    def __str__(self) -> str:
        return shown(self.core)


def shown(names: Iterable[str]) -> str:
    """A set of variables as it is printed."""
    return "{" + ", ".join(sorted(names)) + "}"


def markov_boundary(graph: MutableSCM, subset: Iterable[str]) -> frozenset[str]:
    """The members of a subset that the target is not d-separated from by the others, with mutable variables removed.

    MB(S) = {v in S : v not d-separated from Y by S minus v}.

    Args:
        graph: the graph.
        subset: stable variables.

    Raises:
        UserError: a variable that is not stable.
    """
    given = _stable_mask(graph, subset)
    masks, target = graph.stable_masks, graph.bit[graph.target]
    return frozenset(
        graph.names(sum(v for v in _each(given) if masks.connected(target, given & ~v, v) & v)))  # fmt: skip


def stable_classes(graph: MutableSCM, max_classes: int = MAX_CLASSES) -> list[Interval]:
    """All classes of equivalent subsets of the stable variables: disjoint intervals that cover every subset.

    recover(A selected, L discarded): N = the undecided variables that stay connected to Y given A and the undecided
    ancestors of Y, v and A; if there is none the rest is free, else each subset of N is selected and its complement
    discarded.

    Args:
        graph: the graph.
        max_classes: stop with an error beyond so many.

    Returns:
        The classes, smallest cores first. There are d + 1 on a path that begins with Y, 2^d where Y has d stable
        neighbours and no other variable exists: polynomial on sparse graphs, exponential in the number of neighbours.

    Raises:
        UserError: more than `max_classes`, with how many subsets were covered by then.

    Source: Liu et al. 2023, Algorithm 2, by d-separation.
    """
    found: list[Interval] = []
    covered = 0
    for core, free in _recover(graph.stable_masks, graph.bit[graph.target], graph.mask(graph.stable)):
        found.append(Interval(frozenset(graph.names(core)), frozenset(graph.names(free))))
        covered += found[-1].size
        if len(found) > max_classes:
            n = len(graph.stable)
            raise UserError(
                f"more than {max_classes:,} classes of subsets; those found cover {covered / 2**n:.1%} of 2^{n}",
                where="max_classes", allowed="a larger max_classes, or a graph with fewer neighbours of the target",
                cure='search="beam" looks at a part of them and says so',
            )  # fmt: skip
    return sorted(found, key=lambda i: (len(i.core), [graph.nodes.index(v) for v in sorted(i.core)]))


def _recover(masks: Masks, target: int, stable: int) -> Iterator[tuple[int, int]]:
    """(core, free) of every class; an explicit stack, as graphs may be deep."""
    stack = [(0, stable)]
    while stack:
        chosen, rest = stack.pop()
        near = 0
        for v in _each(rest):
            given = (masks.an(target | v | chosen) & rest & ~v) | chosen
            if masks.connected(target, given, v) & v:
                near |= v
        if not near:
            yield chosen, rest
            continue
        part = near
        while True:  # all submasks of near, near itself first
            stack.append((chosen | part, rest & ~near))
            if not part:
                break
            part = (part - 1) & near


def class_of(graph: MutableSCM, subset: Iterable[str]) -> Interval:
    """The class that a subset belongs to.

    free = the stable variables that leave the Markov boundary as it is when they are added to it alone: a class is an
    interval, so together they leave it as well.
    """
    core = markov_boundary(graph, subset)
    rest = [v for v in graph.stable if v not in core]
    return Interval(core, frozenset(v for v in rest if markov_boundary(graph, core | {v}) == core))


def beam_classes(
    graph: MutableSCM, score: Callable[[Interval], float], width: int = 4, limit: int = 500
) -> tuple[list[Interval], int]:
    """Some classes, found by walking from the empty and the whole set to better neighbours. INEXACT: others are unseen.

    Args:
        graph: the graph.
        score: of a class, lower is better; asked once for each.
        width: how many of the best so far have their neighbours looked at in each round, >= 1.
        limit: classes that are scored at most.

    Returns:
        The classes scored, and how many rounds it took. A neighbour is the class of a core with one variable more or
        less. The walk ends when a round changes nothing among the best `width`.
    """
    if width < 1:
        raise UserError(f"{width} is no width", where="beam", allowed="1 or more")
    scores: dict[Interval, float] = {}

    def look(subset: Iterable[str]) -> None:
        found = class_of(graph, subset)
        if found not in scores and len(scores) < limit:
            scores[found] = score(found)

    for start in ((), graph.stable):
        look(start)
    best: list[Interval] = []
    rounds = 0
    while best != (now := sorted(scores, key=lambda c: (scores[c], len(c.core)))[:width]) and len(scores) < limit:
        best, rounds = now, rounds + 1
        for c in now:
            for v in graph.stable:
                look(c.core ^ {v})
    return list(scores), rounds


def all_subsets(graph: MutableSCM, most: int = 16) -> list[Interval]:
    """Every subset as a class of its own: the exhaustive search that checks the other.

    Raises:
        UserError: more than `most` stable variables.
    """
    if len(graph.stable) > most:
        raise UserError(
            f"{len(graph.stable)} stable variables have {2 ** len(graph.stable):,} subsets", where="search",
            allowed=f"{most} variables or fewer for an exhaustive search", cure='search="classes"',
        )  # fmt: skip
    return [Interval(frozenset(s)) for s in _subsets(graph.stable)]


def _subsets(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    given = tuple(names)
    for size in range(len(given) + 1):
        yield from combinations(given, size)


def _each(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low
        mask ^= low


def _stable_mask(graph: MutableSCM, subset: Iterable[str]) -> int:
    wanted = tuple(subset)
    if lost := [v for v in wanted if v not in graph.stable]:
        raise UserError(f"{lost} are not stable variables", where="subset", allowed=", ".join(graph.stable))
    return graph.mask(wanted)
