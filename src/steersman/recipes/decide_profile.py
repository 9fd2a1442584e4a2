"""Which profile to field, from a survey file: `steersman decide profile`.

Leaves out: the methods (`decide.conjoint`), the command line (`cli.decide_profile`).
"""

from collections.abc import Callable

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint import (
    ConjointData,
    PairLinear,
    PairLogit,
    RatingLinear,
    RatingLogit,
    amce,
    best_levels,
    bootstrap_respondents,
    choose_lam,
    crossfit_value,
    optimize_policy,
    read_csv,
)
from steersman.decide.conjoint.optimal import normal_interval
from steersman.decide.conjoint.report import levels, page, values
from steersman.page.number import number
from steersman.recipes.decide_profile_game import decide_game
from steersman.recipes.decide_profile_parts import (
    ProfileAnswer,
    ProfileQuestion,
    facts,
    named,
    percentile,
    plain,
    warnings,
)


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
    return _alone(asked, data, say) if asked.opponent is None else decide_game(asked, data, say)


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
        shown["optimum, bootstrap"] = percentile(found.value, draws[:, 0], asked.level)
    warned = warnings(model.ridge, model.dropped, found.boundary, data.dropped)
    summary = {
        "model": kind.__name__, "rows": len(data), "respondents": model.clusters, "coefficients": len(model.theta),
        "lam": lam, "penalty": asked.penalty, "status": found.status, "policy": found.policy.to_dict(),
        "policy_se": named(found.policy, found.policy_se), "design": found.design.to_dict(),
        "values": {k: plain(v) for k, v in shown.items()}, "gain": plain(
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
    return ProfileAnswer(summary, page("Which profile to field", sentence, facts(summary), parts))
