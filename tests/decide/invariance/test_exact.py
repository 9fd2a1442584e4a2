"""Discrete worlds: the counterexample's numbers, invariances that the theory gives, the maximum against enumeration."""

import itertools
import math
import random

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.invariance.classes import stable_classes
from steersman.decide.invariance.discrete import DiscreteSCM
from steersman.decide.invariance.exact import MOST_COMBINATIONS, _ascend, maximise, risk_under
from steersman.decide.invariance.graph import MutableSCM
from steersman.decide.invariance.risk import WorstCaseRisk
from steersman.decide.invariance.tables import count_world

EXACT = 1e-9
EQUAL = 1e-12
SHARE = 0.02
GATE = MutableSCM([("Y", "M"), ("M", "X1"), ("Y", "X1")], "Y", ["M"])


def gate() -> DiscreteSCM:
    """Y ~ Bern(.1), X1 follows Y where M = 0 and is a coin where M = 1; trained with P(M = 1 | y) = (.2, .8)."""
    x1 = np.array([[[0.7, 0.3], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
    tables = {"Y": np.array([0.9, 0.1]), "X1": x1, "M": np.array([[0.8, 0.2], [0.2, 0.8]])}
    return DiscreteSCM(GATE, dict.fromkeys(GATE.nodes, (0.0, 1.0)), tables)


def random_world(graph: MutableSCM, seed: int) -> DiscreteSCM:
    rng = np.random.default_rng(seed)
    tables = {v: rng.dirichlet([0.6, 0.6], size=(2,) * len(graph.parents(v))) for v in graph.nodes}
    return DiscreteSCM(graph, dict.fromkeys(graph.nodes, (0.0, 1.0)), tables)


def random_graph(seed: int, stable: int = 4, mutable: int = 1) -> MutableSCM:
    draw = random.Random(seed)
    changing = [f"M{i}" for i in range(mutable)]
    names = ["Y", *changing, *(f"X{i}" for i in range(stable))]
    draw.shuffle(names)
    return MutableSCM([e for e in itertools.combinations(names, 2) if draw.random() < 0.45], "Y", changing, names)


@pytest.mark.parametrize("subset, risk", [([], 0.09), (["X1"], 0.1007224251)])
def test_worst_case_of_the_stable_predictors(subset, risk):
    world = gate()
    assert WorstCaseRisk(world).of(world.predictor(subset)).risk == pytest.approx(risk, abs=EXACT)


def test_the_adversary_of_the_whole_set_copies_the_outcome():
    world = gate()
    found = WorstCaseRisk(world).of(world.predictor(["X1"]))
    assert found.bound == "exact"
    assert found.rows("M") == [{"Y": 0.0, "M": 0.0}, {"Y": 1.0, "M": 1.0}]
    assert found.policy["M"]({"Y": np.array([1.0, 0.0])}).tolist() == [1.0, 0.0]
    e = found.environment
    assert e["probability"] @ (e["Y"] - e["prediction"]) ** 2 == pytest.approx(found.risk, abs=EQUAL)


@pytest.mark.parametrize(
    "on, train, worst", [(["X1", "M"], 0.0737, 0.1690), (["M"], 0.0748, 0.1799), (["X1"], 0.0876, 0.0927)]
)
def test_least_squares_of_one_environment(on, train, worst):
    world = gate()
    f = world.regression(on)
    error = (world.joint * (world.spread("Y") - f.values) ** 2).sum()
    assert round(error, 4) == train
    assert round(WorstCaseRisk(world).of(f).risk, 4) == worst


@pytest.mark.parametrize("seed", range(25))
def test_members_of_a_class_have_one_predictor_and_one_risk(seed):
    graph = random_graph(seed, 4, 1 + seed % 2)
    world = random_world(graph, seed)
    reached = world.held > 0
    for c in stable_classes(graph):
        members = [world.predictor(s) for s in c.subsets()]
        risks = [maximise(world, world.losses(f)).risk for f in members]
        assert np.ptp(risks) < EQUAL
        for f in members[1:]:
            gap = np.broadcast_to(f.values - members[0].values, world.shape)
            assert np.abs(gap[reached]).max() < EXACT


@pytest.mark.parametrize("seed", range(40))
def test_the_whole_set_is_best_where_the_condition_holds(seed):
    graph = random_graph(seed, 4, 1 + seed % 2)
    if not graph.whole_set_optimal():
        pytest.skip("the condition fails")
    world, rng = random_world(graph, seed), np.random.default_rng(seed)
    whole = world.predictor(graph.stable)
    risk = maximise(world, world.losses(whole)).risk
    for c in stable_classes(graph):
        assert risk <= maximise(world, world.losses(world.predictor(c.core))).risk + EQUAL
    # Mechanisms of the target's mutable children do not matter at all; those of others may.
    shape = {m: [2 if v in graph.parents(m) else 1 for v in graph.nodes] for m in graph.mutable}
    fixed = {m: rng.integers(0, 2, shape[m]) for m in graph.mutable}
    risks = [risk_under(world, world.losses(whole),
                        fixed | {m: rng.integers(0, 2, shape[m]) for m in graph.mutable_children})
             for _ in range(6)]  # fmt: skip
    assert np.ptp(risks) < EXACT


def test_some_world_breaks_the_whole_set_where_the_condition_fails():
    worse = 0
    for seed in range(200):
        graph = random_graph(seed)
        if not graph.whole_set_optimal():
            world = random_world(graph, seed)
            risks = {c.core: maximise(world, world.losses(world.predictor(c.core))).risk for c in stable_classes(graph)}
            whole = maximise(world, world.losses(world.predictor(graph.stable))).risk
            worse += whole > min(risks.values()) + EXACT
    assert worse > 0


def brute(world: DiscreteSCM, losses: np.ndarray) -> float:
    """The maximum over all combinations of deterministic mechanisms."""
    names, nodes = world.graph.mutable, world.graph.nodes
    shapes = [[2 if v in world.graph.parents(m) else 1 for v in nodes] for m in names]
    every = [[np.array(c).reshape(s) for c in itertools.product((0, 1), repeat=math.prod(s))] for s in shapes]
    return max(risk_under(world, losses, dict(zip(names, c, strict=True))) for c in itertools.product(*every))


@pytest.mark.parametrize("seed", range(30))
def test_the_maximum_is_that_of_all_mechanisms(seed):
    graph = random_graph(seed, 2, 2)
    if sum(2 ** len(graph.parents(m)) for m in graph.mutable) > 10:
        pytest.skip("too many for brute force")
    world = random_world(graph, seed)
    losses = world.losses(world.predictor(graph.stable))
    found = maximise(world, losses)
    assert found.exact
    assert found.risk == pytest.approx(brute(world, losses), abs=EQUAL)
    names = [v for v in graph.nodes if v in graph.mutable]
    climbed = _ascend(world, losses, names, dict.fromkeys(names, (0, 1)), 20, 0)
    assert climbed.risk <= found.risk + EQUAL
    assert not climbed.exact


def test_backward_induction_where_each_sees_what_the_one_before_saw():
    graph = MutableSCM(["Y->M1, Y->M2, M1->M2, M1->X, M2->X, Y->X"], "Y", ["M1", "M2"])
    world = random_world(graph, 3)
    losses = world.losses(world.predictor(["X"]))
    found = maximise(world, losses)
    assert found.how.startswith("one maximum")
    assert found.risk == pytest.approx(brute(world, losses), abs=EQUAL)


def test_beyond_enumeration_it_is_a_lower_bound_and_says_so():
    parents = [f"X{i}" for i in range(5)]
    edges = [(p, m) for p in parents for m in ("M1", "M2")]
    graph = MutableSCM([*edges, ("M1", "Y"), ("M2", "Y"), ("Y", "Z"), ("M1", "Z")], "Y", ["M1", "M2"])
    assert MOST_COMBINATIONS < 2 ** (2**5)
    world = random_world(graph, 0)
    found = WorstCaseRisk(world).of(world.predictor(["Z"]))
    assert found.bound == "lower"
    assert len(found.starts) == 5


@pytest.mark.parametrize("seed", range(10))
def test_more_freedom_never_lowers_the_risk(seed):
    graph = random_graph(seed, 3, 1)
    world = random_world(graph, seed)
    f = world.predictor(graph.stable)
    wide = WorstCaseRisk(world).of(f).risk
    for level in ((0, 0), (1, 1)):
        assert WorstCaseRisk(world, allowed={"M0": level}).of(f).risk <= wide + EQUAL
    more = DiscreteSCM(MutableSCM(graph.edges, "Y", ["M0", "X0"], graph.nodes), world.values, world.tables)
    assert WorstCaseRisk(more).of(f).risk >= world_risk(world, f) - EQUAL


def world_risk(world: DiscreteSCM, f: object) -> float:
    return WorstCaseRisk(world).of(f).risk  # type: ignore[arg-type]


def test_nothing_mutable_is_plain_risk():
    graph = MutableSCM(["X->Y"], "Y")
    world = random_world(graph, 1)
    f = world.predictor(["X"])
    assert WorstCaseRisk(world).of(f).risk == pytest.approx((world.joint * (world.spread("Y") - f.values) ** 2).sum())


def test_any_function_is_judged_and_under_one_environment():
    world = gate()
    risk = WorstCaseRisk(world)
    assert risk.of(lambda c: np.full(len(c["Y"]), 0.1)).risk == pytest.approx(0.09, abs=EXACT)
    assert risk.under(world.predictor([]), {"M": 0.0})[0] == pytest.approx(0.09, abs=EXACT)
    copied = risk.under(world.predictor(["X1"]), {"M": lambda c: c["Y"]})[0]
    assert copied == pytest.approx(0.1007224251, abs=EXACT)


def test_rows_are_drawn_from_the_joint_distribution_and_counted_back():
    world = gate()
    rows = world.sample(40_000, 0)
    assert abs(rows["Y"].mean() - 0.1) < SHARE
    counted = count_world(rows, GATE, world.values)
    for v in ("Y", "X1", "M"):
        assert np.abs(counted.tables[v] - world.tables[v]).max() < SHARE
    other = world.sample(1000, 1, {"M": np.array([[0.0, 1.0], [0.0, 1.0]])})
    assert other["M"].min() == 1.0


def test_lines_without_rows_keep_the_prior():
    world = gate()
    rows = {v: np.zeros(10) for v in GATE.nodes}
    assert np.allclose(count_world(rows, GATE, world.values, world).tables["X1"][1, 1], world.tables["X1"][1, 1])


@pytest.mark.parametrize(
    "change, said",
    [
        ({"X1": None}, "has shape None"),
        ({"X1": np.ones((2, 2))}, "has shape"),
        ({"Y": np.array([0.5, 0.6])}, "no distribution"),
        ({"Y": np.array([-0.5, 1.5])}, "no distribution"),
    ],
)
def test_worlds_that_are_refused(change, said):
    world = gate()
    tables = {k: v for k, v in (world.tables | change).items() if v is not None}
    with pytest.raises(UserError, match=said):
        DiscreteSCM(GATE, world.values, tables)


def test_other_refusals():
    world = gate()
    with pytest.raises(UserError, match="ascending"):
        DiscreteSCM(GATE, {**world.values, "M": (1.0, 0.0)}, world.tables)
    with pytest.raises(UserError, match="not stable"):
        world.predictor(["M"])
    with pytest.raises(UserError, match="was not seen"):
        world.predictor(["X1"])({"M": np.array([0.0]), "X1": np.array([0.5])})
    with pytest.raises(UserError, match="no level"):
        WorstCaseRisk(world, allowed={"M": (3, 4)}).of(world.predictor([]))
    with pytest.raises(UserError, match="not mutable"):
        WorstCaseRisk(world, allowed={"X1": (0, 1)}).of(world.predictor([]))
    with pytest.raises(UserError, match="not by direct"):
        WorstCaseRisk(world, "direct")
    with pytest.raises(UserError, match="no mechanism"):
        DiscreteSCM(GATE, world.values, {k: v for k, v in world.tables.items() if k != "M"}).sample(5, 0)
