"""Checks of the numbers that oracles are given."""

import math

from scipy.stats import norm

from steersman.core.errors import UserError


def critical(lead_time: int, holding: float, shortage: float) -> float:
    """Phi^-1(p / (p + h)), after checking the three."""
    if isinstance(lead_time, bool) or lead_time != int(lead_time) or lead_time < 1:
        raise UserError(f"is {lead_time}", where="lead_time", allowed="a whole number of periods, 1 or more")
    for name, x in (("holding", holding), ("shortage", shortage)):
        if not 0 < x < math.inf:
            raise UserError(f"is {x}", where=name, allowed="a number above 0")
    return float(norm.ppf(shortage / (shortage + holding)))


def finite(**values: float) -> None:
    """Refuse numbers that are not finite, and a negative `std`, by name."""
    for name, x in values.items():
        if not math.isfinite(x) or (name == "std" and x < 0):
            raise UserError(f"is {x}", where=name, allowed="a finite number" + ", 0 or more" * (name == "std"))
