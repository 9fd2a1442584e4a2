"""Quantile newsvendors: interpolation, the pinball loss, what each kind orders, what is refused."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.policy.inventory.newsvendor import LEVELS, Forecaster, QuantileNewsvendor, pinball, quantile_at
from steersman.task.inventory.network import InventoryNetwork

ROUNDING = 1e-4


@pytest.mark.parametrize(
    "level, value",
    [(0.05, 1.0), (0.95, 361.0), (0.5, 100.0), (0.525, 110.5), (0.0, -2.0), (1.0, 398.0), (0.975, 379.5)],
)
def test_quantiles_at_between_and_beyond_the_grid(level, value) -> None:
    squares = torch.arange(1.0, 20.0) ** 2
    assert float(quantile_at(squares, torch.tensor(level))) == pytest.approx(value, abs=ROUNDING * 100)
    assert torch.equal(quantile_at(squares.flip(0), torch.tensor(level)), quantile_at(squares, torch.tensor(level)))


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    target = torch.arange(1000.0)
    tau = torch.tensor([0.2])
    loss = {g: float(pinball(torch.full((1000, 1), float(g)), target, tau).mean()) for g in range(150, 250)}
    assert abs(min(loss, key=lambda g: loss[g]) - 200) <= 1
    assert float(pinball(torch.tensor([3.0]), torch.tensor(5.0), tau)) == pytest.approx(0.4)
    assert float(pinball(torch.tensor([5.0]), torch.tensor(3.0), tau)) == pytest.approx(1.6)


@pytest.mark.parametrize("kind, trained", [("quantile_nv", 0), ("fixed_quantile", 1), ("transformed_nv", 4)])
def test_orders_fill_up_to_the_quantile(kind, trained, look) -> None:
    net = InventoryNetwork.single_store(5, 1.0, 9.0, lost_sales=True)
    forecaster = Forecaster(past=6)
    policy, obs = QuantileNewsvendor(net, forecaster, kind), look(net, past=6, calendar=1)
    obs.inventory.zero_()
    quantiles = forecaster(obs.past[:, 0], obs.calendar.expand(4, -1))[:, 1]  # lead time 5 is the second
    wanted = torch.relu(quantile_at(quantiles, policy.level(obs)[:, 0]))
    assert torch.allclose(policy(obs)[:, 0], wanted, atol=ROUNDING)
    assert sum(p.requires_grad for p in policy.parameters()) == trained
    if kind == "quantile_nv":
        assert torch.equal(policy.level(obs), obs.shortage / (obs.shortage + obs.holding))


def test_returns_are_negative_orders(look) -> None:
    net = InventoryNetwork.single_store(4, 1.0, 9.0, lost_sales=True)
    obs = look(net, past=6, calendar=1)
    obs.inventory.add_(1e4)
    assert float(QuantileNewsvendor(net, Forecaster(past=6), "returns_nv")(obs).max()) < 0
    assert float(QuantileNewsvendor(net, Forecaster(past=6))(obs).abs().max()) == 0


def test_forecasts_scale_with_demand() -> None:
    """In units of mean past demand + 1, for which large demand shows best."""
    forecaster, past, calendar = Forecaster(past=4), 1e6 * torch.arange(1.0, 5.0)[None], torch.zeros(1, 1)
    few, many = forecaster(past, calendar), forecaster(10 * past, calendar)
    assert few.shape == (1, 3, len(LEVELS))
    assert torch.allclose(many, 10 * few, atol=ROUNDING * float(many.abs().max()))


def test_what_is_refused(look, chain) -> None:
    net = InventoryNetwork.single_store(3, 1.0, 9.0, lost_sales=True)
    with pytest.raises(UserError, match="no forecast for lead time 3"):
        QuantileNewsvendor(net, Forecaster(past=6))(look(net, past=6, calendar=1))
    with pytest.raises(UserError, match="2 past periods are shown"):
        QuantileNewsvendor(net, Forecaster(leads=(3,), past=6))(look(net, past=2, calendar=1))
    with pytest.raises(UserError, match="'best' is not known"):
        QuantileNewsvendor(net, Forecaster(), "best")
    with pytest.raises(UserError, match="ships to others"):
        QuantileNewsvendor(chain, Forecaster())
    with pytest.raises(UserError, match="one lead at least"):
        Forecaster(leads=())
