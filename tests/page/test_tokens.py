"""The token view's data: complete, escaped, and honest about what is missing."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.page.html import shell
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
    same, other = [(0.1, float("nan"), 0.3) for _ in range(2)], (0.1, None, 0.4)
    views = (View("a", {"log-ratio": same[0]}), View("b", {"log-ratio": same[1]}), View("c", {"log-ratio": other}))
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


# In a browser ----------------------------------------------------------------------------------------------------

ARMS = ("grpo", "d3s", "pf-ppo")
TOKENS = ("2", "7", "=", "a", "2", "2", "b", "7", "9", "\n", "<eos>")


def _rollouts():
    """Four responses to two prompts under three methods that choose differently."""
    found = []
    for k in range(4):
        advantage = (None,) * 3 + (0.5 - k,) * 8
        entropy = (None,) * 3 + tuple(0.1 * i for i in range(8))
        streams = {"log-ratio": advantage, "weight": entropy}
        some = tuple(i >= 3 and i % 2 == 0 for i in range(11))
        views = (
            View("grpo", streams, (False,) * 11),
            View("d3s", streams, some, 0 if k == 0 else 1),
            View("pf-ppo", {"log-ratio": advantage}, (False,) * 11, 0 if k == 0 else k),
        )
        notes = (("reward", str(k % 2)),)
        found.append(Sample(f"response {k}", TOKENS, 3, views, (5, 8), notes=notes, group=str(k // 2)))
    return found


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "index.html"
    path.write_text(shell("Tokens", token_view(_rollouts(), [RATIO, WEIGHT], marks(ARMS))), "utf-8")
    return path.as_uri()


CHOSEN = ".pick [aria-checked=true]"
COLOURS = "() => [...document.querySelectorAll('.flow .t')].map(e => getComputedStyle(e).backgroundColor)"
HATCHED = "e => getComputedStyle(e).backgroundImage.includes('repeating-linear-gradient')"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_methods_stand_aligned_under_the_same_tokens(open_page, address, width, scheme):
    view, trouble = open_page(address, width, scheme)
    assert view.locator(".where").inner_text() == "2 of 4"  # the first one that all methods use
    columns = view.locator(".flow .col")
    assert columns.count() == len(TOKENS) - 3
    assert view.locator(".prompt").inner_text() == "27="
    names = view.locator(".gutter .col").first.locator(".t")
    for k, arm in enumerate(ARMS):
        cell, name = columns.nth(0).locator(".t").nth(k).bounding_box(), names.nth(k)
        assert name.inner_text() == arm
        assert name.bounding_box()["y"] == pytest.approx(cell["y"], abs=1)
    lines = {round(c.bounding_box()["y"]) for c in columns.all()}
    assert view.locator(".gutter .col").count() == len(lines)
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    view.keyboard.press("2")
    assert len(set(view.evaluate(COLOURS))) > 5
    assert not trouble
    view.close()


@pytest.mark.browser
def test_dropped_tokens_are_hatched_whatever_the_stream_and_decisive_ones_underlined(open_page, address):
    view, trouble = open_page(address)
    column = view.locator(".flow .col")
    for key in ("1", "2", "3"):
        view.keyboard.press(key)
        assert [c.evaluate(HATCHED) for c in column.nth(1).locator(".t").all()] == [False, True, False]
        assert [c.evaluate(HATCHED) for c in column.nth(2).locator(".t").all()] == [False, False, False]
    assert view.locator(CHOSEN).inner_text().endswith("kept")
    assert [view.locator(".tok.true").nth(k).inner_text() for k in range(2)] == ["2", "9"]
    heads = view.locator(".viewhead").all_inner_texts()
    assert "4 of 8 tokens kept, 1 of 2 decisive among them" in heads[1]
    assert not trouble
    view.close()


@pytest.mark.browser
def test_keys_choose_layout_numbers_stream_and_sample(open_page, address):
    view, trouble = open_page(address)
    first = view.evaluate(COLOURS)
    view.keyboard.press("2")
    assert view.locator(CHOSEN).inner_text().endswith("weight")
    assert view.evaluate(COLOURS) != first
    assert "weight was not recorded here" in view.locator(".viewhead").nth(2).inner_text()
    view.keyboard.press("n")
    shown = "e => getComputedStyle(e, '::after').content.split(' /')[0]"
    cells = view.locator(".flow .col").nth(3).locator(".t").all()
    assert [c.evaluate(shown) for c in cells] == ['"0.30"', '"0.30"', '""']  # missing is nothing, not 0
    view.keyboard.press("a")
    assert view.locator(".flow").count() == 0
    assert view.locator(".text-view .view").count() == 3
    assert view.locator(".view").nth(1).locator(".t").nth(4).evaluate(HATCHED)
    view.keyboard.press("n")
    struck = "e => getComputedStyle(e).textDecorationLine"
    assert [view.locator(".view").nth(1).locator(".t").nth(i).evaluate(struck) for i in (4, 5)] == [
        "line-through",
        "none",
    ]
    view.keyboard.press("ArrowLeft")
    assert view.locator(".view.gone").count() == 2
    assert view.locator(".view").nth(1).locator(".viewhead").inner_text().endswith("response dropped")
    for name in ("aligned", "numbers"):
        assert view.locator(".switch button", has_text=name).get_attribute("aria-pressed") == "false"
    assert not trouble
    view.close()


@pytest.mark.browser
@pytest.mark.parametrize("key", ["", "a"])
def test_of_a_long_prompt_the_end_is_shown(open_page, tmp_path, key):
    tokens = tuple(f" {i}" for i in range(1000))
    views = tuple(View(arm, {"log-ratio": (0.5,) * 1000}, (False,) * 1000) for arm in ARMS)
    made = token_view([Sample("long", tokens, 700, views)], [RATIO], marks(ARMS))
    path = tmp_path / "index.html"
    path.write_text(shell("Long", made), "utf-8")
    view, trouble = open_page(path.as_uri())
    view.keyboard.press(key or "1")
    each = 1 if key == "" else len(ARMS)
    shown = ".tokens [data-i]"
    assert view.locator(shown).count() == 400 * each
    assert view.locator(shown).first.inner_text().strip() == "500"
    view.keyboard.press("Shift+ArrowRight")
    assert "position 500, prompt" in view.locator(".tip").inner_text()
    assert view.locator(".fold").inner_text() == "show all 1,000 tokens (600 more)"
    view.locator(".fold").click()
    assert view.locator(shown).count() == 1000 * each
    assert not trouble
    view.close()


@pytest.mark.browser
def test_the_map_leads_to_a_response_and_says_what_each_method_does_with_it(open_page, address):
    view, trouble = open_page(address)
    columns = view.locator(".map button.col")
    assert columns.count() == 4
    assert "d3s: response dropped" in columns.nth(0).get_attribute("aria-label")
    assert "pf-ppo: used 3 times" in columns.nth(3).get_attribute("aria-label")
    assert columns.nth(3).inner_text() == "×3"
    assert [c.evaluate("e => e.classList.contains('next')") for c in columns.all()] == [False, False, True, False]
    columns.nth(3).hover()
    said = view.locator(".tip").inner_text()
    assert "response 3, reward 1" in said
    assert "4 of 8 tokens kept" in said
    columns.nth(3).click()
    assert view.locator(".title").inner_text() == "response 3"
    assert columns.nth(3).get_attribute("aria-current") == "true"
    assert view.locator(".notes").inner_text() == "reward 1"
    assert not trouble
    view.close()


@pytest.mark.browser
def test_hover_and_walking_tell_all_numbers_of_a_token_under_all_methods(open_page, address):
    view, trouble = open_page(address)
    view.locator(".flow .col").nth(3).hover()
    tip = view.locator(".tip")
    said = tip.inner_text()
    assert "position 6, response token 4, not decisive" in said
    assert re.search(r"log-ratio \(nats\)\s+−0.5000\n", said)  # the same for all methods
    assert re.search(r"weight\s+0.3000\s+0.3000\s+–", said)
    assert re.search(r"dropped\s+no\s+yes\s+no", said)
    view.mouse.move(5, 5)
    assert tip.is_hidden()
    view.keyboard.press("Shift+ArrowRight")
    view.keyboard.press("Shift+ArrowRight")
    assert "position 1, prompt" in tip.inner_text()
    assert view.locator(".prompt .t.at").inner_text() == "7"
    view.keyboard.press("Shift+ArrowRight")
    view.keyboard.press("Shift+ArrowRight")
    assert "position 3, response token 1" in tip.inner_text()
    assert view.locator(".at").count() == view.locator(".flow .col.at").count() == 1
    assert tip.get_attribute("role") == "status"  # so that it is read out
    assert not trouble
    view.close()


@pytest.mark.browser
def test_a_tap_on_a_small_screen_stays_on_it(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    view = context.new_page()
    view.goto(address)
    view.locator(".flow .col").nth(7).tap()
    box = view.locator(".tip").bounding_box()
    assert "position 10" in view.locator(".tip").inner_text()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
