"""Colours: even scales, legible text, distinct arms."""

import itertools
import re

import pytest

from steersman.page import theme

AA_TEXT = 4.5  # WCAG 2 AA for text
GRAPHICS = 1.3  # the palette is fixed; no arm may vanish into the paper
EVEN = 0.012  # lightness steps differ by less than rounding to 8 bits allows


def _lightness(colour):
    """OKLab lightness of #rrggbb, from the published forward matrices."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels)
    long = 0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b
    medium = 0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b
    short = 0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b
    return 0.2104542553 * long ** (1 / 3) + 0.7936177850 * medium ** (1 / 3) - 0.0040720468 * short ** (1 / 3)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["n", "p", "q"])
def test_scales_are_even_in_lightness_and_text_on_them_is_legible(kind, dark):
    colours = [theme.scale(kind, i, dark) for i in range(1, theme.STEPS + 1)]
    steps = [b - a for a, b in itertools.pairwise(map(_lightness, colours))]
    assert max(steps) - min(steps) < EVEN
    assert all(s > 0 for s in steps) if dark else all(s < 0 for s in steps)
    assert min(theme.contrast(c, theme.INK[dark]) for c in colours) >= AA_TEXT


@pytest.mark.parametrize("dark", [False, True])
def test_both_halves_of_the_signed_scale_weigh_the_same(dark):
    for i in range(1, theme.STEPS + 1):
        assert abs(_lightness(theme.scale("n", i, dark)) - _lightness(theme.scale("p", i, dark))) < EVEN


@pytest.mark.parametrize("kind", ["n", "p", "q"])
def test_the_ends_of_the_scales_can_be_shown_without_clipping(kind):
    for (_, end), chroma in (theme._LIGHT, theme._DARK):
        assert all(-0.005 <= v <= 1.005 for v in theme.oklch(end, chroma[kind], theme._HUE[kind]))


def test_oklch_greys_and_known_colour():
    assert theme.oklch(1.0, 0.0, 0.0) == pytest.approx((1, 1, 1), abs=1e-4)
    assert theme.oklch(0.62796, 0.25768, 29.234) == pytest.approx((1, 0, 0), abs=1e-3)  # sRGB red


def test_contrast_of_black_on_white():
    assert theme.contrast("#000000", "#ffffff") == pytest.approx(21.0)


def test_marks_follow_the_palette_and_then_turn_to_dashes():
    marks = theme.marks(["a", "b", "a", *map(str, range(22))])
    assert len(marks) == len({(m.colour, m.dash) for m in marks.values()}) == 24
    assert marks["a"] == theme.Mark("var(--arm-0)", "")
    assert marks["0"].colour == "var(--arm-2)"


def test_no_arm_vanishes_into_the_paper():
    assert min(theme.contrast(c, theme.PAPER[0]) for c in theme.ARMS[:-1]) > GRAPHICS
    assert min(theme.contrast(c, theme.PAPER[1]) for c in theme._ARMS_DARK) > 3.0


def test_the_style_sheet_defines_every_property_it_uses():
    css = theme.css()
    used = set(re.findall(r"var\((--[a-z0-9-]+)", css)) - {"--c"}
    assert used <= set(re.findall(r"(--[a-z0-9-]+)\s*:", css))
