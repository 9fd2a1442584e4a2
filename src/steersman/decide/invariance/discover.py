"""A graph learnt from data of several environments, when the user gives none. It is a guess and says what it left open.

The environment is a variable without causes, tied to the mutable variables and to nothing else. The skeleton is PC's,
with partial correlations, always given the environment: as it has no causes, that opens no path. An edge between a
mutable and a stable variable is directed by where the environment's influence goes; colliders and Meek's rules direct
others. What is still open stays undirected (`extensions`).
Leaves out: hidden common causes, tests of other than linear dependence (causal-learn's KCI is used where it is asked
for), edges between two mutable variables (left open).
Sources: Spirtes, Glymour and Scheines 2000 (PC); Colombo and Maathuis 2014 (stable order, majority rule); Meek 1995;
Huang et al. 2020 (CD-NOD, phases 1 and 2).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.invariance.data import Data, stack
from steersman.decide.invariance.extensions import PartialGraph
from steersman.decide.invariance.graph import Edge

TESTS = ("partial", "kci")
MOST_GIVEN = 3
"""Variables that a test conditions on at most, besides the environment; in a majority, too."""
KCI_ROWS = 500
"""Rows that the kernel test sees at most: its cost grows with their cube."""


@dataclass(frozen=True)
class Discovered:
    """A graph that was learnt.

    Args:
        graph: it, with what is undirected.
        notes: what a reader must know, a sentence each.
        p_values: of the last test of each pair that was kept or removed.
    """

    graph: PartialGraph
    notes: tuple[str, ...]
    p_values: dict[frozenset[str], float] = field(default_factory=dict)


class _Tests:
    """Independence of two variables given others and the environment, or of one and the environment; all are kept."""

    def __init__(self, data: Data, names: Sequence[str], mutable: Sequence[str], kind: str) -> None:
        assert data.env is not None
        self.n, self.mutable = len(data), set(mutable)
        self.at = {v: i for i, v in enumerate(names)}
        x = stack(data.columns, names, len(data))
        code = np.unique(data.env, return_inverse=True)[1].ravel()
        self.groups, self.sizes = int(code.max()) + 1, np.bincount(code)
        means = np.stack([np.bincount(code, c) / self.sizes for c in x.T], 1)
        self.pooled, self.within = _cov(x), _cov(x - means[code])
        self.each = [_cov(x[code == e]) for e in range(self.groups)]
        self.kept: dict[Any, float] = {}
        self.kernel = _kernel(x, code) if kind == "kci" else None

    def pair(self, a: str, b: str, given: Iterable[str]) -> float:
        """p-value of a and b being independent given others and the environment.

        Fisher's z of the partial correlation within environments. A mutable variable's relation may change its sign
        from one to the next: there, sum_e z_e^2 is tested as well, and the smaller p-value is doubled.
        """
        s = tuple(sorted(given))
        k = (frozenset((a, b)), s)
        if k not in self.kept:
            self.kept[k] = self._pair(a, b, s)
        return self.kept[k]

    def _pair(self, a: str, b: str, s: Sequence[str]) -> float:
        i, j = [self.at[a], self.at[b]], [self.at[v] for v in s]
        if self.kernel is not None:
            return self.kernel(*i, [*j, -1])
        free = max(self.n - len(s) - 2 - self.groups, 1)
        p = math.erfc(abs(_z(self.within, i, j)) * math.sqrt(free / 2))
        if not {a, b} & self.mutable:
            return p
        import scipy.stats

        own = [(_z(c, i, j), n - len(s) - 3) for c, n in zip(self.each, self.sizes, strict=True) if n > len(s) + 3]
        changing = float(scipy.stats.chi2.sf(sum(z * z * m for z, m in own), len(own))) if own else 1.0
        return min(1.0, 2 * min(p, changing))

    def environment(self, a: str, given: Iterable[str]) -> tuple[float, float]:
        """p-value of a not depending on the environment given others, and the share of its variance that it explains.

        An F test of the environments' means; the kernel test has no share and gives 1 - p for it.
        """
        import scipy.stats

        s = tuple(sorted(given))
        if self.kernel is not None:
            p = self.kernel(self.at[a], -1, [self.at[v] for v in s])
            return p, 1 - p
        full, part = self._left(self.pooled, a, s), self._left(self.within, a, s)
        free = self.n - self.groups - len(s)
        share = max(full - part, 0.0)
        f = share / (self.groups - 1) / max(part / free, 1e-300)
        return float(scipy.stats.f.sf(f, self.groups - 1, free)), share / max(full, 1e-300)

    def _left(self, cov: np.ndarray, a: str, s: Sequence[str]) -> float:
        i, j = self.at[a], [self.at[v] for v in s]
        if not j:
            return float(cov[i, i])
        return float(cov[i, i] - cov[i, j] @ np.linalg.lstsq(cov[np.ix_(j, j)], cov[j, i], rcond=None)[0])


def _cov(x: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(x.T, bias=True))


def _z(cov: np.ndarray, i: list[int], j: list[int]) -> float:
    """Fisher's transform of the partial correlation of two variables given others."""
    block = cov[np.ix_(i, i)]
    if j:
        block = block - cov[np.ix_(i, j)] @ np.linalg.lstsq(cov[np.ix_(j, j)], cov[np.ix_(j, i)], rcond=None)[0]
    scale = math.sqrt(max(block[0, 0] * block[1, 1], 0.0))
    r = block[0, 1] / scale if scale > 1e-12 else 0.0
    return math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))


def _kernel(x: np.ndarray, code: np.ndarray) -> Any:
    """causal-learn's kernel test on columns of x; column -1 is the environment."""
    try:
        from causallearn.utils.cit import CIT
    except ImportError:
        raise UserError("the kernel test needs causal-learn", where="--test kci", cure="pip install causal-learn",
                        allowed="partial needs nothing more") from None  # fmt: skip
    rows = np.linspace(0, len(x) - 1, min(len(x), KCI_ROWS)).astype(int)
    test = CIT(np.concatenate([x, code[:, None].astype(float)], 1)[rows], "kci")
    last = x.shape[1]
    return lambda a, b, s: float(test(a % (last + 1), b % (last + 1), [v % (last + 1) for v in s]))


def discover(data: Data, target: str, mutable: Sequence[str], alpha: float = 0.01, test: str = "partial") -> Discovered:
    """Learn a graph over all columns.

    Args:
        data: rows with environments.
        target: Y, whose mechanism is taken not to change.
        mutable: variables whose mechanism changes.
        alpha: level of the independence tests.
        test: partial (linear), or kci (kernel test of causal-learn; slow).

    Raises:
        UserError: fewer than two environments, an option out of range, kci without causal-learn, a mutable target.

    Edge cases: no environment may be missed: what changes besides the given mutable variables breaks what is learnt;
        `invariance_notes` looks for that.
    """
    if len(data.environments) < 2:
        raise UserError(f"{len(data.environments)} environment: no graph can be learnt from that", where="environment",
                        allowed="two or more", cure="give the graph: --edges 'Y->M, M->X1, Y->X1'")  # fmt: skip
    if not 0 < alpha < 1:
        raise UserError(f"{alpha} is out of range", where="alpha", allowed="above 0, below 1")
    if test not in TESTS:
        raise UserError(f"{test!r} is no test", where="test", allowed=", ".join(TESTS))
    names = list(data.columns)
    PartialGraph((), (), target, tuple(mutable), tuple(names))._graph(())  # refuses a mutable or unknown target
    tests = _Tests(data, names, mutable, test)
    near, p_values = _skeleton(tests, names, alpha)
    directed, weak = _by_environment(tests, near, mutable, alpha)
    _collide(tests, near, alpha, directed)
    _meek(near, directed)
    left = [(a, b) for a in names for b in sorted(near[a]) if a < b and not {(a, b), (b, a)} & directed]
    graph = PartialGraph(tuple(sorted(directed)), tuple(left), target, tuple(mutable), tuple(names))
    kind = "partial correlations" if test == "partial" else "a kernel test"
    notes = [f"The graph was learnt from the data by {kind} at level {alpha:g}; it is a guess. "
             "Check it, and give it with --edges if you know better."]  # fmt: skip
    if weak:
        notes.append("No test separates the stable side from the environment, so these directions are weak guesses: "
                     f"{', '.join(weak)}.")  # fmt: skip
    return Discovered(graph, tuple(notes), p_values)


Near = dict[str, set[str]]


def _skeleton(tests: _Tests, names: Sequence[str], alpha: float) -> tuple[Near, dict[frozenset[str], float]]:
    """PC's skeleton in the form that does not depend on the order of variables."""
    near: Near = {v: set(names) - {v} for v in names}
    p_values: dict[frozenset[str], float] = {}
    for size in range(MOST_GIVEN + 1):
        before = {v: set(s) for v, s in near.items()}
        for a, b in combinations(names, 2):
            if b not in near[a]:
                continue
            highest = max((tests.pair(a, b, s) for s in _sets(a, b, before, (size,))), default=0.0)
            p_values[frozenset((a, b))] = max(highest, p_values.get(frozenset((a, b)), 0.0))
            if highest > alpha:
                near[a].discard(b)
                near[b].discard(a)
    return near, p_values


def _sets(a: str, b: str, near: Near, sizes: Iterable[int]) -> Iterator[tuple[str, ...]]:
    """Candidate separating sets among the neighbours of either side."""
    sizes = tuple(sizes)
    seen = set()
    for side, other in ((a, b), (b, a)):
        for size in sizes:
            for s in combinations(sorted(near[side] - {other}), size):
                if s not in seen:
                    seen.add(s)
                    yield s


def _by_environment(tests: _Tests, near: Near, mutable: Sequence[str], alpha: float) -> tuple[set[Edge], list[str]]:
    """Edges between a mutable and a stable variable, directed by where the environment's influence goes.

    E -> M - Z with Z stable: Z is an effect of M if sets that separate Z from E hold M, by majority, and a cause
    otherwise. A tie goes to the smallest sets; where nothing separates, to the set that leaves the environment least
    to explain, and the edge is named as weak.
    """
    directed: set[Edge] = set()
    weak: list[str] = []
    for m in mutable:
        for z in sorted(near[m] - set(mutable)):
            sets = [s for size in range(MOST_GIVEN + 1) for s in combinations(sorted(near[z]), size)]
            found = [(s, *tests.environment(z, s)) for s in sets]
            held = [m in s for s, p, _ in found if p > alpha]
            if not held:
                weak.append(f"{m} - {z}")
                effect = m in min(found, key=lambda f: (f[2], len(f[0])))[0]
            elif 2 * sum(held) == len(held):
                effect = held[0]  # sets come in order of size
            else:
                effect = 2 * sum(held) > len(held)
            directed.add((m, z) if effect else (z, m))
    return directed, weak


def _collide(tests: _Tests, near: Near, alpha: float, directed: set[Edge]) -> None:
    """Colliders among three variables of which two are not adjacent, by the majority of separating sets."""
    sizes = tuple(range(MOST_GIVEN + 1))
    for c in sorted(near):
        for a, b in combinations(sorted(near[c]), 2):
            if b in near[a]:
                continue
            held = [c in s for s in _sets(a, b, near, sizes) if tests.pair(a, b, s) > alpha]
            if held and 2 * sum(held) < len(held):
                for side in (a, b):
                    if (c, side) not in directed:
                        directed.add((side, c))


def _meek(near: Near, directed: set[Edge]) -> None:
    """Meek's rules 1 to 3, until nothing changes."""
    changed = True
    while changed:
        changed = False
        for a in sorted(near):
            for b in sorted(near[a]):
                if {(a, b), (b, a)} & directed:
                    continue
                first = any((c, a) in directed and b not in near[c] for c in near[a])
                second = any((a, c) in directed and (c, b) in directed for c in near[a] & near[b])
                into = [c for c in sorted(near[a] & near[b]) if (c, b) in directed and not {(a, c), (c, a)} & directed]
                third = any(d not in near[c] for c, d in combinations(into, 2))
                if first or second or third:
                    directed.add((a, b))
                    changed = True


def invariance_notes(data: Data, graph: Any, alpha: float = 0.01) -> list[str]:
    """Stable mechanisms, the target's among them, that seem to change: tests of each residual, Holm over all.

    Args:
        data: rows with environments; fewer than two give no note.
        graph: a `MutableSCM`.
        alpha: level over all variables together.

    The residual of a linear regression on the parents is compared between environments in mean and spread; a mechanism
    that is not linear may fail this although it does not change, and the note says so.
    """
    from steersman.decide.invariance.invariant import _residuals, invariant_p
    from steersman.stats import holm

    if len(data.environments) < 2 or data.env is None:
        return []
    rows = [np.flatnonzero(data.env == e) for e in data.environments]
    checked = [v for v in graph.nodes if v not in graph.mutable and float(np.ptp(data.columns[v])) > 0]
    p = [invariant_p(_residuals(data.columns, v, graph.parents(v)), rows) for v in checked]
    seen = [v for v, q in zip(checked, holm(p), strict=True) if q < alpha]
    if not seen:
        return []
    who = "the outcome's own mechanism" if seen == [graph.target] else f"the mechanisms of {', '.join(seen)}"
    return [
        f"Given their causes, {who} seem to differ between environments (linear residuals, level {alpha:g}). If that "
        "is real and not a bend in the relation, name them as mutable; nothing here protects against a changed outcome."
    ]
