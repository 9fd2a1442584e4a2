"""Two parties' nominees before groups of voters, through primaries: pay-offs of all profiles, and their derivatives.

C(t, u) = sum_g w_g link(beta_0^g + eta^g(t) - eta^g(u)): share of A's nominee t against B's nominee u. Without
primaries entrants are nominees. With them an entrant t meets a field candidate t' drawn from the design in its own
party's primary and wins with kappa(t, t') = sigma(s (beta_0 + eta(t) - eta(t'))); the nominees' distribution is
nu(x) = pi(x) sum_y p(y) kappa(x, y) + p(x) sum_y pi(y) (1 - kappa(y, x)), linear in the entrants' distribution pi, so
Q = nu_A' C nu_B without any sampling. Leaves out: primaries of more than two candidates; solving (`game`).
Source: Jerzak, Chandra and Hazra 2025, section 5; the linear form of the push-forward is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from steersman.core.errors import UserError
from steersman.decide.conjoint.outcome import Outcome, OutcomeModel
from steersman.decide.conjoint.policy import Grid
from steersman.decide.conjoint.surface import every_pair

EDGE = 1e-12
"""Shares of a model without coefficients are kept this far from 0 and 1 before their log-odds are taken."""


@dataclass(frozen=True, slots=True)
class Primary:
    """Each party nominates by a vote of its own group between the entrant and a field candidate.

    Args:
        strength: s >= 0; 0 tosses a coin, larger lets the better candidate win more surely.
        models: logits of pairs within a party, by party; None = the general election's models of the parties' own
            groups, without their intercepts.
        cross: covariance [p + 1, p + 1] of the coefficients of the party's general model (rows) and of its primary's,
            by party; None = independent. `parties.pooled_models` makes it.
    """

    strength: float = 1.0
    models: Mapping[str, OutcomeModel] | None = None
    cross: Mapping[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if not self.strength >= 0 or np.isinf(self.strength):
            raise UserError(f"{self.strength} is out of range", where="primary strength", allowed="0 or more, finite")


@dataclass(frozen=True, slots=True)
class _Vote:
    """Link values and slopes of every pair of profiles under one model; ``scale`` multiplies the log-odds."""

    name: str
    model: OutcomeModel
    grid: Grid
    phi: np.ndarray
    scale: float = 1.0
    intercept: bool = True

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Values [N, N] and their derivatives by the log-odds before ``scale`` (none without coefficients)."""
        if not isinstance(self.model, Outcome):
            share = every_pair(self.model, self.grid)
            if self.scale != 1:
                share = scipy.special.expit(self.scale * scipy.special.logit(np.clip(share, EDGE, 1 - EDGE)))
            return share, np.zeros((0, 0))
        eta = self.phi @ self.model.theta
        odds = self.scale * (self.model.intercept * self.intercept + eta[:, None] - eta[None, :])
        if self.model.link == "linear":
            return odds, np.ones_like(odds)
        share = scipy.special.expit(odds)
        return share, self.scale * share * (1 - share)

    def right(self, slope: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Derivative of (table @ v) by (intercept, theta), table's slopes given; [N, p + 1]."""
        return self._both(slope, v)

    def left(self, slope: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Derivative of (table' @ v) by (intercept, theta)."""
        return self._both(slope.T, v, -1.0)

    def _both(self, slope: np.ndarray, v: np.ndarray, sign: float = 1.0) -> np.ndarray:
        total = slope @ v
        first = total[:, None] * self.intercept
        return np.concatenate([first, sign * (total[:, None] * self.phi - slope @ (v[:, None] * self.phi))], 1)


class Election:
    """Pay-offs Q = pi_A' M pi_B over all profiles.

    Args:
        models: the general election's models by group of voters; pairs of A's candidate (first) and B's.
        shares: weight of each group, summing to one.
        parties: names of A and B.
        p: [M] the design, from which field candidates come.
        primary: how nominees are chosen; None = entrants are nominees.

    Raises:
        UserError: models of different factors or of ratings, shares that do not fit, a primary without a model.
    """

    def __init__(
        self,
        models: Mapping[str, OutcomeModel],
        shares: Mapping[str, float],
        parties: tuple[str, str],
        p: np.ndarray,
        primary: Primary | None,
    ) -> None:
        _check(models, shares, parties, primary)
        self.parties, self.grid = parties, Grid(next(iter(models.values())).factors)
        self.field = self.grid.joint(p)
        self.weights = [shares[g] for g in models]
        self.general = [self._vote(f"general {g}", m) for g, m in models.items()]
        tables = [vote.table() for vote in self.general]
        self.slopes = [slope for _, slope in tables]
        self.C = sum(w * c for w, (c, _) in zip(self.weights, tables, strict=True))
        self.primaries = [] if primary is None else [self._primary(party, primary, models) for party in parties]
        self.models = {vote.name: vote.model for vote in (*self.general, *self.primaries)}
        self.kappa = [vote.table() for vote in self.primaries]
        one = np.eye(len(self.field))
        self.K = [self.push_forward(k) for k, _ in self.kappa] or [one, one]
        self.M = self.K[0].T @ self.C @ self.K[1] if primary is not None else self.C
        cross = {} if primary is None or primary.cross is None else primary.cross
        self.cross = {(f"general {party}", f"primary {party}"): c for party, c in cross.items()}

    def _vote(self, name: str, model: OutcomeModel, scale: float = 1.0, intercept: bool = True) -> _Vote:
        known = isinstance(model, Outcome)
        phi = model.terms.features(self.grid.onehot) if known else np.zeros((len(self.field), 0))  # type: ignore[attr-defined]
        return _Vote(name, model, self.grid, phi, scale, intercept)

    def _primary(self, party: str, primary: Primary, models: Mapping[str, OutcomeModel]) -> _Vote:
        own = primary.models is not None
        model = primary.models[party] if primary.models is not None else models[party]
        name = f"primary {party}" if own else f"general {party}"
        return self._vote(name, model, primary.strength, own)

    def push_forward(self, kappa: np.ndarray) -> np.ndarray:
        """[N, N] with nominees = matrix @ entrants, from the chances kappa[entrant, field candidate]."""
        return self.field[:, None] * (1 - kappa.T) + np.diag(kappa @ self.field)

    def variance(self, moved: Mapping[str, np.ndarray]) -> np.ndarray:
        """Variances of quantities [k] whose derivatives by each model's coefficients are given [k, p + 1].

        Models are independent of one another, except for a party's two where their covariance is known. Models without
        a covariance count as exact.
        """
        out: Any = 0.0
        for name, j in moved.items():
            cov = getattr(self.models[name], "cov", None)
            out = out + (((j @ cov) * j).sum(1) if cov is not None else 0.0)
        for (a, b), cross in self.cross.items():
            if a in moved and b in moved:
                out = out + 2 * ((moved[a] @ cross) * moved[b]).sum(1)
        return np.maximum(out, 0.0)

    def derivatives(self, a: np.ndarray, b: np.ndarray) -> dict[str, tuple[Outcome, np.ndarray, np.ndarray]]:
        """How every coefficient moves the pay-offs of A's profiles (M b) and of B's (M' a).

        Args:
            a, b: [N] the entrants' distributions.

        Returns:
            by name of the model, where it has coefficients: it, d(M b) [N, p + 1] and d(M' a) [N, p + 1], by
            (intercept, theta).
        """
        out: dict[str, tuple[Outcome, np.ndarray, np.ndarray]] = {}
        nominees = self.K[0] @ a, self.K[1] @ b
        for weight, vote, slope in zip(self.weights, self.general, self.slopes, strict=True):
            if not isinstance(vote.model, Outcome):
                continue
            da = weight * self.K[0].T @ vote.right(slope, nominees[1])
            db = weight * self.K[1].T @ vote.left(slope, nominees[0])
            out[vote.name] = (vote.model, da, db)
        for side, vote in enumerate(self.primaries):
            if not isinstance(vote.model, Outcome):
                continue
            payoff = self.C if side == 0 else self.C.T
            own, other = self._through(side, vote, (a, b)[side], payoff @ nominees[1 - side])
            other = self.K[1 - side].T @ (payoff.T @ other)
            da, db = (own, other) if side == 0 else (other, own)
            before = out.get(vote.name, (vote.model, 0.0, 0.0))
            out[vote.name] = (vote.model, before[1] + da, before[2] + db)
        return out

    def _through(self, side: int, vote: _Vote, pi: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of K'v and of K pi by the primary's coefficients.

        (K'v)(y) = sum_x p(x) v(x) + sum_x p(x) kappa(y, x) (v(y) - v(x)).
        """
        slope, p, phi = self.kappa[side][1], self.field, vote.phi

        def spread(w: np.ndarray) -> np.ndarray:
            """sum_x w[y, x] d(log-odds of y against x), [N, p + 1]."""
            total = w.sum(1)[:, None]
            return np.concatenate([total * vote.intercept, total * phi - w @ phi], 1)

        own = spread(slope * p[None, :] * (v[:, None] - v[None, :]))
        won = spread(slope * p[None, :]) * pi[:, None]
        # Lost by y against x: the log-odds are phi(y) - phi(x), so that x's own features stand second.
        lost = slope * pi[:, None]
        total = lost.sum(0)[:, None]
        back = np.concatenate([total * vote.intercept, lost.T @ phi - total * phi], 1)
        return own, won - p[:, None] * back


def _check(
    models: Mapping[str, OutcomeModel], shares: Mapping[str, float], parties: tuple[str, str], primary: Primary | None
) -> None:
    if set(models) != set(shares):
        raise UserError(f"are of groups {sorted(shares)}, models of {sorted(models)}", where="shares")
    if any(not w >= 0 for w in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise UserError(f"{dict(shares)} are no shares", where="shares", allowed="0 or more, with sum 1")
    if len(set(parties)) != 2:
        raise UserError(f"{parties} are not two", where="parties")
    own = {} if primary is None or primary.models is None else primary.models
    if primary is not None:
        missing = [p for p in parties if p not in (own or models)]
        if missing:
            raise UserError(f"there is no model of the primary of {missing}", where="primary")
        if any(isinstance(m, Outcome) and m.link != "logit" for m in (own or {p: models[p] for p in parties}).values()):
            raise UserError("a primary needs a logit", where="primary", cure="PairLogit")
    every = [*models.values(), *own.values()]
    if any(not getattr(m, "paired", True) or m.factors != every[0].factors for m in every):
        raise UserError("models must be of pairs, with the same factors and levels", where="game")
