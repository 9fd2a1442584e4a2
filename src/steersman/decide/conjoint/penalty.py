"""Penalties that hold a policy near the design, and the best response of one factor under each, exactly.

l2: R = sum (x - p)^2 over all levels, held-out ones too. kl: R = KL(p || x) = sum p log(p/x), the direction of the
authors' package. reverse_kl: R = KL(x || p) = sum x log(x/p), whose optimum without interactions is the Gibbs
distribution p exp(u/lam). Leaves out: L1 and maximum norms. Source: Jerzak, Chandra and Hazra 2025, section 3.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.optimize

from steersman.core.errors import UserError

Kind = Literal["l2", "kl", "reverse_kl"]
KINDS = ("l2", "kl", "reverse_kl")


@dataclass(frozen=True, slots=True)
class Penalty:
    """lam R(x, p).

    Args:
        kind: l2, kl or reverse_kl.
        lam: >= 0, in units of the outcome.
        p: [M] design; levels of probability zero stay at zero.
    """

    kind: Kind
    lam: float
    p: np.ndarray

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"{self.kind!r} is no penalty", where="penalty", allowed=", ".join(KINDS))
        if not (math.isfinite(self.lam) and self.lam >= 0):
            raise UserError(f"{self.lam} is out of range", where="lam", allowed="0 or more, finite")

    def value(self, x: np.ndarray) -> float:
        """lam R; infinite where kl meets a zero that the design has not."""
        if not self.lam:
            return 0.0
        if self.kind == "l2":
            return float(self.lam * ((x - self.p) ** 2).sum())
        a, b = (self.p, x) if self.kind == "kl" else (x, self.p)
        on = a > 0
        return math.inf if (b[on] == 0).any() else float(self.lam * (a[on] * np.log(a[on] / b[on])).sum())

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """lam dR/dx; zero at levels that the design excludes, which never move."""
        out, on = np.zeros_like(x), self.p > 0
        if not self.lam:
            return out
        if self.kind == "l2":
            out[on] = 2 * (x - self.p)[on]
        elif self.kind == "kl":
            out[on] = -self.p[on] / x[on]
        else:
            out[on] = np.log(x[on] / self.p[on]) + 1
        return self.lam * out

    def curvature(self, x: np.ndarray) -> np.ndarray:
        """lam d2R/dx2, a diagonal [M]."""
        out, on = np.zeros_like(x), self.p > 0
        if not self.lam:
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
        if not self.lam:
            out[np.flatnonzero(on)[g[on].argmax()]] = 1.0
        elif self.kind == "l2":
            out[on] = to_simplex(p[on] + g[on] / (2 * self.lam))
        elif self.kind == "kl":
            out[on] = _barrier(g[on] / self.lam, p[on])
        else:
            weight = p[on] * np.exp((g[on] - g[on].max()) / self.lam)
            out[on] = weight / weight.sum()
        return out


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
