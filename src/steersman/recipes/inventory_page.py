"""The page of an inventory job: the network, how it learnt, what it orders beside the optimum, what it costs.

Leaves out: drawing (`page`), training (`inventory_job`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steersman.control.inventory.reference import Reference
from steersman.page.figures import Line, Panel, curves
from steersman.page.forest import Forest, Row, forest
from steersman.page.html import Column, Html, section, shell, table, tag
from steersman.page.network import Flow, Network, Node, network
from steersman.page.number import Estimate, number
from steersman.page.theme import marks
from steersman.policy.inventory.observe import Observation, OrderingPolicy
from steersman.recipes.inventory import InventoryRecipe
from steersman.store.provenance import machine, made_by
from steersman.task.inventory.evaluate import Evaluation
from steersman.task.inventory.network import SUPPLIER_NAME, InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import periods

LEARNT, OPTIMAL = "learnt", "optimal"
BINS, FEWEST = 16, 30
"""Positions that an order curve distinguishes, and states that a point of it needs."""
LOOKED_AT = 200
"""Test scenarios whose orders are drawn."""
MOST_PANELS = 6
VERSIONS = ("steersman", "torch", "numpy", "scipy")
MARKS = marks([LEARNT, OPTIMAL])


@dataclass(frozen=True, slots=True)
class Shown:
    """All that the page shows; `metrics` are the rows of the run's metrics, `rows` the training scenarios."""

    recipe: InventoryRecipe
    network: InventoryNetwork
    policy: OrderingPolicy
    known: Reference | None
    test: Scenarios
    result: Mapping[str, Any]
    found: Evaluation
    metrics: Sequence[Mapping[str, Any]]
    rows: int
    folder: Path


def page(x: Shown) -> Html:
    """The whole page, self-contained."""
    position, orders, best = look(x)
    title = "Inventory policy"
    parts = [
        section("The network", network(drawn(x.network, orders.mean((0, 1))), MARKS), anchor="network"),
        section("What it costs", *_costs(x), anchor="costs"),
        section("What it orders", *_orders(x, position, orders, best), anchor="orders"),
        section("How it learnt", tag("div", *_learning(x), class_="figures"), anchor="learning"),
        section("How to repeat it", _repeat(x), anchor="repeat"),
    ]
    return shell(title, tag("h1", title), tag("p", sentence(x.result), class_="sentence"), *parts)


def sentence(result: Mapping[str, Any]) -> str:
    """What came out, in words."""
    test, known, gap = result["test"], result["reference"], result["gap"]
    said = f"On test scenarios the policy costs {_between(test)} a period and store."
    if known is None:
        return f"{said} Nothing is known to hold it against."
    low, value, high = (number(100 * gap[k], 2) for k in ("low", "value", "high"))
    share, cost = f"{value} [{low}, {high}] %", f"{known['name']}, {number(known['cost'])}"
    if known["kind"] == "optimum":
        return f"{said} On the same scenarios that is {share} more than the optimum ({cost} in the long run)."
    return f"{said} That is {share} above a bound that no policy can beat ({cost})."


def _between(x: Mapping[str, float]) -> str:
    return f"{number(x['value'])} [{number(x['low'])}, {number(x['high'])}]"


def drawn(net: InventoryNetwork, flow: Tensor) -> Network:
    """The network as a figure; `flow` is the mean order of each edge ``[E]``."""
    upper = [Node(w.name, f"holding {w.holding:g}") for w in (*net.echelons, *net.warehouses)]
    price = "price" if net.objective == "profit" else "shortage"
    stores = [Node(s.name, f"holding {s.holding:g}, {price} {s.shortage:g}", LEARNT) for s in net.stores]
    flows = tuple(Flow(a, b, str(lead), q) for (a, b, lead), q in zip(net.edges, flow.tolist(), strict=True))
    unmet = "unmet demand is lost" if net.lost_sales else "unmet demand waits"
    note = f"Numbers at lines are lead times in periods; lines are as thick as mean orders. Of demand: {unmet}."
    return Network("Network", "costs a unit a period", (Node(SUPPLIER_NAME), *upper, *stores), flows, note)


def look(x: Shown) -> tuple[Tensor, Tensor, Tensor | None]:
    """What is ordered when: positions ``[T, B, N]``, orders ``[T, B, E]`` learnt, and optimal ones in the same states.

    The first periods that do not count are left out.
    """
    few = x.test.index(torch.arange(min(LOOKED_AT, len(x.test)), device=x.test.demand.device))
    horizon = min(few.periods, 400)
    first = min(int(x.recipe.data.ignore * horizon), horizon - 1)
    seen: list[Tensor] = []
    learnt: list[Tensor] = []
    best: list[Tensor] = []

    def act(obs: Observation) -> Tensor:
        orders = x.policy(obs)
        seen.append(obs.position.cpu())
        learnt.append(orders.cpu())
        if x.known is not None and x.known.policy is not None:
            best.append(x.known.policy(obs).cpu())
        return orders

    with torch.no_grad():
        for _ in periods(x.network, act, few, horizon, integer=x.recipe.data.integer):
            pass
    optimal = torch.stack(best[first:]) if best else None
    return torch.stack(seen[first:]), torch.stack(learnt[first:]), optimal


def _orders(x: Shown, position: Tensor, orders: Tensor, best: Tensor | None) -> list[Html]:
    """A panel for each edge: orders by the inventory position of the place that orders."""
    shown = []
    for e in range(min(len(x.network.edges), MOST_PANELS)):
        at = position[:, :, int(x.network.target[e])].flatten().double().numpy()
        low, high = np.quantile(at, [0.01, 0.99])
        edges = np.linspace(low, max(high, low + 1e-9), BINS + 1)
        lines = [_line(LEARNT, at, orders[:, :, e].flatten().double().numpy(), edges)]
        if best is not None:
            lines.append(_line(OPTIMAL, at, best[:, :, e].flatten().double().numpy(), edges))
        labels = x.network.edge_name(e), "inventory position of who orders, units", "order, units"
        shown.append(curves(Panel(*labels, tuple(lines)), MARKS))
    more = len(x.network.edges) - len(shown)
    words = "In the states that the learnt policy comes to on test scenarios; bands hold the middle 80 % of orders. "
    words += "The optimal policy is asked in the same states. " * (best is not None)
    words += "Orders are shown before they are rounded to whole units. " * x.recipe.data.integer
    words += f"{more} further edges are not drawn." * (more > 0)
    return [tag("div", *shown, class_="figures"), tag("p", words.strip(), class_="note")]


def _line(
    arm: str, at: npt.NDArray[np.float64], order: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]
) -> Line:
    """Mean order in bins of positions, with the range of the middle 80 %; bins with few states are left out."""
    bin_of = np.clip(np.searchsorted(edges, at, "right") - 1, 0, BINS - 1)
    middle = (edges[1:] + edges[:-1]) / 2
    rows = []
    for i in range(BINS):
        inside = order[bin_of == i]
        if len(inside) >= FEWEST:
            rows.append((float(middle[i]), float(inside.mean()), *np.quantile(inside, [0.1, 0.9]).tolist()))
    x, mean, low, high = (tuple(column) for column in zip(*rows, strict=True)) if rows else ((),) * 4
    return Line(arm, x, (), mean, low, high)


def _costs(x: Shown) -> list[Html]:
    test = x.result["test"]
    rows = [Row("learnt policy", {LEARNT: Estimate(test["value"], test["low"], test["high"])})]
    if x.known is not None:
        rows.append(Row(x.known.name, {OPTIMAL: Estimate(x.known.cost, math.nan, math.nan)}))
    ignored = f"{x.recipe.data.ignore:.0%} of the periods at the start do not count."
    note = f"95 % interval over {len(x.test):,} test scenarios of {x.test.periods:,} periods; {ignored}"
    whole = Forest("Cost", "cost a period and store", (("", tuple(rows)),), note=note)
    places = [[name, number(cost)] for name, cost in x.found.by_location.items()]
    each = table([Column("location", "head"), Column("cost a period", "number")], places, label="by location", empty="")
    return [tag("div", forest(whole, MARKS), *_curve(x), class_="figures"), each]


def _curve(x: Shown) -> list[Html]:
    """Test cost against the number of training scenarios; nothing where only one number was tried."""
    if not x.result["curve"]:
        return []
    points = {int(n): found for n, found in x.result["curve"].items()} | {x.rows: x.result["test"]}
    sizes = sorted(points)
    values = (tuple(points[n][k] for n in sizes) for k in ("value", "low", "high"))
    mean, low, high = values
    at = tuple(float(n) for n in sizes)
    lines = [Line(LEARNT, at, (), mean, low, high)]
    if x.known is not None:
        flat = (x.known.cost,) * len(at)
        lines.append(Line(OPTIMAL, at, (), flat, flat, flat))
    note = "The same number of steps each; 95 % intervals over test scenarios, one training run a point."
    label = "training scenarios", "cost a period and store"
    return [curves(Panel("Cost against scenarios", *label, tuple(lines), log_x=len(at) > 1, note=note), MARKS)]


def _learning(x: Shown) -> list[Html]:
    """Cost on training and held-out scenarios by step."""
    shown = []
    for key, name in (("eval/cost", "held-out scenarios"), ("train/loss", "training scenarios")):
        rows = [(float(r["step"]), float(r[key])) for r in x.metrics if key in r]
        if not rows:
            continue
        at, cost = zip(*rows, strict=True)
        line = Line(LEARNT, at, (), cost, cost, cost)
        shown.append(curves(Panel(f"Cost on {name}", "step", "cost a period and store", (line,)), MARKS))
    return shown or [tag("p", "Nothing was trained: the rule is fixed.", class_="empty")]


def _repeat(x: Shown) -> Html:
    facts = {
        "policy": x.recipe.policy.kind, "method": x.recipe.method.kind, "steps": str(x.result["steps"]),
        "ended": str(x.result["reason"]), "learning rate": f"{x.recipe.optim.lr:g}",
        "scenarios a step": str(x.recipe.budget.batch), "seed": str(x.recipe.budget.seed), "machine": machine(),
        "versions": ", ".join(f"{k} {v}" for k, v in made_by().items() if k in VERSIONS),
        "recipe": "recipe.json beside this page", "policy's files": "the folder policy beside this page",
    }  # fmt: skip
    return tag("dl", *(part for k, v in facts.items() for part in (tag("dt", k), tag("dd", v))), class_="facts")
