"""Which hidden states the sampler takes while it draws, so that no forward pass is run for them afterwards.

Where a stage asks the policy for nothing but means of hidden states, the sampler gives them: it computes the states
anyway. Where it also asks for what the sampler does not keep (entropies, states of every token), the scoring pass that
is run for that gives the means for nothing. Leaves out: taking them (`language.capture`), scoring passes (`passes`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from steersman.core.component import Moment, Pass, Stage, Tail
from steersman.core.types import Rollouts
from steersman.language.capture import TailState
from steersman.train.engine.work import Drawing
from steersman.train.passes import Passes, check_numbers


def by_sampler(stages: Sequence[Stage], own: Mapping[str, Pass], at: Moment) -> dict[str, Pass]:
    """The passes that the sampler answers at this moment, by their stream.

    Args:
        stages: in the order they will run.
        own: passes that they ask for by the stream's name (`passes.own_passes`).
        at: seed and step.
    """
    found: dict[str, Pass] = {}
    there: set[str] = set()
    for stage in stages:
        named = [own[n] for n in stage.needs if n in own and n not in there]
        asked = [p for p in (*named, *stage.passes_now(at)) if _of_the_sampled(p)]
        if all(_state(p) is not None for p in asked):
            found = {p.stream: p for p in asked} | found
        there |= {p.stream for p in asked} | {*stage.gives}
    return found


def drawing_with(drawing: Drawing, asked: Mapping[str, Pass]) -> Drawing:
    """The same drawing with the states that `by_sampler` chose."""
    if not asked:
        return drawing
    return replace(drawing, states={name: state for name, p in asked.items() if (state := _state(p)) is not None})


def taken(passes: Passes, asked: Mapping[str, Pass], rollouts: Rollouts) -> Rollouts:
    """Graded rollouts whose streams of the sampler count as passes done: 0 in rows that are not valid.

    An engine that gave none of them has them scored as ever.
    """
    for name, pass_ in asked.items():
        if name in rollouts.streams:
            x = torch.where(rollouts.valid[:, None], rollouts.streams[name], 0.0)
            check_numbers(x, "sampler", "hidden states", torch.ones_like(rollouts.valid))
            rollouts = rollouts.with_streams(**{name: x})
            passes.done[name] = pass_
            passes.sampled.add(name)
    return rollouts


def _of_the_sampled(p: Pass) -> bool:
    """Whether a pass is over the rows as they were sampled, by the policy that drew them."""
    return p.by == "policy" and p.before is None and p.quantity != "divergence"


def _state(p: Pass) -> TailState | None:
    """The mean that answers a pass; None = the sampler cannot take it."""
    tail: Tail | None = getattr(p.pool, "tail", None)
    if tail is None or p.quantity != "hidden" or p.rows is not None or p.optional:
        return None
    return TailState(p.layer, tail)
