"""Tests against enumeration, closed forms and simulated error rates; Holm's properties; equivalence."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steersman.core.errors import UserError
from steersman.stats import (
    equivalence_test,
    holm,
    iqm,
    mcnemar,
    permutation_test,
    sign_test,
    smallest_p,
)

ROUNDING = 1e-12
SCALED = 1e-9
PUBLISHED = 5e-5  # four decimals
MONTE_CARLO = 0.01  # 65,536 samples: four standard errors of p = .5 are .008
SIMULATIONS = 2_000
FOUR_SIGMA = 4.0

# multiples of 1/8 stay exact, so that ties are ties
differences = arrays(np.float64, st.integers(1, 7), elements=st.integers(-40, 40).map(lambda k: k / 8))
p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def enumerated(d, alternative):
    flips = [np.mean(d * signs) for signs in itertools.product([1, -1], repeat=len(d))]
    greater = np.mean([f >= np.mean(d) - ROUNDING for f in flips])
    less = np.mean([f <= np.mean(d) + ROUNDING for f in flips])
    return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]


@settings(max_examples=60, deadline=None)
@given(differences, st.sampled_from(["two-sided", "greater", "less"]))
def test_paired_test_is_the_enumeration_of_signs(d, alternative):
    found = permutation_test(d, np.zeros_like(d), alternative=alternative)
    assert found.exact
    assert found.p_value == pytest.approx(enumerated(d, alternative), abs=ROUNDING)
    assert found.statistic == pytest.approx(np.mean(d), abs=ROUNDING)


@settings(max_examples=30, deadline=None)
@given(differences, st.sampled_from([0.5, 4.0, 1024.0]))
def test_paired_test_is_symmetric_and_scale_free(d, scale):
    zero = np.zeros_like(d)
    p_value = permutation_test(d, zero).p_value
    assert permutation_test(zero, d).p_value == pytest.approx(p_value, abs=ROUNDING)
    assert permutation_test(d * scale, zero).p_value == pytest.approx(p_value, abs=ROUNDING)
    greater = permutation_test(d, zero, alternative="greater").p_value
    assert permutation_test(zero, d, alternative="less").p_value == pytest.approx(greater, abs=ROUNDING)


def test_five_pairs_reach_what_smallest_p_says():
    found = permutation_test([1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5)
    assert found.p_value == smallest_p(5, 1) == 0.0625
    assert permutation_test(np.arange(1.0, 11), np.zeros(10)).p_value == smallest_p(10, 1) == 2 / 1024
    assert permutation_test(np.arange(1.0, 5), np.zeros(4), alternative="greater").p_value == 1 / 16
    assert smallest_p(4, 1, alternative="greater") == 1 / 16
    assert smallest_p(5, 3) == 0.1875
    assert smallest_p(1, 1) == smallest_p(3, 8) == 1.0
    assert holm([smallest_p(8, 1), 0.5, 0.9])[0] == smallest_p(8, 3)
    assert 0.0 < smallest_p(1_000, 1) < 1e-300


def test_sampling_agrees_with_enumeration_and_never_gives_zero():
    d = np.random.default_rng(0).normal(0.4, 1.0, 17)
    sampled = permutation_test(d, np.zeros(17))
    full = permutation_test(d, np.zeros(17), resamples=2**17)
    assert (sampled.exact, full.exact) == (False, True)
    assert sampled.p_value == pytest.approx(full.p_value, abs=MONTE_CARLO)
    assert sampled == permutation_test(d, np.zeros(17), seed=0)
    assert sampled != permutation_test(d, np.zeros(17), seed=1)
    clear = permutation_test(np.full(60, 3.0), np.zeros(60), alternative="greater", resamples=999)
    assert clear.p_value == 1 / 1_000


def test_paired_test_keeps_its_level_under_the_null():
    rng = np.random.default_rng(8)
    p = np.array([permutation_test(d, np.zeros(6)).p_value for d in rng.normal(size=(SIMULATIONS, 6))])
    for alpha in (2 / 64, 8 / 64, 32 / 64):  # levels the test can reach exactly
        assert abs(np.mean(p <= alpha) - alpha) < FOUR_SIGMA * math.sqrt(alpha / SIMULATIONS)


def test_single_pair():
    for alternative, p_value in (("two-sided", 1.0), ("greater", 0.5), ("less", 1.0)):
        assert permutation_test([2.0], [1.0], alternative=alternative).p_value == p_value
    assert permutation_test([1.0], [2.0], alternative="less").p_value == 0.5
    assert permutation_test([1.0], [1.0], alternative="greater").p_value == 1.0


def test_unpaired_test_counts_relabellings():
    found = permutation_test([4.0, 5.0, 6.0], [1.0, 2.0, 3.0], paired=False)
    assert found.exact
    assert found.p_value == pytest.approx(2 / 20, abs=ROUNDING)
    assert permutation_test([4.0, 5.0, 6.0], [1.0, 2.0], paired=False, alternative="greater").p_value == 1 / 10
    assert permutation_test([1.0, 1.0], [1.0, 1.0], paired=False).p_value == 1.0
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.5, 1, 40), rng.normal(0, 1, 30)
    sampled = permutation_test(a, b, paired=False)
    assert not sampled.exact
    assert sampled.p_value == pytest.approx(scipy.stats.ttest_ind(a, b).pvalue, abs=MONTE_CARLO)


def test_statistic_may_be_the_interquartile_mean():
    a, b = np.array([1.0, 2.0, 3.0, 4.0, 1000.0]), np.zeros(5)
    assert permutation_test(a, b, statistic=iqm).statistic == pytest.approx(iqm(a))
    flips = [iqm(a * signs) for signs in itertools.product([1, -1], repeat=5)]
    expected = 2 * np.mean([f >= iqm(a) - ROUNDING for f in flips])
    assert permutation_test(a, b, statistic=iqm).p_value == pytest.approx(expected, abs=ROUNDING)
    plain = permutation_test(a, b, statistic=lambda d: float(np.mean(d)))
    assert plain == permutation_test(a, b)


def test_sign_test():
    assert sign_test(60, 40).p_value == pytest.approx(0.0569, abs=PUBLISHED)
    assert sign_test(5, 0).p_value == pytest.approx(2 / 32, abs=ROUNDING)
    assert sign_test(0, 5, "less").p_value == pytest.approx(1 / 32, abs=ROUNDING)
    assert sign_test(0, 5, "greater").p_value == 1.0
    assert sign_test(0, 0).p_value == 1.0
    assert sign_test(7, 3).statistic == 4


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_sign_test_is_symmetric(wins, losses):
    assert sign_test(wins, losses).p_value == pytest.approx(sign_test(losses, wins).p_value, abs=ROUNDING)
    one_sided = sign_test(wins, losses, "greater").p_value
    assert one_sided == pytest.approx(sign_test(losses, wins, "less").p_value, abs=ROUNDING)


def test_mcnemar_uses_only_items_that_differ():
    a = [1] * 9 + [0] * 2 + [1] * 50 + [0] * 50
    b = [0] * 9 + [1] * 2 + [1] * 50 + [0] * 50
    assert mcnemar(a, b) == sign_test(9, 2)
    assert mcnemar([True, False], [True, False]).p_value == 1.0
    assert mcnemar(b, a, alternative="less") == sign_test(2, 9, "less")


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06], abs=ROUNDING)
    assert holm([0.2]) == pytest.approx([0.2])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_holm_skips_claims_without_a_test_and_does_not_count_them():
    found = holm([None, 0.01, None, 0.04])
    assert np.isnan(found[[0, 2]]).all()
    assert found[[1, 3]] == pytest.approx([0.02, 0.04], abs=ROUNDING)
    assert np.isnan(holm([None, None])).all()


@settings(deadline=None)
@given(p_lists, st.randoms(use_true_random=False))
def test_holm_properties(p, random):
    adjusted = holm(p)
    assert ((adjusted >= np.array(p)) & (adjusted <= 1.0)).all()
    assert (adjusted <= np.minimum(1.0, np.array(p) * len(p)) + ROUNDING).all()  # never worse than Bonferroni
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    order = list(range(len(p)))
    random.shuffle(order)
    assert np.array_equal(holm([p[i] for i in order]), adjusted[order])


@settings(deadline=None)
@given(p_lists, st.integers(0, 11), st.floats(0, 1))
def test_holm_is_monotone_in_every_p_value(p, place, other):
    place %= len(p)
    larger = [*p[:place], max(p[place], other), *p[place + 1 :]]
    assert (holm(larger) >= holm(p) - ROUNDING).all()


def test_holm_controls_the_family_under_the_null():
    p = np.random.default_rng(9).random((SIMULATIONS, 6))
    wrong = np.mean([holm(row).min() <= 0.05 for row in p])
    assert 0.03 < wrong < 0.05 + FOUR_SIGMA * math.sqrt(0.05 * 0.95 / SIMULATIONS)


def test_equivalence_is_two_one_sided_t_tests():
    x = np.random.default_rng(10).normal(0.1, 1.0, 25)
    found = equivalence_test(x, 0.6)
    above = scipy.stats.ttest_1samp(x, -0.6, alternative="greater").pvalue
    below = scipy.stats.ttest_1samp(x, 0.6, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(above, below), abs=ROUNDING)
    assert found.interval.level == pytest.approx(0.9)
    assert equivalence_test(-x, 0.6).p_value == pytest.approx(found.p_value, abs=ROUNDING)
    assert equivalence_test(x * 8, 4.8).p_value == pytest.approx(found.p_value, abs=SCALED)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 3.0))
def test_equivalence_agrees_with_its_interval(seed, margin):
    found = equivalence_test(np.random.default_rng(seed).normal(0.2, 1.0, 9), margin)
    inside = -margin < found.interval.low and found.interval.high < margin
    assert found.equivalent == inside
    wider = equivalence_test(np.random.default_rng(seed).normal(0.2, 1.0, 9), margin * 2)
    assert wider.p_value <= found.p_value + ROUNDING


def test_equivalence_keeps_its_level_at_the_margin():
    rows = np.random.default_rng(11).normal(0.5, 0.3, (SIMULATIONS, 10))
    wrong = np.mean([equivalence_test(row, 0.5).equivalent for row in rows])
    assert abs(wrong - 0.05) < FOUR_SIGMA * math.sqrt(0.05 * 0.95 / SIMULATIONS)


def test_equivalence_limits():
    assert equivalence_test([0.0], 1.0).p_value == 1.0
    assert equivalence_test([0.5, 0.5], 1.0).p_value == 0.0
    assert equivalence_test([1.0, 1.0], 1.0).p_value == 1.0
    assert not equivalence_test([2.0, 2.0], 1.0).equivalent


@pytest.mark.parametrize(
    "call, where",
    [
        (lambda: permutation_test([], []), "a"),
        (lambda: permutation_test([1.0, math.nan], [1.0, 2.0]), "a, row 1"),
        (lambda: permutation_test([1.0, 2.0], [1.0]), "a, b"),
        (lambda: permutation_test([1.0, 2.0], [1.0], paired=False), "b"),
        (lambda: permutation_test([1.0], [1.0], alternative="both"), "alternative"),
        (lambda: permutation_test([1.0], [1.0], resamples=0), "resamples"),
        (lambda: sign_test(-1, 2), "wins"),
        (lambda: sign_test(1, 2.5), "losses"),
        (lambda: sign_test(1, 2, "both"), "alternative"),
        (lambda: mcnemar([1, 0], [1, 2]), "b, row 1"),
        (lambda: mcnemar([1, 0], [1]), "a, b"),
        (lambda: holm([]), "p_values"),
        (lambda: holm([0.1, math.nan]), "p_values, row 1"),
        (lambda: holm([0.1, 1.5]), "p_values, row 1"),
        (lambda: holm(["0.1"]), "p_values, row 0"),
        (lambda: equivalence_test([1.0, 2.0], 0.0), "margin"),
        (lambda: equivalence_test([1.0, 2.0], math.nan), "margin"),
        (lambda: equivalence_test([1.0, 2.0], 1.0, alpha=0.5), "alpha"),
        (lambda: equivalence_test([1.0, math.nan], 1.0), "x, row 1"),
        (lambda: smallest_p(0, 1), "n_pairs"),
        (lambda: smallest_p(5, 0), "n_claims"),
        (lambda: smallest_p(5, 1, alternative="up"), "alternative"),
    ],
)
def test_refusals_name_argument_and_row(call, where):
    with pytest.raises(UserError) as error:
        call()
    assert error.value.where == where
