"""Bradley-Terry reward models as a learner for `fit`.

L = -log sigma(r(x, y_w) - r(x, y_l) - m), r = a bias-free float32 head on the hidden state of the last real token, the
end-of-sequence token being appended to both sides when training and when scoring. Optional centring
c (r_w + r_l)^2 and noise-robust forms are settings of the component. For a pair that prefers its second side the margin
counts for that side.
Leaves out: the quality report (`reward.model`), the losses (`objective`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steersman.core.types import Pairs, Rollouts
from steersman.language.pack import micro_batches
from steersman.objective.components import BradleyTerry
from steersman.reward.model import reward_of, score_rows
from steersman.train.optimise import LEAST, Optimiser
from steersman.train.parameters import load_trainable_state, trainable_state
from steersman.train.preference import accuracy, add, stack


class RewardLearner:
    """Trains a reward model on pairs.

    Args:
        model: a sequence-classification model with one output (`reward.model.build_reward_model`).
        pairs: training pairs.
        loss: the Bradley-Terry component.
        optimiser: moves the model's trainable parameters.
        micro_tokens: tokens of one forward pass.
        held_out: pairs to evaluate on, or None.
        margin: by how much the better side of each training pair should win ``[N]``, on top of the loss's margin.
        flip_rate: a flip rate for each training pair, replacing the loss's own; None = the loss's.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: Pairs,
        loss: BradleyTerry,
        optimiser: Optimiser,
        micro_tokens: int,
        held_out: Pairs | None = None,
        margin: Tensor | None = None,
        flip_rate: Tensor | None = None,
    ) -> None:
        self.margin = torch.zeros(len(pairs), device=pairs.label.device) if margin is None else margin
        self.flip_rate = flip_rate
        self.model, self.pairs, self.loss = model, pairs, loss
        self.optimiser, self.micro_tokens, self.held_out = optimiser, micro_tokens, held_out

    @property
    def rows(self) -> int:
        """Number of training pairs."""
        return len(self.pairs)

    def step(self, rows: Tensor, step: int) -> Mapping[str, Tensor | float]:
        """One update on the pairs `rows`."""
        weight = self.pairs.first.weight[rows] / self.pairs.first.weight[rows].sum().clamp(min=LEAST)
        lengths = self.pairs.first.length[rows] + self.pairs.second.length[rows]
        sums: dict[str, Tensor] = {}
        for micro in micro_batches(lengths, self.micro_tokens):
            batch = self.pairs.index(rows[micro])
            both: Rollouts = stack(batch)
            reward = reward_of(self.model, both)
            first, second = reward[: len(batch)], reward[len(batch) :]
            rate = None if self.flip_rate is None else self.flip_rate[rows[micro]]
            loss = self.loss(first, second, batch.label, rate, self.margin[rows[micro]])
            (loss * weight[micro]).sum().backward()
            add(sums, self._metrics(loss, first, second, batch.label), weight[micro])
        return sums | self.optimiser.apply(step) | {"tokens": float(lengths.sum())}

    def _metrics(self, loss: Tensor, first: Tensor, second: Tensor, label: Tensor) -> dict[str, Tensor]:
        d = (first - second).detach()
        right = torch.where((d == 0) | (label == 0.5), 0.5, ((d > 0) == (label > 0.5)).float())
        mean = (first + second).detach() / 2
        return {"loss": loss.detach(), "margin": d, "accuracy": right, "reward": mean}

    def evaluate(self) -> dict[str, float]:
        """Held-out loss and pair accuracy with its Wilson interval."""
        if self.held_out is None:
            return {}
        first = score_rows(self.model, self.held_out.first, self.micro_tokens)
        second = score_rows(self.model, self.held_out.second, self.micro_tokens)
        label = self.held_out.label
        loss = self.loss(first, second, label)
        out = {k: float(v.mean()) for k, v in self._metrics(loss, first, second, label).items()}
        return out | accuracy(first - second, label)

    def state_dict(self) -> dict[str, Any]:
        """Trainable parameters and optimiser moments."""
        return {"model": trainable_state(self.model), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore parameters and moments."""
        load_trainable_state(self.model, state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
