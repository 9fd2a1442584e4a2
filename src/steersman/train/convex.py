"""Fit log-linear policies for many replications at once: minimise the mean loss of theta . x over a ball.

A Newton method on the ball ||theta|| <= B: each step minimises the quadratic model *within the ball* (by an eigenvalue
decomposition and a one-dimensional search for the multiplier), then backtracks along that direction until the loss has
fallen enough. First and second derivatives of the loss in the margin come from autograd, so the very functions of
`objective.loss.preference` are fitted, whatever they are. For convex losses (DPO, cDPO, rDPO, IPO) the result is the
minimum. Losses that are not convex (forward correction, robust probit) are safeguarded: curvature that is negative is
replaced by its size, each step lowers the loss, and the start decides which stationary point is reached; give the DPO
solution as the start. Leaves out: piecewise linear losses (hinge), which have no curvature and are refused.
Source: Nocedal and Wright 2006, sections 3.4 (modified Newton) and 4.3 (the model within a ball).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from steersman.core.errors import UserError

MarginLoss = Callable[[Tensor], Tensor]

ARMIJO = 1e-4
LEAST_CURVATURE = 1e-9  # relative to the largest eigenvalue
BISECTIONS = 100
BACKTRACKS = 40
AT_BOUND = 1e-6  # relative distance to the ball's surface that counts as on it


@dataclass(frozen=True, slots=True)
class BallFit:
    """What `fit_ball` found for each of R replications.

    Args:
        theta: ``[R, d]`` float64 parameters.
        loss: ``[R]`` mean loss there.
        at_bound: ``[R]`` whether the bound binds (theta lies on the ball's surface).
        converged: ``[R]`` whether the projected gradient fell to the tolerance.
        steps: ``[R]`` int64 Newton steps taken.
    """

    theta: Tensor
    loss: Tensor
    at_bound: Tensor
    converged: Tensor
    steps: Tensor


def fit_ball(
    loss: MarginLoss,
    x: Tensor,
    bound: float,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 100,
) -> BallFit:
    """Minimise mean_i loss(theta . x_i) over ||theta|| <= bound, separately for each replication.

    Args:
        loss: margins ``[N]`` -> per-example losses ``[N]``, twice differentiable almost everywhere, row by row.
        x: ``[R, n, d]`` float64, winner minus loser by the observed label.
        bound: radius B of the ball, > 0.
        start: ``[R, d]`` first theta (projected onto the ball); None = 0.
        tolerance: on ||theta - P(theta - g/L)|| L, g the gradient of the mean loss, L its largest curvature, P the
            projection onto the ball; equals ||g|| inside the ball.
        max_steps: Newton steps at most, >= 1.

    Returns:
        BallFit; a replication that ran out of steps, or found no lower point where loss and derivatives are finite,
        has ``converged`` False.

    Raises:
        UserError: shapes or types that do not fit, non-finite features, a bound that is not positive, a loss without
        any curvature, a loss that is not finite.

    Edge cases: a loss that falls without end (separable data, rDPO) ends on the ball's surface with ``at_bound``.
    Runs on one thread and sums in a fixed order, so the same input gives the same bits on one machine.
    """
    _check(x, bound)
    theta = x.new_zeros(x.shape[0], x.shape[2]) if start is None else _project(start.to(x.dtype).clone(), bound)
    steps = torch.zeros(len(x), dtype=torch.int64)
    converged, stuck = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.bool)
    with _one_thread():
        value, first, second = _derivatives(loss, x, theta)
        _check_loss((value, first, second))
        for step in range(max_steps + 1):
            rows = torch.nonzero(~(converged | stuck)).flatten()
            data = x if len(rows) == len(x) else x[rows]
            gradient = torch.einsum("rn,rnd->rd", first[rows], data) / x.shape[1]
            hessian = (data * second[rows][..., None]).mT @ data / x.shape[1]
            size, axes = torch.linalg.eigh(hessian)
            top = size.abs().amax(1, keepdim=True)
            moved = theta[rows] - _project(theta[rows] - gradient / top, bound)
            done = (moved * top).norm(dim=1) <= tolerance
            converged[rows[done]] = True
            if step == max_steps or bool(done.all()):
                break
            size = torch.maximum(size.abs(), LEAST_CURVATURE * top)
            target = _model_minimum(theta[rows], gradient, size, axes, bound)
            todo = rows[~done]
            move, slope = (target - theta[rows])[~done], ((target - theta[rows]) * gradient).sum(1)[~done]
            accepted = _backtrack(loss, x, todo, theta, move, slope, (value, first, second))
            steps[todo] += 1
            stuck[todo[~accepted]] = True
            if bool((converged | stuck).all()):
                break
    at_bound = theta.norm(dim=1) >= bound * (1.0 - AT_BOUND)
    return BallFit(theta, value, at_bound, converged, steps)


def _backtrack(
    loss: MarginLoss,
    x: Tensor,
    rows: Tensor,
    theta: Tensor,
    move: Tensor,
    slope: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Move `rows` of theta (in place, with `state`) by the longest of 1, 1/2, 1/4 ... that lowers the loss enough."""
    value, first, second = state
    accepted = torch.zeros(len(rows), dtype=torch.bool)
    length = 1.0
    for _ in range(BACKTRACKS):
        open_ = torch.nonzero(~accepted).flatten()
        if len(open_) == 0:
            break
        index = rows[open_]
        trial = theta[index] + length * move[open_]
        data = x if len(index) == len(x) else x[index]
        found = _derivatives(loss, data, trial)
        # rounding of a mean of n terms: near the minimum the fall is smaller than what float64 resolves
        slack = 1e-15 * (1.0 + value[index].abs()) * 8
        good = (found[0] <= value[index] + ARMIJO * length * slope[open_] + slack) & _finite(found)
        kept = index[good]
        theta[kept] = trial[good]
        for old, new in zip(state, found, strict=True):
            old[kept] = new[good]
        accepted[open_[good]] = True
        length /= 2
    return accepted


def _model_minimum(theta: Tensor, gradient: Tensor, size: Tensor, axes: Tensor, bound: float) -> Tensor:
    """Minimise g.(t - theta) + (t - theta)' A (t - theta) / 2 over ||t|| <= bound, A = axes diag(size) axes'.

    t(m) = (A + m I)^-1 (A theta - g) with m = 0 if that lies in the ball, else the m with ||t(m)|| = bound.
    """
    side = torch.einsum("rij,ri->rj", axes, theta) * size - torch.einsum("rij,ri->rj", axes, gradient)
    low = torch.zeros(len(theta), 1, dtype=theta.dtype)
    high = side.norm(dim=1, keepdim=True) / bound  # ||t(m)|| <= ||side|| / m
    outside = (side / size).norm(dim=1, keepdim=True) > bound
    for _ in range(BISECTIONS if bool(outside.any()) else 0):
        middle = (low + high) / 2
        long = (side / (size + middle)).norm(dim=1, keepdim=True) > bound
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    point = torch.einsum("rij,rj->ri", axes, side / (size + torch.where(outside, high, 0.0)))
    return _project(point, bound)


def _derivatives(loss: MarginLoss, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss ``[R]`` and the loss's first and second derivative in the margin, ``[R, n]`` each."""
    h = torch.einsum("rnd,rd->rn", x, theta).requires_grad_()
    each = loss(h.reshape(-1)).reshape(h.shape)
    (first,) = torch.autograd.grad(each.sum(), h, create_graph=True)
    second = torch.zeros_like(h)
    if first.requires_grad:
        (found,) = torch.autograd.grad(first.sum(), h, allow_unused=True)
        second = second if found is None else found
    return each.detach().mean(1), first.detach(), second.detach()


def _project(theta: Tensor, bound: float) -> Tensor:
    return theta * (bound / theta.norm(dim=1, keepdim=True).clamp_min(bound))


def _check(x: Tensor, bound: float) -> None:
    if x.ndim != 3 or x.dtype != torch.float64 or 0 in x.shape:
        raise UserError(f"has shape {list(x.shape)}, {x.dtype}", where="x", allowed="non-empty [R, n, d], float64")
    if not bool(torch.isfinite(x).all()):
        raise UserError("holds NaN or infinite values", where="x", allowed="finite numbers")
    if not 0.0 < bound < float("inf"):
        raise UserError(f"{bound} is no radius", where="bound", allowed="a finite number > 0")


def _finite(found: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Which replications have a finite loss and finite derivatives everywhere."""
    value, first, second = found
    return torch.isfinite(value + first.sum(1) + second.sum(1))


def _check_loss(found: tuple[Tensor, Tensor, Tensor]) -> None:
    if not bool(_finite(found).all()):
        allowed = "a loss that is finite on finite margins, with two derivatives"
        raise UserError("is not finite at the start", where="loss", allowed=allowed)
    if bool((found[2] == 0).all(1).any()):
        cure = "piecewise linear losses (hinge) have no Newton step; choose a smooth loss"
        raise UserError("has no curvature at the start", where="loss", allowed="a smooth loss", cure=cure)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside, so that sums have one order; the caller's setting comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
