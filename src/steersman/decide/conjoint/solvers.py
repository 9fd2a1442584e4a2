"""Steps by which two players come to a point where neither gains by a small move.

A field has `direction(z)` (each player's slopes), `move(z, way)` (a step that stays inside), `polish(z)` (Newton's
method from z) and `settled(z)`. Leaves out: the game (`game`); the authors' package also has stochastic and anchored
variants for sampled slopes, and ours are exact. Sources: Korpelevich 1976 (extragradient), Khobotov 1987 (its step
rule), Popov 1980 (one slope a step, now called optimistic gradient); plain steps are Algorithm 1 of Jerzak et al. 2025.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

Name = Literal["extragradient", "ogda", "simultaneous"]
SOLVERS = ("extragradient", "ogda", "simultaneous")
CONVERGED = 1e-12
TRIED_EVERY = 20
"""Steps between two attempts to end with Newton's method."""
SAFE = {"extragradient": 0.7, "ogda": 0.35}
"""A step times the change of the slopes may be this part of the change of the point."""


class Field(Protocol):
    """Slopes of two players, and moves that stay inside."""

    def direction(self, z: np.ndarray) -> np.ndarray:
        """Where both would go."""

    def move(self, z: np.ndarray, way: np.ndarray) -> np.ndarray:
        """z + way, kept inside."""

    def polish(self, z: np.ndarray) -> np.ndarray:
        """Newton's method from z."""

    def settled(self, z: np.ndarray) -> bool:
        """Whether neither gains by a small move."""


def solve(
    field: Field, name: Name, z: np.ndarray, steps: int, step: float, newton: bool = True
) -> tuple[np.ndarray, int]:
    """Where a solver ends, and the steps that it took.

    Args:
        field: the game.
        name: of `SOLVERS`.
        z: start.
        steps: most steps.
        step: length of the first.
        newton: whether Newton's method is tried every `TRIED_EVERY` steps and at the end (never for simultaneous).
    """
    advance: Callable[[np.ndarray], tuple[np.ndarray, float]] = {
        "extragradient": _Extragradient, "ogda": _Optimistic, "simultaneous": _Simultaneous,
    }[name](field, z, step)  # fmt: skip
    newton = newton and name != "simultaneous"
    for taken in range(1, steps + 1):
        z, change = advance(z)
        done = change < CONVERGED
        if newton and (done or taken % TRIED_EVERY == 0):
            ended = field.polish(z)
            if done or field.settled(ended):
                return ended, taken
        if done:
            return z, taken
    return (field.polish(z) if newton else z), steps


class _Extragradient:
    """half = move(z, F(z)), z = move(z, F(half)); the step is halved until it is safe."""

    def __init__(self, field: Field, z: np.ndarray, step: float) -> None:
        self.field, self.step = field, step

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        slope = self.field.direction(z)
        while True:
            half = self.field.move(z, self.step * slope)
            there, change = self.field.direction(half), float(np.linalg.norm(half - z))
            if self.step * np.linalg.norm(there - slope) <= SAFE["extragradient"] * change or change < CONVERGED:
                return self.field.move(z, self.step * there), change
            self.step /= 2


class _Optimistic:
    """z' = move(z, 2 F(z) - F(before)); the step is halved where slopes changed more than is safe since the last."""

    def __init__(self, field: Field, z: np.ndarray, step: float) -> None:
        self.field, self.step, self.before, self.at = field, step, field.direction(z), z

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        slope = self.field.direction(z)
        while self.step * np.linalg.norm(slope - self.before) > SAFE["ogda"] * np.linalg.norm(z - self.at) > 0:
            self.step /= 2
        moved = self.field.move(z, self.step * (2 * slope - self.before))
        self.before, self.at = slope, z
        return moved, float(np.linalg.norm(moved - z))


class _Simultaneous:
    """z' = move(z, F(z)) with steps of fixed length."""

    def __init__(self, field: Field, z: np.ndarray, step: float) -> None:
        self.field, self.step = field, step

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, float]:
        moved = self.field.move(z, self.step * self.field.direction(z))
        return moved, float(np.linalg.norm(moved - z))
