"""Laplace noise on whole-number sums: exact in rational arithmetic, or in floating point and then uncertified.

Textbook Laplace noise in floating point is not differentially private when the noisy numbers are seen, since their last
bits tell which sums are possible. `DiscreteLaplace` never uses a floating-point number. Source of the sampler: Canonne,
Kamath and Steinke, "The Discrete Gaussian for Differential Privacy", 2020, algorithm 2. Leaves out: OpenDP's sampler
(`by_opendp`), and who adds the noise to what (`decide.dp_bai`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError
from steersman.decide.privacy.bits import SYSTEM, Bits


class NoiseBackend(Protocol):
    """A way of drawing Laplace noise: `DiscreteLaplace`, `by_opendp.OpenDPLaplace` or `FloatLaplace`.

    Args:
        grid: m >= 1: rewards lie on 0, 1/m, ..., 1, and sums are counted in steps of 1/m.
        name: for certificates and journals.
        certified: whether its law holds to the last bit.
        seedable: whether it draws from the bits it is given, or only from the operating system's.
    """

    @property
    def grid(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def certified(self) -> bool: ...

    @property
    def seedable(self) -> bool: ...

    def scale(self, epsilon: float | Fraction) -> Fraction:
        """The scale for a whole-number sum, of which one reward moves m."""

    def laplace_on_integer(
        self, sums: Sequence[int], scale_num: int, scale_den: int, bits: Bits = SYSTEM
    ) -> list[int] | list[float]:
        """Each sum with noise of its own, of scale scale_num / scale_den."""


def exact_epsilon(epsilon: float | Fraction) -> Fraction:
    """Epsilon as the decimal that was written: 0.1 is one tenth, not the float nearest to it.

    Raises:
        UserError: not a finite number above 0.
    """
    if isinstance(epsilon, Fraction):
        found = epsilon
    elif not isinstance(epsilon, int | float) or isinstance(epsilon, bool) or not math.isfinite(epsilon):
        raise UserError(f"epsilon {epsilon!r}", allowed="a finite number above 0")
    else:
        found = Fraction(repr(float(epsilon)))
    if found <= 0:
        raise UserError(f"epsilon {epsilon!r}", allowed="a finite number above 0")
    return found


def bernoulli_exp(x: Fraction, bits: Bits) -> bool:
    """True with probability exp(-x), x >= 0, by comparing whole numbers only."""
    while x > 1:
        if not bernoulli_exp(Fraction(1), bits):
            return False
        x -= 1
    k = 1
    # The first k at which a coin of probability x/k fails is odd with probability exp(-x).
    while bits.below(x.denominator * k) < x.numerator:
        k += 1
    return k % 2 == 1


def discrete_laplace(scale: Fraction, bits: Bits) -> int:
    """One whole number with P(k) proportional to exp(-|k| / scale), exactly."""
    t, s = scale.numerator, scale.denominator
    while True:
        part = bits.below(t)
        if not bernoulli_exp(Fraction(part, t), bits):
            continue
        whole = 0
        while bernoulli_exp(Fraction(1), bits):
            whole += 1
        size = (part + t * whole) // s
        negative = bits.below(2) == 1
        if not (negative and size == 0):
            return -size if negative else size


@dataclass(frozen=True, slots=True)
class DiscreteLaplace:
    """Discrete Laplace noise P(k) = (1-q)/(1+q) q^|k|, q = exp(-1/scale), in exact arithmetic.

    Args:
        grid: m >= 1: rewards lie on 0, 1/m, ..., 1, and others are rounded to a neighbour at random, without bias. One
            reward moves the whole-number sum by at most m, so the scale is m / epsilon. A finer grid rounds less, and
            its noise is as large in units of reward.
    """

    grid: int = 1
    name: ClassVar[str] = "discrete Laplace in exact arithmetic"
    certified: ClassVar[bool] = True
    seedable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_grid(self.grid)

    def scale(self, epsilon: float | Fraction) -> Fraction:
        """m / epsilon, the scale for a whole-number sum of rewards on the grid."""
        return self.grid / exact_epsilon(epsilon)

    def laplace_on_integer(self, sums: Sequence[int], scale_num: int, scale_den: int, bits: Bits = SYSTEM) -> list[int]:
        """Each sum with noise of its own, of scale scale_num / scale_den."""
        scale = checked_scale(scale_num, scale_den)
        return [int(s) + discrete_laplace(scale, bits) for s in sums]

    @staticmethod
    def pmf(k: npt.ArrayLike, scale: float | Fraction) -> npt.NDArray[np.float64]:
        """P(k) in floating point, for plots and tests."""
        q = math.exp(-1 / float(scale))
        return (1 - q) / (1 + q) * q ** np.abs(np.asarray(k, np.float64))


@dataclass(frozen=True, slots=True)
class FloatLaplace:
    """Continuous Laplace noise in floating point: quick, for comparison; not certified.

    Args:
        grid: as in `DiscreteLaplace`.
    """

    grid: int = 1
    name: ClassVar[str] = "Laplace in floating point"
    certified: ClassVar[bool] = False
    seedable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_grid(self.grid)

    def scale(self, epsilon: float | Fraction) -> Fraction:
        """m / epsilon, as in `DiscreteLaplace`."""
        return self.grid / exact_epsilon(epsilon)

    def laplace_on_integer(
        self, sums: Sequence[int], scale_num: int, scale_den: int, bits: Bits = SYSTEM
    ) -> list[float]:
        """Each sum with noise of its own, of scale scale_num / scale_den: 53 bits put through the inverse CDF."""
        scale = float(checked_scale(scale_num, scale_den))
        u = np.array([(bits.below(2**53) + 0.5) * 2.0**-53 for _ in sums])
        return [float(x) for x in np.asarray(sums, np.float64) + inverse_laplace(u, scale)]


def inverse_laplace(u: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.float64]:
    """Continuous Laplace noise of uniform numbers in (0, 1); for simulations."""
    return scale * np.where(u < 0.5, np.log(2 * u), -np.log(2 * (1 - u)))


def inverse_discrete_laplace(u: npt.NDArray[np.float64], scale: float) -> npt.NDArray[np.float64]:
    """Discrete Laplace noise of uniform numbers in (0, 1), in floating point; for simulations.

    P(k >= j) = q^j / (1 + q) for j >= 1: the largest j that u (or 1 - u, on the other side) still reaches.
    """
    q = math.exp(-1 / scale)
    tail = np.minimum(u, 1 - u)
    size = np.floor(-scale * np.log(tail * (1 + q)))
    return np.where(u < 0.5, -1, 1) * np.maximum(size, 0.0)


def check_grid(grid: int) -> None:
    """Refuse a grid that is not a whole number of steps."""
    if not isinstance(grid, int) or isinstance(grid, bool) or grid < 1:
        raise UserError(f"grid {grid!r}", allowed="a whole number of at least 1")


def checked_scale(num: int, den: int) -> Fraction:
    """num / den, refused if it is no scale."""
    if num < 1 or den < 1:
        raise UserError(f"a scale of {num}/{den}", allowed="two whole numbers of at least 1")
    return Fraction(num, den)
