"""The best policy over profiles within reach of the design, with standard errors.

max_x Q(x) - lam R(x, p), x a product of distributions. Closed form where the link is linear, the penalty L2 and the
problem concave with an interior optimum; otherwise ascent by exact best responses of one factor at a time, from several
starts, and Newton's method at the end (not under l1 and linf, whose optima lie at kinks). Leaves out: opponents who
choose (`game`), honest evaluation (`crossfit`). Source: Jerzak, Chandra and Hazra 2025, Proposition 3.1 and section 4;
their package ascends softmax logits by sampled gradients instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy.linalg

from steersman.core import noise
from steersman.core.errors import UserError
from steersman.decide.conjoint.outcome import OutcomeModel
from steersman.decide.conjoint.penalty import Kind, Penalty
from steersman.decide.conjoint.policy import FactoredPolicy, design_policy, slices
from steersman.decide.conjoint.surface import Quadratic, Surface, surface
from steersman.stats.intervals import Interval

INTERIOR = "interior optimum"
OUTSIDE = "outside simplex -> projected solver used"
INDEFINITE = "indefinite -> local solver used"
BOUNDARY = "boundary optimum"
AT_KINK = "optimum at a kink of the penalty"
AT_BOUNDARY = 1e-9
"""A probability below this counts as zero: its level no longer moves."""
SWEEPS, FEW_SWEEPS = 20_000, 200
"""Of a surface that is exact, or sampled."""
CONVERGED = 1e-13
NEWTON = 30


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """A policy that was chosen, and what is known of it.

    Args:
        policy: the optimum found.
        design: the design it may not stray far from.
        value: Q at the optimum, by the same model that chose it, and therefore optimistic (`crossfit_value` is honest).
        se: its standard error (delta method), given the model, the penalty and lam; 0 where the model has none.
        policy_se: [M] of each probability; 0 for those at zero, and for all under l1 and linf.
        gain, gain_se: Q at the optimum less Q at the design.
        status: closed form, or why another solver was used; a local solver promises no global optimum.
        residual: largest slope left along directions that stay inside, or (l1, linf) the most that the best response of
            one factor gains; 0 at a stationary point.
        boundary: some allowed level has probability zero, where standard errors are not valid.
        least_lam: the lam above which the problem is concave (linear link, L2), else None.
        penalty: what it cost to leave the design, lam R.
        forbidden: chance of a profile that the design forbids; None = nothing was named.
    """

    policy: FactoredPolicy
    design: FactoredPolicy
    value: float
    se: float
    policy_se: np.ndarray
    gain: float
    gain_se: float
    status: str
    residual: float
    boundary: bool
    least_lam: float | None
    penalty: float
    forbidden: float | None = None

    def interval(self, level: float = 0.95) -> Interval:
        """Normal interval of the value; see `se` for what it leaves out."""
        return normal_interval(self.value, self.se, level)


def normal_interval(value: float, se: float, level: float = 0.95) -> Interval:
    """value +- z se."""
    import scipy.stats

    half = float(scipy.stats.norm.ppf((1 + level) / 2)) * se
    return Interval(value, value - half, value + half, level, "delta")


def optimize_policy(
    model: OutcomeModel,
    design: Any = None,
    penalty: Kind = "l2",
    lam: float = 0.05,
    opponent: Any = None,
    method: Literal["auto", "closed", "numerical"] = "auto",
    restarts: int = 5,
    seed: int = 0,
    forbidden: Sequence[Mapping[str, str]] = (),
) -> PolicyResult:
    """Maximise the mean outcome less lam times the distance from the design.

    Args:
        model: the outcome model.
        design: distribution of the randomisation: an array per factor, a mapping by name, or None = uniform.
        penalty: l2, kl (KL(design || policy)), reverse_kl (KL(policy || design)), l1, linf or none; see `penalty`.
        lam: >= 0, in units of the outcome.
        opponent: policy of the other profile of a pair, as ``design``; None = the design (the average case).
        method: auto = the closed form where it applies; closed = refuse where it does not; numerical = never.
        restarts: random starts of the numerical solver, besides the design.
        seed: of the starts, and of the profiles drawn where there are too many to enumerate.
        forbidden: combinations {factor: level, ...} that the design never shows; factors being independent, a policy
            may field them, and how often is reported.

    Raises:
        UserError: the closed form was asked for where it does not hold; an option out of range; an opponent for
            ratings; a forbidden combination of factors or levels that do not exist.

    Edge cases: levels that the design never shows stay at zero. lam = 0 gives a vertex, flagged as boundary.
    """
    base = design_policy(model.factors, design)
    paired = getattr(model, "paired", True)
    if opponent is not None and not paired:
        raise UserError("ratings have no opponent", where="opponent")
    if method not in ("auto", "closed", "numerical"):
        raise UserError(f"{method!r} is no method", where="method", allowed="auto, closed, numerical")
    other = base if opponent is None else design_policy(model.factors, opponent)
    kept_near = Penalty(penalty, lam, base.x, tuple(slices(model.factors)))
    q = surface(model, other.x if paired else None, seed)
    quadratic = isinstance(q, Quadratic) and penalty == "l2"
    if method == "closed" and not quadratic:
        raise UserError("the closed form needs a linear link and the penalty l2", where="method", cure="method auto")
    x, status, least = None, "", None
    if quadratic:
        x, status, least = closed_form(q.b, q.G, base, lam)
    if method == "closed" and x is None:
        raise UserError(
            f"the closed form does not hold: {status.partition(' ->')[0]}", where="method",
            allowed=f"lam above {least:.4g}, and an optimum inside", cure="method auto, or a larger lam",
        )  # fmt: skip
    if x is None or method == "numerical":
        x = search(q, kept_near, slices(model.factors), restarts, seed)
        status = status or (AT_KINK if kept_near.kinked else BOUNDARY if _at_boundary(x, base.x) else INTERIOR)
    found = _result(model, q, kept_near, base, x, status, least)
    return replace(found, forbidden=found.policy.chance(forbidden)) if forbidden else found


def closed_form(
    b: np.ndarray, g: np.ndarray, design: FactoredPolicy, lam: float
) -> tuple[np.ndarray | None, str, float]:
    """The maximiser of b.x + x.G x / 2 - lam |x - p|^2 where sums are one, if it is the optimum.

    With x = p + Z y, Z spanning the moves of probability from a factor's last level to another:
    C y = -Z'(b + G p), C = Z'G Z - 2 lam Z'Z (diagonal -4 lam, within a factor -2 lam, elsewhere gamma).

    Args:
        b: [M]; g: [M, M] symmetric, zero within a factor.
        design: p.
        lam: >= 0.

    Returns:
        x [M], or None where C is not negative definite or x leaves [0, 1]; the status; the least lam for which C is
        negative definite.

    Source: Proposition 3.1, in coordinates of moves from the design.
    """
    z = tangent(design.x, slices(design.factors))
    inner, metric = z.T @ g @ z, z.T @ z
    least = max(0.0, float(scipy.linalg.eigh(inner, 2 * metric, eigvals_only=True)[-1])) if z.size else 0.0
    c = inner - 2 * lam * metric
    if z.size and float(np.linalg.eigvalsh(c)[-1]) >= 0:
        return None, INDEFINITE, least
    x = design.x + z @ np.linalg.solve(c, -z.T @ (b + g @ design.x))
    return (x, INTERIOR, least) if (x >= 0).all() else (None, OUTSIDE, least)


def tangent(x: np.ndarray, parts: list[slice]) -> np.ndarray:
    """[M, k] moves that keep sums and zeros: from the last positive level of a factor to each other positive one."""
    columns = []
    for s in parts:
        free = np.flatnonzero(x[s] > AT_BOUNDARY) + s.start
        for level in free[:-1]:
            move = np.zeros(len(x))
            move[level], move[free[-1]] = 1.0, -1.0
            columns.append(move)
    return np.stack(columns, 1) if columns else np.zeros((len(x), 0))


def search(
    q: Surface,
    penalty: Penalty,
    parts: list[slice],
    restarts: int = 5,
    seed: int = 0,
    also: tuple[np.ndarray, ...] = (),
) -> np.ndarray:
    """The best local maximum of Q - penalty found from the design and from random starts.

    Each factor in turn is set to its exact best response (Q is linear in it), so the objective never falls.

    Args:
        q: the mean outcome; penalty: with the design; parts: where each factor lies; restarts, seed: random starts;
            also: further starts.
    """
    rng = noise.generator(seed, "conjoint/starts")
    starts = [penalty.p, *also]
    for _ in range(restarts):
        x = penalty.p * rng.standard_exponential(len(penalty.p))
        starts.append(np.concatenate([x[s] / x[s].sum() for s in parts]))
    found = [polish(q, penalty, parts, _ascend(q, penalty, parts, x)) for x in starts]
    return max(found, key=lambda x: q.value(x) - penalty.value(x))


def _ascend(q: Surface, penalty: Penalty, parts: list[slice], x: np.ndarray) -> np.ndarray:
    x = x.copy()
    for _ in range(FEW_SWEEPS if q.noise else SWEEPS):
        before = x.copy()
        for d, s in enumerate(parts):
            x[s] = penalty.best(q.partial(x, d), penalty.p[s])
        if np.abs(x - before).max() <= max(CONVERGED, q.noise):
            break
    return x


def polish(q: Surface, penalty: Penalty, parts: list[slice], x: np.ndarray) -> np.ndarray:
    """Newton steps among the levels that are not at zero, ended by one that leaves the simplex or does not help."""
    if penalty.kinked or q.noise:
        return x
    for _ in range(NEWTON):
        z = tangent(x, parts)
        slope = z.T @ (q.gradient(x) - penalty.gradient(x))
        if not z.size or np.abs(slope).max() < CONVERGED:
            return x
        curve = z.T @ (q.hessian(x) - np.diag(penalty.curvature(x))) @ z
        if float(np.linalg.eigvalsh(curve)[-1]) >= 0:
            return x
        moved = x - z @ np.linalg.solve(curve, slope)
        if (moved < 0).any():
            return x
        left = z.T @ (q.gradient(moved) - penalty.gradient(moved))
        if np.abs(left).max() >= np.abs(slope).max():
            return x
        x = moved
    return x


def policy_theta(q: Surface, penalty: Penalty, parts: list[slice], x: np.ndarray) -> np.ndarray:
    """dx*/d(intercept, theta) [M, p + 1] by implicit differentiation of stationarity, zeros held at zero.

    Z'(dQ/dx - d penalty/dx) = 0 gives dx = -Z (Z'H Z)^-1 Z' d2Q/dx dtheta, H the objective's second derivative.
    """
    z, mixed = tangent(x, parts), q.gradient_theta(x)
    if not z.size or penalty.kinked:
        return np.zeros_like(mixed)
    curve = z.T @ (q.hessian(x) - np.diag(penalty.curvature(x))) @ z
    return -z @ np.linalg.lstsq(curve, z.T @ mixed, rcond=None)[0]


def _at_boundary(x: np.ndarray, p: np.ndarray) -> bool:
    return bool((x[p > 0] <= AT_BOUNDARY).any())


def _result(
    model: OutcomeModel,
    q: Surface,
    penalty: Penalty,
    base: FactoredPolicy,
    x: np.ndarray,
    status: str,
    least: float | None,
) -> PolicyResult:
    parts = slices(model.factors)
    jacobian, known = policy_theta(q, penalty, parts, x), getattr(model, "cov", None)
    total = q.value_theta(x) + q.gradient(x) @ jacobian
    cov = np.zeros((len(total), len(total))) if known is None else known
    gain = total - q.value_theta(base.x)
    left = _left(q, penalty, parts, x)
    return PolicyResult(
        FactoredPolicy(model.factors, x), base, q.value(x), _spread(total, cov), np.sqrt(_quadratic(jacobian, cov)),
        q.value(x) - q.value(base.x), _spread(gain, cov), status, float(left), _at_boundary(x, base.x), least,
        penalty.value(x),
    )  # fmt: skip


def _left(q: Surface, penalty: Penalty, parts: list[slice], x: np.ndarray) -> float:
    """The residual of `PolicyResult`."""
    g = q.gradient(x)
    if not penalty.kinked:
        z = tangent(x, parts)
        return float(np.abs(z.T @ (g - penalty.gradient(x))).max()) if z.size else 0.0
    gains = [0.0]
    for s in parts:
        other = x.copy()
        other[s] = penalty.best(g[s], penalty.p[s])
        gains.append(float(g[s] @ (other - x)[s]) - penalty.value(other) + penalty.value(x))
    return max(gains)


def _spread(j: np.ndarray, cov: np.ndarray) -> float:
    return float(np.sqrt(_quadratic(j[None], cov)[0]))


def _quadratic(j: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Diagonal of J cov J'."""
    return np.maximum(((j @ cov) * j).sum(1), 0.0)
