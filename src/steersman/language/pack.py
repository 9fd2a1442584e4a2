"""Packing: micro-batches filled to a token budget, and ragged rows as one flat stream of their real tokens.

A flat stream has no padding in it, so everything that treats tokens one by one (embeddings, norms, linear layers, the
head) costs what the real tokens cost. Attention alone needs rows; `Flat` says which stream tokens make up each row, in
blocks of rows of similar length. Because a row is only a list of indices, rows with equal prompts may point at one copy
of the prompt's tokens. Leaves out: the forward passes (`trunk`, `score`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.core.errors import UserError

_LONGEST_OVER_SHORTEST = 1.5
"""Rows of one attention block differ in length by at most this factor, so padding stays below half of attention."""
_SHORT = 16
"""Below this many tokens a block of its own costs more than the padding it would save."""


def micro_batches(lengths: Int[Tensor, " N"] | Sequence[int], token_budget: int) -> tuple[Int[Tensor, " M"], ...]:
    """Rows of similar length together, as many as fit into `token_budget` real tokens.

    Args:
        lengths: real tokens of each row, >= 0 (of a pair: both sides together).
        token_budget: most tokens of a micro-batch, >= 1.

    Returns:
        int64 row indices of each micro-batch; every row is in exactly one. The longest rows come first, so that a
        memory too small shows itself at once; equal lengths keep their order.

    Raises:
        UserError: a budget below 1 or a negative length.

    Edge cases:
        No rows give no micro-batch. A row longer than the budget gets a micro-batch of its own.
    """
    if token_budget < 1:
        raise UserError(f"token_budget is {token_budget}", where="micro_batches", allowed=">= 1")
    sizes = torch.as_tensor(lengths, dtype=torch.int64).cpu()
    if len(sizes) and int(sizes.min()) < 0:
        raise UserError(f"a row has length {int(sizes.min())}", where="micro_batches", allowed=">= 0")
    order = sizes.argsort(descending=True, stable=True)
    batches: list[list[int]] = []
    filled = 0
    for row, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if not batches or filled + size > token_budget:
            batches.append([])
            filled = 0
        batches[-1].append(row)
        filled += size
    return tuple(torch.tensor(rows, dtype=torch.int64) for rows in batches)


def length_blocks(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges ``(first, end)`` of ascending `lengths` whose longest row is not much longer than the shortest."""
    blocks: list[tuple[int, int]] = []
    first = 0
    for i, length in enumerate(lengths):
        if length > max(lengths[first] * _LONGEST_OVER_SHORTEST, _SHORT):
            blocks.append((first, i))
            first = i
    return [*blocks, (first, len(lengths))] if lengths else []


@dataclass(frozen=True, slots=True)
class Flat:
    """N ragged rows as a stream of T tokens.

    Attention sees the rows in padded blocks ``[rows, width]``, one after the other S slots in all.

    Args:
        ids: token ids ``[T]``.
        position: place of each token in its row ``[T]``.
        where: stream position of each row's tokens ``[N, L]``; 0 beyond a row's end.
        blocks: ``(rows, width)`` of each block.
        index: stream position of each slot ``[S]``, padding at any valid one; None = the stream is the blocks.
        slot: slot of each stream token ``[T]``; None with `index`.
        shared: whether some stream token is in more than one row.
        longest: tokens of the longest row.
    """

    ids: Tensor
    position: Tensor
    where: Tensor
    blocks: tuple[tuple[int, int], ...]
    index: Tensor | None
    slot: Tensor | None
    shared: bool
    longest: int

    def __len__(self) -> int:
        return self.ids.shape[0]


def flatten(ids: Int[Tensor, "N L"], length: Int[Tensor, " N"], shared_prompt: Int[Tensor, " N"] | None = None) -> Flat:
    """The real tokens of right-padded rows as one stream, rows in ascending order of length.

    Args:
        ids: right-padded token ids.
        length: real tokens of each row, 0 <= length <= L.
        shared_prompt: the prompt length of each row; rows whose prompts are equal then have one copy of its tokens.
            None = every row has its own.

    Returns:
        A stream of ``sum(length)`` tokens, less the repeated prompts.
    """
    n, width = ids.shape
    order = length.argsort(stable=True)
    sorted_lengths = length[order].tolist()
    t = torch.arange(width, device=ids.device)
    owner = itself = torch.arange(n, device=ids.device)
    start = torch.zeros_like(length)
    shared = False
    if shared_prompt is not None and n:
        owner = _owners(ids, shared_prompt, order)
        start = torch.where(owner == itself, 0, shared_prompt)
        shared = bool((start > 0).any())
    count = length - start
    offset = torch.empty_like(length)
    offset[order] = count[order].cumsum(0) - count[order]
    where = (offset - start)[:, None] + t
    if shared:
        where = torch.where(t < start[:, None], where[owner], where)
    where = torch.where(t < length[:, None], where, 0)
    own = ((t >= start[:, None]) & (t < length[:, None]))[order]
    spans = [(a, b, sorted_lengths[b - 1]) for a, b in length_blocks(sorted_lengths)]
    blocks = tuple((b - a, wide) for a, b, wide in spans)
    index = slot = None
    if shared or sum(rows * wide for rows, wide in blocks) != sum(sorted_lengths):
        index = torch.cat([where[order[a:b], :wide].flatten() for a, b, wide in spans])
        slot = torch.cat([own[a:b, :wide].flatten() for a, b, wide in spans]).nonzero()[:, 0]
    longest = sorted_lengths[-1] if n else 0
    return Flat(ids[order][own], t.expand(n, width)[own], where, blocks, index, slot, shared, longest)


def _owners(ids: Tensor, prompt_length: Tensor, order: Tensor) -> Tensor:
    """For each row the row whose copy of the prompt it uses: the first in `order` with an equal one."""
    n, width = ids.shape
    inside = torch.arange(width, device=ids.device) < prompt_length[:, None]
    _, key = torch.where(inside, ids, -1).unique(dim=0, return_inverse=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n, device=ids.device)
    first = torch.full((n,), n, device=ids.device).scatter_reduce(0, key, rank, "amin")
    return order[first[key]]


def take(x: Float[Tensor, "T ..."], index: Int[Tensor, " S"]) -> Float[Tensor, "S ..."]:
    """``x[index]``, repeats allowed, with a gradient that is summed in the same order every time."""
    return _Take.apply(x, index)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        total = grad.new_zeros(ctx.rows, *grad.shape[1:])
        if grad.device.type == "cpu":
            return total.index_add_(0, index, grad), None
        return total.index_put_((index,), grad, accumulate=True), None  # sorts; index_add_ would race
