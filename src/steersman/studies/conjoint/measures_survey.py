"""What measures the claims of the conjoint study on the real survey: respondents drawn again.

Units are draws of respondents, all fitted anew. Leaves out: the claims (`claims`), worlds with a known truth
(`measures`).
"""

from collections.abc import Sequence

import numpy as np

from steersman.stats import Interval
from steersman.studies.conjoint.measures import EXPLOITABLE, Measure, of
from steersman.studies.conjoint.names import HISTORY, SETTINGS, SURVEY_FACTORS, setting_arm
from steersman.study.declare import Finding, Result

APART = ("pos_abortion", "pos_immigrants")


def drawn(results: Sequence[Result], setting: tuple[str, bool, float]) -> tuple[Result, np.ndarray] | None:
    """The estimate of a setting of the survey and all its draws [k, 10]; None without draws."""
    found = of(results, "survey", setting_arm(*setting))
    rows = [row for r in found for row in r.value["draws"]]
    return (found[0], np.array(rows)) if rows else None


def by_draws(value: float, draws: np.ndarray, good: np.ndarray, **finding: object) -> Finding:
    """Percentile interval, and shares of draws that speak against the claim and for it."""
    low, high = np.quantile(draws, [0.025, 0.975])
    k = len(draws)
    return Finding(
        Interval(value, float(low), float(high), 0.95, "percentile"),
        k,
        (1 + int((~good).sum())) / (k + 1),
        (1 + int(good.sum())) / (k + 1),
        test="share of draws of respondents",
        counted="draws of respondents",
        **finding,  # type: ignore[arg-type]
    )


def outside(setting: tuple[str, bool, float]) -> Measure:
    """The average case lies above the historical range."""

    def measure(results: Sequence[Result]) -> Finding | None:
        got = drawn(results, setting)
        if got is None:
            return None
        one, draws = got
        told = f"Standard error by the delta method {one.value['average_se']:.3f}."
        good = draws[:, 0] > HISTORY[1]
        return by_draws(
            one.value["average"], draws[:, 0], good, unit="Democratic share", reference=HISTORY[1], detail=told
        )

    return measure


def inside(results: Sequence[Result]) -> Finding | None:
    """V2: the setting in which most draws of the equilibrium lie outside the range is shown."""
    parts = []
    for setting in SETTINGS:
        got = drawn(results, setting)
        if got is None:
            return None
        draws = got[1][:, 1]
        good = (draws > HISTORY[0]) & (draws < HISTORY[1])
        parts.append((float((~good).mean()), setting, got[0], draws, good))
    _, setting, one, draws, good = max(parts, key=lambda p: p[0])
    told = "; ".join(f"{setting_arm(*s)}: {r.value['equilibrium']:.3f}" for _, s, r, _, _ in parts)
    return by_draws(one.value["equilibrium"], draws, good, unit="Democratic share", reference=HISTORY[1],
                    detail=f"Shown: {setting_arm(*setting)}, where it is weakest. {told}.")  # fmt: skip


def lower(results: Sequence[Result]) -> Finding | None:
    """V3: average case less equilibrium, main effects, lam .05."""
    got = drawn(results, SETTINGS[0])
    if got is None:
        return None
    one, draws = got
    gap = draws[:, 0] - draws[:, 1]
    return by_draws(one.value["average"] - one.value["equilibrium"], gap, gap > 0, unit="share of votes", reference=0.0)


def divided(results: Sequence[Result]) -> Finding | None:
    """V4: distance of the parties on abortion and immigration less that on the other factors, through primaries."""
    got = drawn(results, SETTINGS[2])
    if got is None:
        return None
    one, draws = got
    on = np.array([f in APART for f in SURVEY_FACTORS])

    def gap(x: np.ndarray) -> np.ndarray:
        return x[..., on].mean(-1) - x[..., ~on].mean(-1)

    told = ", ".join(f"{f} {v:.2f}" for f, v in zip(SURVEY_FACTORS, one.value["apart"], strict=True))
    found = gap(draws[:, 2 : 2 + len(on)])
    return by_draws(float(gap(np.array(one.value["apart"]))), found, found > 0, unit="total variation", reference=0.0,
                    detail=f"{told}.")  # fmt: skip


def solved(results: Sequence[Result]) -> Finding | None:
    """V5."""
    found = of(results, "survey")
    worst = [v for r in found for v in (r.value["exploitability"], *(row[-1] for row in r.value["draws"]))]
    if not worst:
        return None
    return Finding(None, len(worst), holds=max(worst) < EXPLOITABLE, counted="games",
                   detail=f"Largest {max(worst):.1e}.")  # fmt: skip
