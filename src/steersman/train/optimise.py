"""One optimiser step over micro-batches: AdamW, gradient clipping and a learning rate that is a function of the step.

Leaves out: what the loss is (`objective`) and which rows a step sees (`train.fit`). AdamW is torch's own.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.core.component import Component
from steersman.core.errors import UserError
from steersman.store.checkpoint import load_optimizer_state, optimizer_state

LEAST = float(torch.finfo(torch.float32).tiny)
"""Divides where all rows of a step have weight 0: such a step has no gradient, and its loss is 0."""


class AdamW(Component):
    """AdamW with warm-up and decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="decay after the warm-up")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps over which the rate rises from 0")
    final: float = Field(0.0, ge=0, le=1, description="share of the peak rate at the end of the run (linear, cosine)")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the second moment")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay, on matrices only")
    clip: float = Field(1.0, ge=0, description="bound on the norm of the whole gradient; 0 = no clipping")

    def rate(self, step: int, total: int) -> float:
        """Learning rate of step `step` (from 0) of `total`.

        Linear warm-up: lr (s+1)/w for s < w = warmup * total; then with u = (s-w)/(T-w): linear 1-u, cosine
        (1+cos(pi u))/2, both scaled to end at `final` at s = T, one step after the last.
        """
        warm = int(self.warmup * total)
        if step < warm:
            return self.lr * (step + 1) / warm
        if self.schedule == "constant":
            return self.lr
        u = (step - warm) / max(total - warm, 1)
        shape = 1 - u if self.schedule == "linear" else (1 + math.cos(math.pi * u)) / 2
        return self.lr * (self.final + (1 - self.final) * shape)


class Optimiser:
    """The state of optimisation: parameters that move, AdamW moments, and nothing else.

    Args:
        parameters: (name, parameter) pairs; those that do not require gradients are left out.
        settings: the hyperparameters.
        total_steps: steps of the whole run, for the schedule.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], settings: AdamW, total_steps: int) -> None:
        named = [(n, p) for n, p in parameters if p.requires_grad]
        if not named:
            raise UserError("no parameter is trainable", where="optim")
        self.settings, self.total_steps = settings, total_steps
        self.parameters = [p for _, p in named]
        matrices = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": g, "weight_decay": d} for g, d in ((matrices, settings.weight_decay), (others, 0.0)) if g]
        self.inner = torch.optim.AdamW(
            groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=True
        )

    def apply(self, step: int) -> dict[str, Tensor | float]:
        """Clip the accumulated gradients, take the step, clear them; returns the norm and the learning rate.

        The norm stays a tensor, so nothing waits for the device. A norm that is not finite is
        reported as it is; `fit` stops before such a state is saved.
        """
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None], foreach=True)
        # Of parameters in shards over processes the norm is that of all shards.
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        rate = self.settings.rate(step, self.total_steps)
        if self.settings.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip, norm, foreach=True)
        for group in self.inner.param_groups:
            group["lr"] = rate
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        return {"grad_norm": norm, "lr": rate}

    def state_dict(self) -> dict[str, Any]:
        """Moments and step counts."""
        return optimizer_state(self.inner)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the moments."""
        load_optimizer_state(self.inner, state)


def mean_metrics(rows: Sequence[Mapping[str, Tensor | float]]) -> dict[str, float]:
    """Average metrics over steps; one transfer for all tensors, and a metric absent in some rows keeps its own mean."""
    totals: dict[str, list[Tensor]] = {}
    for row in rows:
        for name, value in row.items():
            totals.setdefault(name, []).append(torch.as_tensor(value, dtype=torch.float64).detach().cpu())
    return {name: float(torch.stack(values).mean()) for name, values in totals.items()}
