"""The mean outcome of a logit where there are too many profiles to enumerate: a fixed sample of whole profiles.

Profiles are hard draws, t_d = the level at which the factor's cumulated distribution passes a fixed quasi-random
number, so that the same policy always gives the same figures. Each derivative is a mean with the factor set to each
level in turn and the others as drawn (the score-function estimator with that factor integrated out), whose noise is far
smaller than that of weights. The opponent enters through the distribution of eta alone: F(e) = E_v sigma(beta_0 + e -
eta(v)) is tabulated. Leaves out: standard errors of the sample itself; models without coefficients. Source: Jerzak,
Chandra and Hazra 2025, section 4, which relaxes profiles instead; Titsias and Lazaro-Gredilla 2015 (local expectation
gradients).
"""

from collections.abc import Sequence

import numpy as np
import scipy.special
import scipy.stats

from steersman.core import noise as randomness
from steersman.decide.conjoint.outcome import Outcome, one_hot
from steersman.decide.conjoint.policy import slices

DRAWS = 2**13
KNOTS = 1025
COARSE = 129
"""Knots of the derivatives, which serve standard errors alone."""


class Sampled:
    """Q(x) = E_{t ~ x} F(eta(t)).

    Args:
        model: a logit.
        opponent: [M] the other profile's policy; None = ratings.
        seed: of the sample.
    """

    noise = 1e-3

    def __init__(self, model: Outcome, opponent: np.ndarray | None, seed: int = 0) -> None:
        self.model, self.terms, self.parts = model, model.terms, slices(model.factors)
        self.b, self.G = model.terms.matrix(model.theta)
        self.uniform = self._numbers(seed, "conjoint/profiles")
        self.other = None if opponent is None else self._draw(opponent, self._numbers(seed, "conjoint/opponents"))
        reach = sum(np.abs(self.b[s]).max() for s in self.parts)
        reach += sum(np.abs(self.G[a, c]).max() for i, a in enumerate(self.parts) for c in self.parts[:i])
        self.knots = np.linspace(-reach, reach, KNOTS)
        self.F, self.slope = self._table(self.knots)

    def _numbers(self, seed: int, purpose: str) -> np.ndarray:
        draw = randomness.generator(seed, purpose)
        return scipy.stats.qmc.Sobol(len(self.parts), scramble=True, seed=int(draw.integers(2**31))).random(DRAWS)

    def _draw(self, x: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """[S, D] level numbers."""
        chosen = [np.searchsorted(np.cumsum(x[s])[:-1], uniform[:, d], "right") for d, s in enumerate(self.parts)]
        return np.stack(chosen, 1)

    def _eta(self, onehot: np.ndarray) -> np.ndarray:
        return onehot @ self.b + ((onehot @ self.G) * onehot).sum(1) / 2

    def _table(self, knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """F and its derivative at some log-odds."""
        against = np.zeros(1) if self.other is None else self._eta(one_hot(self.model.factors, self.other))
        values, slopes = np.empty_like(knots), np.empty_like(knots)
        for i, e in enumerate(knots):
            p = scipy.special.expit(self.model.intercept + e - against)
            values[i], slopes[i] = p.mean(), (p * (1 - p)).mean()
        return values, slopes

    def _seen(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Level numbers [S, D], their indicators [S, M], and eta with each level set in turn [S, M]."""
        drawn = self._draw(x, self.uniform)
        onehot = one_hot(self.model.factors, drawn)
        worth = self.b + onehot @ self.G
        eta = self._eta(onehot)
        own = [worth[np.arange(len(drawn)), s.start + drawn[:, d]] for d, s in enumerate(self.parts)]
        wide = np.concatenate([np.tile(o[:, None], s.stop - s.start) for o, s in zip(own, self.parts, strict=True)], 1)
        return drawn, onehot, eta[:, None] - wide + worth

    def value(self, x: np.ndarray) -> float:
        """Q: the mean over factors of sum_l x_dl dQ/dx_dl."""
        return float(x @ self.gradient(x)) / len(self.parts)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """dQ/dx [M]: means of F given each level."""
        return np.interp(self._seen(x)[2], self.knots, self.F).mean(0)

    def partial(self, x: np.ndarray, factor: int) -> np.ndarray:
        """The part of `gradient` of one factor."""
        s = self.parts[factor]
        drawn = self._draw(x, self.uniform)
        onehot = one_hot(self.model.factors, drawn)
        worth = self.b[s] + onehot @ self.G[:, s]
        own = worth[np.arange(len(drawn)), drawn[:, factor]]
        return np.interp((self._eta(onehot) - own)[:, None] + worth, self.knots, self.F).mean(0)

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """d2Q/dx2 [M, M]: means of F given two levels; zero within a factor."""
        drawn, onehot, eta = self._seen(x)
        cross, out, rows = onehot @ self.G, np.zeros((len(x), len(x))), np.arange(len(drawn))
        for d, a in enumerate(self.parts):
            at = a.start + drawn[:, d]
            for e, c in enumerate(self.parts[:d]):
                to = c.start + drawn[:, e]
                # The factor e leaves: its own worth, its part of d's worth; then comes back at every level.
                rest = eta[:, a] - (self.b[to] + cross[rows, to] - self.G[at, to])[:, None] - self.G[a][:, to].T
                back = (self.b[c] + cross[:, c] - self.G[at][:, c])[:, None, :] + self.G[a, c][None]
                mean = np.interp(rest[:, :, None] + back, self.knots, self.F).mean(0)
                out[a, c], out[c, a] = mean, mean.T
        return out

    def value_theta(self, x: np.ndarray) -> np.ndarray:
        """dQ/d(intercept, theta) [p + 1]."""
        return x @ self.gradient_theta(x) / len(self.parts)

    def gradient_theta(self, x: np.ndarray) -> np.ndarray:
        """d2Q/dx d(intercept, theta) [M, p + 1]: means of F'(eta) phi(t) - E_v sigma' phi(v) given each level."""
        _, onehot, eta = self._seen(x)
        knots, pulled = self._pulled()
        out = np.empty((len(x), len(self.model.theta) + 1))
        for s in self.parts:
            for level in range(s.start, s.stop):
                changed, e = onehot.copy(), eta[:, level]
                changed[:, s] = 0.0
                changed[:, level] = 1.0
                slope = np.interp(e, self.knots, self.slope)
                out[level, 0] = slope.mean()
                out[level, 1:] = slope @ self.terms.features(changed) / len(e)
                if len(pulled):
                    out[level, 1:] -= _weights(e, knots) @ pulled
        return out

    def _pulled(self) -> tuple[np.ndarray, np.ndarray]:
        """E_v sigma'(beta_0 + e - eta(v)) phi(v) at some e [k, p]; nothing for ratings."""
        knots = np.linspace(self.knots[0], self.knots[-1], COARSE)
        if self.other is None:
            return knots, np.zeros((0, len(self.model.theta)))
        onehot = one_hot(self.model.factors, self.other)
        phi, against = self.terms.features(onehot), self._eta(onehot)
        p = scipy.special.expit(self.model.intercept + knots[:, None] - against[None, :])
        return knots, (p * (1 - p)) @ phi / len(onehot)


def _weights(e: np.ndarray, knots: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mean weights of the knots in the linear interpolation at the points e."""
    step = knots[1] - knots[0]
    place = np.clip((e - knots[0]) / step, 0, len(knots) - 1 - 1e-9) if step else np.zeros(len(e))
    low = place.astype(np.int64)
    share = np.bincount(low, 1 - (place - low), minlength=len(knots))
    return (share + np.bincount(low + 1, place - low, minlength=len(knots))) / len(e)
