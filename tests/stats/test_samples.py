"""pass@k and best of n: against counting subsets, exact ends, unbiasedness, large numbers, bad input."""

import itertools
import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.stats import best_of_n, kl_best_of_n, pass_at_k

EXACT = 1e-12  # float64 sums of a few logarithms


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_against_counting_subsets(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations(range(n), k))
        want = sum(any(i < c for i in s) for s in subsets) / len(subsets)
        assert pass_at_k(n, c, k) == pytest.approx(want, abs=EXACT)


def test_exact_ends():
    assert pass_at_k(10, 0, 4) == 0.0
    assert math.copysign(1, pass_at_k(10, 0, 4)) == 1
    assert pass_at_k(10, 7, 4) == 1.0
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3, abs=EXACT)


def test_unbiased_under_binomial_counts():
    n, p, k = 6, 0.3, 3
    c = np.arange(n + 1)
    chance = [math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in c]
    assert np.dot(chance, pass_at_k(n, c, k)) == pytest.approx(1 - (1 - p) ** k, abs=EXACT)


def test_large_numbers_do_not_cancel():
    assert pass_at_k(10**6, 1, 10) == pytest.approx(1e-5, rel=1e-9)
    want = 1 - math.exp(sum(math.log(1 - 1000 / (100_000 - i)) for i in range(1000)))
    assert pass_at_k(100_000, 1000, 1000) == pytest.approx(want, abs=1e-10)


def test_arrays():
    got = pass_at_k([4, 4, 8], [0, 4, 2], 2)
    assert got.dtype == np.float64
    assert got == pytest.approx([0.0, 1.0, 1 - 15 / 28], abs=EXACT)
    assert pass_at_k(8, np.array([2.0, 0.0]), 2) == pytest.approx([1 - 15 / 28, 0.0], abs=EXACT)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: pass_at_k(4, 5, 1), "5 correct of 4"),
        (lambda: pass_at_k(4, 2, 5), "k is 5 with 4"),
        (lambda: pass_at_k(4, 2, 0), "k: 0 is not allowed"),
        (lambda: pass_at_k(4, 1.5, 1), "c: 1.5"),
        (lambda: pass_at_k(float("nan"), 1, 1), "n: nan"),
        (lambda: pass_at_k(4, -1, 1), "c: -1"),
        (lambda: pass_at_k([4, 4], [1, 9], 1), "row 1.*9 correct"),
        (lambda: pass_at_k([4, 2], [1, 1], 3), "row 1.*k is 3"),
        (lambda: pass_at_k([4, 4], [1, 1, 1], 1), "lengths differ"),
        (lambda: pass_at_k([], [], 1), "empty"),
        (lambda: pass_at_k([[4]], [[1]], 1), "dimension"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()


RANKING, VALUE = [0.5, -1.0, 0.5, 3.0, 0.0], [2.0, 7.0, -1.0, 0.5, 4.0]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_best_of_n_against_all_subsets(n):
    def chosen(subset):  # the best-ranked one, the first of equals
        return VALUE[max(subset, key=lambda i: (RANKING[i], -i))]

    subsets = list(itertools.combinations(range(5), n))
    want = sum(map(chosen, subsets)) / len(subsets)
    assert best_of_n(RANKING, VALUE, n) == pytest.approx(want, abs=EXACT)


def test_best_of_n_ends_and_pass_at_k():
    assert best_of_n(RANKING, VALUE, 1) == pytest.approx(np.mean(VALUE), abs=EXACT)
    assert best_of_n(RANKING, VALUE, 5) == 0.5
    assert best_of_n([1.0, 1.0, 1.0], [5.0, 1.0, 2.0], 3) == 5.0
    right = np.array([0.0, 1, 0, 0, 1, 1, 0])
    for k in range(1, 8):  # ranked by the truth itself, a right one is found where there is one
        assert best_of_n(right, right, k) == pytest.approx(pass_at_k(7, 3, k), abs=EXACT)
    m = 4000
    want = 10 / 11 * (m + 1) - 1  # the largest of 10 numbers out of 0 .. m - 1
    assert best_of_n(np.arange(m), np.arange(m), 10) == pytest.approx(want, rel=1e-9)


def test_kl_of_best_of_n():
    assert kl_best_of_n(1) == 0.0
    assert kl_best_of_n(8) == pytest.approx(math.log(8) - 7 / 8, abs=EXACT)
    u = (np.arange(1_000_000) + 0.5) / 1_000_000  # the best of 4 has density 4 u^3 in the quantile u
    assert kl_best_of_n(4) == pytest.approx(np.mean(4 * u**3 * np.log(4 * u**3)), abs=1e-6)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: best_of_n([1.0], [1.0], 2), "n is 2 with 1 samples"),
        (lambda: best_of_n([1.0], [1.0], 0), "n: 0 is not allowed"),
        (lambda: best_of_n([1.0, math.nan], [1.0, 1.0], 1), "ranking, row 1"),
        (lambda: best_of_n([1.0, 2.0], [1.0, math.inf], 1), "value, row 1"),
        (lambda: best_of_n([1.0, 2.0], [1.0], 1), "lengths differ"),
        (lambda: best_of_n([], [], 1), "is empty"),
        (lambda: kl_best_of_n(0), "n: 0 is not allowed"),
    ],
)
def test_best_of_n_names_bad_input(call, match):
    with pytest.raises(UserError, match=match):
        call()
