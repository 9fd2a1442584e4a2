"""Baselines: designs that are optimal, figures of a published instance, and what noise on features costs."""

import math

import numpy as np
import pytest
import scipy.stats

from steersman.core.errors import UserError
from steersman.decide.dp_bai import (
    DPBAI,
    BudgetTooSmall,
    LinearArms,
    ODLinBAI,
    PooledMeans,
    halving,
    sequential_halving,
    simulate,
    uniform,
)
from steersman.decide.dp_bai.baselines import GAP, g_optimal, span
from steersman.train.trial import run_trials

TRIALS = 2_000
SAME = 0.02  # about two standard errors of the difference
REFERENCE_TRIALS = 20_000
FOUR_SIGMA = 4.0
# epsilon, T: DP-BAI, DP-OD with noise on features, OD-LinBAI; from an implementation of its own, 20,000 trials each
REFERENCE = {(0.1, 1001): (0.115, 0.398, 0.002), (0.01, 201): (0.536, 0.515, 0.096)}


def published():
    w = np.random.default_rng(0).uniform(0, 0.8, 27)
    features = np.concatenate([[[0, 1], [0, 0.9], [10, 0]], np.stack([np.ones(27), w], 1)])
    return LinearArms.of(features, [0.045, 0.5], "uniform")


def close(found, expected):
    spread = math.sqrt(max(expected * (1 - expected), 1e-3) * (1 / TRIALS + 1 / REFERENCE_TRIALS))
    return abs(found - expected) < FOUR_SIGMA * spread


@pytest.mark.parametrize("epsilon, budget", REFERENCE)
def test_figures_of_the_published_instance(epsilon, budget):
    expected = REFERENCE[epsilon, budget]
    methods = (DPBAI(epsilon, budget), ODLinBAI(budget, epsilon), ODLinBAI(budget))
    for method, figure in zip(methods, expected, strict=True):
        assert close(simulate(method, published(), TRIALS).error.value, figure), (method, figure)


def test_noise_on_the_arms_sums_makes_the_gain_not_the_design():
    arms = published()
    ours, on_arms = (simulate(m, arms, TRIALS).error for m in (DPBAI(0.1, 1001), ODLinBAI(1001, 0.1, "arms")))
    assert abs(ours.value - on_arms.value) < SAME
    assert simulate(ODLinBAI(1001, 0.1), arms, TRIALS).error.low > 2 * ours.high


@pytest.mark.parametrize("count, dim, seed", [(6, 2, 0), (20, 4, 1), (5, 5, 2)])
def test_designs_are_optimal_and_sparse(count, dim, seed):
    a = np.random.default_rng(seed).normal(size=(count, dim))
    weights = g_optimal(a)
    variance = np.einsum("id,de,ie->i", a, np.linalg.inv(a.T @ (weights[:, None] * a)), a)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    assert dim - 1e-9 <= variance.max() <= dim * (1 + 10 * GAP)
    assert (weights > 0).sum() <= dim * (dim + 1) // 2
    assert g_optimal(np.eye(3)) == pytest.approx([1 / 3] * 3)


def test_budgets_hold_and_too_small_ones_are_refused():
    a = np.random.default_rng(1).normal(size=(15, 5))
    arms = LinearArms(a, np.linspace(0.1, 0.9, 15))
    with pytest.raises(BudgetTooSmall) as caught:
        ODLinBAI(3).procedure(arms)
    for budget in (caught.value.least, 100, 333):
        pulls = run_trials(ODLinBAI(budget, 1.0, "arms").procedure(arms), 200)["pulls"]
        assert pulls.max() <= budget
    with pytest.raises(BudgetTooSmall):
        ODLinBAI(caught.value.least - 1).procedure(arms)
    with pytest.raises(UserError, match="whole numbers"):
        ODLinBAI(100, 1.0).procedure(arms, "discrete")
    with pytest.raises(UserError, match="epsilon"):
        ODLinBAI(100, 0.0).procedure(arms)


def test_halving_and_uniform_ignore_features():
    means = np.linspace(0.2, 0.6, 8)
    noise = np.random.default_rng(0).normal(size=(8, 3))
    for method in (sequential_halving(8, 200, 0.5), uniform(8, 200)):
        one, other = (simulate(method, LinearArms(f, means), 500).arm for f in (np.eye(8), noise))
        assert np.array_equal(one, other)
    assert uniform(8, 200).plan(np.eye(8)).sizes == (8, 1)


def test_a_rotation_changes_noise_on_features_but_not_noise_on_arms():
    arms = published()
    turn = scipy.stats.ortho_group.rvs(2, random_state=0)
    turned = LinearArms(arms.features @ turn, arms.means, "uniform")
    same = [
        np.array_equal(simulate(m, arms, 1000).arm, simulate(m, turned, 1000).arm)
        for m in (ODLinBAI(201, 0.1), ODLinBAI(201, 0.1, "arms"), DPBAI(0.1, 201))
    ]
    assert same == [False, True, True]
    flat = arms.features @ np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert span(flat).shape == (30, 2)


def test_pooled_means_err_less_often_and_promise_nothing():
    arms = LinearArms(np.eye(4), [0.6, 0.5, 0.4, 0.4])
    options = DPBAI(0.2, 400, design="all", sizes=halving(4))
    plain, pooled = (simulate(m, arms, TRIALS) for m in (options, PooledMeans(options)))
    assert pooled.error.high < plain.error.low
    assert (plain.promise, pooled.promise, simulate(ODLinBAI(200, 0.3), arms, 10).promise) == (0.2, math.inf, 0.3)
    assert not hasattr(PooledMeans(options), "start")
