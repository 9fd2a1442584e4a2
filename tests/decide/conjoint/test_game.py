"""The game: push-forward, symmetry, limits, exploitability, standard errors against differences, refusals."""

from dataclasses import replace

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import Factor
from steersman.decide.conjoint.election import Election, Primary
from steersman.decide.conjoint.game import solve_game
from steersman.decide.conjoint.outcome import Outcome, Terms
from steersman.decide.conjoint.policy import Grid

EXACT = 1e-12
SAME = 1e-8
LIMIT = 1e-3
SOLVED = 1e-6
STEP = 1e-4
DELTA = 1e-5
BINARY = tuple(Factor(f"f{d}", ("0", "1")) for d in range(3))
MIXED = (Factor("a", ("x", "y", "z")), Factor("b", ("0", "1")))


def model(seed, factors=BINARY, scale=0.5, intercept=0.0, cov=False, link="logit"):
    pairs = tuple((i, j) for i in range(len(factors)) for j in range(i + 1, len(factors)))
    terms = Terms(factors, pairs)
    rng = np.random.default_rng(seed)
    p = len(terms.names)
    root = rng.normal(size=(p + 1, p + 1)) * 0.02
    return Outcome(terms, rng.normal(size=p) * scale, intercept, link, True, root @ root.T if cov else None)


def models(factors=BINARY, **kw):
    return {"D": model(1, factors, intercept=0.6, **kw), "R": model(2, factors, intercept=-0.5, **kw)}


SHARES = {"D": 0.45, "R": 0.55}
UNIFORM = np.full(6, 0.5)


def primary(factors=BINARY, strength=1.0, **kw):
    return Primary(strength, {"D": model(3, factors, **kw), "R": model(4, factors, **kw)})


@pytest.mark.parametrize("penalty", ["l2", "kl", "reverse_kl"])
@pytest.mark.parametrize("institution", [None, Primary(), primary()])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_three_binary_factors_are_solved(penalty, institution, share):
    found = solve_game(models(), {"D": share, "R": 1 - share}, institution, penalty=penalty, lam=0.1)
    assert found.exploitability < LIMIT
    assert found.status == "equilibrium"
    assert found.residual < SAME or found.boundary


def test_nominees_are_a_distribution_and_the_four_terms_are_the_payoff():
    game = Election(models(), SHARES, ("D", "R"), UNIFORM, primary())
    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(8)), rng.dirichlet(np.ones(8))
    nominees = game.K[0] @ a, game.K[1] @ b
    for nu in nominees:
        assert nu.min() >= 0
        assert abs(nu.sum() - 1) < EXACT
    (ka, _), (kb, _), p, total = *game.kappa, game.field, 0.0
    for t in range(8):
        for tt in range(8):
            for u in range(8):
                for uu in range(8):
                    chance = a[t] * p[tt] * b[u] * p[uu]
                    total += chance * (
                        ka[t, tt] * (kb[u, uu] * game.C[t, u] + (1 - kb[u, uu]) * game.C[t, uu])
                        + (1 - ka[t, tt]) * (kb[u, uu] * game.C[tt, u] + (1 - kb[u, uu]) * game.C[tt, uu])
                    )
    assert abs(a @ game.M @ b - total) < EXACT


def test_primaries_by_coin_and_by_force():
    game = Election(models(), SHARES, ("D", "R"), UNIFORM, primary(strength=0.0))
    a = np.random.default_rng(0).dirichlet(np.ones(8))
    assert np.abs(game.K[0] @ a - (a + game.field) / 2).max() < EXACT
    mains = Outcome(Terms(BINARY, ()), np.ones(3), 0.0, "logit", True)
    strong = Election(models(), SHARES, ("D", "R"), UNIFORM, Primary(1e3, {"D": mains, "R": mains}))
    best = np.eye(8)[0]
    assert np.abs(strong.K[0] @ best - best).max() < EXACT


def test_shares_of_both_sum_to_one_when_parties_change_places():
    def turned(m):
        return replace(m, intercept=-m.intercept)

    found = solve_game(models(), SHARES, primary(), lam=0.1)
    other = {g: turned(m) for g, m in models().items()}
    back = solve_game(other, SHARES, primary(), lam=0.1, parties=("R", "D"))
    assert abs(found.value + back.value - 1) < SAME
    assert np.abs(found.policy["D"].x - back.policy["D"].x).max() < SAME


def test_a_symmetric_game_is_even():
    same = {"D": model(1), "R": model(1)}
    for penalty in ("l2", "kl"):
        found = solve_game(same, SHARES, Primary(), penalty=penalty, lam=0.2)
        assert abs(found.value - 0.5) < SAME
        assert np.abs(found.policy["D"].x - found.policy["R"].x).max() < SAME


@pytest.mark.parametrize("penalty", ["l2", "kl"])
def test_a_large_lam_gives_the_design(penalty):
    design = [[0.2, 0.3, 0.5], [0.6, 0.4]]
    found = solve_game(models(MIXED), SHARES, primary(MIXED), design, penalty, lam=1e3)
    for policy in found.policy.values():
        assert np.abs(policy.x - np.concatenate(design)).max() < LIMIT
    assert abs(found.value - found.at_design) < LIMIT


def test_without_interactions_a_linear_game_is_two_separate_problems():
    linear = {g: Outcome(Terms(BINARY, ()), m.theta[:3] * 0.1, 0.5, "linear", True) for g, m in models().items()}
    found = solve_game(linear, SHARES, lam=0.5)
    slope = sum(SHARES[g] * m.theta for g, m in linear.items())
    for policy in found.policy.values():
        assert np.abs(policy.x[::2] - (0.5 + slope / 2)).max() < SAME
    assert abs(found.value - 0.5) < SAME


def test_the_grid_finds_no_better_answer():
    """Two binary factors: a lattice of product policies cannot gain on the equilibrium of either."""
    two = BINARY[:2]
    found = solve_game(models(two), SHARES, lam=0.1)
    game, grid = Election(models(two), SHARES, ("D", "R"), UNIFORM[:4], None), Grid(two)
    a, b = (found.policy[g].x for g in "DR")
    away = lambda x: 0.1 * ((x - 0.5) ** 2).sum()  # noqa: E731
    here = found.value - away(a) + away(b)
    for s in np.linspace(0, 1, 21):
        for t in np.linspace(0, 1, 21):
            x = np.array([s, 1 - s, t, 1 - t])
            assert grid.joint(x) @ game.M @ grid.joint(b) - away(x) + away(b) <= here + SAME
            assert grid.joint(a) @ game.M @ grid.joint(x) - away(a) + away(x) >= here - SAME


@pytest.mark.parametrize("own", ["none", "own primaries", "general models"])
@pytest.mark.parametrize("penalty", ["l2", "kl"])
def test_standard_errors_equal_finite_differences(own, penalty):
    general = models(MIXED, cov=True)
    stage = {"none": None, "own primaries": primary(MIXED, 1.5, cov=True), "general models": Primary(1.5)}[own]
    options = {"penalty": penalty, "lam": 0.3, "restarts": 0}
    found = solve_game(general, SHARES, stage, **options)
    assert not found.boundary
    value, policy = 0.0, {"D": 0.0, "R": 0.0}
    for where in ("general", "primary") if own == "own primaries" else ("general",):
        for g in "DR":
            at = (general if where == "general" else stage.models)[g]
            rows = []
            for j in range(len(at.theta) + 1):
                ends = []
                for sign in (STEP, -STEP):
                    theta = at.theta.copy()
                    theta[j - 1] += sign * (j > 0)
                    new = replace(at, theta=theta, intercept=at.intercept + sign * (j == 0))
                    if where == "general":
                        ends.append(solve_game(general | {g: new}, SHARES, stage, **options))
                    else:
                        ends.append(
                            solve_game(general, SHARES, replace(stage, models=stage.models | {g: new}), **options)
                        )
                up, down = ([e.value, *e.policy["D"].x, *e.policy["R"].x] for e in ends)
                rows.append((np.array(up) - np.array(down)) / (2 * STEP))
            spread = np.diag(np.array(rows).T @ at.cov @ np.array(rows))
            value += spread[0]
            policy = {"D": policy["D"] + spread[1:6], "R": policy["R"] + spread[6:]}
    assert found.se == pytest.approx(value**0.5, rel=DELTA)
    for g in "DR":
        assert found.policy_se[g] == pytest.approx(np.sqrt(policy[g]), rel=DELTA)


@pytest.mark.parametrize("penalty", ["l2", "kl"])
@pytest.mark.parametrize("newton", [True, False])
def test_solvers_agree(penalty, newton):
    options = {"penalty": penalty, "lam": 0.1, "newton": newton}
    one = solve_game(models(), SHARES, primary(), **options)
    two = solve_game(models(), SHARES, primary(), solver="ogda", **options)
    for party in "DR":
        assert np.abs(one.policy[party].x - two.policy[party].x).max() < SOLVED
    assert max(one.exploitability, two.exploitability) < SAME


def test_a_model_without_coefficients_plays():
    class Plugged:
        factors = BINARY

        def __init__(self, known):
            self.known = known

        def pair_prob(self, first, second):
            return self.known.predict(first, second)

    known = models()
    stage = Primary(1.5, {g: Plugged(m) for g, m in primary().models.items()})
    found = solve_game({g: Plugged(m) for g, m in known.items()}, SHARES, stage, lam=0.1)
    same = solve_game(known, SHARES, primary(strength=1.5), lam=0.1)
    assert abs(found.value - same.value) < SAME
    assert found.se == 0.0
    assert found.exploitability < LIMIT


def test_a_bilinear_game_without_a_penalty_is_solved():
    """Matching pennies in one factor: neither party can do better than a coin, and plain steps circle."""
    one = BINARY[:1]

    class Pennies:
        factors = one

        def pair_prob(self, first, second):
            return np.where(first[:, 0] == second[:, 0], 0.9, 0.1)

    game, start = {"D": Pennies(), "R": Pennies()}, [[0.8, 0.2]]
    for solver in ("extragradient", "ogda"):
        found = solve_game(game, SHARES, design=start, penalty="none", solver=solver, newton=False)
        assert np.abs(found.policy["D"].x - 0.5).max() < SOLVED
        assert found.exploitability < SOLVED
    circling = solve_game(game, SHARES, design=start, penalty="none", solver="simultaneous", steps=500, step=0.1)
    assert circling.exploitability > 10 * LIMIT


def test_exploitability_sees_what_is_no_equilibrium():
    """One simultaneous step from the design is not yet an equilibrium; extragradient is."""
    early = solve_game(models(), SHARES, lam=0.01, solver="simultaneous", steps=1, step=0.01, tolerance=1e-4)
    assert early.exploitability > LIMIT
    assert early.status == "stationary point that can be exploited"
    assert solve_game(models(), SHARES, lam=0.01).exploitability < LIMIT


def test_refusals():
    game = models()
    for options, word in (
        ({"shares": {"D": 1.0}}, "are of groups"),
        ({"shares": {"D": 0.5, "R": 0.6}}, "are no shares"),
        ({"solver": "magic"}, "no solver"),
        ({"parties": ("D", "D")}, "are not two"),
        ({"institution": Primary(models={"D": game["D"]})}, "no model of the primary of .'R'"),
        ({"institution": Primary(models={"D": game["D"], "R": model(1, MIXED)})}, "same factors"),
        ({"institution": Primary(models={g: model(1, link="linear") for g in "DR"})}, "needs a logit"),
        ({"steps": 0}, "must be positive"),
        ({"penalty": "l1"}, "has kinks"),
    ):
        with pytest.raises(UserError, match=word):
            solve_game(**({"models": game, "shares": SHARES} | options))
    with pytest.raises(UserError, match="out of range"):
        Primary(-1.0)
    with pytest.raises(UserError, match="two groups"):
        solve_game({"D": game["D"]}, {"D": 1.0})
