"""Named points on a plane: places, names, parting lines, refusals."""

import itertools
import math
import re

import pytest

from steersman.page.scatter import Point, Scatter, scatter
from steersman.page.theme import marks

POINTS = (Point("a", 0.0, 0.0, "g"), Point("b", 1.0, 1.0, "g"), Point("mine", 0.5, 0.5, "h", 0.1))
COLOURS = marks(("g", "h"))


def circles(markup):
    return [(float(x), float(y), r) for x, y, r in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="(\d)"', markup)]


def test_points_stand_where_they_are():
    (ax, ay, ar), (bx, by, _), (mx, my, mr) = circles(scatter(Scatter("t", "x", "y", POINTS), COLOURS))
    assert ax < mx < bx
    assert ay > my > by  # up is more
    assert mx == pytest.approx((ax + bx) / 2, abs=0.06)
    assert (ar, mr) == ("4", "6")


def test_names_lines_and_words_for_readers():
    markup = scatter(Scatter("t", "x", "y", POINTS, (0.5,), (0.2, 0.8), "a note"), COLOURS)
    assert markup.count('class="cut"') == 3
    assert "t: a at 0.00, 0.00; b at 1.00, 1.00; mine at 0.50, 0.50." in markup
    assert "a note" in markup
    assert markup.count("stroke-width") == 1  # one point has a spread


def test_names_do_not_overlap():
    ends = (Point("low", 0.0, 0.0, "g"), Point("high", 1.0, 1.0, "g"))
    close = tuple(Point(f"n{i}", 0.5, 0.5 + i / 1000, "g") for i in range(5))
    markup = scatter(Scatter("t", "x", "y", (*ends, *close)), COLOURS)
    ys = sorted(float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)"[^>]*>n\d', markup))
    assert len(ys) == 5
    assert all(b - a >= 14.9 for a, b in itertools.pairwise(ys))


def test_nothing_and_nan():
    assert "No values to draw" in scatter(Scatter("t", "x", "y", ()), COLOURS)
    with pytest.raises(ValueError, match="not finite"):
        Scatter("t", "x", "y", (Point("a", math.nan, 0.0, "g"),))
