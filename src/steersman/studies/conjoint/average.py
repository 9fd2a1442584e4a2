"""Runs of the average case: closed form, estimates and their intervals, rules of thumb, honest values."""

from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.decide.conjoint import (
    Outcome,
    PairLogit,
    RatingLinear,
    Terms,
    amce,
    best_levels,
    crossfit_value,
    optimize_policy,
)
from steersman.decide.conjoint.surface import surface
from steersman.studies.conjoint.worlds import EXPLAINED, binary, chosen, crossed, rated, ratings

INSIDE = 0.1
"""The true optimum gives every level at least this."""
GROWTH = 1.25
SMALL = 0.02
"""lam of the comparison with rules of thumb: little holds the policy near the design."""


def exact(seed: int, instances: int) -> dict[str, Any]:
    """The closed form against the numerical optimum on random models, designs and lam."""
    rng = generator(seed, "conjoint study/exact")
    worst, applied, refused, wrong = 0.0, 0, 0, 0
    for _ in range(instances):
        factors = binary(int(rng.integers(1, 4)), four=bool(rng.integers(0, 2)))
        terms = crossed(factors)
        theta = rng.standard_normal(len(terms.names)) * rng.uniform(0.02, 0.4)
        model, lam = Outcome(terms, theta, 0.5, "linear", True), float(10 ** rng.uniform(-1.5, 0.5))
        design = [rng.dirichlet(np.full(len(f.levels), 5.0)) for f in factors]
        numerical = optimize_policy(model, design, lam=lam, method="numerical")
        try:
            closed = optimize_policy(model, design, lam=lam, method="closed")
        except UserError:
            refused += 1
            wrong += numerical.least_lam is not None and numerical.least_lam < lam and not numerical.boundary
            continue
        applied += 1
        worst = max(worst, float(np.abs(closed.policy.x - numerical.policy.x).max()))
    return {"worst": worst, "applied": applied, "refused": refused, "wrongly_refused": wrong}


def lam_of(model: Outcome) -> float:
    """The least lam of a geometric ladder at which the true optimum is inside by a margin."""
    lam = 0.05
    while True:
        found = optimize_policy(model, lam=lam)
        if found.least_lam is not None and lam > 1.5 * found.least_lam and found.policy.x.min() >= INSIDE:
            return lam
        lam *= GROWTH


def estimates(count: int, seed: int, samples: list[int], replications: int) -> dict[str, Any]:
    """Errors and coverage of 95 % intervals over surveys of one world, by size."""
    model, noise = ratings(count)
    lam = lam_of(model)
    truth = optimize_policy(model, lam=lam)
    spread = (1 / EXPLAINED) ** 0.5
    rows = []
    for n in samples:
        found: dict[str, list[float]] = {k: [] for k in ("square", "value", "covered", "policy_covered", "closed")}
        for r in range(replications):
            rng = generator(seed, f"conjoint study/estimates {count} {n}", r)
            got = optimize_policy(RatingLinear().fit(rated(model, noise, n, rng)), lam=lam)
            off, half = got.policy.x - truth.policy.x, 1.959964 * got.policy_se
            i = got.interval()
            found["square"].append(float((off**2).mean()))
            found["value"].append((got.value - truth.value) / spread)
            found["covered"].append(float(i.low <= truth.value <= i.high))
            found["policy_covered"].append(float((np.abs(off) <= half).mean()))
            found["closed"].append(float(got.status == "interior optimum"))
        rows.append({"samples": n, **found})
    return {"lam": lam, "truth": truth.value, "rows": rows}


def rules(seed: int, samples: int, replications: int) -> dict[str, Any]:
    """True worth of our policy and of the best levels by AMCE, where two good levels clash and where nothing interacts.

    And what a policy's own model, and folds that did not choose it, say of its worth (logit of choices).
    """
    factors = binary(4)
    worlds = {
        "clash": Outcome(Terms(factors, ((0, 1),)), np.array([0.3, 0.25, 0.1, 0.1, -0.45]), 0.0, "linear", False),
        "additive": Outcome(Terms(factors, ()), np.array([0.3, 0.25, 0.1, 0.1]), 0.0, "linear", False),
    }
    out: dict[str, Any] = {name: {"ours": [], "amce": []} for name in worlds}
    for r in range(replications):
        for name, world in worlds.items():
            data = rated(world, 0.3, samples, generator(seed, f"conjoint study/rules {name}", r))
            q = surface(world, None)
            out[name]["ours"].append(q.value(optimize_policy(RatingLinear().fit(data), lam=SMALL).policy.x))
            out[name]["amce"].append(q.value(best_levels(amce(data)).x))
    terms = crossed(factors)
    theta = generator(7, "conjoint study/choices").standard_normal(len(terms.names)) * 0.4
    world = Outcome(terms, theta, 0.0, "logit", True)
    q, honest = surface(world, np.full(8, 0.5)), {"plug_in": [], "doubly_robust": []}
    for r in range(replications):
        data = chosen(world, samples, generator(seed, "conjoint study/choices", r))
        got = optimize_policy(PairLogit().fit(data), list(data.design), lam=0.05)
        true = q.value(got.policy.x)
        honest["plug_in"].append(got.value - true)
        honest["doubly_robust"].append(crossfit_value(data, PairLogit(), lam=0.05, seed=seed).dr.value - true)
    return out | {"honest": honest}
