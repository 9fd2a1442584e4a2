"""Numbers that change over a run: a function of the moment, so nothing has to be remembered.

Leaves out: the learning rate (`train.optimise`).
"""

import math

from steersman.core.component import Moment

_WHOLE = 1e-9
"""A product this close to a whole number, or to a half, counts as that number: 0.07 * 100 is 7."""


def progress(at: Moment) -> float:
    """How much of the run is done: 0 at its first step, 1 at its last; a run of one step stays at 0."""
    return min(at.step / (at.total - 1), 1.0) if at.total > 1 else 0.0


def linear(start: float | int, end: float | int, at: Moment) -> float:
    """start (1 - p) + end p, with p = `progress`."""
    p = progress(at)
    return start * (1 - p) + end * p


def nearest(share: float | int, of: int) -> int:
    """share * of, rounded half up, at least 1 and at most `of` (0 of 0)."""
    return min(max(math.floor(share * of + 0.5 + _WHOLE), 1), of)


def at_least(share: float | int, of: int) -> int:
    """share * of, rounded up, at least 1 and at most `of` (0 of 0)."""
    return min(max(math.ceil(share * of - _WHOLE), 1), of)
