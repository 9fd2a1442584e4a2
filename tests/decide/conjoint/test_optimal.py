"""Optimal policies: closed form against the numerical solver and scipy, limits, relabelling, delta method, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import Factor
from steersman.decide.conjoint.optimal import INDEFINITE, INTERIOR, OUTSIDE, optimize_policy
from steersman.decide.conjoint.outcome import Outcome, Terms
from steersman.decide.conjoint.policy import FactoredPolicy, Grid, slices

SAME = 1e-8
EXACT = 1e-12
SCIPY = 2e-5
LIMIT = 1e-4
DIFFERENCE = 1e-4
DELTA = 1e-5
"""Central differences of step `DIFFERENCE` against exact derivatives, relative."""
BOOTSTRAP = 0.1


def factors(*sizes):
    return tuple(Factor(f"f{d}", tuple(f"l{i}" for i in range(k))) for d, k in enumerate(sizes))


def random_model(seed, sizes=(3, 2, 4), link="linear", paired=True, scale=0.05, crossed=True, cov=False):
    fs = factors(*sizes)
    pairs = tuple((i, j) for j in range(len(sizes)) for i in range(j)) if crossed else ()
    terms = Terms(fs, tuple(sorted(pairs)))
    rng = np.random.default_rng(seed)
    p = len(terms.names)
    a = rng.normal(size=(p + 1, p + 1)) * 0.01
    return Outcome(terms, rng.normal(size=p) * scale, 0.5 if link == "linear" else 0.0, link, paired,
                   a @ a.T if cov else None)  # fmt: skip


def random_design(seed, fs):
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.full(len(f.levels), 5.0)) for f in fs]


@pytest.mark.parametrize("seed", range(12))
def test_closed_form_equals_the_numerical_optimum(seed):
    model = random_model(seed)
    design = random_design(seed, model.factors)
    for lam in (0.6, 1.0):
        closed = optimize_policy(model, design, lam=lam, method="closed")
        numerical = optimize_policy(model, design, lam=lam, method="numerical")
        assert closed.status == INTERIOR
        assert np.abs(closed.policy.x - numerical.policy.x).max() < SAME
        assert closed.residual < EXACT
        assert abs(closed.value - numerical.value) < SAME
        assert abs(closed.se - numerical.se) < SAME


def test_closed_form_equals_the_papers_linear_system():
    model, lam = random_model(3), 0.4
    design = random_design(3, model.factors)
    mains, k = model.terms.mains, len(model.terms.mains)
    _, gamma = model.terms.matrix(model.theta)
    owner = np.concatenate([[d] * (len(f.levels) - 1) for d, f in enumerate(model.factors)])
    same = owner[:, None] == owner[None, :]
    c = np.where(same, -2 * lam, gamma[np.ix_(mains, mains)]) - 2 * lam * np.eye(k)
    p = np.concatenate(design)[mains]
    b = -model.theta[:k] - 4 * lam * p - 2 * lam * ((same - np.eye(k)) @ p)
    found = optimize_policy(model, design, lam=lam, method="closed").policy.x[mains]
    assert np.abs(found - np.linalg.solve(c, b)).max() < SAME


def test_binary_main_effects_move_by_beta_over_four_lam():
    model = random_model(0, (2, 2, 2), crossed=False)
    found = optimize_policy(model, lam=0.2)
    assert np.abs(found.policy.x[::2] - (0.5 + model.theta / 0.8)).max() < EXACT


@pytest.mark.parametrize("penalty", ["l2", "kl", "reverse_kl"])
@pytest.mark.parametrize("link", ["linear", "logit"])
def test_a_large_lam_gives_the_design(penalty, link):
    model = random_model(1, link=link)
    design = random_design(1, model.factors)
    found = optimize_policy(model, design, penalty, lam=1e4)
    assert np.abs(found.policy.x - np.concatenate(design)).max() < LIMIT


@pytest.mark.parametrize("penalty", ["l2", "kl", "reverse_kl"])
@pytest.mark.parametrize("link", ["linear", "logit"])
def test_the_solver_equals_scipys(penalty, link):
    """SLSQP on the probabilities, from the design, with a penalty and values written anew."""
    model = random_model(5, (3, 2, 2), link=link, scale=0.3)
    design = np.concatenate(random_design(5, model.factors))
    s, grid, lam = slices(model.factors), Grid(model.factors), 0.1
    eta = model.terms.features(grid.onehot) @ model.theta + model.intercept
    other = eta - model.intercept
    gap = eta[:, None] - other[None, :]
    u = (scipy.special.expit(gap) if link == "logit" else gap) @ grid.joint(design)

    def loss(x):
        x = np.maximum(x, 1e-12)
        joint = np.array([np.prod([x[part][t[d]] for d, part in enumerate(s)]) for t in grid.profiles])
        away = {"l2": ((x - design) ** 2).sum(), "kl": (design * np.log(design / x)).sum(),
                "reverse_kl": (x * np.log(x / design)).sum()}[penalty]  # fmt: skip
        return -(joint @ u - lam * away)

    rules = [{"type": "eq", "fun": lambda x, part=part: x[part].sum() - 1} for part in s]
    best = scipy.optimize.minimize(loss, design, method="SLSQP", bounds=[(0, 1)] * len(design), constraints=rules,
                                   options={"ftol": 1e-14, "maxiter": 500})  # fmt: skip
    found = optimize_policy(model, FactoredPolicy(model.factors, design), penalty, lam=lam)
    assert found.value - found.penalty >= -best.fun - SAME
    assert abs(found.value - found.penalty + best.fun) < SCIPY


def test_levels_and_factors_may_be_relabelled():
    """Ratings with effects of all levels coded against another baseline give the same full policy."""
    rng = np.random.default_rng(0)
    a, b, cross = rng.normal(size=3) * 0.1, rng.normal(size=2) * 0.1, rng.normal(size=(3, 2)) * 0.1

    def coded(perm, swap):
        fa = Factor("a", tuple("xyz"[i] for i in perm))
        fb = Factor("b", ("0", "1"))
        worth = (a[:, None] + b[None, :] + cross)[list(perm)]
        base = worth[-1, -1]
        first, second = worth[:-1, -1] - base, worth[-1, :-1] - base
        inter = worth[:-1, :-1] - worth[:-1, -1:] - worth[-1:, :-1] + base
        if swap:
            return Outcome(
                Terms((fb, fa), ((0, 1),)), np.concatenate([second, first, inter.T.ravel()]), base, "linear", False
            )
        return Outcome(
            Terms((fa, fb), ((0, 1),)), np.concatenate([first, second, inter.ravel()]), base, "linear", False
        )

    for penalty in ("l2", "kl"):
        base = optimize_policy(coded((0, 1, 2), False), penalty=penalty, lam=0.5)
        for perm, swap in (((2, 0, 1), False), ((0, 2, 1), True)):
            other = optimize_policy(coded(perm, swap), penalty=penalty, lam=0.5)
            assert abs(other.value - base.value) < SAME
            for f in ("a", "b"):
                assert other.policy[f] == pytest.approx(base.policy[f], abs=SAME)


def test_gibbs_is_the_product_of_main_effects_under_reverse_kl():
    model = random_model(2, crossed=False, paired=False, scale=0.5)
    design, lam = random_design(2, model.factors), 0.3
    found = optimize_policy(model, design, "reverse_kl", lam=lam)
    grid = Grid(model.factors)
    weight = grid.joint(np.concatenate(design)) * np.exp(model.terms.features(grid.onehot) @ model.theta / lam)
    assert np.abs(found.policy.log_prob(grid.profiles) - np.log(weight / weight.sum())).max() < SAME
    assert np.abs(optimize_policy(model, design, "kl", lam=lam).policy.x - found.policy.x).max() > LIMIT


@pytest.mark.parametrize("link", ["linear", "logit"])
def test_value_is_the_enumerated_mean_and_one_hot_gives_the_prediction(link):
    model = random_model(4, link=link)
    found = optimize_policy(model, lam=0.3)
    grid = Grid(model.factors)
    every = np.arange(len(grid.profiles))
    first, second = (grid.profiles[i.ravel()] for i in np.meshgrid(every, every, indexing="ij"))
    table = model.predict(first, second).reshape(len(every), -1)
    mean = grid.joint(found.policy.x) @ table @ grid.joint(found.design.x)
    assert abs(found.value - mean) < EXACT
    best = optimize_policy(model, lam=0.0, opponent=FactoredPolicy(model.factors, grid.onehot[7]))
    assert best.boundary
    assert abs(best.value - table[:, 7].max()) < EXACT


@pytest.mark.parametrize("link,penalty", [("linear", "l2"), ("linear", "kl"), ("logit", "l2"), ("logit", "reverse_kl")])
def test_delta_method_equals_finite_differences(link, penalty):
    model = random_model(6, (3, 2, 2), link=link, scale=0.2, cov=True)
    kw = {"design": random_design(6, model.factors), "penalty": penalty, "lam": 0.5, "restarts": 0}
    found = optimize_policy(model, **kw)
    assert not found.boundary
    columns, values, gains = [], [], []
    for j in range(len(model.theta) + 1):
        ends = []
        for sign in (1, -1):
            moved = model.theta.copy()
            moved[j - 1] += sign * DIFFERENCE * (j > 0)
            shifted = replace(model, theta=moved, intercept=model.intercept + sign * DIFFERENCE * (j == 0))
            ends.append(optimize_policy(shifted, **kw))
        columns.append((ends[0].policy.x - ends[1].policy.x) / (2 * DIFFERENCE))
        values.append((ends[0].value - ends[1].value) / (2 * DIFFERENCE))
        gains.append((ends[0].gain - ends[1].gain) / (2 * DIFFERENCE))
    jac = np.stack(columns, 1)
    assert found.policy_se == pytest.approx(np.sqrt(np.diag(jac @ model.cov @ jac.T)), rel=DELTA)
    assert found.se == pytest.approx(np.sqrt(np.array(values) @ model.cov @ values), rel=DELTA)
    assert found.gain_se == pytest.approx(np.sqrt(np.array(gains) @ model.cov @ gains), rel=DELTA)


def test_delta_method_matches_a_parametric_bootstrap():
    model = random_model(8, (3, 2, 2), cov=True)
    found = optimize_policy(model, lam=0.6)
    draws = np.random.default_rng(0).multivariate_normal([model.intercept, *model.theta], model.cov, 1000)
    again = [optimize_policy(replace(model, intercept=d[0], theta=d[1:]), lam=0.6) for d in draws]
    assert np.std([a.value for a in again]) == pytest.approx(found.se, rel=BOOTSTRAP)
    assert np.std([a.policy.x for a in again], axis=0) == pytest.approx(found.policy_se, rel=BOOTSTRAP)


def test_statuses_and_refusal_of_the_closed_form():
    model = random_model(0, scale=0.5)
    least = optimize_policy(model, lam=1.0).least_lam
    assert least > 0
    below = optimize_policy(model, lam=least * 0.9)
    assert below.status == INDEFINITE
    assert optimize_policy(model, lam=least * 1.1).status != INDEFINITE
    steep = random_model(0, crossed=False, scale=0.5)
    outside = optimize_policy(steep, lam=0.05)
    assert outside.status == OUTSIDE
    assert outside.boundary
    assert outside.residual < EXACT
    for refused, word in ((model, "indefinite"), (steep, "outside simplex")):
        with pytest.raises(UserError, match=word):
            optimize_policy(refused, lam=least * 0.9 if refused is model else 0.05, method="closed")
    with pytest.raises(UserError, match="needs a linear link"):
        optimize_policy(random_model(0, link="logit"), method="closed")


def test_levels_never_shown_stay_at_zero():
    model = random_model(0, (3, 2))
    for penalty in ("l2", "kl", "reverse_kl"):
        found = optimize_policy(model, [[0.5, 0.5, 0.0], [0.4, 0.6]], penalty, lam=0.3)
        assert found.policy["f0"]["l2"] == 0.0
        assert not found.boundary


def test_refusals():
    model = random_model(0)
    for options, word in (({"lam": -1.0}, "out of range"), ({"penalty": "l3"}, "no penalty"),
                          ({"method": "magic"}, "no method"), ({"design": [[1.0]]}, "has 1 factors")):  # fmt: skip
        with pytest.raises(UserError, match=word):
            optimize_policy(model, **options)
    with pytest.raises(UserError, match="no opponent"):
        optimize_policy(random_model(0, paired=False), opponent=[[1, 0, 0], [1, 0], [1, 0, 0, 0]])
    with pytest.raises(UserError, match="too many to enumerate"):
        optimize_policy(random_model(0, (8, 8, 8, 9), link="logit", crossed=False))
    assert optimize_policy(random_model(0, (8, 8, 8, 9), crossed=False), lam=2.0).status == INTERIOR
