"""Gradients of a policy at fixed weights, as methods would compute them: nothing is moved.

Leaves out: what is said of them (`stats.gradients`), training (`rl`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
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

WIDTH = 2**18
"""Numbers kept of a gradient: as many as models have parameters whose gradients fit in memory by the dozen."""
_CHUNK = 2**22


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
    batch, told = _staged(engine, world, stages, rollouts, rows, at, temperature)
    engine.forget()
    engine.accumulate([Job(batch, tuple(terms))], frozenset({"policy"}), temperature)
    found = flat_gradient(engine.policy)
    engine.forget()
    return found, told


def _staged(
    engine: LocalEngine,
    world: World,
    stages: Sequence[Stage],
    rollouts: Rollouts,
    rows: Sequence[Mapping[str, Any]],
    at: Moment,
    temperature: float,
) -> tuple[Rollouts, dict[str, float]]:
    """A batch after its stages and the passes they ask for, and what they tell."""
    known = dict(zip(rollouts.group.tolist(), rows, strict=True))

    def rows_of(part: Rollouts) -> list[Mapping[str, Any]]:
        return [known[g] for g in part.group.tolist()]

    passes = Passes(engine, world.encode, temperature, engine.context)
    return run_stages(stages, rollouts, passes, rows_of, at)


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
    *,
    first: int = 0,
    told: Moment | None = None,
    keep: Callable[[Tensor], Tensor] = lambda g: g,
) -> dict[str, Float[Tensor, "B P"]]:
    """Gradients of several estimators on the same batches of rollouts.

    Args:
        engine: of one process.
        world: prompts and grader.
        drawing: `samples` responses of each prompt.
        prompts: of a batch.
        estimators: fresh stages for every batch, under each one's name.
        terms: of the objective, the same for all.
        batches: B; batch b has the prompts and the noise of step `first` + b.
        seed: of prompts and noise.
        after: called after every batch.
        first: step of the first batch.
        told: the moment that stages with a schedule are told, each batch with a seed of its own; None = the batch's.
        keep: what is kept of a gradient (`sketched`).

    Returns:
        For each estimator a row a batch.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in estimators}
    heat = drawing.sampling.temperature
    for b in range(batches):
        at = Moment(seed, first + b, first + batches)
        rollouts, rows = graded_rollouts(engine, world, drawing, prompts, at)
        now = at if told is None else replace(told, seed=told.seed + b)
        for name, make in estimators.items():
            seen[name].append(keep(batch_gradient(engine, world, make(), terms, rollouts, rows, now, heat)[0]))
        after()
    return {name: torch.stack(x) for name, x in seen.items()}


def taught(
    engine: LocalEngine,
    world: World,
    drawing: Drawing,
    prompts: int,
    estimators: Mapping[str, Sequence[Stage]],
    batches: int,
    seed: int,
    total: int,
) -> dict[str, Callable[[], list[Stage]]]:
    """What `gradients` takes as estimators: copies of stages that remember the first batches of a run, and no others.

    Args:
        engine, world, drawing, prompts: as for `gradients`.
        estimators: stages of each; they are changed.
        batches: that they see, of steps 0, 1, 2 ...
        seed: of prompts and noise.
        total: steps of the run they are told of.
    """
    for step in range(batches):
        at = Moment(seed, step, total)
        rollouts, rows = graded_rollouts(engine, world, drawing, prompts, at)
        for stages in estimators.values():
            _staged(engine, world, stages, rollouts, rows, at, drawing.sampling.temperature)
    return {name: partial(_copies, stages, [s.state_dict() for s in stages]) for name, stages in estimators.items()}


def _copies(stages: Sequence[Stage], states: Sequence[dict[str, Any]]) -> list[Stage]:
    fresh = [s.model_copy() for s in stages]
    for stage, state in zip(fresh, states, strict=True):
        stage.load_state_dict(state)
    return fresh


def sketched(gradient: Float[Tensor, " P"], width: int = WIDTH) -> Float[Tensor, " W"]:
    """At most `width` numbers that keep inner products: each entry is added, with a sign, to a place drawn for it.

    <S x, S y> has the mean <x, y> over the drawing of places and signs, which is always the same here, and a deviation
    of at most |x| |y| sqrt(2 / width): 0.3 % at the default. A gradient of no more than `width` entries stays as it is.

    Args:
        gradient: of the model's parameters in their order.
        width: W >= 1.

    Source: the count sketch of Charikar, Chen and Farach-Colton, 2002.
    """
    if len(gradient) <= width:
        return gradient
    out = torch.zeros(width)
    for start in range(0, len(gradient), _CHUNK):
        part = gradient[start : start + _CHUNK].cpu()
        draw = torch.Generator().manual_seed(start)
        place = torch.randint(2 * width, (len(part),), generator=draw)
        out.index_add_(0, place // 2, torch.where(place % 2 == 0, part, -part))
    return out
