"""R^2 of a reward: known values, invariances, bins; the null of a filter against the table, moments and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.reward.reliability import CLOSED, null_r_squared, r_squared, undefined, variance_ratio

EXACT = 1e-12
TABLE = 1e-6  # the published ratios have six digits
SIMULATION = 0.01  # 20,000 prompts

RATIOS = {  # N: best of N, best-random, best-worst
    2: (0.68169, 1.0, 1.0),
    3: (0.559467, 1.024154, 1.275664),
    4: (0.491715, 1.066041, 1.551329),
    5: (0.447534, 1.109814, 1.800020),
    8: (0.372897, 1.227561, 2.399535),
    10: (0.344344, 1.293229, 2.712104),
}
numbers = st.floats(-3, 3).map(lambda x: round(x, 3))


def simulated(prompts=20_000, n=5, rho2=0.3, seed=0):
    """Gaussian rewards and scores of one noise variance everywhere."""
    random = np.random.default_rng(seed)
    reward = random.normal(size=(prompts, n))
    score = reward * rho2**0.5 + random.normal(size=reward.shape) * (1 - rho2) ** 0.5
    return reward.ravel(), score.ravel(), np.repeat(np.arange(prompts), n)


def test_known_value_and_bins_of_one():
    assert r_squared([3, 2, 1, 0], [1, 1, 0, 0]) == pytest.approx(0.8, abs=EXACT)
    assert r_squared([3, 2, 1, 0], [1, 1, 0, 0], 4) == pytest.approx(0.8, abs=EXACT)


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=12))
@settings(deadline=None)
def test_it_is_the_squared_correlation_and_blind_to_scale(pairs):
    r, s = np.array(pairs).T
    found = r_squared(r, s)
    if np.ptp(r) == 0 or np.ptp(s) == 0:
        assert math.isnan(found)
        assert undefined(r, s)
        return
    assert undefined(r, s) == ""
    assert found == pytest.approx(np.corrcoef(r, s)[0, 1] ** 2, abs=1e-9)
    assert r_squared(-2.5 * r + 7, 1e-3 * s - 4) == pytest.approx(found, abs=1e-7)
    if len(set(r)) == len(r):
        assert r_squared(r, s, len(r)) == pytest.approx(found, abs=1e-9)


def test_bins_by_hand():
    """Two equal-count bins, means (0.5, 0) and (2.5, 1); with equal rewards in one bin."""
    r, s = [0, 1, 2, 3, 4, 5], [0, 0, 1, 0, 1, 1]
    means = np.array([[0.5, 0.0], [2.5, 0.5], [4.5, 1.0]])
    assert r_squared(r, s, 3) == pytest.approx(np.corrcoef(means.T)[0, 1] ** 2, abs=EXACT)
    tied = [0, 1, 1, 1, 1, 2]  # the run of ones is one bin, whatever its share
    means = np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 1.0]])
    assert r_squared(tied, s, 3) == pytest.approx(np.corrcoef(means.T)[0, 1] ** 2, abs=EXACT)
    bent = [0, 0, 0, 1, 1, 3]
    for weighted, size in ((False, None), (True, [1, 4, 1])):
        c = np.cov([0, 1, 2], [0, 0.5, 3], aweights=size, bias=True)
        wanted = c[0, 1] ** 2 / (c[0, 0] * c[1, 1])
        assert r_squared(tied, bent, 3, weighted=weighted) == pytest.approx(wanted, abs=EXACT)


def test_weights_are_repeats():
    r, s = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.0, 1.0, 0.5, 1.0])
    times = np.array([3, 1, 0, 2])
    expanded = np.repeat(r, times), np.repeat(s, times)
    assert r_squared(r, s, weight=times) == pytest.approx(r_squared(*expanded), abs=EXACT)
    assert r_squared(r, s, 3, weight=times, weighted=True) == pytest.approx(
        r_squared(*expanded, 3, weighted=True), abs=EXACT
    )


def test_nothing_to_explain_is_no_number():
    assert math.isnan(r_squared([1, 1, 1], [0, 1, 0]))
    assert undefined([1, 1, 1], [0, 1, 0]) == "all rewards are equal"
    assert math.isnan(r_squared([1, 2, 3], [1, 1, 1]))
    assert undefined([1, 2, 3], [1, 1, 1]) == "all scores are equal"
    assert math.isnan(r_squared([1.0, 1.0, 2.0, 2.0], [0, 1, 0, 1], 2))  # of bins too


@pytest.mark.parametrize("n", RATIOS)
def test_ratios_of_gaussian_rewards(n):
    assert variance_ratio("none", n) == 1
    for name, ratio in zip(("bon", "br", "bw"), RATIOS[n], strict=True):
        assert variance_ratio(name, n) == pytest.approx(ratio, abs=TABLE)


def test_a_group_of_one_changes_nothing():
    assert all(variance_ratio(name, 1) == 1 for name in CLOSED)


def test_the_null_orders_filters_of_an_equally_reliable_reward():
    """The published order best of N < none < best-random < best-worst needs no difference in reliability."""
    null = {name: null_r_squared(0.3, name, 5) for name in CLOSED}
    assert null["bon"] < null["none"] < null["br"] < null["bw"]
    assert {k: round(v, 3) for k, v in null.items()} == {"none": 0.3, "bon": 0.161, "br": 0.322, "bw": 0.435}
    reward, _, group = simulated()
    for name in CLOSED:
        assert null_r_squared(0.3, name, reward=reward, group=group) == pytest.approx(null[name], abs=SIMULATION)


@pytest.mark.parametrize(
    ("strategy", "threshold"), [("pow-1", None), ("pow-3", None), ("top", 0.3), ("top-bottom", (0.4, -0.4))]
)
def test_the_null_of_given_rewards_is_the_ratio_of_their_variances(strategy, threshold):
    reward = np.array([0.9, -0.8, 0.1, 0.5, 0.5, -0.2])
    group = np.array([4, 4, 4, 7, 7, 7])

    def weight(r):
        if strategy == "top":
            return float(r > 0.3)
        if strategy == "top-bottom":
            return float(r > 0.4 or r < -0.4)
        return abs(r) ** int(strategy[-1])

    w = np.array([weight(r) for r in reward])
    for g in (4, 7):
        w[group == g] /= w[group == g].sum()
    mean = np.average(reward, weights=w)
    v = np.average((reward - mean) ** 2, weights=w) / reward.var()
    wanted = 0.4 * v / (0.4 * v + 0.6)
    found = null_r_squared(0.4, strategy, reward=reward, group=group, threshold=threshold)
    assert found == pytest.approx(wanted, abs=EXACT)


def test_ends_of_the_null():
    assert null_r_squared(0.0, "bw", 5) == 0
    assert null_r_squared(1.0, "bon", 5) == 1
    assert math.isnan(null_r_squared(0.3, "none", reward=[1.0, 1.0], group=[0, 0]))
    assert math.isnan(null_r_squared(0.3, "top", reward=[1.0, 2.0], group=[0, 0], threshold=9.0))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: r_squared([1, 2], [1]), "lengths differ"),
        (lambda: r_squared([1, math.nan], [1, 0]), "reward, row 1"),
        (lambda: r_squared([1, 2], [1, 0], 1), "bins"),
        (lambda: r_squared([1, 2], [1, 0], weight=[0, 0]), "all 0"),
        (lambda: r_squared([1, 2], [1, 0], weight=[1, -1]), "negative"),
        (lambda: null_r_squared(1.2, "bw", 5), "rho2 is 1.2"),
        (lambda: null_r_squared(0.2, "bw"), "neither n nor"),
        (lambda: null_r_squared(0.2, "bw", reward=[1.0]), "neither n nor"),
        (lambda: null_r_squared(0.2, "pow-1", 5), "no closed form"),
        (lambda: null_r_squared(0.2, "bon", 0), "n: 0"),
        (lambda: null_r_squared(0.2, "top", reward=[1.0, 2.0], group=[0, 0]), "threshold is None"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
