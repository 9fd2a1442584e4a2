"""The token view's data: complete, escaped, and honest about what is missing."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.page.theme import STEPS, marks
from steersman.page.tokens import KEPT, Sample, StreamInfo, View, as_json, bounds, from_json, token_view

RATIO = StreamInfo("log-ratio", "nats", "signed", "policy minus reference")
WEIGHT = StreamInfo("weight", "", "sequential", "share of the gradient")
HOSTILE = "</script><script>alert(1)</script>"


def _sample(tokens=("a", " b", "</script>"), **changes):
    values = tuple(0.1 * i for i in range(len(tokens)))
    fields = {"title": "one", "tokens": tokens, "prompt_tokens": 1, "views": (View("dpo", {"log-ratio": values}),)}
    return Sample(**{**fields, **changes})


def _read(html):
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.S)[1])


def _column(data, name, sample=0, view=0):
    return data["columns"][data["samples"][sample]["views"][view]["streams"][name]]


def test_tokens_streams_and_marks_are_embedded_once():
    view = View("rdpo", {"log-ratio": (None, -1.0, 2.0), "weight": (None, 0.0, 0.5)}, (False, True, False))
    made = token_view([_sample(views=(view,), truth=(2,), caption="1 of 1")], [RATIO, WEIGHT], marks(["rdpo"]))
    data = _read(made)
    assert data["steps"] == STEPS
    assert [s["name"] for s in data["streams"]] == ["log-ratio", "weight", KEPT]
    sample = data["samples"][0]
    assert sample["tokens"] == ["a", " b", "</script>"]
    assert (sample["prompt"], sample["truth"], sample["caption"]) == (1, [2], "1 of 1")
    assert sample["views"][0]["dropped"] == [1]
    assert _column(data, "log-ratio") == [None, -1.0, 2.0]
    assert sample["views"][0]["colour"] == "var(--arm-0)"


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_no_token_can_close_the_block(tokens):
    made = token_view([_sample(tuple(tokens))], [RATIO], marks(["dpo"]))
    assert _read(made)["samples"][0]["tokens"] == tokens
    assert made.lower().count("</script") == 1


def test_missing_is_null_and_infinity_is_a_word_never_zero():
    values = (math.nan, None, math.inf, -math.inf, 0.0)
    made = token_view([_sample(("a",) * 5, views=(View("dpo", {"log-ratio": values}),))], [RATIO], marks(["dpo"]))
    assert _column(_read(made), "log-ratio") == [None, None, "Infinity", "-Infinity", 0.0]


def test_equal_columns_of_several_arms_are_stored_once():
    same, other = (0.1, math.nan, 0.3), (0.1, None, 0.4)
    views = (View("a", {"log-ratio": same}), View("b", {"log-ratio": same}), View("c", {"log-ratio": other}))
    data = _read(token_view([_sample(views=views)], [RATIO], marks("abc")))
    assert data["columns"] == [[0.1, None, 0.3], [0.1, None, 0.4]]
    assert [_column(data, "log-ratio", view=k)[2] for k in range(3)] == [0.3, 0.3, 0.4]


def test_a_dropped_response_drops_all_its_tokens_and_a_repeated_one_is_counted():
    views = (View("none", {}, copies=0), View("twice", {}, copies=2), View("some", {}, (False, False, True)))
    data = _read(token_view([_sample(views=views)], [], marks(["none", "twice", "some"])))
    found = [(v["dropped"], v["copies"]) for v in data["samples"][0]["views"]]
    assert found == [([1, 2], 0), (None, 2), ([2], 1)]


def test_kept_is_a_stream_where_something_is_chosen():
    def names(view):
        made = token_view([_sample(views=(view,))], [RATIO], marks(["dpo"]))
        return [s["name"] for s in _read(made)["streams"]]

    assert names(View("dpo", {})) == ["log-ratio"]
    assert names(View("dpo", {}, (False,) * 3)) == ["log-ratio", KEPT]
    assert names(View("dpo", {}, copies=0)) == ["log-ratio", KEPT]
    with pytest.raises(UserError, match="is made here"):
        token_view([_sample()], [StreamInfo(KEPT, "", "signed", "")], marks(["dpo"]))


def test_a_sample_survives_json():
    views = (View("dpo", {"log-ratio": (None, 0.25, -2.0)}, (False, True, False), 3), View("x", {}))
    sample = _sample(views=views, truth=(2,), notes=(("reward", "1"),), group="4", caption="c", mark="m")
    assert from_json(json.loads(json.dumps(as_json(sample)))) == sample
    broken = _sample(views=(View("dpo", {"log-ratio": (math.nan, math.inf, 1 / 3)}),))
    assert from_json(as_json(broken)).views[0].streams["log-ratio"] == (None, None, 0.33333)


@pytest.mark.parametrize(
    "values, scale, expected",
    [
        ([-3.0, 1.0], "signed", (-3.0, 3.0, False)),
        ([0.2, 0.8], "sequential", (0.0, 0.8, False)),
        ([-1.0, 2.0], "sequential", (-1.0, 2.0, False)),
        ([-4.0, -1.0], "sequential", (-4.0, -1.0, False)),
        ([], "signed", (-1.0, 1.0, False)),
        ([0.0, 0.0], "signed", (-1.0, 1.0, False)),
        ([0.0], "sequential", (0.0, 1.0, False)),
        ([math.nan, math.inf, 2.0], "sequential", (0.0, 2.0, False)),
        ([1.0] * 99 + [100.0], "sequential", (0.0, 1.0, True)),
        ([0.0] * 99 + [5.0], "sequential", (0.0, 5.0, False)),
    ],
)
def test_ends_of_the_colour_scale(values, scale, expected):
    assert bounds(values, scale) == expected


def test_the_scale_is_common_to_all_samples():
    low = _sample(views=(View("dpo", {"log-ratio": (0.0, 0.1, 0.2)}),))
    high = _sample(views=(View("dpo", {"log-ratio": (0.0, 0.1, -2.0)}),))
    assert _read(token_view([low, high], [RATIO], marks(["dpo"])))["streams"][0]["high"] == 2.0


def test_nothing_to_show():
    assert "No samples were recorded." in token_view([], [RATIO], {})
    assert _read(token_view([_sample((), prompt_tokens=0)], [RATIO], marks(["dpo"])))["samples"][0]["tokens"] == []


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"prompt_tokens": 4}, "prompt_tokens is 4"),
        ({"truth": (0, 3)}, "position 3"),
        ({"views": (View("dpo", {"weight": (1.0,)}),)}, "weight has 1 values"),
        ({"views": (View("dpo", {}, (True,)),)}, "dropped has 1 values"),
        ({"views": (View("dpo", {}, copies=-1),)}, "copies is -1"),
    ],
)
def test_what_does_not_fit_the_tokens_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        _sample(**wrong)


def test_a_stream_that_nobody_described_is_refused():
    with pytest.raises(UserError, match="'log-ratio' is not described"):
        token_view([_sample()], [WEIGHT], marks(["dpo"]))
