"""Names of the study of combinations: its methods, its arms (every subset), its parts."""

from itertools import combinations

from steersman.studies.adora.names import POLICIES

PLAIN = "grpo"
METHODS = ("adora", "pf-ppo", "d3s")
"""In the order in which the shipped recipe has them."""
COMBINED = "all three"
ALL = (PLAIN, *(" + ".join(some) for n in (1, 2) for some in combinations(METHODS, n)), COMBINED)
"""Every subset of the methods."""
TRAINED, VIEW = "training", "one batch"
POLICY = POLICIES["long"]


def members(name: str) -> tuple[str, ...]:
    """The methods of an arm."""
    known = {PLAIN: (), COMBINED: METHODS}
    return known[name] if name in known else tuple(name.split(" + "))
