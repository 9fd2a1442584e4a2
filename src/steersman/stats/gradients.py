"""How good gradient estimates are: their spread, their bias, and what an allocation of samples does to the spread.

A row is the gradient of one batch; batches are independent. Leaves out: computing gradients (`train.gradients`).
Source: arXiv 2605.07579, proposition 1.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.core.errors import UserError


def distances(g: ArrayLike) -> NDArray[np.float64]:
    """Squared distance of each row from the mean, times B / (B - 1): its mean is the trace of the covariance.

    Args:
        g: B >= 2 rows ``[B, P]``, finite.
    """
    x = _rows(g)
    found: NDArray[np.float64] = np.square(x - x.mean(0)).sum(1) * (len(x) / (len(x) - 1))
    return found


def mean_square(g: ArrayLike) -> float:
    """|E g|^2 without bias: |mean|^2 less the trace of the covariance over B; may be below 0 where E g is near 0."""
    x = _rows(g)
    return float(np.square(x.mean(0)).sum() - distances(x).mean() / len(x))


def allocation(within: float, between: float, prompts: int, samples: int) -> float:
    """Trace of the covariance of a mean over n prompts with m samples each: S_w / (n m) + S_b / n.

    At equal n m it grows with m, so that one sample of each prompt is best: proposition 1, for a baseline that is fixed
    given the prompt, and samples that are independent given it.

    Args:
        within: S_w >= 0, trace of the mean covariance of one sample's gradient given its prompt.
        between: S_b >= 0, trace of the covariance of its mean given the prompt.
        prompts, samples: n, m >= 1.
    """
    if min(prompts, samples) < 1:
        raise UserError(f"{prompts} prompts with {samples} samples", where="allocation", allowed="1 or more of each")
    return within / (prompts * samples) + between / prompts


def components(z: ArrayLike) -> tuple[float, float]:
    """(S_w, S_b) of `allocation` from gradients of single samples ``[prompts, samples, P]``, both unbiased.

    Args:
        z: two or more prompts, two or more samples of each.
    """
    x = np.asarray(z, dtype=float)
    if x.ndim != 3 or min(x.shape[:2]) < 2 or not np.isfinite(x).all():
        raise UserError(f"gradients are {x.shape}", where="components", allowed="finite, [2 or more, 2 or more, P]")
    n, m = x.shape[:2]
    means = x.mean(1)
    within = float(np.square(x - means[:, None]).sum() / (n * (m - 1)))
    between = float(np.square(means - means.mean(0)).sum() / (n - 1)) - within / m
    return within, between


def _rows(g: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(g, dtype=float)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise UserError(f"gradients are {x.shape}", where="gradients", allowed="finite, [2 or more, P]")
    return x
