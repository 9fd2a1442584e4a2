"""Figures and the sentence of the conjoint study. Leaves out: drawing (`page`)."""

from collections.abc import Sequence

import numpy as np

from steersman.page.figures import Line, Panel
from steersman.stats import wilson
from steersman.studies.conjoint.measures import GAMES, NOMINAL, column, of, rms, sizes
from steersman.studies.conjoint.measures_survey import drawn
from steersman.studies.conjoint.names import COUNTS, HISTORY, SETTINGS, SURVEY_FACTORS, count_arm, setting_arm
from steersman.studies.rl_curves import line
from steersman.studies.rl_evidence import mean
from steersman.study.declare import Result, Shown
from steersman.study.report import Difference, Estimate

ARMS = {"average": [count_arm(c) for c in COUNTS], "game": GAMES}
UNITS = {"average": "ratings", "game": "pairs"}
SHORT = {arm: f"{c} + 1 factors" for c, arm in zip(COUNTS, ARMS["average"], strict=True)}


def show(results: Sequence[Result]) -> Shown:
    """Errors and coverage by size, solvers, proxies, and the survey's shares against the historical range."""
    panels = [p for part in ARMS for p in (_errors(results, part), _coverage(results, part))]
    panels += [_solvers(results), _proxies(results), _shares(results), _apart(results)]
    return Shown(tuple(p for p in panels if p.lines), _differences(results))


def _errors(results: Sequence[Result], part: str) -> Panel:
    """Root mean square error of the policies, a thin line for each block of surveys."""
    lines, law = [], []
    for arm in ARMS[part]:
        found = of(results, part, arm)
        if found:
            n = sizes(found)
            values = [[rms(r, k) for k in n] for r in found]
            lines.append(line(SHORT.get(arm, arm), n, values))
            law = [(float(k), float(np.mean([v[0] for v in values])) * (n[0] / k) ** 0.5) for k in n]
    if law:
        x, y = zip(*law, strict=True)
        lines.append(Line("n^(-1/2)", x, (), y, y, y))
    title = {"average": "Average case: error of the policy", "game": "Game: error of both policies"}[part]
    return Panel(title, UNITS[part], "probability, root mean square", tuple(lines), log_x=True, log_y=True)


def _coverage(results: Sequence[Result], part: str) -> Panel:
    """Coverage of the intervals of Q (Wilson) by size."""
    lines, last = [], []
    for arm in ARMS[part]:
        found = of(results, part, arm)
        if found:
            last = sizes(found)
            counts = [column(found, n, "covered") for n in last]
            found_at = [wilson(int(sum(c)), len(c)) for c in counts]
            ends = (tuple(getattr(i, end) for i in found_at) for end in ("value", "low", "high"))
            lines.append(Line(SHORT.get(arm, arm), tuple(map(float, last)), (), *ends))
    if last:
        flat = (NOMINAL,) * len(last)
        lines.append(Line("nominal", tuple(map(float, last)), (), flat, flat, flat))
    title = {"average": "Average case: coverage of Q", "game": "Game: coverage of Q"}[part]
    return Panel(title, UNITS[part], "share of 95 % intervals", tuple(lines), log_x=True)


def _solvers(results: Sequence[Result]) -> Panel:
    """Exploitability of every game of each family, ordered."""
    lines = []
    for family in ("voters", "pennies"):
        found = [r.value[family] for r in of(results, "solvers")]
        for name in found[0] if found else ():
            values = tuple(sorted(max(v, 1e-16) for r in found for v in r[name]))
            share = tuple((i + 1) / len(values) for i in range(len(values)))
            lines.append(Line(f"{name}, {family}", share, (), values, values, values))
    return Panel("Exploitability after 400 slopes", "share of the games", "exploitability", tuple(lines), log_y=True,
                 note="voters: logits of two groups, lam .01. pennies: levels in a cycle, no penalty.")  # fmt: skip


def _proxies(results: Sequence[Result]) -> Panel:
    """Gap of the sides' tastes under every way of naming the sides, by how many stand on the right side."""
    found = [r.value for r in of(results, "proxy")]
    lines = []
    if found:
        x = sorted((float(np.mean([v[k]["right"] for v in found])), k) for k in found[0])
        for way in ("true sides", "split sample", "same tasks", "no signal"):
            lines.append(line(way, [a for a, _ in x], [[v[k][way]["taste"] for _, k in x] for v in found]))
    return Panel("How far apart the sides' tastes come out", "share of respondents on the right side, split sample",
                 "log-odds", tuple(lines))  # fmt: skip


def _shares(results: Sequence[Result]) -> Panel:
    """Average case and equilibrium in every setting of the survey, against the historical range."""
    got = [(s, d) for s in SETTINGS if (d := drawn(results, s)) is not None]
    lines, x = [], tuple(float(i + 1) for i in range(len(got)))
    for i, (name, key) in enumerate((("average case", "average"), ("equilibrium", "equilibrium"))):
        if got:
            ends = [np.quantile(d[1][:, i], [0.025, 0.975]).tolist() for _, d in got]
            lines.append(
                Line(name, x, (), tuple(d[0].value[key] for _, d in got), *(tuple(e) for e in zip(*ends, strict=True)))
            )
    if got:
        for name, value in zip(("1976-2020, most", "1976-2020, least"), reversed(HISTORY), strict=True):
            flat = (value,) * len(x)
            lines.append(Line(name, x, (), flat, flat, flat))
    told = "; ".join(f"{int(k)}: {setting_arm(*s)}" for k, (s, _) in zip(x, got, strict=True))
    return Panel("Survey: Democratic share", "setting", "share of votes", tuple(lines),
                 note=f"{told}. Bands: 95 % of the draws of respondents.")  # fmt: skip


def _apart(results: Sequence[Result]) -> Panel:
    """Distance of the two parties' policies by factor."""
    lines, x = [], tuple(float(i + 1) for i in range(len(SURVEY_FACTORS)))
    for setting in SETTINGS:
        got = drawn(results, setting)
        if got is not None:
            low, high = np.quantile(got[1][:, 2 : 2 + len(x)], [0.025, 0.975], axis=0)
            lines.append(Line(setting_arm(*setting), x, (), tuple(got[0].value["apart"]), tuple(low), tuple(high)))
    told = ", ".join(f"{i} {f}" for i, f in enumerate(SURVEY_FACTORS, 1))
    return Panel("Survey: how far apart the parties are", "factor", "total variation", tuple(lines), note=f"{told}.")


def _differences(results: Sequence[Result]) -> tuple[Difference, ...]:
    """Our policy against the AMCE rule, the network against the logit, named sides against the true ones."""
    rows: list[tuple[str, str, str, list[float]]] = []
    for world in ("clash", "additive"):
        gap = [a - b for r in of(results, "rules")
               for a, b in zip(r.value[world]["ours"], r.value[world]["amce"], strict=True)]  # fmt: skip
        rows.append((f"policy, {world}", "best levels by AMCE", "true worth", gap))
    for world in ("two-way", "four-way"):
        found = [r.value for r in of(results, "models", world)]
        for key, metric in (("chance", "error of chances"), ("worth", "true worth")):
            gap = [v["network"][key] - v["logit"][key] for v in found]
            rows.append((f"network, {world}", "logit", metric, gap))
    for way in ("split sample", "same tasks", "no signal"):
        for key, metric in (("taste", "gap of tastes, log-odds"), ("loyalty", "gap of loyalty, log-odds")):
            found = [r.value["strong"] for r in of(results, "proxy")]
            rows.append((way, "true sides", metric, [v[way][key] - v["true sides"][key] for v in found]))
    out = []
    for a, b, metric, gap in rows:
        if len(gap) > 1:
            i = mean(gap)
            out.append(Difference(a, b, metric, Estimate(i.value, i.low, i.high, "", i.level)))
    return tuple(out)


def sentence(results: Sequence[Result]) -> str:
    """What came out, in plain words."""
    told = []
    for part, arm in (("average", ARMS["average"][0]), ("game", GAMES[1])):
        found = of(results, part, arm)
        if found:
            n = sizes(found)
            errors = ", ".join(f"{np.mean([rms(r, k) for r in found]):.3f} at {k:,}" for k in (n[0], n[-1]))
            what = "the best policy" if part == "average" else "the equilibrium"
            told.append(f"{what} was missed by {errors} {UNITS[part]}")
    got = drawn(results, SETTINGS[0])
    if got is not None:
        v = got[0].value
        told.append(
            f"on the survey the average case promises {v['average']:.3f}, the equilibrium {v['equilibrium']:.3f}"
        )
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}." if text else "Nothing has been run yet."
