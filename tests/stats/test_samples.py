"""pass@k: against counting subsets, its exact ends, unbiasedness, large numbers, bad input."""

import itertools
import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.stats import pass_at_k

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
