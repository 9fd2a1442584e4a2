"""Measuring a policy on held-out prompts: accuracy with its interval, reward, lengths, pass@k.

The noise of evaluation is the same each time (common random numbers) and none of training's. Leaves out: comparing two
policies (`recipes.evaluate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from steersman.core.component import Moment, Pass
from steersman.core.noise import generator
from steersman.core.types import STOP_EOS, Rollouts
from steersman.reward.verifiable import Row
from steersman.stats import bootstrap, pass_at_k, wilson
from steersman.task.world import World, grades
from steersman.train.engine.work import Drawing
from steersman.train.passes import Passes

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How held-out prompts are answered: how many of them (None = all), samples each, temperature (0 = greedy), and
    passes over the answers whose streams are reported as means over their tokens."""

    prompts: int | None = None
    samples: int = 1
    temperature: float = 1.0
    passes: tuple[Pass, ...] = ()


def evaluate(
    engine: Any, world: World, drawing: Drawing, how: Evaluation, seed: int, made: list[Rollouts]
) -> dict[str, float]:
    """Answer and grade the held-out prompts; empty where there are none.

    `made` receives the answers as soon as they exist, so that a caller can save them if the grader fails.

    Returns:
        `reward`, `length` (tokens), `ended_share`, `invalid_share`; where the grader says what is correct also
        `accuracy` with `accuracy_low`, `accuracy_high` (95 %; Wilson, or with several samples a prompt the bootstrap
        over prompts) and `pass_at_k` for the number of samples. Invalid rows count nowhere but in their share. Of a
        world that does not grade there are `length`, `ended_share` and the passes alone.
    """
    prompts = world.held_out(how.prompts)
    if prompts is None:
        return {}
    heat = drawing.sampling.temperature
    sampling = drawing.sampling.model_copy(update={"temperature": how.temperature})
    drawing = replace(drawing, samples=how.samples, sampling=sampling)
    own = int(generator(seed, "evaluation").integers(2**31))
    drawn = engine.sample(prompts, drawing, Moment(own), own)
    made.append(drawn)
    rows = [row for row in prompts.rows for _ in range(how.samples)]
    told = {
        "length": float(drawn.action.sum(1).double().mean()),
        "ended_share": float((drawn.stop == STOP_EOS).double().mean()),
    }
    told |= measured(engine, world, drawn, how.passes, rows, heat)
    if not grades(world):
        return told
    graded = engine.share(
        len(drawn),
        lambda p: [world.grade(drawn.index(slice(p.start, p.stop)), rows[p.start : p.stop])] if p else [],
    )
    valid = torch.cat([g.scores.valid for g in graded]).cpu() & drawn.valid
    reward = torch.cat([g.scores.value for g in graded]).cpu()[valid]
    told |= {"reward": float(reward.double().mean()), "invalid_share": float((~valid).double().mean())}
    if all("correct" in g.scores.parts for g in graded):
        correct = torch.cat([g.scores.parts["correct"] for g in graded]).bool().cpu()
        told |= accuracy(correct.view(-1, how.samples), valid.view(-1, how.samples), seed)
    return told


def measured(
    engine: Any, world: World, drawn: Rollouts, passes: Sequence[Pass], rows: Sequence[Row], temperature: float
) -> dict[str, float]:
    """Means over the tokens of some responses of what forward passes say of them."""
    if not passes:
        return {}
    made = Passes(engine, world.encode, temperature, engine.context).run(passes, drawn, lambda _: rows)
    return {p.stream: float(made.streams[p.stream][drawn.action].double().mean()) for p in passes}


def accuracy(correct: Tensor, valid: Tensor, seed: int) -> dict[str, float]:
    """Accuracy of P prompts with S samples each ``[P, S]``, the prompt being the unit of the interval."""
    right, made = (correct & valid).sum(1).numpy(), valid.sum(1).numpy()
    some = made > 0
    if not some.any():
        return {}
    right, made = right[some], made[some]
    if correct.shape[1] == 1:
        found = wilson(int(right.sum()), len(right))
        return {"accuracy": found.value, "accuracy_low": found.low, "accuracy_high": found.high}
    mean, k = right / made, int(made.min())
    found = bootstrap(mean, resamples=_RESAMPLES, seed=seed)
    return {
        "accuracy": found.value,
        "accuracy_low": found.low,
        "accuracy_high": found.high,
        f"pass_at_{k}": float(pass_at_k(made, right, k).mean()),
    }
