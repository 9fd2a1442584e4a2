"""Exact figures of the DP-BAI study: errors of two and four arms by enumeration, and what a transcript gives away.

Leaves out: instances that are simulated (`arms`).
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import scipy.optimize

from steersman.decide.dp_bai import (
    DPBAI,
    LinearArms,
    exact_error,
    exact_loss,
    exact_two_arm,
    exact_two_arm_loss,
    halving,
    simulate,
)
from steersman.studies.dp_bai.names import FAULTS, name

EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 10.0)
FOUR_EPSILONS = (0.1, 0.2, 0.5, 1.0, 2.0, 10.0)
SHRUNK = (1.0, 0.7, 0.5)
"""Factors of the gap."""
GAP = 0.4
FOUR = (0.7, 0.5, 0.4, 0.3)
WINDOW = (1e-3, 0.3)
"""Errors between which exponents are read."""
LOSS_EPSILONS = (0.1, 0.5, 1.0, 2.0)
CHECKED = (0.1, 0.5, 2.0)


def figures(points: int, trials: int) -> dict[str, Any]:
    """All of them.

    Args:
        points: budgets of each curve.
        trials: of the check of the simulator.
    """
    two = [_two(e, c, points) for e, c in product(EPSILONS, SHRUNK)]
    four = [_four(e, points) for e in FOUR_EPSILONS]
    fits = {"two arms": fit([r for r in two if r["shrunk"] == 1.0]), "four arms": fit(four)}
    return {"two": two, "four": four, "fits": fits, "losses": _losses(), "simulator": _simulator(trials)}


def _two(epsilon: float, shrunk: float, points: int) -> dict[str, Any]:
    half = GAP * shrunk / 2
    curve = _curve(lambda n: exact_two_arm(0.5 + half, 0.5 - half, n, epsilon, "discrete", "coin"), 2, points)
    return {"epsilon": epsilon, "shrunk": shrunk, **curve}


def _four(epsilon: float, points: int) -> dict[str, Any]:
    arms = LinearArms(np.eye(4), FOUR)
    # two phases: n of each of four arms, then 2 n of each of two
    curve = _curve(lambda n: exact_error(DPBAI(epsilon, 8 * n, design="all", sizes=halving(4)), arms), 8, points)
    return {"epsilon": epsilon, **curve}


def _curve(error: Callable[[int], float], pulls: int, points: int) -> dict[str, Any]:
    """Errors over the window at equally spaced budgets, and the slope of -ln(error) in the budget."""
    ends = [_first(error, level) for level in (WINDOW[1], WINDOW[0])]
    places = np.unique(np.linspace(ends[0], max(ends[0] + 2, ends[1] - 1), points).round().astype(int))
    budgets, errors = [int(n) * pulls for n in places], [error(int(n)) for n in places]
    y = -np.log(errors)
    slope, level = np.polyfit(budgets, y, 1)
    rest = y - (slope * np.array(budgets) + level)
    r2 = 1 - float(rest @ rest) / float(((y - y.mean()) ** 2).sum())
    return {"budgets": budgets, "errors": errors, "slope": float(slope), "r2": r2}


def _first(error: Callable[[int], float], level: float) -> int:
    """The least number of pulls with an error of at most `level`."""
    high = 1
    while error(high) > level:
        high *= 2
    low = high // 2
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (middle, high) if error(middle) > level else (low, middle)
    return high


def fit(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """slope = 1 / (a + b / epsilon) with a, b >= 0, by least squares of slope (a + b / epsilon) - 1."""
    slopes = np.array([r["slope"] for r in rows])
    epsilons = np.array([r["epsilon"] for r in rows])
    (a, b), _ = scipy.optimize.nnls(np.stack([slopes, slopes / epsilons], 1), np.ones(len(rows)))
    off = slopes * (a + b / epsilons) - 1
    return {"a": float(a), "b": float(b), "off": {name(e): float(o) for e, o in zip(epsilons, off, strict=True)}}


def _losses() -> dict[str, Any]:
    """What the arm returned of two arms, and what the whole history of three, gives away at most."""
    returned = [
        {"epsilon": e, "noise": n, "tie": t, "pulls": p, "loss": exact_two_arm_loss(p, e, n, t)}
        for e in LOSS_EPSILONS for n, t in (("laplace", "first"), ("discrete", "first"), ("discrete", "coin"))
        for p in (1, 10, 100)
    ]  # fmt: skip
    options = {e: DPBAI(e, 12, design="all", sizes=(3, 2, 1)) for e in LOSS_EPSILONS}
    history = [
        {"epsilon": e, "fault": f or "", "loss": name(exact_loss(o, np.eye(3), f))}  # type: ignore[arg-type]
        for e, o in options.items() for f in (None, *FAULTS)
    ]  # fmt: skip
    return {"returned": returned, "history": history}


def _simulator(trials: int) -> list[dict[str, Any]]:
    """The simulator against the enumeration: two arms with both laws, four arms over two phases."""
    found = []
    two = LinearArms(np.eye(2), (0.6, 0.5))
    four, options = LinearArms(np.eye(4), FOUR), {"design": "all", "sizes": halving(4)}
    for e in CHECKED:
        for law in ("laplace", "discrete"):
            exact = exact_two_arm(0.6, 0.5, 50, e, law)  # type: ignore[arg-type]
            wrong = (simulate(DPBAI(e, 100), two, trials, law=law).arm != 0).sum()  # type: ignore[arg-type]
            found.append({"what": f"two arms, {law}", "epsilon": e, "exact": exact, "wrong": int(wrong)})
        played: Any = DPBAI(e, 160, **options)  # type: ignore[arg-type]
        wrong = (simulate(played, four, trials, law="discrete").arm != 0).sum()
        found.append(
            {"what": "four arms, discrete", "epsilon": e, "exact": exact_error(played, four), "wrong": int(wrong)}
        )
    return [row | {"trials": trials} for row in found]
