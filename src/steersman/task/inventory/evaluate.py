"""What a policy costs on scenarios: mean a period and store, with its standard error over scenarios, and by location.

Leaves out: comparing policies (differences of `by_scenario` on the same scenarios are paired; `stats` has intervals).
Source: arXiv 2306.11246, section 6: the first periods are not counted.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steersman.core.errors import UserError
from steersman.task.inventory.network import InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import Act, periods


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured.

    Args:
        mean: cost a period and store (profit counts negative).
        se: standard error of `mean` over scenarios; NaN for a single one.
        by_location: cost a period of each location, by name.
        by_scenario: ``[B]`` float64, cost a period and store.
    """

    mean: float
    se: float
    by_location: dict[str, float]
    by_scenario: Tensor


def evaluate(
    network: InventoryNetwork, act: Act, scenarios: Scenarios, ignore: int = 0, *,
    horizon: int | None = None, integer: bool = False, strict: bool = False,
) -> Evaluation:  # fmt: skip
    """Play a policy and average its costs from period `ignore` on; no gradients.

    Args:
        network: the network.
        act: the policy: orders ``[B, E]`` for an observation.
        scenarios: what happens.
        ignore: periods at the start that are not counted.
        horizon: periods to play; None = all.
        integer: orders are rounded to whole units.
        strict: refuse orders that are negative or above the stock.

    Raises:
        UserError: nothing is left to count, or as `simulate.periods`.
    """
    horizon = scenarios.periods if horizon is None else horizon
    if not 0 <= ignore < horizon:
        raise UserError(f"is {ignore} of {horizon} periods", where="ignore", allowed=f"0 to {horizon - 1}")
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for t, moved in enumerate(periods(network, act, scenarios, horizon, integer=integer, strict=strict)):
            if t >= ignore:
                total = total + moved.cost.double()
    return summarise(network, total / (horizon - ignore))


def summarise(network: InventoryNetwork, cost: Tensor) -> Evaluation:
    """An evaluation from the cost a period of each scenario and location ``[B, N]``."""
    each = cost.sum(1) / network.n_stores
    se = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    by_location = dict(zip(network.names, cost.mean(0).tolist(), strict=True))
    return Evaluation(float(each.mean()), se, by_location, each.cpu())
