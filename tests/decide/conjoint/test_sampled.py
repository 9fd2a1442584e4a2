"""The sampled surface against enumeration, its derivatives against each other, and optima of large problems."""

import numpy as np
import pytest
from conjoint_cases import factors, random_design, random_model

from steersman.decide.conjoint.optimal import optimize_policy
from steersman.decide.conjoint.policy import Grid
from steersman.decide.conjoint.sampled import Sampled
from steersman.decide.conjoint.surface import surface

SAMPLING = 1e-3
"""Noise of 8,192 quasi-random profiles in any mean."""
POLICY = 0.01
RELATIVE = 0.02


@pytest.mark.parametrize("paired", [True, False])
def test_every_derivative_is_near_the_enumerated_one(paired):
    model = random_model(4, (3, 2, 4, 3), link="logit", paired=paired, scale=0.4)
    opponent = np.concatenate(random_design(1, model.factors)) if paired else None
    x = np.concatenate(random_design(2, model.factors))
    exact, drawn = surface(model, opponent), Sampled(model, opponent)
    assert abs(exact.value(x) - drawn.value(x)) < SAMPLING
    for name in ("gradient", "hessian", "value_theta", "gradient_theta"):
        assert np.abs(getattr(exact, name)(x) - getattr(drawn, name)(x)).max() < SAMPLING, name
    for d, s in enumerate(exact.grid.slices):
        assert np.abs(drawn.partial(x, d) - drawn.gradient(x)[s]).max() < 1e-12
        assert np.abs(exact.partial(x, d) - exact.gradient(x)[s]).max() < 1e-12


def test_optimum_and_standard_errors_are_near_the_enumerated_ones(monkeypatch):
    model = random_model(3, (3, 2, 4), link="logit", scale=0.4, cov=True)
    exact = optimize_policy(model, lam=0.2)
    monkeypatch.setattr(Grid, "MOST_PROFILES", 10)
    drawn = optimize_policy(model, lam=0.2)
    assert np.abs(exact.policy.x - drawn.policy.x).max() < POLICY
    assert abs(exact.value - drawn.value) < SAMPLING
    assert drawn.se == pytest.approx(exact.se, rel=RELATIVE)
    assert drawn.policy_se == pytest.approx(exact.policy_se, rel=RELATIVE, abs=SAMPLING)
    assert optimize_policy(model, lam=0.2).policy.x.tolist() == drawn.policy.x.tolist()


def test_more_profiles_than_can_be_enumerated():
    model = random_model(0, (8, 8, 8, 9), link="logit", crossed=False, scale=0.4)
    assert len(factors(8, 8, 8, 9)) == 4
    found = optimize_policy(model, lam=0.0, restarts=1)
    best = np.concatenate([np.eye(8)[model.terms.matrix(model.theta)[0][8 * d : 8 * d + 8].argmax()] for d in range(3)])
    assert (found.policy.x[:24] == best).all()
