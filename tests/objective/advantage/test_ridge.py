"""Ridge against scikit-learn, exactly: wide and tall data, constant columns, the penalty chosen, degenerate data."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.objective.advantage.ridge import GRID, fit_ridge, principal

TOLERANCE = 1e-8


def data(n, d, seed=0):
    draw = generator(seed, "ridge")
    x = draw.normal(size=(n, d)) @ draw.normal(size=(d, d)) + 3
    y = np.clip(x @ draw.normal(size=d) / d / 4 + draw.normal(size=n) / 5, 0, 1)
    x[:, 1] = 0.1  # constant, but not exactly so in floating point
    return x, y, draw.normal(size=(40, d))


@pytest.mark.parametrize(("n", "d"), [(200, 12), (30, 30), (30, 80), (5, 400), (3, 4)])
@pytest.mark.parametrize("alpha", ["auto", 0.01, 316.0])
def test_equals_scikit_learn(n, d, alpha):
    x, y, new = data(n, d)
    model = RidgeCV(alphas=GRID) if alpha == "auto" else Ridge(alpha)
    truth = make_pipeline(StandardScaler(), model).fit(x, y)
    ours = fit_ridge(torch.from_numpy(x), torch.from_numpy(y), alpha)
    assert ours.alpha == (truth[-1].alpha_ if alpha == "auto" else alpha)
    for rows in (x, new):
        assert np.abs(ours(torch.from_numpy(rows)).numpy() - truth.predict(rows)).max() <= TOLERANCE


def test_the_error_told_is_that_of_leaving_each_example_out():
    x, y, _ = data(25, 40)
    fit = fit_ridge(torch.from_numpy(x), torch.from_numpy(y), 10.0)
    z = StandardScaler().fit_transform(x)
    keep = ~np.eye(25, dtype=bool)
    left_out = [(Ridge(10.0).fit(z[k], y[k]).predict(z[~k])[0] - y[~k][0]) ** 2 for k in keep]
    assert abs(fit.error - np.mean(left_out)) <= TOLERANCE


@pytest.mark.parametrize(("n", "d"), [(25, 40), (60, 8)])
def test_rows_of_a_group_are_left_out_together(n, d):
    x, y, _ = data(n, d)
    group = np.arange(n) * 7 % 11 % 9  # of two to eight rows, apart from each other
    fit = fit_ridge(torch.from_numpy(x), torch.from_numpy(y), 3.0, torch.from_numpy(group))
    z, squares = StandardScaler().fit_transform(x), []
    for g in np.unique(group):
        kept = group != g
        squares += [*np.square(Ridge(3.0).fit(z[kept], y[kept]).predict(z[~kept]) - y[~kept])]
    assert abs(fit.error - np.mean(squares)) <= TOLERANCE


def test_siblings_that_share_their_features_do_not_vouch_for_each_other():
    draw = generator(2, "siblings")
    x = np.repeat(draw.normal(size=(40, 60)), 4, axis=0) + 0.01 * draw.normal(size=(160, 60))
    group = np.repeat(np.arange(40), 4)
    y = torch.from_numpy(np.repeat(draw.normal(size=40), 4))  # of the prompt, but nothing in the features tells it
    x, group = torch.from_numpy(x), torch.from_numpy(group)
    assert fit_ridge(x, y).alpha < 1
    assert fit_ridge(x, y, group=group).alpha > 100
    assert fit_ridge(x, y, group=torch.zeros_like(group)).alpha == GRID[-1]


def test_the_penalty_grows_where_there_is_little_to_learn():
    draw = generator(1, "noise")
    x, y = torch.from_numpy(draw.normal(size=(100, 50))), torch.from_numpy(draw.normal(size=100))
    assert fit_ridge(x, y).alpha == GRID[-1]
    assert fit_ridge(x, x[:, 0] * 3).alpha == GRID[0]


def test_equal_targets_and_single_examples_give_their_mean():
    x, _, new = data(20, 6)
    x, new = torch.from_numpy(x), torch.from_numpy(new)
    assert fit_ridge(x, torch.full((20,), 0.3, dtype=torch.float64))(new).tolist() == pytest.approx(
        [0.3] * 40, abs=TOLERANCE
    )
    one = fit_ridge(x[:1], torch.tensor([0.7], dtype=torch.float64))
    assert one(new).tolist() == pytest.approx([0.7] * 40, abs=TOLERANCE)
    assert one.alpha == GRID[-1]


def test_rows_in_another_order_and_low_precision():
    x, y, new = data(60, 10)
    x, y, new = (torch.from_numpy(a) for a in (x, y, new))
    order = torch.from_numpy(generator(0, "order").permutation(60))
    assert torch.allclose(fit_ridge(x[order], y[order])(new), fit_ridge(x, y)(new), rtol=0, atol=TOLERANCE)
    assert fit_ridge(x.bfloat16(), y.float())(new).dtype == torch.float64


@pytest.mark.parametrize(
    ("x", "y", "alpha", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0), "auto", "N >= 1"),
        (torch.zeros(2, 3), torch.zeros(3), "auto", r"targets \(3,\)"),
        (torch.full((2, 3), torch.nan), torch.zeros(2), "auto", "row 0: features have NaN"),
        (torch.zeros(2, 3), torch.tensor([0.0, torch.inf]), "auto", "row 1: targets have"),
        (torch.zeros(2, 3), torch.zeros(2), 0.0, "alpha is 0.0"),
    ],
)
def test_bad_input_is_refused(x, y, alpha, message):
    with pytest.raises(UserError, match=message):
        fit_ridge(x, y, alpha)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (9, 30)])
def test_principal_directions_are_those_of_scikit_learn(n, d):
    x, _, _ = data(n, d)
    mean, basis = principal(torch.from_numpy(x), 4)
    truth = PCA(4).fit(x)
    assert np.abs(mean.numpy() - truth.mean_).max() <= TOLERANCE
    assert np.abs(np.abs(basis.numpy().T @ truth.components_.T) - np.eye(4)).max() <= TOLERANCE
    assert principal(torch.from_numpy(x), 1000)[1].shape[1] == min(n - 1, d)
    assert principal(torch.ones(1, 3), 2)[1].shape == (3, 1)
