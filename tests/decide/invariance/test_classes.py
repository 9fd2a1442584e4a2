"""Classes of subsets: brute force, counts in closed form, the published graph, the inexact search."""

import itertools
import random

import pytest

from steersman.core.errors import UserError
from steersman.decide.invariance.classes import (
    Interval,
    all_subsets,
    beam_classes,
    class_of,
    markov_boundary,
    stable_classes,
)
from steersman.decide.invariance.graph import MutableSCM

# The graph of the paper's simulation, whose official search finds 45 classes of 256 subsets.
PUBLISHED = (
    "Y->M1, Y->X2, M1->X2, X7->X2, X6->X2, X7->X6, X2->X4, X4->X3, X11->X3, X3->X5, X10->X5, X11->X5, X11->X10, "
    "X6->M2, X4->M2, X11->M2"
)
PUBLISHED_CLASSES = 45


def random_graph(seed: int, variables: int, share: float = 0.4, mutable: float = 0.2) -> MutableSCM:
    draw = random.Random(seed)
    names = ["Y", *(f"X{i}" for i in range(variables))]
    draw.shuffle(names)
    edges = [e for e in itertools.combinations(names, 2) if draw.random() < share]
    return MutableSCM(edges, "Y", [v for v in names if v != "Y" and draw.random() < mutable], names)


def brute(graph: MutableSCM) -> dict[frozenset[str], set[frozenset[str]]]:
    found: dict[frozenset[str], set[frozenset[str]]] = {}
    for size in range(len(graph.stable) + 1):
        for subset in itertools.combinations(graph.stable, size):
            found.setdefault(markov_boundary(graph, subset), set()).add(frozenset(subset))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_classes_are_those_of_the_markov_boundary(seed):
    graph = random_graph(seed, 2 + seed % 6)
    found = stable_classes(graph)
    assert {c.core: set(c.subsets()) for c in found} == brute(graph)
    assert sum(c.size for c in found) == 2 ** len(graph.stable)


def test_every_member_finds_its_class():
    for seed in range(20):
        graph = random_graph(seed, 5)
        for c in stable_classes(graph):
            assert all(class_of(graph, s) == c for s in c.subsets())
            assert all(s in c for s in c.subsets())


def test_a_class_is_equivalent_by_the_definition():
    """S_1 ~ S_2 iff some S_0 inside both separates Y from the rest of each."""
    for seed in range(15):
        graph = random_graph(seed, 4, mutable=0.2)
        inner = MutableSCM([e for e in graph.edges if not set(e) & set(graph.mutable)], "Y", (),
                           [v for v in graph.nodes if v not in graph.mutable])  # fmt: skip
        classes = stable_classes(graph)
        subsets = [s for c in classes for s in c.subsets()]
        for a, b in itertools.combinations(subsets, 2):
            both = sorted(a & b)
            meets = any(
                all(not rest or inner.d_separated("Y", rest, s0) for rest in (a - set(s0), b - set(s0)))
                for n in range(len(both) + 1)
                for s0 in itertools.combinations(both, n)
            )
            assert meets == any(a in c and b in c for c in classes)


@pytest.mark.parametrize("d", [1, 4, 9])
def test_a_path_that_begins_with_the_target_has_d_plus_one(d):
    names = ["Y", *(f"X{i}" for i in range(d))]
    assert len(stable_classes(MutableSCM(list(itertools.pairwise(names)), "Y"))) == d + 1


@pytest.mark.parametrize("left, right", [(2, 3), (4, 1), (5, 5)])
def test_a_path_through_the_target_has_a_product(left, right):
    names = [*(f"L{i}" for i in range(left)), "Y", *(f"R{i}" for i in range(right))]
    assert len(stable_classes(MutableSCM(list(itertools.pairwise(names)), "Y"))) == (left + 1) * (right + 1)


def test_a_star_has_all_subsets():
    assert len(stable_classes(MutableSCM([("Y", f"X{i}") for i in range(8)], "Y"))) == 2**8


def test_the_published_graph_has_its_published_number():
    assert len(stable_classes(MutableSCM([PUBLISHED], "Y", ["M1", "M2"]))) == PUBLISHED_CLASSES


def test_too_many_classes_say_how_many_and_what_to_do():
    star = MutableSCM([("Y", f"X{i}") for i in range(12)], "Y")
    with pytest.raises(UserError, match=r"more than 100 classes.*cover") as found:
        stable_classes(star, max_classes=100)
    assert "beam" in found.value.cure
    with pytest.raises(UserError, match="subsets"):
        all_subsets(MutableSCM([("Y", f"X{i}") for i in range(17)], "Y"))


def test_a_graph_of_a_thousand_variables_is_no_trouble_if_few_matter():
    names = [f"X{i}" for i in range(1000)]
    graph = MutableSCM([("X0", "Y")], "Y", (), names)
    assert stable_classes(graph) == [Interval(frozenset(), frozenset(names[1:])),
                                     Interval(frozenset({"X0"}), frozenset(names[1:]))]  # fmt: skip


def test_the_beam_sees_a_part_and_scores_each_once():
    star = MutableSCM([("Y", f"X{i}") for i in range(8)], "Y")
    asked = []

    def score(c: Interval) -> float:
        asked.append(c)
        return abs(len(c.core) - 3) + 0.01 * ("X0" in c.core)

    seen, rounds = beam_classes(star, score, width=2)
    assert len(asked) == len(set(asked)) == len(seen) < 2**8
    assert rounds > 1
    assert min(score(c) for c in seen) == 0.0


def test_refusals():
    graph = MutableSCM(["Y->M"], "Y", "M")
    with pytest.raises(UserError, match="not stable"):
        markov_boundary(graph, ["M"])
    with pytest.raises(UserError, match="width"):
        beam_classes(graph, lambda c: 0.0, width=0)
