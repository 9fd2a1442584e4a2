"""Which profile to field, from a conjoint experiment: outcome models, policies near the design, and opponents."""

from steersman.decide.conjoint.crossfit import (
    CrossFit,
    amce,
    best_levels,
    bootstrap_respondents,
    choose_lam,
    crossfit_value,
)
from steersman.decide.conjoint.data import ConjointData, Factor, read_csv
from steersman.decide.conjoint.election import Election, Primary
from steersman.decide.conjoint.game import GameResult, solve_game
from steersman.decide.conjoint.optimal import PolicyResult, optimize_policy
from steersman.decide.conjoint.outcome import Outcome, PairLinear, PairLogit, RatingLinear, RatingLogit, Terms
from steersman.decide.conjoint.parties import (
    AverageCase,
    Inferred,
    average_case,
    general_models,
    infer_groups,
    primary_models,
)
from steersman.decide.conjoint.policy import FactoredPolicy, Grid

__all__ = [
    "AverageCase",
    "ConjointData",
    "CrossFit",
    "Election",
    "Factor",
    "FactoredPolicy",
    "GameResult",
    "Grid",
    "Inferred",
    "Outcome",
    "PairLinear",
    "PairLogit",
    "PolicyResult",
    "Primary",
    "RatingLinear",
    "RatingLogit",
    "Terms",
    "amce",
    "average_case",
    "best_levels",
    "bootstrap_respondents",
    "choose_lam",
    "crossfit_value",
    "general_models",
    "infer_groups",
    "optimize_policy",
    "primary_models",
    "read_csv",
    "solve_game",
]
