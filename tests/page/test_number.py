"""Numbers as text: rounding by the interval, signs, and that a missing value is never a zero."""

import math

import pytest

from steersman.page.number import Estimate, decimals_for, exact, interval, number, p_value, point

NAN = math.nan


@pytest.mark.parametrize(
    "estimate, shown",
    [
        (Estimate(0.0412, -0.0189, 0.0981), "+0.04 [−0.02, +0.10]"),
        (Estimate(-0.512, -0.549, -0.468), "−0.51 [−0.55, −0.47]"),
        (Estimate(0.00004, -0.00031, 0.00039), "0.0000 [−0.0003, +0.0004]"),
        (Estimate(1.5, 1.38, 1.62), "+1.50 [+1.38, +1.62]"),
        (Estimate(8123.4, 8000.0, 8246.0), "+8,123 [+8,000, +8,246]"),
        (Estimate(0.3, -math.inf, 0.5), "+0.300 [−∞, +0.500]"),
        (Estimate(0.3, NAN, NAN), "+0.300 no interval"),
        (Estimate(NAN, NAN, NAN), "– no interval"),
    ],
)
def test_an_estimate_keeps_the_digits_that_its_interval_can_bear(estimate, shown):
    assert f"{point(estimate, signed=True)} {interval(estimate, signed=True)}" == shown


def test_a_point_interval_has_no_width_to_round_by():
    assert decimals_for(Estimate(1.0, 1.0, 1.0)) is None
    assert point(Estimate(1.0, 1.0, 1.0)) == "1"


@pytest.mark.parametrize(
    "value, shown",
    [
        (None, "–"),
        (NAN, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (0.0, "0"),
        (1204224, "1,204,224"),
        (-0.25, "−0.250"),
        (3.2e-07, "3.20 × 10⁻⁷"),
        (-4500000000.0, "−4.50 × 10⁹"),
    ],
)
def test_numbers_without_an_interval(value, shown):
    assert number(value) == shown


def test_a_value_that_rounds_to_zero_carries_no_sign():
    assert number(-0.0004, 2, signed=True) == "0.00"


def test_p_values_and_settings():
    assert [p_value(p) for p in (None, NAN, 0.0625, 1e-5, 1.0)] == ["–", "–", "0.0625", "< 0.0001", "1"]
    assert [exact(v) for v in (0.05, -0.5, 0.0)] == ["0.05", "−0.5", "0"]


def test_negated_swaps_the_bounds():
    assert Estimate(0.1, -0.2, 0.5, "nats", 0.9).negated() == Estimate(-0.1, -0.5, 0.2, "nats", 0.9)


@pytest.mark.parametrize("wrong", [{"low": 1.0, "high": 0.0}, {"level": 1.0}, {"level": 95}])
def test_impossible_estimates_are_refused(wrong):
    with pytest.raises(ValueError):
        Estimate(**{"value": 0.5, "low": 0.0, "high": 1.0, **wrong})
