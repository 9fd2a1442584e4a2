"""Graphs as figures: layers, kinds, heads, what is said to those who do not see it."""

import re

import pytest

from steersman.page.dag import Graph, _layers, dag
from steersman.page.theme import Mark

MARKS = {"a": Mark("var(--arm-0)", ""), "b": Mark("var(--arm-1)", "5 3")}
EDGES = (("X", "Y", "solid"), ("Y", "M", "bold"), ("X", "M", "solid"), ("Y", "Z", "dashed"))
GRAPH = Graph("Causes", {"X": "a", "Y": "a", "M": "b", "Z": "a"}, EDGES, "a note")


def test_causes_stand_above_their_effects():
    layers = _layers(GRAPH)
    depth = {v: d for d, layer in enumerate(layers) for v in layer}
    assert all(depth[a] < depth[b] for a, b, _ in EDGES)
    place = {
        name: float(y)
        for name, y in re.findall(r"<title>(\w+): \w+</title>.*?y=\"([-\d.]+)\"", dag(GRAPH, MARKS))
    }  # fmt: skip
    assert place["X"] < place["Y"] < place["M"]


def test_heads_dashes_and_kinds():
    drawn = dag(GRAPH, MARKS)
    assert drawn.count("<polygon") == 3  # none on the edge without direction
    assert drawn.count('stroke-dasharray="5 4"') == 1
    assert drawn.count('stroke-dasharray="5 3"') == 1  # M's box
    assert drawn.count("stroke-width:2.4") == 1
    assert "a note" in drawn
    assert "X to Y; Y to M; X to M; Y -- Z" in drawn


def test_names_are_escaped_and_cut():
    name = "<b>a very long name of a variable"
    drawn = dag(Graph("t", {name: "a"}, ()), MARKS)
    assert "<b>" not in drawn.replace("<b>t</b>", "")
    assert "…" in drawn


def test_all_stays_inside_the_picture():
    nodes = {f"V{i}": "a" for i in range(9)} | {"T": "b"}
    edges = tuple((f"V{i}", "T", "solid") for i in range(9))
    drawn = dag(Graph("t", nodes, edges), MARKS)
    for x, wide in re.findall(r'<rect x="([-\d.]+)" y="[-\d.]+" width="([-\d.]+)"', drawn):
        assert float(x) >= -1
        assert float(x) + float(wide) <= 521


def test_an_empty_graph_and_bad_ones():
    assert "No variables" in dag(Graph("t", {}, ()), MARKS)
    with pytest.raises(ValueError, match="unknown"):
        Graph("t", {"X": "a"}, (("X", "Q", "solid"),))
    with pytest.raises(ValueError, match="cycle"):
        Graph("t", {"X": "a", "Y": "a"}, (("X", "Y", "solid"), ("Y", "X", "solid")))
