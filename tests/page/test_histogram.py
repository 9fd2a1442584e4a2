"""Histograms: every value in one bar, marked lines, refusals."""

import math
import re

import numpy as np
import pytest

from steersman.page.histogram import Histogram, bars, histogram
from steersman.page.theme import Mark

MARK = Mark("var(--arm-0)", "")


@pytest.mark.parametrize(
    "values", [[3.0], [2.0, 2.0], [1, 2, 2, 5], np.random.default_rng(0).standard_normal(500), [0.0] * 99 + [1e6]]
)
def test_every_value_is_in_one_bar(values):
    counts, edges = bars(values)
    assert counts.sum() == len(values)
    assert len(edges) == len(counts) + 1 <= 41
    assert edges[0] <= min(values) <= max(values) <= edges[-1]


def test_few_whole_numbers_get_a_bar_each():
    counts, edges = bars([1, 2, 2, 5])
    assert counts.tolist() == [1, 2, 0, 0, 1]
    assert edges.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def test_heights_follow_counts():
    markup = histogram(Histogram("t", "x", "y", [1, 2, 2, 2, 2]), MARK)
    a, b = (float(h) for h in re.findall(r'<rect[^>]*height="([\d.]+)"', markup))
    assert b == pytest.approx(4 * a, rel=0.01)
    assert "1.50 to 2.50: 4" in markup


def test_lines_widen_the_axis_and_have_names():
    markup = histogram(Histogram("t", "x", "y", [1, 2], (("high", 500.0),), "a note"), MARK)
    assert ">high</text>" in markup
    assert ">500</text>" in markup
    assert "a note" in markup


def test_a_single_value_does_not_fill_the_figure():
    (width,) = (
        float(w) for w in re.findall(r'<rect[^>]*width="([\d.]+)"', histogram(Histogram("t", "x", "y", [7] * 9), MARK))
    )
    assert width < 100


def test_nothing_and_nan():
    assert "No values to draw" in histogram(Histogram("t", "x", "y", []), MARK)
    for values, lines in (([math.inf], ()), ([1.0], (("low", math.nan),))):
        with pytest.raises(ValueError, match="not finite"):
            Histogram("t", "x", "y", values, lines)
