"""Which profiles two parties field against one another, from a survey file: the game of `steersman decide profile`.

Leaves out: the methods (`decide.conjoint`), reading (`decide_profile`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint import (
    AverageCase,
    ConjointData,
    FactoredPolicy,
    GameResult,
    Outcome,
    Primary,
    average_case,
    bootstrap_respondents,
    general_models,
    infer_groups,
    pooled_models,
    primary_models,
    solve_game,
)
from steersman.decide.conjoint.optimal import normal_interval
from steersman.decide.conjoint.policy import Grid
from steersman.decide.conjoint.report import levels, page, values
from steersman.page.html import Html
from steersman.page.number import number
from steersman.recipes.decide_profile_parts import (
    BAND,
    ProfileAnswer,
    ProfileQuestion,
    design_of,
    facts,
    named,
    percentile,
    plain,
    restrictions,
    warnings,
)
from steersman.stats.intervals import Interval

MOST_APART = 5
"""Profiles that are named because the two parties field them least alike."""


@dataclass(frozen=True, slots=True)
class _Contest:
    """Both answers to the same models."""

    average: AverageCase
    game: GameResult
    fitted: list[Outcome]


def decide_game(asked: ProfileQuestion, data: ConjointData, say: Callable[[str], None]) -> ProfileAnswer:
    """Both parties choose; see `decide_profile.decide`."""
    parties = _two(data)
    data, told = _sides(asked, data, parties)
    design = design_of(asked, data)
    say(f"solving the game between {parties[0]} and {parties[1]}")
    found = _solve(asked, data, parties, design)
    shown = {
        "average case": normal_interval(found.average.value, found.average.se, asked.level),
        "equilibrium": found.game.interval(asked.level),
    }
    if asked.bootstrap:
        say(f"drawing respondents {asked.bootstrap} times")

        def again(d: ConjointData) -> np.ndarray:
            one = _solve(asked, d, parties, design)
            return np.array([one.average.value, one.game.value])

        draws = bootstrap_respondents(data, again, asked.bootstrap, asked.seed)
        point = found.average.value, found.game.value
        shown |= {f"{k}, bootstrap": percentile(point[i], draws[:, i], asked.level) for i, k in enumerate(tuple(shown))}
        told["difference"] = plain(percentile(point[0] - point[1], draws[:, 0] - draws[:, 1], asked.level))
    summary = _figures(asked, data, parties, found) | {"values": {k: plain(v) for k, v in shown.items()}}
    summary |= {"inferred": told, "notes": _notes(asked, data, found)}
    return ProfileAnswer(summary, _page(asked, parties, found, design, shown, summary))


def _sides(asked: ProfileQuestion, data: ConjointData, parties: tuple[str, str]) -> tuple[ConjointData, dict[str, Any]]:
    """The data with respondents' groups, and what inferring them rests on."""
    if not asked.infer_group:
        return data, {}
    inferred = infer_groups(data, parties)
    return inferred.data, {
        "respondents": inferred.respondents, "pairs_not_fitted": inferred.rows_used,
        f"chose_{parties[0]}_in_other_tasks": inferred.agreement,
    }  # fmt: skip


def _solve(asked: ProfileQuestion, data: ConjointData, parties: tuple[str, str], design: FactoredPolicy) -> _Contest:
    stage: Primary | None = None
    if asked.models == "two":
        models, shares, stage = pooled_models(data, parties, asked.interactions, asked.strength)
    else:
        models, shares = general_models(data, parties, asked.interactions)
        if asked.primaries:
            stage = Primary(asked.strength, primary_models(data, parties, asked.interactions))
    common: dict[str, Any] = {
        "design": design, "penalty": asked.penalty, "lam": asked.lam, "seed": asked.seed, "institution": stage,
    }  # fmt: skip
    game = solve_game(models, shares, solver=asked.solver, **common)
    within = [] if stage is None else [m for m in (stage.models or {}).values() if isinstance(m, Outcome)]
    return _Contest(average_case(models, shares, **common), game, [*models.values(), *within])


def _figures(asked: ProfileQuestion, data: ConjointData, parties: tuple[str, str], found: _Contest) -> dict[str, Any]:
    game, average = found.game, found.average
    a, b = (game.policy[p] for p in parties)
    apart = {f.name: float(np.abs(x - y).sum() / 2) for f, x, y in zip(a.factors, a.parts, b.parts, strict=True)}
    profiles = Grid(a.factors).profiles
    distance = a.divergence(b, profiles)
    chances = {p: np.exp(x.log_prob(profiles)) for p, x in game.policy.items()}
    most = [
        {"profile": {f.name: f.levels[t] for f, t in zip(a.factors, profiles[i], strict=True)},
         "divergence": float(distance[i]), **{p: float(x[i]) for p, x in chances.items()}}
        for i in np.argsort(-distance, kind="stable")[:MOST_APART]
    ]  # fmt: skip
    chance = {p: x.chance(asked.forbidden) for p, x in game.policy.items()} if asked.forbidden else None
    return {
        "parties": list(parties), "rows": len(data), "lam": asked.lam, "penalty": asked.penalty,
        "models": asked.models, "primaries": asked.primaries, "solver": asked.solver, "status": game.status,
        "exploitability": round(game.exploitability, 9), "policy": {p: x.to_dict() for p, x in game.policy.items()},
        "average_case_policy": average.policy.to_dict(),
        "policy_se": {p: named(game.policy[p], se) for p, se in game.policy_se.items()},
        "parties_apart": apart, "profiles_apart": most, "forbidden": chance,
    }  # fmt: skip


def _notes(asked: ProfileQuestion, data: ConjointData, found: _Contest) -> list[str]:
    lost = tuple(dict.fromkeys(name for m in found.fitted for name in m.dropped))
    said = warnings(max(m.ridge for m in found.fitted), lost, found.game.boundary, data.dropped)
    said += restrictions(asked, data, found.game.policy)
    if asked.infer_group:
        said.append(
            "Groups are inferred from half of the tasks: the rest alone is fitted, and respondents on the wrong side "
            "make the parties look more alike than they are."
        )
    return said


def _page(
    asked: ProfileQuestion,
    parties: tuple[str, str],
    found: _Contest,
    design: FactoredPolicy,
    shown: Mapping[str, Interval],
    summary: Mapping[str, Any],
) -> Html:
    game, average, first = found.game, found.average, parties[0]
    sentence = (
        f"{first} would get {number(game.value, 3)} of the votes where both parties choose, and expects "
        f"{number(average.value, 3)} if it takes the other for average. {game.status.capitalize()}: exploitability "
        f"{number(game.exploitability, 4)}."
    )
    arms = {p: (game.policy[p], game.policy_se[p]) for p in parties}
    alone = {
        f"{first} against an average opponent": (average.policy, average.policy_se),
        f"{first} at equilibrium": arms[first],
    }
    note = f"{asked.level:.0%} intervals, given the models. Dashed: the design. {' '.join(summary['notes'])}"
    apart = summary["parties_apart"]
    parts = (
        ("What each party fields", "", [
            levels("Equilibrium", arms, design, asked.level, note),
            values("How far apart the parties are", "total variation", apart, None, "0: alike. 1: nothing in common."),
        ]),
        ("What an answer changes", f"{first} would field something else if it took the other for average.",
         [levels("Average case and equilibrium", alone, design, asked.level, "")]),
        ("What it is worth", "An average opponent is easier than one who answers.",
         [values(f"Share of {first}", "share of votes", shown, asked.band, BAND if asked.band else "")]),
    )  # fmt: skip
    return page("Which profiles two parties field", sentence, facts(summary), parts)


def _two(data: ConjointData) -> tuple[str, str]:
    assert data.party is not None
    names = [str(x) for x in np.unique(data.party)]
    if len(names) != 2:
        raise UserError(f"{len(names)} parties: {names}", where="--opponent", allowed="a column of two parties")
    return names[0], names[1]
