"""Which profile to field, from a conjoint experiment: outcome models and policies that stay near the design."""

from steersman.decide.conjoint.data import ConjointData, Factor, read_csv
from steersman.decide.conjoint.optimal import PolicyResult, optimize_policy
from steersman.decide.conjoint.outcome import Outcome, PairLinear, PairLogit, RatingLinear, RatingLogit, Terms
from steersman.decide.conjoint.policy import FactoredPolicy, Grid

__all__ = [
    "ConjointData",
    "Factor",
    "FactoredPolicy",
    "Grid",
    "Outcome",
    "PairLinear",
    "PairLogit",
    "PolicyResult",
    "RatingLinear",
    "RatingLogit",
    "Terms",
    "optimize_policy",
    "read_csv",
]
