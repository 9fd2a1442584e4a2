"""Runs on proxies of the voters' side: split-sample, from the very tasks that are fitted, true sides, no signal."""

from dataclasses import replace
from typing import Any

import numpy as np

from steersman.core.noise import generator
from steersman.decide.conjoint import ConjointData, general_models, infer_groups, solve_game
from steersman.studies.conjoint.worlds import PARTIES, TASKS, leaning

LAM = 0.1
LOYALTY = {"strong": 1.5, "weak": 0.4}


def run(seed: int, respondents: int) -> dict[str, Any]:
    """How far apart the sides come out in their taste for the factor that divides them, and in their loyalty.

    All ways of naming the sides are fitted to the same odd-numbered tasks of the same respondents: those whom the
    split-sample proxy places.
    """
    out: dict[str, Any] = {}
    for name, loyalty in LOYALTY.items():
        data, side = leaning(respondents, loyalty, generator(seed, f"conjoint study/proxy {name}"))
        inferred = infer_groups(data, PARTIES)
        kept = inferred.data
        assert kept.cluster is not None
        assert kept.group is not None
        who = kept.cluster
        ways = {
            "true sides": np.array(PARTIES)[side[who]],
            "split sample": kept.group,
            "same tasks": _same(data)[who],
            "no signal": np.array(PARTIES)[generator(seed, "conjoint study/coin").integers(0, 2, respondents)][who],
        }
        out[name] = {
            "right": float((kept.group == ways["true sides"]).mean()),
            "agreement": inferred.agreement[PARTIES[0]] - inferred.agreement[PARTIES[1]],
            **{way: _apart(replace(kept, group=group)) for way, group in ways.items()},
        }
    return out


def _same(data: ConjointData) -> np.ndarray:
    """Sides by the odd-numbered tasks, which are fitted too; evenly split ones fall to the first."""
    assert data.party is not None
    assert data.cluster is not None
    odd = np.tile(np.arange(TASKS) % 2 == 0, len(data) // TASKS)
    mixed = data.party[:, 0] != data.party[:, 1]
    for_first = (data.party[:, 0] == PARTIES[0]) == (data.outcome == 1)
    balance = np.bincount(data.cluster, np.where(odd & mixed, np.where(for_first, 1, -1), 0))
    return np.where(balance >= 0, *PARTIES)


def _apart(data: ConjointData) -> dict[str, float]:
    """The gap of the sides' tastes for the first factor and of their loyalty, in log-odds; the parties' distance there.

    Tastes have opposite signs and loyalty too, so both gaps are positive in truth. The parties, who face one electorate
    evenly divided, have no reason to differ.
    """
    models, shares = general_models(data, PARTIES, "none")
    found = solve_game(models, shares, lam=LAM)
    a, b = (found.policy[p]["f0"]["0"] for p in PARTIES)
    return {
        "taste": float(models["A"].theta[0] - models["B"].theta[0]),
        "loyalty": models["A"].intercept - models["B"].intercept,
        "parties": a - b,
    }
