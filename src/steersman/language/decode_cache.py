"""The key-value cache of the decoder: memory taken once, rows that leave, and prompts kept once for all their samples.

Two forms. *Roomy*: transformers' own layers, except that they write into memory taken once; any model, any device.
*Shared*: a prompt's keys and values are kept once and multiplied with the queries of all its samples together; a sample
has only its own response in memory. For CPUs, where reading the cache costs as much as the model and the library's
attention is made for many queries a row, and for models that pass `shares_prompts`.
Leaves out: the decoding loop (`decode`), other devices' kernels.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer

from steersman.core.errors import UserError
from steersman.language.decode_llama import NOBODY, Seen, Step, read
from steersman.language.layers import layer_states
from steersman.language.row_attention import CannotFlatten, attending, evaluating, unknown_tensors
from steersman.language.trunk import agree, capability, trunk_of, unwrap

ATTENTION = "steersman_shared_prompts"
GROWTH = 8
"""Tokens by which the memory of responses grows at least. Reading rows with gaps between them takes twice as long."""


def make_room(cache: Any, parent: Tensor, capacity: int) -> None:
    """Turn the cache of prompts into that of their samples, in place.

    Args:
        cache: of the prompts' forward, a transformers `Cache`.
        parent: ``[R]`` which prompt each row continues.
        capacity: tokens of prompt and response.
    """
    if not plain(cache):
        select(cache, parent)  # sliding windows and other kinds keep their own growth
        return
    for i, layer in enumerate(cache.layers):
        cache.layers[i] = _RoomyLayer(layer, parent, capacity)


def plain(cache: Any) -> bool:
    """Whether every layer of the cache is transformers' simplest: keys and values of all tokens."""
    layers = getattr(cache, "layers", None)
    return layers is not None and all(type(layer) is DynamicLayer for layer in layers)


def select(cache: Any, rows: Tensor) -> None:
    """Keep, repeat or reorder rows of a cache in place.

    Raises:
        UserError: the cache cannot do that.
    """
    if not hasattr(cache, "batch_select_indices"):
        raise UserError(f"the model's cache ({type(cache).__name__}) cannot be copied row by row", where="model")
    cache.batch_select_indices(rows)


class _RoomyLayer(DynamicLayer):
    """A cache layer that writes into memory taken once; growing by concatenation costs more than the model here."""

    def __init__(self, layer: DynamicLayer, rows: Tensor, capacity: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.filled = layer.keys.shape[-2]
        self.rooms = [self._room(x, rows, capacity) for x in (layer.keys, layer.values)]
        self._show()

    @staticmethod
    def _room(x: Tensor, rows: Tensor, capacity: int) -> Tensor:
        room = x.new_empty((len(rows), x.shape[1], capacity, x.shape[3]))
        room[:, :, : x.shape[2]] = x[rows]
        return room

    def _show(self) -> None:
        self.keys, self.values = (room[:, :, : self.filled] for room in self.rooms)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values ``[N, heads, new, size]`` and return all of them."""
        end = self.filled + key_states.shape[-2]
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, self.filled : end] = new
        self.filled = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`."""
        self.rooms = [room[indices] for room in self.rooms]
        self._show()


class SharedPrompts:
    """What the samples of some prompts attend to, layer by layer: the prompts once, and each sample's own response.

    Keys and values are in at least float32: products of half-precision vectors are slower on a CPU and round scores.
    Heads come first, ``[H_kv, rows, tokens, d]``, so that the rows of a prompt are a matrix as they lie.

    Args:
        cache: of the prompts' forward; `plain`.
        parent: ``[R]`` which prompt each row continues, rising.
        new: most tokens of a response.
    """

    def __init__(self, cache: Any, parent: Tensor, new: int) -> None:
        self.length, self.filled, self.turn = cache.layers[0].keys.shape[2], 0, 0
        self.prompts = [tuple(_heads_first(x) for x in (layer.keys, layer.values)) for layer in cache.layers]
        self.new, start = new, min(GROWTH, new)
        sizes = [(2 * k.shape[0], len(parent), start, k.shape[3]) for k, _ in self.prompts]
        most = max(math.prod(size) for size in sizes) // start * new
        # One piece: the allocator keeps it for the next batch, and memory new to the processor costs what a copy does.
        *memory, self.spare = self.prompts[0][0].new_empty(len(sizes) + 1, most)
        self.rooms = [_Room(piece, size) for piece, size in zip(memory, sizes, strict=True)]
        self._arrange(parent)

    def select(self, rows: Tensor) -> None:
        """Keep the rows `rows` (rising), and only the prompts they continue."""
        for room in self.rooms:
            self.spare = room.move(self.spare, room.states[:, rows, : self.filled], room.states.shape[2])
        self._arrange(self.parent[rows])

    def _arrange(self, parent: Tensor) -> None:
        """`place`: where each row stands among prompts x most rows of one; None where all have equally many."""
        kept, self.parent, count = torch.unique_consecutive(parent, return_inverse=True, return_counts=True)
        if len(kept) < self.prompts[0][0].shape[1]:
            self.prompts = [tuple(x[:, kept] for x in p) for p in self.prompts]
        self.flat = [(k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)) for k, v in self.prompts]
        self.most, self.count = int(count.max()), len(kept)
        first = count.cumsum(0) - count
        place = self.parent * self.most + torch.arange(len(parent), device=parent.device) - first[self.parent]
        self.place = None if len(place) == len(kept) * self.most else place

    def attend(self, query: Tensor, both: Tensor, scale: float, softcap: float | None) -> Tensor:
        """Append the new token's to the next layer's keys and values; ``softmax(q K^T) V [R, H d]``.

        Few and plain operations: on small models calling them takes as long as what they do.

        Args:
            query: ``[R, H, d]``.
            both: keys, then values ``[R, 2 H_kv, d]``.
            scale: factor of the scores.
            softcap: cap of the scores; None = none.
        """
        (keys, values), room = self.flat[self.turn], self.rooms[self.turn]
        if self.filled == room.states.shape[2]:
            self._grow(room)
        self.turn += 1
        count, heads, size = both.shape
        own_keys, own_values = room.append(both, self.filled)
        q = _heads_first(query.view(count, heads // 2, -1, size)).mul_(scale)
        prompt = torch.bmm(self._by_prompt(q), keys)
        own = torch.bmm(q.flatten(0, 1), own_keys.transpose(1, 2))
        scores = torch.cat([self._by_row(prompt, q), own.view(*q.shape[:3], -1)], -1)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        share = scores.softmax(-1)
        mixed = self._by_row(torch.bmm(self._by_prompt(share[..., : self.length]), values), q)
        mixed.flatten(0, 1).baddbmm_(share[..., self.length :].flatten(0, 1), own_values)
        return mixed.transpose(0, 1).reshape(count, -1)

    def _grow(self, room: "_Room") -> None:
        """More room for a layer's responses, little enough that what is read of it lies close together."""
        tokens = min(self.filled + max(GROWTH, self.filled // 4), self.new)
        self.spare = room.move(self.spare, room.states, tokens)

    def _by_prompt(self, x: Tensor) -> Tensor:
        """``[H, R, g, S]`` as ``[H P, most g, S]``; zeros where a prompt has fewer rows than most."""
        heads, _, g, size = x.shape
        if self.place is not None:
            x = x.new_zeros(heads, self.count * self.most, g, size).index_copy_(1, self.place, x)
        return x.view(heads * self.count, self.most * g, size)

    def _by_row(self, x: Tensor, like: Tensor) -> Tensor:
        """The reverse, ``[H, R, g, S]``; `like` has its first three sizes."""
        x = x.view(len(like), self.count * self.most, like.shape[2], -1)
        return x if self.place is None else x[:, self.place]

    @contextmanager
    def next_token(self) -> Iterator[Tensor]:
        """Around the forward of one more token a row; its position ``[1, 1]``."""
        self.turn = 0
        yield torch.full((1, 1), self.length + self.filled)
        self.filled += 1

    def forward(self, trunk: Any, token: Tensor, step: Step | None = None, seen: Seen = NOBODY, **more: Any) -> Tensor:
        """Last hidden states ``[R, D]`` of one more token a row, ``[R]``; by `step` where the trunk was read as one.

        A `step` adds the states between layers to `seen`; otherwise hooks see them.
        """
        with self.next_token() as position:
            if step is not None:
                return step(token, self.length + self.filled, self.attend, seen)
            inputs = {"position_ids": position, "use_cache": False, "steersman_prompts": self}
            hidden: Tensor = trunk(token[:, None], **inputs, **more)[0][:, 0]
            return hidden


class _Room:
    """Keys and values of a layer's responses, close together in a piece of memory that has room for all of them.

    Args:
        memory: the piece.
        size: heads of keys and of values, rows, tokens for which there is room now, width.
    """

    def __init__(self, memory: Tensor, size: tuple[int, int, int, int]) -> None:
        self._take(memory, size)

    def _take(self, memory: Tensor, size: tuple[int, int, int, int]) -> None:
        self.memory, self.states = memory, memory[: math.prod(size)].view(size)
        self.halves = self.states.view(2, -1, *size[2:])

    def append(self, new: Tensor, at: int) -> Tensor:
        """Put in the states ``[R, 2 H, d]`` of token `at`; all until then, ``[2, H R, at + 1, d]``."""
        self.states[:, :, at] = new.transpose(0, 1)
        return self.halves[:, :, : at + 1]

    def move(self, memory: Tensor, states: Tensor, tokens: int) -> Tensor:
        """Go on in other memory with `states`, and room for `tokens`; the memory that is left."""
        left, (heads, rows, filled, width) = self.memory, states.shape
        self._take(memory, (heads, rows, tokens, width))
        self.states[:, :, :filled] = states
        return left


def _heads_first(x: Tensor) -> Tensor:
    """A copy ``[H, N, ...]`` of ``[N, H, ...]`` in at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.transpose(0, 1).to(dtype, memory_format=torch.contiguous_format, copy=True)


def shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    steersman_prompts: SharedPrompts | None = None,
    steersman_calls: list[nn.Module] | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token a row to its prompt and its response, in the form of transformers' interface.

    Args:
        module: the calling layer.
        query: ``[R, H, 1, d]``, key and value ``[R, H_kv, 1, d]`` with H a multiple of H_kv.
        attention_mask: must be None; a row sees all of its own.
        scaling: factor of the scores; None = ``d ** -0.5``.
        steersman_prompts: what came before.
        steersman_calls: gets the layer appended; a probe counts with it.
        softcap: cap of the scores.
        **kwargs: a tensor with further meaning (sinks, position biases) is refused.

    Returns:
        ``([R, 1, H, d], None)``.
    """
    unknown = unknown_tensors(kwargs)
    if steersman_prompts is None or attention_mask is not None or unknown or query.shape[2] != 1:
        raise CannotFlatten(f"{type(module).__name__} passes {unknown or 'a mask of its own or several tokens'}")
    if steersman_calls is not None:
        steersman_calls.append(module)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    mixed = steersman_prompts.attend(query[:, :, 0], torch.cat([key, value], 1)[:, :, 0], scale, softcap)
    return mixed.view(len(query), 1, query.shape[1], -1).to(query.dtype), None


def attending_shared(trunk: nn.Module) -> AbstractContextManager[None]:
    """`shared_attention` for the block."""
    return attending(trunk, ATTENTION, shared_attention)


_known: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()
_PROBED = 7
"""Positions of a probe."""
_steps: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


def step_of(model: nn.Module, positions: int) -> Step | None:
    """The model's trunk with its weights of now, if it is one of Llama's form and then gives the same hidden states.

    Args:
        model: any.
        positions: how many there will be.
    """
    base = unwrap(model)
    step = read(trunk_of(base), max(positions, _PROBED))
    if step is not None and base not in _steps:
        with torch.no_grad(), evaluating(base):
            _steps[base] = _probe(base, step)
    return step if step is not None and _steps[base] else None


def shares_prompts(model: nn.Module) -> bool:
    """Whether `SharedPrompts` gives the hidden states of a plain forward; tried once for each model, on short rows."""
    base = unwrap(model)
    if base not in _known:
        how = capability(model)
        with torch.no_grad(), evaluating(base):
            _known[base] = how.flat and base.device.type == "cpu" and _probe(base)
    return _known[base]


def _probe(base: Any, step: Step | None = None) -> bool:
    """Two prompts, three rows of two tokens each, then one row less and a third token, against plain forwards."""
    trunk, config = trunk_of(base), base.config.get_text_config()
    block = (torch.arange(8) * 7 + 3).view(2, 4).remainder(config.vocab_size)
    tokens = (torch.arange(9) * 5 + 1).view(3, 3).remainder(config.vocab_size)
    parent, kept = torch.tensor([0, 0, 1]), torch.tensor([0, 2])
    # A step leaves the modules out, so that it must give the states between layers itself.
    layers = config.num_hidden_layers
    between: dict[int, list[Tensor]] = {n: [] for n in range(layers + 1)} if step is not None else {}
    calls: list[nn.Module] = []
    right = True
    try:
        with layer_states(trunk, layers, between) as states:
            truth = trunk(torch.cat([block[parent], tokens], 1), use_cache=False)[0][:, 4:]
        cache = trunk(block, use_cache=True).past_key_values
        if not plain(cache):
            return False
        prompts = SharedPrompts(cache, parent, 3)
        with attending_shared(trunk):
            for i in range(3):
                if i == 2:
                    prompts.select(kept)
                    tokens, truth = tokens[kept], truth[kept]
                    states = {number: [x[0][kept]] for number, x in states.items()}
                last = prompts.forward(trunk, tokens[:, i], step, between, steersman_calls=calls)
                right = right and agree(last, truth[:, i])
                right = right and all(agree(x[i][:, 0], states[n][0][:, 4 + i]) for n, x in between.items())
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError):
        return False
    return right and (step is not None or len(calls) == 3 * layers)
