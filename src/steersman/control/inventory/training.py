"""Train an ordering policy by one call: the estimator is one switch, everything else is the same.

Leaves out: the loop itself (`train.fit`), files of whole jobs (`recipes`). Source: the settings of arXiv 2306.11246.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from steersman.control.inventory.forecast import ForecastLearner
from steersman.control.inventory.hdpo import HDPO, SimulatedLearner
from steersman.control.inventory.score_function import GaussianOrders, ScoreFunction
from steersman.core.component import Component
from steersman.policy.inventory.newsvendor import Forecaster
from steersman.policy.inventory.observe import OrderingPolicy
from steersman.store.run import RunDir
from steersman.task.inventory.network import InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios
from steersman.train.fit import fit
from steersman.train.loop import Budget, Fitted, Habits, Watch
from steersman.train.optimise import AdamW, Optimiser


class Pathwise(Component):
    """HDPO: the gradient through the simulation."""

    kind: Literal["hdpo"] = "hdpo"


class Reinforce(Component):
    """The score-function estimator with a cross-scenario baseline."""

    kind: Literal["reinforce"] = "reinforce"
    std: float = Field(1.0, gt=0, description="deviation of orders at the start, units; it is learnt")


class Ppo(Component):
    """Clipped updates on the same rollouts, with the same baseline."""

    kind: Literal["ppo"] = "ppo"
    std: float = Field(1.0, gt=0, description="deviation of orders at the start, units; it is learnt")
    epochs: int = Field(4, ge=1, description="updates on each batch of rollouts")
    eps: float = Field(0.2, gt=0, le=1, description="ratios are clipped to 1 -+ eps")


Method = Annotated[Pathwise | Reinforce | Ppo, Field(discriminator="kind")]
PUBLISHED = Budget(steps=1000, batch=1024, best="cost", best_is="min")
"""Batch of the paper's networks; it trains far longer, until 500 epochs bring no gain."""


def learner(
    network: InventoryNetwork, policy: OrderingPolicy, data: Scenarios, method: Method, optim: AdamW, budget: Budget,
    **rest: Any,
) -> SimulatedLearner:  # fmt: skip
    """The learner of a method; `rest` as `SimulatedLearner`."""
    total = budget.total(len(data))
    if isinstance(method, Pathwise):
        return HDPO(network, policy, data, Optimiser(policy.named_parameters(), optim, total), **rest)
    noisy = GaussianOrders(network, policy, method.std).to(data.demand)
    optimiser = Optimiser(noisy.named_parameters(), optim, total)
    ppo = {"epochs": method.epochs, "eps": method.eps} if isinstance(method, Ppo) else {}
    return ScoreFunction(network, noisy, data, optimiser, seed=budget.seed, **ppo, **rest)


def train_policy(
    network: InventoryNetwork, policy: OrderingPolicy, data: Scenarios, dev: Scenarios | None = None, *,
    method: Method = Pathwise(), optim: AdamW = AdamW(lr=1e-3), budget: Budget = PUBLISHED,
    habits: Habits = Habits(evaluate_every=50), folder: Path | None = None, watch: Watch | None = None,
    resume: Path | None = None, **rest: Any,
) -> Fitted:  # fmt: skip
    """Train `policy` in place; it is left at its best held-out cost.

    Args:
        network: the network.
        policy: what is trained.
        data: training scenarios; dev: held-out ones, None = none (and `budget.best` is left out of account).
        method: `Pathwise`, `Reinforce` or `Ppo`.
        optim: Adam and its clipping.
        budget: steps, scenarios a step, seed, patience.
        habits: how often to evaluate and save.
        folder: where metrics and checkpoints go, and where an interrupted run goes on; None = nowhere.
        watch: told about progress.
        resume: a checkpoint to go on from.
        rest: horizon, warmup, ignore, integer as `SimulatedLearner`.

    Raises:
        UserError: no parameter can be trained, a horizon that does not fit.
        RunStopped: the cost became NaN.
    """
    budget = budget if dev is not None else budget.model_copy(update={"best": None, "patience": None})
    made = learner(network, policy, data, method, optim, budget, dev=dev, **rest)
    with run_in(folder) as run:
        return fit(made, budget, run, habits, watch=watch, resume=resume)


def fit_forecaster(
    forecaster: Forecaster, data: Scenarios, dev: Scenarios | None = None, *, optim: AdamW = AdamW(lr=1e-3),
    budget: Budget = Budget(steps=500, batch=1024), folder: Path | None = None, watch: Watch | None = None,
) -> Fitted:  # fmt: skip
    """Fit a quantile forecaster in place; arguments as `train_policy`."""
    made = ForecastLearner(
        forecaster, data, Optimiser(forecaster.named_parameters(), optim, budget.steps or 1), dev=dev
    )
    with run_in(folder) as run:
        return fit(made, budget, run, Habits(evaluate_every=100), watch=watch)


@contextmanager
def run_in(folder: Path | None) -> Iterator[RunDir]:
    """A run's folder; a passing one for None."""
    if folder is not None:
        yield RunDir(folder)
        return
    with tempfile.TemporaryDirectory() as passing:
        yield RunDir(Path(passing))
