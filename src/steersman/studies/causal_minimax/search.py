"""How many classes of subsets there are, beside all subsets. Seconds are the machine's and stay apart.

Leaves out: judging classes. Source: S5 is ours; the paper calls the search polynomial.
"""

import time
from itertools import combinations, pairwise
from typing import Any

from steersman.core import noise
from steersman.decide.invariance.classes import stable_classes
from steersman.decide.invariance.graph import MutableSCM

DEGREE = 2.2
"""Mean number of neighbours in a sparse random graph, about."""
MOST = 10**6
PUBLISHED = (
    "Y->M1, Y->X2, M1->X2, X7->X2, X6->X2, X7->X6, X2->X4, X4->X3, X11->X3, X3->X5, X10->X5, X11->X5, X11->X10, "
    "X6->M2, X4->M2, X11->M2"
)
"""The graph of the paper's simulation; the authors' search finds 45 classes."""


def run(sizes: list[int], graphs: int, seed: int) -> dict[str, Any]:
    """Counts by kind of graph and number of stable variables, and of the published graph."""
    counts: dict[str, dict[str, list[int]]] = {}
    seconds: dict[str, float] = {}
    for kind in ("path from Y", "path through Y", "star", "tree", "sparse"):
        counts[kind] = {}
        for d in sizes:
            many = graphs if kind in ("tree", "sparse") else 1
            began = time.process_time()
            counts[kind][str(d)] = [len(stable_classes(made(kind, d, seed + i), MOST)) for i in range(many)]
            seconds[f"{kind}/{d}"] = (time.process_time() - began) / many
    published = len(stable_classes(MutableSCM([PUBLISHED], "Y", ["M1", "M2"])))
    return {"counts": counts, "published": published, "timing": {"search_seconds": seconds}}


def made(kind: str, d: int, seed: int) -> MutableSCM:
    """A graph over Y and d stable variables."""
    others = [f"X{i}" for i in range(d)]
    if kind == "path from Y":
        return MutableSCM(list(pairwise(["Y", *others])), "Y")
    if kind == "path through Y":
        return MutableSCM(list(pairwise([*others[: d // 2], "Y", *others[d // 2 :]])), "Y")
    if kind == "star":
        return MutableSCM([("Y", x) for x in others], "Y")
    rng = noise.generator(seed, f"causal-minimax/{kind}/{d}")
    names = ["Y", *others]
    names = [names[i] for i in rng.permutation(len(names))]
    if kind == "tree":
        edges = [(names[int(rng.integers(i))], names[i]) for i in range(1, len(names))]
    else:
        edges = [e for e in combinations(names, 2) if rng.random() < DEGREE / d]
        if not any("Y" in e for e in edges):  # an outcome without neighbours has one class, whatever the rest is
            at = names.index("Y")
            edges.append(("Y", names[at + 1]) if at + 1 < len(names) else (names[at - 1], "Y"))
    return MutableSCM(edges, "Y", (), names)
