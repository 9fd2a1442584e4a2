"""Which profiles two parties field against one another, from a survey file: the game of `steersman decide profile`.

Leaves out: the methods (`decide.conjoint`), reading (`decide_profile`).
"""

from collections.abc import Callable
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
    primary_models,
    solve_game,
)
from steersman.decide.conjoint.optimal import normal_interval
from steersman.decide.conjoint.report import levels, page, values
from steersman.page.number import number
from steersman.recipes.decide_profile_parts import (
    ProfileAnswer,
    ProfileQuestion,
    facts,
    named,
    percentile,
    plain,
    warnings,
)


def decide_game(asked: ProfileQuestion, data: ConjointData, say: Callable[[str], None]) -> ProfileAnswer:
    """Both parties choose; see `decide_profile.decide`."""
    parties = _two(data)
    told: dict[str, Any] = {}
    if asked.infer_group:
        inferred = infer_groups(data, parties)
        told = {
            "respondents": inferred.respondents, "pairs_not_fitted": inferred.rows_used,
            f"chose_{parties[0]}_in_other_tasks": inferred.agreement,
        }  # fmt: skip
        data = inferred.data
    design = list(data.design)

    def solve(d: ConjointData) -> tuple[AverageCase, GameResult, list[Outcome]]:
        models, shares = general_models(d, parties, asked.interactions)
        stage = Primary(asked.strength, primary_models(d, parties, asked.interactions)) if asked.primaries else None
        common = {
            "design": design,
            "penalty": asked.penalty,
            "lam": asked.lam,
            "seed": asked.seed,
            "institution": stage,
        }
        fitted = [*models.values(), *(stage.models or {}).values()] if stage else list(models.values())
        return average_case(models, shares, **common), solve_game(models, shares, **common), fitted

    say(f"solving the game between {parties[0]} and {parties[1]}")
    average, found, fitted = solve(data)
    shown = {
        "average case": normal_interval(average.value, average.se, asked.level),
        "equilibrium": found.interval(asked.level),
    }
    if asked.bootstrap:
        say(f"drawing respondents {asked.bootstrap} times")
        draws = bootstrap_respondents(data, lambda d: [r.value for r in solve(d)[:2]], asked.bootstrap, asked.seed)
        point = average.value, found.value
        shown |= {f"{k}, bootstrap": percentile(point[i], draws[:, i], asked.level) for i, k in enumerate(tuple(shown))}
        told["difference"] = plain(percentile(point[0] - point[1], draws[:, 0] - draws[:, 1], asked.level))
    a, b = (found.policy[p] for p in parties)
    apart = {f.name: float(np.abs(x - y).sum() / 2) for f, x, y in zip(a.factors, a.parts, b.parts, strict=True)}
    lost = tuple(dict.fromkeys(name for m in fitted for name in m.dropped))
    warned = warnings(max(m.ridge for m in fitted), lost, found.boundary, data.dropped)
    if asked.infer_group:
        warned.append(
            "Groups are inferred from half of the tasks: the rest alone is fitted, and respondents on the wrong side "
            "make the parties look more alike than they are."
        )
    summary = {
        "parties": list(parties), "rows": len(data), "lam": asked.lam, "penalty": asked.penalty,
        "primaries": asked.primaries, "status": found.status, "exploitability": round(found.exploitability, 9),
        "policy": {p: x.to_dict() for p, x in found.policy.items()}, "average_case_policy": average.policy.to_dict(),
        "policy_se": {p: named(found.policy[p], se) for p, se in found.policy_se.items()},
        "values": {k: plain(v) for k, v in shown.items()}, "parties_apart": apart, "inferred": told, "notes": warned,
    }  # fmt: skip
    sentence = (
        f"{parties[0]} would get {number(found.value, 3)} of the votes where both parties choose, and expects "
        f"{number(average.value, 3)} if it takes the other for average. {found.status.capitalize()}: exploitability "
        f"{number(found.exploitability, 4)}."
    )
    arms = {p: (found.policy[p], found.policy_se[p]) for p in parties}
    note = f"{asked.level:.0%} intervals, given the models. Dashed: the design. {' '.join(warned)}"
    band = "Shaded: the range given." if asked.band else ""
    parts = (
        ("What each party fields", "", [levels("Equilibrium", arms, _base(a, design), asked.level, note)]),
        ("What it is worth", "An average opponent is easier than one who answers.",
         [values(f"Share of {parties[0]}", "share of votes", shown, asked.band, band)]),
    )  # fmt: skip
    return ProfileAnswer(summary, page("Which profiles two parties field", sentence, facts(summary), parts))


def _two(data: ConjointData) -> tuple[str, str]:
    assert data.party is not None
    names = [str(x) for x in np.unique(data.party)]
    if len(names) != 2:
        raise UserError(f"{len(names)} parties: {names}", where="--opponent", allowed="a column of two parties")
    return names[0], names[1]


def _base(policy: FactoredPolicy, design: list[np.ndarray]) -> FactoredPolicy:
    return FactoredPolicy(policy.factors, np.concatenate(design))
