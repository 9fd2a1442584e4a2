"""Parties from a survey: whose side a respondent is on, models of each side's voters, a party that meets no strategist.

Leaves out: the game itself (`game`). Source: Jerzak, Chandra and Hazra 2025, section 5 ("four" outcome models: general
election and primary of each party's voters; "two": each party's two, drawn toward what they share); the split-sample
proxy for a respondent's side is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData
from steersman.decide.conjoint.election import Election, Primary
from steersman.decide.conjoint.optimal import policy_theta, search
from steersman.decide.conjoint.outcome import Outcome, OutcomeModel, PairLogit, respondents
from steersman.decide.conjoint.penalty import Kind, Penalty
from steersman.decide.conjoint.policy import FactoredPolicy, design_policy
from steersman.decide.conjoint.surface import Tabled


@dataclass(frozen=True, slots=True)
class Inferred:
    """What a proxy for the respondents' side rests on, and what it costs.

    Args:
        data: the tasks that did not serve to infer, with the group inferred.
        respondents: by group, how many; "left out": those without a mixed pair among the tasks used, or evenly split.
        rows_used: pairs that served to infer, or were left out; no model sees them.
        agreement: by group, share of mixed pairs of the *other* tasks in which the first party was chosen. Equal shares
            would mean that the proxy says nothing.
    """

    data: ConjointData
    respondents: dict[str, int]
    rows_used: int
    agreement: dict[str, float]


def infer_groups(data: ConjointData, parties: tuple[str, str]) -> Inferred:
    """Side of each respondent by the party they chose more often in their even-numbered tasks; the odd ones are kept.

    No task serves twice, so what models then learn is not what defined the groups. The proxy is noisy: some stand on
    the wrong side, which pulls the two sides' models toward one another and understates how far parties diverge.

    Args:
        data: pairs with parties and respondents; a respondent's tasks in the order of their rows.
        parties: names of the two; they become the names of the groups.

    Raises:
        UserError: no respondents or parties, or nobody on one of the sides.
    """
    if data.cluster is None or data.party is None:
        raise UserError("groups can only be inferred from respondents and parties", where="infer groups",
                        cure="name the columns of the respondent and of the profile's party")  # fmt: skip
    who = np.unique(data.cluster, return_inverse=True)[1]
    even = _task(who) % 2 == 1  # the second, fourth, ...
    mixed = np.isin(data.party, parties).all(1) & (data.party[:, 0] != data.party[:, 1])
    for_first = (data.party[:, 0] == parties[0]) == (data.outcome == 1)
    balance = np.bincount(who, np.where(even & mixed, np.where(for_first, 1, -1), 0))
    side = np.where(balance > 0, parties[0], np.where(balance < 0, parties[1], ""))
    counts = {p: int((side == p).sum()) for p in parties}
    if min(counts.values()) == 0:
        raise UserError(f"nobody leans to {min(counts, key=lambda p: counts[p])!r}", where="infer groups")
    kept = ~even & (side[who] != "")
    found = replace(data.take(kept), group=side[who][kept])
    group = side[who]
    agreement = {p: float(for_first[kept & mixed & (group == p)].mean()) for p in parties}
    return Inferred(found, counts | {"left out": int((side == "").sum())}, int((~kept).sum()), agreement)


def _task(who: np.ndarray) -> np.ndarray:
    """How many earlier rows each row's respondent has."""
    order = np.argsort(who, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(who))[:-1]])
    out = np.empty(len(who), np.int64)
    out[order] = np.arange(len(who)) - starts[who[order]]
    return out


def general_models(
    data: ConjointData, parties: tuple[str, str], interactions: Any = "all"
) -> tuple[dict[str, Outcome], dict[str, float]]:
    """A logit of each group's choices between the two parties' profiles, and the groups' shares of respondents.

    Args:
        data: pairs with groups and parties.
        parties: names of the two, which must be groups; other groups vote too.
        interactions: of `PairLogit`.

    Returns:
        models by group, those of the parties first, each with an advantage of the first party; shares by group.

    Raises:
        UserError: a party without voters, or a group without pairs of both parties.
    """
    if data.group is None:
        raise UserError("respondents have no group", where="conjoint data", cure="name the column of groups, or infer")
    present = [str(g) for g in np.unique(data.group)]
    missing = [p for p in parties if p not in present]
    if missing:
        raise UserError(f"no respondent is in {missing}", where="group", allowed=", ".join(present))
    groups = [*parties, *(g for g in present if g not in parties)]
    fit = PairLogit(interactions, intercept=True)
    models = {g: fit.fit(data.judged_by(g).between(*parties)) for g in groups}
    who = np.arange(len(data)) if data.cluster is None else data.cluster
    counts = {g: len(np.unique(who[data.group == g])) for g in groups}
    return models, {g: n / sum(counts.values()) for g, n in counts.items()}


def primary_models(data: ConjointData, parties: tuple[str, str], interactions: Any = "all") -> dict[str, Outcome]:
    """A logit of each party's voters between two profiles of their own party, by party; order gives no advantage."""
    return {p: PairLogit(interactions).fit(data.judged_by(p).between(p, p)) for p in parties}


def pooled_models(
    data: ConjointData,
    parties: tuple[str, str],
    interactions: Any = "all",
    strength: float = 1.0,
    pooling: float = 50.0,
) -> tuple[dict[str, Outcome], dict[str, float], Primary]:
    """One model of each party's voters, whose two stages are drawn toward one another: the "two" outcome models.

    theta_stage = (1 - w) theta_stage-alone + w theta_both, w = pooling / (pooling + n_stage), with theta_both fitted to
    the group's pairs of both stages (the advantage of the first party in the general election alone). Both stages then
    rest on the same respondents, and their covariance is kept.

    Args:
        data, parties, interactions: as `general_models`; groups that are no party vote in the general election alone.
        strength: of the primaries.
        pooling: k >= 0, as many pairs as the shared coefficients count for; 0 = separate models.

    Returns:
        the general election's models, shares of the groups, and the primaries with models and covariances.

    Raises:
        UserError: as `general_models` and `primary_models`; a negative pooling.
    """
    if not 0 <= pooling < float("inf"):
        raise UserError(f"{pooling} is out of range", where="pooling", allowed="0 or more, finite")
    models, shares = general_models(data, parties, interactions)
    stages, cross = {}, {}
    for party in parties:
        own = data.judged_by(party)
        models[party], stages[party], cross[party] = _drawn_together(own, party, parties, interactions, pooling)
    return models, shares, Primary(strength, stages, cross)


def _drawn_together(
    data: ConjointData, party: str, parties: tuple[str, str], interactions: Any, pooling: float
) -> tuple[Outcome, Outcome, np.ndarray]:
    """A group's models of the general election and of its primary, and the covariance of the one with the other."""
    pairs = (data.between(*parties), data.between(party, party))
    both = pairs[0].joined(pairs[1])
    first = np.arange(len(both)) < len(pairs[0])
    shared, together = PairLogit(interactions).estimate(both, first.astype(np.float64))
    form = [(f.name, g.name) for f, g in ((both.factors[d], both.factors[e]) for d, e in shared.terms.interactions)]
    who, out, moves = respondents(both), [], []
    for stage, at, constant in ((pairs[0], first, True), (pairs[1], ~first, False)):
        alone, own = PairLogit(form, intercept=constant).estimate(stage)
        w = pooling / (pooling + len(stage))
        moved = w * together
        moved[at] += (1 - w) * own
        if not constant:
            moved[:, 0] = 0.0
        intercept = (1 - w) * alone.intercept + w * shared.intercept if constant else 0.0
        theta = (1 - w) * alone.theta + w * shared.theta
        out.append(replace(alone, theta=theta, intercept=intercept, rows=len(both)))
        moves.append(moved)
    total = [np.stack([np.bincount(who, m[:, j]) for j in range(m.shape[1])], 1) for m in moves]
    scale = len(total[0]) / (len(total[0]) - 1)
    cov = [[scale * a.T @ b for b in total] for a in total]
    return replace(out[0], cov=cov[0][0]), replace(out[1], cov=cov[1][1]), cov[0][1]


@dataclass(frozen=True, slots=True)
class AverageCase:
    """The first party's best policy while the other fields the design: policy, share of votes, standard errors."""

    policy: FactoredPolicy
    value: float
    se: float
    policy_se: np.ndarray


def average_case(
    models: Mapping[str, OutcomeModel],
    shares: Mapping[str, float],
    design: Any = None,
    penalty: Kind = "l2",
    lam: float = 0.05,
    parties: tuple[str, str] | None = None,
    institution: Primary | None = None,
    restarts: int = 5,
    seed: int = 0,
) -> AverageCase:
    """What optimising against an average opponent promises; arguments as `solve_game`, to be compared with it."""
    first, second = parties or tuple(models)[:2]
    base = design_policy(next(iter(models.values())).factors, design)
    election = Election(models, shares, (first, second), base.x, institution)
    grid, near, other = (
        election.grid,
        Penalty(penalty, lam, base.x, tuple(election.grid.slices)),
        election.grid.joint(base.x),
    )
    nothing = np.zeros((len(other), 0))
    x = search(Tabled(grid, election.M @ other, nothing), near, grid.slices, restarts, seed)
    totals = {}
    for name, (_, da, _) in election.derivatives(grid.joint(x), other).items():
        q = Tabled(grid, election.M @ other, da)
        moved = policy_theta(q, near, grid.slices, x)
        totals[name] = np.concatenate([(q.value_theta(x) + q.gradient(x) @ moved)[None], moved])
    se = np.sqrt(election.variance(totals) + np.zeros(1 + len(x)))
    value = float(grid.joint(x) @ election.M @ other)
    return AverageCase(FactoredPolicy(base.factors, x), value, float(se[0]), se[1:])
