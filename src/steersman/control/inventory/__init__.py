"""Inventory networks under one name: the differentiable simulator, ordering policies, optima, and the learners."""

from steersman.control.inventory import oracle
from steersman.policy.inventory.observe import Observation, OrderingPolicy
from steersman.policy.inventory.stock import BaseStock, CappedBaseStock, EchelonStock, Tabulated
from steersman.task.inventory.evaluate import Evaluation, evaluate
from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import replay

__all__ = [
    "BaseStock",
    "CappedBaseStock",
    "EchelonStock",
    "Evaluation",
    "InventoryNetwork",
    "Observation",
    "OrderingPolicy",
    "Scenarios",
    "Store",
    "Tabulated",
    "Warehouse",
    "evaluate",
    "oracle",
    "replay",
]
