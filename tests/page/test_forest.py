"""A forest plot: rows, arms, references, the band, what is cut, words for readers, refusals."""

import math
import re

import pytest

from steersman.page.forest import BAND, Forest, Row, forest
from steersman.page.number import Estimate
from steersman.page.theme import marks

MARKS = marks(["one", "two"])


def given(**options):
    rows = (
        Row("left", {"one": Estimate(0.2, 0.1, 0.3), "two": Estimate(0.6, 0.5, 0.7)}, 0.5),
        Row("right", {"one": Estimate(0.8, 0.7, 1.4)}, 0.5),
    )
    return Forest(**({"title": "t", "x_label": "share", "groups": (("hand", rows),), "limits": (0.0, 1.0)} | options))


def test_every_arm_has_a_dot_and_every_row_its_reference():
    markup = forest(given(), MARKS)
    assert markup.count("<circle") == 3
    assert markup.count('class="cut"') == 2
    assert ">hand<" in markup
    assert markup.count("swatch") == 2
    assert "swatch" not in forest(given(groups=(("", given().groups[0][1][1:]),)), MARKS)
    assert "one: 0.20 [0.10, 0.30]" in markup


def test_places_follow_the_axis():
    markup = forest(given(), MARKS)
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', markup)]
    cut = float(re.findall(r'<line x1="([\d.]+)"[^>]*class="cut"', markup)[0])
    assert dots[0] < cut < dots[1] < dots[2]
    assert abs((dots[2] - cut) / (cut - dots[0]) - 1) < 0.01


def test_intervals_are_cut_at_the_limits():
    markup = forest(given(), MARKS)
    assert max(float(x) for x in re.findall(r'x2="([\d.]+)"', markup)) <= 506.0


def test_band_and_missing_intervals():
    assert BAND in forest(given(band=(0.4, 0.5)), MARKS)
    assert BAND not in forest(given(), MARKS)
    alone = Forest("t", "x", (("", (Row("a", {"one": Estimate(1.0, math.nan, math.nan)}),)),))
    assert forest(alone, MARKS).count("stroke-width") == 0


def test_nothing_and_foreign_text():
    assert "No values to draw" in forest(given(groups=()), MARKS)
    evil = Forest("<t>", "x", (("<g>", (Row("<r>", {"one": Estimate(0.0, 0.0, 0.0)}),)),))
    markup = forest(evil, MARKS)
    assert "<t>" not in markup
    assert "<r>" not in markup
    assert markup.count("&lt;r&gt;") == 2  # the name, and its title


def test_refused():
    with pytest.raises(ValueError, match="is not finite"):
        Forest("t", "x", (("", (Row("a", {"one": Estimate(math.nan, 0.0, 1.0)}),)),))
