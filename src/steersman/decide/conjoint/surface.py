"""The mean outcome as a function of a policy and of the model's coefficients, with the derivatives that are needed.

Linear link: exact by independence of the factors, for any number of profiles. Logit: exact by enumeration, or where
there are too many profiles from a sample of whole ones (`sampled`); it is the mean of sigma(.), not sigma of the mean.
Leaves out: what is best (`optimal`, `game`).
Source: Jerzak, Chandra and Hazra 2025, section 3; where their package samples relaxed profiles (temperature 0.5), whose
interactions are mis-weighted, we enumerate.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.special

from steersman.decide.conjoint.outcome import Outcome, OutcomeModel
from steersman.decide.conjoint.policy import Grid, enumerable, slices
from steersman.decide.conjoint.sampled import Sampled

PAIRS_AT_ONCE = 200_000
"""Pairs that a model without coefficients is asked about at a time."""


class Surface(Protocol):
    """Q(x; theta) at fixed coefficients: multilinear in the factors' distributions x [M].

    ``noise`` is 0 where Q is exact, else a change of x below which it says nothing.
    """

    @property
    def noise(self) -> float:
        """A change of x that is too small to mean anything."""

    def value(self, x: np.ndarray) -> float:
        """Q."""

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """dQ/dx [M]."""

    def partial(self, x: np.ndarray, factor: int) -> np.ndarray:
        """The part of `gradient` of one factor."""

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """d2Q/dx2 [M, M]; blocks of one factor are zero."""

    def value_theta(self, x: np.ndarray) -> np.ndarray:
        """dQ/d(intercept, theta) [p + 1]."""

    def gradient_theta(self, x: np.ndarray) -> np.ndarray:
        """d2Q/dx d(intercept, theta) [M, p + 1]."""


class Quadratic:
    """Q(x) = beta_0 + eta(x) - eta(opponent), eta(x) = b.x + x.G x / 2 (no opponent: ratings).

    Args:
        model: with a linear link.
        opponent: [M] the other profile's policy; None = ratings.
    """

    noise = 0.0

    def __init__(self, model: Outcome, opponent: np.ndarray | None) -> None:
        self.terms, self.parts = model.terms, slices(model.factors)
        self.b, self.G = model.terms.matrix(model.theta)
        against = 0.0 if opponent is None else model.terms.features(opponent)
        self.against = np.broadcast_to(against, len(model.theta))
        self.constant = model.intercept - float(self.against @ model.theta)

    def value(self, x: np.ndarray) -> float:
        """Q."""
        return float(self.constant + self.b @ x + x @ self.G @ x / 2)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """dQ/dx = b + G x."""
        return self.b + self.G @ x

    def partial(self, x: np.ndarray, factor: int) -> np.ndarray:
        """The part of `gradient` of one factor."""
        s = self.parts[factor]
        return self.b[s] + self.G[s] @ x

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """G."""
        return self.G

    def value_theta(self, x: np.ndarray) -> np.ndarray:
        """(1, phi(x) - phi(opponent))."""
        return np.concatenate([[1.0], self.terms.features(x) - self.against])

    def gradient_theta(self, x: np.ndarray) -> np.ndarray:
        """(0, dphi/dx)."""
        return np.concatenate([np.zeros((len(x), 1)), self.terms.gradient(x)], 1)


@dataclass(frozen=True, slots=True)
class Tabled:
    """Q(x) = sum_t u_t prod_d x_d(t_d).

    Args:
        grid: all profiles, N of them.
        u: [N] mean outcome of each.
        du: [N, p + 1] its derivatives by (intercept, theta).
    """

    grid: Grid
    u: np.ndarray
    du: np.ndarray

    @property
    def noise(self) -> float:
        """None."""
        return 0.0

    def value(self, x: np.ndarray) -> float:
        """Q."""
        return float(self.grid.joint(x) @ self.u)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Means of u given each level."""
        return self.grid.gradient(self.u, x)

    def partial(self, x: np.ndarray, factor: int) -> np.ndarray:
        """The part of `gradient` of one factor."""
        return self.grid.partial(self.u, x, factor)

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """Means of u given two levels."""
        return self.grid.hessian(self.u, x)

    def value_theta(self, x: np.ndarray) -> np.ndarray:
        """Mean of du."""
        return self.grid.joint(x) @ self.du

    def gradient_theta(self, x: np.ndarray) -> np.ndarray:
        """Means of du given each level."""
        return self.grid.gradient(self.du, x)


def surface(model: OutcomeModel, opponent: np.ndarray | None, seed: int = 0) -> Surface:
    """The mean outcome of a model against a fixed opponent.

    Args:
        model: the outcome model.
        opponent: [M] policy of the other profile, for pairs; None for ratings.
        seed: of the profiles that are drawn where there are too many to enumerate.

    Raises:
        UserError: too many profiles for a model that is no `Outcome`.
    """
    if not isinstance(model, Outcome):
        assert opponent is not None
        grid = Grid(model.factors)
        return Tabled(grid, every_pair(model, grid) @ grid.joint(opponent), np.zeros((len(grid.profiles), 0)))
    if model.link == "linear":
        return Quadratic(model, opponent)
    if not enumerable(model.factors):
        return Sampled(model, opponent, seed)
    grid = Grid(model.factors)
    phi = model.terms.features(grid.onehot)
    eta = phi @ model.theta
    if opponent is None:
        p = scipy.special.expit(model.intercept + eta)
        slope = p * (1 - p)
        return Tabled(grid, p, np.concatenate([slope[:, None], slope[:, None] * phi], 1))
    q = grid.joint(opponent)
    p = scipy.special.expit(model.intercept + eta[:, None] - eta[None, :])
    slope = p * (1 - p) * q
    total = slope.sum(1)[:, None]
    return Tabled(grid, p @ q, np.concatenate([total, total * phi - slope @ phi], 1))


def every_pair(model: OutcomeModel, grid: Grid) -> np.ndarray:
    """Pr(first is chosen) of every profile (rows) against every other (columns) [N, N]."""
    n, rows = len(grid.profiles), max(1, PAIRS_AT_ONCE // len(grid.profiles))
    blocks = []
    for start in range(0, n, rows):
        first = np.repeat(grid.profiles[start : start + rows], n, axis=0)
        second = np.tile(grid.profiles, (len(first) // n, 1))
        blocks.append(np.asarray(model.pair_prob(first, second), np.float64).reshape(-1, n))
    return np.concatenate(blocks)
