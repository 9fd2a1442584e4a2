"""Axes: scales, ticks, and labels that never overlap."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.page.axis import Scale, nice_step, scale_for, spread

PIXEL = 1e-6
SMALLEST = 1e-300  # what a log axis still draws
finite = st.floats(-1e6, 1e6)


def test_a_scale_maps_its_ends_and_refuses_what_cannot_be_drawn():
    linear, log = Scale(0.0, 10.0, 100.0, 0.0), Scale(1.0, 1000.0, 0.0, 300.0, True)
    assert [linear(v) for v in (0, 5, 10)] == [100.0, 50.0, 0.0]
    assert [log(v) for v in (1, 10, 1000)] == pytest.approx([0.0, 100.0, 300.0])
    assert [linear(v) for v in (None, math.nan, math.inf)] == [None] * 3
    assert [log(v) for v in (0.0, -1.0)] == [None] * 2


@pytest.mark.parametrize("raw, step", [(0.26, 0.2), (1.0, 1.0), (33.0, 50.0), (0.0008, 0.001), (1.5, 2.0), (3.1, 2.0)])
def test_steps_are_one_two_or_five(raw, step):
    assert nice_step(raw) == pytest.approx(step)


@pytest.mark.parametrize(
    "scale, labels",
    [
        (Scale(0.0, 0.4, 0, 1), ["0.0", "0.1", "0.2", "0.3", "0.4"]),
        (Scale(-0.3, 0.3, 0, 1), ["−0.3", "−0.2", "−0.1", "0.0", "0.1", "0.2", "0.3"]),
        (Scale(450, 33000, 0, 1, True), ["500", "1,000", "2,000", "5,000", "10,000", "20,000"]),
        (Scale(1e-6, 1.0, 0, 1, True), ["10⁻⁶", "10⁻⁴", "0.01", "1"]),
        (Scale(0.2, 1.0, 0, 1, True), ["0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_ticks_are_those_a_person_would_choose(scale, labels):
    assert [text for _, text in scale.ticks()] == labels


@given(st.lists(finite, max_size=6), st.booleans())
def test_a_scale_holds_every_value_and_has_ticks(values, log):
    scale = scale_for(values, 0.0, 100.0, log=log)
    for v in values:
        at = scale(v)
        assert (at is None) == (log and v <= SMALLEST)
        assert at is None or -PIXEL <= at <= 100 + PIXEL
    assert all(scale.low * (1 - 1e-9) - 1e-9 <= v <= scale.high * (1 + 1e-9) + 1e-9 for v, _ in scale.ticks())
    assert scale.ticks()


def test_scales_without_values():
    nothing = [None, math.nan, math.inf]
    assert (scale_for(nothing, 0, 1).low, scale_for(nothing, 0, 1).high) == (0.0, 1.0)
    assert scale_for([-1.0], 0, 1, log=True).log
    assert scale_for([3.0], 0.0, 10.0)(3.0) == pytest.approx(5.0)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_labels_keep_their_order_and_distance_and_stay_in_the_room(wanted):
    gap, high = 16.0, 300.0
    placed = spread(wanted, gap, 0.0, high)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for a, b in itertools.pairwise(placed[i] for i in order):
        assert b - a >= gap - PIXEL
    assert min(placed) >= -PIXEL
    assert max(placed) <= high + PIXEL


def test_rounding_is_not_worth_an_axis():
    scale = scale_for([0.5, 0.5 + 1e-16, 0.5 - 1e-13], 0.0, 10.0)
    assert scale(0.5) == pytest.approx(5.0)
    assert all(len(text) < 6 for _, text in scale.ticks())


def test_labels_that_have_room_do_not_move():
    assert spread([10.0, 200.0, 100.0], 16.0, 0.0, 300.0) == [10.0, 200.0, 100.0]


def test_too_many_labels_run_past_the_room_rather_than_overlap():
    placed = spread([5.0] * 4, 10.0, 0.0, 20.0)
    assert sorted(placed) == pytest.approx([0.0, 10.0, 20.0, 30.0])
