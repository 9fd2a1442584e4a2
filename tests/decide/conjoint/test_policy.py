"""Product policies: probabilities, divergences, round trip, means over the grid."""

import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import Factor
from steersman.decide.conjoint.policy import FactoredPolicy, Grid, design_policy

EXACT = 1e-12
FACTORS = (Factor("a", ("x", "y", "z")), Factor("b", ("0", "1")))
X = np.array([0.2, 0.3, 0.5, 0.9, 0.1])
POLICY = FactoredPolicy(FACTORS, X)


def test_probabilities_sum_to_one_over_the_grid():
    grid = Grid(FACTORS)
    assert np.abs(np.exp(POLICY.log_prob(grid.profiles)) - grid.joint(X)).max() < EXACT
    assert abs(grid.joint(X).sum() - 1) < EXACT
    assert abs(-(grid.joint(X) * np.log(grid.joint(X))).sum() - POLICY.entropy()) < EXACT


def test_kl_is_that_of_the_joint():
    grid, other = Grid(FACTORS), design_policy(FACTORS, None)
    joint = grid.joint(X)
    assert abs((joint * np.log(joint * 6)).sum() - POLICY.kl_to(other)) < EXACT
    vertex = FactoredPolicy(FACTORS, np.array([1.0, 0, 0, 1, 0]))
    assert POLICY.kl_to(vertex) == math.inf
    assert abs(vertex.kl_to(POLICY) + math.log(0.18)) < EXACT
    assert vertex.log_prob(np.array([[1, 0]]))[0] == -math.inf


def test_divergence_of_profiles():
    other, t = design_policy(FACTORS, None), np.array([[0, 0], [2, 1]])
    assert POLICY.divergence(other, t, 1e-9) == pytest.approx(np.abs(np.log([0.18 * 6, 0.05 * 6])), abs=1e-6)


def test_samples_have_the_probabilities():
    drawn = POLICY.sample(20_000, np.random.default_rng(0))
    assert np.bincount(drawn[:, 0]) / 20_000 == pytest.approx(X[:3], abs=0.015)


def test_grid_derivatives_are_means_given_levels():
    grid = Grid(FACTORS)
    u = np.random.default_rng(0).normal(size=6).reshape(3, 2)
    assert np.abs(grid.gradient(u.ravel(), X) - np.concatenate([u @ X[3:], X[:3] @ u])).max() < EXACT
    assert np.abs(grid.hessian(u.ravel(), X)[:3, 3:] - u).max() < EXACT
    two = np.stack([u.ravel(), 2 * u.ravel()], 1)
    assert np.abs(grid.gradient(two, X)[:, 1] - 2 * grid.gradient(u.ravel(), X)).max() < EXACT


def test_round_trip_with_names():
    again = FactoredPolicy.from_dict(POLICY.to_dict())
    assert again.factors == FACTORS
    assert again.x.tolist() == X.tolist()
    assert again["b"] == {"0": 0.9, "1": 0.1}


def test_designs_by_name_and_refusals():
    named = design_policy(FACTORS, {"b": {"1": 0.1, "0": 0.9}, "a": {"x": 0.2, "y": 0.3, "z": 0.5}})
    assert named.x.tolist() == X.tolist()
    for bad, word in (({"a": {"x": 1.0}}, "does not name every level of .'a', 'b'"),
                      ([[0.5, 0.5, 0.1], [1, 0]], "is no distribution"), ([[1, 0, 0]], "has 1 factors"),
                      ([[1, 0], [1, 0]], "do not fit")):  # fmt: skip
        with pytest.raises(UserError, match=word):
            design_policy(FACTORS, bad)
    with pytest.raises(UserError, match="no factor 'c'"):
        POLICY["c"]
