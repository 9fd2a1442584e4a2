"""What a policy is held against: AMCE and its best levels, marginal means, the best profile shown, the Gibbs optimum.

Leaves out: the design itself and the uniform policy, which need no function (`optimize_policy` reports the gain over
the design). Sources: Hainmueller, Hopkins and Yamamoto 2014 (AMCE); Leeper, Hobolt and Tilley 2020 (marginal means);
Jerzak, Chandra and Hazra 2025, of whose policy under KL the Gibbs optimum is what it approximates.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData
from steersman.decide.conjoint.outcome import Outcome, OutcomeModel, RatingLinear, one_hot, respondents
from steersman.decide.conjoint.policy import FactoredPolicy, Grid, design_policy, slices
from steersman.decide.conjoint.surface import surface


def _profiles(data: ConjointData) -> ConjointData:
    """Every profile as a rating; those of pairs count 1 or 0 and keep their respondent (else their pair)."""
    if data.second is None:
        return data
    return replace(
        data,
        first=np.concatenate([data.first, data.second]),
        second=None,
        outcome=np.concatenate([data.outcome, 1 - data.outcome]),
        cluster=np.tile(respondents(data), 2),
        group=None if data.group is None else np.tile(data.group, 2),
        party=None,
    )


def amce(data: ConjointData) -> Outcome:
    """Average marginal component effects: each level's mean outcome less that of its factor's last level.

    Least squares of profiles' outcomes on levels without interactions, clustered by respondent (pairs: by pair where
    no respondent is named).

    Returns:
        A model of ratings whose coefficients are the effects; `best_levels` makes its policy.
    """
    return RatingLinear(interactions="none").fit(_profiles(data))


def best_levels(effects: Outcome) -> FactoredPolicy:
    """The policy that always fields each factor's best level by main effects: the rule of thumb to beat."""
    b, _ = effects.terms.matrix(effects.theta)
    x = np.zeros_like(b)
    for s in slices(effects.factors):
        x[s.start + int(b[s].argmax())] = 1.0
    return FactoredPolicy(effects.factors, x)


def marginal_means(data: ConjointData) -> FactoredPolicy:
    """The policy that fields each level in proportion to the mean outcome of the profiles that had it.

    Raises:
        UserError: a negative mean, which no probability can follow.

    Edge cases: levels never shown get nothing; a factor whose means are all zero is uniform over the levels shown.
    """
    flat, parts = _profiles(data), []
    for d, factor in enumerate(flat.factors):
        shown = np.bincount(flat.first[:, d], minlength=len(factor.levels))
        total = np.bincount(flat.first[:, d], flat.outcome, minlength=len(factor.levels))
        mean = np.divide(total, shown, out=np.zeros_like(total), where=shown > 0)
        if (mean < 0).any():
            raise UserError("has a negative mean outcome", where=f"factor {factor.name}", allowed="outcomes from 0 on")
        mean = mean if mean.sum() else (shown > 0).astype(np.float64)
        parts.append(mean / mean.sum())
    return FactoredPolicy(data.factors, np.concatenate(parts))


def best_profile(model: Outcome, data: ConjointData) -> FactoredPolicy:
    """The policy that always fields the profile, of those shown, whose eta is largest; the first of equals."""
    shown = np.unique(_profiles(data).first, axis=0)
    onehot = one_hot(data.factors, shown)
    return FactoredPolicy(data.factors, onehot[int((model.terms.features(onehot) @ model.theta).argmax())])


@dataclass(frozen=True, slots=True)
class Gibbs:
    """The best of *all* distributions over profiles under KL(. || design).

    Args:
        joint: [N] chance of every profile, in the order of `Grid`.
        value: mean outcome.
        objective: value less lam KL; no product policy under reverse_kl can have more.
        marginals: its factors made independent.
    """

    joint: np.ndarray
    value: float
    objective: float
    marginals: FactoredPolicy


def gibbs(model: OutcomeModel, design: Any = None, lam: float = 0.05, opponent: Any = None) -> Gibbs:
    """sigma(t) = p(t) exp(u(t) / lam) / E_p exp(u / lam), u(t) the mean outcome of profile t against the opponent.

    Args:
        model: the outcome model, of pairs or ratings.
        design, opponent: as `optimize_policy`.
        lam: > 0.

    Raises:
        UserError: lam not positive, too many profiles to enumerate, an opponent for ratings.
    """
    if not (math.isfinite(lam) and lam > 0):
        raise UserError(f"{lam} is out of range", where="lam", allowed="above 0, finite")
    base, paired = design_policy(model.factors, design), getattr(model, "paired", True)
    if opponent is not None and not paired:
        raise UserError("ratings have no opponent", where="opponent")
    other = base if opponent is None else design_policy(model.factors, opponent)
    grid = Grid(model.factors)
    q = surface(model, other.x if paired else None)
    u = np.array([q.value(x) for x in grid.onehot])
    p = grid.joint(base.x)
    weight = p * np.exp((u - u[p > 0].max()) / lam)
    joint = weight / weight.sum()
    on = joint > 0
    kl = float((joint[on] * np.log(joint[on] / p[on])).sum())
    value = float(joint @ u)
    return Gibbs(joint, value, value - lam * kl, FactoredPolicy(model.factors, joint @ grid.onehot))
