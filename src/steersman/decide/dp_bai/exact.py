"""DP-BAI of two unrelated arms by enumeration: its error probability and its privacy loss, without simulation.

With k = S_1 - S_2, the difference of the two sums of 0/1 rewards, the arm returned depends on k and on the difference
of two independent noises alone, so both are finite sums. Leaves out: more arms (`play` simulates them).
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError

Noise = Literal["laplace", "discrete"]
Tie = Literal["first", "coin"]
Array = npt.NDArray[np.float64]


def first_arm(k: npt.ArrayLike, epsilon: float, noise: Noise = "laplace", tie: Tie = "first") -> Array:
    """Probability that the first arm is returned, given the difference k of the sums.

    Laplace noise of scale 1/epsilon: 1 - t(k) for k >= 0 and t(k) below, t(k) = (1 + epsilon |k| / 2) exp(-epsilon |k|)
    / 2. Discrete noise, q = exp(-epsilon): the difference D of two noises has P(D = j) = ((1-q)/(1+q))^2 q^|j|
    (|j| + (1+q^2)/(1-q^2)), and the first arm wins if k + D > 0, or if it is 0 and the tie goes to it.

    Args:
        k: whole numbers, any shape.
        epsilon: > 0; infinity means no noise.
        noise: "laplace" or "discrete".
        tie: who wins a tie, the "first" arm or a fair "coin"; continuous noise has none.

    Returns:
        Probabilities of k's shape.

    Raises:
        UserError: an option outside these.
    """
    if noise not in ("laplace", "discrete") or tie not in ("first", "coin") or not epsilon > 0:
        raise UserError(
            f"noise {noise!r}, tie {tie!r}, epsilon {epsilon!r}", allowed="laplace or discrete, first or coin, above 0"
        )
    k = np.asarray(k, np.float64)
    half = 1.0 if tie == "first" else 0.5
    if math.isinf(epsilon):
        return np.where(k > 0, 1.0, np.where(k == 0, half, 0.0))
    if noise == "laplace":
        t = 0.5 * (1 + epsilon * np.abs(k) / 2) * np.exp(-epsilon * np.abs(k))
        return np.where(k >= 0, 1 - t, t)
    # P(D > m) for m >= 0; P(k + D > 0) is that of m = -k, or by symmetry one less P(D >= k)
    above = _above(np.abs(k), epsilon)
    equal = _point(np.abs(k), epsilon)
    return np.where(k > 0, 1 - above - equal, above) + half * equal


def _point(j: Array, epsilon: float) -> Array:
    q, share = math.exp(-epsilon), math.tanh(epsilon / 2)
    return share**2 * np.exp(-epsilon * j) * (j + (1 + q * q) / -math.expm1(-2 * epsilon))


def _above(m: Array, epsilon: float) -> Array:
    q, share, rest = math.exp(-epsilon), math.tanh(epsilon / 2), -math.expm1(-epsilon)
    constant = (1 + q * q) / -math.expm1(-2 * epsilon)
    return share**2 * np.exp(-epsilon * (m + 1)) / rest * (m + 1 + q / rest + constant)


def exact_two_arm(
    p1: float, p2: float, pulls: int, epsilon: float, noise: Noise = "laplace", tie: Tie = "first"
) -> float:
    """Probability that DP-BAI returns the worse of two arms with 0/1 rewards and orthonormal features.

    sum over s1, s2 of Bin(s1; N, p1) Bin(s2; N, p2) P(the worse arm is returned | k = s1 - s2).

    Args:
        p1: mean reward of the first arm, in [0, 1].
        p2: of the second.
        pulls: N >= 1 of each arm.
        epsilon: > 0; infinity means no noise.
        noise: "laplace" (continuous) or "discrete".
        tie: who wins a tie, the "first" arm or a fair "coin".

    Returns:
        The probability. Where p1 = p2, that of returning the second arm.

    Raises:
        UserError: numbers or options out of range.

    Source: ours, by enumeration.
    """
    import scipy.stats

    if not (0 <= p1 <= 1 and 0 <= p2 <= 1) or pulls < 1 or int(pulls) != pulls:
        raise UserError(f"p1 {p1}, p2 {p2}, pulls {pulls}", allowed="probabilities, and whole pulls of at least 1")
    s = np.arange(int(pulls) + 1)
    one, two = scipy.stats.binom.pmf(s, pulls, p1), scipy.stats.binom.pmf(s, pulls, p2)
    of_k = np.convolve(one, two[::-1])  # from k = -N to N
    first = float(of_k @ first_arm(np.arange(-int(pulls), int(pulls) + 1), epsilon, noise, tie))
    error = 1 - first if p1 >= p2 else first
    return min(max(error, 0.0), 1.0)


def exact_two_arm_loss(pulls: int, epsilon: float, noise: Noise = "laplace", tie: Tie = "first") -> float:
    """Largest |ln ratio| of either arm's probability when one 0/1 reward changes: what the returned arm gives away.

    max over k in -N..N-1 and both arms of |ln P(arm | k + 1) - ln P(arm | k)|; never above epsilon.

    Args:
        pulls: N >= 1 of each arm.
        epsilon: > 0.
        noise: as in `exact_two_arm`.
        tie: as there.

    Returns:
        The loss in nats; infinite without noise.

    Source: ours.
    """
    k = np.arange(-pulls, pulls + 1)
    # The second arm is the first seen from -k, up to who wins ties; computed so, small probabilities keep their digits.
    first = first_arm(k, epsilon, noise, tie)
    ties = _point(np.abs(k).astype(float), epsilon) if noise == "discrete" and math.isfinite(epsilon) else 0.0
    second = first_arm(-k, epsilon, noise, tie) - (ties if tie == "first" else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.concatenate([np.diff(np.log(first)), np.diff(np.log(second))])
    return float(np.nanmax(np.abs(steps)))
