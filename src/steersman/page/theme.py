"""Colours and type: one palette for arms, one diverging and one sequential scale, all for light and dark.

Leaves out: layout, which is plain CSS in ``static/``. Sources: arms use the colour-blind-safe palette of Okabe
and Ito (2008); the scales are even steps of lightness and chroma in OKLab (Ottosson 2020), so that equal steps of a
value look equally far apart and the two halves of the signed scale weigh the same.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

# Okabe and Ito, ordered so that neighbours differ in hue and lightness; yellow last because it is weakest on white.
ARMS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
_ARMS_DARK = ("#3d9bd8", "#e8783a", "#1fb58a", "#d792b7", "#e69f00", "#7cc4ee", "#e6e6e3", "#f0e442")
DASHES = ("", "7 4", "2 3")
INK = ("#1b1d21", "#e6e6e3")
PAPER = ("#ffffff", "#15171a")
_SHEETS = ("page.css", "tokens.css")
STEPS = 10  # colours on each side of the signed scale, and of the sequential scale above "nothing"

_HUE = {"n": 255.0, "p": 52.0, "q": 185.0}  # negative, positive, sequential; degrees in OKLCH
# Lightness from almost paper to the end of the scale, and the chroma there (inside what a screen can show).
_LIGHT = ((0.985, 0.70), {"n": 0.125, "p": 0.125, "q": 0.12})
_DARK = ((0.235, 0.49), {"n": 0.105, "p": 0.105, "q": 0.083})


@dataclass(frozen=True, slots=True)
class Mark:
    """How an arm is drawn everywhere on a page: a CSS colour and a dash pattern (empty: solid)."""

    colour: str
    dash: str


def marks(arms: Iterable[str]) -> dict[str, Mark]:
    """Give each arm its mark, in the order of first appearance.

    Edge cases: beyond eight arms the colours come round again, dashed, so that no two of 24 arms look the same.
    """
    names = dict.fromkeys(arms)
    return {
        name: Mark(f"var(--arm-{i % len(ARMS)})", DASHES[i // len(ARMS) % len(DASHES)]) for i, name in enumerate(names)
    }


def oklch(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    """Convert OKLCH to sRGB in [0, 1] per channel; outside that range the colour cannot be shown on a screen.

    Args:
        lightness: 0 (black) to 1 (white).
        chroma: 0 (grey) to about 0.3.
        hue: degrees.
    Source: Ottosson 2020, the published matrices.
    """
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    l_ = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m_ = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s_ = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * l_ - 3.3077115913 * m_ + 0.2309699292 * s_,
        -1.2684380046 * l_ + 2.6097574011 * m_ - 0.3413193965 * s_,
        -0.0041960863 * l_ - 0.7034186147 * m_ + 1.7076147010 * s_,
    )
    red, green, blue = (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in linear)
    return red, green, blue


def scale(kind: str, step: int, dark: bool) -> str:
    """Colour of one step of a scale as ``#rrggbb``.

    Args:
        kind: "n" (negative half), "p" (positive half) or "q" (sequential).
        step: 1 to `STEPS`; step 0 is the bare paper.
    """
    (start, end), chroma = _DARK if dark else _LIGHT
    share = step / STEPS
    rgb = oklch(start + (end - start) * share, chroma[kind] * share, _HUE[kind])
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, v))):02x}" for v in rgb)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` as the accessibility guidelines (WCAG 2) define it, 0 to 1."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours as WCAG 2 defines it, 1 (none) to 21."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def css() -> str:
    """The whole style sheet: custom properties made here, then the static rules."""
    pairs = {"ink": INK, "paper": PAPER}
    pairs |= {f"arm-{i}": (c, d) for i, (c, d) in enumerate(zip(ARMS, _ARMS_DARK, strict=True))}
    properties = "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in pairs.items())
    steps = "".join(
        f".{kind}{i}{{background:light-dark({scale(kind, i, False)},{scale(kind, i, True)})}}"
        for kind in _HUE
        for i in range(1, STEPS + 1)
    )
    sheets = (files("steersman.page").joinpath("static", name).read_text("utf-8") for name in _SHEETS)
    return f":root{{{properties}}}\n{steps}\n{''.join(sheets)}"
