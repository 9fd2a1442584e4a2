"""What measures the claims of the conjoint study on worlds whose truth is known.

Units are surveys drawn anew, blocks of them, or games; `counted` says which. Leaves out: the claims (`claims`), the
real survey (`measures_survey`), runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from steersman.studies.conjoint.names import COUNTS, PARTS, SHARES, count_arm, share_arm
from steersman.studies.rl_evidence import above, all_above, within
from steersman.study.declare import Finding, Result

SLOPE = 0.4
NOMINAL, COVERAGE = 0.95, 0.03
UNBIASED = 0.02
HONEST = 0.02
SAME = 1e-8
EXPLOITABLE = 1e-3
HARD = 1e-3
RELAXED = 2e-3
LARGE = 3500
"""Ratings from which on coverage is judged."""

Measure = Callable[[Sequence[Result]], Finding | None]


def of(results: Sequence[Result], part: str, arm: str | None = None) -> list[Result]:
    """Results of a part, and of an arm if one is named."""
    return [r for r in results if r.cell.part == PARTS[part] and arm in (None, r.cell.arm.name)]


def column(found: Sequence[Result], samples: int, key: str) -> list[float]:
    """A metric over all replications at one size."""
    return [v for r in found for row in r.value["rows"] if row["samples"] == samples for v in row[key]]


def sizes(found: Sequence[Result]) -> list[int]:
    """Sizes that every block has, ascending."""
    return [row["samples"] for row in found[0].value["rows"]] if found else []


def rms(found: Result, samples: int) -> float:
    """Root mean square error of the policies of a block at one size."""
    return float(np.sqrt(np.mean(column([found], samples, "square"))))


def slope(found: Result) -> float:
    """-d log rms / d log n of a block."""
    n = sizes([found])
    return -float(np.polyfit(np.log(n), np.log([rms(found, k) for k in n]), 1)[0])


def exact(results: Sequence[Result]) -> Finding | None:
    """E1."""
    found = [r.value for r in of(results, "exact")]
    if not found:
        return None
    worst = max(v["worst"] for v in found)
    applied, refused, wrong = (sum(v[k] for v in found) for k in ("applied", "refused", "wrongly_refused"))
    told = f"Largest difference {worst:.1e} where it applies ({applied}); refused {refused}, {wrong} of them wrongly."
    return Finding(None, applied + refused, holds=worst <= SAME and not wrong, counted="instances", detail=told)


def falls(part: str, arms: Sequence[str]) -> Measure:
    """RMSE falls with n at least as n^-SLOPE, in each arm."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = [(arm, [slope(r) for r in of(results, part, arm)], SLOPE) for arm in arms if of(results, part, arm)]
        return all_above(found, unit=f"-(exponent of n) less {SLOPE}", counted="blocks of surveys")

    return measure


def unbiased(results: Sequence[Result]) -> Finding | None:
    """A2."""
    found = []
    for count in COUNTS:
        block = of(results, "average", count_arm(count))
        found += [(f"{count_arm(count)}, {n:,}", column(block, n, "value"), 0.0, UNBIASED) for n in sizes(block)
                  if n >= 1000]  # fmt: skip
    return within(found, unit="standard deviations of the outcome", counted="surveys")


def covers(part: str, key: str, least: int, arms: Sequence[str]) -> Measure:
    """Coverage of 95 % intervals within NOMINAL +- COVERAGE, all arms and sizes from `least` on together."""

    def measure(results: Sequence[Result]) -> Finding | None:
        values, told = [], []
        for arm in arms:
            block = of(results, part, arm)
            for n in sizes(block):
                one = column(block, n, key)
                told.append(f"{arm}, {n:,}: {np.mean(one):.3f}")
                values += one if n >= least else []
        found = within([("all", values, NOMINAL, COVERAGE)], unit="coverage less .95", counted="surveys")
        return None if found is None else _told(found, "; ".join(told) + ".")

    return measure


def _told(found: Finding, text: str) -> Finding:
    return replace(found, detail=f"{found.detail} {text}".strip())


def rules(world: str, sign: float) -> Measure:
    """True worth of our policy less that of the best levels by AMCE (sign 1), or the reverse."""

    def measure(results: Sequence[Result]) -> Finding | None:
        gap = [sign * (a - b) for r in of(results, "rules")
               for a, b in zip(r.value[world]["ours"], r.value[world]["amce"], strict=True)]  # fmt: skip
        if len(gap) < 2:
            return None
        import scipy.stats

        wins, losses = sum(g > 0 for g in gap), sum(g < 0 for g in gap)
        n = max(1, wins + losses)
        more, less = (float(scipy.stats.binomtest(k, n, 0.5, "greater").pvalue) for k in (wins, losses))
        found = above(gap, 0.0, unit="outcome", counted="surveys", equal="the surveys")
        assert found is not None
        told = f"Ahead {wins}, behind {losses}."
        return replace(found, p_for=more, p_against=less, test="paired sign test", detail=told)

    return measure


def honest(key: str) -> Measure:
    """What is said of a policy's worth, less its true worth."""

    def measure(results: Sequence[Result]) -> Finding | None:
        gap = [v for r in of(results, "rules") for v in r.value["honest"][key]]
        if key == "plug_in":
            return above(gap, 0.0, unit="chance of being chosen", counted="surveys")
        return within([(key, gap, 0.0, HONEST)], unit="chance of being chosen", counted="surveys")

    return measure


ALL_SHARES = [share_arm(s) for s in SHARES]
GAMES = [*ALL_SHARES, share_arm(0.5, True)]


def exploitable(results: Sequence[Result]) -> Finding | None:
    """G1."""
    found = of(results, "game")
    worst = [v for r in found for n in sizes([r]) for v in column([r], n, "exploitability")]
    worst += [r.value["truth_exploitability"] for r in found]
    if not worst:
        return None
    told = f"Largest {max(worst):.1e}."
    return Finding(None, len(worst), holds=max(worst) < EXPLOITABLE, counted="games", detail=told)


def driven_by_n(results: Sequence[Result]) -> Finding | None:
    """G3: log ratio of RMSE between the smallest and largest n, less that between the worst and best share."""
    blocks: dict[int, list[Result]] = {}
    for r in of(results, "game"):
        if r.cell.arm.name in ALL_SHARES:
            blocks.setdefault(r.cell.seed, []).append(r)
    gaps = []
    for found in blocks.values():
        n = sizes(found)
        at = np.log([[rms(r, n[0]), rms(r, n[-1])] for r in found])
        gaps.append(float((at[:, 0] - at[:, 1]).mean() - np.ptp(at[:, 1])))
    few = not blocks or min(len(b) for b in blocks.values()) < 2
    return None if few else above(gaps, 0.0, unit="log ratio of errors", counted="blocks of surveys")


def approaches(results: Sequence[Result]) -> Finding | None:
    """G5: coverage of the largest n less that of the smallest."""
    gap = []
    for r in of(results, "game"):
        n = sizes([r])
        few, many = column([r], n[0], "policy_covered"), column([r], n[-1], "policy_covered")
        gap += [b - a for a, b in zip(few, many, strict=True)]
    return above(gap, 0.0, unit="coverage of the policies", counted="surveys") if len(gap) > 1 else None


def converges(family: str, name: str) -> Measure:
    """All games of a family end with an exploitability below EXPLOITABLE under a solver."""

    def measure(results: Sequence[Result]) -> Finding | None:
        values = [v for r in of(results, "solvers") for v in r.value[family][name]]
        if not values:
            return None
        told = f"Largest {max(values):.1e}, median {np.median(values):.1e}."
        return Finding(None, len(values), holds=max(values) < EXPLOITABLE, counted="games", detail=told)

    return measure


def circles(name: str) -> Measure:
    """Plain steps end more exploitable than a solver where each party answers the other."""

    def measure(results: Sequence[Result]) -> Finding | None:
        gap = [a - b for r in of(results, "solvers")
               for a, b in zip(r.value["pennies"]["simultaneous"], r.value["pennies"][name], strict=True)]  # fmt: skip
        return above(gap, 0.0, unit="exploitability", counted="games", equal="slopes asked for, step, start")

    return measure


def push(key: str) -> Measure:
    """Q by drawn profiles against the exact linear map."""

    def measure(results: Sequence[Result]) -> Finding | None:
        gap = [a - b for r in of(results, "push") for a, b in zip(r.value[key], r.value["exact"], strict=True)]
        if key == "hard":
            return within([(key, gap, 0.0, HARD)], unit="share of votes", counted="games")
        return above([abs(g) for g in gap], RELAXED, unit="share of votes, absolute", counted="games")

    return measure


def better(world: str, good: str, bad: str) -> Measure:
    """Error of one model's chances less that of another."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = [r.value for r in of(results, "models", world)]
        gap = [v[bad]["chance"] - v[good]["chance"] for v in found]
        one = above(gap, 0.0, unit="root mean square of chances", counted="surveys", equal="the survey")
        if one is None:
            return None
        means = {k: {m: float(np.mean([v[k][m] for v in found])) for m in found[0][k]} for k in (good, bad)}
        told = " ".join(f"{k}: error {v['chance']:.3f}, Q {v['value']:+.3f} off, true worth {v['worth']:.3f}."
                        for k, v in means.items())  # fmt: skip
        return _told(one, f"{told} Best possible {found[0]['best']:.3f}.")

    return measure


def apart(loyalty: str, a: str, b: str, key: str) -> Measure:
    """A figure under one way of naming the sides less that under another."""

    def measure(results: Sequence[Result]) -> Finding | None:
        found = [r.value[loyalty] for r in of(results, "proxy")]
        gap = [v[a][key] - v[b][key] for v in found]
        one = above(gap, 0.0, unit="log-odds", counted="surveys", equal="tasks")
        ways = ("true sides", "split sample", "same tasks", "no signal")
        told = ", ".join(f"{w} {np.mean([v[w][key] for v in found]):+.2f}" for w in ways) if found else ""
        return None if one is None else _told(one, f"{told}.")

    return measure


def weaker(results: Sequence[Result]) -> Finding | None:
    """P2: what the proxy loses of the gap of tastes, with weak loyalty less with strong."""
    gap, right = [], []
    for r in of(results, "proxy"):
        strong, weak = (r.value[k] for k in ("strong", "weak"))
        lost = [v["true sides"]["taste"] - v["split sample"]["taste"] for v in (strong, weak)]
        gap.append(lost[1] - lost[0])
        right.append((strong["right"], weak["right"]))
    found = above(gap, 0.0, unit="log-odds of the tastes' gap", counted="surveys")
    means = np.mean(right, 0) if right else (0.0, 0.0)
    return None if found is None else _told(found, f"On the right side: {means[0]:.0%} and {means[1]:.0%}.")
