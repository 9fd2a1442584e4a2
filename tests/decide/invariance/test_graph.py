"""Graphs: the condition, d-separation against networkx and partial correlations, bad input."""

import itertools
import random

import networkx as nx
import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.invariance.graph import MutableSCM, parse_edges

GATE = [("Y", "M"), ("M", "X1"), ("Y", "X1")]
ROWS, CORRELATION = 40_000, 0.03


def random_graph(seed: int, most: int = 7, share: float = 0.4, mutable: float = 0.25) -> MutableSCM:
    """A random graph over Y and up to `most` variables."""
    draw = random.Random(seed)
    names = ["Y", *(f"X{i}" for i in range(draw.randint(2, most)))]
    draw.shuffle(names)
    edges = [e for e in itertools.combinations(names, 2) if draw.random() < share]
    changing = [v for v in names if v != "Y" and draw.random() < mutable]
    return MutableSCM(edges, "Y", changing, names)


def test_the_condition_names_the_edge_that_breaks_it():
    found = MutableSCM(GATE, "Y", ["M"]).whole_set_optimal()
    assert not found
    assert found.edges == (("Y", "X1"),)
    assert "Y -> X1" in found.reason


@pytest.mark.parametrize(
    "edges, mutable",
    [
        (GATE, []),  # nothing changes
        (GATE[:2], ["M"]),  # no edge into K
        ([("M", "Y"), ("Y", "X1")], ["M"]),  # mutable, but no child of Y
        ([("Y", "M"), ("Y", "N"), ("M", "N")], ["M", "N"]),  # the descendant is itself mutable
    ],
)
def test_the_condition_holds(edges, mutable):
    assert MutableSCM(edges, "Y", mutable).whole_set_optimal()


@pytest.mark.parametrize("seed", range(60))
def test_d_separation_agrees_with_networkx(seed):
    graph, draw = random_graph(seed), random.Random(seed)
    peer = nx.DiGraph(graph.edges)
    peer.add_nodes_from(graph.nodes)
    for _ in range(20):
        a, *rest = draw.sample(graph.nodes, len(graph.nodes))
        b, given = {rest[0]}, {v for v in rest[1:] if draw.random() < 0.4}
        assert graph.d_separated(a, b, given) == nx.is_d_separator(peer, {a}, b, given)


def test_d_separation_from_several_at_once_agrees_with_networkx():
    for seed in range(40):
        graph = random_graph(seed, most=5)
        peer = nx.DiGraph(graph.edges)
        peer.add_nodes_from(graph.nodes)
        a, *others = graph.nodes
        b, given = set(others[:2]), set(others[2:3])
        assert graph.d_separated(a, b, given) == nx.is_d_separator(peer, {a}, b, given)


@pytest.mark.parametrize("seed", range(6))
def test_d_separation_agrees_with_partial_correlations(seed):
    graph, rng = random_graph(seed, most=5), np.random.default_rng(seed)
    x = {}
    for v in graph.nodes:
        x[v] = rng.standard_normal(ROWS) + sum(rng.choice([-1, 1]) * rng.uniform(0.7, 1.2) * x[p]
                                               for p in graph.parents(v))  # fmt: skip
    for a, b in itertools.combinations(graph.nodes, 2):
        given = [v for v in graph.nodes if v not in (a, b)][:2]
        z = np.stack([np.ones(ROWS), *(x[v] for v in given)], 1)
        left = [x[v] - z @ np.linalg.lstsq(z, x[v], rcond=None)[0] for v in (a, b)]
        if graph.d_separated(a, b, given):
            assert abs(np.corrcoef(*left)[0, 1]) < CORRELATION


def test_descendants_with_arrows_removed():
    graph = MutableSCM([("A", "B"), ("B", "C"), ("A", "C"), ("C", "D")], "A", ["B"])
    assert graph.descendants(["A"]) == ("B", "C", "D")
    assert graph.descendants(["B"], cut=["C"]) == ()
    assert graph.nodes == ("A", "B", "C", "D")


def test_edges_as_text():
    text = "Y->M->X1 ; X2 <- Y  # a remark\nX3 -- X4,"
    assert parse_edges(text) == [("Y", "->", "M"), ("M", "->", "X1"), ("Y", "->", "X2"), ("X3", "--", "X4")]
    assert MutableSCM(["Y->M", "M->X1"], "Y", "M").edges == (("Y", "M"), ("M", "X1"))


@pytest.mark.parametrize(
    "edges, target, mutable, said",
    [
        (GATE, "Y", ["Y"], "is mutable"),
        (GATE, "Z", ["M"], "'Z' is not in the graph"),
        (GATE, "Y", ["Q"], r"\['Q'\] are not in the graph"),
        ([*GATE, ("X1", "Y")], "Y", ["M"], "cycle: .*X1 -> Y"),
        ([("Y", "Y")], "Y", [], "edge to itself"),
        (["Y--M"], "Y", ["M"], "no direction"),
        (["Y<->M"], "Y", ["M"], "points both ways"),
        (["Y M"], "Y", ["M"], "is no edge"),
    ],
)
def test_refusals(edges, target, mutable, said):
    with pytest.raises(UserError, match=said):
        MutableSCM(edges, target, mutable)


def test_a_long_cycle_is_named_in_the_direction_of_its_edges():
    with pytest.raises(UserError) as found:
        MutableSCM([("Y", "A"), ("A", "B"), ("B", "C"), ("C", "A")], "Y")
    walked = found.value.what.partition("cycle: ")[2].split(" -> ")
    assert all(e in {("A", "B"), ("B", "C"), ("C", "A")} for e in itertools.pairwise(walked))
    assert walked[0] == walked[-1]
