"""Hindsight differentiable policy optimisation: a policy learns from the gradient of simulated costs themselves.

loss(theta) = (1 / B T K) sum of costs over scenarios, periods and locations; its gradient runs back through all periods
of the simulation (pathwise), so there is no noise but that of the scenarios. A learner for `train.fit`.
Leaves out: the loop, the estimators it is compared with (`score_function`).
Source: Alvo, Russo, Kanoria and Lee, arXiv 2306.11246, section 3.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steersman.core.errors import UserError
from steersman.policy.inventory.observe import OrderingPolicy
from steersman.task.inventory.evaluate import evaluate
from steersman.task.inventory.network import InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import periods
from steersman.train.optimise import Optimiser
from steersman.train.parameters import load_trainable_state, trainable_state


class SimulatedLearner:
    """What all learners on a simulator have in common: scenarios, held-out costs, state.

    Args:
        network: the network.
        policy: what is evaluated, and trained.
        data: training scenarios.
        optimiser: moves the trainable parameters.
        horizon: periods of a training scenario that are played; None = all.
        warmup: periods at the start that do not count in training.
        dev: held-out scenarios; None = none.
        ignore: periods at the start of held-out scenarios that do not count.
        integer: orders are rounded to whole units on held-out scenarios.
    """

    def __init__(
        self, network: InventoryNetwork, policy: OrderingPolicy, data: Scenarios, optimiser: Optimiser, *,
        horizon: int | None = None, warmup: int = 0, dev: Scenarios | None = None, ignore: int = 0,
        integer: bool = False,
    ) -> None:  # fmt: skip
        self.network, self.policy, self.data, self.optimiser = network, policy, data, optimiser
        self.horizon = data.periods if horizon is None else horizon
        self.warmup, self.dev, self.ignore, self.integer = warmup, dev, ignore, integer
        if not 1 <= self.horizon <= data.periods:
            what = f"{self.horizon} periods asked for, the training demand has {data.periods}"
            raise UserError(what, where="horizon", allowed=f"1 to {data.periods}")
        if not 0 <= warmup < self.horizon:
            raise UserError(f"is {warmup} of {self.horizon} periods", where="warmup", allowed="less than the horizon")

    @property
    def rows(self) -> int:
        """Number of training scenarios."""
        return len(self.data)

    @property
    def module(self) -> torch.nn.Module:
        """What holds the trainable parameters."""
        return self.policy

    def backward(self, rows: Tensor, step: int) -> dict[str, Tensor | float]:
        """Put the gradient of the scenarios `rows` into the parameters; returns metrics."""
        raise TypeError(f"{type(self).__name__} has no gradient")

    def step(self, rows: Tensor, step: int) -> Mapping[str, Tensor | float]:
        """One update on the scenarios `rows`; ``tokens`` counts simulated periods."""
        found = self.backward(rows, step)
        return found | self.optimiser.apply(step) | {"tokens": float(len(rows) * self.horizon)}

    def evaluate(self) -> dict[str, float]:
        """Cost a period and store on held-out scenarios, and its standard error."""
        if self.dev is None:
            return {}
        found = evaluate(self.network, self.policy, self.dev, self.ignore, integer=self.integer)
        return {"cost": found.mean, "cost_se": found.se}

    def state_dict(self) -> dict[str, Any]:
        """Trainable parameters and optimiser moments."""
        return {"policy": trainable_state(self.module), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore parameters and moments."""
        load_trainable_state(self.module, state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])


class HDPO(SimulatedLearner):
    """Learns by the gradient through the simulation; arguments as `SimulatedLearner`."""

    def backward(self, rows: Tensor, step: int) -> dict[str, Tensor | float]:
        """Back-propagation through all periods of the scenarios `rows`."""
        batch = self.data.index(rows)
        total = torch.zeros((), device=batch.demand.device, dtype=batch.demand.dtype)
        for t, moved in enumerate(periods(self.network, self.policy, batch, self.horizon)):
            if t >= self.warmup:
                total = total + moved.cost.sum()
        loss = total / (len(batch) * (self.horizon - self.warmup) * self.network.n_stores)
        loss.backward()
        return {"loss": loss.detach()}
