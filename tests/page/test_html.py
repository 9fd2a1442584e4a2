"""Markup: nothing that a text contains can leave its place."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.page.html import Column, Html, escape, join, json_block, link, section, shell, table, tag

HOSTILE = "</script><script>alert(1)</script><b title=\"x\" onclick='y'>&"


class _Reader(HTMLParser):
    """Collects what a browser would see: elements, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.attributes += attributes

    def handle_data(self, data):
        self.text.append(data)


@given(st.text(), st.text())
def test_any_text_stays_text(inside, value):
    seen = _Reader(tag("p", inside, title=value))
    assert seen.tags == ["p"]
    assert "".join(seen.text) == inside
    assert seen.attributes == [("title", value)]


def test_markup_is_not_escaped_twice_and_nothing_is_nothing():
    assert tag("p", tag("b", "<"), None, False, 0) == "<p><b>&lt;</b>0</p>"
    assert (
        tag("td", class_="a", data_x="1", hidden=True, title=None, role=False)
        == '<td class="a" data-x="1" hidden></td>'
    )
    assert isinstance(join("a", "<"), Html)
    assert escape(None) == escape(False) == ""


@given(st.recursive(st.text() | st.none() | st.integers(), lambda inner: st.lists(inner, max_size=3)))
def test_json_comes_back_and_cannot_close_its_block(data):
    text = json_block(data)
    assert text.count("<") == 2
    assert json.loads(re.fullmatch(r"<script[^>]*>(.*)</script>", text, re.S)[1]) == data


def test_json_has_no_nan():
    with pytest.raises(ValueError):
        json_block([math.nan])


def test_table_with_hostile_cells_details_and_no_rows():
    columns = [Column("Arm", "head"), Column(HOSTILE, "number", HOSTILE)]
    made = table(columns, [[HOSTILE, 1]], label=HOSTILE, empty="none", details=[HOSTILE], stack=True)
    seen = _Reader(made)
    assert "script" not in seen.tags
    assert seen.tags.count("tr") == 3
    assert seen.text.count(HOSTILE) == 4
    assert table(columns, [], label="x", empty="No rows <here>.") == '<p class="empty">No rows &lt;here&gt;.</p>'
    with pytest.raises(ValueError, match="2 cells"):
        table(columns, [["only one"]], label="x", empty="")


@pytest.mark.parametrize("target", ["javascript:alert(1)", "JavaScript:x", "data:text/html,x", "vbscript:x"])
def test_links_lead_to_pages_and_files_only(target):
    with pytest.raises(UserError):
        link("x", target)


@pytest.mark.parametrize("target", ["result.json", "https://example.org/a:b", "../docs/m.html#a:b", "a/b:c"])
def test_ordinary_links(target):
    assert ("href", target) in _Reader(link("x", target)).attributes


def test_a_page_carries_its_styles_and_script_and_reaches_nothing():
    page = shell(HOSTILE, section(HOSTILE, HOSTILE, anchor="a"), "half \ud800 character")
    seen = _Reader(page)
    assert seen.tags.count("script") == 1
    assert not [value for name, value in seen.attributes if name in ("src", "href") and value != "data:,"]
    policy = next(v for k, v in seen.attributes if k == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "--arm-0" in page
    assert page.encode()  # the lone surrogate is gone
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
