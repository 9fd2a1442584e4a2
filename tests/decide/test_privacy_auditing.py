"""Audits: the method passes, every planted fault is found, and the bound holds as often as it says."""

import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.dp_bai import DPBAI
from steersman.decide.privacy import audit
from steersman.decide.privacy.auditing import lower_bound

RUNS = 40_000
AUDITS = 40
BUDGET = 80
CLOSE = 0.15
"""How far below the truth a bound from so many runs may lie."""


@pytest.mark.parametrize("epsilon, law", [(0.5, "discrete"), (1.0, "laplace"), (2.0, "discrete")])
def test_the_method_keeps_its_promise_and_the_bound_is_near_it(epsilon, law):
    found = audit(DPBAI(epsilon, BUDGET), runs=RUNS, law=law)
    assert not found.broken
    assert epsilon - CLOSE < found.epsilon_lower <= epsilon
    assert found.count > found.count_other
    assert found.runs == RUNS // 2


def test_the_exact_sampler_keeps_it_too():
    found = audit(DPBAI(1.0, BUDGET), runs=3000, law="exact")
    assert 0.5 < found.epsilon_lower <= 1.0


@pytest.mark.parametrize("fault, worth", [("half-scale", 2.0), ("reuse", 2.0), ("no-noise", 8.0)])
def test_planted_faults_are_found(fault, worth):
    found = audit(DPBAI(1.0, BUDGET), runs=RUNS, fault=fault)
    assert found.broken
    assert found.epsilon_lower > 0.85 * worth
    assert found.fault == fault


def test_the_bound_is_the_clopper_pearson_ratio():
    score = np.tile([1, 1, 1, 0], 100)
    other = np.tile([1, 0, 0, 0], 100)
    bound, event, count, count_other = lower_bound(score, other, 0.1)
    assert (count, count_other) in ((150, 50),)
    assert event in ("score >= 1", "score < 1")
    assert 0 < bound < math.log(3)
    assert lower_bound(score, score)[0] == 0.0


def test_a_true_promise_is_seldom_refuted():
    # A coin that tells one bit with epsilon = 1 exactly: refuted in at most 20 % of audits of beta = 0.2.
    p = math.e / (1 + math.e)
    generator = np.random.default_rng(5)
    refuted = sum(
        lower_bound(generator.random(400) < p, generator.random(400) < 1 - p, 0.2)[0] > 1.0 for _ in range(AUDITS)
    )
    assert refuted <= 0.2 * AUDITS


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(UserError, match="finite epsilon"):
        audit(DPBAI(math.inf, BUDGET))
    for cell in ((4, 0), (0, BUDGET), (-1, 0)):
        with pytest.raises(UserError, match="cell"):
            audit(DPBAI(1.0, BUDGET), cell)
    with pytest.raises(UserError, match="not read"):
        audit(DPBAI(1.0, BUDGET), (0, 30))
    with pytest.raises(UserError, match="runs"):
        lower_bound(np.zeros(3), np.zeros(3))
    with pytest.raises(UserError, match="runs"):
        lower_bound(np.array([0, 1, np.nan, 0]), np.zeros(4))
