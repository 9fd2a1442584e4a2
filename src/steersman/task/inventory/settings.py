"""The benchmark problems: networks and laws of demand with their published parameters.

Random parameters of networks are drawn as the official settings draw them, from the same legacy streams and seeds, so
that instances are the same. Leaves out: the retail series, which may not be passed on (`demand.Seasonal`, `series`).
Source: arXiv 2306.11246, section 6, and the settings shipped with its code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steersman.core.errors import UserError
from steersman.task.inventory.demand import Law, Normal, Poisson, Seasonal
from steersman.task.inventory.network import SUPPLIER_NAME, Edge, InventoryNetwork, Store, Warehouse
from steersman.task.inventory.scenarios import Scenarios

SEEDS = {"shortage": 28, "holding": 73, "mean": 33, "spread": 92, "lead": 41}
"""Of the shipped settings; numpy's legacy generator."""
ADJACENCY = ((0, 0, 1, 1, 1, 0, 1, 1, 1, 0), (1, 1, 1, 1, 1, 1, 0, 1, 1, 1))
"""Which of two warehouses serves which of ten stores."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A network and its demand; `past` periods are shown to policies."""

    network: InventoryNetwork
    law: Law
    past: int = 0

    def scenarios(self, n: int, periods: int, seed: int = 0) -> Scenarios:
        """`n` scenarios of `periods` periods."""
        return Scenarios.draw(self.network, self.law, n, periods, seed, past=self.past)


def one_store_backlogged(lead_time: int = 4, shortage: float = 9.0) -> Setting:
    """One store, backlog, N(5, 1.6^2) clipped at 0; published: lead times 1 to 20, shortage 4, 9, 19, 39."""
    return Setting(InventoryNetwork.single_store(lead_time, 1.0, shortage, lost_sales=False), Normal())


def one_store_lost(lead_time: int = 4, shortage: float = 4.0) -> Setting:
    """One store, lost sales, Poisson(5); published: lead times 1 to 4, shortage 4, 9, 19, 39."""
    return Setting(InventoryNetwork.single_store(lead_time, 1.0, shortage, lost_sales=True), Poisson())


def serial_system(lead_time: int = 4, shortage: float = 9.0) -> Setting:
    """Two echelons, a warehouse, a store, backlog, N(5, 2^2) clipped; published: store lead times 1 to 4."""
    edges = ((SUPPLIER_NAME, "echelon 1", 2), ("echelon 1", "echelon 2", 4), ("echelon 2", "warehouse", 3),
             ("warehouse", "store", lead_time))  # fmt: skip
    upper = (Warehouse("echelon 1", 0.1), Warehouse("echelon 2", 0.2))
    store, warehouse = Store("store", 1.0, shortage), Warehouse("warehouse", 0.5)
    return Setting(InventoryNetwork((store,), edges, (warehouse,), upper, lost_sales=False), Normal(std=2.0))


def transshipment_backlogged(stores: int = 5, lead_time: int = 2, shortage: float = 4.0, corr: float = 0.5) -> Setting:
    """A cross-dock (lead time 3) and 3, 5 or 10 stores alike in costs, backlog, correlated unclipped demand."""
    names = _names(stores)
    edges = [(SUPPLIER_NAME, "warehouse", 3), *(("warehouse", n, lead_time) for n in names)]
    network = InventoryNetwork(
        [Store(n, 1.0, shortage) for n in names], edges, [Warehouse("warehouse", 0.5, cross_dock=True)],
        lost_sales=False,
    )  # fmt: skip
    mean, std = _means_and_spreads(stores)
    return Setting(network, Normal(mean=mean, std=std, corr=corr, clip=False))


def one_warehouse_lost_demand(stores: int = 10) -> Setting:
    """A warehouse (lead time 3) and 3 to 50 stores that differ in costs, demand and lead time, lost sales."""
    leads = np.random.RandomState(SEEDS["lead"]).randint(2, 4, stores)
    edges = [(SUPPLIER_NAME, "warehouse", 3)]
    edges += [("warehouse", n, int(lead)) for n, lead in zip(_names(stores), leads, strict=True)]
    return _lost_demand(stores, edges, [Warehouse("warehouse", 0.3)])


def many_warehouses_lost_demand() -> Setting:
    """Two warehouses (lead time 3) and ten stores, some served by one of them only, lead times 1 to 6, lost sales."""
    stores, draw = _names(10), np.random.RandomState(SEEDS["lead"])
    leads = draw.randint(1, 7, (2, 10))
    warehouses = [Warehouse("east", 0.3, 0.5), Warehouse("west", 0.4, 1.5)]
    edges: list[Edge] = [(SUPPLIER_NAME, w.name, 3) for w in warehouses]
    edges += [
        (w.name, s, int(leads[i, k])) for i, w in enumerate(warehouses) for k, s in enumerate(stores) if ADJACENCY[i][k]
    ]
    return _lost_demand(10, edges, warehouses)


def one_store_retail(lead_time: int = 5, shortage: float = 9.0, law: Law | None = None) -> Setting:
    """One store, profit, lost sales, weekly retail-like demand; 16 past weeks and the days to Christmas are shown."""
    network = InventoryNetwork.single_store(lead_time, 1.0, shortage, lost_sales=True, objective="profit")
    return Setting(network, law or Seasonal(), past=16)


def _lost_demand(stores: int, edges: Sequence[Edge], warehouses: Sequence[Warehouse]) -> Setting:
    holding = np.random.RandomState(SEEDS["holding"]).uniform(0.7, 1.3, stores)
    shortage = np.random.RandomState(SEEDS["shortage"]).uniform(6.3, 11.7, stores)
    places = [Store(n, float(h), float(p)) for n, h, p in zip(_names(stores), holding, shortage, strict=True)]
    mean, std = _means_and_spreads(stores)
    return Setting(InventoryNetwork(places, edges, warehouses), Normal(mean=mean, std=std, corr=0.5))


def _means_and_spreads(stores: int) -> tuple[list[float], list[float]]:
    if stores < 1:
        raise UserError(f"is {stores}", where="stores", allowed="1 or more")
    mean = np.random.RandomState(SEEDS["mean"]).uniform(2.5, 7.5, stores).round(3)
    cv = np.random.RandomState(SEEDS["spread"]).uniform(0.25, 0.5, stores)
    return mean.tolist(), (mean * cv).round(3).tolist()


def _names(stores: int) -> list[str]:
    return [f"store {i}" for i in range(1, stores + 1)]
