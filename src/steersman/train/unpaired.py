"""KTO as a learner for `fit`: single responses that were liked or not, no pairs needed.

z0 = max(0, mean of log pi(y') - log ref(y')) over mismatched pairs (prompt of row i, response of the next row with
another prompt), without gradient and over the whole optimiser step, so that micro-batches do not change it.
Leaves out: the loss (`objective.loss.preference.kto`). Source: Ethayarajh et al. 2024.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.pack import micro_batches
from steersman.language.score import response_logp
from steersman.objective.components import KTO
from steersman.train.optimise import LEAST, Optimiser
from steersman.train.parameters import load_trainable_state, trainable_state
from steersman.train.preference import add, summed_logp


def mismatched(rollouts: Rollouts, longest: int | None = None) -> Rollouts:
    """Each row's prompt with the response of the next row that has another prompt (cyclic).

    Args:
        rollouts: N rows, at least two prompts among them.
        longest: tokens the model accepts; longer rows lose tokens of the response on the right. None = no limit.

    Raises:
        UserError: all rows have the same prompt, so nothing can be mismatched.
    """
    n = len(rollouts)
    rows: list[list[int]] = [rollouts.ids[i, : int(rollouts.length[i])].tolist() for i in range(n)]
    prompts = [tuple(r[:p]) for r, p in zip(rows, rollouts.prompt_length.tolist(), strict=True)]
    if len(set(prompts)) < 2:
        raise UserError("KTO needs at least two different prompts", where="data")
    other = [0] * n
    for i in reversed(range(2 * n)):  # twice around, so that the last rows find the first ones
        after = (i + 1) % n
        other[i % n] = after if prompts[after] != prompts[i % n] else other[after]
    ids = [[*prompts[i], *rows[j][len(prompts[j]) :]][:longest] for i, j in enumerate(other)]
    width = max(map(len, ids))
    packed = torch.tensor([r + [0] * (width - len(r)) for r in ids])
    return Rollouts.of(packed, torch.tensor([len(r) for r in ids]), rollouts.prompt_length)


class UnpairedLearner:
    """Trains a language policy on single judged responses.

    Args:
        model: the policy, at its starting point.
        data: N prompts with one response each.
        desirable: ``[N]`` bool, True = liked.
        reference: reference log-probs of the responses ``[N]``.
        other: the rows of `mismatched`.
        other_reference: their reference log-probs ``[N]``.
        loss: the KTO component.
        optimiser: moves the model's trainable parameters.
        micro_tokens: tokens of one forward pass.
        held_out: (rollouts, desirable, reference log-probs) to evaluate on, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Rollouts,
        desirable: Tensor,
        reference: Tensor,
        other: Rollouts,
        other_reference: Tensor,
        loss: KTO,
        optimiser: Optimiser,
        micro_tokens: int,
        held_out: tuple[Rollouts, Tensor, Tensor] | None = None,
    ) -> None:
        self.model, self.data, self.desirable, self.reference = model, data, desirable, reference
        self.other, self.other_reference, self.loss = other, other_reference, loss
        self.optimiser, self.micro_tokens, self.held_out = optimiser, micro_tokens, held_out

    @property
    def rows(self) -> int:
        """Number of training responses."""
        return len(self.data)

    def step(self, rows: Tensor, step: int) -> Mapping[str, Tensor | float]:
        """One update on the responses `rows`."""
        other = summed_logp(self.model, self.other.index(rows), self.micro_tokens) - self.other_reference[rows]
        reference_kl = other.mean().clamp(min=0)
        weight = self.data.weight[rows] / self.data.weight[rows].sum().clamp(min=LEAST)
        sums: dict[str, Tensor] = {}
        for micro in micro_batches(self.data.length[rows], self.micro_tokens):
            part = self.data.index(rows[micro]).trim()
            log_ratio = response_logp(self.model, part, entropy=False)[0].sum(1) - self.reference[rows[micro]]
            desirable = self.desirable[rows[micro]]
            loss = self.loss(log_ratio, desirable, reference_kl)
            (loss * weight[micro]).sum().backward()
            add(sums, self._metrics(loss, log_ratio, desirable), weight[micro])
        done = self.optimiser.apply(step)
        return sums | done | {"reference_kl": reference_kl, "tokens": float(self.data.length[rows].sum())}

    def _metrics(self, loss: Tensor, log_ratio: Tensor, desirable: Tensor) -> dict[str, Tensor]:
        margin = torch.where(desirable, log_ratio.detach(), -log_ratio.detach())
        return {"loss": loss.detach(), "margin": margin, "accuracy": (margin > 0).float()}

    def evaluate(self) -> dict[str, float]:
        """Held-out loss (z0 = 0), mean log-ratios of liked and disliked responses, and their difference."""
        if self.held_out is None:
            return {}
        data, desirable, reference = self.held_out
        g = summed_logp(self.model, data, self.micro_tokens) - reference
        liked, disliked = g[desirable], g[~desirable]
        out = {"loss": float(self.loss(g, desirable, torch.zeros((), device=g.device)).mean())}
        if len(liked):
            out["log_ratio_desirable"] = float(liked.mean())
        if len(disliked):
            out["log_ratio_undesirable"] = float(disliked.mean())
        if len(liked) and len(disliked):
            out["separation"] = out["log_ratio_desirable"] - out["log_ratio_undesirable"]
        return out

    def state_dict(self) -> dict[str, Any]:
        """Trainable parameters and optimiser moments."""
        return {"model": trainable_state(self.model), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore parameters and moments."""
        load_trainable_state(self.model, state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
