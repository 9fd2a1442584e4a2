"""Two parties who choose policies over profiles against one another: equilibrium, exploitability, standard errors.

A maximises Q - lam R(x_A, p), B maximises (1 - Q) - lam R(x_B, p); saddle function Phi = Q - lam R(A) + lam R(B). The
solver is extragradient (Korpelevich 1976) or optimistic gradient (Popov 1980) with Khobotov's step rule, on
probabilities for l2 and on logits for the others, and Newton's method at the end (`solvers`). Product policies make the
game non-concave: what is found is a stationary point, and its exploitability says how much either could gain. Leaves
out: pay-offs (`election`); penalties with kinks, under which equilibria sit where derivatives jump.
Source: Jerzak, Chandra and Hazra 2025, section 5 and Algorithm 1 (simultaneous steps, here the solver "simultaneous").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint.election import Election, Primary
from steersman.decide.conjoint.optimal import AT_BOUNDARY, normal_interval, search, tangent
from steersman.decide.conjoint.outcome import OutcomeModel
from steersman.decide.conjoint.penalty import KINKED, Kind, Penalty, to_simplex
from steersman.decide.conjoint.policy import FactoredPolicy, design_policy
from steersman.decide.conjoint.solvers import CONVERGED, SOLVERS, Name, solve
from steersman.decide.conjoint.surface import Tabled
from steersman.stats.intervals import Interval

NEWTON = 30
STATIONARY = 1e-9


@dataclass(frozen=True, slots=True)
class GameResult:
    """What two parties would field.

    Args:
        policy: by party.
        value: Q, the first party's expected share.
        se: its standard error by the delta method, given models, penalty, lam and shares; not valid at a boundary.
        policy_se: [M] of each probability, by party.
        exploitability: what the two could gain together by best responses found from several starts; 0 at equilibrium.
        at_design: Q where both field the design.
        status: "equilibrium" (exploitability at most the tolerance) or "stationary point that can be exploited".
        residual: largest slope left along moves that stay inside.
        boundary: some allowed level has probability zero.
        steps: of the solver.
    """

    policy: dict[str, FactoredPolicy]
    value: float
    se: float
    policy_se: dict[str, np.ndarray]
    exploitability: float
    at_design: float
    status: str
    residual: float
    boundary: bool
    steps: int

    def interval(self, level: float = 0.95) -> Interval:
        """Normal interval of the value."""
        return normal_interval(self.value, self.se, level)


def solve_game(
    models: Mapping[str, OutcomeModel],
    shares: Mapping[str, float],
    institution: Primary | None = None,
    design: Any = None,
    penalty: Kind = "l2",
    lam: float = 0.05,
    parties: tuple[str, str] | None = None,
    solver: Name = "extragradient",
    steps: int = 5000,
    step: float = 1.0,
    restarts: int = 5,
    tolerance: float = 0.01,
    seed: int = 0,
    newton: bool = True,
) -> GameResult:
    """Policies of two parties such that neither gains by moving a little, and how much either gains by moving far.

    Args:
        models: the general election's models by group of voters, of pairs whose first profile is the first party's.
        shares: of the groups among voters, summing to one.
        institution: primaries, or None.
        design: of both parties and of the field candidates, see `optimize_policy`.
        penalty, lam: see `optimize_policy`; the same for both; l1 and linf are refused.
        parties: names of the two; None = the first two groups.
        solver: extragradient; ogda = optimistic, one slope a step instead of two; simultaneous = plain steps of fixed
            length, which may circle.
        steps: most steps.
        step: first (halved until safe) or fixed (simultaneous) length of a step.
        restarts: random starts of the best responses.
        tolerance: exploitability that still counts as equilibrium.
        seed: of the starts.
        newton: whether extragradient and ogda may end with Newton's method.

    Raises:
        UserError: as `Election`, an option out of range, fewer than two groups, too many profiles.
    """
    if solver not in SOLVERS:
        raise UserError(f"{solver!r} is no solver", where="solver", allowed=", ".join(SOLVERS))
    if parties is None and len(models) < 2:
        raise UserError("a game needs two groups", where="game", cure="name the parties")
    if steps < 1 or not step > 0:
        raise UserError("steps and their length must be positive", where="game")
    if penalty in KINKED:
        raise UserError(f"{penalty!r} has kinks, a game needs slopes", where="penalty",
                        allowed="l2, kl, reverse_kl, none")  # fmt: skip
    first, second = parties or tuple(models)[:2]
    base = design_policy(next(iter(models.values())).factors, design)
    game = _Game(Election(models, shares, (first, second), base.x, institution), Penalty(penalty, lam, base.x))
    start = np.concatenate([base.x, base.x])
    z, taken = solve(game, solver, start, steps, step, newton)
    return _result(game, z, taken, base, restarts, tolerance, seed)


class _Game:
    """Slopes and curvatures of both players at z = (x_A, x_B)."""

    def __init__(self, election: Election, penalty: Penalty) -> None:
        self.election, self.penalty, self.grid = election, penalty, election.grid
        self.size, self.euclidean = len(penalty.p), penalty.kind in ("l2", "none")
        self.parts = [*self.grid.slices, *(slice(s.start + self.size, s.stop + self.size) for s in self.grid.slices)]

    def surfaces(self, z: np.ndarray) -> tuple[Tabled, Tabled]:
        """What each player's policies are worth to itself (B: -Q) against the other's present one."""
        a, b = self.grid.joint(z[: self.size]), self.grid.joint(z[self.size :])
        none = np.zeros((len(a), 0))
        return Tabled(self.grid, self.election.M @ b, none), Tabled(self.grid, -(self.election.M.T @ a), none)

    def slopes(self, z: np.ndarray) -> np.ndarray:
        """Both players' gradients of their own objectives [2M]."""
        halves = zip(self.surfaces(z), (z[: self.size], z[self.size :]), strict=True)
        return np.concatenate([q.gradient(x) - self.penalty.gradient(x) for q, x in halves])

    def jacobian(self, z: np.ndarray) -> np.ndarray:
        """Derivative of `slopes` [2M, 2M]."""
        a, b = z[: self.size], z[self.size :]
        qa, qb = self.surfaces(z)
        cross = self.grid.jacobian(a).T @ self.election.M @ self.grid.jacobian(b)
        return np.block([
            [qa.hessian(a) - np.diag(self.penalty.curvature(a)), cross],
            [-cross.T, qb.hessian(b) - np.diag(self.penalty.curvature(b))],
        ])  # fmt: skip

    def settled(self, z: np.ndarray) -> bool:
        """Whether neither player gains by a small move: no slope among positive levels, none towards a level at zero,
        no upward curvature."""
        g, basis, allowed = self.slopes(z), tangent(z, self.parts), np.tile(self.penalty.p > 0, 2)
        if basis.size and np.abs(basis.T @ g).max() > STATIONARY:
            return False
        for s in self.parts:
            zero = allowed[s] & (z[s] <= AT_BOUNDARY)
            if zero.any() and g[s][zero].max() > g[s][z[s] > AT_BOUNDARY].max() + STATIONARY:
                return False
        curve, own = self.jacobian(z), np.arange(2 * self.size) < self.size
        for mine in (own, ~own):
            moves = basis[mine][:, np.abs(basis[mine]).any(0)]
            if moves.size and float(np.linalg.eigvalsh(moves.T @ curve[np.ix_(mine, mine)] @ moves)[-1]) > STATIONARY:
                return False
        return True

    def direction(self, z: np.ndarray) -> np.ndarray:
        """Slopes by probabilities (l2), or by logits: x (g - mean of g)."""
        g = self.slopes(z)
        if self.euclidean:
            return g
        return np.concatenate([z[s] * (g[s] - z[s] @ g[s]) for s in self.parts])

    def move(self, z: np.ndarray, way: np.ndarray) -> np.ndarray:
        """Projection of z + way (l2), or softmax of log z + way; levels that the design excludes stay at zero."""
        out, on = np.zeros_like(z), np.tile(self.penalty.p > 0, 2)
        for s in self.parts:
            free = np.flatnonzero(on[s]) + s.start
            if self.euclidean:
                out[free] = to_simplex(z[free] + way[free])
            else:
                weight = z[free] * np.exp(way[free] - way[free].max())
                out[free] = weight / weight.sum()
        return out

    def polish(self, z: np.ndarray) -> np.ndarray:
        """Newton's method among levels not at zero, ended by a step that leaves the simplex or does not help."""
        for _ in range(NEWTON):
            basis = tangent(z, self.parts)
            slope = basis.T @ self.slopes(z)
            if not basis.size or np.abs(slope).max() < CONVERGED:
                return z
            moved = z - basis @ np.linalg.lstsq(basis.T @ self.jacobian(z) @ basis, slope, rcond=None)[0]
            if (moved < 0).any() or np.abs(basis.T @ self.slopes(moved)).max() >= np.abs(slope).max():
                return z
            z = moved
        return z

    def exploitability(self, z: np.ndarray, restarts: int, seed: int) -> float:
        """What best responses gain: max_A Phi(., B) - Phi + Phi - min_B Phi(A, .)."""
        gained = 0.0
        for q, x in zip(self.surfaces(z), (z[: self.size], z[self.size :]), strict=True):
            best = search(q, self.penalty, self.grid.slices, restarts, seed, (x,))
            gained += max(0.0, q.value(best) - self.penalty.value(best) - q.value(x) + self.penalty.value(x))
        return gained

    def variances(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Delta method: variance of Q and of every probability."""
        a, b = z[: self.size], z[self.size :]
        ja, jb, basis = self.grid.jacobian(a), self.grid.jacobian(b), tangent(z, self.parts)
        pa, pb = self.grid.joint(a), self.grid.joint(b)
        slope = np.concatenate([ja.T @ self.election.M @ pb, jb.T @ (self.election.M.T @ pa)])
        inner = basis.T @ self.jacobian(z) @ basis
        totals = {}
        for name, (_, da, db) in self.election.derivatives(pa, pb).items():
            moved = np.zeros((len(z), da.shape[1]))
            if basis.size:
                pushed = basis.T @ np.concatenate([ja.T @ da, -jb.T @ db])
                moved = -basis @ np.linalg.lstsq(inner, pushed, rcond=None)[0]
            totals[name] = np.concatenate([(pa @ da + slope @ moved)[None], moved])
        out = self.election.variance(totals) + np.zeros(1 + len(z))
        return float(out[0]), out[1:]


def _result(
    game: _Game, z: np.ndarray, taken: int, base: FactoredPolicy, restarts: int, tolerance: float, seed: int
) -> GameResult:
    size, factors, (first, second) = game.size, base.factors, game.election.parties
    variance, spread = game.variances(z)
    left = tangent(z, game.parts).T @ game.slopes(z)
    exploited = game.exploitability(z, restarts, seed)
    p = game.grid.joint(base.x)
    on = np.tile(base.x > 0, 2)
    return GameResult(
        {first: FactoredPolicy(factors, z[:size]), second: FactoredPolicy(factors, z[size:])},
        float(game.grid.joint(z[:size]) @ game.election.M @ game.grid.joint(z[size:])),
        variance**0.5,
        {first: np.sqrt(spread[:size]), second: np.sqrt(spread[size:])},
        exploited,
        float(p @ game.election.M @ p),
        "equilibrium" if exploited <= tolerance else "stationary point that can be exploited",
        float(np.abs(left).max()) if left.size else 0.0,
        bool((z[on] <= AT_BOUNDARY).any()),
        taken,
    )
