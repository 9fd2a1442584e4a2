"""Comparison of what a program returned with what was expected: types, tolerance, order, malformed text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.reward.sandbox_child import decode
from steersman.reward.sandbox_values import canonical, encode, matches

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=3),
    st.binary(max_size=3),
)  # fmt: skip
KEYS = st.one_of(
    st.integers(-3, 3), st.text(max_size=2), st.tuples(st.integers(0, 2)), st.frozensets(st.integers(0, 3))
)
VALUES = st.recursive(
    SCALARS,
    lambda x: st.one_of(
        st.lists(x, max_size=3), st.tuples(x, x), st.dictionaries(KEYS, x, max_size=3), st.sets(KEYS, max_size=3)
    ),
    max_leaves=8,
)


def alike(a, b):
    """Equality with types, written another way: of the representations that Python makes, containers ordered."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return len(a) == len(b) and all(any(alike(k, m) and alike(v, b[m]) for m in b) for k, v in a.items())
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(alike(x, y) for y in b) for x in a)
    return a == b


@given(VALUES, VALUES)
def test_equality_is_that_of_values_and_types(a, b):
    assert matches(encode(a), a)
    assert alike(decode(json.loads(encode(a))), a)
    assert matches(encode(a), b) == alike(a, b)
    if alike(a, b):
        assert canonical(json.loads(encode(a))) == canonical(json.loads(encode(b)))


@pytest.mark.parametrize(
    "found, expected, tolerance, right",
    [
        (1.0, 1.0 + 1e-9, None, False),
        (1.0, 1.0 + 1e-9, 1e-6, True),
        (1e9, 1e9 + 1, 1e-6, True),
        (1e-9, 0.0, 1e-6, True),
        (2, 2.0, None, False),
        (2, 2.0, 1e-6, True),
        (2.0, 2, 1e-6, False),
        (True, 1.0, 1e-6, False),
        ("1.0", 1.0, 1e-6, False),
        (float("nan"), float("nan"), None, True),
        (1.0, float("nan"), 0.5, False),
        (float("inf"), float("inf"), 0.5, True),
        (1e300, float("inf"), 0.5, False),
        (float("nan"), 1.0, 0.5, False),
        ([1.0, {"a": 2.0000001}], [1.0, {"a": 2.0}], 1e-6, True),
        (0.0, -0.0, None, True),
        (True, 1, None, False),
        (10**400, 1.5, 1e-6, False),
    ],
)
def test_floats(found, expected, tolerance, right):
    assert matches(encode(found), expected, tolerance) is right


def test_lists_and_tuples_alike_only_if_asked():
    for found, expected in (((1, 2), [1, 2]), ([1, (2,)], (1, [2])), ({(1,): 2}, {(1,): 2}), ({(1,)}, {(1,)})):
        assert matches(encode(found), expected, lists_alike=True)
    assert not matches(encode((1, 2)), [1, 2])
    assert not matches(encode({1, 2}), [1, 2], lists_alike=True)


@pytest.mark.parametrize(
    "text",
    ["", "{", "nope", "1" * 5000, '{"tuple": 3}', '{"a": [], "b": []}', '{"dict": [1]}', '{"int": 3}', "[" * 100_000],
)
def test_text_that_no_encoder_writes(text):
    with pytest.raises(ValueError):
        matches(text, {1: 2})


def test_an_encoded_value_of_another_kind_is_not_a_tag():
    assert not matches(json.dumps({"other": "int"}), 3)
    assert not matches(json.dumps({"unknown": []}), [])
    assert matches(encode({"tuple": [1]}), {"tuple": [1]})
    assert not matches(encode((1,)), {"tuple": [1]})
