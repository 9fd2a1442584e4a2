"""Laplace noise drawn by OpenDP, for who wants the sampler of a library that many have examined.

OpenDP draws discrete Laplace noise on whole numbers exactly, from the operating system's bits; the law is that of
`DiscreteLaplace`. The package is imported when noise is drawn. Its mechanisms stand behind a flag of its own,
"contrib", which is set here for the process. Leaves out: everything else OpenDP can do. Source: OpenDP 0.14 or later,
`make_laplace` over a vector of whole numbers with the l1 distance, always one call for all sums of a phase.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from typing import ClassVar

from steersman.core.errors import RunStopped, UserError
from steersman.decide.privacy.bits import SYSTEM, Bits
from steersman.decide.privacy.laplace import check_grid, checked_scale, exact_epsilon

MOST = 2**62
"""Sums beyond this are refused: OpenDP's whole numbers have 64 bits and would be cut off at their end."""


@dataclass(frozen=True, slots=True)
class OpenDPLaplace:
    """Discrete Laplace noise drawn by OpenDP (the extra `privacy`).

    Args:
        grid: as in `DiscreteLaplace`.

    Raises:
        UserError: the package is not installed.
    """

    grid: int = 1
    name: ClassVar[str] = "discrete Laplace by OpenDP"
    certified: ClassVar[bool] = True
    seedable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_grid(self.grid)
        if find_spec("opendp") is None:
            raise UserError(
                "the package opendp is not installed",
                where="noise opendp",
                cure="pip install 'steersman[privacy]', or take the noise discrete, which needs no package.",
            )

    def scale(self, epsilon: float | Fraction) -> Fraction:
        """m / epsilon, as in `DiscreteLaplace`."""
        return self.grid / exact_epsilon(epsilon)

    def laplace_on_integer(self, sums: Sequence[int], scale_num: int, scale_den: int, bits: Bits = SYSTEM) -> list[int]:
        """Each sum with noise of its own, of scale scale_num / scale_den or the next larger number OpenDP can take.

        Raises:
            UserError: seeded bits, since OpenDP takes none but the operating system's; sums beyond 2^62.
            RunStopped: OpenDP does not promise what it was asked for.
        """
        if bits.seeded:
            raise UserError("seeded bits with OpenDP", allowed="the operating system's, which it draws itself")
        if any(abs(s) > MOST for s in sums):
            raise UserError(f"a sum of {max(map(abs, sums))}", allowed=f"at most {MOST}")
        import opendp.prelude as dp

        dp.enable_features("contrib")
        wanted = checked_scale(scale_num, scale_den)
        mechanism = dp.m.make_laplace(
            dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64"), scale=at_least(wanted)
        )
        promised = mechanism.map(self.grid)
        if not promised <= self.grid / wanted * (1 + Fraction(1, 2**40)):
            raise RunStopped(f"OpenDP promises epsilon {promised} for noise of scale {wanted} on steps of {self.grid}")
        return [int(x) for x in mechanism([int(s) for s in sums])]


def at_least(scale: Fraction) -> float:
    """The smallest floating-point number that is not below `scale`, so that the noise is never too small."""
    found = float(scale)
    return found if Fraction(found) >= scale else math.nextafter(found, math.inf)
