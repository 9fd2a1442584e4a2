"""Discrete Laplace noise: its law, that no floating point decides, and where its bits come from."""

import ast
import inspect
import math
import textwrap
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from steersman.core.errors import UserError
from steersman.decide.privacy import SYSTEM, DiscreteLaplace, FloatLaplace, SeededBits
from steersman.decide.privacy import laplace as module
from steersman.decide.privacy.laplace import bernoulli_exp, exact_epsilon, inverse_discrete_laplace, inverse_laplace

DRAWS = 20_000
SMALLEST_P = 1e-4
FOUR_SIGMA = 4.0


def law_fits(draws, scale):
    edge = max(1, int(2 * scale))
    counts = Counter(int(np.clip(k, -edge, edge)) for k in draws)
    inner = DiscreteLaplace.pmf(np.arange(-edge + 1, edge), scale)
    expected = np.concatenate([[(1 - inner.sum()) / 2], inner, [(1 - inner.sum()) / 2]]) * len(draws)
    return scipy.stats.chisquare([counts[k] for k in range(-edge, edge + 1)], expected).pvalue


@pytest.mark.parametrize("epsilon, grid", [(0.5, 1), (2, 1), (0.3, 4), (Fraction(7, 3), 2)])
def test_the_law_of_the_exact_sampler(epsilon, grid):
    noise = DiscreteLaplace(grid)
    scale = noise.scale(epsilon)
    draws = noise.laplace_on_integer([0] * DRAWS, scale.numerator, scale.denominator, SeededBits(1, str(epsilon)))
    assert law_fits(draws, scale) > SMALLEST_P
    assert law_fits(draws, 1.3 * scale) < SMALLEST_P  # another scale is noticed
    q = math.exp(-1 / scale)
    fourth = np.mean(np.array(draws, float) ** 4)
    assert np.var(draws) == pytest.approx(2 * q / (1 - q) ** 2, abs=FOUR_SIGMA * math.sqrt(fourth / DRAWS))
    positive, negative = sum(k > 0 for k in draws), sum(k < 0 for k in draws)
    assert abs(positive - negative) < FOUR_SIGMA * math.sqrt(positive + negative)


def test_the_law_of_the_quick_samplers():
    u = np.random.default_rng(0).random(DRAWS)
    for scale in (0.4, 3.0):
        assert law_fits(inverse_discrete_laplace(u, scale), scale) > SMALLEST_P
        assert scipy.stats.kstest(inverse_laplace(u, scale), "laplace", (0, scale)).pvalue > SMALLEST_P
    drawn = FloatLaplace().laplace_on_integer([5] * 2000, 2, 1, SeededBits(0))
    assert scipy.stats.kstest(drawn, "laplace", (5, 2)).pvalue > SMALLEST_P


def test_exponential_coins():
    bits = SeededBits(3)
    for x in (Fraction(0), Fraction(1, 3), Fraction(1), Fraction(5, 2)):
        share = np.mean([bernoulli_exp(x, bits) for _ in range(DRAWS)])
        assert share == pytest.approx(math.exp(-x), abs=FOUR_SIGMA * 0.5 / math.sqrt(DRAWS))


def test_the_exact_sampler_holds_no_floating_point():
    for function in (module.bernoulli_exp, module.discrete_laplace, DiscreteLaplace.laplace_on_integer):
        source = textwrap.dedent(inspect.getsource(function))
        for node in ast.walk(ast.parse(source)):
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
            assert not isinstance(node, ast.Div)
            assert not (isinstance(node, ast.Name) and node.id in ("float", "math", "np"))


def test_seeded_bits_repeat_and_are_fair():
    one, same, other = SeededBits(1, "a"), SeededBits(1, "a"), SeededBits(1, "b")
    drawn = [one.below(6) for _ in range(DRAWS)]
    assert drawn == [same.below(6) for _ in range(DRAWS)]
    assert drawn != [other.below(6) for _ in range(DRAWS)]
    assert scipy.stats.chisquare(np.bincount(drawn, minlength=6)).pvalue > SMALLEST_P
    assert one.below(1) == 0
    assert one.below(2**200) >= 2**150
    assert [SYSTEM.below(2**64) for _ in range(3)] != [SYSTEM.below(2**64) for _ in range(3)]
    assert (SYSTEM.seeded, one.seeded) == (False, True)


def test_epsilon_is_the_decimal_written():
    assert exact_epsilon(0.1) == Fraction(1, 10)
    assert exact_epsilon(np.float64(1e-3)) == Fraction(1, 1000)
    assert DiscreteLaplace(4).scale(0.5) == 8
    for bad in (0, -1.0, math.nan, math.inf, "1", True, Fraction(-1, 2)):
        with pytest.raises(UserError, match="epsilon"):
            exact_epsilon(bad)
    with pytest.raises(UserError, match="grid 0"):
        DiscreteLaplace(0)
    with pytest.raises(UserError, match="scale"):
        DiscreteLaplace().laplace_on_integer([1], 0, 1)
