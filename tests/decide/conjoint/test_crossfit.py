"""Cross-fitted values against the truth, weights by hand, AMCE by hand, bootstrap of respondents, refusals."""

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.conjoint.baselines import amce, best_levels
from steersman.decide.conjoint.crossfit import (
    bootstrap_respondents,
    choose_lam,
    crossfit_value,
)
from steersman.decide.conjoint.data import ConjointData, Factor
from steersman.decide.conjoint.optimal import optimize_policy
from steersman.decide.conjoint.outcome import Outcome, PairLinear, PairLogit, RatingLinear, Terms
from steersman.decide.conjoint.surface import surface

EXACT = 1e-10
FACTORS = tuple(Factor(f"f{d}", ("0", "1")) for d in range(4))
SPREAD = 0.15
"""Standard error of a bootstrap against the delta method, relative."""


def world(seed=0, scale=0.8):
    terms = Terms(FACTORS, ((0, 1), (2, 3)))
    return Outcome(terms, np.random.default_rng(seed).normal(size=6) * scale, 0.0, "logit", True)


def survey(n, seed, model=None):
    model, rng = model or world(), np.random.default_rng(seed)
    first, second = rng.integers(0, 2, (n, 4)), rng.integers(0, 2, (n, 4))
    y = (rng.random(n) < model.predict(first, second)).astype(float)
    return ConjointData(FACTORS, first, second, y, np.repeat(np.arange(n // 5), 5))


def test_a_huge_lam_evaluates_the_design():
    found = crossfit_value(survey(500, 0), PairLogit(), lam=1e6)
    assert abs(found.design.value - 0.5) < EXACT
    for other in (found.ips, found.snips, found.dr):
        assert abs(other.value - 0.5) < 1e-3
    assert found.ess == pytest.approx(1000, rel=1e-3)
    assert found.clipped == 0.0


def test_intervals_cover_the_truth_and_the_plug_in_is_optimistic():
    """Means over 20 surveys, each within 4 standard errors of the true value of a policy chosen on 4/5 of the rows."""
    truth, errors, plug = world(), [], []
    base = surface(truth, np.full(8, 0.5))
    for seed in range(20):
        data = survey(300, seed)
        found = crossfit_value(data, PairLogit(), lam=0.05, seed=seed)
        chosen = optimize_policy(PairLogit().fit(data), list(data.design), lam=0.05)
        value = base.value(chosen.policy.x)
        errors.append([x.value - value for x in (found.ips, found.snips, found.dr)])
        plug.append(chosen.value - value)
    errors = np.array(errors)
    error = errors.std(0, ddof=1) / np.sqrt(20)
    # A policy of four fifths of the rows is a little worse than that of all: up to 0.02 here.
    assert (errors.mean(0) < 4 * error).all()
    assert (errors.mean(0) > -4 * error - 0.02).all()
    assert np.mean(plug) > 3 * np.std(plug, ddof=1) / np.sqrt(20)


def test_ips_by_hand_on_two_folds():
    data = survey(200, 3)
    found, total, weights = crossfit_value(data, PairLinear("none"), lam=2.0, folds=2, seed=1), 0.0, []
    from steersman.core import noise

    fold = (noise.generator(1, "conjoint/folds").permutation(40) % 2)[data.cluster]
    for k in (0, 1):
        train, test = data.take(fold != k), data.take(fold == k)
        policy = optimize_policy(PairLinear("none").fit(train), list(train.design), lam=2.0).policy
        for t, y in ((test.first, test.outcome), (test.second, 1 - test.outcome)):
            w = np.prod([policy.parts[d][t[:, d]] / train.design[d][t[:, d]] for d in range(4)], axis=0)
            weights.append(w)
            total += (w * y).sum()
    w = np.concatenate(weights)
    assert abs(found.ips.value - total / 400) < EXACT
    assert abs(found.snips.value - total / w.sum()) < EXACT
    assert abs(found.ess - w.sum() ** 2 / (w**2).sum()) < 1e-6


def test_chosen_lam_is_the_best_of_those_tried():
    best, tried = choose_lam(survey(300, 1), PairLogit("none"), (0.001, 0.1, 10.0), folds=3)
    assert best == max(tried, key=lambda t: t[1].dr.value)[0]
    assert [lam for lam, _ in tried] == [0.001, 0.1, 10.0]
    assert len(choose_lam(survey(100, 1), PairLinear("none"), folds=2)[1]) == 9


def test_bootstrap_spread_agrees_with_the_delta_method():
    data = survey(1000, 2)

    def value(d):
        found = optimize_policy(PairLinear("none").fit(d), list(data.design), lam=1.0)
        return [found.value, found.policy.x[0]]

    draws = bootstrap_respondents(data, value, 300)
    found = optimize_policy(PairLinear("none").fit(data), list(data.design), lam=1.0)
    assert draws.std(0, ddof=1) == pytest.approx([found.se, found.policy_se[0]], rel=SPREAD)
    assert (draws == bootstrap_respondents(data, value, 300)).all()


def test_bootstrap_draws_whole_respondents():
    data = survey(100, 0)
    sizes = bootstrap_respondents(data, lambda d: [len(d), len(np.unique(d.cluster)), d.cluster.max()], 5)
    assert (sizes == [100, 20, 19]).all()


def test_amce_of_a_balanced_table_is_a_difference_of_means():
    rows = np.array([[i >> k & 1 for k in range(4)] for i in range(16)] * 4)
    y = np.random.default_rng(0).normal(size=64)
    effects = amce(ConjointData(FACTORS, rows, None, y))
    for d in range(4):
        assert abs(effects.theta[d] - (y[rows[:, d] == 0].mean() - y[rows[:, d] == 1].mean())) < EXACT
    best = best_levels(effects)
    assert best.x[::2].tolist() == [float(e > 0) for e in effects.theta]


def test_optimum_beats_best_levels_where_two_good_levels_clash():
    terms = Terms(FACTORS, ((0, 1),))
    clash = Outcome(terms, np.array([0.3, 0.25, 0.1, 0.1, -0.45]), 0.0, "linear", False)
    data = ConjointData(FACTORS, np.array([[i >> k & 1 for k in range(4)] for i in range(16)] * 4), None, np.zeros(64))
    data = ConjointData(FACTORS, data.first, None, clash.predict(data.first))
    rule = best_levels(amce(data))
    found = optimize_policy(RatingLinear().fit(data), lam=0.01)
    q = surface(clash, None)
    assert q.value(found.policy.x) > q.value(rule.x) + 0.05


def test_amce_of_pairs_counts_both_profiles():
    data = survey(400, 5)
    effects = amce(data)
    assert effects.rows == 800
    assert effects.clusters == 80
    turned = amce(data.swapped(np.arange(400) % 2 == 0))
    assert np.abs(turned.theta - effects.theta).max() < EXACT


def test_refusals():
    data = survey(100, 0)
    for options, word in (({"folds": 1}, "do not fit 20"), ({"folds": 21}, "do not fit 20"), ({"clip": 0.0}, "out of")):
        with pytest.raises(UserError, match=word):
            crossfit_value(data, PairLinear("none"), **options)
    with pytest.raises(UserError, match="too few"):
        bootstrap_respondents(data, lambda d: [0.0], 1)
    rare = ConjointData((Factor("a", ("0", "1", "2")),), np.array([[0], [1]] * 9 + [[2]]), None, np.arange(19.0))
    with pytest.raises(UserError, match="level that the others never"):
        crossfit_value(rare, RatingLinear(), folds=19)
