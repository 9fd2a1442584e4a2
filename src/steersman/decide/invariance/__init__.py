"""Which stable information a predictor should carry into environments whose mutable mechanisms may be anything."""

from steersman.decide.invariance.baselines import baselines, largest_error
from steersman.decide.invariance.classes import (
    Interval,
    all_subsets,
    beam_classes,
    class_of,
    markov_boundary,
    stable_classes,
)
from steersman.decide.invariance.data import Data
from steersman.decide.invariance.discover import Discovered, discover, invariance_notes
from steersman.decide.invariance.discrete import DiscreteSCM, TablePredictor
from steersman.decide.invariance.exact import Maximum, TablePolicy, maximise
from steersman.decide.invariance.extensions import OverExtensions, PartialGraph, fit_extensions
from steersman.decide.invariance.fit import CausalMinimax, Ranked
from steersman.decide.invariance.graph import Condition, MutableSCM
from steersman.decide.invariance.ranges import Range
from steersman.decide.invariance.risk import WorstCase, WorstCaseRisk
from steersman.decide.invariance.world import SampledWorld, StablePredictor, learn_world

__all__ = [
    "CausalMinimax",
    "Condition",
    "Data",
    "Discovered",
    "DiscreteSCM",
    "Interval",
    "Maximum",
    "MutableSCM",
    "OverExtensions",
    "PartialGraph",
    "Range",
    "Ranked",
    "SampledWorld",
    "StablePredictor",
    "TablePolicy",
    "TablePredictor",
    "WorstCase",
    "WorstCaseRisk",
    "all_subsets",
    "baselines",
    "beam_classes",
    "class_of",
    "discover",
    "fit_extensions",
    "invariance_notes",
    "largest_error",
    "learn_world",
    "markov_boundary",
    "maximise",
    "stable_classes",
]
