"""Figures: what is drawn, what is said about what cannot be drawn, and that a hole stays a hole."""

import itertools
import json
import math
import re

import pytest

from steersman.page.figures import Line, Panel, curves, row_interval, row_scale, swatch
from steersman.page.number import Estimate
from steersman.page.theme import marks

NAN = math.nan
HALF_PIXEL_STEP = 0.0501  # pixels are written with one decimal
HOSTILE = "</text><script>alert(1)</script>"


def _line(arm="a", ys=(1.0, 2.0, 3.0), seeds=2, x=None):
    x = x or tuple(float(i) for i in range(len(ys)))
    return Line(arm, x, (ys,) * seeds, ys, tuple(y - 0.5 for y in ys), tuple(y + 0.5 for y in ys))


def _draw(*lines, **options):
    return curves(Panel("T", "x", "y", lines, **options), marks(ln.arm for ln in lines))


def _data(figure):
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', figure)[1])


def test_a_line_per_seed_a_band_a_mean_and_a_name_per_arm():
    figure = _draw(_line("dpo", seeds=3), _line("rdpo", (3.0, 2.0, 1.0), seeds=3))
    assert figure.count('class="seed"') == 6
    assert figure.count('class="band"') == figure.count('class="mean"') == 2
    assert re.findall(r'class="name">([^<]+)<', figure) == ["dpo", "rdpo"]
    assert 'class="note"' not in figure


def test_the_numbers_beside_the_drawing_are_those_given():
    label, points = _data(_draw(_line("dpo"))).values()
    assert label == "x"
    assert [(text, rows[0][2], rows[0][3]) for _, text, rows in points] == [
        ("0", "1.0", "[0.5, 1.5]"), ("1", "2.0", "[1.5, 2.5]"), ("2", "3.0", "[2.5, 3.5]"),
    ]  # fmt: skip


def test_nan_breaks_the_line_and_is_counted():
    whole, broken = _draw(_line(ys=(1.0, 2.0, 3.0, 4.0))), _draw(_line(ys=(1.0, NAN, 3.0, 4.0)))
    assert whole.count('class="mean"') == 1
    assert broken.count('class="mean"') == 2
    assert "2 of 8 values are missing or not finite" in broken
    assert "nan" not in broken.lower().replace("missing or not finite", "")
    assert _data(broken)["points"][1][2][0][2:] == ["–", "no interval", "n = 0"]


def test_a_log_axis_says_what_it_cannot_show():
    figure = _draw(_line(ys=(10.0, 0.0, 1000.0), seeds=1), log_y=True)
    assert "1 of 3 values are not positive" in figure


def test_an_arm_without_values_is_named_and_not_drawn():
    figure = _draw(_line("dpo"), _line("ipo", (NAN, NAN, NAN)))
    assert "Not drawn, no values: ipo." in figure
    assert re.findall(r'class="name">([^<]+)<', figure) == ["dpo"]


@pytest.mark.parametrize("lines", [(), (_line(ys=(NAN, NAN)),), (_line(ys=()),)])
def test_a_panel_without_values_says_so(lines):
    figure = _draw(*lines)
    assert "No values to draw." in figure
    assert "<svg" not in figure


def test_a_single_point_gets_a_whisker():
    figure = _draw(_line(ys=(1.0,)))
    assert figure.count('class="whisker"') == 1
    assert 'class="centre"' in figure


def test_many_points_are_lines_without_dots_and_labels_do_not_overlap():
    many = [_line(f"arm {i}", tuple(1.0 + 0.001 * i for _ in range(40))) for i in range(12)]
    figure = _draw(*many)
    assert 'class="dot"' not in figure
    heights = sorted(float(y) for y in re.findall(r'<text x="[^"]+" y="([^"]+)" dy="0.35em" class="name"', figure))
    assert len(heights) == 12
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 15.9


def test_long_and_hostile_names():
    figure = _draw(_line(HOSTILE * 2))
    assert "<script>alert" not in figure
    assert "…</text>" in figure
    assert "<title>&lt;/text&gt;" in figure
    assert "&lt;script" in swatch(HOSTILE, marks([HOSTILE])[HOSTILE])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="low has 1"):
        Line("a", (0.0, 1.0), (), (1.0, 2.0), (1.0,), (1.0, 2.0))
    with pytest.raises(ValueError, match="every seed needs 2"):
        Line("a", (0.0, 1.0), ((1.0,),), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0))


def test_rows_of_one_unit_share_an_axis():
    small, large = Estimate(0.1, 0.0, 0.2), Estimate(0.5, 0.2, 0.9)
    scale = row_scale([(small, 0.0, 0.1), (large, 0.0, None), (None, None, None)])
    assert scale.low < -0.1
    assert scale.high > 0.9
    drawn = row_interval(small, scale, reference=0.0, margin=0.1, ticks=True)
    assert float(re.search(r'cx="([^"]+)"', drawn)[1]) == pytest.approx(scale(0.1), abs=HALF_PIXEL_STEP)
    assert 'class="reference"' in drawn
    left, width = (float(re.search(rf'{k}="([\d.]+)"', drawn)[1]) for k in ("x", "width"))
    assert left + width / 2 == pytest.approx(scale(0.0), abs=2 * HALF_PIXEL_STEP)
    assert "<text" in drawn
    assert "<text" not in row_interval(small, scale)


def test_a_row_without_a_value_has_no_dot_and_an_infinite_bound_an_arrow():
    scale = row_scale([(Estimate(0.5, 0.0, 1.0), None, None)])
    for nothing in (None, Estimate(NAN, NAN, NAN)):
        drawn = row_interval(nothing, scale)
        assert "circle" not in drawn
        assert 'aria-label="no value"' in drawn
    arrow = row_interval(Estimate(0.5, -math.inf, 1.0), scale)
    assert "M8,13L3,17L8,21" in arrow
    assert "nan" not in arrow
