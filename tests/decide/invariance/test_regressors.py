"""Regressions: what each can fit, what follows noise, networks whose units differ."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from steersman.core.errors import UserError
from steersman.decide.invariance.regressors import Constant, Network, extrapolates, fit, held_out

CLOSE = 1e-9
WELL = 0.15
ROWS = 1500


def bent(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (ROWS, 2))
    return x, np.sin(2 * x[:, 0]) + x[:, 1] + 0.1 * rng.standard_normal(ROWS)


@pytest.mark.parametrize("name", ["mlp", "boosting"])
def test_a_bend_is_fitted(name):
    x, y = bent()
    model = fit(name, x, y)
    new, truth = bent(1)
    assert ((model.predict(new) - truth) ** 2).mean() < WELL * truth.var()


def test_a_line_is_exact():
    x, _ = bent()
    model = fit("linear", x, 3 + x @ np.array([1.0, -2.0]))
    assert np.allclose(model.predict(x), 3 + x @ np.array([1.0, -2.0]), atol=CLOSE)


@pytest.mark.parametrize("name", ["mlp", "boosting"])
def test_noise_is_not_followed(name):
    x, _ = bent()
    for seed in range(3):
        y = np.random.default_rng(seed).standard_normal(ROWS)
        model = fit(name, x, y, seed)
        assert isinstance(model, Constant) or np.var(model.predict(x)) < 0.02


def test_hidden_units_differ():
    """The authors' networks start from ones, so that all units of a layer stay the same."""
    model = fit("mlp", *bent())
    assert isinstance(model, Network)
    w1 = model.parts[0]
    assert np.ptp(w1, axis=1).min() > 0.1
    assert np.linalg.matrix_rank(w1) == 2


def test_the_tensor_form_is_the_same_function():
    torch = pytest.importorskip("torch")
    x, y = bent()
    for name in ("linear", "mlp"):
        model = fit(name, x, y)
        assert np.allclose(model.torch()(torch.from_numpy(x)).numpy(), model.predict(x), atol=CLOSE)


def test_same_seed_same_fit_and_another_seed_another():
    x, y = bent()
    first, second, other = (fit("mlp", x, y, s).predict(x) for s in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_copies_of_a_row_lie_on_one_side():
    held = held_out(300, 0, 3).reshape(3, 100)
    assert (held == held[0]).all()
    assert held[0].sum() == 20


def test_degenerate_inputs_give_the_mean():
    x, y = bent()
    assert isinstance(fit("mlp", x[:, :0], y), Constant)
    assert fit("linear", x, np.full(ROWS, 2.0)).predict(x[:2]).tolist() == [2.0, 2.0]
    constant = np.concatenate([x, np.ones((ROWS, 1))], 1)
    assert np.isfinite(fit("linear", constant, y).predict(constant)).all()
    assert np.isfinite(fit("mlp", constant, y).predict(constant)).all()


def test_a_regressor_of_the_users_is_copied():
    own = RandomForestRegressor(n_estimators=3, random_state=0)
    x, y = bent()
    model = fit(own, x[:200], y[:200])
    assert model.predict(x[:2]).shape == (2,)
    assert not hasattr(own, "estimators_")
    assert not extrapolates(model)
    assert extrapolates(fit("linear", x, y))
    assert not extrapolates(fit("boosting", x, y))


@pytest.mark.parametrize("bad", ["forest", 3])
def test_refusals(bad):
    with pytest.raises(UserError):
        fit(bad, *bent())
