"""What engines have in common: how responses are drawn, and one optimiser step's work on rollouts and terms.

Denominators are those of the whole step and known before the first forward; rows in which nothing counts are not run.
Leaves out: forward passes and processes (`local`, `distributed`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from steersman.core.types import Rollouts
from steersman.language.sampler import Sampling
from steersman.task.world import Prompts
from steersman.train.terms import MAXIMUM, Term

MOST_SAMPLES = 2**10
"""Responses of a prompt; sample j of group g has the noise of number g * MOST_SAMPLES + j."""

Model = Literal["policy", "reference", "critic"]
Quantity = Literal["logp", "entropy", "hidden", "value", "value_end"]


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
    """

    samples: int
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    sampling: Sampling = PLAIN
    stop_strings: tuple[str, ...] = ()
    tokenizer: Any = None
    batch_tokens: int = 32_768


@dataclass(frozen=True, slots=True)
class Job:
    """Rollouts of one optimiser step with the terms that learn from them."""

    rollouts: Rollouts
    terms: tuple[Term, ...]


def label(drawn: Rollouts, prompts: Prompts, samples: int, version: int) -> Rollouts:
    """Drawn rows with the groups of their prompts and the number of the policy that drew them."""
    group = prompts.group.repeat_interleave(samples)
    return replace(drawn, group=group, version=torch.full_like(group, version))


def gather(
    rollouts: Rollouts, batches: Sequence[Tensor], score: Callable[[Rollouts], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """`score` of every micro-batch, put together in the order of the rows; no micro-batch gives no tensors."""
    n, width = rollouts.ids.shape
    out: dict[str, Tensor] = {}
    for rows in batches:
        for name, x in score(rollouts.index(rows).trim()).items():
            shape = (n,) if x.ndim == 1 else (n, width, *x.shape[2:])
            whole = out.setdefault(name, torch.zeros(shape, dtype=torch.float32, device=rollouts.ids.device))
            x = x.to(whole)
            if x.ndim == 1:
                whole[rows] = x
            else:
                whole[rows, : x.shape[1]] = x
    return out


class Work:
    """One job of an optimiser step being carried out: the rows that count, denominators, and running sums."""

    def __init__(
        self, rollouts: Rollouts, terms: tuple[Term, ...], counts: list[Tensor], denominators: list[Any]
    ) -> None:
        self.rollouts, self.terms, self.counts, self.denominators = rollouts, terms, counts, denominators
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
        return cls(whole.index(used), terms, [m.sum() for m in masks], denominators)

    @property
    def tokens(self) -> float:
        """Tokens that the first term counts."""
        return float(self.counts[0]) if self.counts else 0.0

    def backward(self, engine: Any, rows: Tensor, temperature: float) -> None:
        """Forward and backward of some rows."""
        part = self.rollouts.index(rows).trim().to(engine.device)
        live = engine.live(part, self.terms, temperature)
        total = torch.zeros((), device=engine.device)
        for i, term in enumerate(self.terms):
            mask = term.mask(part)
            of_step = self.denominators[i].to(engine.device)
            loss = term.weight * term.aggregation(term.loss(part, live), mask, of_step, part.group)
            total = total + loss
            self._add(self.losses, f"loss/{term.name}", loss.detach())
            for name, x in term.watch(part, live).items():
                self.owner[name] = i
                kept = torch.where(mask, x, torch.zeros_like(x))
                self._add(self.watched, name, kept.amax() if name.endswith(MAXIMUM) else kept.sum())
        total.backward()

    def idle(self, engine: Any, rows: Tensor, temperature: float) -> None:
        """The same forward and backward with a loss of 0, to keep step with other processes."""
        live = engine.live(self.rollouts.index(rows).trim().to(engine.device), self.terms, temperature)
        sum(x.sum() * 0.0 for x in (live.logp, live.value) if x.requires_grad).backward()

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
