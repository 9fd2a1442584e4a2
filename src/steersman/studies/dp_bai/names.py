"""Names of the DP-BAI study: its parts, instances, methods, budgets and epsilons."""

import math

PARTS = {"error": "error probability", "rescaled": "a change of units", "audit": "audits", "exact": "exact figures"}
INSTANCES = {
    "I1": "the paper's, 30 arms in two dimensions, one with a long feature vector",
    "I2": "10 arms in three dimensions, yes or no, the best two .02 apart",
    "I3": "50 arms on a sphere in five dimensions, yes or no",
    "I4": "8 unrelated arms, yes or no",
    "I5": "200 arms on a sphere in three dimensions, yes or no",
}
OURS, OD, ON_FEATURES, ON_ARMS = "DP-BAI", "OD-LinBAI", "DP-OD features", "DP-OD arms"
HALVING, UNIFORM, ALL, RANDOM = "halving", "uniform", "every arm", "random set"
PLAIN, POOLED = "plain halving", "pooled means"
METHODS = {
    OURS: "the method",
    OD: "without privacy: G-optimal designs and least squares",
    ON_FEATURES: "OD-LinBAI with noise on sums of features times rewards",
    ON_ARMS: "OD-LinBAI with noise on each arm's sum",
    HALVING: "sequential halving, which ignores features",
    UNIFORM: "every arm equally often, features ignored",
    ALL: "ablation: DP-BAI that pulls every arm left",
    RANDOM: "ablation: DP-BAI with a random set that spans",
    PLAIN: "ablation: DP-BAI with plain halving of the arms",
    POOLED: "ablation: DP-BAI with means of all phases; NOT private",
}
EPSILONS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 10.0)
NO_NOISE = math.inf
QUIET = 1e6
"""Epsilon that stands for no noise in simulations: too little to matter, enough to leave ties to a coin. Without any,
they would go to the lower number, which with few trials is worth up to a tenth where the best arm comes first."""
LARGE = 10.0
"""Epsilon at which DP-BAI should be as good as without noise."""
TINY = (0.01, 201)
"""Epsilon and budget at which nothing private can be informative."""
BUDGETS = {
    "quick": {"I1": (201, 1001, 2001), "I2": (300, 2000), "I3": (1000, 4000), "I4": (200, 800), "I5": (4000,)},
    "full": {
        "I1": (201, 501, 1001, 1501, 2001, 3001), "I2": (300, 600, 1000, 2000, 4000, 8000),
        "I3": (1000, 2000, 3000, 4000, 6000, 8000), "I4": (100, 200, 400, 800, 1200, 1600),
        "I5": (2000, 4000, 8000),
    },
}  # fmt: skip
RESCALED_EPSILONS = (0.05, 0.1, 0.2, 0.5)
RESCALED_BUDGETS = {"quick": (1001,), "full": (1001, 2001)}
TRIALS = {"quick": 4_000, "full": 20_000}
FIRST_SEED = {"quick": 1_000, "full": 2_000}
SETS = {"quick": 10, "full": 20}
"""Random sets that span, each with its share of the replications."""
RUNS = {"quick": 60_000, "full": 1_000_000}
"""Audited runs on each of two tables."""
AUDITED = (0.5, 1.0, 2.0)
FAULTS = ("half-scale", "reuse", "no-noise")


def played(instance: str) -> tuple[str, ...]:
    """The methods that an instance plays, DP-BAI first.

    Designs of the older methods are computed anew for every set of arms left; with 50 arms there are too many sets.
    Plain halving of 200 arms would search a Max-Det collection for nearly every replication.
    """
    few = (OD, ON_FEATURES, ON_ARMS)
    ablations = (ALL, RANDOM, POOLED)
    return {
        "I1": (OURS, *few, HALVING, UNIFORM),
        "I2": (OURS, *few, HALVING, UNIFORM, *ablations),
        "I3": (OURS, HALVING, UNIFORM, *ablations, PLAIN),
        "I4": (OURS, HALVING, UNIFORM, POOLED),
        "I5": (OURS, HALVING, UNIFORM, *ablations),
    }[instance]


def name(epsilon: float) -> str:
    """An epsilon as text."""
    return "inf" if math.isinf(epsilon) else f"{epsilon:g}"
