"""The causal graph of a problem with mutable mechanisms: who may change, what follows from what, d-separation.

Sets of variables are bit masks inside, so that the class search can ask for d-separation thousands of times a second.
Leaves out: learning a graph (`discover`), edges without a direction (`extensions`), data.
Source: Liu et al. 2023 (arXiv 2107.01876); the condition's proof is in docs/causal-minimax.md.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from steersman.core.errors import UserError

Edge = tuple[str, str]
_ARROW = re.compile(r"\s*(<->|->|<-|--)\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether the whole stable set is optimal by the graph alone; true or false as a value.

    Args:
        holds: the condition.
        reason: why, in one sentence.
        edges: edges from the target into K that break it.
    """

    holds: bool
    reason: str
    edges: tuple[Edge, ...] = ()

    def __bool__(self) -> bool:
        return self.holds


@dataclass(frozen=True)
class MutableSCM:
    """A directed acyclic graph over a target and its variables, some of which have mechanisms that change.

    P^e(x, y) = p(y | pa_Y) prod_{stable i} p(x_i | pa_i) prod_{mutable j} p^e(x_j | pa_j).

    Args:
        edges: (cause, effect) pairs, or texts such as "A->B".
        target: the variable to predict, Y.
        mutable: variables whose mechanism differs between environments, X_M.
        variables: further variables without an edge.

    Raises:
        UserError: a cycle (named), a target that is mutable or unknown, a mutable variable that is not in the graph, an
            edge from a variable to itself, an edge without a direction.

    Edge cases: no mutable variable is allowed: nothing changes, and least squares on all variables is optimal. A target
        without edges is allowed where `variables` names others.
    """

    edges: tuple[Edge, ...]
    target: str
    mutable: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()

    def __init__(
        self,
        edges: Iterable[Edge | str],
        target: str,
        mutable: Sequence[str] | str = (),
        variables: Sequence[str] = (),
    ) -> None:
        names = (mutable,) if isinstance(mutable, str) else tuple(dict.fromkeys(mutable))
        object.__setattr__(self, "edges", tuple(dict.fromkeys(_directed(edges))))
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "mutable", names)
        object.__setattr__(self, "variables", tuple(variables))
        self._check()

    def _check(self) -> None:
        known = {v for e in self.edges for v in e} | set(self.variables)
        if self.target in self.mutable:
            raise UserError(
                f"the target {self.target!r} is mutable", where="mutable", allowed="variables other than the target",
                cure="if its own mechanism changes, nothing learnt here carries over",
            )  # fmt: skip
        if self.target not in known:
            shown = ", ".join(sorted(known)) or "none"
            raise UserError(f"the target {self.target!r} is not in the graph", where="edges", allowed=shown)
        if lost := [m for m in self.mutable if m not in known]:
            raise UserError(f"{lost} are not in the graph", where="mutable", allowed=", ".join(sorted(known)))
        _ = self.nodes  # refuses cycles

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """All variables with the target, causes before effects; names in order where the graph leaves it open."""
        names = sorted({v for e in self.edges for v in e} | set(self.variables) | {self.target}, key=_natural)
        waiting = {v: {a for a, b in self.edges if b == v} for v in names}
        order: list[str] = []
        while waiting:
            free = [v for v in names if v in waiting and not waiting[v]]
            if not free:
                raise UserError(f"the graph has a cycle: {' -> '.join(_cycle(waiting))}", where="edges",
                                allowed="a directed acyclic graph")  # fmt: skip
            order += free
            for v in free:
                del waiting[v]
            for rest in waiting.values():
                rest.difference_update(free)
        return tuple(order)

    @cached_property
    def stable(self) -> tuple[str, ...]:
        """X_S: neither mutable nor the target, causes first."""
        return tuple(v for v in self.nodes if v != self.target and v not in self.mutable)

    @cached_property
    def _parents(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {v: [] for v in self.nodes}
        for v in self.nodes:
            for a, b in self.edges:
                if a == v:
                    found[b].append(a)
        return {v: tuple(p) for v, p in found.items()}

    def parents(self, name: str) -> tuple[str, ...]:
        """Direct causes, in the order of `nodes`."""
        return self._parents[name]

    def children(self, name: str) -> tuple[str, ...]:
        """Direct effects, in the order of `nodes`."""
        return tuple(v for v in self.nodes if name in self._parents[v])

    def descendants(self, names: Iterable[str], cut: Iterable[str] = ()) -> tuple[str, ...]:
        """Effects, direct or not, of any of the names (which are left out), in the order of `nodes`.

        Args:
            names: where to begin.
            cut: variables into which arrows are removed.
        """
        given, closed = set(names), set(cut)
        found = set(given)
        for v in self.nodes:
            if v not in closed and found.intersection(self._parents[v]):
                found.add(v)
        return tuple(v for v in self.nodes if v in found and v not in given)

    @cached_property
    def mutable_children(self) -> tuple[str, ...]:
        """X_M^0: the mutable variables that the target causes directly."""
        return tuple(v for v in self.children(self.target) if v in self.mutable)

    def whole_set_optimal(self) -> Condition:
        """Whether all stable variables together are the best set, by the graph alone.

        True if the target has no edge into K = De(X_M^0) minus X_M^0, X_M^0 the mutable children of the target. Then
        f_S is minimax-optimal among all predictors.

        Edge cases: sufficient, not necessary: where it fails the whole set is often still best.
        Source: Theorem 3.1 of Liu et al., by an argument of our own that docs/causal-minimax.md gives.
        """
        if not self.mutable:
            return Condition(True, "No mechanism changes, so least squares on all variables is optimal.")
        first = self.mutable_children
        if not first:
            return Condition(True, f"{self.target} causes no mutable variable directly.")
        k = [v for v in self.descendants(first) if v not in first]
        broken = tuple((self.target, v) for v in k if v in self.children(self.target))
        if not broken:
            return Condition(True, f"{self.target} has no edge into what follows from {', '.join(first)}.")
        shown = ", ".join(f"{a} -> {b}" for a, b in broken)
        return Condition(
            False, f"{shown} leads from {self.target} into what follows from the mutable {', '.join(first)}.", broken
        )

    # Bit masks: bit i stands for nodes[i].

    @cached_property
    def bit(self) -> dict[str, int]:
        """The mask of each variable."""
        return {v: 1 << i for i, v in enumerate(self.nodes)}

    def mask(self, names: Iterable[str]) -> int:
        """The mask of several variables."""
        found = 0
        for v in names:
            found |= self.bit[v]
        return found

    def names(self, mask: int) -> tuple[str, ...]:
        """The variables of a mask."""
        return tuple(v for i, v in enumerate(self.nodes) if mask >> i & 1)

    @cached_property
    def masks(self) -> "Masks":
        """Bit masks of the whole graph."""
        return self._masks(())

    @cached_property
    def stable_masks(self) -> "Masks":
        """Bit masks of the graph without its mutable variables, which an intervention holds constant."""
        return self._masks(self.mutable)

    def _masks(self, removed: Sequence[str]) -> "Masks":
        gone = self.mask(removed)
        parents = [0 if gone >> i & 1 else self.mask(self._parents[v]) & ~gone for i, v in enumerate(self.nodes)]
        return Masks(tuple(parents))

    def d_separated(self, a: str, b: Iterable[str] | str, given: Iterable[str] = ()) -> bool:
        """Whether a and every variable of b are d-separated by the given ones, in the whole graph."""
        others = (b,) if isinstance(b, str) else tuple(b)
        return not self.masks.connected(self.bit[a], self.mask(given), self.mask(others)) & self.mask(others)


class Masks:
    """A graph as bit masks: parents, children and ancestors of each node."""

    def __init__(self, parents: tuple[int, ...]) -> None:
        self.parents = parents
        children, ancestors = [0] * len(parents), [0] * len(parents)
        for i, above in enumerate(parents):  # causes come first, so ancestors of parents are known
            up = 1 << i
            for j in _bits(above):
                children[j] |= 1 << i
                up |= ancestors[j]
            ancestors[i] = up
        self.children, self.ancestors = tuple(children), tuple(ancestors)

    def an(self, mask: int) -> int:
        """The nodes of a mask with all their ancestors."""
        found = 0
        for i in _bits(mask):
            found |= self.ancestors[i]
        return found

    def connected(self, start: int, given: int, towards: int) -> int:
        """Nodes reached from `start` in the moral graph of the ancestors of all three, not through `given`.

        A node of `towards` is d-separated from `start` by `given` if it is not among them, provided `towards` is one
        node, or none of them is.
        """
        inside = self.an(start | given | towards)
        reached, frontier = start, start
        while frontier:
            step = 0
            for i in _bits(frontier):
                below = self.children[i] & inside
                step |= self.parents[i] | below
                for j in _bits(below):
                    step |= self.parents[j]
            frontier = step & inside & ~given & ~reached
            reached |= frontier
        return reached


def _bits(mask: int) -> Iterable[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """X2 before X10."""
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name) if p)


def _cycle(waiting: dict[str, set[str]]) -> list[str]:
    """One cycle among variables each of which waits for another."""
    path = [min(waiting, key=_natural)]
    while True:
        nxt = min((p for p in waiting[path[-1]] if p in waiting), key=_natural)
        if nxt in path:
            return [nxt, *path[path.index(nxt) + 1 :][::-1], nxt]
        path.append(nxt)


def _directed(edges: Iterable[Edge | str]) -> list[Edge]:
    found: list[Edge] = []
    for e in edges:
        for a, arrow, b in parse_edges(e) if isinstance(e, str) else [(*tuple(e)[:1], "->", *tuple(e)[1:])]:
            if arrow != "->":
                raise UserError(f"{a} {arrow} {b} has no direction", where="edges", allowed="A->B",
                                cure="a PartialGraph holds edges without a direction")  # fmt: skip
            if a == b:
                raise UserError(f"{a!r} has an edge to itself", where="edges")
            found.append((str(a), str(b)))
    return found


def parse_edges(text: str) -> list[tuple[str, str, str]]:
    """Edges written as text: (cause, "->", effect), or (a, "--", b) where the direction is not known.

    Args:
        text: edges or chains ("A->B", "B<-A", "A--B", "Y->M->X1") separated by commas, semicolons or line ends; what
            follows a # in a line is left out.

    Raises:
        UserError: a piece without an arrow or with an empty name; an edge that points both ways (hidden common causes
            are outside of what the method allows).
    """
    lines = [line.partition("#")[0] for line in text.splitlines()]
    pieces = [p.strip() for line in lines for p in re.split(r"[,;]", line)]
    found: list[tuple[str, str, str]] = []
    for piece in filter(None, pieces):
        parts = [p.strip() for p in _ARROW.split(piece)]
        if len(parts) < 3 or not all(parts):
            raise UserError(f"{piece!r} is no edge", where="edges", allowed="A->B, B<-A, A--B")
        for a, arrow, b in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
            if arrow == "<->":
                raise UserError(f"{piece!r} points both ways", where="edges", allowed="A->B, B<-A, A--B",
                                cure="name the common cause as a variable; it has to be in the data")  # fmt: skip
            found.append((b, "->", a) if arrow == "<-" else (a, arrow, b))
    return found
