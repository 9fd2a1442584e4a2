"""Sides of respondents by the split-sample proxy, models of each side, the average case against the game."""

from dataclasses import replace

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData, Factor
from steersman.decide.conjoint.election import Primary
from steersman.decide.conjoint.game import solve_game
from steersman.decide.conjoint.optimal import optimize_policy
from steersman.decide.conjoint.outcome import Outcome, Terms
from steersman.decide.conjoint.parties import average_case, general_models, infer_groups, primary_models

SAME = 1e-8
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
