"""What a network's costs can be held against: its known optimum with the policy that reaches it, or a bound.

Leaves out: finding them (`oracle`). Source: the table of known optima of arXiv 2306.11246, section 6.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from steersman.control.inventory.lost_sales import MOST_STATES
from steersman.control.inventory.oracle import (
    just_in_time,
    lost_sales_optimum,
    serial_clark_scarf,
    transshipment_bound,
)
from steersman.core.errors import UserError
from steersman.policy.inventory.observe import SUPPLIER, OrderingPolicy
from steersman.policy.inventory.stock import BaseStock, EchelonStock, Tabulated, chain_of
from steersman.task.inventory.demand import Law, Normal, Poisson
from steersman.task.inventory.evaluate import Evaluation, summarise
from steersman.task.inventory.network import InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import Simulator


@dataclass(frozen=True, slots=True)
class Reference:
    """A cost to be held against, a period and store.

    Args:
        name: in words.
        kind: "optimum" = some policy reaches it; "bound" = none goes below.
        cost: the long-run cost.
        policy: one that reaches it; None for bounds.
    """

    name: str
    kind: Literal["optimum", "bound"]
    cost: float
    policy: OrderingPolicy | None = None


def reference(network: InventoryNetwork, law: Law) -> Reference | None:
    """The optimum of a chain with backlog and normal demand, or of one store with lost sales and Poisson demand; the
    bound of a cross-dock with stores alike; None where nothing is known.

    Args:
        network: the network.
        law: of its demand.
    """
    if network.objective != "cost" or bool((network.procurement > 0).any()):
        return None
    if network.lost_sales:
        return _lost(network, law) if isinstance(law, Poisson) else None
    if not isinstance(law, Normal):
        return None
    try:
        order = chain_of(network, "reference")
    except UserError:
        return _cross_dock(network, law)
    return _chain(network, law, order)


def _lost(network: InventoryNetwork, law: Poisson) -> Reference | None:
    if len(network.names) != 1 or isinstance(law.mean, list) or network.holding[0] <= 0 or network.shortage[0] <= 0:
        return None
    try:
        best = lost_sales_optimum(law.mean, network.slots, float(network.holding[0]), float(network.shortage[0]))
    except UserError as error:
        if f"{MOST_STATES:,}" in error.allowed:
            return None
        raise
    policy = Tabulated(network, torch.from_numpy(best.orders))
    return Reference("dynamic programme", "optimum", best.cost, policy)


def _chain(network: InventoryNetwork, law: Normal, order: list[int]) -> Reference | None:
    holding = network.holding[order].tolist()
    lists = isinstance(law.mean, list) or isinstance(law.std, list)
    if lists or min(holding) <= 0 or sorted(holding) != holding or network.shortage[0] <= 0:
        return None
    into = [int((network.target == i).nonzero()[0, 0]) for i in order]
    leads = network.lead_time[into].tolist()
    shortage = float(network.shortage[0])
    levels, cost = serial_clark_scarf(float(law.mean), float(law.std), leads, holding, shortage, law.clip)  # type: ignore[arg-type]
    if len(order) == 1:
        return Reference("base stock", "optimum", cost, BaseStock(network, levels[0]))
    return Reference("echelon base stock", "optimum", cost, EchelonStock(network, torch.tensor(levels)))


def _cross_dock(network: InventoryNetwork, law: Normal) -> Reference | None:
    inside = network.source != SUPPLIER
    k, stores = network.n_stores, network.holding[network.n_upstream :]
    alike = [stores, network.shortage, network.lead_time[inside]]
    fits = network.n_upstream == 1 and bool(network.ships_all[0]) and int(inside.sum()) == k
    if (
        law.clip
        or not fits
        or any(bool((x != x[0]).any()) for x in alike)
        or stores[0] <= 0
        or network.shortage[0] <= 0
    ):
        return None
    mean, std = ([float(v) for v in x] if isinstance(x, list) else [float(x)] * k for x in (law.mean, law.std))
    leads = int(network.lead_time[inside][0]), int(network.lead_time[~inside][0])
    cost = transshipment_bound(mean, std, law.corr, *leads, float(stores[0]), float(network.shortage[0]))
    return Reference("transshipment bound", "bound", cost)


def hindsight(network: InventoryNetwork, scenarios: Scenarios, ignore: int) -> Evaluation:
    """What just-in-time orders, which know the demand, would cost from period `ignore` on."""
    orders = just_in_time(network, scenarios.demand)
    world, inventory = Simulator(network, scenarios), scenarios.inventory.expand(len(scenarios), -1, -1)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(scenarios.periods):
        moved = world.step(inventory, orders[:, :, t], scenarios.demand[:, :, t])
        inventory = moved.inventory
        if t >= ignore:
            total = total + moved.cost.double()
    return summarise(network, total / (scenarios.periods - ignore))
