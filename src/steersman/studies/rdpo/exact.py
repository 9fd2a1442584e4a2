"""Part A of the rDPO study: a world in which the truth is known and everything can be computed.

Log-linear policies are fitted by every loss to the same pairs with the same flips, to convergence: no learning rate, no
early stopping, no network stands between a loss and what it estimates. `cells` says what is run, `run` runs it, CLAIMS
were written before the first run, `show` draws. Leaves out: text (Part B), losses without curvature (hinge).
Source: settings of the paper's abstract and our own derivations; the paper's full text could not be read.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steersman.core.noise import uniform
from steersman.objective.loss.preference import cdpo, dpo, rdpo
from steersman.store.run import RunDir
from steersman.studies.rdpo.exact_claims import CLAIMS, FIRST_SEED, QUICK_SEEDS, SEEDS
from steersman.studies.rdpo.exact_data import (
    CURVES,
    DIMENSION,
    FAMILY,
    FEATURES,
    FLIP_RATES,
    NORM,
    PART,
    SAMPLES,
    Array,
    loss_function,
)
from steersman.studies.rdpo.exact_show import sentence, show
from steersman.study.declare import Arm, Cell, ModeName
from steersman.task.log_linear import World, draw, sub_optimality
from steersman.train.convex import BallFit, fit_ball

__all__ = ["CLAIMS", "cells", "run", "sentence", "show"]

BOUND = 4.0  # radius of the ball, in lengths of theta*
TUNING_SEEDS = range(10**6, 10**6 + 16)  # data of their own for the oracle's choice of beta
VALUES_AT_ONCE = 4_000_000  # features of a batch: 32 MB
WRONG_RATES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
ARM = Arm("all losses", {"bound": BOUND, "beta": 1.0}, "the log-linear world: every loss on the same pairs")

Case = tuple[float, str, float]  # true flip rate, loss, flip rate it assumes


def cells(mode: ModeName, extra_seeds: int = 0) -> tuple[Cell, ...]:
    """The runs of Part A: a few cells, each with a block of seeds fitted at once; extra seeds get cells of their own.

    Args:
        mode: "quick" (10 features, up to 8,000 pairs), "full" (5, 10 and 20 features, up to 32,000) or "gpu" (none:
            nothing here needs one).
        extra_seeds: seeds more than the mode's own.
    """
    if mode == "gpu":
        return ()
    own = QUICK_SEEDS if mode == "quick" else SEEDS
    blocks = [(FIRST_SEED, own), *((FIRST_SEED + own + i, 1) for i in range(extra_seeds))]
    tasks = [{"kind": "unbiased", "draws": 200_000}, *_fit_tasks(mode)]
    # the Monte Carlo check has no paired seeds to add to
    wanted = [(task, block) for block in blocks for task in tasks if block == blocks[0] or task["kind"] == "fits"]
    return tuple(Cell(PART, ARM, {**task, "replications": count}, seed) for task, (seed, count) in wanted)


def _fit_tasks(mode: ModeName) -> list[dict[str, Any]]:
    grid: list[Case] = [(0.0, "dpo", 0.0), *((e, loss, e) for e in FLIP_RATES for loss in CURVES)]
    wrong: list[Case] = [(true, "rdpo", e) for true in (0.0, 0.3) for e in WRONG_RATES]
    family: list[Case] = [(e, loss, e) for e in FLIP_RATES for loss in FAMILY]
    groups = [(500, 1000, 2000, 4000, 8000)] if mode == "quick" else [(500, 1000, 2000, 4000, 8000, 16000), (32000,)]
    dimensions = (DIMENSION,) if mode == "quick" else (5, 10, 20)
    return [
        *(_task([f], d, group, grid) for f in FEATURES for d in dimensions for group in groups),
        _task(FEATURES, DIMENSION, (SAMPLES,), wrong),
        _task(FEATURES, DIMENSION, (SAMPLES,), family),
    ]


def _task(features: Sequence[str], dimension: int, samples: Sequence[int], cases: Sequence[Case]) -> dict[str, Any]:
    return {
        "kind": "fits",
        "features": list(features),
        "dimension": dimension,
        "samples": list(samples),
        "norm": NORM,
        "cases": [list(case) for case in cases],
    }


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """Run one cell in one go (seconds); nothing is written but what is returned.

    Returns:
        "fits": one row per setting and loss with a list over seeds for each metric; or, for the check of
        unbiasedness, "exact" and "monte_carlo".
    """
    task = cell.task
    if task["kind"] == "unbiased":
        return _unbiased(cell.seed, int(task["draws"]))
    seeds = range(cell.seed, cell.seed + int(task["replications"]))
    fits: list[dict[str, Any]] = []
    for features in task["features"]:
        world = World(features, int(task["dimension"]), float(task["norm"]))
        for samples in task["samples"]:
            fits += _fit_cases(world, int(samples), seeds, [(a, b, c) for a, b, c in task["cases"]])
    return {"fits": fits}


def _fit_cases(world: World, samples: int, seeds: Sequence[int], cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Fit every case to the same pairs; DPO's solution at the same flip rate is the start of every other loss."""
    rows: list[list[BallFit]] = [[] for _ in cases]
    rates = list(dict.fromkeys(rate for rate, _, _ in cases))
    beta = {rate: tuned_beta(world, samples, rate) for rate, loss, _ in cases if loss == "dpo_tuned"}
    for block in _blocks(seeds, samples * world.dimension):
        pairs = draw(world, samples, block)
        for rate in rates:
            x = torch.from_numpy(pairs.observed(rate))
            first = fit_ball(loss_function("dpo", rate), x, BOUND * world.norm)
            for row, (true, loss, assumed) in zip(rows, cases, strict=True):
                if true != rate:
                    continue
                scale = beta[rate] if loss == "dpo_tuned" else 1.0
                function = loss_function(loss, assumed, scale)
                row.append(
                    first if loss == "dpo" else fit_ball(function, x, BOUND * world.norm, start=first.theta / scale)
                )
    return [
        {
            "features": world.features,
            "dimension": world.dimension,
            "samples": samples,
            "flip_rate": true,
            "loss": loss,
            "assumed": assumed,
            "seeds": list(seeds),
            "beta": beta.get(true, 1.0) if loss == "dpo_tuned" else 1.0,
            **_metrics(world, parts),
        }
        for (true, loss, assumed), parts in zip(cases, rows, strict=True)
    ]


def tuned_beta(world: World, samples: int, flip_rate: float) -> float:
    """The beta at which DPO's mean squared parameter error is least, chosen by an oracle on data of its own.

    DPO at beta gives theta(1)/beta, so 1/beta = sum theta . theta* / sum ||theta||^2 over sixteen further replications.
    """
    dot, square = 0.0, 0.0
    for block in _blocks(TUNING_SEEDS, samples * world.dimension):
        x = torch.from_numpy(draw(world, samples, block).observed(flip_rate))
        theta = fit_ball(loss_function("dpo", flip_rate), x, BOUND * world.norm).theta.numpy()
        dot, square = dot + float((theta @ world.truth).sum()), square + float((theta**2).sum())
    return square / dot


def _blocks(seeds: Sequence[int], values: int) -> Iterator[Sequence[int]]:
    size = max(1, VALUES_AT_ONCE // values)
    for start in range(0, len(seeds), size):
        yield seeds[start : start + size]


def _metrics(world: World, fits: Sequence[BallFit]) -> dict[str, list[float]]:
    theta = torch.cat([fit.theta for fit in fits]).numpy()
    length, gap = np.linalg.norm(theta, axis=1), sub_optimality(world, theta)
    return {
        "error": _short(np.linalg.norm(theta - world.truth, axis=1)),
        "cosine": _short(theta @ world.truth / (length * world.norm)),
        "length": _short(length / world.norm),
        "greedy": _short(gap.greedy),
        "softmax": _short(gap.softmax),
        "regularised": _short(gap.regularised),
        "at_bound": [float(v) for fit in fits for v in fit.at_bound],
        "converged": [float(v) for fit in fits for v in fit.converged],
        "steps": [float(v) for fit in fits for v in fit.steps],
    }


def _short(values: Array) -> list[float]:
    """Eight digits: more than any statistic here can use, and a result file half as long."""
    return [float(f"{v:.8g}") for v in values]


def _unbiased(seed: int, draws: int) -> dict[str, Any]:
    """Expectation over flips of each loss and its gradient: in closed form over a grid, and from drawn flips."""
    grid, rates = torch.linspace(-20.0, 20.0, 401, dtype=torch.float64), (0.05, 0.1, 0.2, 0.3, 0.4, 0.45)
    losses = {
        "dpo": lambda h, e: dpo(h, 1.0),
        "cdpo": lambda h, e: cdpo(h, 1.0, e),
        "rdpo": lambda h, e: rdpo(h, 1.0, e),
    }
    exact: dict[str, dict[str, float]] = {name: {"loss": 0.0, "gradient": 0.0} for name in losses}
    drawn: list[dict[str, float]] = []
    clean = _value_and_slope(lambda h: dpo(h, 1.0), grid)
    for i, rate in enumerate(rates):
        for name, loss in losses.items():
            (kept, rise), (swapped, fall) = (_value_and_slope(lambda h: loss(h, rate), s * grid) for s in (1, -1))  # noqa: B023
            for what, a, b, target in (("loss", kept, swapped, clean[0]), ("gradient", rise, -fall, clean[1])):
                off = ((1 - rate) * a + rate * b - target).abs() / (1 + target.abs())
                exact[name][what] = max(exact[name][what], float(off.max()))
        for j, margin in enumerate((-2.0, 0.7, 3.0)):
            flipped = float((uniform(seed, "unbiased", np.arange(draws), i, j) < rate).mean())
            drawn.append({"flip_rate": rate, "margin": margin, **_monte_carlo(margin, rate, flipped, draws)})
    return {"exact": exact, "monte_carlo": drawn, "draws": draws}


def _monte_carlo(margin: float, rate: float, flipped: float, draws: int) -> dict[str, float]:
    """Mean over drawn flips minus the clean value, and that in standard errors; the loss takes two values only."""
    z = torch.tensor([margin, -margin], dtype=torch.float64)
    value, slope = _value_and_slope(lambda h: rdpo(h, 1.0, rate), z)
    clean_value, clean_slope = _value_and_slope(lambda h: dpo(h, 1.0), z[:1])
    out: dict[str, float] = {}
    for name, a, b, target in (
        ("loss", float(value[0]), float(value[1]), float(clean_value)),
        ("gradient", float(slope[0]), -float(slope[1]), float(clean_slope)),
    ):
        error = float(np.sqrt(rate * (1 - rate) / draws)) * abs(a - b)
        off = (1 - flipped) * a + flipped * b - target
        out |= {name: off, f"{name}_error": error, f"{name}_score": off / error}
    return out


def _value_and_slope(loss: Any, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z = z.clone().requires_grad_()
    value = loss(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), slope
