"""Numbers as a reader sees them: an estimate with its interval, rounded to what the interval can bear.

Leaves out: computing any interval (`stats`). Source: rounding follows the Particle Data Group's habit (keep one digit
of the uncertainty, two where it begins with 1 or 2).
"""

import math
from dataclasses import dataclass

MISSING = "–"
_MAX_DECIMALS = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value with its interval.

    Args:
        value, low, high: in `unit`; NaN where it could not be computed, infinite where the interval is one-sided.
        unit: text after the number; estimates with one unit share an axis.
        level: coverage of the interval, in (0, 1).
    Raises: ValueError when low > high or the level is out of range.
    """

    value: float
    low: float
    high: float
    unit: str = ""
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"an interval needs low <= high, got [{self.low}, {self.high}]")
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie in (0, 1), got {self.level}")

    def negated(self) -> "Estimate":
        """The same difference read the other way round."""
        return Estimate(-self.value, -self.high, -self.low, self.unit, self.level)


def is_missing(value: float | None) -> bool:
    """Whether there is no number to show (``None`` or NaN; infinity is a number to show)."""
    return value is None or math.isnan(value)


def number(value: float | None, decimals: int | None = None, *, signed: bool = False) -> str:
    """A number as text with a true minus sign and thousands separators.

    Args:
        value: any float; ``None`` and NaN give "–", infinity gives "∞".
        decimals: digits after the point; ``None`` keeps three significant digits.
        signed: write a plus sign.
    Edge cases: a value that rounds to zero carries no sign; very large and very small values use a power of ten.
    """
    if value is None or math.isnan(value):
        return MISSING
    sign = "−" if value < 0 else "+" if signed and value > 0 else ""
    size = abs(value)
    if math.isinf(size):
        return f"{sign}∞"
    if decimals is None:
        if size and not 1e-4 <= size < 1e7:
            mantissa, exponent = f"{size:.2e}".split("e")
            return f"{sign}{mantissa} × 10{superscript(int(exponent))}"
        decimals = 0 if float(size).is_integer() and size < 1e7 else max(0, 2 - math.floor(math.log10(size)))
    text = f"{size:,.{decimals}f}"
    return text if not text.strip("0.,") else sign + text


def superscript(exponent: int) -> str:
    """An integer in superscript digits."""
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def decimals_for(estimate: Estimate) -> int | None:
    """Digits after the point that the interval's half-width can bear, or ``None`` where it has no finite width."""
    half = (estimate.high - estimate.low) / 2
    if not math.isfinite(half) or half <= 0:
        return None
    exponent = math.floor(math.log10(half))
    if half / 10**exponent < 2.95:
        exponent -= 1
    return min(_MAX_DECIMALS, max(0, -exponent))


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """The interval alone, "[low, high]"; says "no interval" where a bound is NaN."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return "no interval"
    places = decimals_for(estimate)
    low, high = (number(v, places, signed=signed) for v in (estimate.low, estimate.high))
    return f"[{low}, {high}]"


def point(estimate: Estimate, *, signed: bool = False) -> str:
    """The value alone, with as many digits as its interval can bear."""
    return number(estimate.value, decimals_for(estimate), signed=signed)


def p_value(p: float | None) -> str:
    """A p-value as text with three significant digits: "–" when there is none, "< 0.0001" when smaller."""
    if p is None or math.isnan(p):
        return MISSING
    return "< 0.0001" if p < 1e-4 else f"{p:.3g}"


def exact(value: float) -> str:
    """A number that was set rather than measured, as it was written."""
    return f"{value:g}".replace("-", "−")
