"""The same worlds seen through rows: every method's predictor, judged by its exact worst-case risk.

Regret = exact worst-case risk of the fitted predictor minus the smallest over all subsets with the truth known. The
regressor of all methods is the same: means of cells. Leaves out: continuous worlds (`gate`).
"""

from typing import Any

import numpy as np
import scipy.stats

from steersman.decide.invariance.baselines import Maker, baselines
from steersman.decide.invariance.classes import stable_classes
from steersman.decide.invariance.data import Data
from steersman.decide.invariance.discrete import DiscreteSCM, Function
from steersman.decide.invariance.exact import maximise
from steersman.decide.invariance.fit import CausalMinimax
from steersman.studies.causal_minimax.worlds import environments, random_world

ENVIRONMENTS = 4


class Cells:
    """Means of cells, drawn towards the overall mean by one row."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Cells":
        """[n, k] of zeros and ones, [n]."""
        self.k = x.shape[1]
        cell, mean = self._cell(x), y.mean()
        rows = np.bincount(cell, minlength=2**self.k)
        self.value = (np.bincount(cell, y, 2**self.k) + mean) / (rows + 1)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, k] -> [n]."""
        return self.value[self._cell(x)]

    def _cell(self, x: np.ndarray) -> np.ndarray:
        return (x.astype(np.int64) << np.arange(self.k)).sum(1)


def run(first: int, worlds: int, rows: list[int]) -> dict[str, Any]:
    """Worlds with seeds from `first`; of odd seeds the condition fails."""
    found = []
    for i in range(worlds):
        world = random_world(first + i, i % 2 == 0)
        found += [{"seed": first + i, "rows": n, **_judged(world, n, first + i)} for n in rows]
    return {"worlds": found}


def _judged(world: DiscreteSCM, rows: int, seed: int) -> dict[str, Any]:
    graph = world.graph
    frame = environments(world, rows, ENVIRONMENTS, seed)
    data = Data.from_frame(frame, graph.nodes, "E")

    def exact(function: Function) -> float:
        return maximise(world, world.losses(function)).risk

    truth = {c.core: exact(world.predictor(c.core)) for c in stable_classes(graph)}
    best = min(truth.values())
    full = CausalMinimax(graph, adversary="exact", shortcut=False, seed=seed).fit(frame, "E")
    short = bool(full.condition_)
    whole = next(c for c in truth if all(set(graph.stable) <= r.core | r.free for r in full.ranking_ if r.core == c))
    fitted: dict[str, Function] = {
        "no shortcut": full.predictor_,
        "whole stable set": full._whole.predictor(whole),
        "smallest within one se": full._whole.predictor(min(
            (r for r in full.ranking_ if r.near_best), key=lambda r: (len(r.core), r.risk)).core),
    }  # fmt: skip
    fitted["causal minimax"] = fitted["whole stable set"] if short else full.predictor_
    makers: dict[str, Maker] = baselines(graph, Cells(), seed)
    fitted |= {name: make(data) for name, make in makers.items()}
    estimated, known = [r.risk for r in full.ranking_], [truth[r.core] for r in full.ranking_]
    rank = float("nan")
    if len(known) > 2 and np.ptp(known) > 0 and np.ptp(estimated) > 0:
        rank = float(scipy.stats.spearmanr(estimated, known).statistic)
    return {
        "holds": short, "classes": len(truth), "best": best, "spread": float(np.ptp(known)), "rank": rank,
        "gap": truth[whole] - best, "regret": {k: exact(f) - best for k, f in fitted.items()},
    }  # fmt: skip
