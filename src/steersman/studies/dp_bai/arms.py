"""What the DP-BAI study runs: methods on instances with paired rewards, the same in other units, and audits.

A cell plays every method and epsilon at one budget of one instance, so that all meet the same rewards. More seeds are
more replications. Leaves out: exact figures (`exact`) and what is claimed (`claims`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from steersman.decide.dp_bai import (
    DPBAI,
    LinearArms,
    ODLinBAI,
    PooledMeans,
    halving,
    sequential_halving,
    uniform,
)
from steersman.decide.dp_bai.play import Algorithm
from steersman.decide.privacy import audit
from steersman.studies.dp_bai import names
from steersman.studies.dp_bai.worlds import instance
from steersman.study.declare import Arm, Cell, ModeName
from steersman.train.trial import run_trials

Wrong = dict[tuple[str, float], npt.NDArray[np.bool_]]
"""By method and epsilon, which replications returned an arm that is not best."""
PLAYED = Arm("all methods", {}, "every method of the instance, on the same rewards")
EXACT = Arm("enumeration", {}, "finite sums; nothing is drawn, but for the check of the simulator")


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of one size."""
    trials, first = names.TRIALS[mode], names.FIRST_SEED[mode]
    seeds = range(first, first + 1 + extra_seeds)
    size = {"trials": trials, "sets": names.SETS[mode]}
    errors = [
        Cell(names.PARTS["error"], PLAYED, {"instance": i, "budget": t, **size}, seed)
        for seed in seeds for i, budgets in reversed(names.BUDGETS[mode].items()) for t in budgets
    ]  # fmt: skip
    rescaled = [
        Cell(names.PARTS["rescaled"], PLAYED, {"instance": "I1", "budget": t, "trials": trials}, seed)
        for seed in seeds for t in names.RESCALED_BUDGETS[mode]
    ]  # fmt: skip
    audits = [
        Cell(names.PARTS["audit"], Arm(fault or "the method", {"fault": fault}),
             {"epsilon": e, "runs": names.RUNS[mode], "beta": 0.05 / len(names.AUDITED)}, 0)
        for e in names.AUDITED for fault in (None, *names.FAULTS)
    ]  # fmt: skip
    exact = Cell(names.PARTS["exact"], EXACT, {"points": 8 if mode == "quick" else 16, "trials": 10 * trials}, 0)
    return (exact, *errors, *rescaled, *audits)


def algorithm(method: str, epsilon: float, budget: int, count: int, seed: int = 0) -> Algorithm:
    """A method with its options; `seed` is that of the random set."""
    epsilon = min(epsilon, names.QUIET)
    ours = DPBAI(epsilon, budget)
    return {
        names.OURS: lambda: ours,
        names.OD: lambda: ODLinBAI(budget),
        names.ON_FEATURES: lambda: ODLinBAI(budget, epsilon),
        names.ON_ARMS: lambda: ODLinBAI(budget, epsilon, "arms"),
        names.HALVING: lambda: sequential_halving(count, budget, epsilon),
        names.UNIFORM: lambda: uniform(count, budget, epsilon),
        names.ALL: lambda: DPBAI(epsilon, budget, design="all"),
        names.RANDOM: lambda: DPBAI(epsilon, budget, design="random", seed=seed),
        names.PLAIN: lambda: DPBAI(epsilon, budget, sizes=halving(count)),
        names.POOLED: lambda: PooledMeans(ours),
    }[method]()


def arms_of(found: Algorithm, arms: LinearArms, trials: int, seed: int, first: int = 0) -> npt.NDArray[np.int64]:
    """[trials] the arms returned, in replications first, first + 1, ..."""
    return np.asarray(run_trials(found.procedure(arms, "laplace"), trials, seed, first=first)["arm"])


def _points(place: str, budget: int) -> Iterator[tuple[str, float]]:
    """Methods and epsilons of a cell."""
    tiny = [names.TINY[0]] if place == "I1" and budget == names.TINY[1] else []
    for method in names.played(place):
        if method != names.OD:
            yield from ((method, e) for e in (*tiny, *names.EPSILONS))
        if method not in (names.ON_FEATURES, names.ON_ARMS):
            yield method, names.NO_NOISE


def errors(task: dict[str, Any], seed: int) -> dict[str, Any]:
    """Every method at every epsilon: wrong answers, and where exactly one of two was wrong."""
    place, budget, trials, sets = task["instance"], int(task["budget"]), int(task["trials"]), int(task["sets"])
    arms = instance(place)
    best, count, each = arms.means.max(), len(arms.means), trials // sets
    wrong: Wrong = {}
    for method, epsilon in _points(place, budget):
        if method == names.RANDOM:
            told = [
                arms_of(algorithm(method, epsilon, budget, count, k), arms, each, seed, k * each) for k in range(sets)
            ]
            returned = np.concatenate(told)
        else:
            returned = arms_of(algorithm(method, epsilon, budget, count), arms, trials, seed)
        wrong[method, epsilon] = arms.means[returned] < best
    rows = [{"method": m, "epsilon": names.name(e), "wrong": int(w.sum()), "trials": len(w),
             "private": e != names.NO_NOISE and algorithm(m, e, budget, count).promise == e}
            for (m, e), w in wrong.items()]  # fmt: skip
    return {"rows": rows, "pairs": list(_pairs(wrong)), "sets": _sets(wrong, each, sets)}


def _pairs(wrong: Wrong) -> Iterator[dict[str, Any]]:
    """DP-BAI against every other method at each epsilon, and at a large one against what has no noise."""
    for (method, epsilon), other in wrong.items():
        if method != names.OURS and (names.OURS, epsilon) in wrong:
            yield pair((names.OURS, epsilon), (method, epsilon), wrong[names.OURS, epsilon], other)
        if method in (names.OURS, names.OD) and epsilon == names.NO_NOISE:
            yield pair((names.OURS, names.LARGE), (method, epsilon), wrong[names.OURS, names.LARGE], other)


def pair(a: tuple[str, float], b: tuple[str, float], one: Any, other: Any) -> dict[str, Any]:
    """Counts of replications in which exactly one of two was wrong."""
    n = min(len(one), len(other))
    return {"a": a[0], "epsilon_a": names.name(a[1]), "b": b[0], "epsilon_b": names.name(b[1]), "trials": n,
            "only_a": int((one[:n] & ~other[:n]).sum()), "only_b": int((~one[:n] & other[:n]).sum())}  # fmt: skip


def _sets(wrong: Wrong, each: int, sets: int) -> list[dict[str, Any]]:
    """Of every random set, its error minus DP-BAI's on the same rewards."""
    found = []
    for (method, epsilon), w in wrong.items():
        if method == names.RANDOM:
            gap = w.astype(float) - wrong[names.OURS, epsilon][: len(w)]
            gaps = [float(g) for g in gap.reshape(sets, each).mean(1)]
            found.append({"epsilon": names.name(epsilon), "gaps": gaps})
    return found


def rescaled(task: dict[str, Any], seed: int) -> dict[str, Any]:
    """I1 as it is and in other units: what changes for each method."""
    budget, trials = int(task["budget"]), int(task["trials"])
    units = {"as published": instance("I1"), "rescaled": instance("I1", rescaled=True)}
    rows, pairs, same = [], [], {}
    for epsilon in names.RESCALED_EPSILONS:
        wrong: dict[tuple[str, str], Any] = {}
        for method in (names.OURS, names.ON_FEATURES, names.ON_ARMS):
            told = {u: arms_of(algorithm(method, epsilon, budget, 30), a, trials, seed) for u, a in units.items()}
            same[f"{method}, epsilon {epsilon:g}"] = bool(np.array_equal(*told.values()))
            for unit, returned in told.items():
                wrong[method, unit] = units[unit].means[returned] < units[unit].means.max()
                rows.append({"method": method, "units": unit, "epsilon": names.name(epsilon), "trials": trials,
                             "wrong": int(wrong[method, unit].sum())})  # fmt: skip
        at = wrong[names.ON_FEATURES, "rescaled"]
        before = wrong[names.ON_FEATURES, "as published"]
        pairs.append(pair(("rescaled", epsilon), ("as published", epsilon), at, before))
        pairs.append(pair((names.OURS, epsilon), (names.ON_FEATURES, epsilon), wrong[names.OURS, "rescaled"], at))
    return {"rows": rows, "pairs": pairs, "same": same}


def audited(task: dict[str, Any], fault: Any) -> dict[str, Any]:
    """One audit: four arms, two phases, the audited sum holding twenty noise scales of rewards."""
    epsilon = float(task["epsilon"])
    options = DPBAI(epsilon, 8 * max(2, int(np.ceil(20 / epsilon))))
    found = audit(options, runs=int(task["runs"]), beta=float(task["beta"]), fault=fault)
    return asdict(found) | {"broken": found.broken}


def merged(values: Sequence[dict[str, Any]], key: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows with equal keys added up: replications of several seeds."""
    found: dict[Any, dict[str, Any]] = {}
    for row in values:
        place = tuple(row[k] for k in key)
        if place in found:
            for name in ("wrong", "trials", "only_a", "only_b"):
                if name in row:
                    found[place][name] += row[name]
        else:
            found[place] = dict(row)
    return list(found.values())
