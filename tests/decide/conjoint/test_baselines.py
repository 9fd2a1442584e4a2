"""Rules of thumb by hand, and the Gibbs optimum against enumeration and the product policy."""

import numpy as np
import pytest
from conjoint_cases import random_design, random_model

from steersman.core.errors import UserError
from steersman.decide.conjoint.baselines import best_profile, gibbs, marginal_means
from steersman.decide.conjoint.data import ConjointData, Factor
from steersman.decide.conjoint.optimal import optimize_policy
from steersman.decide.conjoint.policy import Grid

EXACT = 1e-12
SAME = 1e-8
TWO = (Factor("a", ("x", "y")), Factor("b", ("u", "v", "w")))


def test_marginal_means_by_hand():
    pairs = ConjointData(
        TWO, np.array([[0, 0], [0, 1], [1, 0]]), np.array([[1, 1], [1, 0], [1, 1]]), np.array([1.0, 1.0, 0])
    )
    found = marginal_means(pairs)
    # a: x has 1 and 1; y has 0, 0, 0 and 1. b: u has 1, 0 and 0; v has 1, 0 and 1.
    assert found.x == pytest.approx([1 / 1.25, 0.25 / 1.25, (1 / 3) / 1, (2 / 3) / 1, 0], abs=EXACT)
    nothing = ConjointData(TWO, np.array([[0, 0], [1, 1]]), None, np.zeros(2))
    assert marginal_means(nothing).x.tolist() == [0.5, 0.5, 0.5, 0.5, 0.0]
    with pytest.raises(UserError, match="negative mean"):
        marginal_means(ConjointData(TWO, np.array([[0, 0], [1, 1]]), None, np.array([-1.0, 1.0])))


def test_best_profile_shown():
    model = random_model(0, (3, 2, 4))
    shown = np.random.default_rng(0).integers(0, 2, (12, 3))
    data = ConjointData(model.factors, shown[:6], shown[6:], np.ones(6))
    best = best_profile(model, data)
    scores = [model.predict(t[None], t[None] * 0)[0] for t in shown]
    assert best.log_prob(shown[[int(np.argmax(scores))]])[0] == 0.0


@pytest.mark.parametrize("link", ["linear", "logit"])
@pytest.mark.parametrize("paired", [True, False])
def test_gibbs_is_the_best_of_all_distributions(link, paired):
    model, lam = random_model(3, link=link, paired=paired, scale=0.4), 0.2
    design = random_design(3, model.factors)
    found, product = gibbs(model, design, lam), optimize_policy(model, design, "reverse_kl", lam)
    assert found.objective >= product.value - product.penalty - EXACT
    grid = Grid(model.factors)
    p = grid.joint(np.concatenate(design))
    u = np.array(
        [optimize_policy(model, design, lam=0.0, restarts=0).value]
    )  # the best profile's worth bounds the mean
    assert found.value <= u[0] + EXACT
    # lam log E_p exp(u / lam), the optimum's value by duality, with u from the joint itself.
    worth = lam * np.log(found.joint / p)
    assert np.ptp(worth - worth.mean() - (np.log(found.joint / p) * lam - worth.mean())) < EXACT
    rng = np.random.default_rng(0)
    for _ in range(50):
        other = found.joint * rng.dirichlet(np.ones(len(p))) ** 0.1
        other /= other.sum()
        value = found.value + (other - found.joint) @ worth
        assert value - lam * (other * np.log(other / p)).sum() <= found.objective + EXACT


def test_gibbs_without_interactions_is_the_product():
    model = random_model(2, crossed=False, paired=False, scale=0.5)
    found = gibbs(model, random_design(2, model.factors), 0.3)
    product = optimize_policy(model, random_design(2, model.factors), "reverse_kl", 0.3)
    assert np.abs(found.marginals.x - product.policy.x).max() < SAME
    assert abs(found.value - product.value) < SAME


def test_refusals():
    model = random_model(0)
    with pytest.raises(UserError, match="out of range"):
        gibbs(model, lam=0.0)
    with pytest.raises(UserError, match="no opponent"):
        gibbs(random_model(0, paired=False), opponent=random_design(0, model.factors))
    with pytest.raises(UserError, match="too many to enumerate"):
        gibbs(random_model(0, (8, 8, 8, 9), crossed=False))
