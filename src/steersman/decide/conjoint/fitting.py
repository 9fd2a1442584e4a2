"""Least squares and logistic likelihood with cluster-robust covariance; arrays in, arrays out.

Leaves out: what the columns mean (`outcome`). Source: Zeileis, Koell and Graham 2020, J. Stat. Softw. 95 (clustered
sandwich, HC1: G/(G-1) (n-1)/(n-k)).
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.special

from steersman.core.errors import RunStopped

RANK_ERROR = 1e-9
RIDGE = 1e-6
STEPS = 200
CONVERGED = 1e-10
SEPARATED = 15.0
"""Log-odds that data which do not separate practically never reach."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients [k], their model-based covariance [k, k], "bread" [k, k] and scores [n, k] of a sandwich."""

    theta: np.ndarray
    model: np.ndarray
    bread: np.ndarray
    scores: np.ndarray
    ridge: float = 0.0


def independent(x: np.ndarray) -> np.ndarray:
    """Numbers of the columns of x that are no combination of earlier ones."""
    kept: list[int] = []
    basis = np.zeros((len(x), 0))
    for j in range(x.shape[1]):
        rest = x[:, j] - basis @ (basis.T @ x[:, j])
        rest = rest - basis @ (basis.T @ rest)  # once more, against rounding
        size = np.linalg.norm(rest)
        if size > RANK_ERROR * max(1.0, float(np.linalg.norm(x[:, j]))):
            kept.append(j)
            basis = np.concatenate([basis, (rest / size)[:, None]], 1)
    return np.array(kept, np.int64)


def least_squares(x: np.ndarray, y: np.ndarray) -> Fit:
    """theta = (X'X)^-1 X'y for independent columns x [n, k]."""
    theta = np.linalg.lstsq(x, y, rcond=None)[0]
    rest, bread = y - x @ theta, np.linalg.inv(x.T @ x)
    return Fit(theta, bread * (rest @ rest) / (len(x) - x.shape[1]), bread, x * rest[:, None])


def logistic(x: np.ndarray, y: np.ndarray) -> Fit:
    """Maximum of sum_i y_i log sigma(x_i theta) + (1 - y_i) log sigma(-x_i theta) by Newton's method.

    Edge cases: once log-odds of `SEPARATED` appear the data are taken to separate, and the search begins anew with the
        penalty `RIDGE` / 2 |theta|^2.

    Raises:
        RunStopped: no convergence.
    """
    ridge, theta = 0.0, np.zeros(x.shape[1])
    for _ in range(STEPS):
        if not ridge and np.abs(x @ theta).max() > SEPARATED:
            ridge, theta = RIDGE, np.zeros_like(theta)
        p = scipy.special.expit(x @ theta)
        slope = x.T @ (y - p) - ridge * theta
        curve = x.T @ (x * (p * (1 - p))[:, None]) + ridge * np.eye(len(theta))
        if np.abs(slope).max() <= CONVERGED * len(x):
            inverse = np.linalg.inv(curve)
            return Fit(theta, inverse, inverse, x * (y - p)[:, None], ridge)
        step = scipy.linalg.solve(curve, slope, assume_a="pos")
        theta = theta + step * min(1.0, SEPARATED / max(1e-300, float(np.abs(x @ step).max())))
    raise RunStopped("the outcome model did not converge: leave out interactions or factors")


def clustered(fit: Fit, cluster: np.ndarray) -> np.ndarray:
    """Bread (sum_g s_g s_g') bread, s_g the sum of a cluster's scores, times G/(G-1) (n-1)/(n-k).

    Args:
        fit: what was fitted to n rows.
        cluster: [n] int, 0 .. G-1, G >= 2.
    """
    n, k = fit.scores.shape
    total = np.zeros((int(cluster.max()) + 1, k))
    np.add.at(total, cluster, fit.scores)
    groups = len(total)
    return fit.bread @ (total.T @ total) @ fit.bread * (groups / (groups - 1) * (n - 1) / (n - k))
