"""The group lasso: stationarity, freedom from coding, and what it keeps of known interactions."""

import numpy as np
from conjoint_cases import factors

from steersman.decide.conjoint.data import ConjointData
from steersman.decide.conjoint.outcome import Outcome, PairLogit, RatingLinear, Terms
from steersman.decide.conjoint.screening import _Problem, screen

SAME = 1e-5
FACTORS = factors(3, 2, 3, 2)


def survey(n, seed, gamma=0.8, paired=False):
    terms = Terms(FACTORS, ((0, 2),))
    rng = np.random.default_rng(seed)
    theta = np.concatenate([rng.normal(size=6) * 0.5, np.full(4, gamma)])
    first, second = (np.stack([rng.integers(0, len(f.levels), n) for f in FACTORS], 1) for _ in "ab")
    model = Outcome(terms, theta, 0.0, "logit" if paired else "linear", paired)
    if not paired:
        return ConjointData(FACTORS, first, None, model.predict(first) + rng.normal(size=n) * 0.5)
    y = (rng.random(n) < model.predict(first, second)).astype(float)
    return ConjointData(FACTORS, first, second, y, np.repeat(np.arange(n // 4), 4))


def test_what_the_lasso_ends_at_is_a_minimum():
    """Slope of a group that is kept: lam sqrt(k) in its own direction; of others: no more than that."""
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(200, 2)), [rng.normal(size=(200, k)) for k in (1, 3, 2)]
    y = groups[1] @ [1.0, -0.5, 0.2] + rng.normal(size=200)
    problem = _Problem(x, groups, y)
    lam = problem.most() * 0.3
    coefficients = problem.path(np.array([lam]))[0]
    rest = y - np.concatenate([x, *groups], 1) @ coefficients
    assert np.abs(x.T @ rest).max() < SAME * len(y)
    at, kept = 2, []
    for z, basis in zip(groups, problem.bases, strict=True):
        c, slope = coefficients[at : at + z.shape[1]], basis.T @ rest
        price = lam * z.shape[1] ** 0.5
        fitted = basis.T @ (z @ c)
        if np.any(c):
            assert np.abs(slope - price * fitted / np.linalg.norm(fitted)).max() < SAME * len(y)
        else:
            assert np.linalg.norm(slope) <= price + SAME
        kept.append(bool(np.any(c)))
        at += z.shape[1]
    assert kept[1]
    assert not all(kept)
    assert not problem.path(np.array([problem.most() * 1.001]))[0][2:].any()


def test_known_interactions_are_kept():
    for seed in range(5):
        for kind, data in ((RatingLinear, survey(800, seed)), (PairLogit, survey(3000, seed, paired=True))):
            model = kind("screened").fit(data)
            assert (0, 2) in model.terms.interactions
            assert len(model.terms.interactions) < 6


def test_the_choice_does_not_depend_on_the_held_out_level():
    for seed in range(5):
        data = survey(400, seed, gamma=0.25)
        reversed_ = np.stack([len(f.levels) - 1 - data.first[:, d] for d, f in enumerate(FACTORS)], 1)
        turned = ConjointData(FACTORS, reversed_, None, data.outcome)
        assert RatingLinear("screened").fit(data).terms == RatingLinear("screened").fit(turned).terms


def test_nothing_to_screen():
    assert screen(np.ones((10, 1)), [], np.zeros(10), np.arange(10), False) == ()
