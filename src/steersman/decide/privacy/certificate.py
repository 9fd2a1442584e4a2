"""What is promised about privacy, to whom, and on what assumptions; no promise is made that was not proved.

Leaves out: checking the promise by experiment (`audit`).
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from steersman.core.errors import UserError

Neighbouring = Literal["reward", "row"]


@dataclass(frozen=True, slots=True)
class PrivacyCertificate:
    """P(output in S | x) <= exp(epsilon) P(output in S | x') + delta for neighbouring tables x, x' of rewards.

    Args:
        epsilon: the bound in nats; infinite where nothing is promised.
        delta: 0: the promise is pure.
        neighbouring: what one person may change: "reward" = one reward; "row" = the n-th reward of every arm.
        mechanism: what was done to the rewards.
        backend: how the noise was drawn.
        entropy: "operating system" or "seed".
        per_phase: (arms pulled, pulls of each, scale of the noise on their sums) of each phase.
        certified: whether the promise holds to the last bit: exact arithmetic and bits of the operating system.
        assumptions: what the user must see to.
    """

    epsilon: float
    delta: float
    neighbouring: Neighbouring
    mechanism: str
    backend: str
    entropy: str
    per_phase: tuple[tuple[int, int, float], ...]
    certified: bool
    assumptions: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        return asdict(self)


def compose(certificates: Iterable[PrivacyCertificate]) -> float:
    """Epsilon of all of several experiments on the same people: the sum (basic composition).

    Args:
        certificates: of experiments that may have been chosen one after the other.

    Returns:
        The sum of their epsilons; 0 for none.

    Raises:
        UserError: certificates that differ in what one person may change.

    Source: Dwork et al. 2006. Tighter accounting (Renyi, zero-concentrated) is not offered.
    """
    found = list(certificates)
    if len({c.neighbouring for c in found}) > 1:
        raise UserError("certificates differ in what one person may change", cure="Add only those that agree.")
    return math.fsum(c.epsilon for c in found)
