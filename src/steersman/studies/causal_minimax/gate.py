"""The continuous counterexample: boosted trees, the direct adversary, exact risks by quadrature.

Leaves out: other regressors. Source: ours; the whole stable set is worse than no stable variable, 1.0786 to 1.
"""

from typing import Any

from steersman.decide.invariance.baselines import baselines
from steersman.decide.invariance.data import Data
from steersman.decide.invariance.fit import CausalMinimax
from steersman.studies.causal_minimax.estimated import ENVIRONMENTS
from steersman.studies.causal_minimax.worlds import GATE, gate_risk, gate_rows


def run(rows: int, seed: int) -> dict[str, Any]:
    """One draw of rows: what is chosen, and exact risks of all methods (regret against the mean's risk, 1)."""
    frame = gate_rows(rows, ENVIRONMENTS, seed)
    data = Data.from_frame(frame, GATE.nodes, "E")
    fit = CausalMinimax(GATE, "boosting", "direct", {"M": (0.0, 1.0)}, folds=4, seed=seed).fit(frame, "E")
    fitted = {"causal minimax": fit.predictor_, "whole stable set": fit._whole.predictor(["X1"])}
    fitted |= {name: make(data) for name, make in baselines(GATE, "boosting", seed).items()}
    return {
        "chosen": sorted(fit.best_.core), "estimated": {str(r): r.risk for r in fit.ranking_},
        "risk": {k: gate_risk(f) for k, f in fitted.items()},
    }  # fmt: skip
