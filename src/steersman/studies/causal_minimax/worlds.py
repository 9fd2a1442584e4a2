"""Worlds of the causal-minimax study: random binary ones and the gate, with their exact worst-case risks.

Leaves out: what is fitted on their rows (`estimated`, `gate`).
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np

from steersman.core import noise
from steersman.decide.invariance.discrete import DiscreteSCM
from steersman.decide.invariance.graph import MutableSCM

MOST_PARENTS = 3
"""Of a mutable variable, so that all its interventions can be enumerated."""
DENSITY, CONCENTRATION = 0.45, 0.6
VARIANCE = 0.05
"""Least variance of Y in the world's own environment: rows must show both of its values."""
TRIES = 2000
NODES, GRID = 24, 161
"""Of the gate: quadrature nodes of the noise, grid of M."""


def random_world(seed: int, holds: bool) -> DiscreteSCM:
    """A binary world with one or two mutable and three to five stable variables, the condition true or false.

    Args:
        seed: of graph and tables; tables are Dirichlet(.6, .6).
        holds: whether the graphical condition is to hold, with a mutable child of Y in either case.
    """
    rng = noise.generator(seed, "causal-minimax/world")
    for _ in range(TRIES):
        mutable = [f"M{i}" for i in range(int(rng.integers(1, 3)))]
        stable = [f"X{i}" for i in range(int(rng.integers(3, 6)))]
        names = ["Y", *mutable, *stable]
        names = [names[i] for i in rng.permutation(len(names))]
        edges = [e for e in combinations(names, 2) if rng.random() < DENSITY]
        graph = MutableSCM(edges, "Y", mutable, names)
        small = all(len(graph.parents(m)) <= MOST_PARENTS for m in mutable)
        if not (small and graph.mutable_children and bool(graph.whole_set_optimal()) == holds):
            continue
        tables = {v: rng.dirichlet([CONCENTRATION] * 2, size=(2,) * len(graph.parents(v))) for v in graph.nodes}
        world = DiscreteSCM(graph, dict.fromkeys(graph.nodes, (0.0, 1.0)), tables)
        one = float((world.joint * world.spread("Y")).sum())
        if one * (1 - one) >= VARIANCE:
            return world
    raise RuntimeError(f"no such world in {TRIES} tries")


def environments(world: DiscreteSCM, rows: int, number: int, seed: int) -> dict[str, np.ndarray]:
    """Rows of several environments, each with random mechanisms of the mutable variables; column E names them."""
    parts = []
    for e in range(number):
        rng = noise.generator(seed, "causal-minimax/mechanisms", index=e)
        own = {m: rng.dirichlet([1.0, 1.0], size=np.shape(world.tables[m])[:-1]) for m in world.graph.mutable}
        parts.append(world.sample(rows // number, seed * 1000 + e, own))
    found = {v: np.concatenate([p[v] for p in parts]) for v in parts[0]}
    return found | {"E": np.repeat([f"e{e}" for e in range(number)], rows // number)}


GATE = MutableSCM([("Y", "M"), ("M", "X1"), ("Y", "X1")], "Y", ["M"])


def gate_rows(rows: int, number: int, seed: int) -> dict[str, np.ndarray]:
    """Y ~ N(0, 1), M in [0, 1] by another mechanism in each environment, X1 = M Y + N(0, 1)."""
    parts = []
    for e in range(number):
        rng = noise.generator(seed, "causal-minimax/gate", index=e)
        n = rows // number
        y, (a, b) = rng.standard_normal(n), rng.normal(0, 1.5, 2)
        m = 1 / (1 + np.exp(-(a + b * y + rng.standard_normal(n))))
        parts.append({"Y": y, "M": m, "X1": m * y + rng.standard_normal(n), "E": np.full(n, f"e{e}")})
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def gate_risk(function: Callable[[dict[str, np.ndarray]], np.ndarray]) -> float:
    """The exact worst-case risk of any predictor of the gate: for each y the worst m of a grid, all by quadrature.

    E_y max_m E_e (y - f(m, m y + e))^2.
    """
    x, w = np.polynomial.hermite_e.hermegauss(NODES)
    w = w / w.sum()
    y = np.linspace(-5, 5, 401)
    density = np.exp(-y * y / 2)
    m = np.linspace(0, 1, GRID)
    ys, ms, es = np.meshgrid(y, m, x, indexing="ij")
    columns = {"Y": ys.ravel(), "M": ms.ravel(), "X1": (ms * ys + es).ravel()}
    loss = ((columns["Y"] - function(columns)) ** 2).reshape(ys.shape) @ w
    return float((loss.max(1) * density).sum() / density.sum())
