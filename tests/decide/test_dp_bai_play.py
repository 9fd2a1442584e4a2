"""DP-BAI over replications: against the exact two-arm error, against ask and tell, and its limiting cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from steersman.core.errors import UserError
from steersman.decide.dp_bai import (
    DPBAI,
    LinearArms,
    TableArms,
    dp_bai_procedure,
    exact_two_arm,
    halving,
    simulate,
)
from steersman.decide.privacy import DiscreteLaplace
from steersman.train.trial import run_trials

TRIALS = 20_000
FOUR_SIGMA = 4.0
SMALLEST_P = 1e-4
EPSILONS = (0.1, 0.5, 2.0, math.inf)


def off(found, expected, trials=TRIALS):
    """Distance of two error rates in standard errors of the expected one."""
    return abs(found - expected) / math.sqrt(max(expected * (1 - expected), 1 / trials) / trials)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("p1, p2, pulls", [(0.6, 0.5, 20), (0.2, 0.4, 9)])
@pytest.mark.parametrize("law", ["laplace", "discrete"])
def test_two_arms_err_as_often_as_they_must(epsilon, p1, p2, pulls, law):
    arms = LinearArms(np.eye(2), [p1, p2])
    found = simulate(DPBAI(epsilon, 2 * pulls), arms, TRIALS, law=law).error.value
    assert off(found, exact_two_arm(p1, p2, pulls, epsilon, law)) < FOUR_SIGMA


def test_the_exact_sampler_errs_as_often_too():
    arms = LinearArms(np.eye(2), [0.7, 0.5])
    found = simulate(DPBAI(0.5, 30), arms, 2000, law="exact")
    assert off(found.error.value, exact_two_arm(0.7, 0.5, 15, 0.5, "discrete"), 2000) < FOUR_SIGMA
    assert not found.certified


@pytest.mark.parametrize("design", ["max-det", "all", "random"])
def test_without_noise_it_decides_as_ask_and_tell_does(design):
    generator = np.random.default_rng(3)
    features = generator.normal(size=(12, 3))
    table = generator.integers(0, 2, (12, 600))
    options = DPBAI(math.inf, 600, design=design, sizes=(12, 5, 3, 1))
    run, used = options.start(features), [0] * 12
    while (batch := run.ask()) is not None:
        rewards = []
        for arm in batch.arms:
            rewards.append(table[arm, used[arm]])
            used[arm] += 1
        run.tell(rewards)
    result = run.result()
    found = run_trials(dp_bai_procedure(options, TableArms(features, table)), 3)
    assert set(found["arm"]) == {result.arm}
    for number, left in enumerate(result.active_history):
        assert tuple(np.flatnonzero(found["survived"][0] >= number)) == left
    for phase, means in enumerate(result.private_means):
        pulled = np.flatnonzero(np.isfinite(found["released"][0, phase]))
        assert list(pulled) == list(means)
        shares = found["released"][0, phase, pulled] / found["counted"][0, phase, pulled]
        assert shares == pytest.approx(list(means.values()))


def test_a_hopeless_epsilon_returns_any_arm_alike():
    arms = LinearArms(np.eye(4), [0.9, 0.1, 0.2, 0.3])
    found = simulate(DPBAI(1e-7, 40, sizes=halving(4)), arms, TRIALS)
    assert scipy.stats.chisquare(np.bincount(found.arm, minlength=4)).pvalue > SMALLEST_P


def test_scaling_and_rotating_the_features_changes_nothing():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(10, 3))
    means = (features @ [0.1, -0.05, 0.08]) + 0.5
    rotation = scipy.stats.ortho_group.rvs(3, random_state=2)
    options = DPBAI(0.3, 300)
    plain = simulate(options, LinearArms(features, means), 3000)
    for changed in (7.0 * features, features @ rotation):
        assert np.array_equal(simulate(options, LinearArms(changed, means), 3000).arm, plain.arm)
    assert not np.array_equal(simulate(options, LinearArms(features, means), 3000, seed=1).arm, plain.arm)


def test_grids_rewards_and_batches():
    arms = LinearArms(np.eye(3), [0.5, 0.3, 0.2])
    options = DPBAI(0.5, 90)
    plain = simulate(options, arms, 4000, batch=4000)
    assert np.array_equal(simulate(options, arms, 4000, batch=333).arm, plain.arm)
    finer = simulate(replace(options, noise=DiscreteLaplace(20)), arms, TRIALS, law="discrete")
    coarse = simulate(options, arms, TRIALS, law="laplace")
    assert finer.error.value == pytest.approx(coarse.error.value, abs=0.02)  # a fine grid is continuous noise
    uniform = replace(arms, rewards="uniform")
    quiet = DPBAI(math.inf, 90)
    # uniform rewards vary less than coins of the same mean, unless they are rounded to coins
    assert simulate(quiet, uniform, 4000).error.high < simulate(quiet, arms, 4000).error.low
    rounded = simulate(quiet, uniform, 4000, law="discrete")
    assert np.array_equal(rounded.arm, simulate(quiet, arms, 4000, law="discrete").arm)


def test_what_cannot_be_played_is_refused():
    arms = LinearArms(np.eye(2), [0.4, 0.3], "uniform")
    with pytest.raises(UserError, match="law 'normal'"):
        simulate(DPBAI(1.0, 10), arms, 10, law="normal")
    with pytest.raises(UserError, match="grid 2"):
        simulate(DPBAI(1.0, 10, noise=DiscreteLaplace(2)), arms, 10, law="discrete")
    with pytest.raises(UserError, match="range"):
        simulate(DPBAI(1.0, 10, reward_range=(0, 2)), arms, 10)
    with pytest.raises(UserError, match="fault"):
        dp_bai_procedure(DPBAI(1.0, 10), arms, fault="typo")
    for features, means, rewards in (
        (np.eye(2), [0.5, 1.2], "bernoulli"),
        (np.eye(2), [0.5], "bernoulli"),
        (np.eye(2), [0.5, 0.6], "uniform"),
        (np.eye(2), [0.5, math.nan], "bernoulli"),
        (np.eye(2), [0.5, 0.5], "normal"),
    ):
        with pytest.raises(UserError, match=r"means|normal"):
            LinearArms(features, means, rewards)
    assert LinearArms.of(np.eye(2), [0.2, 0.3]).means == pytest.approx([0.2, 0.3])


def test_equally_good_arms_are_all_right():
    assert simulate(DPBAI(0.1, 40), LinearArms(np.eye(2), [0.5, 0.5]), 500).error.value == 0.0


@pytest.mark.parametrize("count, dim, pulled", [(20, 5, 20), (26, 5, 5), (16, 4, 16), (17, 4, 4), (5, 2, 2)])
def test_a_phase_pulls_a_collection_where_its_rank_is_below_the_root_of_its_size(count, dim, pulled):
    features = np.random.default_rng(0).normal(size=(count, dim))
    plan = DPBAI(1.0, 10_000).plan(features)
    collection = plan.collect(tuple(range(count)), 0)
    assert len(collection.arms) == pulled
    assert collection.pulls == 10_000 // (plan.phases * pulled)
    found = run_trials(dp_bai_procedure(DPBAI(1.0, 10_000), LinearArms(features, np.full(count, 0.5))), 2)
    assert np.isfinite(found["released"][:, 0]).sum(1).tolist() == [pulled] * 2
