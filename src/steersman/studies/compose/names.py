"""Names of the study of combinations: its methods, its arms (every subset), its parts."""

from itertools import combinations

from steersman.studies.adora.names import POLICIES

PLAIN = "grpo"
METHODS = ("adora", "pf-ppo", "d3s")
"""In the order in which the shipped recipe has them."""
ALL = (PLAIN, *(" + ".join(some) for n in (1, 2, 3) for some in combinations(METHODS, n)))
"""Every subset of the methods; the last is all three."""
COMBINED = ALL[-1]
TRAINED, VIEW = "training", "one batch"
POLICY = POLICIES["long"]


def members(name: str) -> tuple[str, ...]:
    """The methods of an arm."""
    return () if name == PLAIN else tuple(name.split(" + "))
