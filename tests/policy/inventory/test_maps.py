"""Feasibility maps: never more than the stock, all of it at cross-docks, each order in the column of its edge."""

import pytest
import torch

from steersman.policy.inventory.maps import Outgoing

ROUNDING = 1e-5
B = 6


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def test_proportional_by_hand(two_warehouses) -> None:
    wanted = torch.tensor([[99.0, 3, 1, 99, 4, 4]])
    stock = torch.tensor([[2.0, 20, 0, 0, 0]])
    got = Outgoing(two_warehouses).proportional(wanted, stock)
    assert got[0].tolist() == pytest.approx([0, 1.5, 0.5, 0, 4, 4], abs=ROUNDING)
    keep = torch.tensor([[4.0, 2, 0, 0, 0]])
    kept = Outgoing(two_warehouses).proportional(wanted, stock, keep)
    assert kept[0].tolist() == pytest.approx([0, 0.75, 0.25, 0, 4, 4], abs=ROUNDING)


def test_softmax_by_hand(two_warehouses) -> None:
    logits = torch.tensor([[9.0, 1, 1, 9, -99, 1]])
    got = Outgoing(two_warehouses).softmax(logits, torch.tensor([[3.0, 8, 0, 0, 0]]))
    assert got[0].tolist() == pytest.approx([0, 1, 1, 0, 0, 4], abs=ROUNDING)


@pytest.mark.parametrize("form", ["softmax", "proportional"])
def test_nothing_beyond_the_stock_and_nothing_negative(two_warehouses, form) -> None:
    wanted, stock = 30 * random(B, 6), 20 * random(B, 5, seed=1) - 5
    got = getattr(Outgoing(two_warehouses), form)(wanted, stock)
    assert float(got.min()) >= 0
    assert bool((got[:, 1] + got[:, 2] <= stock[:, 0].clamp(min=0) + ROUNDING).all())
    assert bool((got[:, 4] + got[:, 5] <= stock[:, 1].clamp(min=0) + ROUNDING).all())
    assert float(got[:, [0, 3]].abs().max()) == 0


@pytest.mark.parametrize("form", ["softmax", "proportional"])
def test_a_cross_dock_ships_all(one_warehouse, form) -> None:
    net = one_warehouse(3, dock=True)
    stock = 20 * random(B, 4)
    got = getattr(Outgoing(net), form)(0.1 * random(B, 4, seed=1), stock)
    assert torch.allclose(got[:, 1:].sum(1), stock[:, 0], atol=ROUNDING)


def test_the_proportional_map_scales_with_units(two_warehouses) -> None:
    out = Outgoing(two_warehouses)
    wanted, stock = 30 * random(B, 6), 20 * random(B, 5, seed=1)
    assert torch.allclose(out.proportional(7 * wanted, 7 * stock), 7 * out.proportional(wanted, stock), rtol=ROUNDING)


def test_when_nobody_wants_anything_nothing_is_shipped_and_gradients_are_finite(two_warehouses) -> None:
    wanted = torch.zeros(1, 6, requires_grad=True)
    got = Outgoing(two_warehouses).proportional(wanted, torch.ones(1, 5))
    assert float(got.detach().abs().sum()) == 0
    got.sum().backward()
    assert wanted.grad is not None
    assert bool(wanted.grad.isfinite().all())


@pytest.mark.parametrize("form", ["softmax", "proportional"])
def test_renaming_stores_renames_orders(one_warehouse, form) -> None:
    order = [2, 0, 1]
    wanted, stock = 9 * random(B, 4), 9 * random(B, 4, seed=1)
    columns = torch.tensor([0, *(1 + i for i in order)])
    first = getattr(Outgoing(one_warehouse(3)), form)(wanted, stock)
    second = getattr(Outgoing(one_warehouse(3, order)), form)(wanted[:, columns], stock[:, columns])
    assert torch.allclose(first[:, columns], second, atol=ROUNDING)
