"""Histories by enumeration: against every outcome of small sums, closed forms, simulation, and planted faults."""

import itertools
import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.dp_bai import (
    DPBAI,
    LinearArms,
    TableArms,
    exact_error,
    exact_history,
    exact_loss,
    exact_two_arm,
    exact_two_arm_loss,
    halving,
    simulate,
)
from steersman.decide.dp_bai.histories import noise_law, survivors
from steersman.decide.privacy import DiscreteLaplace

ROUNDING = 1e-12
TRIALS = 20_000
FOUR_SIGMA = 4.0


def small(epsilon, budget=12, **more):
    return DPBAI(epsilon, budget, design="all", sizes=(3, 2, 1), **more)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_survivors_are_those_of_every_outcome(keep):
    laws = np.random.default_rng(0).dirichlet(np.ones(4), 3)
    expected = {}
    for outcome in itertools.product(range(4), repeat=3):
        kept = tuple(sorted(sorted(range(3), key=lambda a: (-outcome[a], a))[:keep]))
        expected[kept] = expected.get(kept, 0) + math.prod(laws[a, v] for a, v in enumerate(outcome))
    assert survivors(laws, keep) == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("epsilon", [0.3, 2.0, math.inf])
def test_two_arms_are_the_closed_form(epsilon):
    for means in ([0.6, 0.5], [0.2, 0.4]):
        found = exact_error(DPBAI(epsilon, 40), LinearArms(np.eye(2), means))
        assert found == pytest.approx(exact_two_arm(*means, 20, epsilon, "discrete"), abs=ROUNDING)


def test_the_simulator_errs_as_often_as_it_must():
    arms = LinearArms(np.eye(4), [0.3, 0.6, 0.5, 0.4])
    options = DPBAI(0.5, 96, design="all", sizes=halving(4))
    expected = exact_error(options, arms)
    found = simulate(options, arms, TRIALS, law="discrete").error.value
    assert abs(found - expected) < FOUR_SIGMA * math.sqrt(expected * (1 - expected) / TRIALS)
    assert sum(exact_history(options, arms).values()) == pytest.approx(1, abs=ROUNDING)


def test_without_noise_a_table_has_one_history():
    table = np.array([[0] * 20, [1] * 20, [1, 0] * 10])
    assert exact_history(small(math.inf), TableArms(np.eye(3), table)) == {((0, 1, 2), (1, 2), (1,)): 1.0}


def test_a_phase_reads_no_reward_of_an_earlier_one():
    # phase 1 reads two rewards of each arm, phase 2 the next three; what comes after is read by nobody
    table = np.array([[0] * 20, [1] * 20, [1, 0] * 10])
    plain = exact_history(small(1.0), TableArms(np.eye(3), table))
    table[:, 5:] = 1
    assert exact_history(small(1.0), TableArms(np.eye(3), table)) == plain
    table[2, 0] = 0  # the sets left after phase 1 change, what follows from each of them does not
    other = exact_history(small(1.0), TableArms(np.eye(3), table))

    def last_step(found, kept):
        here = {h: p for h, p in found.items() if h[1] == kept}
        return {h: p / sum(here.values()) for h, p in here.items()}

    for kept in ((0, 1), (0, 2), (1, 2)):
        assert last_step(other, kept) == pytest.approx(last_step(plain, kept), abs=ROUNDING)
    assert other != pytest.approx(plain, abs=1e-3)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_no_table_gives_away_more_than_epsilon_and_every_fault_does(epsilon):
    found = {
        fault: exact_loss(small(epsilon, 9), np.eye(3), fault) for fault in (None, "half-scale", "reuse", "no-noise")
    }
    assert 0.8 * epsilon < found[None] <= epsilon + ROUNDING
    assert epsilon < found["reuse"] <= 2 * epsilon + ROUNDING
    assert epsilon < found["half-scale"] <= 2 * epsilon + ROUNDING
    assert found["no-noise"] == math.inf


def test_the_loss_of_two_arms_is_the_closed_form():
    found = exact_loss(DPBAI(1.0, 20), np.eye(2))
    assert found == pytest.approx(exact_two_arm_loss(10, 1.0, "discrete"), abs=1e-9)


def test_noise_that_is_left_out_is_nothing():
    assert noise_law(0) == pytest.approx([1.0])
    assert noise_law(3.0).sum() == pytest.approx(1, abs=ROUNDING)


def test_what_cannot_be_enumerated_is_refused():
    features = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(UserError, match="share their noise"):
        exact_history(DPBAI(1.0, 300), LinearArms(features, np.linspace(0.1, 0.9, 10)))
    with pytest.raises(UserError, match="0 and 1"):
        exact_loss(small(1.0, noise=DiscreteLaplace(3)), np.eye(3))
    with pytest.raises(UserError, match="bernoulli"):
        exact_history(small(1.0), LinearArms(np.eye(3), [0.4, 0.3, 0.2], "uniform"))
    with pytest.raises(UserError, match="Lower the budget"):
        exact_loss(small(1.0, 600), np.eye(3))
    with pytest.raises(UserError, match="fault"):
        exact_loss(small(1.0), np.eye(3), "typo")
