"""What a model says of the next token of every row of a batch: the prompts' forward, then one token a row at a time.

Chooses, from what is known of the model, the form of the cache (`decode_cache`) and whether tokens are drawn from its
last hidden states (`sampler.HeadDraw`) or from its own logits. Leaves out: which rows go on (`decode`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

from torch import Tensor

from steersman.language.decode_cache import SharedPrompts, attending_shared, make_room, select, shares_prompts, step_of
from steersman.language.decode_llama import NOBODY, Seen
from steersman.language.layers import count_layers, layer_states
from steersman.language.sampler import HeadDraw, Sampling, choose
from steersman.language.trunk import capability, output_weight, trunk_of, unwrap

Head = Callable[[int], HeadDraw]
"""From the width of the hidden states to what draws from them; made at the first call."""


def head_of(model: Any, options: Sampling) -> Head | None:
    """How to draw from hidden states.

    Args:
        model: any decoder-only `transformers` model, or a LoRA wrapper around one.
        options: how tokens are drawn.

    Returns:
        None where filters or greed look at the model's own logits, or where its head is no plain product.
    """
    how = capability(model)
    if not (how.tiled_head and options.trainable):
        return None
    form = how.scale, how.softcap, options.temperature
    return cache(lambda width: HeadDraw(*output_weight(model, width), *form))


class Forward:
    """The state of one batch.

    Args:
        model: in eval mode.
        block: prompts of equal length ``[P, L]``.
        parent: ``[R]`` which prompt each row continues, rising.
        new: most tokens of a response.
        options: how tokens are drawn.
        head: `head_of` the model.
        layers: numbers of those whose states are kept in `states`.
    """

    states: Mapping[int, Tensor]
    """Of the tokens taken in last, of each layer asked for: ``[P, L, D]`` of the prompts, then ``[R, 1, D]``."""

    def __init__(
        self,
        model: Any,
        block: Tensor,
        parent: Tensor,
        new: int,
        options: Sampling,
        head: Head | None,
        layers: Sequence[int] = (),
    ) -> None:
        self.model, self.options, self.head, self.layers = unwrap(model), options, head, layers
        self.trunk, self.states = trunk_of(self.model), {}
        with self._reading():
            self.last, self.cache = self._run(block, use_cache=True)
        if len(block) < len(parent):
            self.last = self.last[parent]
        total, window = block.shape[1] + new, capability(model).window
        self.shared: SharedPrompts | None = None
        if total <= (window or total) and shares_prompts(model):
            self.shared, self.cache = SharedPrompts(self.cache, parent, new), None
            self.step = None if head is None else step_of(model, total)
        else:
            make_room(self.cache, parent, total)

    def attention(self) -> AbstractContextManager[None]:
        """To be open around `advance`."""
        return nullcontext() if self.shared is None else attending_shared(self.trunk)

    @contextmanager
    def _reading(self) -> Iterator[Seen]:
        """Around a forward of whose layers `states` are kept, if there are any."""
        if not self.layers:
            yield NOBODY
            return
        with layer_states(self.trunk, count_layers(self.model.config), self.layers) as seen:
            yield seen
        self.states = {number: found[-1] for number, found in seen.items()}

    def _run(self, ids: Tensor, **inputs: Any) -> tuple[Tensor, Any]:
        """Last hidden states ``[N, D]`` where there is a head to draw with, else logits ``[N, V]``; and the cache."""
        if self.head is None:
            out = self.model(ids, logits_to_keep=1, **inputs)
            return out.logits[:, -1], getattr(out, "past_key_values", None)
        out = self.trunk(ids, **inputs)
        return out.last_hidden_state[:, -1], getattr(out, "past_key_values", None)

    def choose(self, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens ``[R]`` and their log-probs at the uniform numbers `u`; None = greedy."""
        if self.head is None or u is None:
            return choose(self.last, self.options, u)
        return self.head(self.last.shape[1]).draw(self.last, u)

    def select(self, rows: Tensor) -> None:
        """Only the rows `rows` (rising) go on."""
        if self.shared is not None:
            self.shared.select(rows)
        else:
            select(self.cache, rows)

    def advance(self, token: Tensor) -> None:
        """Take in one token a row, ``[R]``."""
        with self._reading() as seen:
            if self.shared is None:
                self.last, _ = self._run(token[:, None], past_key_values=self.cache, use_cache=True)
            elif self.head is None:
                self.last = self.shared.forward(self.model, token, logits_to_keep=1)
            else:
                self.last = self.shared.forward(self.trunk, token, self.step, seen)
