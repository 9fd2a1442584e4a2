"""What is promised about privacy, to whom, and on what assumptions; no promise is made that was not proved.

Leaves out: checking the promise by experiment (`auditing`), and adding promises up (`accounting`).
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

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
