"""Optimal policies: closed form against the numerical solver and scipy, limits, relabelling, delta method, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from conjoint_cases import random_design, random_model

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import Factor
from steersman.decide.conjoint.optimal import AT_KINK, INDEFINITE, INTERIOR, OUTSIDE, optimize_policy
from steersman.decide.conjoint.outcome import Outcome, Terms
from steersman.decide.conjoint.penalty import Penalty
from steersman.decide.conjoint.policy import FactoredPolicy, Grid, slices

SAME = 1e-8
EXACT = 1e-12
SCIPY = 2e-5
LIMIT = 1e-4
DIFFERENCE = 1e-4
DELTA = 1e-5
"""Central differences of step `DIFFERENCE` against exact derivatives, relative."""
BOOTSTRAP = 0.1
UNROLLED, UNROLLING = 200, 0.01
"""Steps, and how far standard errors by unrolling may be from ours, relative."""


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


def test_closed_form_on_random_instances_where_it_applies_and_refused_where_not():
    """Whether it applies is found by the paper's matrix: eigenvalues below zero, and its solution inside [0, 1]."""
    applied, refused = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sizes = tuple(rng.integers(2, 5, rng.integers(1, 4)))
        model = random_model(seed, sizes, scale=float(rng.uniform(0.02, 0.3)), paired=bool(seed % 2))
        design, lam = random_design(seed, model.factors), float(10 ** rng.uniform(-1.5, 0.5))
        c, b = paper_system(model, design, lam)
        solution = np.linalg.solve(c, b)
        owner = np.concatenate([[d] * (k - 1) for d, k in enumerate(sizes)])
        rest = 1 - np.bincount(owner, solution)
        applies = np.linalg.eigvalsh(c).max() < 0 and min(solution.min(), rest.min()) >= 0
        if applies:
            applied += 1
            closed = optimize_policy(model, design, lam=lam, method="closed")
            numerical = optimize_policy(model, design, lam=lam, method="numerical")
            assert np.abs(closed.policy.x[model.terms.mains] - solution).max() < SAME
            assert np.abs(closed.policy.x - numerical.policy.x).max() < SAME
        else:
            refused += 1
            with pytest.raises(UserError, match="closed form does not hold"):
                optimize_policy(model, design, lam=lam, method="closed")
    assert min(applied, refused) >= 15


def paper_system(model, design, lam):
    """C and B of the paper's linear system, in the levels that are not held out."""
    mains, k = model.terms.mains, len(model.terms.mains)
    _, gamma = model.terms.matrix(model.theta)
    owner = np.concatenate([[d] * (len(f.levels) - 1) for d, f in enumerate(model.factors)])
    same = owner[:, None] == owner[None, :]
    c = np.where(same, -2 * lam, gamma[np.ix_(mains, mains)]) - 2 * lam * np.eye(k)
    p = np.concatenate(design)[mains]
    return c, -model.theta[:k] - 4 * lam * p - 2 * lam * ((same - np.eye(k)) @ p)


def test_closed_form_equals_the_papers_linear_system():
    model, lam = random_model(3), 0.4
    design = random_design(3, model.factors)
    found = optimize_policy(model, design, lam=lam, method="closed").policy.x[model.terms.mains]
    assert np.abs(found - np.linalg.solve(*paper_system(model, design, lam))).max() < SAME


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
    with pytest.raises(UserError, match="no level 'l9'"):
        optimize_policy(random_model(0), forbidden=[{"f0": "l9"}])
    assert optimize_policy(random_model(0, (8, 8, 8, 9), crossed=False), lam=2.0).status == INTERIOR


@pytest.mark.parametrize("kind", ["l1", "linf"])
def test_kinked_penalties_equal_a_linear_program(kind):
    """One factor makes a linear program: max g.x - lam R over x and its absolute differences or its maximum."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        p, g, lam, k = rng.dirichlet(np.ones(4)), rng.normal(size=4), float(rng.uniform(0, 2)), 4
        found = Penalty(kind, lam, p, (slice(0, 4),)).best(g, p)
        extra, eye = (k if kind == "l1" else 1), np.eye(k)
        if kind == "l1":
            above, bound = np.block([[eye, -eye], [-eye, -eye]]), np.concatenate([p, -p])
        else:
            above, bound = np.concatenate([eye, -np.ones((k, 1))], 1), np.zeros(k)
        best = scipy.optimize.linprog(
            np.concatenate([-g, np.full(extra, lam)]), above, bound, [[1.0] * k + [0.0] * extra], [1.0]
        )
        value = g @ found - Penalty(kind, lam, p, (slice(0, 4),)).value(found)
        assert abs(value + best.fun) < SAME


@pytest.mark.parametrize("penalty", ["l1", "linf"])
def test_optima_at_kinks(penalty):
    model = random_model(1, cov=True)
    found = optimize_policy(model, random_design(1, model.factors), penalty, lam=0.01)
    assert found.status == AT_KINK
    assert found.residual < EXACT
    assert found.policy_se.max() == 0.0
    assert found.se > 0
    heavy = optimize_policy(model, random_design(1, model.factors), penalty, lam=10.0).policy
    wanted = np.concatenate(
        random_design(1, model.factors) if penalty == "l1" else [np.full(k, 1 / k) for k in (3, 2, 4)]
    )
    assert np.abs(heavy.x - wanted).max() < EXACT


def test_without_a_penalty_lam_does_nothing():
    model = random_model(1)
    found = optimize_policy(model, penalty="none", lam=5.0)
    assert found.penalty == 0.0
    assert np.abs(found.policy.x - optimize_policy(model, lam=0.0).policy.x).max() < EXACT


def test_forbidden_combinations_are_reported():
    model = random_model(2)
    rules = [{"f0": "l0", "f1": "l1"}, {"f1": "l1", "f2": "l3"}, {"f0": "l0", "f1": "l0"}]
    found = optimize_policy(model, lam=0.5, forbidden=rules)
    grid = Grid(model.factors)
    t = grid.profiles
    bad = ((t[:, 0] == 0) & (t[:, 1] == 1)) | ((t[:, 1] == 1) & (t[:, 2] == 3)) | ((t[:, 0] == 0) & (t[:, 1] == 0))
    assert abs(found.forbidden - grid.joint(found.policy.x)[bad].sum()) < EXACT
    assert optimize_policy(model, lam=0.5).forbidden is None


def test_delta_method_equals_unrolled_gradients():
    """Gradient steps on softmax logits in torch, differentiated through all of them."""
    import torch

    model, lam = random_model(6, (3, 2, 2), scale=0.2, cov=True), 0.5
    found = optimize_policy(model, lam=lam)
    parts, crossed, mains = slices(model.factors), torch.tensor(model.terms.crossed), torch.tensor(model.terms.mains)
    theta = torch.tensor(model.theta, requires_grad=True)

    def policy(a):
        return torch.cat([torch.softmax(a[s], 0) for s in parts])

    def eta(x):
        return torch.cat([x[mains], x[crossed[:, 0]] * x[crossed[:, 1]]]) @ theta

    p, a = torch.tensor(found.design.x), torch.tensor(np.log(found.design.x), requires_grad=True)
    for _ in range(UNROLLED):
        x = policy(a)
        objective = 0.5 + eta(x) - eta(p) - lam * ((x - p) ** 2).sum()
        a = a + 2.0 * torch.autograd.grad(objective, a, create_graph=True)[0]
    x = policy(a)
    rows = [torch.autograd.grad(v, theta, retain_graph=True)[0].numpy() for v in (*x, 0.5 + eta(x) - eta(p))]
    se = np.sqrt(np.einsum("ki,ij,kj->k", rows, model.cov[1:, 1:], rows))
    # The intercept moves the value by itself and the policy not at all.
    full = np.concatenate([[1.0], rows[-1]])
    assert se[:-1] == pytest.approx(found.policy_se, rel=UNROLLING)
    assert np.sqrt(full @ model.cov @ full) == pytest.approx(found.se, rel=UNROLLING)


def test_any_model_of_pairs_plugs_in():
    model = random_model(5, (3, 2, 2), link="logit", cov=True)

    class Plugged:
        factors = model.factors

        def pair_prob(self, first, second):
            return model.predict(first, second)

    found, plugged = optimize_policy(model, lam=0.1), optimize_policy(Plugged(), lam=0.1)
    assert np.abs(found.policy.x - plugged.policy.x).max() < SAME
    assert abs(found.value - plugged.value) < SAME
    assert (plugged.se, found.se > 0) == (0.0, True)
