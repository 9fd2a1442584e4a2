"""Fits on the ball against other solvers, the sandwich against Monte Carlo, and what happens at the bound."""

import numpy as np
import pytest
import scipy.optimize
import torch

from steersman.core.errors import UserError
from steersman.objective.loss.preference import cdpo, dpo, forward_corrected_dpo, ipo, rdpo, slic
from steersman.task.log_linear import World, covariance, draw
from steersman.train.convex import fit_ball

SOLVER = 1e-6  # distance to another solver's solution
SAME = 1e-9
STANDARD_ERRORS = 4.5


def pairs(rate=0.2, samples=400, seeds=(0, 1, 2), features="gaussian", dimension=3):
    return torch.from_numpy(draw(World(features, dimension), samples, seeds).observed(rate))


def scipy_fit(loss, x, start=None, bound=None):
    def value_and_gradient(theta):
        t = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        value = loss(x @ t).mean()
        (gradient,) = torch.autograd.grad(value, t)
        return value.item(), gradient.numpy()

    begin = np.zeros(x.shape[1]) if start is None else start
    if bound is None:
        return scipy.optimize.minimize(value_and_gradient, begin, jac=True, options={"gtol": 1e-10}).x
    ball = {"type": "ineq", "fun": lambda t: bound**2 - t @ t, "jac": lambda t: -2 * t}
    options = {"ftol": 1e-15, "maxiter": 500}
    return scipy.optimize.minimize(
        value_and_gradient, begin, jac=True, method="SLSQP", constraints=[ball], options=options
    ).x


LOSSES = {
    "dpo": lambda h: dpo(h, 1.0),
    "dpo, beta .5": lambda h: dpo(h, 0.5),
    "cdpo": lambda h: cdpo(h, 1.0, 0.2),
    "rdpo": lambda h: rdpo(h, 1.0, 0.2),
    "ipo": lambda h: ipo(h, 0.5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_convex_losses_agree_with_scipy(name):
    x = pairs()
    fit = fit_ball(LOSSES[name], x, 50.0)
    assert fit.converged.all()
    assert not fit.at_bound.any()
    for row in range(len(x)):
        assert fit.theta[row].numpy() == pytest.approx(scipy_fit(LOSSES[name], x[row]), abs=SOLVER)


def test_dpo_is_logistic_regression_without_penalty():
    from sklearn.linear_model import LogisticRegression

    drawn = draw(World("skewed", 3), 500, [4])
    x, y = drawn.difference[0], drawn.clean[0]
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
    fit = fit_ball(LOSSES["dpo"], torch.from_numpy(drawn.observed(0.0)), 50.0)
    assert fit.theta[0].numpy() == pytest.approx(model.coef_[0], abs=1e-5)


def test_ipo_is_least_squares_in_one_step():
    x = pairs()
    fit = fit_ball(LOSSES["ipo"], x, 50.0)
    expected = np.linalg.lstsq(x[0].numpy(), np.ones(x.shape[1]), rcond=None)[0]
    assert fit.theta[0].numpy() == pytest.approx(expected, abs=SAME)
    assert (fit.steps == 1).all()


@pytest.mark.parametrize("bound", [0.3, 1.0])
def test_the_bound_binds_where_it_should_and_the_point_is_the_constrained_minimum(bound):
    x = pairs(0.1)
    fit = fit_ball(LOSSES["rdpo"], x, bound)
    assert fit.converged.all()
    assert fit.at_bound.all()
    assert fit.theta.norm(dim=1).numpy() == pytest.approx(bound, rel=1e-9)
    for row in range(len(x)):
        expected = scipy_fit(LOSSES["rdpo"], x[row], bound=bound)
        assert fit.theta[row].numpy() == pytest.approx(expected, abs=1e-5)


def test_separable_data_end_on_the_ball_for_dpo_and_rdpo():
    x = torch.from_numpy(np.abs(draw(World("gaussian", 2), 60, [0]).difference))  # every pair agrees
    for name in ("dpo", "rdpo"):
        fit = fit_ball(LOSSES[name], x, 8.0)
        assert fit.at_bound.all()
        assert fit.converged.all()
    assert not fit_ball(LOSSES["cdpo"], x, 8.0).at_bound.any()  # bounded below


def test_forward_correction_reaches_a_stationary_point_no_worse_than_scipys():
    def forward(h):
        return forward_corrected_dpo(h, 1.0, 0.2)

    x = pairs(samples=2000)
    start = fit_ball(LOSSES["dpo"], x, 50.0).theta
    fit = fit_ball(forward, x, 50.0, start=start)
    assert fit.converged.all()
    for row in range(len(x)):
        other = scipy_fit(forward, x[row], start[row].numpy())
        assert fit.theta[row].numpy() == pytest.approx(other, abs=1e-5)
        assert float(fit.loss[row]) < float(forward(x[row] @ start[row]).mean())


def test_a_start_where_curvature_is_negative_still_descends():
    def forward(h):
        return forward_corrected_dpo(h, 1.0, 0.2)

    x = pairs(samples=2000)
    far = torch.full((3, 3), -6.0, dtype=torch.float64)
    before = torch.stack([forward(x[r] @ far[r]).mean() for r in range(3)])
    fit = fit_ball(forward, x, 50.0, start=far)
    assert (fit.loss < before).all()
    assert fit.converged.all()


def test_the_result_does_not_depend_on_the_other_replications():
    x = pairs()
    together = fit_ball(LOSSES["rdpo"], x, 8.0)
    alone = fit_ball(LOSSES["rdpo"], x[1:2], 8.0)
    assert together.theta[1].numpy() == pytest.approx(alone.theta[0].numpy(), abs=SAME)
    again = fit_ball(LOSSES["rdpo"], x, 8.0)
    assert torch.equal(together.theta, again.theta)


def test_inputs_and_the_number_of_threads_are_left_alone():
    x = pairs()
    start, copy, threads = torch.zeros(3, 3, dtype=torch.float64), x.clone(), torch.get_num_threads()
    fit_ball(LOSSES["dpo"], x, 8.0, start=start)
    assert torch.equal(x, copy)
    assert not start.any()
    assert torch.get_num_threads() == threads


def test_running_out_of_steps_is_said():
    fit = fit_ball(LOSSES["dpo"], pairs(), 50.0, max_steps=1)
    assert not fit.converged.any()
    assert (fit.steps == 1).all()


@pytest.mark.parametrize("features", ["gaussian", "skewed"])
@pytest.mark.parametrize("estimator", ["dpo_clean", "rdpo", "forward"])
def test_monte_carlo_covariance_is_the_sandwich(features, estimator):
    world, samples, replications, rate = World(features, 2, 1.0), 2000, 400, 0.2
    drawn = draw(world, samples, range(replications))
    x = torch.from_numpy(drawn.observed(0.0 if estimator == "dpo_clean" else rate))
    loss = {
        "dpo_clean": LOSSES["dpo"],
        "rdpo": LOSSES["rdpo"],
        "forward": lambda h: forward_corrected_dpo(h, 1.0, rate),
    }[estimator]
    error = fit_ball(loss, x, 4.0).theta.numpy() - world.truth
    whiten = np.linalg.inv(np.linalg.cholesky(covariance(world, estimator, rate) / samples))
    z = error @ whiten.T  # asymptotically N(0, I)
    assert abs((z**2).mean() - 1) < STANDARD_ERRORS * np.sqrt(2 / z.size)
    assert abs((z[:, 0] * z[:, 1]).mean()) < STANDARD_ERRORS / np.sqrt(replications)


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: fit_ball(LOSSES["dpo"], pairs()[0], 1.0), "shape"),
        (lambda: fit_ball(LOSSES["dpo"], pairs().float(), 1.0), "float64"),
        (lambda: fit_ball(LOSSES["dpo"], pairs() * float("nan"), 1.0), "NaN"),
        (lambda: fit_ball(LOSSES["dpo"], pairs(), 0.0), "radius"),
        (lambda: fit_ball(lambda h: slic(h, 1.0), pairs(), 1.0), "curvature"),
        (lambda: fit_ball(lambda h: h * float("inf"), pairs(), 1.0), "finite"),
    ],
)
def test_bad_input_is_refused(call, word):
    with pytest.raises(UserError, match=word):
        call()
