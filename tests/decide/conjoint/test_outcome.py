"""Outcome models against what is known: exact recovery, hand-made sandwiches, refusals."""

import numpy as np
import pytest
import scipy.special

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData, Factor
from steersman.decide.conjoint.outcome import Outcome, PairLinear, PairLogit, RatingLinear, Terms

EXACT = 1e-10
FACTORS = (Factor("a", ("x", "y", "z")), Factor("b", ("0", "1")), Factor("c", ("0", "1")))
SIZES = (3, 2, 2)


def drawn(n, seed, paired):
    rng = np.random.default_rng(seed)
    first = np.stack([rng.integers(0, k, n) for k in SIZES], 1)
    second = np.stack([rng.integers(0, k, n) for k in SIZES], 1) if paired else None
    return rng, first, second


def truth(link, paired, seed=0, intercept=0.0, scale=0.5):
    terms = Terms(FACTORS, ((0, 1), (0, 2), (1, 2)))
    theta = np.random.default_rng(seed).normal(size=len(terms.names)) * scale
    return Outcome(terms, theta, intercept, link, paired)


def test_noiseless_ratings_give_the_coefficients_back():
    _, first, _ = drawn(200, 1, False)
    model = truth("linear", False, intercept=2.0)
    fitted = RatingLinear().fit(ConjointData(FACTORS, first, None, model.predict(first)))
    assert np.abs(fitted.theta - model.theta).max() < EXACT
    assert abs(fitted.intercept - 2.0) < EXACT


def test_logit_solves_its_likelihood_equations_and_finds_the_truth():
    rng, first, second = drawn(20_000, 2, True)
    model = truth("logit", True)
    y = (rng.random(20_000) < model.predict(first, second)).astype(float)
    fitted = PairLogit().fit(ConjointData(FACTORS, first, second, y))
    se = np.sqrt(np.diag(fitted.cov))[1:]
    assert (np.abs(fitted.theta - model.theta) < 4 * se).all()
    assert fitted.intercept == 0.0
    swapped = fitted.predict(second, first)
    assert np.abs(swapped + fitted.predict(first, second) - 1).max() < EXACT


def test_robust_covariance_is_the_hand_made_sandwich():
    rng, first, second = drawn(300, 3, True)
    y = (rng.random(300) < 0.5).astype(float)
    cluster = np.repeat(np.arange(60), 5)
    fitted = PairLinear(interactions="none").fit(ConjointData(FACTORS, first, second, y, cluster))
    terms = Terms(FACTORS, ())
    one = [np.concatenate([np.eye(k)[p[:, d]] for d, k in enumerate(SIZES)], 1) for p in (first, second)]
    x = terms.features(one[0]) - terms.features(one[1])
    beta = np.linalg.solve(x.T @ x, x.T @ (y - 0.5))
    meat = np.zeros((4, 4))
    for g in range(60):
        s = x[cluster == g].T @ (y - 0.5 - x @ beta)[cluster == g]
        meat += np.outer(s, s)
    bread = np.linalg.inv(x.T @ x)
    assert np.abs(fitted.cov[1:, 1:] - bread @ meat @ bread * (60 / 59) * (299 / 296)).max() < EXACT
    assert fitted.cov[0].tolist() == [0.0] * 5
    assert fitted.intercept == 0.5


def test_model_covariance_of_a_logit_is_the_inverse_information():
    rng, first, second = drawn(500, 4, True)
    y = (rng.random(500) < 0.5).astype(float)
    fitted = PairLogit(interactions="none", vcov="model", intercept=True).fit(ConjointData(FACTORS, first, second, y))
    terms = Terms(FACTORS, ())
    one = [np.concatenate([np.eye(k)[p[:, d]] for d, k in enumerate(SIZES)], 1) for p in (first, second)]
    x = np.concatenate([np.ones((500, 1)), terms.features(one[0]) - terms.features(one[1])], 1)
    p = scipy.special.expit(x @ np.array([fitted.intercept, *fitted.theta]))
    assert np.abs(x.T @ (y - p)).max() < 1e-6
    assert np.abs(fitted.cov - np.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]))).max() < EXACT


def test_collinear_columns_are_dropped_and_named():
    _, first, _ = drawn(200, 5, False)
    first[:, 2] = first[:, 1]
    fitted = RatingLinear(interactions="none").fit(ConjointData(FACTORS, first, None, first[:, 1] * 1.0))
    assert fitted.dropped == ("c=0",)
    assert abs(fitted.theta[2] + 1) < EXACT
    assert fitted.cov[4].tolist() == [0.0] * 5


def test_separation_is_met_by_a_ridge():
    _, first, second = drawn(100, 6, True)
    keep = first[:, 1] != second[:, 1]
    data = ConjointData(FACTORS, first[keep], second[keep], (first[:, 1] > second[:, 1]).astype(float)[keep])
    fitted = PairLogit(interactions="none").fit(data)
    assert fitted.ridge > 0
    assert np.isfinite(fitted.theta).all()


def test_chosen_interactions():
    _, first, _ = drawn(200, 7, False)
    fitted = RatingLinear(interactions=[("c", "a")]).fit(ConjointData(FACTORS, first, None, first[:, 1] * 1.0))
    assert fitted.terms.interactions == ((0, 2),)
    assert fitted.terms.names[-1] == "a=y × c=0"


def test_refusals():
    _, first, second = drawn(18, 8, True)
    ratings, pairs = (ConjointData(FACTORS, first, other, np.ones(18)) for other in (None, second))
    with pytest.raises(UserError, match="10 coefficients are too many for 18 rows"):
        _ = RatingLinear().fit(ratings)
    with pytest.raises(UserError, match="needs pairs"):
        PairLogit().fit(ratings)
    with pytest.raises(UserError, match="one cluster only"):
        PairLogit(interactions="none").fit(ConjointData(FACTORS, first, second, np.ones(18), np.zeros(18, int)))
    with pytest.raises(UserError, match="no choice"):
        PairLogit(interactions="some").fit(pairs)
    with pytest.raises(UserError, match="no two factors"):
        PairLogit(interactions=[("a", "a")]).fit(pairs)
