"""Supervised fine-tuning as a learner for `fit`: maximise the likelihood of given responses.

L = - sum w_n m_nt log pi(y_nt | x_n, y_n,<t) / sum w_n m_nt, w the weights of the rows, the sums running over the whole
optimiser step, whatever the micro-batches.
Leaves out: reading data (`language.records`), chat templates (`language.chat`).
Source: the standard objective; denominators as in `objective.reduce`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steersman.core.types import Rollouts
from steersman.language.pack import micro_batches
from steersman.language.score import response_logp
from steersman.objective.loss.sft import sft
from steersman.objective.reduce import aggregate, denominators
from steersman.train.optimise import LEAST, Optimiser
from steersman.train.parameters import load_trainable_state, trainable_state


class SftLearner:
    """Trains a language policy to reproduce responses.

    Args:
        model: the policy.
        data: sequences whose `action` tokens are learnt (completion and end-of-sequence token).
        optimiser: moves the model's trainable parameters.
        micro_tokens: tokens of one forward pass; does not change the result beyond rounding.
        reduce: "token_mean" weighs tokens alike, "seq_mean_token_mean" rows alike.
        held_out: sequences to evaluate on, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Rollouts,
        optimiser: Optimiser,
        micro_tokens: int,
        *,
        reduce: Literal["token_mean", "seq_mean_token_mean"] = "token_mean",
        held_out: Rollouts | None = None,
    ) -> None:
        self.model, self.data, self.optimiser, self.micro_tokens = model, data, optimiser, micro_tokens
        self.reduce, self.held_out = reduce, held_out

    @property
    def rows(self) -> int:
        """Number of training sequences."""
        return len(self.data)

    def step(self, rows: Tensor, step: int) -> Mapping[str, Tensor | float]:
        """One update on the sequences `rows`."""
        batch = self.data.index(rows)
        total = denominators(batch.action, self.reduce)
        # The divisor counts tokens (or rows); weighted rows are divided by their weights' sum instead.
        size = batch.action.sum(1) if self.reduce == "token_mean" else torch.ones_like(batch.weight)
        weight = batch.weight / (batch.weight * size).sum().clamp(min=LEAST) * size.sum()
        loss_sum = torch.zeros((), device=batch.ids.device)
        for micro in micro_batches(batch.length, self.micro_tokens):
            part = batch.index(micro).trim()
            logp, _ = response_logp(self.model, part, entropy=False)
            loss = aggregate(sft(logp) * weight[micro, None], part.action, self.reduce, denominator=total)
            loss.backward()
            loss_sum += loss.detach()
        return {"loss": loss_sum} | self.optimiser.apply(step) | {"tokens": float(batch.length.sum())}

    def evaluate(self) -> dict[str, float]:
        """Held-out nats per token and perplexity."""
        if self.held_out is None:
            return {}
        total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            for rows in micro_batches(self.held_out.length, self.micro_tokens):
                part = self.held_out.index(rows).trim()
                total += response_logp(self.model, part, entropy=False)[0].sum().double().cpu()
        nats = -float(total) / max(int(self.held_out.action.sum()), 1)
        return {"loss": nats, "perplexity": float(torch.tensor(nats, dtype=torch.float64).exp())}

    def state_dict(self) -> dict[str, Any]:
        """Trainable parameters and optimiser moments."""
        return {"model": trainable_state(self.model), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore parameters and moments."""
        load_trainable_state(self.model, state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
