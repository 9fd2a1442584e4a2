"""What `steersman decide profile` is asked and answers, and how both of its jobs write figures down.

Leaves out: the jobs (`decide_profile`, `decide_profile_game`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.decide.conjoint import ConjointData, FactoredPolicy, never_together
from steersman.decide.conjoint.policy import design_policy
from steersman.page.html import Html
from steersman.stats.intervals import Interval

BAND = "Shaded: the range given."
SHOWN = 5
"""Combinations that a note names."""


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
        penalty: l2, kl, reverse_kl, none; alone also l1 or linf.
        link: logit or linear.
        interactions: all, none or screened.
        bootstrap: resamples of respondents; 0 = none.
        folds: of cross-fitting.
        level: of the intervals.
        where: (column, value) that rows must have.
        band: range that a value is held against, such as past results.
        seed: of folds, starts and resamples.
        design: JSON file {factor: {level: probability}}; None = the shares observed.
        forbidden: combinations {factor: level, ...} that the design excludes.
        models: four, or two (each party's stages pooled); of a game.
        solver: of the game.
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
    design: Path | None = None
    forbidden: tuple[dict[str, str], ...] = ()
    models: str = "four"
    solver: str = "extragradient"


@dataclass(frozen=True, slots=True)
class ProfileAnswer:
    """The figures as JSON values, and the page."""

    summary: dict[str, Any]
    page: Html


def percentile(value: float, draws: np.ndarray, level: float) -> Interval:
    """A value with the interval of its bootstrap draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, "percentile")


def named(policy: FactoredPolicy, se: np.ndarray) -> dict[str, dict[str, float]]:
    """Numbers of all levels by factor and level."""
    out, at = {}, 0
    for f in policy.factors:
        out[f.name] = dict(zip(f.levels, se[at : at + len(f.levels)].tolist(), strict=True))
        at += len(f.levels)
    return out


def plain(v: Interval) -> dict[str, float]:
    """An interval as JSON values."""
    return {"value": v.value, "low": v.low, "high": v.high}


def warnings(ridge: float, dropped: tuple[str, ...], boundary: bool, single: tuple[str, ...]) -> list[str]:
    """What a reader of the figures must know, a sentence each."""
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


def design_of(asked: ProfileQuestion, data: ConjointData) -> FactoredPolicy:
    """The design that is given, or the shares observed.

    Raises:
        UserError: a file that is no such design.
    """
    if asked.design is None:
        return design_policy(data.factors, list(data.design))
    try:
        given = json.loads(asked.design.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", where=f"--design {asked.design}") from None
    if not (isinstance(given, dict) and all(isinstance(x, dict) for x in given.values())):
        raise UserError("is no design", where=f"--design {asked.design}", allowed="{factor: {level: probability}}")
    return design_policy(data.factors, given)


def restrictions(asked: ProfileQuestion, data: ConjointData, policies: Mapping[str, FactoredPolicy]) -> list[str]:
    """How often policies field what is forbidden, and levels never shown together though nobody forbade them."""
    said = [
        f"{name} fields a forbidden profile {policy.chance(asked.forbidden):.1%} of the time."
        for name, policy in policies.items() if asked.forbidden
    ]  # fmt: skip
    lost = [pair for pair in never_together(data) if not any(f.items() <= pair.items() for f in asked.forbidden)]
    if lost:
        told = "; ".join(" with ".join(f"{k}={v}" for k, v in pair.items()) for pair in lost[:SHOWN])
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        said.append(f"Never shown together: {told}{more}. If the design forbade it, say so by --forbid.")
    return said


def facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """What was fitted, in words for the page."""
    kept = ("model", "rows", "respondents", "coefficients", "lam", "penalty", "status", "primaries", "exploitability")
    facts = {k: summary[k] for k in kept if k in summary}
    words = {True: "yes", False: "no"}
    return {k: f"{v:.3g}" if isinstance(v, float) else words.get(v, str(v)) if isinstance(v, bool) else str(v)
            for k, v in facts.items()}  # fmt: skip
