"""Gradients of every estimator on batches of 64 responses at the supervised policy's weights.

Every allocation (32 x 2, 64 x 1, 8 x 8, 16 x 4) has prompts and noise of its own; estimators of one allocation see the
same rollouts. A baseline that is fixed given the prompt, the demonstrator's true value, gives the exact gradient in the
mean; differences from it on the same rollouts are what bias is measured on. The probe was taught before, by batches of
other prompts, and is the same for all batches. Leaves out: what is concluded (`claims`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steersman.core.component import Moment, Stage
from steersman.core.types import Rollouts
from steersman.objective.advantage.poise import InternalValue
from steersman.objective.components import Aggregation
from steersman.objective.components_advantage import GRPO, RLOO, Baseline, UniformCredit
from steersman.objective.components_policy import Reinforce
from steersman.stats.gradients import components, distances, mean_square
from steersman.store.run import RunDir
from steersman.studies.poise.arms import ALONE, PAIRED
from steersman.studies.poise.names import ALLOCATIONS
from steersman.studies.poise.probes import drawing, engine_of
from steersman.studies.rl_stages import TrueValue
from steersman.study.declare import Cell
from steersman.study.progress import Progress
from steersman.task.chain_sum import ChainSum
from steersman.task.worlds import ChainSumWorld
from steersman.train.engine.local import LocalEngine
from steersman.train.gradients import batch_gradient, gradients
from steersman.train.show import graded_rollouts
from steersman.train.terms import policy_term

TAUGHT = (8, 64, 2)
"""Batches, prompts and responses that the probe has seen: 1,024 examples."""
LITTLE = (1, 64, 2)
"""Of the control that refits before use, which is to show what it does while the probe knows little."""
LEAK = {"refit": "before", "alpha": 0.01, "min_examples": 1}
"""That control, with the paper's penalty."""
RESPONSES = 4
"""To each prompt whose single gradients are taken."""
_PAST = 1000
"""Added to the seed of what the probe was taught with."""
TERMS = (policy_term(Reinforce(), Aggregation(mode="seq_mean_token_sum")),)

Make = Callable[[], Sequence[Stage]]


def run(cell: Cell, run_dir: RunDir, policy: Path) -> dict[str, Any]:
    """Gradients of ``rounds`` batches of each allocation, and of single responses to ``prompts`` prompts.

    Returns:
        ``estimators``: name -> ``distance`` (a number a batch, mean = trace of the covariance), ``square`` (|E g|^2),
        and of those with a reference on the same rollouts ``along`` (a number a batch, mean = bias along the exact
        gradient, as a share of it), ``leak`` (a number a batch of the second half, mean > 0 = biased) and ``bias``
        (size of the bias as a share of the exact gradient, squared); ``exact``: |E g|^2 of the reference; ``parts``:
        [S_w, S_b] of single gradients.
    """
    task = ChainSum.model_validate(cell.arm.settings["task"])
    engine, world, rounds = engine_of(policy), ChainSumWorld(task), int(cell.task["rounds"])
    progress = Progress(run_dir.path, len(ALLOCATIONS) * rounds, "batches")
    makers = _makers(engine, world, task, cell.seed)
    found = {
        (n, m): gradients(
            engine, world, drawing(task, m), n, {k: makers[k] for k in names}, TERMS, rounds, cell.seed + 1 + i,
            progress.advance,
        )
        for i, ((n, m), names) in enumerate(ALLOCATIONS.items())
    }  # fmt: skip
    reference = found[64, 1]["true value 64x1"].double()
    told: dict[str, Any] = {}
    for (n, m), of in found.items():
        exact = of[f"true value {n}x{m}"].double()
        for name, g in of.items():
            told[name] = {"distance": distances(g).tolist(), "square": mean_square(g)}
            if not name.startswith("true value") and (n, m) != (64, 1):
                told[name] |= _bias(g.double() - exact, reference)
    parts = components(_singles(engine, world, task, int(cell.task["prompts"]), cell.seed))
    return {"estimators": told, "exact": mean_square(reference), "parts": list(parts)}


def _makers(engine: LocalEngine, world: ChainSumWorld, task: ChainSum, seed: int) -> dict[str, Make]:
    """Name -> fresh stages; those with a probe get one that was taught."""
    known = {"error": task.error, "error_hard": task.error_hard}
    probes = {
        "poise": _taught(engine, world, task, seed, TAUGHT, **PAIRED),
        "own rollout": _taught(engine, world, task, seed, TAUGHT, **PAIRED | {"pairing": "own"}),
        "refit before use": _taught(engine, world, task, seed, LITTLE, **PAIRED | LEAK),
        "poise, prompt only": _taught(engine, world, task, seed, TAUGHT, **ALONE),
    }
    plain: dict[str, Callable[[], Stage]] = {
        "rloo 32x2": RLOO,
        "rloo 8x8": RLOO,
        "group mean": lambda: GRPO(scale="none"),
        "none": lambda: Baseline(value=0.0),
        "constant": lambda: Baseline(value=0.5),
    }
    plain |= {f"true value {n}x{m}": lambda: TrueValue(**known) for n, m in ALLOCATIONS}
    found: dict[str, Make] = {k: _credited(make) for k, make in plain.items()}
    return found | {k: _credited(probe.model_copy) for k, probe in probes.items()}


def _credited(make: Callable[[], Stage]) -> Make:
    return lambda: (make(), UniformCredit())


def _taught(
    engine: LocalEngine, world: ChainSumWorld, task: ChainSum, seed: int, sizes: tuple[int, int, int], **options: Any
) -> InternalValue:
    """A stage that has seen some batches; a copy of it forgets what it sees itself."""
    batches, prompts, samples = sizes
    stage = InternalValue(**options, buffer_steps=batches + 1)
    for b in range(batches):
        at = Moment(seed + _PAST, b)
        rollouts, rows = graded_rollouts(engine, world, drawing(task, samples), prompts, at)
        batch_gradient(engine, world, [stage, UniformCredit()], TERMS, rollouts, rows, at)
    state = stage.state_dict()
    stage.load_state_dict(state | {"step": state["step"] - batches})  # all that comes is later
    return stage


def _bias(gap: Tensor, reference: Tensor) -> dict[str, Any]:
    """How far an estimator is from the exact gradient in the mean; `reference` is of other rollouts."""
    exact, size = reference.mean(0), mean_square(reference)
    half = len(gap) // 2
    direction = gap[:half].mean(0)
    return {
        "along": (gap @ exact / size).tolist(),
        "leak": (gap[half:] @ direction / size).tolist(),
        "bias": mean_square(gap) / size,
    }


def _singles(engine: LocalEngine, world: ChainSumWorld, task: ChainSum, prompts: int, seed: int) -> Any:
    """Gradients of single responses with the true value as baseline ``[prompts, RESPONSES, P]``."""
    at = Moment(seed + 2 * _PAST)
    rollouts, rows = graded_rollouts(engine, world, drawing(task, RESPONSES), prompts, at)
    stages = (TrueValue(error=task.error, error_hard=task.error_hard or task.error), UniformCredit())
    found = [_one(engine, world, stages, rollouts, rows, i) for i in range(len(rollouts))]
    return np.stack([g.numpy() for g in found]).reshape(prompts, RESPONSES, -1)


def _one(
    engine: LocalEngine, world: ChainSumWorld, stages: Sequence[Stage], rollouts: Rollouts, rows: Any, i: int
) -> Tensor:
    return batch_gradient(engine, world, stages, TERMS, rollouts.index(torch.tensor([i])), rows[i : i + 1])[0]
