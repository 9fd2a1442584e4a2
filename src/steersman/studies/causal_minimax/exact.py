"""Random binary worlds in which every risk is a sum over states: the theory's statements, checked one by one.

Leaves out: estimating anything (`estimated`). Source: S1 is ours; the paper proves the statements.
"""

from itertools import combinations
from typing import Any

import numpy as np

from steersman.decide.invariance.classes import stable_classes
from steersman.decide.invariance.discrete import DiscreteSCM
from steersman.decide.invariance.exact import maximise
from steersman.studies.causal_minimax.names import EXACT
from steersman.studies.causal_minimax.worlds import random_world


def run(first: int, worlds: int) -> dict[str, Any]:
    """Worlds with seeds from `first`, those of even seeds with the condition true, the others with it false."""
    return {"worlds": [_judged(random_world(first + i, i % 2 == 0), i % 2 == 0) for i in range(worlds)]}


def _judged(world: DiscreteSCM, holds: bool) -> dict[str, Any]:
    """All subsets and all classes of one world."""
    graph = world.graph
    known: dict[frozenset[str], float] = {}
    exact = True
    for n in range(len(graph.stable) + 1):
        for subset in combinations(graph.stable, n):
            found = maximise(world, world.losses(world.predictor(subset)))
            known[frozenset(subset)] = found.risk
            exact &= found.exact
    classes = stable_classes(graph)
    within = max(float(np.ptp([known[s] for s in c.subsets()])) for c in classes)
    best, whole = min(known.values()), known[frozenset(graph.stable)]
    none = known[frozenset()]
    return {
        "holds": holds, "mutable": len(graph.mutable), "stable": len(graph.stable), "classes": len(classes),
        "subsets": len(known), "within": within, "best": best, "by_class": min(known[c.core] for c in classes),
        "whole": whole, "none": none, "exact": bool(exact), "gap": whole - best if whole - best > EXACT else 0.0,
    }  # fmt: skip
