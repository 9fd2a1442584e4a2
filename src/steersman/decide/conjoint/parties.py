"""Parties from a survey: whose side a respondent is on, models of each side's voters, a party that meets no strategist.

Leaves out: the game itself (`game`). Source: Jerzak, Chandra and Hazra 2025, section 5 ("four" outcome models: general
election and primary of each party's voters); the split-sample proxy for a respondent's side is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint.data import ConjointData
from steersman.decide.conjoint.election import Election, Primary
from steersman.decide.conjoint.optimal import policy_theta, search
from steersman.decide.conjoint.outcome import Outcome, PairLogit
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


@dataclass(frozen=True, slots=True)
class AverageCase:
    """The first party's best policy while the other fields the design: policy, its share of votes, standard error."""

    policy: FactoredPolicy
    value: float
    se: float


def average_case(
    models: Mapping[str, Outcome],
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
    grid, near, other = election.grid, Penalty(penalty, lam, base.x), election.grid.joint(base.x)
    nothing = np.zeros((len(other), 0))
    x = search(Tabled(grid, election.M @ other, nothing), near, grid.slices, restarts, seed)
    variance = 0.0
    for model, da, _ in election.derivatives(grid.joint(x), other).values():
        if model.cov is not None:
            q = Tabled(grid, election.M @ other, da)
            total = q.value_theta(x) + q.gradient(x) @ policy_theta(q, near, grid.slices, x)
            variance += float(total @ model.cov @ total)
    value = float(grid.joint(x) @ election.M @ other)
    return AverageCase(FactoredPolicy(base.factors, x), value, max(variance, 0.0) ** 0.5)
