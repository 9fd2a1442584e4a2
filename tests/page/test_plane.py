"""A plane of points: cells and their counts, quarters, the floor of a log axis, words for readers, refusals."""

import math
import re

import pytest

from steersman.page.plane import Plane, plane
from steersman.page.theme import Mark

MARK = Mark("var(--arm-0)", "")
X, Y = (0.1, 0.1, 0.9, 0.9), (1e-7, 5.0, 1e-3, 5.0)


def cells(markup):
    """Rects of the grey and of the coloured layer."""
    grey, coloured = (re.findall("<rect", g) for g in re.findall(r'<g style="fill:[^"]*">(.*?)</g>', markup))
    return len(grey), len(coloured)


def test_cells_and_choice():
    assert cells(plane(Plane("t", "x", "y", X, Y), MARK)) == (0, 4)
    assert cells(plane(Plane("t", "x", "y", X, Y, (True, False, False, True)), MARK)) == (2, 2)
    many = Plane("t", "x", "y", X * 500, Y * 500)
    assert cells(plane(many, MARK)) == (0, 4)
    assert "2,000 points, 2,000 of them chosen" in plane(many, MARK)


def test_cells_of_more_points_are_darker():
    markup = plane(Plane("t", "x", "y", (0.0,) * 9 + (1.0,), (0.0,) * 9 + (1.0,)), MARK)
    assert sorted(map(float, re.findall(r'fill-opacity="([^"]*)"', markup))) == [0.16, 1.0]


def test_quarters_and_lines():
    markup = plane(Plane("t", "x", "y", X, Y, None, 0.5, 0.5, ("a1", "b2", "c3", "d4"), 1e-4), MARK)
    assert markup.count('class="cut"') == 2
    spots = {
        n: (float(x), float(y))
        for x, y, n in re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*corner[^>]*>(..)<', markup)
    }
    assert spots["a1"][0] == spots["b2"][0] > spots["c3"][0] == spots["d4"][0]
    assert spots["a1"][1] == spots["c3"][1] < spots["b2"][1] == spots["d4"][1]


def test_what_lies_below_the_floor_is_told():
    markup = plane(Plane("t", "x", "y", X, Y, y_floor=1e-4, note="Mind."), MARK)
    assert "Mind. 1 of 4 lie below" in markup
    assert "lie below" not in plane(Plane("t", "x", "y", X, Y), MARK)


def test_nothing_and_one_point():
    assert "No values to draw" in plane(Plane("t", "x", "y", (), ()), MARK)
    assert cells(plane(Plane("<t>", "x", "y", (0.0,), (0.0,), y_floor=1e-4), MARK)) == (0, 1)
    assert "<t>" not in plane(Plane("<t>", "x", "y", (0.0,), (0.0,)), MARK)


@pytest.mark.parametrize("bad", [{"y": (1.0,)}, {"chosen": (True,)}, {"x": (1.0, 2.0, 3.0, math.nan)}])
def test_refused(bad):
    with pytest.raises(ValueError, match="plane 't'"):
        Plane(**({"title": "t", "x_label": "x", "y_label": "y", "x": X, "y": Y} | bad))
