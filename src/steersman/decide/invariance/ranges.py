"""What a mutable variable may be set to: without a range the worst-case risk of most predictors is infinite.

Leaves out: the search within it (`direct`, `gradient`, `exact`). Source: ours; the authors' code has no range, only a
penalty on the adversary's weights, so its figures are no risks of any family of environments.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.invariance.data import Columns, levels_of

UNBOUNDED = 10.0
"""Observed widths that are searched where no range is given."""

Ranges = str | float | None | Mapping[str, tuple[float, float]]
"""observed; a factor by which the observed range is widened; None = no range; or (low, high) by variable."""


@dataclass(frozen=True, slots=True)
class Range:
    """An interval, or the levels of a discrete variable.

    Args:
        low, high: ends.
        levels: the levels; None = any number between the ends.
        seen: the ends that were observed.
    """

    low: float
    high: float
    levels: tuple[float, ...] | None = None
    seen: tuple[float, float] = (-math.inf, math.inf)

    def at(self, u: np.ndarray) -> np.ndarray:
        """Values for uniform u in (0, 1)."""
        if self.levels is not None:
            return np.array(self.levels)[(u * len(self.levels)).astype(np.int64)]
        return self.low + (self.high - self.low) * u

    def grid(self, points: int) -> np.ndarray:
        """Values spread evenly, ends included; the levels of a discrete variable."""
        if self.levels is not None:
            return np.array(self.levels)
        return np.linspace(self.low, self.high, points) if self.high > self.low else np.array([self.low])

    @property
    def beyond(self) -> bool:
        """Whether it reaches beyond what was observed."""
        return self.low < self.seen[0] or self.high > self.seen[1]

    def __str__(self) -> str:
        if self.levels is not None:
            return "{" + ", ".join(f"{v:g}" for v in self.levels) + "}"
        return f"{self.low:.4g} to {self.high:.4g}"


def ranges_of(columns: Columns, mutable: Sequence[str], option: Ranges) -> dict[str, Range]:
    """The range of every mutable variable.

    Args:
        columns: the rows that were observed.
        mutable: the variables.
        option: see `Ranges`; variables that a mapping does not name keep the observed range.

    Raises:
        UserError: a factor below 1, an empty range, a name that is not mutable, no level of a discrete variable inside.

    Edge cases: a discrete variable keeps to its observed levels, whatever the factor; a given range picks among them.
    """
    given: Mapping[str, tuple[float, float]] = {}
    if isinstance(option, Mapping):
        given, factor = option, 1.0
        if lost := sorted(set(option) - set(mutable)):
            raise UserError(f"{lost} are not mutable", where="mutable_range", allowed=", ".join(mutable))
    elif option == "observed":
        factor = 1.0
    elif option is None:
        factor = UNBOUNDED
    elif isinstance(option, int | float) and not isinstance(option, bool) and math.isfinite(option) and option >= 1:
        factor = float(option)
    else:
        raise UserError(f"{option!r} is no range", where="mutable_range",
                        allowed="observed, a factor of 1 or more, (low, high) by variable, or None")  # fmt: skip
    return {m: _one(m, columns[m], factor, given.get(m)) for m in mutable}


def _one(name: str, column: np.ndarray, factor: float, given: tuple[float, float] | None) -> Range:
    low, high = float(column.min()), float(column.max())
    levels = levels_of(column)
    if given is not None:
        a, b = (float(v) for v in given)
        if not (math.isfinite(a) and math.isfinite(b) and a <= b):
            raise UserError(f"({a:g}, {b:g}) is no range", where=f"mutable_range of {name}", allowed="low <= high")
        if levels is not None:
            kept = tuple(v for v in levels if a <= v <= b)
            if not kept:
                raise UserError(f"no level lies between {a:g} and {b:g}", where=f"mutable_range of {name}",
                                allowed=", ".join(f"{v:g}" for v in levels))  # fmt: skip
            return Range(kept[0], kept[-1], kept, (low, high))
        return Range(a, b, None, (low, high))
    if levels is not None:
        return Range(low, high, levels, (low, high))
    more = (factor - 1) * (high - low) / 2
    return Range(low - more, high + more, None, (low, high))
