"""Which profile to field, from a survey file: `steersman decide profile`.

Leaves out: the methods (`decide.conjoint`), the command line (`cli.decide_profile`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint import (
    ConjointData,
    FactoredPolicy,
    GameResult,
    PairLinear,
    PairLogit,
    Primary,
    RatingLinear,
    RatingLogit,
    amce,
    average_case,
    best_levels,
    bootstrap_respondents,
    choose_lam,
    crossfit_value,
    general_models,
    infer_groups,
    optimize_policy,
    primary_models,
    read_csv,
    solve_game,
)
from steersman.decide.conjoint.optimal import normal_interval
from steersman.decide.conjoint.report import levels, page, values
from steersman.page.html import Html
from steersman.page.number import number
from steersman.stats.intervals import Interval


@dataclass(frozen=True, slots=True)
class ProfileQuestion:
    """What is asked.

    Args:
        survey: CSV file, one row for each profile.
        factors: columns of attributes.
        outcome: column of the choice (1 and 0) or rating.
        pair, cluster: columns of the pair and of the respondent.
        opponent: column of the profile's party; None = nobody answers.
        group: column of the respondents' group, named as the parties are.
        infer_group: infer it instead from the respondents' even-numbered tasks.
        primaries: whether each party's voters nominate.
        strength: of the primaries.
        lam: of the penalty; None = chosen by cross-fitting (not with an opponent).
        penalty: l2, kl or reverse_kl.
        link: logit or linear.
        interactions: all or none.
        bootstrap: resamples of respondents; 0 = none.
        folds: of cross-fitting.
        level: of the intervals.
        where: (column, value) that rows must have.
        band: range that a value is held against, such as past results.
        seed: of folds, starts and resamples.
    """

    survey: Path
    factors: tuple[str, ...]
    outcome: str
    pair: str | None = None
    cluster: str | None = None
    opponent: str | None = None
    group: str | None = None
    infer_group: bool = False
    primaries: bool = True
    strength: float = 1.0
    lam: float | None = None
    penalty: str = "l2"
    link: str = "logit"
    interactions: str = "all"
    bootstrap: int = 0
    folds: int = 5
    level: float = 0.95
    where: tuple[tuple[str, str], ...] = ()
    band: tuple[float, float] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ProfileAnswer:
    """The figures as JSON values, and the page."""

    summary: dict[str, Any]
    page: Html


def decide(asked: ProfileQuestion, say: Callable[[str], None] = lambda line: None) -> ProfileAnswer:
    """Read, fit, optimise, judge.

    Args:
        asked: what is asked.
        say: told what is being done, a line each.

    Raises:
        UserError: a file, a column or an option that cannot be used.
    """
    _check(asked)
    data = _read(asked)
    say(f"{len(data):,} {'ratings' if data.second is None else 'pairs'}, {len(data.factors)} factors")
    return _alone(asked, data, say) if asked.opponent is None else _game(asked, data, say)


def _check(asked: ProfileQuestion) -> None:
    if asked.link not in ("logit", "linear"):
        raise UserError(f"{asked.link!r} is no link", where="--link", allowed="logit, linear")
    if not 0 < asked.level < 1:
        raise UserError(f"{asked.level} is out of range", where="--level", allowed="above 0, below 1")
    if asked.opponent is None:
        if asked.group is not None or asked.infer_group:
            raise UserError("groups serve only against an opponent", where="--group", cure="--opponent COLUMN")
        return
    if asked.pair is None:
        raise UserError("an opponent needs pairs", where="--opponent", cure="--pair COLUMN")
    if (asked.group is None) == (not asked.infer_group):
        raise UserError("name the respondents' group, or have it inferred, not both", where="--opponent",
                        cure="--group COLUMN or --infer-group")  # fmt: skip
    if asked.link != "logit":
        raise UserError("the game's models are logits", where="--link", cure="leave --link out")
    if asked.lam is None:
        raise UserError("against an opponent lam cannot be chosen from the data", where="--lam", cure="--lam 0.05")


def _read(asked: ProfileQuestion) -> ConjointData:
    frame = read_csv(asked.survey)
    for column, value in asked.where:
        if column not in frame:
            raise UserError(f"there is no column {column!r}", where="--where", allowed=", ".join(frame))
        keep = [v == value for v in frame[column]]
        if not any(keep):
            raise UserError(f"no row has {column}={value}", where="--where")
        frame = {k: [x for x, on in zip(v, keep, strict=True) if on] for k, v in frame.items()}
    return ConjointData.from_frame(
        frame, asked.outcome, asked.factors, asked.pair, asked.cluster, asked.group, asked.opponent
    )


def _alone(asked: ProfileQuestion, data: ConjointData, say: Callable[[str], None]) -> ProfileAnswer:
    """The average case: nobody answers."""
    paired, logit = data.second is not None, asked.link == "logit"
    # A logit of ratings that are not 0 or 1 is not meant by its default.
    logit = logit and bool(np.isin(data.outcome, (0, 1)).all())
    kind = (PairLogit if logit else PairLinear) if paired else (RatingLogit if logit else RatingLinear)
    how, options = kind(asked.interactions), {"penalty": asked.penalty, "folds": asked.folds, "seed": asked.seed}
    lam = asked.lam
    if lam is None:
        say("choosing lam by cross-fitting")
        lam, _ = choose_lam(data, how, **options)
    model = how.fit(data)
    found = optimize_policy(model, list(data.design), asked.penalty, lam, seed=asked.seed)
    say("judging on folds that did not choose")
    fitted = crossfit_value(data, how, lam=lam, level=asked.level, **options)
    effects = amce(data)
    shown = {
        "design": fitted.design, "optimum, by its own model": found.interval(asked.level),
        "held out, doubly robust": fitted.dr, "held out, weighted": fitted.snips,
    }  # fmt: skip
    draws = None
    if asked.bootstrap:
        say(f"drawing respondents {asked.bootstrap} times")
        draws = bootstrap_respondents(
            data, lambda d: [optimize_policy(how.fit(d), list(data.design), asked.penalty, lam, seed=asked.seed).value],
            asked.bootstrap, asked.seed,
        )  # fmt: skip
        shown["optimum, bootstrap"] = _percentile(found.value, draws[:, 0], asked.level)
    warned = _warnings(model.ridge, model.dropped, found.boundary, data.dropped)
    summary = {
        "model": kind.__name__, "rows": len(data), "respondents": model.clusters, "coefficients": len(model.theta),
        "lam": lam, "penalty": asked.penalty, "status": found.status, "policy": found.policy.to_dict(),
        "policy_se": _named(found.policy, found.policy_se), "design": found.design.to_dict(),
        "values": {k: _plain(v) for k, v in shown.items()}, "gain": _plain(
            normal_interval(found.gain, found.gain_se, asked.level)),
        "effective_rows": fitted.ess, "least_lam": found.least_lam, "best_levels": best_levels(effects).to_dict(),
        "amce": dict(zip(effects.terms.names, effects.theta.tolist(), strict=True)), "notes": warned,
    }  # fmt: skip
    what = "chance of being chosen" if paired else "rating"
    sentence = (
        f"The policy's {what} against the design is {number(fitted.dr.value, 3)} on respondents who had no part in it "
        f"[{number(fitted.dr.low, 3)}, {number(fitted.dr.high, 3)}]; the design's is {number(fitted.design.value, 3)}."
    )
    note = f"{asked.level:.0%} intervals, given the model. Dashed: the design. {' '.join(warned)}"
    arms = {"optimal policy": (found.policy, found.policy_se)}
    parts = (
        ("What to field", "", [levels("Optimal distribution", arms, found.design, asked.level, note)]),
        ("What it is worth", "The model that chose a policy is too fond of it: trust those held out.",
         [values("Value", what, shown, asked.band, "Shaded: the range given." if asked.band else "")]),
    )  # fmt: skip
    return ProfileAnswer(summary, page("Which profile to field", sentence, _facts(summary), parts))


def _game(asked: ProfileQuestion, data: ConjointData, say: Callable[[str], None]) -> ProfileAnswer:
    """Both parties choose."""
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

    def solve(d: ConjointData) -> tuple[Any, GameResult]:
        models, shares = general_models(d, parties, asked.interactions)
        stage = Primary(asked.strength, primary_models(d, parties, asked.interactions)) if asked.primaries else None
        common = {
            "design": design,
            "penalty": asked.penalty,
            "lam": asked.lam,
            "seed": asked.seed,
            "institution": stage,
        }
        return average_case(models, shares, **common), solve_game(models, shares, **common)

    say(f"solving the game between {parties[0]} and {parties[1]}")
    average, found = solve(data)
    shown = {
        "average case": normal_interval(average.value, average.se, asked.level),
        "equilibrium": found.interval(asked.level),
    }
    if asked.bootstrap:
        say(f"drawing respondents {asked.bootstrap} times")
        draws = bootstrap_respondents(data, lambda d: [r.value for r in solve(d)], asked.bootstrap, asked.seed)
        point = average.value, found.value
        shown |= {
            f"{k}, bootstrap": _percentile(point[i], draws[:, i], asked.level) for i, k in enumerate(tuple(shown))
        }
        told["difference"] = _plain(_percentile(point[0] - point[1], draws[:, 0] - draws[:, 1], asked.level))
    a, b = (found.policy[p] for p in parties)
    apart = {f.name: float(np.abs(x - y).sum() / 2) for f, x, y in zip(a.factors, a.parts, b.parts, strict=True)}
    warned = _warnings(0.0, (), found.boundary, data.dropped)
    if asked.infer_group:
        warned.append(
            "Groups are inferred from half of the tasks: the rest alone is fitted, and respondents on the wrong side "
            "make the parties look more alike than they are."
        )
    summary = {
        "parties": list(parties), "rows": len(data), "lam": asked.lam, "penalty": asked.penalty,
        "primaries": asked.primaries, "status": found.status, "exploitability": round(found.exploitability, 9),
        "policy": {p: x.to_dict() for p, x in found.policy.items()}, "average_case_policy": average.policy.to_dict(),
        "policy_se": {p: _named(found.policy[p], se) for p, se in found.policy_se.items()},
        "values": {k: _plain(v) for k, v in shown.items()}, "parties_apart": apart, "inferred": told, "notes": warned,
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
    return ProfileAnswer(summary, page("Which profiles two parties field", sentence, _facts(summary), parts))


def _two(data: ConjointData) -> tuple[str, str]:
    assert data.party is not None
    names = [str(x) for x in np.unique(data.party)]
    if len(names) != 2:
        raise UserError(f"{len(names)} parties: {names}", where="--opponent", allowed="a column of two parties")
    return names[0], names[1]


def _base(policy: FactoredPolicy, design: list[np.ndarray]) -> FactoredPolicy:
    return FactoredPolicy(policy.factors, np.concatenate(design))


def _percentile(value: float, draws: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, "percentile")


def _named(policy: FactoredPolicy, se: np.ndarray) -> dict[str, dict[str, float]]:
    out, at = {}, 0
    for f in policy.factors:
        out[f.name] = dict(zip(f.levels, se[at : at + len(f.levels)].tolist(), strict=True))
        at += len(f.levels)
    return out


def _plain(v: Interval) -> dict[str, float]:
    return {"value": v.value, "low": v.low, "high": v.high}


def _warnings(ridge: float, dropped: tuple[str, ...], boundary: bool, single: tuple[str, ...]) -> list[str]:
    out = []
    if boundary:
        out.append("Some probabilities are zero: standard errors are not valid there; a larger lam avoids it.")
    if ridge:
        out.append(f"The data separate perfectly; a ridge of {ridge:g} was used.")
    if dropped:
        out.append(f"Not identified, set to zero: {', '.join(dropped)}.")
    if single:
        out.append(f"Left out, one level only: {', '.join(single)}.")
    return out


def _facts(summary: dict[str, Any]) -> dict[str, str]:
    kept = ("model", "rows", "respondents", "coefficients", "lam", "penalty", "status", "primaries", "exploitability")
    facts = {k: summary[k] for k in kept if k in summary}
    words = {True: "yes", False: "no"}
    return {k: f"{v:.3g}" if isinstance(v, float) else words.get(v, str(v)) if isinstance(v, bool) else str(v)
            for k, v in facts.items()}  # fmt: skip
