"""Baselines: each against what it is meant to do on worlds where that is known."""

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.invariance import Data, MutableSCM, baselines, largest_error
from steersman.decide.invariance.baselines import Basis, _anchored, anchor, group_dro, irm
from steersman.decide.invariance.invariant import causal_transfer, icp, invariant_p

GRAPH = MutableSCM(["X1->Y, Y->M"], "Y", "M")
CLOSE = 1e-6
NEAR = 0.1


def rows(n: int = 1500, seed: int = 0) -> Data:
    """Y = X1 + noise; M = s Y + noise with s of its own in each environment; X1 shifts between them."""
    rng = np.random.default_rng(seed)
    env = np.repeat(["a", "b", "c"], n)
    s, shift = np.repeat([2.0, 1.0, -1.0], n), np.repeat([0.0, 1.0, 2.0], n)
    x1 = shift + rng.standard_normal(3 * n)
    y = x1 + rng.standard_normal(3 * n)
    return Data({"X1": x1, "Y": y, "M": s * y + 0.3 * rng.standard_normal(3 * n)}, env)


def slope(f, columns, name):
    """Change of a prediction by one unit of a variable."""
    base = {k: np.zeros(1) for k in columns}
    return float((f({**base, name: np.ones(1)}) - f(base))[0])


def test_invariant_prediction_keeps_the_cause_alone():
    data = rows()
    envs = [np.flatnonzero(data.env == e) for e in "abc"]
    assert icp(data.columns, "Y", ("X1", "M"), envs) == ("X1",)
    assert causal_transfer(data.columns, "Y", ("X1", "M"), envs) == ("X1",)
    f = baselines(GRAPH, "linear")["ICP"](data)
    assert slope(f, data.columns, "X1") == pytest.approx(1.0, abs=NEAR)
    assert slope(f, data.columns, "M") == 0.0


def test_the_invariance_test_sees_means_and_spreads():
    rng = np.random.default_rng(0)
    envs = [np.arange(500), np.arange(500, 1000)]
    same = rng.standard_normal(1000)
    assert invariant_p(same, envs) > 0.05
    assert invariant_p(same + np.repeat([0, 0.5], 500), envs) < 1e-6
    assert invariant_p(same * np.repeat([1, 1.5], 500), envs) < 1e-6
    assert invariant_p(np.zeros(1000), envs) == 1.0
    assert invariant_p(np.repeat([0.0, 1.0], 500), envs) == 0.0


def test_the_invariance_test_is_of_the_size_that_it_claims():
    rng = np.random.default_rng(1)
    envs = [np.arange(i, 400, 4) for i in range(4)]
    small = sum(invariant_p(rng.standard_normal(400), envs) < 0.05 for _ in range(400))
    assert small <= 35  # 20 expected at most; 3.4 standard errors above


def test_erm_surgery_and_the_mean_use_what_they_say():
    data, made = rows(), baselines(GRAPH, "linear")
    y, n = data.columns["Y"], len(data)
    for name, used in (("ERM", ("X1", "M")), ("ERM without mutable", ("X1",)), ("surgery", ("X1",)), ("constant", ())):
        z = np.stack([np.ones(n), *(data.columns[v] for v in used)], 1)
        assert np.allclose(made[name](data)(data.columns), z @ np.linalg.lstsq(z, y, rcond=None)[0], atol=CLOSE)


def test_group_dro_lowers_the_largest_error_seen():
    data = rows()
    erm, dro = (baselines(GRAPH, "linear")[k](data) for k in ("ERM", "GroupDRO"))
    assert largest_error(dro, data.columns, "Y", data.env)[0] < largest_error(erm, data.columns, "Y", data.env)[0]
    assert isinstance(group_dro("Y", ("X1", "M"), data)(data.columns), np.ndarray)


def test_irm_without_penalty_is_least_squares_over_environments_and_with_it_relies_less_on_the_effect():
    data = rows()
    names = ("X1", "M")
    free = irm("Y", names, data, penalty=0.0)
    erm = baselines(GRAPH, "linear")["ERM"](data)  # environments of equal size
    assert slope(free, data.columns, "M") == pytest.approx(slope(erm, data.columns, "M"), abs=1e-3)
    held = irm("Y", names, data, penalty=1e4)
    assert abs(slope(held, data.columns, "M")) < abs(slope(free, data.columns, "M"))


def test_anchor_with_gamma_one_is_least_squares():
    data = rows()
    basis = Basis.of(data.columns, ("X1", "M"))
    phi, y = basis(data.columns), data.columns["Y"]
    envs = [np.flatnonzero(data.env == e) for e in "abc"]
    one = _anchored(basis, phi, y, envs, 1.0)
    erm = baselines(GRAPH, "linear")["ERM"](data)
    assert np.allclose(one(data.columns), erm(data.columns), atol=1e-4)
    # with gamma large the means of environments are fitted: a shift of X1 moves Y as much, M's share does not
    large = _anchored(basis, phi, y, envs, 1e6)
    means = [np.mean((y - large(data.columns))[r]) for r in envs]
    assert np.ptp(means) < np.ptp([np.mean((y - one(data.columns))[r]) for r in envs])
    assert np.isfinite(anchor("Y", ("X1", "M"), data)(data.columns)).all()


def test_discrete_inputs_become_cells(gate_rows):
    data = Data.from_frame(gate_rows, ("Y", "M", "X1"), "E")
    f = baselines(MutableSCM(["Y->M, M->X1, Y->X1"], "Y", "M"), "linear")["GroupDRO"](data)
    basis = Basis.of(data.columns, ("M", "X1"))
    assert basis.levels is not None
    assert basis(data.columns).shape == (2000, 3)
    assert len(np.unique(f(data.columns).round(12))) == 4


def test_more_environments_never_lower_the_largest_error():
    data, f = rows(), baselines(GRAPH, "linear")["ERM"](rows())
    found = []
    for k in (1, 2, 3):
        keep = np.isin(data.env, list("abc")[:k])
        part = data.take(np.flatnonzero(keep))
        found.append(largest_error(f, part.columns, "Y", part.env)[0])
    assert found == sorted(found)


def test_one_environment_is_refused_by_those_that_compare():
    data = Data(rows().columns)
    for name in ("ICP", "causal transfer", "GroupDRO", "IRM", "anchor"):
        with pytest.raises(UserError, match="two or more"):
            baselines(GRAPH, "linear")[name](data)
    many = {f"X{i}": np.zeros(20) for i in range(13)}
    with pytest.raises(UserError, match="subsets"):
        icp({**many, "Y": np.arange(20.0)}, "Y", tuple(many), [np.arange(10), np.arange(10, 20)])
