"""Graphs from data: recovery where signals are clear, what is left open, extensions and the choice over them."""

import itertools

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.invariance import (
    CausalMinimax,
    Data,
    MutableSCM,
    PartialGraph,
    discover,
    fit_extensions,
    invariance_notes,
)
from steersman.decide.invariance.discover import _Tests

LINES = {"Y->M", "X1->Y", "X2->Y", "M->X3", "X2->X4"}


def clear(seed: int = 0, n: int = 400) -> Data:
    """Linear, strong signals; M's slope and mean differ in each of six environments."""
    rng = np.random.default_rng(seed)
    env = np.repeat(list("abcdef"), n)
    s, shift = np.repeat([1.5, 0.5, -1.0, 2.0, 1.0, -0.5], n), np.repeat([0.0, 2.0, -2.0, 4.0, -4.0, 1.0], n)
    e = rng.standard_normal((6, 6 * n))
    x1, x2 = e[0], e[1]
    y = x1 + x2 + e[2]
    m = shift + s * y + e[3]
    return Data({"X1": x1, "X2": x2, "Y": y, "M": m, "X3": m + e[4], "X4": x2 + e[5]}, env)


@pytest.mark.parametrize("seed", range(4))
def test_a_clear_graph_is_found(seed):
    found = discover(clear(seed), "Y", ["M"], alpha=0.001)
    directed = {f"{a}->{b}" for a, b in found.graph.directed}
    assert directed <= LINES
    assert {"X1->Y", "X2->Y", "Y->M", "M->X3"} <= directed
    assert {frozenset(e) for e in (*found.graph.directed, *found.graph.undirected)} == {
        frozenset(e.split("->")) for e in LINES
    }
    # X2 - X4 has no collider and no environment that would tell its direction
    assert found.graph.undirected == (("X2", "X4"),)
    assert "guess" in found.notes[0]


def test_a_relation_that_changes_its_sign_is_seen_within_environments():
    rng = np.random.default_rng(0)
    env = np.repeat(["a", "b"], 500)
    y = np.tile(rng.standard_normal(500), 2)  # so that the two halves cancel
    data = Data({"Y": y, "M": np.repeat([1.0, -1.0], 500) * y + rng.standard_normal(1000)}, env)
    assert _Tests(data, ["Y", "M"], ["M"], "partial").pair("Y", "M", ()) < 1e-6
    assert _Tests(data, ["Y", "M"], [], "partial").pair("Y", "M", ()) > 0.01


def test_p_values_of_independent_pairs_are_uniform_enough():
    rng = np.random.default_rng(0)
    small = 0
    for _ in range(300):
        data = Data({"A": rng.standard_normal(200), "M": rng.standard_normal(200)}, np.arange(200) % 4)
        small += _Tests(data, ["A", "M"], ["M"], "partial").pair("A", "M", ()) < 0.05
    assert small <= 28  # 15 expected; 3.4 standard errors above


def test_a_mechanism_that_changes_unasked_is_noted():
    data = clear()
    graph = MutableSCM(sorted(LINES), "Y", ["M"])
    assert invariance_notes(data, graph) == []
    asked = MutableSCM(sorted(LINES), "Y", ())
    (note,) = invariance_notes(data, asked)
    assert "mechanisms of M" in note
    shifted = Data({**data.columns, "Y": data.columns["Y"] + (data.env == "c")}, data.env)
    assert "outcome's own mechanism" in invariance_notes(shifted, MutableSCM(["X1->Y, X2->Y"], "Y"))[0]
    assert invariance_notes(Data(data.columns), graph) == []


@pytest.mark.parametrize(
    "change, said",
    [
        ({"data": Data(clear().columns)}, "0 environment"),
        ({"alpha": 1.5}, "out of range"),
        ({"test": "magic"}, "no test"),
        ({"mutable": ["Y"]}, "is mutable"),
        ({"mutable": ["Q"]}, "not in the graph"),
        ({"target": "Q"}, "not in the graph"),
    ],
)
def test_discovery_refuses(change, said):
    given = {"data": clear(), "target": "Y", "mutable": ["M"]} | change
    with pytest.raises(UserError, match=said):
        discover(**given)


def test_the_kernel_test_asks_for_its_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "causallearn.utils.cit", None)
    with pytest.raises(UserError, match="causal-learn"):
        discover(clear(), "Y", ["M"], test="kci")


def test_extensions_make_no_cycle_and_no_new_collider():
    partial = PartialGraph((("A", "B"),), (("B", "C"), ("C", "D")), "B", ("D",))
    graphs = partial.extensions()
    assert all(("B", "C") in g.edges for g in graphs)  # else A -> B <- C would be new
    assert all(("C", "D") in g.edges for g in graphs)
    triangle = PartialGraph((("A", "B"), ("B", "C")), (("A", "C"),), "A")
    assert [g.edges for g in triangle.extensions()] == [(("A", "B"), ("B", "C"), ("A", "C"))]


def test_extensions_that_give_the_same_answer_are_one():
    # The edge among non-descendants points either way without consequence for Y's classes.
    partial = PartialGraph((("Y", "M"), ("A", "Y"), ("B", "Y")), (("A", "B"),), "Y", ("M",))
    assert len(partial.extensions()) == 1
    two = PartialGraph((("Y", "X"),), (("X", "M"),), "Y", ("M",), ())
    assert len(two.extensions()) == 1  # Y -> X <- M would be a new collider


def test_too_many_extensions_are_refused_with_the_edges():
    names = [f"M{i}" for i in range(5)]
    partial = PartialGraph((("Y", "M0"),), tuple(itertools.combinations(names, 2)), "Y", tuple(names))
    with pytest.raises(UserError, match="graphs fit the edges without direction: M0 -- M1"):
        partial.extensions()
    with pytest.raises(UserError, match="20 edges have no direction"):
        PartialGraph((), tuple(("Y", f"X{i}") for i in range(20)), "Y").extensions()


def test_a_cycle_of_directed_edges_is_named():
    with pytest.raises(UserError, match="cycle"):
        PartialGraph((("A", "Y"), ("Y", "A")), (), "Y").extensions()


def test_the_choice_over_extensions_has_the_smallest_largest_risk(gate_rows):
    graphs = [MutableSCM(["Y->M, M->X1, Y->X1"], "Y", "M"), MutableSCM(["Y->M, X1->M, Y->X1"], "Y", "M")]
    over = fit_extensions(CausalMinimax(graphs[0]), graphs, gate_rows, "E")
    assert over.risks.shape == (2, 2)
    assert over.risks[0, 0] == over.fitted[0].best_.risk
    assert over.chosen == int(over.risks.max(1).argmin())
    assert over.best is over.fitted[over.chosen]


def test_edges_without_direction_are_read_from_text():
    partial = PartialGraph.from_text("Y->M, M--X1", "Y", ["M"])
    assert partial.undirected == (("M", "X1"),)
    assert {g.edges for g in partial.extensions()} == {(("Y", "M"), ("M", "X1"))}
