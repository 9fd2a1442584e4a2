"""Gradients of a policy at fixed weights, as methods would compute them: nothing is moved.

Leaves out: what is said of them (`stats.gradients`), training (`rl`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steersman.core.component import START, Moment, Stage
from steersman.core.types import Rollouts
from steersman.task.world import World
from steersman.train.collect import run_stages
from steersman.train.engine.local import LocalEngine
from steersman.train.engine.work import Drawing, Job
from steersman.train.passes import Passes
from steersman.train.show import graded_rollouts
from steersman.train.terms import Term


def flat_gradient(model: nn.Module) -> Float[Tensor, " P"]:
    """The gradient as one vector, float32; parameters without one count as 0."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
    return torch.cat([g.detach().flatten().float() for g in parts])


def batch_gradient(
    engine: LocalEngine,
    world: World,
    stages: Sequence[Stage],
    terms: Sequence[Term],
    rollouts: Rollouts,
    rows: Sequence[Mapping[str, Any]],
    at: Moment = START,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " P"], dict[str, float]]:
    """The gradient of the policy's loss on one batch, and what its stages tell.

    Args:
        engine: of one process; its gradients are cleared before and after.
        world: encodes what stages put before responses.
        stages: are called as they are, so that those with a memory learn.
        terms: of the objective.
        rollouts: graded.
        rows: the grader's row of each.
        at: seed and step.
        temperature: the rollouts were sampled with.
    """
    known = dict(zip(rollouts.group.tolist(), rows, strict=True))

    def rows_of(part: Rollouts) -> list[Mapping[str, Any]]:
        return [known[g] for g in part.group.tolist()]

    passes = Passes(engine, world.encode, temperature, engine.context)
    batch, told = run_stages(stages, rollouts, passes, rows_of, at)
    engine.forget()
    engine.accumulate([Job(batch, tuple(terms))], frozenset({"policy"}), temperature)
    found = flat_gradient(engine.policy)
    engine.forget()
    return found, told


def gradients(
    engine: LocalEngine,
    world: World,
    drawing: Drawing,
    prompts: int,
    estimators: Mapping[str, Callable[[], Sequence[Stage]]],
    terms: Sequence[Term],
    batches: int,
    seed: int,
    after: Callable[[], None] = lambda: None,
) -> dict[str, Float[Tensor, "B P"]]:
    """Gradients of several estimators on the same batches of rollouts.

    Args:
        engine: of one process.
        world: prompts and grader.
        drawing: `samples` responses of each prompt.
        prompts: of a batch.
        estimators: fresh stages for every batch, under each one's name.
        terms: of the objective, the same for all.
        batches: B; batch b has the prompts and the noise of step b.
        seed: of prompts and noise.
        after: called after every batch.

    Returns:
        For each estimator a row a batch.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in estimators}
    heat = drawing.sampling.temperature
    for b in range(batches):
        at = Moment(seed, b, batches)
        rollouts, rows = graded_rollouts(engine, world, drawing, prompts, at)
        for name, make in estimators.items():
            seen[name].append(batch_gradient(engine, world, make(), terms, rollouts, rows, at, heat)[0])
        after()
    return {name: torch.stack(x) for name, x in seen.items()}
