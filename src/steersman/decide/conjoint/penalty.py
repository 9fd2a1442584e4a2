"""Penalties that hold a policy near the design, and the best response of one factor under each, exactly.

l2: R = sum (x - p)^2 over all levels, held-out ones too. kl: R = KL(p || x) = sum p log(p/x), the direction of the
authors' package. reverse_kl: R = KL(x || p) = sum x log(x/p), whose optimum without interactions is the Gibbs
distribution p exp(u/lam). l1: R = sum |x - p|: a level is kept as designed, or gives all it has to the best one. linf:
R = sum_d max_l x_dl, which does not know the design and spreads each factor evenly over its best levels. none: R = 0.
Source: Jerzak, Chandra and Hazra 2025, section 3, and the authors' package.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.optimize

from steersman.core.errors import UserError

Kind = Literal["l2", "kl", "reverse_kl", "l1", "linf", "none"]
KINDS = ("l2", "kl", "reverse_kl", "l1", "linf", "none")
KINKED = ("l1", "linf")
"""Optima lie at kinks, where they do not move with small changes of the coefficients."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """lam R(x, p).

    Args:
        kind: of `KINDS`.
        lam: >= 0, in units of the outcome; nothing under none.
        p: [M] design; levels of probability zero stay at zero.
        parts: where each factor lies; linf alone needs it.
    """

    kind: Kind
    lam: float
    p: np.ndarray
    parts: tuple[slice, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"{self.kind!r} is no penalty", where="penalty", allowed=", ".join(KINDS))
        if not (math.isfinite(self.lam) and self.lam >= 0):
            raise UserError(f"{self.lam} is out of range", where="lam", allowed="0 or more, finite")

    @property
    def off(self) -> bool:
        """Whether nothing is paid."""
        return self.kind == "none" or not self.lam

    @property
    def kinked(self) -> bool:
        """Whether optima lie at kinks of the penalty."""
        return self.kind in KINKED and not self.off

    def value(self, x: np.ndarray) -> float:
        """lam R; infinite where kl meets a zero that the design has not."""
        if self.off:
            return 0.0
        if self.kind == "l2":
            return float(self.lam * ((x - self.p) ** 2).sum())
        if self.kind == "l1":
            return float(self.lam * np.abs(x - self.p).sum())
        if self.kind == "linf":
            return float(self.lam * sum(x[s].max() for s in self.parts))
        a, b = (self.p, x) if self.kind == "kl" else (x, self.p)
        on = a > 0
        return math.inf if (b[on] == 0).any() else float(self.lam * (a[on] * np.log(a[on] / b[on])).sum())

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """lam dR/dx of a smooth kind; zero at levels that the design excludes, which never move.

        Raises:
            UserError: l1 and linf have kinks.
        """
        self._smooth()
        out, on = np.zeros_like(x), self.p > 0
        if self.off:
            return out
        if self.kind == "l2":
            out[on] = 2 * (x - self.p)[on]
        elif self.kind == "kl":
            out[on] = -self.p[on] / x[on]
        else:
            out[on] = np.log(x[on] / self.p[on]) + 1
        return self.lam * out

    def curvature(self, x: np.ndarray) -> np.ndarray:
        """lam d2R/dx2 of a smooth kind, a diagonal [M]."""
        self._smooth()
        out, on = np.zeros_like(x), self.p > 0
        if self.off:
            return out
        if self.kind == "l2":
            out[on] = 2.0
        else:
            out[on] = self.p[on] / x[on] ** 2 if self.kind == "kl" else 1 / x[on]
        return self.lam * out

    def best(self, g: np.ndarray, p: np.ndarray) -> np.ndarray:
        """argmax over one factor's distributions of g.x - lam R(x, p), exactly.

        Args:
            g: [L] value of each level.
            p: [L] the factor's part of the design.

        Edge cases: lam = 0 gives all to the best level, the first of equals.
        """
        on = p > 0
        out = np.zeros_like(g)
        if self.off:
            out[np.flatnonzero(on)[g[on].argmax()]] = 1.0
        elif self.kind == "l2":
            out[on] = to_simplex(p[on] + g[on] / (2 * self.lam))
        elif self.kind == "kl":
            out[on] = _barrier(g[on] / self.lam, p[on])
        elif self.kind == "l1":
            out[on] = _moved(g[on], p[on], 2 * self.lam)
        elif self.kind == "linf":
            out[on] = _even(g[on], self.lam)
        else:
            weight = p[on] * np.exp((g[on] - g[on].max()) / self.lam)
            out[on] = weight / weight.sum()
        return out

    def _smooth(self) -> None:
        if self.kinked:
            raise UserError(f"{self.kind!r} has kinks", where="penalty", allowed="l2, kl, reverse_kl, none")


def to_simplex(v: np.ndarray) -> np.ndarray:
    """The distribution nearest to v in Euclidean distance (sorting; Held, Wolfe and Crowder 1974)."""
    ordered = np.sort(v)[::-1]
    level = (np.cumsum(ordered) - 1) / np.arange(1, len(v) + 1)
    return np.maximum(v - level[ordered > level][-1], 0.0)


def _barrier(g: np.ndarray, p: np.ndarray) -> np.ndarray:
    """x = p / (mu - g) with mu > max g such that it sums to one."""
    top = g.max()
    low, high = top + p[g.argmax()], top + 1.0  # the sum is at least one at low, at most one at high
    if high - low <= 0:
        return p.copy()
    mu = scipy.optimize.brentq(lambda m: (p / (m - g)).sum() - 1, low, high, xtol=1e-15, rtol=1e-14)
    x = p / (mu - g)
    return x / x.sum()


def _moved(g: np.ndarray, p: np.ndarray, price: float) -> np.ndarray:
    """A level worth less than the best by more than the price of a move gives all to the best."""
    x = np.where(g.max() - g > price, 0.0, p)
    x[g.argmax()] += 1 - x.sum()
    return x


def _even(g: np.ndarray, lam: float) -> np.ndarray:
    """The k best levels alike, with k where their mean less lam / k is largest.

    Given m = max x, filling the best levels up to m is optimal, and its value is linear in m between 1 / (k + 1) and
    1 / k.
    """
    order, k = np.argsort(-g, kind="stable"), np.arange(1, len(g) + 1)
    best = int((np.cumsum(g[order]) / k - lam / k).argmax()) + 1
    x = np.zeros_like(g)
    x[order[:best]] = 1 / best
    return x
