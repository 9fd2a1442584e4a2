"""Packing: micro-batches filled to a token budget, and ragged rows as one flat stream of their real tokens.

A flat stream has no padding in it, so everything that treats tokens one by one (embeddings, norms, linear layers, the
head) costs what the real tokens cost. Attention alone needs rows; `Flat` says which stream tokens make up each row, in
blocks of rows of similar length. Because a row is only a list of indices, rows with equal prompts may point at one copy
of the prompt's tokens. Leaves out: the forward passes (`trunk`, `score`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
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
class Block:
    """Rows that attention handles as one padded ``[rows, width]`` batch.

    Args:
        rows: number of rows.
        width: tokens of the longest of them.
        first: the stream position of its first token if the block is a plain reshape of the stream from there.
        index: stream positions ``[rows * width]`` where it is not; padding points at any valid token.
    """

    rows: int
    width: int
    first: int = 0
    index: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Flat:
    """N ragged rows as a stream of T tokens.

    Args:
        ids: token ids ``[T]``.
        position: place of each token in its row ``[T]``.
        where: stream position of each row's tokens ``[N, L]``; 0 beyond a row's end.
        blocks: the rows as attention sees them.
        slot: place of each stream token in the concatenated padded blocks ``[T]``; None = the same order.
        longest: tokens of the longest row.
    """

    ids: Tensor
    position: Tensor
    where: Tensor
    blocks: tuple[Block, ...]
    slot: Tensor | None
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
    if shared_prompt is not None and n:
        owner = _owners(ids, shared_prompt, order)
        start = torch.where(owner == itself, 0, shared_prompt)
    count = length - start
    offset = torch.empty_like(length)
    offset[order] = count[order].cumsum(0) - count[order]
    where = (offset - start)[:, None] + t
    if shared_prompt is not None:
        where = torch.where(t < start[:, None], where[owner], where)
    where = torch.where(t < length[:, None], where, 0)
    own = ((t >= start[:, None]) & (t < length[:, None]))[order]
    blocks, slot = _blocks(where, own, order, sorted_lengths, plain=shared_prompt is None)
    return Flat(ids[order][own], t.expand(n, width)[own], where, blocks, slot, sorted_lengths[-1] if n else 0)


def _owners(ids: Tensor, prompt_length: Tensor, order: Tensor) -> Tensor:
    """For each row the row whose copy of the prompt it uses: the first in `order` with an equal one."""
    n, width = ids.shape
    inside = torch.arange(width, device=ids.device) < prompt_length[:, None]
    _, key = torch.where(inside, ids, -1).unique(dim=0, return_inverse=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n, device=ids.device)
    first = torch.full((n,), n, device=ids.device).scatter_reduce(0, key, rank, "amin")
    return order[first[key]]


def _blocks(
    where: Tensor, own: Tensor, order: Tensor, sorted_lengths: list[int], plain: bool
) -> tuple[tuple[Block, ...], Tensor | None]:
    blocks: list[Block] = []
    slots: list[Tensor] = []
    first_slot = first_token = 0
    for a, b in length_blocks(sorted_lengths):
        wide = sorted_lengths[b - 1]
        if plain and sorted_lengths[a] == wide:
            blocks.append(Block(b - a, wide, first=first_token))
        else:
            blocks.append(Block(b - a, wide, index=where[order[a:b], :wide].reshape(-1)))
        slots.append(
            (torch.arange((b - a) * wide, device=where.device).view(b - a, wide) + first_slot)[own[a:b, :wide]]
        )
        first_slot += (b - a) * wide
        first_token += sum(sorted_lengths[a:b])
    if plain and first_slot == first_token:
        return tuple(blocks), None
    return tuple(blocks), torch.cat(slots)
