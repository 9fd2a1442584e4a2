"""Sketches of gradients keep inner products; short ones stay as they are."""

import math

import torch

from steersman.train.gradients import sketched

WIDTH = 4096
DEVIATIONS = 4
"""Of the sketch's own deviation, |x| |y| sqrt(2 / width); places are always the same ones, so it holds for good."""


def test_inner_products_are_kept() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5_000_000, generator=draw)  # two pieces
    y = 0.5 * x + torch.randn(len(x), generator=draw)
    a, b = (sketched(v, WIDTH).double() for v in (x, y))
    size = float(x.double().norm() * y.double().norm())
    assert abs(float(a @ b - x.double() @ y.double())) <= DEVIATIONS * size * math.sqrt(2 / WIDTH)
    assert abs(float(a @ b)) > 0.4 * size  # cosine 0.45
    assert torch.equal(sketched(x, WIDTH), a.float())


def test_a_sketch_is_linear_and_its_second_piece_has_places_of_its_own() -> None:
    x = torch.zeros(2**22 + 3)
    x[0], x[2**22] = 2.0, 3.0
    found = sketched(x, WIDTH)
    assert sorted(found[found != 0].abs().tolist()) == [2.0, 3.0]


def test_short_gradients_stay() -> None:
    x = torch.arange(5.0)
    assert sketched(x, 5) is x
    assert len(sketched(x, 4)) == 4
