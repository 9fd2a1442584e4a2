"""Learners: exact gradients, known optima, score functions that agree with them on average, resume bit for bit."""

import numpy as np
import pytest
import torch

from steersman.control.inventory import oracle
from steersman.control.inventory.hdpo import HDPO
from steersman.control.inventory.score_function import GaussianOrders, ScoreFunction
from steersman.control.inventory.training import Pathwise, Ppo, Reinforce, fit_forecaster, learner, train_policy
from steersman.core.errors import RunStopped, UserError
from steersman.policy.inventory.newsvendor import LEVELS, Forecaster, QuantileNewsvendor
from steersman.policy.inventory.stock import BaseStock, EchelonStock
from steersman.policy.inventory.vanilla import VanillaMLP
from steersman.store.run import RunDir
from steersman.task.inventory.evaluate import evaluate
from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import periods
from steersman.train.fit import fit
from steersman.train.loop import Budget, Habits
from steersman.train.optimise import AdamW, Optimiser

EXACT = 1e-9
DIFFERENCE = 1e-5
LEVEL = 0.5
"""Learnt base-stock levels are this near the optimum, units."""
GAP = 0.01
"""Learnt costs are this near the optimum, as a share."""
COSINE = 0.9
"""The average score-function gradient points along the pathwise one."""
COVERED = 0.05
"""Learnt quantiles cover what they should to within this."""
METHODS = (Pathwise(), Reinforce(), Ppo(epochs=2))


@pytest.fixture
def store() -> InventoryNetwork:
    return InventoryNetwork.single_store(2, 1.0, 9.0, lost_sales=False)


def test_the_gradient_of_the_level_is_that_of_the_newsvendor(store) -> None:
    """d cost / d S = h P(IL > 0) - p P(IL < 0), by autograd, by the formula and by differences."""
    scenarios = Scenarios.normal(store, 30, 40, seed=1).to(dtype=torch.float64)
    scenarios = Scenarios.of(store, scenarios.demand)
    policy = BaseStock(store, 16.0).double()

    def cost(shift: float = 0.0) -> torch.Tensor:
        level = policy.level + shift
        act = lambda obs: torch.relu(level - obs.position)  # noqa: E731
        played = list(periods(store, act, scenarios))[2:]
        return torch.stack([m.cost.sum() for m in played]).mean() / len(scenarios)

    slope = torch.autograd.grad(cost(), policy.theta)[0] / torch.sigmoid(policy.theta)
    left = 16.0 - scenarios.demand[:, 0].unfold(1, 3, 1).sum(2)
    formula = float((left > 0).double().mean() - 9.0 * (left < 0).double().mean())
    h = 1e-6
    central = float((cost(h) - cost(-h)).detach()) / (2 * h)
    assert float(slope) == pytest.approx(formula, abs=EXACT)
    assert central == pytest.approx(formula, abs=DIFFERENCE)


def test_hdpo_finds_the_optimal_base_stock(store) -> None:
    level, cost = oracle.backlog_base_stock(5.0, 1.6, 2, 1.0, 9.0)
    policy = BaseStock(store)
    data = Scenarios.normal(store, 1024, 25, seed=1)
    optim, budget = AdamW(lr=0.5, schedule="linear"), Budget(steps=80, batch=128)
    train_policy(store, policy, data, optim=optim, budget=budget, warmup=10)
    assert float(policy.level) == pytest.approx(level, abs=LEVEL)
    found = evaluate(store, policy, Scenarios.normal(store, 1000, 200, clip=False, seed=2), 20)
    assert found.mean < cost * (1 + GAP) + 3 * found.se


def test_hdpo_finds_the_levels_of_a_chain() -> None:
    edges = (("supplier", "depot", 2), ("depot", "shop", 1))
    chain = InventoryNetwork((Store("shop", 1.0, 9.0),), edges, (Warehouse("depot", 0.5),), lost_sales=False)
    _, cost = oracle.serial_clark_scarf(5.0, 2.0, (2, 1), (0.5, 1.0), 9.0)
    policy = EchelonStock(chain)
    data = Scenarios.normal(chain, 1024, 30, std=2.0, seed=1)
    train_policy(
        chain, policy, data, optim=AdamW(lr=0.5, schedule="linear"), budget=Budget(steps=120, batch=256), warmup=15
    )
    found = evaluate(chain, policy, Scenarios.normal(chain, 1000, 200, std=2.0, seed=2), 50)
    assert abs(found.mean / cost - 1) < GAP + 3 * found.se / cost


def gradients(made: HDPO | ScoreFunction, policy: torch.nn.Module, steps: range) -> np.ndarray:
    out = []
    for step in steps:
        policy.zero_grad()
        made.backward(torch.arange(64), step)
        out.append(torch.cat([p.grad.flatten() for p in policy.parameters()]).numpy())
    return np.array(out)


def test_score_functions_point_along_the_pathwise_gradient_with_more_noise(store) -> None:
    data = Scenarios.normal(store, 64, 12, seed=1)
    policy = VanillaMLP(store, 5.0, hidden=(4,))
    optim = Optimiser(policy.named_parameters(), AdamW(), 1)
    exact = gradients(HDPO(store, policy, data, optim), policy, range(2))
    assert np.array_equal(exact[0], exact[1])
    made = ScoreFunction(store, GaussianOrders(store, policy, 0.3), data, optim)
    drawn = gradients(made, policy, range(150))
    mean = drawn.mean(0)
    assert mean @ exact[0] / np.linalg.norm(mean) / np.linalg.norm(exact[0]) > COSINE
    assert drawn.var(0).sum() > 0


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
def test_every_method_lowers_the_cost(store, method) -> None:
    data, dev = Scenarios.normal(store, 256, 20, seed=1), Scenarios.normal(store, 200, 30, seed=2)
    policy = VanillaMLP(store, 5.0, hidden=(16,))
    before = evaluate(store, policy, dev, 10).mean
    budget = Budget(steps=60, batch=128, best="cost", best_is="min")
    fitted = train_policy(store, policy, data, dev, method=method, optim=AdamW(lr=1e-2), budget=budget, ignore=10)
    after = evaluate(store, policy, dev, 10).mean
    assert after < 0.8 * before
    assert fitted.best_value == pytest.approx(after)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(store, method, stop, tmp_path) -> None:
    data, dev = Scenarios.normal(store, 64, 12, seed=1), Scenarios.normal(store, 16, 12, seed=2)
    habits = Habits(log_every=1, evaluate_every=2, checkpoint_every=1)

    def run(folder, steps):
        policy = VanillaMLP(store, 5.0, hidden=(4,))
        budget = Budget(steps=6, batch=24, best="cost", best_is="min")
        made = learner(store, policy, data, method, AdamW(lr=1e-2, schedule="cosine"), budget, dev=dev)
        if steps < 6:
            step, made.step = made.step, None

            def broken(rows, at):
                if at == steps:
                    raise KeyboardInterrupt
                return step(rows, at)

            made.step = broken
            with pytest.raises(KeyboardInterrupt):
                fit(made, budget, RunDir(folder), habits)
        else:
            fit(made, budget, RunDir(folder), habits)
        return made.state_dict()

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", stop)
    parts = run(tmp_path / "parts", 6)
    assert all(torch.equal(a, parts["policy"][n]) for n, a in whole["policy"].items())
    metrics = [(tmp_path / n / "metrics.jsonl").read_bytes() for n in ("whole", "parts")]
    assert metrics[0] == metrics[1]


def test_noise_and_rows_do_not_depend_on_what_ran_before(store) -> None:
    data = Scenarios.normal(store, 32, 10, seed=1)
    made = learner(store, VanillaMLP(store, 5.0, hidden=(4,)), data, Reinforce(), AdamW(), Budget(seed=3))
    first = made._rollouts(torch.arange(8), 5)[1]
    made._rollouts(torch.arange(8), 4)
    assert torch.equal(made._rollouts(torch.arange(8), 5)[1], first)
    assert not torch.equal(made._rollouts(torch.arange(8), 6)[1], first)


def test_actions_become_orders_that_can_be_shipped() -> None:
    edges = (("supplier", "w", 2), ("w", "a", 1), ("w", "b", 1))
    net = InventoryNetwork([Store("a", 1.0, 9.0), Store("b", 1.0, 9.0)], edges, [Warehouse("w", 0.3)])
    data = Scenarios.normal(net, 64, 20, mean=5.0, seed=1)
    noisy = GaussianOrders(net, VanillaMLP(net, 10.0, hidden=(4,)), std=5.0)
    act = lambda obs: noisy.admissible(obs, 30 * torch.randn(64, 3, generator=draw))  # noqa: E731
    draw = torch.Generator().manual_seed(0)
    assert len(list(periods(net, act, data, strict=True))) == 20


def test_a_forecaster_learns_quantiles_and_the_newsvendor_uses_them() -> None:
    net = InventoryNetwork.single_store(1, 1.0, 4.0, lost_sales=True)
    data = Scenarios.normal(net, 256, 30, mean=20.0, std=4.0, seed=1)
    data = Scenarios.of(net, data.demand[:, :, 8:], past=data.demand[:, :, :8])
    forecaster = Forecaster(leads=(1,), past=8, calendar=0, hidden=(16,))
    fit_forecaster(forecaster, data, optim=AdamW(lr=1e-2, schedule="linear"), budget=Budget(steps=300, batch=256))
    windows = data.demand[:, 0].unfold(1, 8, 1)[:, :-2].flatten(0, 1)
    two = data.demand[:, 0, 8:].unfold(1, 2, 1).sum(2).flatten()
    below = (two[:, None] < forecaster(windows, torch.zeros(len(two), 0)).detach()[:, 0]).float().mean(0)
    assert torch.allclose(below, torch.tensor(LEVELS), atol=COVERED)
    policy = QuantileNewsvendor(net, forecaster)
    with pytest.raises(UserError, match="no parameter is trainable"):
        train_policy(net, policy, data)
    fixed = QuantileNewsvendor(net, forecaster, "fixed_quantile")
    before = evaluate(net, fixed, data, 4).mean
    train_policy(net, fixed, data, optim=AdamW(lr=0.1), budget=Budget(steps=40, batch=128))
    assert evaluate(net, fixed, data, 4).mean < before


def test_what_is_refused(store) -> None:
    data = Scenarios.normal(store, 8, 10, seed=1)
    policy = BaseStock(store)
    with pytest.raises(UserError, match="11 periods asked for, the training demand has 10"):
        train_policy(store, policy, data, horizon=11)
    with pytest.raises(UserError, match="warmup: is 10 of 10"):
        train_policy(store, policy, data, warmup=10)
    with pytest.raises(UserError, match="old rollouts need ratios"):
        ScoreFunction(store, GaussianOrders(store, policy), data, None, epochs=2)
    with pytest.raises(UserError, match="std: is 0"):
        GaussianOrders(store, policy, 0.0)
    few, shown = (Scenarios.of(store, data.demand, past=torch.ones(1, 1, p)) for p in (3, 4))
    with pytest.raises(UserError, match="3 past periods are shown"):
        fit_forecaster(Forecaster(past=4, calendar=0), few)
    with pytest.raises(UserError, match="10 periods do not hold a lead time of 10"):
        fit_forecaster(Forecaster(leads=(10,), past=4, calendar=0), shown)


def test_a_cost_that_is_not_a_number_stops_the_run(store) -> None:
    class Broken(BaseStock):
        def forward(self, obs):
            return super().forward(obs) * torch.nan

    with pytest.raises(RunStopped, match="loss"):
        train_policy(store, Broken(store), Scenarios.normal(store, 8, 10), budget=Budget(steps=2, batch=4))
