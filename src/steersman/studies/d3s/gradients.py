"""Gradients of every method on the same batches at the supervised policy's weights, and the selection against brute
force.

Of each batch: the norm of the gradient as it is, the norm if the loss were divided by all tokens of the batch, and its
cosine to the reference, the mean of plain GRPO's gradients of all *other* batches. Over batches: the signal-to-noise
ratio |E g|^2 / tr Cov(g), with |E g|^2 = |mean g|^2 - tr Cov(g) / B (unbiased; may be below 0).
Leaves out: training (`studies.rl_runs`), what is concluded (`claims`).
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steersman.core.component import Moment
from steersman.core.config import read, validate
from steersman.core.noise import uniform
from steersman.language.load import load_model, load_tokenizer, stop_ids
from steersman.objective.select.d3s import max_variance
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_parts import drawing_of, stages_of, terms_of
from steersman.store.run import RunDir
from steersman.studies.chain_sum_policy import model_folder
from steersman.studies.rl_runs import OURS
from steersman.study.declare import Cell
from steersman.study.progress import Progress
from steersman.task.chain_sum import ChainSum
from steersman.task.worlds import ChainSumWorld
from steersman.train.engine.local import LocalEngine
from steersman.train.gradients import batch_gradient
from steersman.train.optimise import Optimiser
from steersman.train.show import graded_rollouts

BRUTE, ROWS = 200, 9
"""Random cases on which the selection is compared with all subsets, and the most rows of one."""
SAME = 1e-9
"""Variances this close are equal."""
DECODE_TOKENS = 32_768


def run(cell: Cell, run_dir: RunDir, policy: Path) -> dict[str, Any]:
    """Gradients of `cell.task["batches"]` batches by every method of the arm.

    Returns:
        ``optimal``: cases in which the selection was optimal, and cases; ``methods``: for each its lists over batches
        `norm`, `full`, `cosine`, `tokens`, `filler`, and its `snr`.
    """
    recipes = {name: _recipe(v, policy) for name, v in cell.arm.settings["methods"].items()}
    first = next(iter(recipes.values()))
    tokenizer, model = load_tokenizer(model_folder(policy)), load_model(model_folder(policy))
    engine = LocalEngine(model, Optimiser(model.named_parameters(), first.optim, 1))
    knobs = {k: getattr(first.task, k) for k in ChainSum.model_fields}
    world = ChainSumWorld(ChainSum.model_validate(knobs))
    drawing = drawing_of(first, stop_ids(model, tokenizer), tokenizer, DECODE_TOKENS)
    n = int(cell.task["batches"])
    progress = Progress(run_dir.path, n, "batches")
    seen: dict[str, list[tuple[Tensor, float, float]]] = {name: [] for name in recipes}
    for b in range(n):
        at = Moment(cell.seed, b, n)
        drawn, rows = graded_rollouts(engine, world, drawing, first.budget.batch, at)
        for name, recipe in recipes.items():
            g, told = batch_gradient(engine, world, stages_of(recipe), terms_of(recipe), drawn, rows, at)
            seen[name].append((g, told["Kept/tokens"], told.get("Kept/filler", 0.0)))
        progress.advance(1)
    whole = [tokens for _, tokens, _ in seen["grpo"]]
    plain = torch.stack([g for g, _, _ in seen["grpo"]])
    return {"optimal": [_optimal(cell.seed), BRUTE], "methods": {k: _told(v, plain, whole) for k, v in seen.items()}}


def _recipe(settings: Mapping[str, Any], policy: Path) -> RLRecipe:
    values = {**settings, "model": {"path": str(model_folder(policy))}}
    return validate(RLRecipe, read(None, (), values), OURS)


def _told(seen: list[tuple[Tensor, float, float]], plain: Tensor, whole: list[float]) -> dict[str, Any]:
    """What is reported of one method's gradients."""
    g = torch.stack([x for x, _, _ in seen])
    n = len(g)
    norm = g.double().norm(dim=1)
    total = plain.double().sum(0)
    reference = torch.stack([total - row.double() for row in plain])  # the scale of a reference is of no consequence
    cosine = torch.nn.functional.cosine_similarity(g.double(), reference, dim=1)
    mean = g.double().mean(0)
    noise = float((g.double() - mean).square().sum() / max(n - 1, 1))
    signal = float(mean.square().sum()) - noise / n
    tokens = [t for _, t, _ in seen]
    return {
        "norm": norm.tolist(),
        "full": [float(x) * t / w for x, t, w in zip(norm, tokens, whole, strict=True)],
        "cosine": cosine.tolist(),
        "tokens": tokens,
        "filler": [f for _, _, f in seen],
        "snr": signal / noise if noise > 0 else None,
    }


def _optimal(seed: int) -> int:
    """In how many random cases `max_variance` keeps a set of the largest variance of all sets of its size."""
    found = 0
    for case in range(BRUTE):
        draws = uniform(seed, "d3s/brute", case, np.arange(ROWS + 2))
        size = 2 + int(draws[0] * (ROWS - 1))
        n = 1 + int(draws[1] * size)
        # Every other case is rounded, so that values tie.
        a = np.round(4 * draws[2 : 2 + size]) if case % 2 else draws[2 : 2 + size]
        kept = max_variance(torch.tensor(a, dtype=torch.float64), n).tolist()
        best = max(float(np.var(a[list(s)])) for s in itertools.combinations(range(size), n))
        found += len(set(kept)) == n and float(np.var(a[kept])) >= best - SAME
    return found
