"""TinyCode's language: parsing, types, evaluation against the sandbox on random trees and random token strings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.noise import generator
from steersman.reward.sandbox import Sandbox
from steersman.task.tiny_code_language import (
    COMPARISONS,
    EOS,
    LONGEST,
    OPERATORS,
    PAD,
    TOKENS,
    VOCABULARY,
    Refused,
    evaluate,
    parse,
    render,
    size,
    text_of,
    tokenize,
    type_of,
)

X = {"int": [-7, -1, 0, 1, 3, 12], "list": [[3], [-2, 5], [0, 0, -9], [4, 1, 3, 1, -5], []]}
PROGRAMS = 400

NUMBER = st.integers(-12, 20).map(lambda n: ("const", n))
BOUND = st.none() | st.integers(-3, 3)


def ints(leaf, lists, depth):
    if depth == 0:
        return leaf | NUMBER
    inner = ints(leaf, lists, depth - 1)
    made = [
        leaf | NUMBER,
        st.tuples(st.sampled_from((*OPERATORS, "min", "max")), inner, inner),
        st.tuples(st.sampled_from(("neg", "abs")), inner),
        st.tuples(st.just("if"), st.sampled_from(COMPARISONS), inner, inner, inner, inner),
    ]
    if lists:
        made.append(st.tuples(st.sampled_from(("min", "max", "sum", "len")), a_list(depth - 1)))
    return st.one_of(made)


def a_list(depth):
    x = st.just(("x",))
    if depth == 0:
        return x
    inner = a_list(depth - 1)
    step = st.none() | st.sampled_from((-2, -1, 1, 2))
    return st.one_of(
        x, st.tuples(st.just("sorted"), inner), st.tuples(st.just("slice"), inner, BOUND, BOUND, step),
        st.tuples(st.just("for"), ints(st.just(("i",)), False, 2), x),
        st.tuples(st.just("if"), st.sampled_from(COMPARISONS), ints(NUMBER, False, 1), NUMBER, inner, inner),
    )  # fmt: skip


TREES = st.one_of(
    st.tuples(st.just("int"), ints(st.just(("x",)), False, 3)),
    st.tuples(st.just("list"), st.one_of(ints(NUMBER, True, 3), a_list(3))),
)


def fors(tree):
    return (tree[0] == "for") + sum(fors(p) for p in tree if isinstance(p, tuple))


@settings(max_examples=300)
@given(TREES)
def test_text_and_back(case):
    kind, tree = case
    text = render(tree)
    if len(text) > LONGEST or fors(tree) > 1:
        with pytest.raises(Refused):
            parse(text, kind)
        return
    again = parse(text, kind)
    assert evaluated(again, kind) == evaluated(tree, kind)
    assert parse(render(again), kind) == again
    if "('neg', ('const'" not in str(tree):
        assert again == tree
    assert text_of(tokenize(text)) == text


def evaluated(tree, kind):
    found = []
    for x in X[kind]:
        try:
            value = evaluate(tree, list(x) if kind == "list" else x)
            found.append((type(value), value))
        except (ZeroDivisionError, ValueError) as error:
            found.append(type(error))
    return found


@pytest.mark.parametrize(
    "text, kind, tree, nodes, values",
    [
        ("x*2+1", "int", ("+", ("*", ("x",), ("const", 2)), ("const", 1)), 5, {3: 7}),
        ("(x+1)*2", "int", ("*", ("+", ("x",), ("const", 1)), ("const", 2)), 5, {3: 8}),
        ("x-(3-x)", "int", ("-", ("x",), ("-", ("const", 3), ("x",))), 5, {3: 3}),
        ("x//-3", "int", ("//", ("x",), ("const", -3)), 3, {7: -3, -7: 2}),
        ("x%-3", "int", ("%", ("x",), ("const", -3)), 3, {7: -2}),
        ("x if x>3 else -x", "int", ("if", ">", ("x",), ("const", 3), ("x",), ("neg", ("x",))), 7, {5: 5, 2: -2}),
        ("max(x,abs(x))", "int", ("max", ("x",), ("abs", ("x",))), 4, {-3: 3}),
    ],
)
def test_meaning(text, kind, tree, nodes, values):
    assert parse(text, kind) == tree
    assert render(tree) == text
    assert size(tree) == nodes
    for x, value in values.items():
        assert evaluate(tree, x) == value


def test_meaning_of_lists():
    given = [4, -1, 3]
    for text, value, nodes in (
        ("sorted(x)[::-1]", [4, 3, -1], 4),
        ("x[1:]", [-1, 3], 3),
        ("x[1:-1]", [-1], 4),
        ("[i*2 for i in x]", [8, -2, 6], 5),
        ("sum(x)//len(x)", 2, 5),
        ("max(min(x),1)", 1, 4),
    ):
        tree = parse(text, "list")
        assert evaluate(tree, given) == value
        assert size(tree) == nodes
        assert render(tree) == text
    assert given == [4, -1, 3]


@pytest.mark.parametrize(
    "text, kind, status",
    [
        ("", "int", "error"), ("x+", "int", "error"), ("007", "int", "error"), ("0x1", "int", "error"),
        ("2x", "int", "error"), ("3if x>2 else 1", "int", "error"), ("(" * 60, "int", "error"), (" x", "int", "error"),
        ("x;x", "int", "error"), ("x=1", "int", "error"),
        ("x.y", "int", "forbidden"), ("x[0]", "list", "forbidden"), ("x**2", "int", "forbidden"),
        ("f(x)", "int", "forbidden"), ("x<3", "int", "forbidden"), ("1 if x else 2", "int", "forbidden"),
        ("1 if 1<x<3 else 2", "int", "forbidden"), ("i", "int", "forbidden"), ("x+1", "list", "forbidden"),
        ("x*999999999", "list", "forbidden"), ("sum(x)", "int", "forbidden"), ("x[::0]", "list", "forbidden"),
        ("x[x:]", "int", "forbidden"), ("10000", "int", "forbidden"), ("abs(x,1)", "int", "forbidden"),
        ("[i for i in x][len(x):]", "list", "forbidden"), ("[x for i in x]", "list", "forbidden"),
        ("[i for i in [i for i in x]]", "list", "forbidden"), ("x if 1<2 else 3", "list", "forbidden"),
        ("[i for x in x]", "list", "forbidden"), ("x" + "+x" * 80, "int", "forbidden"), ("1,2", "int", "forbidden"),
        ("__import__('os')", "int", "forbidden"), ("f'{x}'", "int", "forbidden"), ("True", "int", "forbidden"),
        ("max(x,3)", "list", "forbidden"), ("1.5", "int", "forbidden"),
    ],
)  # fmt: skip
def test_what_is_refused(text, kind, status):
    with pytest.raises(Refused) as caught:
        parse(text, kind)
    assert caught.value.status == status


def test_tokens():
    assert len(TOKENS) == len(set(TOKENS)) == VOCABULARY
    assert (TOKENS[EOS], TOKENS[PAD]) == ("<eos>", "<pad>")
    shown = "f([3,-1])=9 f(2)=-1 ; x//2 if x>=3 else sum([i%2 for i in sorted(x)])"
    assert text_of(tokenize(shown)) == shown
    assert EOS not in tokenize(shown)
    for bad in ("y", "x\n", "<eos>", "x y "):
        with pytest.raises(ValueError, match="TinyCode"):
            tokenize(bad)
    assert type_of(parse("sorted(x)", "list"), {"x": "list"}) == "list"


def random_programs(kind, n):
    """Programs found among random strings of tokens."""
    draw = generator(3, f"programs/{kind}")
    found = []
    while len(found) < n:
        k = int(draw.integers(1, 9))
        text = text_of(draw.integers(0, EOS, k).tolist())
        try:
            parse(text, kind)
        except Refused:
            continue
        found.append(text)
    return found


@settings(max_examples=1, deadline=None)
@given(st.lists(TREES, min_size=PROGRAMS, max_size=PROGRAMS))
def test_the_evaluator_is_the_sandbox_on_random_trees(cases):
    compare([(k, render(t)) for k, t in cases if fors(t) <= 1 and len(render(t)) <= LONGEST])


@pytest.mark.parametrize("kind", ["int", "list"])
def test_the_evaluator_is_the_sandbox_on_random_tokens(kind):
    compare([(kind, text) for text in random_programs(kind, 60)])


def compare(cases):
    """In the sandbox every value is the evaluator's, and it fails where the evaluator does."""
    pytest.importorskip("pydantic_monty")
    programs, calls, fails = [], [], []
    for kind, text in cases:
        wanted = evaluated(parse(text, kind), kind)
        programs.append(f"def f(x):\n    return {text}\n")
        calls.append([("f", (x,), 0 if isinstance(w, type) else w[1]) for x, w in zip(X[kind], wanted, strict=True)])
        fails.append(np.array([isinstance(w, type) for w in wanted]))
    with Sandbox() as sandbox:
        for text, verdict, failing in zip(programs, sandbox.run_many(programs, calls), fails, strict=True):
            assert verdict.status == ("error" if failing.any() else "pass"), (text, verdict)
            assert list(verdict.per_test) == (~failing).tolist(), (text, verdict)
