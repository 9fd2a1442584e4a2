"""Outcome models of conjoint data: two-way models of a profile's worth, for ratings and for choices between two.

eta(t) = sum_d beta_{d,t_d} + sum_{d<d'} gamma_{d t_d, d' t_d'}, with coefficients of the last level of a factor zero.
Ratings: E[Y] = link(beta_0 + eta(t)). Pairs: Pr(first is chosen) = link(beta_0 + eta(first) - eta(second)). Anything
with `pair_prob` can stand in for such a model (`OutcomeModel`), without standard errors. Leaves out: models with hidden
groups. Source: Jerzak, Chandra and Hazra 2025, section 3; covariance: Zeileis, Koell and Graham 2020 (cluster-robust,
HC1).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
import scipy.special

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData, Factor
from steersman.decide.conjoint.fitting import clustered, independent, least_squares, logistic
from steersman.decide.conjoint.policy import slices
from steersman.decide.conjoint.screening import screen

Link = Literal["linear", "logit"]
INTERACTIONS = ("all", "none", "screened")


class OutcomeModel(Protocol):
    """What optima and games ask of a model of pairs: its factors, and who is chosen.

    One without coefficients (a network) has no ``cov``, and what is computed from it no standard errors.
    """

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The attributes."""

    def pair_prob(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Pr(first is chosen) [n] of pairs of profiles [n, D] (level numbers)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Which coefficients a model has, and what features they multiply.

    Args:
        factors: the attributes.
        interactions: pairs of factor numbers (d, d') that interact, d < d'.
    """

    factors: tuple[Factor, ...]
    interactions: tuple[tuple[int, int], ...]

    @property
    def mains(self) -> np.ndarray:
        """Places in a vector of all levels of those that have a coefficient."""
        return np.concatenate([np.arange(s.start, s.stop - 1) for s in slices(self.factors)])

    @property
    def crossed(self) -> np.ndarray:
        """[k, 2] places in a vector of all levels of the two levels of each interaction coefficient."""
        s = slices(self.factors)
        found = [
            (i, j)
            for d, e in self.interactions
            for i in range(s[d].start, s[d].stop - 1)
            for j in range(s[e].start, s[e].stop - 1)
        ]
        return np.array(found, np.int64).reshape(-1, 2)

    @property
    def names(self) -> list[str]:
        """Names of the coefficients, "factor=level" and "factor=level × factor=level"."""
        level = [f"{f.name}={x}" for f in self.factors for x in f.levels]
        return [level[i] for i in self.mains] + [f"{level[i]} × {level[j]}" for i, j in self.crossed]

    def features(self, x: np.ndarray) -> np.ndarray:
        """phi(x) [..., p] with eta = phi . theta; x [..., M] one-hot profiles, or a policy (then phi is its mean)."""
        crossed = self.crossed
        return np.concatenate([x[..., self.mains], x[..., crossed[:, 0]] * x[..., crossed[:, 1]]], -1)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """d phi / d x [M, p] at a policy x [M]."""
        mains, crossed = self.mains, self.crossed
        out = np.zeros((len(x), len(mains) + len(crossed)))
        out[mains, np.arange(len(mains))] = 1.0
        column = len(mains) + np.arange(len(crossed))
        out[crossed[:, 0], column] = x[crossed[:, 1]]
        out[crossed[:, 1], column] = x[crossed[:, 0]]
        return out

    def matrix(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """b [M] and symmetric G [M, M] with eta(x) = b.x + x.G x / 2."""
        size, mains, crossed = sum(len(f.levels) for f in self.factors), self.mains, self.crossed
        b, g = np.zeros(size), np.zeros((size, size))
        b[mains] = theta[: len(mains)]
        g[crossed[:, 0], crossed[:, 1]] = g[crossed[:, 1], crossed[:, 0]] = theta[len(mains) :]
        return b, g


@dataclass(frozen=True, slots=True)
class Outcome:
    """A model with coefficients, fitted or given.

    Args:
        terms: which coefficients there are, p of them.
        theta: [p] coefficients.
        intercept: beta_0; pairs without an advantage of the first: 0 (logit), 1/2 (linear).
        cov: [p + 1, p + 1] covariance of (intercept, theta); None = coefficients known exactly.
        link: "linear" or "logit".
        paired: whether it predicts a choice between two profiles.
        dropped: names of coefficients that the data could not tell apart from others, set to zero.
        ridge: penalty on squared coefficients that was needed because the data separate; 0 = none.
        rows, clusters: it was fitted to.
    """

    terms: Terms
    theta: np.ndarray
    intercept: float
    link: Link
    paired: bool
    cov: np.ndarray | None = None
    dropped: tuple[str, ...] = ()
    ridge: float = 0.0
    rows: int = 0
    clusters: int = 0

    @property
    def factors(self) -> tuple[Factor, ...]:
        return self.terms.factors

    def predict(self, first: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
        """E[Y] of profiles [n, D] (level numbers), of pairs where the model is of pairs.

        Raises:
            UserError: a second profile is missing, or not wanted.
        """
        if self.paired != (second is not None):
            raise UserError("pairs need two profiles and ratings one", where="predict")
        eta = self.intercept + self.terms.features(one_hot(self.factors, first)) @ self.theta
        if second is not None:
            eta = eta - self.terms.features(one_hot(self.factors, second)) @ self.theta
        return scipy.special.expit(eta) if self.link == "logit" else eta

    def pair_prob(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """`predict` of pairs; see `OutcomeModel`."""
        return self.predict(first, second)


def one_hot(factors: Sequence[Factor], profiles: np.ndarray) -> np.ndarray:
    """[n, D] level numbers as [n, M] indicators of all levels."""
    return np.concatenate([np.eye(len(f.levels))[profiles[:, d]] for d, f in enumerate(factors)], 1)


@dataclass(frozen=True, slots=True)
class _Fit:
    """What to fit.

    Args:
        interactions: "all", "none", "screened" (those that a group lasso keeps, see `screening`; the fit that follows
            and its standard errors do not know of the choice), or pairs of factor names.
        vcov: "cluster" (respondents; each row its own where the data name none) or "model" (independent errors of the
            model's own variance).
        intercept: pairs only: whether the first profile may have an advantage. Leave it False where order was drawn;
            True for pairs of two parties, where first is a party.
    """

    link: ClassVar[Link]
    paired: ClassVar[bool]
    interactions: str | Sequence[tuple[str, str]] = "all"
    vcov: Literal["cluster", "model"] = "cluster"
    intercept: bool = field(default=False, kw_only=True)

    def fit(self, data: ConjointData) -> Outcome:
        """Estimate by least squares or maximum likelihood.

        Raises:
            UserError: ratings for a model of pairs or the reverse; more coefficients than half the rows; one cluster
                only; an outcome of a logit that is not 0 or 1; an unknown option or factor.
            RunStopped: the likelihood did not converge.

        Edge cases: collinear columns are dropped and named; perfect separation is met by a ridge of 1e-6, named in
            ``ridge``. Standard errors are conditional on the model being right.
        """
        return self.estimate(data)[0]

    def estimate(self, data: ConjointData, constant: np.ndarray | None = None) -> tuple[Outcome, np.ndarray]:
        """`fit`, and what each row moves (intercept, theta) by [n, p + 1], from which covariances of sums are made.

        Args:
            data: pairs or ratings.
            constant: [n] what the intercept multiplies; None = ones where there is an intercept.
        """
        _check(data, self.paired, self.link, self.vcov)
        terms = Terms(data.factors, self._pairs(data))
        free = self.intercept or not self.paired or constant is not None
        offset = 0.5 if self.paired and self.link == "linear" and not free else 0.0
        x = np.concatenate([np.ones((len(data), 1)) if constant is None else constant[:, None],
                            _columns(terms, data)], 1)  # fmt: skip
        count = x.shape[1] if free else x.shape[1] - 1
        if count > len(x) / 2:
            raise UserError(
                f"{count} coefficients are too many for {len(x)} rows", where="outcome model",
                allowed=f"at most {len(x) // 2}", cure='leave out interactions or factors, or interactions="screened"',
            )  # fmt: skip
        names, first = ["intercept", *terms.names], 0 if free else 1
        kept = independent(x[:, first:]) + first
        fitted = (least_squares if self.link == "linear" else logistic)(x[:, kept], data.outcome - offset)
        full, cov = np.zeros(len(names)), np.zeros((len(names), len(names)))
        full[kept] = fitted.theta
        cluster = respondents(data)
        cov[np.ix_(kept, kept)] = clustered(fitted, cluster) if self.vcov == "cluster" else fitted.model
        moves = np.zeros((len(x), len(names)))
        moves[:, kept] = fitted.scores @ fitted.bread
        lost = tuple(n for i, n in enumerate(names) if i not in kept)[first:]
        return Outcome(
            terms, full[1:], float(full[0]) + offset, self.link, self.paired, cov, lost, fitted.ridge, len(x),
            int(cluster.max()) + 1,
        ), moves  # fmt: skip

    def _pairs(self, data: ConjointData) -> tuple[tuple[int, int], ...]:
        names = [f.name for f in data.factors]
        every = tuple(itertools.combinations(range(len(names)), 2))
        if isinstance(self.interactions, str):
            if self.interactions not in INTERACTIONS:
                raise UserError(f"{self.interactions!r} is no choice", where="interactions",
                                allowed=", ".join(INTERACTIONS) + ", or pairs of factors")  # fmt: skip
            if self.interactions == "screened":
                groups = [_columns(Terms(data.factors, (pair,)), data, False) for pair in every]
                kept = screen(_columns(Terms(data.factors, ()), data), groups, data.outcome, respondents(data),
                              not self.paired)  # fmt: skip
                return tuple(every[i] for i in kept)
            return every if self.interactions == "all" else ()
        for pair in self.interactions:
            if len(set(pair)) != 2 or not set(pair) <= set(names):
                raise UserError(f"{pair} are no two factors", where="interactions", allowed=", ".join(names))
        wanted = {tuple(sorted((names.index(a), names.index(b)))) for a, b in self.interactions}
        return tuple(p for p in every if p in wanted)


def respondents(data: ConjointData) -> np.ndarray:
    """Number of the respondent of each row, 0 .. G-1; rows of their own where none is named."""
    return np.arange(len(data)) if data.cluster is None else np.unique(data.cluster, return_inverse=True)[1]


def _columns(terms: Terms, data: ConjointData, mains: bool = True) -> np.ndarray:
    """phi(first) - phi(second) [n, p], or phi of the rated profile."""
    x = terms.features(one_hot(data.factors, data.first))
    if data.second is not None:
        x = x - terms.features(one_hot(data.factors, data.second))
    return x if mains else x[:, len(terms.mains) :]


class RatingLinear(_Fit):
    """Ratings: E[Y] = beta_0 + eta(t), by least squares."""

    link, paired = "linear", False


class RatingLogit(_Fit):
    """Ratings of 0 or 1: Pr(Y = 1) = sigma(beta_0 + eta(t)), by maximum likelihood."""

    link, paired = "logit", False


class PairLinear(_Fit):
    """Choices: Pr(first) = 1/2 + eta(first) - eta(second), a linear probability model (beta_0 free with intercept)."""

    link, paired = "linear", True


class PairLogit(_Fit):
    """Choices: Pr(first) = sigma(eta(first) - eta(second)), by maximum likelihood (+ beta_0 with intercept)."""

    link, paired = "logit", True


def _check(data: ConjointData, paired: bool, link: Link, vcov: str) -> None:
    if paired != (data.second is not None):
        raise UserError(
            "a model of pairs needs pairs, one of ratings needs ratings", where="outcome model",
            cure="name the column of pairs" if paired else "use PairLogit or PairLinear",
        )  # fmt: skip
    if link == "logit" and not np.isin(data.outcome, (0, 1)).all():
        raise UserError("a logit needs outcomes of 0 or 1", where="outcome")
    if vcov not in ("cluster", "model"):
        raise UserError(f"{vcov!r} is no choice", where="vcov", allowed="cluster, model")
    if vcov == "cluster" and data.cluster is not None and len(np.unique(data.cluster)) < 2:
        raise UserError("there is one cluster only", where="cluster", allowed="two or more respondents")
