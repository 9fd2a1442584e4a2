"""Sampled worlds, the direct and the gradient adversary: the continuous counterexample and what theory says."""

import warnings

import numpy as np
import pytest
from scipy.integrate import quad

from steersman.core.errors import UserError
from steersman.decide.invariance.graph import MutableSCM
from steersman.decide.invariance.ranges import Range, ranges_of
from steersman.decide.invariance.risk import WorstCaseRisk
from steersman.decide.invariance.world import (
    Additive,
    Categorical,
    SampledWorld,
    StablePredictor,
    learn_official,
    learn_world,
    official,
    official_shuffled,
)

GATE = MutableSCM([("Y", "M"), ("M", "X1"), ("Y", "X1")], "Y", ["M"])
GATE_RISK = 1.0786427540
QUADRATURE = 1e-8
DIRECT = 0.02
CLOSE = 1e-9
SHIFT = 0.03
MONTE_CARLO = 0.04


class Product:
    """X1's mechanism."""

    def predict(self, x):
        return x[:, 0] * x[:, 1]


class Best:
    """E[Y | x1, do(m)] = m / (1 + m^2) x1."""

    def predict(self, x):
        return x[:, 0] / (1 + x[:, 0] ** 2) * x[:, 1]


def rows(n: int = 4000) -> dict[str, np.ndarray]:
    """Y at the quantiles of the normal, so that no luck enters; M of some environment."""
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    y = norm.ppf((np.arange(n) + 0.5) / n)
    m = 1 / (1 + np.exp(-y + rng.standard_normal(n)))
    m = (m - m.min()) / (m.max() - m.min())
    return {"Y": y, "M": m, "X1": m * y + rng.standard_normal(n)}


def gate() -> SampledWorld:
    from scipy.stats import norm

    left = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    return SampledWorld(GATE, rows(), {"X1": Additive("X1", ("Y", "M"), Product(), left)}, {"M": Range(0.0, 1.0)})


BEST = StablePredictor(frozenset({"X1"}), ("M", "X1"), Best())


def test_the_gate_by_quadrature():
    """R(S) = E[y^2 1{y^2 >= .5} + 1 / (4 (1 - y^2)) 1{y^2 < .5}]."""
    edge = np.sqrt(0.5)

    def density(y):
        return np.exp(-y * y / 2) / np.sqrt(2 * np.pi)

    inside = quad(lambda y: density(y) / (4 * (1 - y * y)), -edge, edge, epsabs=1e-12)[0]
    outside = 2 * quad(lambda y: density(y) * y * y, edge, np.inf, epsabs=1e-12)[0]
    assert inside + outside == pytest.approx(GATE_RISK, abs=QUADRATURE)


def test_the_direct_method_finds_the_gates_risk():
    found = WorstCaseRisk(gate(), draws=8).of(BEST)
    assert found.risk == pytest.approx(GATE_RISK, abs=DIRECT)
    assert found.bound == "lower"
    # s* = max(0, 1 - 2 y^2): open where the outcome is small, shut where it is large
    m = found.policy["M"]({"Y": np.array([0.0, 1.5])})
    assert m[0] > 0.8
    assert m[1] < 0.2
    assert {"Y", "M", "X1", "prediction"} == set(found.environment)
    assert len(found.rows("M")) > 5


def test_a_shut_gate_is_the_stationary_point_that_gradients_stop_at():
    found = WorstCaseRisk(gate()).under(BEST, {"M": 0.0})
    assert found[0] == pytest.approx(1.0, abs=DIRECT)


@pytest.fixture(scope="module")
def learnt():
    r = ranges_of(rows(1500), ["M"], {"M": (0, 1)})
    world = learn_world(rows(1500), GATE, "mlp", r, 0)
    return world, world.predictor(["X1"], "mlp", world.intervened(2, 0), 0)


def test_gradient_reports_every_start_and_is_no_worse_than_its_first(learnt):
    world, f = learnt
    direct, gradient = WorstCaseRisk(world).of(f), WorstCaseRisk(world, "gradient").of(f)
    assert len(gradient.starts) == 5
    assert gradient.bound == "lower"
    assert gradient.risk >= direct.risk - DIRECT
    assert set(gradient.policy["M"]({"Y": np.array([0.0])}).shape) == {1}
    assert len(gradient.rows("M")) > 5


def test_gradient_refuses_what_has_no_gradient(learnt):
    world, f = learnt
    with pytest.raises(UserError, match="5 or more"):
        WorstCaseRisk(world, "gradient", restarts=4).of(f)
    with pytest.raises(UserError, match="predictor has no gradient"):
        WorstCaseRisk(world, "gradient").of(lambda c: c["M"])
    with pytest.raises(UserError, match="mechanism of 'X1' has no gradient"):
        WorstCaseRisk(gate(), "gradient").of(f)


def test_a_wider_range_never_lowers_the_risk_and_is_told(learnt):
    world, f = learnt
    wide = SampledWorld(GATE, world.rows, world.mechanisms, {"M": Range(-1.0, 2.0, None, (0.0, 1.0))})
    with pytest.warns(UserWarning, match="extrapolates"):
        found = WorstCaseRisk(wide, grid=61).of(f)
    assert found.risk >= WorstCaseRisk(world).of(f).risk - DIRECT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WorstCaseRisk(world).of(f)


def test_a_linear_world_with_additive_mutables_has_one_risk_under_all_interventions():
    """X1 = Y + 2 M + e, X2 = Y + X1 - M + e: shifts cancel, so the whole set is best though the condition fails."""
    graph = MutableSCM(["Y->M, M->X1, Y->X1, Y->X2, X1->X2, M->X2"], "Y", ["M"])
    assert not graph.whole_set_optimal()
    rng, n = np.random.default_rng(1), 4000
    y = rng.standard_normal(n)
    m = y + rng.standard_normal(n)
    x1 = y + 2 * m + rng.standard_normal(n)
    data = {"Y": y, "M": m, "X1": x1, "X2": y + x1 - m + rng.standard_normal(n)}
    world = learn_world(data, graph, "linear", ranges_of(data, ["M"], "observed"))
    f = world.predictor(["X1", "X2"], "linear", world.intervened(2, 0))
    risk = WorstCaseRisk(world)
    policies = [0.0, 5.0, lambda c: c["Y"], lambda c: -2 * c["Y"] + 1]
    found = [risk.under(f, {"M": p})[0] for p in policies]
    assert np.ptp(found) < SHIFT * found[0]
    small = world.predictor([], "linear", world.intervened(2, 0))
    assert risk.of(f).risk < risk.of(small).risk


def test_without_a_path_from_the_mutable_f_is_least_squares():
    graph = MutableSCM(["X1->Y, Y->X2"], "Y", ["M"], ["M"])
    rng, n = np.random.default_rng(2), 500
    x1 = rng.standard_normal(n)
    y = x1 + rng.standard_normal(n)
    data = {"X1": x1, "Y": y, "X2": y + rng.standard_normal(n), "M": rng.standard_normal(n)}
    world = learn_world(data, graph, "linear", ranges_of(data, ["M"], "observed"))
    sample = world.intervened(1, 0)
    for v in ("X1", "Y", "X2"):
        assert np.array_equal(sample[v], data[v])
    f = world.predictor(["X1", "X2"], "linear", {**sample, "M": np.zeros(n)})
    z = np.stack([np.ones(n), data["X1"], data["X2"]], 1)
    assert np.allclose(f(data), z @ np.linalg.lstsq(z, y, rcond=None)[0], atol=CLOSE)


@pytest.mark.parametrize("setting", ["uniform", "permute"])
def test_intervening_leaves_what_is_not_caused_and_cuts_what_causes(setting):
    world = learn_world(rows(), GATE, "linear", ranges_of(rows(), ["M"], "observed"))
    sample = world.intervened(2, 0, setting)
    assert np.array_equal(sample["Y"], np.tile(rows()["Y"], 2))
    assert abs(np.corrcoef(sample["Y"], sample["M"])[0, 1]) < MONTE_CARLO
    if setting == "permute":
        assert np.array_equal(np.sort(sample["M"]), np.sort(np.tile(rows()["M"], 2)))


def test_a_discrete_effect_is_drawn_from_its_table():
    graph = MutableSCM(["M->X"], "X", ["M"])
    rng = np.random.default_rng(0)
    m = rng.integers(0, 2, 4000).astype(float)
    data = {"M": m, "X": (rng.uniform(size=4000) < 0.2 + 0.6 * m).astype(float)}
    world = learn_world(data, graph, "mlp", ranges_of(data, ["M"], "observed"))
    assert isinstance(world.mechanisms["X"], Categorical)
    drawn = world.intervened(2, 0)
    assert set(np.unique(drawn["X"])) == {0.0, 1.0}
    assert drawn["X"][drawn["M"] == 1].mean() == pytest.approx(0.8, abs=MONTE_CARLO)


def test_two_mutable_variables_take_turns():
    """The loss is (Y - M1 M2)^2 with both in [-1, 1]: the worst is M1 M2 = -sign(Y), risk E(|Y| + 1)^2."""
    graph = MutableSCM(["Y->M1", "Y->M2"], "Y", ["M1", "M2"])
    y = rows(2000)["Y"]
    ends = {"M1": Range(-1.0, 1.0), "M2": Range(-1.0, 1.0)}
    world = SampledWorld(graph, {"Y": y, "M1": y * 0, "M2": y * 0}, {}, ends)
    found = WorstCaseRisk(world).of(lambda c: c["M1"] * c["M2"])
    assert found.risk == pytest.approx(((np.abs(y) + 1) ** 2).mean(), abs=DIRECT * 2)
    assert len(found.starts) == 3


def test_the_official_sample_shuffles_what_their_code_shuffles():
    graph = MutableSCM(["Y->M, Y->X1, M->X1, M->X2, X2->X3, Y->X3"], "Y", ["M"])
    assert official_shuffled(graph) == ("M", "X2")
    rng, n = np.random.default_rng(0), 300
    y = rng.standard_normal(n)
    m = y + rng.standard_normal(n)
    x1, x2 = y + m + rng.standard_normal(n), m + rng.standard_normal(n)
    data = {"Y": y, "M": m, "X1": x1, "X2": x2, "X3": x2 + y + rng.standard_normal(n)}
    world = learn_official(data, graph, "linear", ranges_of(data, ["M"], "observed"))
    sample = official(world, 0)
    assert np.array_equal(np.sort(sample["M"]), np.sort(m))
    assert np.array_equal(np.sort(sample["X2"]), np.sort(x2))
    # no noise: X1 is a function of Y and M
    z = np.stack([np.ones(n), sample["Y"], sample["M"]], 1)
    assert np.abs(sample["X1"] - z @ np.linalg.lstsq(z, sample["X1"], rcond=None)[0]).max() < CLOSE


@pytest.mark.parametrize(
    "option, low, high", [("observed", 0, 1), (3.0, -1, 2), ({"M": (0.2, 0.4)}, 0.2, 0.4), (None, -4.5, 5.5)]
)
def test_ranges(option, low, high):
    found = ranges_of(rows(), ["M"], option)["M"]
    assert (found.low, found.high) == pytest.approx((low, high))


def test_discrete_ranges_keep_to_levels():
    data = {"M": np.repeat([0.0, 1.0, 2.0], 10)}
    assert ranges_of(data, ["M"], 5.0)["M"].levels == (0.0, 1.0, 2.0)
    assert ranges_of(data, ["M"], {"M": (1, 9)})["M"].levels == (1.0, 2.0)


@pytest.mark.parametrize(
    "option, said",
    [("wide", "no range"), (0.5, "no range"), ({"Q": (0, 1)}, "not mutable"), ({"M": (1, 0)}, "no range"),
     (float("nan"), "no range"), (True, "no range")],
)  # fmt: skip
def test_ranges_that_are_refused(option, said):
    with pytest.raises(UserError, match=said):
        ranges_of(rows(), ["M"], option)


def test_other_refusals():
    world = gate()
    for given in (lambda: WorstCaseRisk(world, "exact"), lambda: WorstCaseRisk(world, "magic"),
                  lambda: WorstCaseRisk(world, grid=1), lambda: world.intervened(1, 0, "odd"),
                  lambda: world.predictor(["M"], "linear", rows())):  # fmt: skip
        with pytest.raises(UserError):
            given()
