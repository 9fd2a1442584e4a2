"""Two arms by enumeration: against sampled noise, brute sums, and the closed form of the privacy loss."""

import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.dp_bai.exact import exact_two_arm, exact_two_arm_loss, first_arm

ROUNDING = 1e-12
FOUR_SIGMA = 4.0
DRAWS = 200_000


@pytest.mark.parametrize("epsilon", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("tie", ["first", "coin"])
def test_discrete_probabilities_are_the_brute_sum(epsilon, tie):
    j = np.arange(-1500, 1501)
    q = math.exp(-epsilon)
    noise = (1 - q) / (1 + q) * q ** np.abs(j)
    difference = np.convolve(noise, noise, "same")
    for k in (-7, -1, 0, 1, 4):
        wins = difference[k + j > 0].sum() + (1 if tie == "first" else 0.5) * difference[k + j == 0].sum()
        assert float(first_arm(k, epsilon, "discrete", tie)) == pytest.approx(wins, abs=1e-9)


@pytest.mark.parametrize("k", [-5, 0, 2])
def test_laplace_probabilities_are_those_of_sampled_noise(k):
    generator, epsilon = np.random.default_rng(0), 0.4
    wins = np.mean(k + generator.laplace(0, 1 / epsilon, DRAWS) > generator.laplace(0, 1 / epsilon, DRAWS))
    assert wins == pytest.approx(float(first_arm(k, epsilon)), abs=FOUR_SIGMA * 0.5 / math.sqrt(DRAWS))


def test_error_by_hand():
    # one pull each, p1 = 1 and p2 = 0: k = 1 always
    assert exact_two_arm(1.0, 0.0, 1, 2.0) == pytest.approx(0.5 * 2 * math.exp(-2), abs=ROUNDING)
    assert exact_two_arm(0.0, 1.0, 1, 2.0) == pytest.approx(0.5 * 2 * math.exp(-2), abs=ROUNDING)
    assert exact_two_arm(1.0, 0.0, 5, math.inf) == 0.0
    # no noise, one pull, p = .5 and .25: the first loses if 0 against 1; a tie is the coin's
    assert exact_two_arm(0.5, 0.25, 1, math.inf, tie="first") == pytest.approx(0.125, abs=ROUNDING)
    assert exact_two_arm(0.5, 0.25, 1, math.inf, tie="coin") == pytest.approx(0.125 + 0.25, abs=ROUNDING)
    assert exact_two_arm(0.6, 0.5, 100, 1e-9) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("noise, tie", [("laplace", "first"), ("discrete", "first"), ("discrete", "coin")])
def test_the_returned_arm_never_gives_away_more_than_epsilon(epsilon, noise, tie):
    loss = exact_two_arm_loss(60, epsilon, noise, tie)
    assert 0 < loss <= epsilon + ROUNDING
    assert exact_two_arm_loss(60, 2 * epsilon, noise, tie) > epsilon  # noise of half the scale is caught


def test_the_loss_of_one_pull_is_the_closed_form():
    # from k = 0 to k = -1: epsilon - ln(1 + epsilon / 2)
    for epsilon in (0.3, 2.0):
        step = math.log(float(first_arm(0, epsilon)) / float(first_arm(-1, epsilon)))
        assert step == pytest.approx(epsilon - math.log(1 + epsilon / 2), abs=ROUNDING)
        assert exact_two_arm_loss(1, epsilon) == pytest.approx(step, abs=ROUNDING)
    assert exact_two_arm_loss(5, math.inf) == math.inf


def test_what_is_out_of_range_is_refused():
    for arguments in ((1.2, 0.5, 3, 1.0), (0.5, 0.2, 0, 1.0), (0.5, 0.2, 3, 0.0), (0.5, 0.2, 3, math.nan)):
        with pytest.raises(UserError):
            exact_two_arm(*arguments)
    with pytest.raises(UserError, match="gauss"):
        exact_two_arm(0.5, 0.2, 3, 1.0, noise="gauss")
