"""Which profile to field, from a survey file: `steersman decide profile`.

Leaves out: the methods (`decide.conjoint`), the command line (`cli.decide_profile`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint import (
    ConjointData,
    CrossFit,
    Outcome,
    PairLinear,
    PairLogit,
    PolicyResult,
    RatingLinear,
    RatingLogit,
    amce,
    best_levels,
    best_profile,
    bootstrap_respondents,
    check_forbidden,
    choose_lam,
    crossfit_value,
    marginal_means,
    optimize_policy,
    read_csv,
)
from steersman.decide.conjoint.optimal import normal_interval
from steersman.decide.conjoint.report import levels, page, values
from steersman.decide.conjoint.surface import surface
from steersman.page.html import Html
from steersman.page.number import number
from steersman.recipes.decide_profile_game import decide_game
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
    check_forbidden(data, asked.forbidden)
    say(f"{len(data):,} {'ratings' if data.second is None else 'pairs'}, {len(data.factors)} factors")
    return _alone(asked, data, say) if asked.opponent is None else decide_game(asked, data, say)


def _check(asked: ProfileQuestion) -> None:
    if asked.link not in ("logit", "linear"):
        raise UserError(f"{asked.link!r} is no link", where="--link", allowed="logit, linear")
    if not 0 < asked.level < 1:
        raise UserError(f"{asked.level} is out of range", where="--level", allowed="above 0, below 1")
    if asked.opponent is None:
        if asked.group is not None or asked.infer_group:
            raise UserError("groups serve only against an opponent", where="--group", cure="--opponent COLUMN")
        if asked.models != "four":
            raise UserError("is of a game", where="--models", cure="--opponent COLUMN")
        return
    if asked.models not in ("four", "two"):
        raise UserError(f"{asked.models!r} is no choice", where="--models", allowed="four, two")
    if asked.models == "two" and not asked.primaries:
        raise UserError("pools the general election with the primaries", where="--models two", cure="--primaries")
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
    how = _kind(asked, data)(asked.interactions)
    options: dict[str, Any] = {"penalty": asked.penalty, "folds": asked.folds, "seed": asked.seed}
    lam = asked.lam
    if lam is None:
        say("choosing lam by cross-fitting")
        lam, _ = choose_lam(data, how, **options)
    model, design = how.fit(data), design_of(asked, data)
    found = optimize_policy(model, design, asked.penalty, lam, seed=asked.seed, forbidden=asked.forbidden)
    say("judging on folds that did not choose")
    held_out = crossfit_value(data, how, lam=lam, level=asked.level, **options)
    shown = {
        "design": held_out.design, "optimum, by its own model": found.interval(asked.level),
        "held out, doubly robust": held_out.dr, "held out, weighted": held_out.snips,
    }  # fmt: skip
    if asked.bootstrap:
        say(f"drawing respondents {asked.bootstrap} times")

        def again(d: ConjointData) -> np.ndarray:
            return np.array([optimize_policy(how.fit(d), design, asked.penalty, lam, seed=asked.seed).value])

        draws = bootstrap_respondents(data, again, asked.bootstrap, asked.seed)
        shown["optimum, bootstrap"] = percentile(found.value, draws[:, 0], asked.level)
    notes = [
        *warnings(model.ridge, model.dropped, found.boundary, data.dropped),
        *restrictions(asked, data, {"The policy": found.policy}),
    ]
    summary = {"model": type(how).__name__, "lam": lam, **_figures(asked, data, model, found, held_out)}
    summary |= {"values": {k: plain(v) for k, v in shown.items()}, "notes": notes}
    return ProfileAnswer(summary, _page(asked, data, found, held_out, shown, summary))


def _kind(asked: ProfileQuestion, data: ConjointData) -> type[PairLogit | PairLinear | RatingLogit | RatingLinear]:
    """The outcome model; a logit of ratings that are not 0 or 1 is not meant by its default."""
    logit = asked.link == "logit" and bool(np.isin(data.outcome, (0, 1)).all())
    if data.second is not None:
        return PairLogit if logit else PairLinear
    return RatingLogit if logit else RatingLinear


def _figures(
    asked: ProfileQuestion, data: ConjointData, model: Outcome, found: PolicyResult, held_out: CrossFit
) -> dict[str, Any]:
    """What was fitted and found, and what other rules would field and be worth by the same model."""
    effects = amce(data)
    rules = {"best levels by AMCE": best_levels(effects), "best profile shown": best_profile(model, data)}
    if (data.outcome >= 0).all():
        rules["marginal means"] = marginal_means(data)
    q = surface(model, found.design.x if model.paired else None, asked.seed)
    return {
        "rows": len(data), "respondents": model.clusters, "coefficients": len(model.theta), "penalty": asked.penalty,
        "status": found.status, "policy": found.policy.to_dict(), "policy_se": named(found.policy, found.policy_se),
        "design": found.design.to_dict(), "gain": plain(normal_interval(found.gain, found.gain_se, asked.level)),
        "effective_rows": held_out.ess, "least_lam": found.least_lam, "forbidden": found.forbidden,
        "rules": {name: {"value": q.value(x.x), "policy": x.to_dict()} for name, x in rules.items()},
        "amce": dict(zip(effects.terms.names, effects.theta.tolist(), strict=True)),
    }  # fmt: skip


def _page(
    asked: ProfileQuestion,
    data: ConjointData,
    found: PolicyResult,
    held_out: CrossFit,
    shown: Mapping[str, Interval],
    summary: Mapping[str, Any],
) -> Html:
    what = "rating" if data.second is None else "chance of being chosen"
    best, base = held_out.dr, held_out.design
    sentence = (
        f"The policy's {what} against the design is {number(best.value, 3)} on respondents who had no part in it "
        f"[{number(best.low, 3)}, {number(best.high, 3)}]; the design's is {number(base.value, 3)}."
    )
    note = f"{asked.level:.0%} intervals, given the model. Dashed: the design. {' '.join(summary['notes'])}"
    arms = {"optimal policy": (found.policy, found.policy_se)}
    rules = {name: v["value"] for name, v in summary["rules"].items()}
    own: dict[str, Interval | float] = {"optimal policy": found.interval(asked.level), **rules}
    parts = (
        ("What to field", "", [levels("Optimal distribution", arms, found.design, asked.level, note)]),
        ("What it is worth", "The model that chose a policy is too fond of it: trust those held out.",
         [values("Value", what, shown, asked.band, BAND if asked.band else ""),
          values("Against rules of thumb", what, own, None, "All by the same model; rules have no interval.")]),
    )  # fmt: skip
    return page("Which profile to field", sentence, facts(summary), parts)
