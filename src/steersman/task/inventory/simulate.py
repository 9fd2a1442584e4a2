"""The dynamics of an inventory network: batched, differentiable, all edges at once by index tensors.

In every period, from one common observation: all orders are chosen; demand arises; costs are counted; goods move on. An
order with lead time L is on hand L periods later. Stock that is negative after shipping is the policy's fault; `strict`
refuses it. Gradients run through orders, initial stocks and costs (pathwise; kinks have measure zero).
Leaves out: deciding (`policy.inventory`), averaging and intervals (`evaluate`).
Source: Alvo, Russo, Kanoria and Lee, arXiv 2306.11246, section 2; differs from the official code in that
a store served by one warehouse alone is charged to it, and a lead time cannot spill into another location's slots.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from steersman.core.errors import UserError
from steersman.policy.inventory.observe import SUPPLIER, Observation
from steersman.task.inventory.network import InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios

SLACK = 1e-4
"""Orders may exceed the stock by this share of it, and by this many units, for rounding."""
Act = Callable[[Observation], Tensor]
"""Orders ``[B, E]`` from an observation."""


@dataclass(frozen=True, slots=True)
class Moved:
    """One period: cost by location ``[B, N]``, what was ordered ``[B, E]``, stocks afterwards ``[B, N, S]``."""

    cost: Tensor
    orders: Tensor
    inventory: Tensor


class Simulator:
    """A network's step on given scenarios; index tensors are made once.

    Args:
        network: the network.
        scenarios: costs and lead times are taken from here, demand is given to `step`.
    """

    def __init__(self, network: InventoryNetwork, scenarios: Scenarios) -> None:
        device, slots = scenarios.demand.device, scenarios.inventory.shape[2]
        self.network, self.at, self.slots = network, scenarios, slots
        inside = (network.source != SUPPLIER).nonzero()[:, 0].to(device)
        outside = (network.source == SUPPLIER).nonzero()[:, 0].to(device)
        target = network.target.to(device)
        self.inside, self.outside = inside, outside
        self.ships, self.buys = network.source.to(device)[inside], target[outside]
        self.priced = bool((scenarios.procurement > 0).any())
        rest = (torch.arange(len(network.names), device=device) * slots).expand(len(scenarios.lead_time), -1)
        self.place = torch.cat([rest, target * slots + scenarios.lead_time - 1], 1)

    def shipped(self, orders: Tensor) -> Tensor:
        """What leaves each location, ``[B, N]``."""
        nothing = orders.new_zeros(len(orders), len(self.network.names))
        return nothing.index_add(1, self.ships, orders[:, self.inside])

    def step(self, inventory: Tensor, orders: Tensor, demand: Tensor) -> Moved:
        """One period.

        r = on hand - d at stores, on hand - shipped elsewhere; cost h r^+ + p r^- (profit: h r^+ - p min(on hand, d));
        then every slot moves on by one, r (r^+ where demand is lost) joins slot 0, an order joins slot L - 1.

        Args:
            inventory: ``[B, N, S]``.
            orders: ``[B, E]``.
            demand: ``[B, K]``.
        """
        net, at, k = self.network, self.at, self.network.n_stores
        rest = inventory[:, :, 0]
        if len(self.inside):
            rest = rest - self.shipped(orders)
        upstream, stock = rest[:, :-k], rest[:, -k:]
        left = stock - demand
        over = torch.relu(left)
        if net.objective == "profit":
            cost = at.holding[:, -k:] * over - at.shortage * torch.minimum(stock, demand)
        else:
            cost = at.holding[:, -k:] * over + at.shortage * torch.relu(-left)
        if net.n_upstream:
            cost = torch.cat([at.holding[:, :-k] * torch.relu(upstream), cost], 1)
        if self.priced:
            bought = torch.zeros_like(cost).index_add(1, self.buys, orders[:, self.outside])
            cost = cost + at.procurement * bought
        kept = torch.cat([upstream, over if net.lost_sales else left, orders], 1)
        moved = pad(inventory[:, :, 1:], (0, 1)).flatten(1)
        if len(self.place) == 1:
            moved = moved.index_add(1, self.place[0], kept)
        else:
            moved = moved.scatter_add(1, self.place, kept)
        return Moved(cost, orders, moved.view_as(inventory))

    def refuse_excess(self, inventory: Tensor, orders: Tensor, period: int) -> None:
        """Refuse orders that are negative, not finite, or above the stock of the location they come from.

        Raises:
            UserError: names location or edge, scenario, period and both numbers.
        """
        bad = (~orders.isfinite() | (orders < 0)).nonzero()
        if len(bad):
            b, e = bad[0].tolist()
            where = f"period {period}, scenario {b}, {self.network.edge_name(e)}"
            raise UserError(f"the order is {float(orders[b, e]):.6g}", where=where, allowed="a number, 0 or more")
        out, stock = self.shipped(orders), inventory[:, :, 0].clamp(min=0)
        far = (out > stock * (1 + SLACK) + SLACK).nonzero()
        if len(far):
            b, i = far[0].tolist()
            raise UserError(
                f"orders of {float(out[b, i]):.6g} from a stock of {float(inventory[b, i, 0]):.6g}",
                where=f"period {period}, scenario {b}, {self.network.names[i]}",
                allowed="at most what is on hand",
            )


def periods(
    network: InventoryNetwork, act: Act, scenarios: Scenarios, horizon: int | None = None, *,
    integer: bool = False, strict: bool = False,
) -> Iterator[Moved]:  # fmt: skip
    """Play `act` on the scenarios, period by period.

    Args:
        network: the network.
        act: gives orders ``[B, E]`` for an observation.
        scenarios: what happens.
        horizon: periods to play; None = as many as there is demand.
        integer: orders are rounded to whole units (without a gradient).
        strict: refuse orders that are negative or above the stock.

    Raises:
        UserError: a horizon beyond the demand; orders of another shape; see `Simulator.refuse_excess`.
    """
    horizon = scenarios.periods if horizon is None else horizon
    if not 1 <= horizon <= scenarios.periods:
        what = f"{horizon} periods asked for, demand has {scenarios.periods}"
        raise UserError(what, where="horizon", allowed=f"1 to {scenarios.periods}")
    world, b = Simulator(network, scenarios), len(scenarios)
    inventory = scenarios.inventory.expand(b, -1, -1)
    demand = torch.cat([scenarios.past.expand(b, -1, -1), scenarios.demand[:, :, :horizon]], 2)
    seen = scenarios.past.shape[2]
    for t in range(horizon):
        orders = act(observe(scenarios, inventory, demand[:, :, t : t + seen], t))
        if orders.shape != (b, len(network.edges)):
            what = f"orders have shape {tuple(orders.shape)}"
            raise UserError(what, where="policy", allowed=f"[{b} scenarios, {len(network.edges)} edges]")
        orders = orders.detach().round() if integer else orders
        if strict:
            world.refuse_excess(inventory, orders, t)
        moved = world.step(inventory, orders, demand[:, :, t + seen])
        inventory = moved.inventory
        yield moved


def observe(scenarios: Scenarios, inventory: Tensor, past: Tensor, period: int) -> Observation:
    """What is seen in a period."""
    x = scenarios
    return Observation(
        inventory, x.holding, x.shortage, x.procurement, x.lead_time, x.mean, x.std, past, x.calendar[:, period]
    )


def replay(
    network: InventoryNetwork, inventory: Any, orders: Any, demand: Any, *, strict: bool = False
) -> tuple[Tensor, Tensor]:
    """What given orders cost under given demand.

    Args:
        network: the network.
        inventory: ``[B, N, S]`` at the start; S may exceed the longest lead time.
        orders: ``[B, E, T]``, edges as in ``network.edges``.
        demand: ``[B, K, T]``, T as in `orders` or longer.
        strict: refuse orders that are negative or above the stock.
            Of all three the scenarios' dimension may be left out (one scenario), and where the network is a single
            store its middle dimension too: ``[S]`` or ``[B, S]``, ``[T]`` or ``[B, T]``. A size of 1 in the first
            dimension is shared by all scenarios.

    Returns:
        Cost a period ``[B, T]``, summed over locations, and the final inventory ``[B, N, S]``; dimensions that none
        of the three had are left out here too.

    Raises:
        UserError: shapes that disagree, NaN, demand shorter than the orders, fewer slots than the longest lead time.
    """
    n, e, k = len(network.names), len(network.edges), network.n_stores
    given = [torch.as_tensor(x) for x in (inventory, orders, demand)]
    kind = torch.get_default_dtype()
    for x in given:
        kind = torch.promote_types(kind, x.dtype)
    sizes, names = (n, e, k), ("inventory", "orders", "demand")
    stock, order, wanted = (_three(x.to(kind), size, name) for x, size, name in zip(given, sizes, names, strict=True))
    horizon, b = order.shape[2], max(len(stock), len(order), len(wanted))
    if wanted.shape[2] < horizon:
        raise UserError(f"has {wanted.shape[2]} periods, orders have {horizon}", where="demand")
    if stock.shape[2] < network.slots:
        what = f"has {stock.shape[2]} slots, the longest lead time is {network.slots}"
        raise UserError(what, where="inventory", allowed=f"{network.slots} or more")
    stock, order, wanted = (_scenarios(x, b, name) for x, name in zip((stock, order, wanted), names, strict=True))
    scenarios = Scenarios.of(network, wanted, inventory=stock)
    plan = iter(range(horizon))
    played = list(periods(network, lambda _: order[:, :, next(plan)], scenarios, horizon, strict=strict))
    cost = torch.stack([m.cost.sum(1) for m in played], 1)
    final = played[-1].inventory
    if n == 1 and given[0].ndim < 3:
        final = final[:, 0]
    one = all(x.ndim == 1 or (size > 1 and x.ndim == 2) for x, size in zip(given, sizes, strict=True))
    return (cost[0], final[0]) if one else (cost, final)


def _three(x: Tensor, middle: int, name: str) -> Tensor:
    """`x` as ``[scenario, middle, last]``."""
    allowed = f"[scenarios, {middle}, ...]"
    if x.ndim == 1 and middle == 1:
        x = x[None, None]
    elif x.ndim == 2:
        x = x[:, None] if middle == 1 else x[None]
    if x.ndim != 3 or x.shape[1] != middle or not x.shape[2]:
        raise UserError(f"has shape {tuple(x.shape)}", where=name, allowed=allowed)
    if not bool(x.isfinite().all()):
        at = (~x.isfinite()).nonzero()[0].tolist()
        raise UserError(f"is {float(x[tuple(at)])} at {at}", where=name, allowed="finite numbers")
    return x


def _scenarios(x: Tensor, b: int, name: str) -> Tensor:
    if len(x) not in (1, b):
        raise UserError(f"has {len(x)} scenarios where others have {b}", where=name, allowed=f"1 or {b}")
    return x.expand(b, -1, -1)
