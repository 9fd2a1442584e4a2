"""Choosing: the counterexample end to end, the exhaustive check on random graphs, shortcuts, bad input."""

import itertools
import random

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.invariance import CausalMinimax, DiscreteSCM, MutableSCM, stable_classes
from steersman.decide.invariance.exact import maximise
from steersman.decide.invariance.explain import near_line, reasons, roles, search_line, sentence, worst_line

GATE = MutableSCM([("Y", "M"), ("M", "X1"), ("Y", "X1")], "Y", ["M"])
EQUAL = 1e-12
NEAR = 0.012


def test_the_counterexample_leaves_the_stable_variable_behind(gate_rows, gate_world):
    cm = CausalMinimax(GATE).fit(gate_rows, env="E")
    assert cm.best_.core == frozenset()
    assert [str(r) for r in cm.ranking_] == ["{}", "{X1}"]
    assert (cm.classes_, cm.subsets_, cm.exact_search_) == (2, 2, True)
    for r, truth in zip(cm.ranking_, (0.09, 0.1007224251), strict=True):
        assert r.risk == pytest.approx(truth, abs=NEAR)
        assert len(r.folds) == 5
    assert cm.worst_case_.bound == "exact"
    assert cm.worst_case_.policy["M"](gate_rows).shape == (2000,)
    assert cm.predict({"M": [0.0, 1.0]}).shape == (2,)
    assert cm.inputs_ == ("M",)


def test_the_direct_adversary_ranks_them_the_same(gate_rows):
    cm = CausalMinimax(GATE, regressor="boosting", adversary="direct", folds=2).fit(gate_rows)
    assert [str(r) for r in cm.ranking_] == ["{}", "{X1}"]
    assert cm.worst_case_.bound == "lower"


def test_the_condition_shortens_the_search_and_exhaustive_undoes_it(gate_rows):
    graph = MutableSCM(["Y->M, Y->X1"], "Y", "M")
    short = CausalMinimax(graph).fit(gate_rows)
    assert short.status_ == "whole stable set optimal by graphical condition"
    assert (short.classes_, short.best_.core) == (1, frozenset({"X1"}))
    assert CausalMinimax(graph, shortcut=False).fit(gate_rows).classes_ == 2
    assert CausalMinimax(graph, search="exhaustive").fit(gate_rows).classes_ == 2


@pytest.mark.parametrize("seed", range(12))
def test_the_class_search_finds_the_exhaustive_optimum(seed):
    """Up to ten variables, exact risks: the best class is the best subset, from fewer evaluations."""
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    names = ["Y", "M", *(f"X{i}" for i in range(2 + seed % 8))]
    draw.shuffle(names)
    edges = [e for e in itertools.combinations(names, 2) if draw.random() < 0.3]
    graph = MutableSCM(edges, "Y", ["M"], names)
    tables = {v: rng.dirichlet([0.6, 0.6], size=(2,) * len(graph.parents(v))) for v in graph.nodes}
    world = DiscreteSCM(graph, dict.fromkeys(graph.nodes, (0.0, 1.0)), tables)

    def risk(subset) -> float:
        return maximise(world, world.losses(world.predictor(subset))).risk

    classes = stable_classes(graph)
    every = [risk(s) for n in range(len(graph.stable) + 1) for s in itertools.combinations(graph.stable, n)]
    assert min(risk(c.core) for c in classes) == pytest.approx(min(every), abs=EQUAL)
    assert len(classes) <= len(every)


def test_exhaustive_and_classes_choose_alike(gate_rows):
    graph = MutableSCM(["Y->M, M->X1, Y->X1, X1->X2"], "Y", "M")
    rows = gate_rows | {"X2": (gate_rows["X1"] + np.arange(2000) % 2) % 2}
    every = CausalMinimax(graph, search="exhaustive").fit(rows)
    some = CausalMinimax(graph).fit(rows)
    assert every.classes_ == 4
    assert some.classes_ == 3
    assert some.best_.core == every.best_.core
    assert some.best_.risk == every.best_.risk


def test_the_beam_says_that_it_is_inexact(gate_rows):
    cm = CausalMinimax(GATE, search="beam").fit(gate_rows)
    assert not cm.exact_search_
    assert "others were not looked at" in cm.status_
    assert search_line(cm).startswith("INEXACT")


def test_smallest_within_one_standard_error(gate_rows):
    graph = MutableSCM(["Y->X1"], "Y", (), ["M"])
    low = CausalMinimax(graph, shortcut=False, adversary="direct", regressor="linear").fit(gate_rows)
    small = CausalMinimax(graph, shortcut=False, adversary="direct", regressor="linear", prefer="smallest").fit(
        gate_rows
    )
    assert low.best_.core == frozenset({"X1"})
    near = [r for r in small.ranking_ if r.near_best]
    assert small.best_ in near
    assert len(small.best_.core) == min(len(r.core) for r in near)
    assert all(r.risk <= low.best_.risk + low.best_.se for r in near)


def test_nothing_mutable_is_least_squares(gate_rows):
    cm = CausalMinimax(MutableSCM(["Y->X1, M->X1"], "Y"), regressor="linear", adversary="direct").fit(gate_rows)
    assert cm.status_.startswith("nothing changes")
    z = np.stack([np.ones(2000), gate_rows["M"], gate_rows["X1"]], 1)
    assert np.allclose(cm.predict(gate_rows), z @ np.linalg.lstsq(z, gate_rows["Y"], rcond=None)[0])
    assert sentence(cm).startswith("No mechanism changes")


def test_one_environment_is_noted_and_a_constant_column_too(gate_rows):
    rows = gate_rows | {"E": np.array(["a"] * 2000), "X1": np.zeros(2000)}
    notes = CausalMinimax(GATE).fit(rows, env="E").notes_
    assert any("One environment" in n for n in notes)
    assert any("Constant, so of no use: X1" in n for n in notes)


def test_official_mode_runs_and_says_what_it_is(gate_rows):
    rng = np.random.default_rng(0)
    rows = {k: v + 0.1 * rng.standard_normal(2000) for k, v in gate_rows.items() if k != "E"}
    cm = CausalMinimax(GATE, regressor="linear", mode="official", folds=2).fit(rows)
    assert any("authors' procedure" in n for n in cm.notes_)
    assert not cm._parts[0].risk.world.noise


def test_other_predictors_are_judged_by_the_same_search(gate_rows):
    cm = CausalMinimax(GATE).fit(gate_rows)
    constant = cm.judge(lambda data: lambda c: np.full(len(c["M"]), 0.1))
    assert constant.risk == pytest.approx(0.09, abs=NEAR)
    assert cm.worst_case_of(lambda c: c["M"]).risk > 0.5


def test_the_choice_in_words(gate_rows):
    cm = CausalMinimax(GATE).fit(gate_rows)
    assert roles(cm) == {"Y": "outcome", "M": "mutable", "X1": "left out"}
    assert "the best class with it, {X1}" in reasons(cm)["X1"]
    assert sentence(cm).startswith("Carry no stable variable and the mutable M")
    assert "2 of 2 subsets" in search_line(cm)
    assert "M is" in worst_line(cm)
    assert near_line(cm) in ("", "Within one standard error of the best: {X1}. --prefer smallest takes the smallest.")


def test_same_seed_same_answer(gate_rows):
    a, b = (CausalMinimax(GATE, regressor="linear", adversary="direct", folds=2).fit(gate_rows) for _ in range(2))
    assert [r.risk for r in a.ranking_] == [r.risk for r in b.ranking_]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"regressor": "forest"}, "no regressor"), ({"adversary": "magic"}, "no adversary"),
        ({"mode": "fast"}, "no mode"), ({"search": "all"}, "no search"), ({"prefer": "best"}, "no prefer"),
        ({"adversary": "gradient", "restarts": 2}, "2 restarts"), ({"folds": 1}, "1 folds"),
        ({"mutable_range": "wide"}, "no range"), ({"mode": "official", "adversary": "exact"}, "official"),
        ({"max_classes": 1}, "more than 1 classes"),
    ],
)  # fmt: skip
def test_options_that_are_refused(gate_rows, options, said):
    with pytest.raises(UserError, match=said):
        CausalMinimax(GATE, **options).fit(gate_rows)


def test_rows_that_are_refused(gate_rows):
    for change, said in (
        ({"X1": None}, "no column 'X1'"),
        ({"M": np.where(np.arange(2000) == 7, np.nan, gate_rows["M"])}, "row 8: is missing"),
        ({"M": ["high"] * 2000}, "no finite number"),
        ({"Y": np.ones(2000)}, "is constant"),
        ({"E": np.array(["a"] * 1997 + ["b"] * 3)}, r"too few rows: b \(3\)"),
        ({"E": [""] * 2000}, "missing"),
        ({"X1": np.zeros(3)}, "different lengths"),
    ):
        rows = {k: v for k, v in (gate_rows | change).items() if v is not None}
        with pytest.raises(UserError, match=said):
            CausalMinimax(GATE).fit(rows, env="E")
    with pytest.raises(UserError, match="cannot be a variable too"):
        CausalMinimax(GATE).fit(gate_rows, env="M")
    with pytest.raises(UserError, match="more than 10 levels"):
        CausalMinimax(GATE, adversary="exact").fit(gate_rows | {"M": np.arange(2000.0)})
    with pytest.raises(UserError, match="not fitted yet"):
        CausalMinimax(GATE).predict(gate_rows)
