"""Inventory networks under one name: the differentiable simulator, ordering policies, optima, and the learners.

The Gymnasium view stands in `task.inventory.environment`, which wants that package, and the benchmark problems in
`task.inventory.settings`.
"""

from steersman.control.inventory import oracle
from steersman.control.inventory.hdpo import HDPO
from steersman.control.inventory.reference import Reference, hindsight, reference
from steersman.control.inventory.score_function import GaussianOrders, ScoreFunction
from steersman.control.inventory.training import Pathwise, Ppo, Reinforce, fit_forecaster, train_policy
from steersman.policy.inventory.graph import GraphPolicy
from steersman.policy.inventory.newsvendor import Forecaster, QuantileNewsvendor
from steersman.policy.inventory.observe import Observation, OrderingPolicy
from steersman.policy.inventory.stock import BaseStock, CappedBaseStock, EchelonStock, Tabulated
from steersman.policy.inventory.symmetric import SymmetryAware
from steersman.policy.inventory.vanilla import DataDriven, VanillaMLP
from steersman.task.inventory.evaluate import Evaluation, evaluate
from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import replay

__all__ = [
    "HDPO",
    "BaseStock",
    "CappedBaseStock",
    "DataDriven",
    "EchelonStock",
    "Evaluation",
    "Forecaster",
    "GaussianOrders",
    "GraphPolicy",
    "InventoryNetwork",
    "Observation",
    "OrderingPolicy",
    "Pathwise",
    "Ppo",
    "QuantileNewsvendor",
    "Reference",
    "Reinforce",
    "Scenarios",
    "ScoreFunction",
    "Store",
    "SymmetryAware",
    "Tabulated",
    "VanillaMLP",
    "Warehouse",
    "evaluate",
    "fit_forecaster",
    "hindsight",
    "oracle",
    "reference",
    "replay",
    "train_policy",
]
