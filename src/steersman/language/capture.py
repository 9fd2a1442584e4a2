"""Means of hidden states taken while responses are drawn: of the last tokens of prompts, or of responses.

The decoder computes every state anyway, one token a row at a time; kept are only those that may still be in the mean,
or, where all of a response is, their sum. The state *at* a response's last token is the one thing it would not compute:
a row whose mean may need it takes in one token more. Leaves out: hooks (`layers`), the decoding loop (`decode`), which
streams are wanted (`train.captured`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.core.component import Tail
from steersman.language.layers import layer_index


class TailState(NamedTuple):
    """The mean of the states of a layer over a tail of each row.

    Args:
        layer: as `layers.layer_index`.
        tail: which tokens.
    """

    layer: int | float | None
    tail: Tail


class Capture:
    """What is taken of one batch of the decoder.

    Args:
        wanted: means by name; none costs nothing.
        layers: n of the model.
        rows: R of the batch.
        new: most tokens of a response.
    """

    def __init__(self, wanted: Mapping[str, TailState], layers: int, rows: int, new: int) -> None:
        self.numbers = {name: layer_index(w.layer, layers) for name, w in wanted.items()}
        self.tails = {name: w.tail for name, w in wanted.items()}
        self.running = {k: RunningMean(t, rows, new) for k, t in self.tails.items() if t.of == "response"}
        self.done: dict[str, Tensor] = {}

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers that are read."""
        return sorted({*self.numbers.values()})

    @property
    def grows(self) -> bool:
        """Whether states of response tokens are read."""
        return bool(self.running)

    def prompts(self, states: Mapping[int, Tensor], parent: Int[Tensor, " R"]) -> None:
        """Take in the prompts' states ``[P, L, D]`` of each layer; `parent` says which prompt each row continues."""
        for name, tail in self.tails.items():
            if tail.of == "prompt":
                self.done[name] = states[self.numbers[name]][:, -tail.most :].float().mean(1)[parent]

    def token(self, drawn: Int[Tensor, "T R"], rows: Int[Tensor, " A"], states: Mapping[int, Tensor]) -> None:
        """Take in the states ``[A, D]`` at the last of the tokens `drawn`, of the rows `rows`."""
        for name, mean in self.running.items():
            mean.add(drawn, rows, states[self.numbers[name]])

    def means(self) -> dict[str, Float[Tensor, "R D"]]:
        """The means by name, float32 on the CPU."""
        return {k: x.cpu() for k, x in (self.done | {k: m() for k, m in self.running.items()}).items()}


class RunningMean:
    """The mean of the states at a tail of responses that grow by a token a row, all in step.

    A ring holds the last states of each row: as many as may be in the mean, and as many as the token ids that end it,
    which are known for such only when the last of them is there. Where the whole response is in the mean, what leaves
    the ring is added up instead.

    Args:
        tail: of a response.
        rows: R.
        new: most tokens of a response.
    """

    def __init__(self, tail: Tail, rows: int, new: int) -> None:
        self.most, self.ends, self.sums = tail.most, tail.ends, tail.most >= new
        self.size = len(tail.ends) + (0 if self.sums else tail.most)
        self.count = torch.zeros(rows, dtype=torch.int64)
        self.ended = torch.zeros(rows, dtype=torch.bool)
        self.ring = self.total = torch.zeros(0)

    def add(self, drawn: Int[Tensor, "T R"], rows: Int[Tensor, " A"], states: Float[Tensor, "A D"]) -> None:
        """Add the states at token T - 1 of some rows, each of which has every token before it.

        Args:
            drawn: tokens so far; of other rows they may be anything.
            rows: different ones.
            states: at their last token.
        """
        at = len(drawn) - 1
        if at == 0:
            self._make(states)
        if self.ends:
            open_ = ~self.ended[rows]
            rows, states = rows[open_], states[open_]
        self.count[rows] = at + 1
        if self.size:
            slot = self.ring[:, at % self.size]
            if self.sums and at >= self.size:
                self.total.index_add_(0, rows, slot[rows])
            slot[rows] = states.float()
        else:
            self.total.index_add_(0, rows, states.float())
        if 0 < len(self.ends) <= at + 1:
            ends = torch.tensor(self.ends, device=drawn.device)
            self.ended[rows] = (drawn[-len(self.ends) :, rows] == ends[:, None]).all(0)

    def _make(self, states: Tensor) -> None:
        n, width = len(self.count), states.shape[1]
        self.total = states.new_zeros((n, width), dtype=torch.float32)
        self.ring = states.new_zeros((n, self.size, width), dtype=torch.float32)
        self.count, self.ended = self.count.to(states.device), self.ended.to(states.device)

    def __call__(self) -> Float[Tensor, "R D"]:
        """The means; 0 in a row without a token of the tail."""
        inside = self.count - self.ended * len(self.ends)
        last = self.count[:, None] - 1
        slot = torch.arange(self.size, device=last.device)
        token = last - (last - slot).remainder(max(self.size, 1))  # that a slot holds; below 0 it holds none
        chosen = (token >= 0) & (token < inside[:, None]) & (token >= inside[:, None] - self.most)
        total = self.total + torch.where(chosen[..., None], self.ring, 0.0).sum(1)
        return total / inside.clamp(min=1, max=self.most)[:, None]
