"""Sides of respondents by the split-sample proxy, models of each side, the average case against the game."""

from dataclasses import replace

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.conjoint.crossfit import bootstrap_respondents
from steersman.decide.conjoint.data import ConjointData, Factor
from steersman.decide.conjoint.election import Primary
from steersman.decide.conjoint.game import solve_game
from steersman.decide.conjoint.optimal import optimize_policy
from steersman.decide.conjoint.outcome import Outcome, Terms
from steersman.decide.conjoint.parties import average_case, general_models, infer_groups, pooled_models, primary_models

SAME = 1e-8
SMALL_SAMPLE = 0.01
"""The factors G/(G-1) and (n-1)/(n-k) of a clustered covariance."""
SPREAD = 0.25
FACTORS = tuple(Factor(f"f{d}", ("0", "1")) for d in range(2))
PARTIES = ("D", "R")


def survey(n=400, tasks=10, seed=0, loyalty=1.5):
    """Respondents of two true sides who favour their party, and a level each."""
    rng = np.random.default_rng(seed)
    rows, true = n * tasks, rng.integers(0, 2, n)
    who = np.repeat(np.arange(n), tasks)
    first, second = rng.integers(0, 2, (rows, 2)), rng.integers(0, 2, (rows, 2))
    party = np.array(PARTIES)[rng.integers(0, 2, (rows, 2))]
    sign = np.where(true[who] == 0, 1.0, -1.0)
    odds = loyalty * sign * ((party[:, 0] == "D").astype(float) - (party[:, 1] == "D"))
    odds += 0.8 * sign * (first[:, 0] - second[:, 0]) + 0.5 * (first[:, 1] - second[:, 1])
    y = (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(float)
    return ConjointData(FACTORS, first, second, y, who, None, party), true


def test_sides_are_inferred_from_even_tasks_only():
    data, true = survey()
    found = infer_groups(data, PARTIES)
    assert found.rows_used + len(found.data) == len(data)
    task = np.tile(np.arange(10), 400)
    changed = data.outcome.copy()
    changed[task % 2 == 0] = 1 - changed[task % 2 == 0]
    other = infer_groups(
        ConjointData(FACTORS, data.first, data.second, changed, data.cluster, None, data.party), PARTIES
    )
    assert other.respondents == found.respondents
    right = np.array(PARTIES)[true[found.data.cluster]] == found.data.group
    assert right.mean() > 0.8
    assert found.agreement["D"] > 0.7 > 0.3 > found.agreement["R"]
    assert sum(found.respondents.values()) == 400


def test_a_proxy_of_noise_has_no_agreement():
    found = infer_groups(survey(loyalty=0.0, seed=3)[0], PARTIES)
    assert abs(found.agreement["D"] - found.agreement["R"]) < 0.12


def test_models_of_each_side():
    data = infer_groups(survey()[0], PARTIES).data
    models, shares = general_models(data, PARTIES)
    assert list(models) == ["D", "R"]
    assert abs(sum(shares.values()) - 1) < SAME
    assert models["D"].intercept > 0.5 > -0.5 > models["R"].intercept
    primaries = primary_models(data, PARTIES, "none")
    assert primaries["D"].intercept == 0.0
    assert primaries["D"].theta[0] < -0.3 < 0.3 < primaries["R"].theta[0]


def test_pooled_models_lie_between_separate_and_shared_ones():
    data = infer_groups(survey(600)[0], PARTIES).data
    models, shares = general_models(data, PARTIES)
    primaries = primary_models(data, PARTIES)
    alone, weights, stage = pooled_models(data, PARTIES, pooling=0.0, strength=2.0)
    assert weights == shares
    assert stage.strength == 2.0
    _, _, one = pooled_models(data, PARTIES, pooling=1e12)
    some, _, between = pooled_models(data, PARTIES)
    for g in PARTIES:
        assert np.abs(alone[g].theta - models[g].theta).max() < SAME
        assert np.abs(stage.models[g].theta - primaries[g].theta).max() < SAME
        assert alone[g].cov == pytest.approx(models[g].cov, rel=SMALL_SAMPLE)
        n = len(data.judged_by(g).between(*PARTIES))
        w = 50 / (50 + n)
        wanted = (1 - w) * models[g].theta + w * one.models[g].theta
        assert np.abs(some[g].theta - wanted).max() < SAME
        assert 0 < abs(between.cross[g]).max() < abs(some[g].cov).max()
    with pytest.raises(UserError, match="out of range"):
        pooled_models(data, PARTIES, pooling=-1.0)


def test_covariances_of_pooled_stages_match_a_bootstrap():
    data = infer_groups(survey(160)[0], PARTIES).data

    def coefficients(d):
        models, _, stage = pooled_models(d, PARTIES, "none", pooling=300.0)
        return [*models["D"].theta, *stage.models["D"].theta]

    draws = np.cov(bootstrap_respondents(data, coefficients, 200).T)
    models, _, stage = pooled_models(data, PARTIES, "none", pooling=300.0)
    ours = np.block([[models["D"].cov[1:, 1:], stage.cross["D"][1:, 1:]],
                     [stage.cross["D"][1:, 1:].T, stage.models["D"].cov[1:, 1:]]])  # fmt: skip
    scale = np.sqrt(np.outer(np.diag(ours), np.diag(ours)))
    assert np.abs((draws - ours) / scale).max() < SPREAD
    assert np.abs(ours[:2, 2:] / scale[:2, 2:]).max() > SPREAD


def test_the_covariance_of_two_stages_enters_standard_errors():
    """Fully correlated stages, one coefficient moved in both: the variance of a sum, not a sum of variances."""
    terms = Terms(FACTORS, ())
    cov = np.diag([0.0, 0.01, 0.02])
    model = {
        g: Outcome(terms, np.array(t), b, "logit", True, cov)
        for g, t, b in (("D", [1.0, -0.3], 0.9), ("R", [0.2, 0.6], -0.2))
    }
    own = {g: replace(m, intercept=0.0) for g, m in model.items()}
    shares, options = {"D": 0.7, "R": 0.3}, {"lam": 0.3}
    apart = solve_game(model, shares, Primary(1.0, own), **options)
    joint = solve_game(model, shares, Primary(1.0, own, dict.fromkeys(own, cov)), **options)
    variance = 0.0
    for g in own:
        for j in range(2):
            ends = []
            for sign in (1e-4, -1e-4):
                moved = np.eye(2)[j] * sign
                general = model | {g: replace(model[g], theta=model[g].theta + moved)}
                stage = own | {g: replace(own[g], theta=own[g].theta + moved)}
                ends.append(solve_game(general, shares, Primary(1.0, stage), **options).value)
            variance += ((ends[0] - ends[1]) / 2e-4) ** 2 * cov[j + 1, j + 1]
    assert joint.se == pytest.approx(variance**0.5, rel=1e-5)
    assert abs(joint.se - apart.se) > 0.01 * apart.se


def game_models(cov=False):
    terms = Terms(FACTORS, ((0, 1),))
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4)) * 0.05
    return {
        g: Outcome(terms, rng.normal(size=3), b, "logit", True, root @ root.T if cov else None)
        for g, b in (("D", 0.4), ("R", -0.3))
    }


def test_average_case_of_one_group_is_the_optimal_policy():
    model = game_models(cov=True)["D"]
    alone = average_case({"D": model}, {"D": 1.0}, lam=0.2, parties=PARTIES)
    found = optimize_policy(model, lam=0.2)
    assert np.abs(alone.policy.x - found.policy.x).max() < SAME
    assert abs(alone.value - found.value) < SAME
    assert abs(alone.se - found.se) < SAME


@pytest.mark.parametrize("institution", [None, Primary(2.0)])
def test_average_case_promises_at_least_the_equilibrium(institution):
    shares = {"D": 0.5, "R": 0.5}
    average = average_case(game_models(), shares, lam=0.02, institution=institution)
    assert average.value > solve_game(game_models(), shares, institution, lam=0.02).value
    assert average.se == 0.0


def test_refusals():
    data = survey(20)[0]
    with pytest.raises(UserError, match="only be inferred"):
        infer_groups(replace(data, cluster=None), PARTIES)
    with pytest.raises(UserError, match="nobody leans"):
        infer_groups(data, ("D", "X"))
    with pytest.raises(UserError, match="no group"):
        general_models(data, PARTIES)
    grouped = infer_groups(survey()[0], PARTIES).data
    with pytest.raises(UserError, match="no respondent is in"):
        general_models(grouped, ("D", "X"))
