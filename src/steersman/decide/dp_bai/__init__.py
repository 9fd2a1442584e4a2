"""DP-BAI: choose one of K arms with known features by at most T noisy trials, under differential privacy.

`schedule`, `max_det`, `hardness` and the exact figures (`exact_*`) are functions of public things; `DPBAI` holds the
options, and its `start` begins a real experiment by ask and tell; `simulate` plays it many times on `LinearArms`.
"""

from steersman.decide.dp_bai.ask_tell import DPBAI, Batch, Recommendation, Run
from steersman.decide.dp_bai.baselines import ODLinBAI, PooledMeans, sequential_halving, uniform
from steersman.decide.dp_bai.design import max_det
from steersman.decide.dp_bai.exact import exact_two_arm, exact_two_arm_loss
from steersman.decide.dp_bai.hardness import Hardness, error_bound, hardness
from steersman.decide.dp_bai.histories import exact_error, exact_history, exact_loss
from steersman.decide.dp_bai.phases import BudgetTooSmall, halving, schedule
from steersman.decide.dp_bai.play import Simulated, dp_bai_procedure, simulate
from steersman.decide.dp_bai.worlds import LinearArms, TableArms

__all__ = [
    "DPBAI",
    "Batch",
    "BudgetTooSmall",
    "Hardness",
    "LinearArms",
    "ODLinBAI",
    "PooledMeans",
    "Recommendation",
    "Run",
    "Simulated",
    "TableArms",
    "dp_bai_procedure",
    "error_bound",
    "exact_error",
    "exact_history",
    "exact_loss",
    "exact_two_arm",
    "exact_two_arm_loss",
    "halving",
    "hardness",
    "max_det",
    "schedule",
    "sequential_halving",
    "simulate",
    "uniform",
]
