"""What engines have in common: how responses are drawn, and one optimiser step's work on rollouts and terms.

Denominators are those of the whole step and known before the first forward; rows in which nothing counts are not run.
Leaves out: forward passes and processes (`local`, `distributed`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from steersman.core.types import Rollouts
from steersman.language.capture import TailState
from steersman.language.sampler import Sampling
from steersman.task.world import Prompts
from steersman.train.terms import MAXIMUM, Live, Term

MOST_SAMPLES = 2**10
"""Responses of a prompt; sample j of group g has the noise of number g * MOST_SAMPLES + j."""

Model = Literal["policy", "reference", "critic", "teacher"]


@dataclass(frozen=True, slots=True)
class Averaged:
    """Hidden states of a layer, or entropies, averaged over some tokens of each row; see `core.component.Pass`."""

    quantity: Literal["hidden", "entropy"]
    layer: int | float | None
    pool: Callable[[Rollouts], Tensor]


@dataclass(frozen=True, slots=True)
class OfLayer:
    """The hidden state after a layer that stands before each action token."""

    layer: int | float


Quantity = Literal["logp", "entropy", "hidden", "value", "value_end"] | Averaged | OfLayer


PLAIN = Sampling()


@dataclass(frozen=True, slots=True)
class Drawing:
    """How responses are drawn.

    Args:
        samples: responses of each prompt, 1 to `MOST_SAMPLES`.
        max_new_tokens: most tokens of a response.
        stop_ids: ids that end one.
        sampling: temperature and filters.
        stop_strings: texts that end one; they need the tokenizer.
        tokenizer: decodes for stop strings.
        batch_tokens: most tokens in the cache at a time; changes nothing but memory and speed.
        states: means of hidden states to be taken on the way, by stream.
    """

    samples: int
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    sampling: Sampling = PLAIN
    stop_strings: tuple[str, ...] = ()
    tokenizer: Any = None
    batch_tokens: int = 32_768
    states: Mapping[str, TailState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """Rollouts of one optimiser step with the terms that learn from them.

    Args:
        rollouts: N rows.
        terms: the objective.
        shown: the same responses behind what stands before them for the other side of a divergence (`terms.Against`);
            None = behind their own prompts.
    """

    rollouts: Rollouts
    terms: tuple[Term, ...]
    shown: Rollouts | None = None


def label(drawn: Rollouts, prompts: Prompts, samples: int, version: int) -> Rollouts:
    """Drawn rows with the groups of their prompts and the number of the policy that drew them."""
    group = prompts.group.repeat_interleave(samples)
    return replace(drawn, group=group, version=torch.full_like(group, version))


def longest(rollouts: Rollouts, shown: Rollouts | None) -> Tensor:
    """Tokens of each row where it is longest, behind its own prompt or behind the other."""
    return rollouts.length if shown is None else torch.maximum(rollouts.length, shown.length)


def gather(
    rollouts: Rollouts, batches: Sequence[Tensor], score: Callable[[Tensor], dict[Any, Tensor]]
) -> dict[Any, Tensor]:
    """`score` of the rows of every micro-batch, put together in their order; no micro-batch gives no tensors."""
    n, width = rollouts.ids.shape
    out: dict[Any, Tensor] = {}
    for rows in batches:
        for name, x in score(rows).items():
            of_row = x.ndim == 1 or isinstance(name, Averaged)
            shape = (n, *x.shape[1:]) if of_row else (n, width, *x.shape[2:])
            whole = out.setdefault(name, torch.zeros(shape, dtype=torch.float32, device=rollouts.ids.device))
            x = x.to(whole)
            if of_row:
                whole[rows] = x
            else:
                whole[rows, : x.shape[1]] = x
    return out


class Work:
    """One job of an optimiser step being carried out: the rows that count, denominators, and running sums."""

    def __init__(self, job: Job, counts: list[Tensor], denominators: list[Any]) -> None:
        self.rollouts, self.terms, self.shown = job.rollouts, job.terms, job.shown
        self.counts, self.denominators = counts, denominators
        self.losses: dict[str, Tensor] = {}
        self.watched: dict[str, Tensor] = {}
        self.owner: dict[str, int] = {}

    @classmethod
    def of(cls, job: Job, trains: frozenset[str]) -> "Work":
        """Count the step's tokens, then leave out rows in which nothing counts."""
        terms = tuple(t for t in job.terms if t.model in trains)
        whole = job.rollouts
        masks = [t.mask(whole) for t in terms]
        denominators = [t.aggregation.denominators(m, whole.group) for t, m in zip(terms, masks, strict=True)]
        used = torch.stack(masks).any(0).any(1) if masks else torch.zeros(len(whole), dtype=torch.bool)
        shown = None if job.shown is None else job.shown.index(used)
        return cls(Job(whole.index(used), terms, shown), [m.sum() for m in masks], denominators)

    @property
    def tokens(self) -> float:
        """Tokens that the first term counts."""
        return float(self.counts[0]) if self.counts else 0.0

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, of which micro-batches are made."""
        return longest(self.rollouts, self.shown)

    def _live(self, engine: Any, rows: Tensor, temperature: float) -> tuple[Rollouts, Live]:
        """Some rows and their forward."""
        part = self.rollouts.index(rows).trim().to(engine.device)
        shown = part if self.shown is None else self.shown.index(rows).trim().to(engine.device)
        return part, engine.live(part, self.terms, temperature, shown)

    def backward(self, engine: Any, rows: Tensor, temperature: float) -> None:
        """Forward and backward of some rows."""
        part, live = self._live(engine, rows, temperature)
        total = torch.zeros((), device=engine.device)
        for i, term in enumerate(self.terms):
            mask = term.mask(part)
            of_step = self.denominators[i].to(engine.device)
            loss = term.weight * term.aggregation(term.loss(part, live), mask, of_step, part.group)
            total = total + loss
            self._add(self.losses, f"loss/{term.name}", loss.detach())
            for name, x in term.watch(part, live).items():
                if self.owner.setdefault(name, i) != i:
                    continue
                kept = torch.where(mask, x, torch.zeros_like(x))
                self._add(self.watched, name, kept.amax() if name.endswith(MAXIMUM) else kept.sum())
        total.backward()

    def idle(self, engine: Any, rows: Tensor, temperature: float) -> None:
        """The same forward and backward with a loss of 0, to keep step with other processes."""
        live = self._live(engine, rows, temperature)[1]
        given = [x for x in (live.logp, live.value, live.divergence) if x is not None and x.requires_grad]
        sum(x.sum() * 0.0 for x in given).backward()  # type: ignore[union-attr]

    def sums(self) -> dict[str, Any]:
        """This process's running sums as JSON values."""
        numbers = {k: {n: float(x) for n, x in getattr(self, k).items()} for k in ("losses", "watched")}
        return {**numbers, "owner": self.owner}

    def join(self, sums: Sequence[Mapping[str, Any]]) -> None:
        """Put the sums of all processes in the place of this one's."""
        self.losses, self.watched, self.owner = {}, {}, {}
        for told in sums:
            self.owner |= told["owner"]
            for kept, found in ((self.losses, told["losses"]), (self.watched, told["watched"])):
                for name, x in found.items():
                    self._add(kept, name, torch.tensor(x, dtype=torch.float64))

    @staticmethod
    def _add(sums: dict[str, Tensor], name: str, x: Tensor) -> None:
        known = sums.get(name)
        if known is None:
            sums[name] = x
        else:
            sums[name] = torch.maximum(known, x) if name.endswith(MAXIMUM) else known + x

    def metrics(self) -> dict[str, Tensor | float]:
        """Losses of the terms and what they watch, each over the tokens of its own mask."""
        told: dict[str, Tensor | float] = dict(self.losses)
        for name, x in self.watched.items():
            told[name] = x if name.endswith(MAXIMUM) else x / self.counts[self.owner[name]].to(x.device).clamp(min=1)
        return told
