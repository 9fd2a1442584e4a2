"""Which profile to field, from a conjoint experiment: outcome models, policies near the design, and opponents."""

from steersman.decide.conjoint.baselines import Gibbs, amce, best_levels, best_profile, gibbs, marginal_means
from steersman.decide.conjoint.crossfit import CrossFit, bootstrap_respondents, choose_lam, crossfit_value
from steersman.decide.conjoint.data import ConjointData, Factor, read_csv
from steersman.decide.conjoint.election import Election, Primary
from steersman.decide.conjoint.game import GameResult, solve_game
from steersman.decide.conjoint.optimal import PolicyResult, optimize_policy
from steersman.decide.conjoint.outcome import (
    Outcome,
    OutcomeModel,
    PairLinear,
    PairLogit,
    RatingLinear,
    RatingLogit,
    Terms,
)
from steersman.decide.conjoint.parties import (
    AverageCase,
    Inferred,
    average_case,
    general_models,
    infer_groups,
    pooled_models,
    primary_models,
)
from steersman.decide.conjoint.policy import FactoredPolicy, Grid
from steersman.decide.conjoint.restrictions import check_forbidden, never_together

__all__ = [
    "AverageCase",
    "ConjointData",
    "CrossFit",
    "Election",
    "Factor",
    "FactoredPolicy",
    "GameResult",
    "Gibbs",
    "Grid",
    "Inferred",
    "Outcome",
    "OutcomeModel",
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
    "best_profile",
    "bootstrap_respondents",
    "check_forbidden",
    "choose_lam",
    "crossfit_value",
    "general_models",
    "gibbs",
    "infer_groups",
    "marginal_means",
    "never_together",
    "optimize_policy",
    "pooled_models",
    "primary_models",
    "read_csv",
    "solve_game",
]
