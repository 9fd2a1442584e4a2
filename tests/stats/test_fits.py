"""Power laws: exact recovery, agreement with regression, invariances, coverage and refusals."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.stats import fit_power_law

EXACT = 1e-10
SUMS = 1e-8  # group sums of logs in other units
WIDTH = 1e-6  # an interval that should have none
RESAMPLED = 0.08  # relative, width of a bootstrap over 12 seeds against its closed form
SIMULATIONS = 1_000
FOUR_SIGMA = 4.0
X = np.array([1.0, 2.0, 4.0, 8.0, 32.0])


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0.01, 100))
def test_noiseless_points_are_recovered(exponent, coefficient):
    fit = fit_power_law(X, coefficient * X**exponent)
    assert fit.exponent.value == pytest.approx(exponent, abs=EXACT)
    assert fit.coefficient == pytest.approx(coefficient, rel=EXACT)
    assert fit.exponent.high - fit.exponent.low < WIDTH
    assert fit.predict([3.0]) == pytest.approx([coefficient * 3.0**exponent], rel=EXACT)


def test_published_exponent():
    fit = fit_power_law(X, 0.9 * X**-0.0425)
    assert (fit.coefficient, fit.exponent.value) == pytest.approx((0.9, -0.0425), abs=EXACT)
    assert (fit.points, fit.r2) == (5, pytest.approx(1.0, abs=EXACT))


def test_agrees_with_linear_regression_of_logs():
    y = 3 * X**0.5 * np.exp(np.random.default_rng(0).normal(0, 0.3, 5))
    fit, line = fit_power_law(X, y, level=0.9), scipy.stats.linregress(np.log(X), np.log(y))
    half = scipy.stats.t.ppf(0.95, 3) * line.stderr
    assert fit.exponent.low == pytest.approx(line.slope - half, abs=EXACT)
    assert fit.exponent.high == pytest.approx(line.slope + half, abs=EXACT)
    assert fit.r2 == pytest.approx(line.rvalue**2, abs=EXACT)
    assert (fit.exponent.method, fit.exponent.level) == ("t", 0.9)


def test_units_do_not_change_the_exponent():
    y = 3 * X**0.5 * np.exp(np.random.default_rng(0).normal(0, 0.3, (4, 5)))
    fit, other = fit_power_law(X, y), fit_power_law(X * 1000, y * 7)
    for name in ("value", "low", "high"):
        assert getattr(other.exponent, name) == pytest.approx(getattr(fit.exponent, name), abs=SUMS)
    assert other.coefficient == pytest.approx(7 * fit.coefficient * 1000**-fit.exponent.value, rel=SUMS)


def test_t_interval_covers_the_exponent():
    noise = np.random.default_rng(1).normal(0, 0.2, (SIMULATIONS, 5))
    hits = np.mean([fit_power_law(X, X**-0.3 * np.exp(row)).exponent.contains(-0.3) for row in noise])
    assert abs(hits - 0.95) < FOUR_SIGMA * math.sqrt(0.95 * 0.05 / SIMULATIONS)


def test_seeds_are_resampled_as_rows():
    """The fit over [seeds, n] is the mean of the seeds' exponents, so its bootstrap width is known."""
    rng = np.random.default_rng(2)
    slopes = rng.normal(-0.5, 0.1, 12)
    y = 2 * X ** slopes[:, None]
    found = fit_power_law(X, y).exponent
    assert found.value == pytest.approx(slopes.mean(), abs=EXACT)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * slopes.std() / math.sqrt(12), rel=RESAMPLED)
    assert "12 groups" in found.method
    narrow = fit_power_law(X, np.broadcast_to(y[0], (3, 5))).exponent
    assert narrow.high - narrow.low < WIDTH


def test_groups_equal_rows_and_any_order_or_label():
    y = X**-0.5 * np.exp(np.random.default_rng(3).normal(0, 0.3, (6, 5)))
    rows = fit_power_law(X, y)
    flat = fit_power_law(np.tile(X, 6), y.reshape(-1), groups=np.repeat(list("abcdef"), 5))
    assert flat.exponent.low == pytest.approx(rows.exponent.low, abs=EXACT)
    assert flat.exponent.high == pytest.approx(rows.exponent.high, abs=EXACT)
    assert flat.coefficient == pytest.approx(rows.coefficient, abs=EXACT)
    assert fit_power_law(X, y) == rows
    many = X**-0.5 * np.exp(np.random.default_rng(3).normal(0, 0.3, (40, 5)))  # with six rows ends may coincide
    assert fit_power_law(X, many, seed=1) != fit_power_law(X, many)


def test_limits():
    two = fit_power_law([1.0, 2.0], [1.0, 4.0])
    assert two.exponent.value == pytest.approx(2.0, abs=EXACT)
    assert (two.exponent.low, two.exponent.high) == (-math.inf, math.inf)
    flat = fit_power_law(X, np.full(5, 3.0))
    assert (flat.exponent.value, flat.exponent.low, flat.exponent.high, flat.r2) == (0.0, 0.0, 0.0, 1.0)
    assert not fit_power_law(X, X**2, groups=["s"] * 5).exponent.bounded
    y = X**2 * [1, 2, 1, 2, 1]
    assert fit_power_law(X, y[None]) == fit_power_law(X, y)


@pytest.mark.parametrize(
    "call, where",
    [
        (lambda: fit_power_law([], []), "x"),
        (lambda: fit_power_law([1.0, 0.0], [1.0, 2.0]), "x, row 1"),
        (lambda: fit_power_law([1.0, 2.0], [1.0, -2.0]), "y, row 1"),
        (lambda: fit_power_law([1.0, 2.0], [[1.0, 2.0], [0.0, 1.0]]), "y, row 1, 0"),
        (lambda: fit_power_law([1.0, 2.0], [1.0, math.nan]), "y, row 1"),
        (lambda: fit_power_law([1.0, 2.0], [1.0]), "x, y"),
        (lambda: fit_power_law([1.0, 2.0], [[1.0, 2.0, 3.0]]), "x, y.T"),
        (lambda: fit_power_law([2.0, 2.0], [1.0, 3.0]), "x"),
        (lambda: fit_power_law([1.0, 2.0], [1.0, 3.0], groups=["a"]), "groups, y"),
        (lambda: fit_power_law([1.0, 2.0], [1.0, 3.0], groups=["a", math.nan]), "groups, row 1"),
        (lambda: fit_power_law([1.0, 2.0], [[1.0, 3.0]], groups=["a", "b"]), "groups"),
        (lambda: fit_power_law([1.0, 1.0, 1.0, 1.0, 2.0], [1.0, 2.0, 1.0, 2.0, 3.0], groups=[0, 0, 0, 0, 1]), "groups"),
        (lambda: fit_power_law([1.0, 2.0], [1.0, 3.0], level=2), "level"),
        (lambda: fit_power_law([1.0, 2.0], [1.0, 3.0], resamples=5), "resamples"),
        (lambda: fit_power_law(X, X).predict([0.0]), "x, row 0"),
    ],
)
def test_refusals_name_argument_and_row(call, where):
    with pytest.raises(UserError) as error:
        call()
    assert error.value.where == where
