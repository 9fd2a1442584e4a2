"""Closed-form intervals against published numbers, exact coverage and their limiting cases."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.stats import clopper_pearson, t_interval, wilson

PUBLISHED = 5e-4  # numbers printed to three decimals
ROUNDING = 1e-12
MEAN_COVERAGE = 0.01  # Wilson covers its level on average, not everywhere
SIMULATIONS = 2_000
FOUR_SIGMA = 4.0

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize("k, n, low, high", [(70, 100, 0.604, 0.781), (420, 600, 0.662, 0.735)])
def test_wilson_gives_the_published_numbers(k, n, low, high):
    found = wilson(k, n)
    assert found.value == k / n
    assert found.low == pytest.approx(low, abs=PUBLISHED)
    assert found.high == pytest.approx(high, abs=PUBLISHED)
    assert (found.level, found.method) == (0.95, "wilson")


@settings(deadline=None)
@given(counts, st.floats(0.5, 0.999))
def test_wilson_solves_the_score_equation(pair, level):
    k, n = pair
    found, z = wilson(k, n, level), scipy.stats.norm.ppf((1 + level) / 2)
    for end in (found.low, found.high):
        assert (k / n - end) ** 2 == pytest.approx(z * z * end * (1 - end) / n, abs=ROUNDING)
    assert 0.0 <= found.low <= k / n <= found.high <= 1.0


@settings(deadline=None)
@given(counts)
def test_proportions_are_symmetric(pair):
    k, n = pair
    for interval in (wilson, clopper_pearson):
        one, other = interval(k, n), interval(n - k, n)
        assert one.low == pytest.approx(1 - other.high, abs=ROUNDING)
        assert one.high == pytest.approx(1 - other.low, abs=ROUNDING)


def test_clopper_pearson_closed_forms_at_the_ends():
    assert clopper_pearson(0, 10).low == 0.0
    assert clopper_pearson(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10), abs=ROUNDING)
    assert clopper_pearson(10, 10).low == pytest.approx(0.025 ** (1 / 10), abs=ROUNDING)
    assert clopper_pearson(10, 10).high == 1.0
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0
    assert wilson(0, 10).high < clopper_pearson(0, 10).high


def test_exact_coverage_over_a_grid():
    n, cover = 30, {"wilson": [], "clopper": []}
    found = {"wilson": [wilson(k, n) for k in range(n + 1)], "clopper": [clopper_pearson(k, n) for k in range(n + 1)]}
    for p in np.linspace(0.05, 0.95, 91):
        weight = scipy.stats.binom.pmf(np.arange(n + 1), n, p)
        for name, intervals in found.items():
            cover[name].append(float(weight @ [i.contains(p) for i in intervals]))
    assert min(cover["clopper"]) >= 0.95
    assert min(cover["wilson"]) < 0.95
    assert np.mean(cover["wilson"]) == pytest.approx(0.95, abs=MEAN_COVERAGE)


def test_t_interval_closed_form_and_scipy():
    x = np.array([1.0, 2.0, 4.0])
    quantile = 0.95 / math.sqrt(2 * 0.975 * 0.025)  # Student's t with 2 degrees has this closed form
    half = quantile * math.sqrt(7 / 3) / math.sqrt(3)
    found = t_interval(x)
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), abs=ROUNDING)
    low, high = scipy.stats.t.interval(0.8, 2, np.mean(x), scipy.stats.sem(x))
    assert (t_interval(x, 0.8).low, t_interval(x, 0.8).high) == pytest.approx((low, high), abs=ROUNDING)


def test_t_interval_covers_the_mean_of_five_seeds():
    rng = np.random.default_rng(1)
    hits = np.mean([t_interval(row).contains(0.0) for row in rng.normal(size=(SIMULATIONS, 5))])
    assert abs(hits - 0.95) < FOUR_SIGMA * math.sqrt(0.95 * 0.05 / SIMULATIONS)


def test_t_interval_says_when_it_knows_nothing():
    one = t_interval([3.0])
    assert (one.value, one.low, one.high, one.bounded) == (3.0, -math.inf, math.inf, False)
    assert "one observation" in one.method
    same = t_interval([0.1, 0.1, 0.1])
    assert (same.value, same.low, same.high) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("call", [wilson, clopper_pearson])
@pytest.mark.parametrize(
    "k, n, level, where",
    [
        (1, 0, 0.95, "n"),
        (-1, 5, 0.95, "successes"),
        (6, 5, 0.95, "successes"),
        (1.5, 5, 0.95, "successes"),
        (math.nan, 5, 0.95, "successes"),
        (True, 5, 0.95, "successes"),
        (1, 5, 1.0, "level"),
        (1, 5, math.nan, "level"),
        (1, 5, 95, "level"),
    ],
)
def test_counts_are_refused_by_name(call, k, n, level, where):
    with pytest.raises(UserError) as error:
        call(k, n, level)
    assert error.value.where == where


@pytest.mark.parametrize(
    "x, where",
    [([], "x"), ([1.0, math.nan], "x, row 1"), ([math.inf], "x, row 0"), (["a"], "x"), ([[1.0]], "x"), (3.0, "x")],
)
def test_arrays_are_refused_by_name_and_row(x, where):
    with pytest.raises(UserError) as error:
        t_interval(x)
    assert error.value.where == where
