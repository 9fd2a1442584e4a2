"""The engine of one process: sampling, scoring without gradients, and one optimiser step over micro-batches.

A micro-batch holds rows of similar length up to a token budget. Leaves out: what is collected and when (`rl`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from steersman.core.component import Moment
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.compare import Teacher
from steersman.language.decode import generate
from steersman.language.load import context_length
from steersman.language.pack import micro_batches
from steersman.language.score import response_logp, token_states
from steersman.task.world import Prompts
from steersman.train.critic import end_values, token_values
from steersman.train.engine.compared import live_against, scored_against
from steersman.train.engine.scored import scored
from steersman.train.engine.teacher import check_follows, check_mixes, check_vocabulary, follow
from steersman.train.engine.work import (
    MOST_SAMPLES,
    Averaged,
    Drawing,
    Job,
    Model,
    OfLayer,
    Quantity,
    Work,
    gather,
    label,
    longest,
)
from steersman.train.optimise import Optimiser
from steersman.train.parameters import copy_into, load_trainable_state, trainable_state
from steersman.train.terms import Live, Term, against_of, union

T = TypeVar("T")


class LocalEngine:
    """Policy, reference and critic on one device.

    Args:
        policy: a causal language model, the live policy.
        optimiser: moves the policy's trainable parameters.
        reference: a frozen model; None = the policy with its adapters switched off (LoRA).
        critic: a model with one output a token, and its own optimiser.
        critic_optimiser: moves the critic's parameters.
        micro_tokens: tokens of one forward; changes nothing beyond rounding.
        teacher: a frozen model, or an analytic policy (`language.compare.Teacher`).
        teacher_rate: 0 = the teacher stays as it is; above, it is a copy of the policy that follows it, by this share
            of the distance after each step: teacher += rate (policy - teacher).
        teacher_every: steps between two such moves.
        teacher_mix: above 0, below 1: the teacher is teacher^(1 - mix) policy^mix, normalised, of two distributions
            behind the same text (`head_divergence.Mixed`): wherever the policy goes, it stays near the teacher.
        shared_vocabulary: ids that policy and teacher have in common, where they have spare rows of different number;
            None = all ids, of which they have equally many.
    """

    main = True
    """Whether this process writes files."""

    def __init__(
        self,
        policy: nn.Module,
        optimiser: Optimiser,
        *,
        reference: nn.Module | None = None,
        critic: nn.Module | None = None,
        critic_optimiser: Optimiser | None = None,
        micro_tokens: int = 4096,
        teacher: nn.Module | Teacher | None = None,
        teacher_rate: float = 0.0,
        teacher_every: int = 1,
        teacher_mix: float = 0.0,
        shared_vocabulary: int | None = None,
    ) -> None:
        self.policy, self.critic = policy, critic
        given: dict[str, Any] = {"policy": policy, "reference": reference, "critic": critic}
        self.known = None if isinstance(teacher, nn.Module) else teacher
        given["teacher"] = teacher if isinstance(teacher, nn.Module) else None
        self.models: dict[str, Any] = {name: model for name, model in given.items() if model is not None}
        self.optimisers = {"policy": optimiser} | ({"critic": critic_optimiser} if critic_optimiser else {})
        self.micro_tokens, self.shared_vocabulary, self.teacher_rate = micro_tokens, shared_vocabulary, teacher_rate
        self.teacher_every, self.teacher_mix = teacher_every, teacher_mix
        if teacher is not None:
            check_vocabulary(policy, teacher, shared_vocabulary)
        if teacher_rate:
            check_follows(policy, self.models.get("teacher"), teacher_rate, teacher_every)
        if teacher_mix:
            check_mixes(teacher, teacher_mix)

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return next(self.policy.parameters()).device

    @property
    def context(self) -> int | None:
        """Most tokens of a row; None = no limit."""
        return context_length(self.policy.config)

    def sample(self, prompts: Prompts, drawing: Drawing, at: Moment, seed: int) -> Rollouts:
        """Draw responses; `version` is the number of optimiser steps done.

        Args:
            prompts: P prompts.
            drawing: how.
            at: step and round; the noise is a function of (seed, step, group, sample, position).
            seed: of the noise; training and evaluation have different ones.

        Returns:
            ``P * samples`` rows, the samples of a prompt one behind the other.
        """
        ids = prompts.group.numpy()[:, None] * MOST_SAMPLES + np.arange(drawing.samples)
        options = drawing.sampling
        drawn = self.through(
            "policy",
            generate,
            prompts.ids,
            max_new_tokens=drawing.max_new_tokens,
            stop_ids=drawing.stop_ids,
            seed=seed,
            samples_per_prompt=drawing.samples,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            stop_strings=drawing.stop_strings,
            tokenizer=drawing.tokenizer,
            sample_ids=torch.from_numpy(ids.reshape(-1)),
            step=at.step,
            batch_tokens=drawing.batch_tokens,
            states=drawing.states,
        )
        return label(drawn, prompts, drawing.samples, at.step)

    def share(self, n: int, work: Callable[[range], list[Any]]) -> list[Any]:
        """Python work on items 0..n-1, split over the processes; here there is one.

        `work` gets a range and returns any number of `Graded`, tensors and JSON values; the lists of all processes are
        joined in order. What it raises in one process is raised in all.
        """
        return work(range(n))

    def score(
        self, rollouts: Rollouts, by: Model, quantities: Sequence[Quantity], temperature: float = 1.0
    ) -> dict[Any, Tensor]:
        """What a model says of the action tokens, without gradients.

        Args:
            rollouts: N rows, on any device.
            by: whose forward.
            quantities: of the policy or the reference logp, entropy, hidden, `Averaged`, `OfLayer`; of the critic
                value, value_end.
            temperature: divides the logits, as sampled with.

        Returns:
            quantity -> ``[N, L]`` float32 on the rollouts' device (hidden and `OfLayer` ``[N, L, D]``, value_end
            ``[N]``, `Averaged` ``[N]`` or ``[N, D]``), 0 where there is no action.
        """
        with torch.no_grad():
            batches = micro_batches(rollouts.length, self.micro_tokens)
            score = partial(self._score, by=by, quantities=quantities, temperature=temperature)
            return gather(rollouts, batches, lambda rows: score(rollouts.index(rows).trim()))

    def compare(
        self, rollouts: Rollouts, shown: Rollouts, by: Model, asked: Sequence[Any], temperature: float = 1.0
    ) -> dict[Any, Tensor]:
        """How far the policy is from another model at the action tokens, without gradients.

        Args:
            rollouts: N rows, on any device; the policy sees these.
            shown: the same responses behind what stands before them for the other model.
            by: the other model.
            asked: divergences (`Form`), and ``logp`` or ``entropy`` of the policy.
            temperature: divides the logits of both, as sampled with.

        Returns:
            What was asked -> ``[N, L]`` float32 on the rollouts' device, 0 where there is no action.

        Raises:
            UserError: as `language.compare.compare`.
        """
        with torch.no_grad():
            batches = micro_batches(longest(rollouts, shown), self.micro_tokens)
            both = partial(self._compared, rollouts, shown, by, asked, temperature)
            return gather(rollouts, batches, both)

    def _compared(
        self, rollouts: Rollouts, shown: Rollouts, by: Model, asked: Sequence[Any], temperature: float, rows: Tensor
    ) -> dict[Any, Tensor]:
        part, other = (x.index(rows).trim().to(self.device) for x in (rollouts, shown))
        return scored_against(self, part, other, by, asked, temperature)

    def _score(
        self, part: Rollouts, by: Model, quantities: Sequence[Quantity], temperature: float
    ) -> dict[Any, Tensor]:
        part = part.to(self.device)
        found: dict[Any, Tensor] = {}
        if any(q in ("logp", "entropy") or isinstance(q, Averaged) for q in quantities):
            found |= self.through(by, scored, part, quantities, temperature)
        for q in quantities:
            if q == "hidden" or isinstance(q, OfLayer):
                found[q] = self.through(by, token_states, part, q.layer if isinstance(q, OfLayer) else None)
        if "value" in quantities:
            found["value"] = self.through(by, token_values, part, part.action)
        if "value_end" in quantities:
            found["value_end"] = self.through(by, end_values, part)
        return {q: found[q] for q in quantities}

    def has(self, name: Model) -> bool:
        """Whether there is such a model; the reference may be the policy without its adapters."""
        adapters = name == "reference" and hasattr(self.models["policy"], "disable_adapter")
        return name in self.models or adapters or (name == "teacher" and self.known is not None)

    def through(self, by: Model, work: Callable[..., T], *given: Any, **options: Any) -> T:
        """``work(model, *given, **options)`` on the model of a name; every use of a model's weights goes through here.

        The reference may be the policy without its adapters.
        """
        if by in self.models:
            return work(self.models[by], *given, **options)
        assert by == "reference", "there is no critic"
        with without_adapters(self.policy):
            return work(self.models["policy"], *given, **options)

    def accumulate(
        self, jobs: Sequence[Job], trains: frozenset[str], temperature: float = 1.0
    ) -> dict[str, Tensor | float]:
        """Gradients of one optimiser step, summed over micro-batches; nothing moves yet.

        Args:
            jobs: rollouts and their terms; denominators run over all rows of a job.
            trains: models whose terms count.
            temperature: divides the policy's logits, as sampled with.

        Returns:
            ``loss/<term>`` and what the terms watch, averaged over the tokens of their masks (or maxima); and
            ``tokens_trained``, the tokens that count in a term of the policy or, if none is trained, of the critic.
        """
        with self._all_or_nothing():
            return self._accumulated(jobs, trains, temperature)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Where a step fails half-way, no gradient of it is left for the next one."""
        try:
            yield
        except BaseException:
            self.forget()
            raise

    def _accumulated(self, jobs: Sequence[Job], trains: frozenset[str], temperature: float) -> dict[str, Any]:
        told: dict[str, Tensor | float] = {"tokens_trained": 0.0}
        for job in jobs:
            work = Work.of(job, trains)
            for rows in micro_batches(work.lengths, self.micro_tokens):
                work.backward(self, rows, temperature)
            told |= work.metrics() | {"tokens_trained": told["tokens_trained"] + work.tokens}
        return told

    def live(self, part: Rollouts, terms: tuple[Term, ...], temperature: float, shown: Rollouts) -> Live:
        """One forward with gradients of the models that `terms` need; `shown` is what the other side sees of `part`."""
        blank = torch.zeros(part.ids.shape, device=part.ids.device)
        live = Live(blank, blank, blank)
        for model in sorted({t.model for t in terms}):
            mask = union(terms, part, model)
            if model == "critic":
                live = replace(live, value=self.through("critic", token_values, part, mask))
            elif against_of(terms) is not None:
                live = replace(live_against(self, part, shown, terms, temperature), value=live.value)
            else:
                logp, entropy = self.through("policy", response_logp, part, temperature=temperature, mask=mask)
                live = replace(live, logp=logp, entropy=entropy)
        return live

    def apply(self, step: int, trains: frozenset[str]) -> dict[str, Tensor | float]:
        """Clip the gradients and move the models of `trains`; returns norms and learning rates."""
        told: dict[str, Tensor | float] = {}
        for name, optimiser in self.optimisers.items():
            if name in trains:
                moved = optimiser.apply(step)
                told |= moved if name == "policy" else {f"{name}_{k}": v for k, v in moved.items()}
        if self.teacher_rate and "policy" in trains and (step + 1) % self.teacher_every == 0:
            follow(self._followed(), self.policy, self.teacher_rate)
        return told

    def forget(self) -> None:
        """Drop gradients that will not be applied."""
        for optimiser in self.optimisers.values():
            optimiser.inner.zero_grad(set_to_none=True)

    def _models(self) -> dict[str, nn.Module]:
        """What is trained."""
        return {name: self.models[name] for name in ("policy", "critic") if name in self.models}

    def _followed(self) -> dict[str, Tensor]:
        """The teacher's parameters that follow the policy's."""
        if not self.teacher_rate:
            return {}
        own = dict(self.models["teacher"].named_parameters())
        return {n: own[n] for n in trainable_state(self.policy)}

    def whole(self, name: Literal["policy", "critic"] = "policy") -> nn.Module:
        """A model to be saved, with all its weights; every process must ask, and only `main` gets them."""
        model: nn.Module = self.models[name]
        return model

    def state_dict(self) -> dict[str, Any]:
        """Trainable parameters and optimiser moments of everything that moves."""
        return {
            "models": {k: trainable_state(m) for k, m in self._models().items()},
            "optimisers": {k: o.state_dict() for k, o in self.optimisers.items()},
            **({"teacher": {n: p.detach() for n, p in self._followed().items()}} if self.teacher_rate else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name, model in self._models().items():
            load_trainable_state(model, state["models"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        copy_into(self._followed(), state.get("teacher", {}))


def without_adapters(policy: Any) -> Any:
    """The policy as it was before its adapters, for a block."""
    if not hasattr(policy, "disable_adapter"):
        raise UserError("there is no reference model", where="engine", cure="Give reference=.")
    return policy.disable_adapter()
