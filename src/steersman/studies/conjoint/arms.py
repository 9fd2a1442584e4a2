"""The runs of the conjoint study: which worlds, sizes and blocks of surveys each part has, and what runs them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.studies.conjoint.names import (
    COUNTS,
    GAME_SAMPLES,
    PARTS,
    SAMPLES,
    SETTINGS,
    SHARES,
    count_arm,
    setting_arm,
    share_arm,
)
from steersman.study.declare import Arm, Cell, ModeName

BLOCKS = {"quick": 5, "full": 10}
REPLICATIONS = {"quick": 20, "full": 40}
"""Surveys of a block."""
QUICK_COUNTS, QUICK_GAME_SAMPLES = (3, 5), (1000, 10000)
INSTANCES = {"quick": 60, "full": 500}
GAMES = {"quick": 6, "full": 12}
SMALL_BLOCKS = {"quick": 6, "full": 16}
"""Of the parts whose unit is one survey or a few games."""
RESPONDENTS = 600
CHUNKS, RESAMPLES = 8, 25
"""Draws of the survey's respondents: so many runs of so many."""


def cells(mode: ModeName, extra_seeds: int = 0, survey: bool = False) -> tuple[Cell, ...]:
    """The runs of a size, those of the survey only where there is one."""
    if mode == "gpu":
        raise UserError("has no gpu mode: nothing here needs one", where="conjoint", allowed="quick, full")
    found = [_cell("exact", Arm("both", {}, "closed form and numerical optimum"), {"instances": INSTANCES[mode]}, 0)]
    for block in range(BLOCKS[mode] + extra_seeds):
        found += [*_average(mode, block), *_games(mode, block)]
    for block in range(SMALL_BLOCKS[mode] + extra_seeds):
        found += _small(mode, block)
    if survey and mode == "full":
        found += _survey(extra_seeds)
    return tuple(found)


def _cell(part: str, arm: Arm, task: Mapping[str, Any], seed: int, needs: tuple[str, ...] = ()) -> Cell:
    return Cell(PARTS[part], arm, task, seed, needs)


def _average(mode: ModeName, block: int) -> list[Cell]:
    counts = QUICK_COUNTS if mode == "quick" else COUNTS
    task = {"samples": list(SAMPLES), "replications": REPLICATIONS[mode]}
    arms = [Arm(count_arm(c), {"count": c}, "ratings with noise, optimum under l2") for c in counts]
    told = Arm("both rules", {}, "our policy, the best levels by AMCE, and honest values")
    rules = {"samples": 1000, "replications": REPLICATIONS[mode]}
    return [*(_cell("average", arm, task, block) for arm in arms), _cell("rules", told, rules, block)]


def _games(mode: ModeName, block: int) -> list[Cell]:
    samples = QUICK_GAME_SAMPLES if mode == "quick" else GAME_SAMPLES
    task = {"samples": list(samples), "replications": REPLICATIONS[mode]}
    wanted = [*((s, False) for s in SHARES), *([(0.5, True)] if mode == "full" else [])]
    return [
        _cell("game", Arm(share_arm(s, p), {"share": s, "primaries": p}, "two groups of voters"), task, block)
        for s, p in wanted
    ]


def _small(mode: ModeName, block: int) -> list[Cell]:
    every = Arm("every solver", {}, "equally many slopes, no Newton steps")
    ways = Arm("every way", {}, "exact, hard draws, relaxed profiles")
    proxies = Arm("every proxy", {}, "sides of the same respondents named in four ways")
    worlds = [Arm(w, {"world": w}, "a logit and a network on the same survey") for w in ("two-way", "four-way")]
    return [
        _cell("solvers", every, {"games": GAMES[mode]}, block),
        _cell("push", ways, {"games": GAMES[mode]}, block),
        *(_cell("models", arm, {"samples": 4000}, block) for arm in worlds),
        _cell("proxy", proxies, {"respondents": RESPONDENTS}, block),
    ]


def _survey(extra_seeds: int) -> list[Cell]:
    arms = [
        Arm(setting_arm(*s), dict(zip(("interactions", "primaries", "lam"), s, strict=True)), "the real survey")
        for s in SETTINGS
    ]
    chunks = range(CHUNKS + extra_seeds)
    return [_cell("survey", arm, {"resamples": RESAMPLES}, chunk, ("survey",)) for chunk in chunks for arm in arms]


def run(cell: Cell, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    part = {name: key for key, name in PARTS.items()}[cell.part]
    options: dict[str, Any] = {**cell.arm.settings, **cell.task}
    if part == "survey":
        from steersman.studies.conjoint import survey

        return survey.run(artefacts["survey"], seed=cell.seed, **options)
    if part == "models":
        from steersman.studies.conjoint import networks

        return networks.run(seed=cell.seed, **options)
    if part == "proxy":
        from steersman.studies.conjoint import proxy

        return proxy.run(cell.seed, **options)
    if part in ("game", "solvers", "push"):
        from steersman.studies.conjoint import contest

        if part == "game":
            return contest.estimates(seed=cell.seed, **options)
        return (contest.solvers if part == "solvers" else contest.push)(cell.seed, **options)
    from steersman.studies.conjoint import average

    if part == "average":
        return average.estimates(seed=cell.seed, **options)
    return (average.exact if part == "exact" else average.rules)(cell.seed, **options)
