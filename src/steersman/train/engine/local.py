"""The engine of one process: sampling, scoring without gradients, and one optimiser step over micro-batches.

A micro-batch holds rows of similar length up to a token budget. Leaves out: what is collected and when (`rl`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steersman.core.component import Moment
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.decode import generate
from steersman.language.load import context_length
from steersman.language.pack import micro_batches, take
from steersman.language.score import response_logp
from steersman.language.trunk import last_hidden
from steersman.task.world import Prompts
from steersman.train.critic import end_values, token_values
from steersman.train.engine.work import MOST_SAMPLES, Drawing, Job, Model, Quantity, Work, gather, label
from steersman.train.optimise import Optimiser
from steersman.train.parameters import load_trainable_state, trainable_state
from steersman.train.terms import Live, Term, union


class LocalEngine:
    """Policy, reference and critic on one device.

    Args:
        policy: a causal language model, the live policy.
        optimiser: moves the policy's trainable parameters.
        reference: a frozen model; None = the policy with its adapters switched off (LoRA).
        critic: a model with one output a token, and its own optimiser.
        critic_optimiser: moves the critic's parameters.
        micro_tokens: tokens of one forward; changes nothing beyond rounding.
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
    ) -> None:
        self.policy, self.reference, self.critic = policy, reference, critic
        self.optimisers = {"policy": optimiser} | ({"critic": critic_optimiser} if critic_optimiser else {})
        self.micro_tokens = micro_tokens

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
        drawn = generate(
            self.policy,
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
        )
        return label(drawn, prompts, drawing.samples, at.step)

    def share(self, n: int, work: Callable[[range], list[Any]]) -> list[Any]:
        """Python work on items 0..n-1, split over the processes; here there is one."""
        return work(range(n))

    def score(
        self, rollouts: Rollouts, by: Model, quantities: Sequence[Quantity], temperature: float = 1.0
    ) -> dict[str, Tensor]:
        """What a model says of the action tokens, without gradients.

        Args:
            rollouts: N rows, on any device.
            by: whose forward.
            quantities: of the policy or the reference logp, entropy, hidden; of the critic value, value_end.
            temperature: divides the logits, as sampled with.

        Returns:
            quantity -> ``[N, L]`` float32 on the rollouts' device (hidden ``[N, L, D]``, value_end ``[N]``), 0 where
            there is no action.
        """
        with torch.no_grad():
            return gather(rollouts, self.micro_tokens, lambda part: self._score(part, by, quantities, temperature))

    def _score(
        self, part: Rollouts, by: Model, quantities: Sequence[Quantity], temperature: float
    ) -> dict[str, Tensor]:
        part = part.to(self.device)
        if by == "critic":
            assert self.critic is not None
            value = {"value": lambda: token_values(self.critic, part, part.action)}
            return {q: value[q]() if q in value else end_values(self.critic, part) for q in quantities}
        with self._as(by) as model:
            found: dict[str, Tensor] = {}
            if {"logp", "entropy"} & set(quantities):
                want = "entropy" in quantities
                found["logp"], found["entropy"] = response_logp(model, part, temperature=temperature, entropy=want)
            if "hidden" in quantities:
                found["hidden"] = _hidden(model, part)
        return {q: found[q] for q in quantities}

    def _as(self, by: Model) -> Any:
        """The model of a name as a context; the reference may be the policy without its adapters."""
        if by == "reference" and self.reference is None:
            return _without_adapters(self.policy)
        return nullcontext(self.policy if by == "policy" else self.reference)

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
        told: dict[str, Tensor | float] = {"tokens_trained": 0.0}
        for job in jobs:
            work = Work.of(job, trains)
            for rows in micro_batches(work.rollouts.length, self.micro_tokens):
                work.backward(self, rows, temperature)
            told |= work.metrics() | {"tokens_trained": told["tokens_trained"] + work.tokens}
        return told

    def live(self, part: Rollouts, terms: tuple[Term, ...], temperature: float) -> Live:
        """One forward with gradients of the models that `terms` need."""
        blank = torch.zeros(part.ids.shape, device=part.ids.device)
        logp, entropy, value = blank, blank, blank
        for model in sorted({t.model for t in terms}):
            mask = union(terms, part, model)
            if model == "policy":
                logp, entropy = response_logp(self.policy, part, temperature=temperature, mask=mask)
            else:
                assert self.critic is not None
                value = token_values(self.critic, part, mask)
        return Live(logp, entropy, value)

    def apply(self, step: int, trains: frozenset[str]) -> dict[str, Tensor | float]:
        """Clip the gradients and move the models of `trains`; returns norms and learning rates."""
        told: dict[str, Tensor | float] = {}
        for name, optimiser in self.optimisers.items():
            if name in trains:
                moved = optimiser.apply(step)
                told |= moved if name == "policy" else {f"{name}_{k}": v for k, v in moved.items()}
        return told

    def forget(self) -> None:
        """Drop gradients that will not be applied."""
        for optimiser in self.optimisers.values():
            optimiser.inner.zero_grad(set_to_none=True)

    def _models(self) -> dict[str, nn.Module]:
        return {"policy": self.policy} | ({"critic": self.critic} if self.critic is not None else {})

    def state_dict(self) -> dict[str, Any]:
        """Trainable parameters and optimiser moments of everything that moves."""
        return {
            "models": {k: trainable_state(m) for k, m in self._models().items()},
            "optimisers": {k: o.state_dict() for k, o in self.optimisers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for name, model in self._models().items():
            load_trainable_state(model, state["models"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])


def _hidden(model: nn.Module, part: Rollouts) -> Tensor:
    """Hidden state that predicts each action token ``[N, L, D]``, 0 elsewhere."""
    hidden, where = last_hidden(model, part.ids, part.length, part.prompt_length)
    rows, columns = part.action.nonzero(as_tuple=True)
    out = torch.zeros(*part.ids.shape, hidden.shape[1], device=hidden.device)
    out[rows, columns] = take(hidden, where[rows, columns - 1]).float()
    return out


class _without_adapters:
    """The policy as it was before its adapters, as a context."""

    def __init__(self, policy: Any) -> None:
        if not hasattr(policy, "disable_adapter"):
            raise UserError("there is no reference model", where="engine", cure="Give reference=.")
        self.policy, self.off = policy, policy.disable_adapter()

    def __enter__(self) -> nn.Module:
        self.off.__enter__()
        model: nn.Module = self.policy
        return model

    def __exit__(self, *error: Any) -> None:
        self.off.__exit__(*error)
