"""Bootstraps against the normal limit, brute force, symmetry and simulated coverage; the interquartile mean."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steersman.core.errors import UserError
from steersman.stats import (
    bootstrap,
    hierarchical_bootstrap,
    iqm,
    paired_bootstrap,
    ratio_bootstrap,
    share_interval,
    wilson,
)

ROUNDING = 1e-9
SUMS = 1e-6  # values up to 1,000 summed in other orders
NORMAL_LIMIT = 0.06  # relative: 10,000 resamples and 400 observations against the normal limit
SMALL_SAMPLE_LOSS = 0.02  # BCa of an exponential mean at n = 40 is known to cover about .93
SIMULATIONS = 400
FOUR_SIGMA = 4.0

samples = arrays(np.float64, st.integers(2, 30), elements=st.integers(-1000, 1000).map(float))


def plain_statistic(x):
    return float(np.mean(x))


def nan_if_alike(x):
    return math.nan if np.ptp(x) == 0 else float(np.mean(x))


@pytest.mark.parametrize(
    "x, expected",
    [
        ([7.0], 7.0),
        ([1.0, 3.0], 2.0),
        ([0.0, 1.0, 5.0], (0 + 4 * 1 + 5) / 6),
        ([9.0, 0.0, 1.0, 100.0, 2.0], 0.3 * 1 + 0.4 * 2 + 0.3 * 9),
        ([-50.0, 1.0, 2.0, 1e6], 1.5),
    ],
)
def test_iqm_closed_forms(x, expected):
    assert iqm(x) == pytest.approx(expected, abs=ROUNDING)


def test_iqm_is_the_trimmed_mean_for_multiples_of_four_only():
    x = np.random.default_rng(0).normal(size=40)
    assert iqm(x) == pytest.approx(scipy.stats.trim_mean(x, 0.25), abs=ROUNDING)
    assert abs(iqm(x[:39]) - scipy.stats.trim_mean(x[:39], 0.25)) > 1e6 * ROUNDING


def test_iqm_axis_and_flattening():
    x = np.random.default_rng(0).normal(size=(3, 7))
    assert iqm(x, axis=1) == pytest.approx([iqm(row) for row in x], abs=ROUNDING)
    assert iqm(x, axis=0) == pytest.approx([iqm(column) for column in x.T], abs=ROUNDING)
    assert iqm(x) == pytest.approx(iqm(x.reshape(-1)), abs=ROUNDING)


@settings(deadline=None)
@given(samples, st.floats(-5, 5), st.floats(0.1, 10))
def test_iqm_lies_within_quartiles_and_moves_with_the_data(x, shift, scale):
    assert np.min(x) - ROUNDING <= iqm(x) <= np.max(x) + ROUNDING
    assert iqm(x * scale + shift) == pytest.approx(iqm(x) * scale + shift, rel=ROUNDING, abs=SUMS)
    assert iqm(-x) == pytest.approx(-iqm(x), abs=SUMS)


def test_bootstrap_meets_the_normal_limit():
    x = np.random.default_rng(2).normal(5.0, 2.0, 400)
    found, half = bootstrap(x), 1.96 * np.std(x) / 20
    assert found.method == "bca"
    assert found.value == pytest.approx(np.mean(x))
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half), rel=NORMAL_LIMIT)
    narrow = bootstrap(x, level=0.5)
    assert (narrow.high - narrow.low) / 2 == pytest.approx(half * 0.6745 / 1.96, rel=NORMAL_LIMIT)


def test_bootstrap_is_a_function_of_its_seed():
    x = np.random.default_rng(2).normal(size=20)
    assert bootstrap(x) == bootstrap(x)
    assert bootstrap(x, seed=1) != bootstrap(x)
    assert bootstrap(x, seed=np.random.Generator(np.random.Philox(0))) == bootstrap(x)


def test_bootstrap_leaves_global_randomness_alone():
    before = np.random.get_state()[1].copy()
    bootstrap([1.0, 2.0, 4.0])
    assert np.array_equal(before, np.random.get_state()[1])


def test_paired_bootstrap_removes_what_pairs_share():
    rng = np.random.default_rng(3)
    shared = rng.normal(0, 100, 50)
    a, b = shared + rng.normal(1, 0.1, 50), shared
    found = paired_bootstrap(a, b)
    assert 0.9 < found.low < found.value < found.high < 1.1
    assert found == bootstrap(a - b)


@settings(max_examples=25, deadline=None)
@given(samples, st.sampled_from([0.25, 2.0, 1024.0]))
def test_paired_bootstrap_is_antisymmetric_and_scales(x, scale):
    y = np.roll(x, 1) / 2
    there, back = (paired_bootstrap(p, q, resamples=300) for p, q in ((x, y), (y, x)))
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low), abs=SUMS)
    scaled = paired_bootstrap(x * scale, y * scale, resamples=300)
    assert (scaled.low, scaled.high) == pytest.approx((there.low * scale, there.high * scale), rel=SUMS, abs=SUMS)
    assert there.low <= there.high


def test_bca_covers_a_skewed_mean_nearly_at_its_level():
    rng = np.random.default_rng(4)
    hits = np.mean([bootstrap(x, resamples=500).contains(1.0) for x in rng.exponential(size=(SIMULATIONS, 40))])
    assert 0.95 - FOUR_SIGMA * math.sqrt(0.95 * 0.05 / SIMULATIONS) - SMALL_SAMPLE_LOSS < hits < 0.98


def test_bca_is_shifted_towards_the_long_tail():
    x = np.random.default_rng(5).exponential(size=40)
    draws = np.random.default_rng(0).choice(x, (10_000, 40)).mean(axis=1)
    found = bootstrap(x)
    assert found.high > np.quantile(draws, 0.975)
    assert found.low > np.quantile(draws, 0.025)


def test_limits_of_the_bootstrap_are_named():
    one = paired_bootstrap([2.0], [1.0])
    assert (one.value, one.low, one.high) == (1.0, -math.inf, math.inf)
    same = paired_bootstrap([2.0, 3.0], [1.0, 2.0])
    assert (same.low, same.high, same.method) == (1.0, 1.0, "percentile (constant data)")
    stuck = bootstrap([0.0] * 8 + [1.0], statistic=np.median)
    assert stuck.method == "percentile"
    assert stuck.low == 0.0
    assert math.isfinite(stuck.high)
    many = bootstrap(np.random.default_rng(0).normal(size=5_001), resamples=100)
    assert many.method == "percentile"


def test_statistic_without_axis_gives_the_same_numbers():
    x = np.random.default_rng(6).normal(size=12)
    assert bootstrap(x, statistic=plain_statistic, resamples=200).low == pytest.approx(
        bootstrap(x, resamples=200).low, abs=ROUNDING
    )
    v = x.reshape(3, 4)
    plain = hierarchical_bootstrap(v, statistic=plain_statistic, resamples=200)
    assert plain.high == pytest.approx(hierarchical_bootstrap(v, resamples=200).high, abs=ROUNDING)


def test_hierarchical_bootstrap_has_the_variance_of_both_levels():
    """Bootstrap variance of the mean in closed form: seeds, prompts and their product, each with divisor n."""
    rng = np.random.default_rng(7)
    v = rng.normal(0, 1, (8, 1)) + rng.normal(0, 2, (1, 25)) + rng.normal(0, 0.5, (8, 25))
    seed_part = np.var(v.mean(axis=1)) / 8
    prompt_part = np.var(v.mean(axis=0)) / 25
    both = np.mean((v - v.mean(1, keepdims=True) - v.mean(0) + v.mean()) ** 2) / 200
    shared, nested = hierarchical_bootstrap(v), hierarchical_bootstrap(v, shared_prompts=False)
    for found, variance in (
        (shared, seed_part + prompt_part + both),
        (nested, seed_part + np.mean(np.var(v, axis=1)) / 200),
    ):
        assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=NORMAL_LIMIT)
    assert shared.high - shared.low > 1.3 * (nested.high - nested.low)
    assert shared.value == pytest.approx(v.mean())


def test_hierarchical_bootstrap_limits():
    assert hierarchical_bootstrap([[1.0, 2.0]]).method == "undefined: one seed"
    assert not hierarchical_bootstrap([[1.0], [2.0]]).bounded
    same = hierarchical_bootstrap([[1.0, 1.0], [1.0, 1.0]])
    assert (same.low, same.high) == (1.0, 1.0)
    assert hierarchical_bootstrap([[1.0, 2.0], [3.0, 5.0]]) == hierarchical_bootstrap([[1.0, 2.0], [3.0, 5.0]])


def test_share_interval():
    assert share_interval([1.0, 0, 1, 1]) == wilson(3, 4)
    assert share_interval([1.0] * 5) == wilson(5, 5)
    x = [0.25, 0.5, 1.0, 0.0]
    assert share_interval(x, seed=3) == bootstrap(x, seed=3)
    alike = share_interval([0.5] * 3)  # 1.5 of 3
    assert (alike.value, alike.low, alike.high) == (0.5, wilson(1, 3).low, wilson(2, 3).high)


def test_ratio_bootstrap_is_that_of_pooled_totals():
    a, b = np.array([1.0, 8.0, 3.0, 0.0, 2.0]), np.array([2.0, 4.0, 1.0, 5.0, 3.0])
    assert ratio_bootstrap(a, b).value == pytest.approx(14 / 15, abs=ROUNDING)
    even = ratio_bootstrap(a, np.full(5, 2.0), seed=1)
    mean = bootstrap(a / 2, seed=1)
    for got, want in zip((even.value, even.low, even.high), (mean.value, mean.low, mean.high), strict=True):
        assert got == pytest.approx(want, abs=ROUNDING)
    same = ratio_bootstrap([1.0, 2.0], [2.0, 4.0])
    assert (same.value, same.low, same.high) == (0.5, 0.5, 0.5)
    assert not ratio_bootstrap([1.0], [2.0]).bounded


def test_ratio_bootstrap_reaches_the_normal_limit():
    generator = np.random.Generator(np.random.Philox(5))
    size = generator.integers(1, 20, 400).astype(float)
    total = size * 0.3 + generator.normal(0, 1, 400)
    found = ratio_bootstrap(total, size)
    error = np.sqrt(np.mean((total - found.value * size) ** 2) / 400) / size.mean()
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=NORMAL_LIMIT)


@pytest.mark.parametrize(
    "call, where",
    [
        (lambda: paired_bootstrap([], []), "a"),
        (lambda: paired_bootstrap([1.0], [math.nan]), "b, row 0"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0]), "a, b"),
        (lambda: bootstrap([1.0, 2.0], resamples=10), "resamples"),
        (lambda: bootstrap([1.0, 2.0], level=0.0), "level"),
        (lambda: bootstrap([1.0, 2.0], seed=-1), "seed"),
        (lambda: bootstrap([1.0, 2.0], statistic=lambda x: math.nan), "statistic"),
        (lambda: bootstrap([1.0, 2.0], statistic=nan_if_alike), "statistic"),
        (lambda: hierarchical_bootstrap([[1.0, 2.0], [3.0, 4.0]], statistic=nan_if_alike), "statistic"),
        (lambda: hierarchical_bootstrap([1.0, 2.0]), "values"),
        (lambda: hierarchical_bootstrap([[1.0, 2.0], [3.0, math.nan]]), "values, row 1, 1"),
        (lambda: hierarchical_bootstrap([[1.0, 2.0], [3.0]]), "values"),
        (lambda: iqm([]), "x"),
        (lambda: share_interval([0.5, 1.1]), "x, row 1"),
        (lambda: share_interval([]), "x"),
        (lambda: ratio_bootstrap([1.0, 1.0], [1.0, 0.0]), "denominator, row 1"),
        (lambda: ratio_bootstrap([1.0], [1.0, 1.0]), "numerator, denominator"),
        (lambda: iqm([[1.0], [math.nan]]), "x, row 1, 0"),
    ],
)
def test_refusals_name_argument_and_row(call, where):
    with pytest.raises(UserError) as error:
        call()
    assert error.value.where == where


def test_unequal_pairs_name_the_first_row_without_partner():
    with pytest.raises(UserError, match="a row 2 has no partner"):
        paired_bootstrap([1.0, 2.0, 3.0], [1.0, 2.0])
