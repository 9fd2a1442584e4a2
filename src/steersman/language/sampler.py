"""Which token comes next: temperature and filters, and the inverse CDF of what they leave at a given uniform number.

The filtered, renormalised distribution is the one drawn from, so its log-probs are those recorded. Filters and their
order (temperature, top-k, top-p, min-p) are those of transformers' logits warpers.
Leaves out: running the model and where the uniform numbers come from (`decode`), stop strings (`text`).
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from steersman.core.component import Component
from steersman.core.config import Source, validate

_SMALL = 64.0
"""Bits: powers of two up to here, summed over any vocabulary, stay far inside float32."""
HEAD = 1024
"""Tokens that top-p looks at before it sorts the whole vocabulary."""
BLOCK = 2048
"""Tokens whose probabilities are summed up at once; for 64 rows half a megabyte of logits."""
_BITS = 1 / math.log(2)


class Sampling(Component):
    """How a token is drawn from the model's logits; None turns a filter off.

    ``temperature`` divides the logits, 0 takes the likeliest token. ``top_k`` keeps the k likeliest tokens,
    ``top_p`` the fewest likeliest tokens whose probabilities reach p together (both keep more where the last is a tie),
    ``min_p`` those at least `min_p` times as probable as the likeliest. Each filter sees what the one before it left.
    """

    kind: Literal["sampling"] = "sampling"
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False, description="divides the logits; 0 = the likeliest")
    top_k: int | None = Field(None, ge=1, description="keep the k likeliest tokens")
    top_p: float | None = Field(None, gt=0, le=1, description="keep the likeliest tokens that reach this mass")
    min_p: float | None = Field(None, ge=0, le=1, description="keep tokens at least this share of the likeliest")

    @property
    def trainable(self) -> bool:
        """Whether tokens come from the tempered policy itself: no filter that can remove a token, and not greedy.

        Anything else draws from a distribution that is not the policy trained, and needs a correction.
        """
        filtered = self.top_k is not None or (self.top_p or 1.0) < 1 or (self.min_p or 0.0) > 0
        return self.temperature > 0 and not filtered


def sampling(**options: Any) -> Sampling:
    """`Sampling` from keyword arguments; an option out of range is a `UserError` that names it."""
    return validate(Sampling, Source(options, {}, "sampling"))


def filtered(logits: Tensor, options: Sampling) -> Tensor:
    """The logits of the distribution that is sampled from: divided by the temperature, removed tokens at -inf.

    Args:
        logits: ``[N, V]`` of the model, any floating type.
        options: with ``temperature > 0``.

    Returns:
        ``[N, V]`` float32; at least one token of a row, its likeliest, is left.

    Source: TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper and MinPLogitsWarper of transformers. Of equal
    values at the border of top-p all are kept, as top-k does; there some of them are, in no defined order.
    """
    z = logits.float()
    if options.temperature != 1:
        z = z / options.temperature
    if options.top_k is not None and options.top_k < z.shape[-1]:
        z = z.masked_fill(z < z.topk(options.top_k).values[:, -1:], -math.inf)
    if options.top_p is not None and options.top_p < 1:
        z = z.masked_fill(z < _nucleus_border(z, options.top_p), -math.inf)
    if options.min_p:
        z = z.masked_fill((z - z.amax(-1, keepdim=True)).exp() < options.min_p, -math.inf)
    return z


def _nucleus_border(z: Tensor, p: float) -> Tensor:
    """The smallest logit ``[N, 1]`` of the fewest likeliest tokens whose probabilities reach `p`.

    The likeliest `HEAD` tokens nearly always do; only rows in which they do not are sorted as a whole, which costs five
    times as much. Both ways add up the same numbers in the same order, so a row's border does not depend on which.
    """
    log_norm = z.logsumexp(-1, keepdim=True)
    few = min(HEAD, z.shape[-1])
    border, mass = _border(z.topk(few).values, log_norm, p)
    flat = (mass < p).nonzero()[:, 0]
    if few < z.shape[-1] and len(flat):
        border[flat] = _border(z[flat].sort(descending=True).values, log_norm[flat], p)[0]
    return border


def _border(descending: Tensor, log_norm: Tensor, p: float) -> tuple[Tensor, Tensor]:
    mass = (descending - log_norm).exp_().cumsum_(-1)
    count = 1 + (mass[:, :-1] < p).sum(-1, keepdim=True)  # a token is kept if those before it do not reach p
    return descending.gather(-1, count - 1), mass[:, -1]


def draw(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the CDF of softmax(logits) at `u`.

    token = min{v : sum_{w <= v} p_w > u sum_w p_w}; a token of probability 0 is never drawn.

    Args:
        logits: ``[N, V]`` float32 of the distribution sampled from.
        u: ``[N]`` uniform numbers in (0, 1).

    Returns:
        token ids ``[N]`` int64 and their log-probs ``[N]`` in nats.

    Edge cases: a row with a logit that is NaN or +inf gives some token with log-prob NaN.
    """
    n, vocabulary = logits.shape
    blocks, width = _blocks(vocabulary)
    if blocks * width > vocabulary:
        logits = nn.functional.pad(logits, (0, blocks * width - vocabulary), value=-math.inf)
    if blocks == 1:
        return _invert_one(logits, u, _BITS, False)
    z = logits.view(n, blocks, width)
    parts = [_mass(z[:, k : k + 1], _BITS) for k in range(blocks)] if _in_blocks(z) else [_mass(z, _BITS)]
    return _invert(z, parts, u, _BITS)


class HeadDraw:
    """`draw` straight from hidden states, with the logits ``softcap tanh(scale (h W^T + b) / softcap) / temperature``.

    On a CPU the logits are made and summed up a block at a time, while the block is in the processor's cache; only the
    block that `u` falls into is read again. Holds the weight in float32 and memory for the logits: one for many draws.

    Args:
        weight: W ``[V, D]``, any floating type.
        bias: b ``[V]``, or None.
        scale: factor of the logits.
        softcap: > 0, their cap; None = none.
        temperature: > 0.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None, temperature: float
    ) -> None:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.softcap, self.bits = softcap, _BITS / temperature
        self.factor = scale / softcap if softcap else scale * self.bits
        self.weight = weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype) * self.factor
        self.room = self.weight.new_empty(0)
        self.longest = float(self.weight.norm(dim=1).amax())
        self.most = 0.0 if self.bias is None else float(self.bias.abs().amax())

    def draw(self, hidden: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and log-probs ``[N]`` of hidden states ``[N, D]`` at ``u [N]``; see the function `draw`."""
        h = (hidden.to(_wide(self.weight)) * self.factor).to(self.weight.dtype)  # rounded once
        blocks, width = _blocks(len(self.weight))
        if self.room.numel() != len(h) * blocks * width:
            self.room = h.new_empty(len(h) * blocks * width)
        if blocks == 1:
            z = self.room.view(len(h), width)
            self._logits(h, slice(None), z)
            return _invert_one(z, u, 1.0, self._small(h))
        if not _in_blocks(self.room):
            z = self.room.view(len(h), blocks * width)
            self._logits(h, slice(None), z)
            z = z.view(-1, blocks, width)
            return _invert(z, [_mass(z, 1.0)], u, 1.0)
        z, parts, small = self.room.view(blocks, len(h), width), [], self._small(h)
        for k, block in enumerate(z):
            self._logits(h, slice(k * width, (k + 1) * width), block)
            parts.append(_mass(block[:, None], 1.0, small))
        return _invert(z.transpose(0, 1), parts, u, 1.0, small)

    def _small(self, h: Tensor) -> bool:
        """Whether no logit can be so large that its power leaves float32, so that the largest need not be found."""
        if self.softcap:
            return self.softcap * self.bits < _SMALL
        return _in_blocks(h) and float(h.norm(dim=1).amax()) * self.longest + self.most < _SMALL

    def _logits(self, h: Tensor, part: slice, room: Tensor) -> None:
        """Logits in bits of a part of the vocabulary, -inf past its end."""
        weight = self.weight[part]
        out = room
        if len(weight) < room.shape[1]:
            out = room[:, : len(weight)]
            room[:, len(weight) :] = -math.inf
        torch.mm(h, weight.t(), out=out)
        if self.bias is not None:
            out.add_(self.bias[part])
        if self.softcap:
            out.tanh_().mul_(self.softcap * self.bits)


def _wide(x: Tensor) -> torch.dtype:
    return x.dtype if x.device.type == "mps" else torch.float64


def _in_blocks(x: Tensor) -> bool:
    """Whether to go block by block: on a CPU. Elsewhere starting a kernel costs more than passing over memory."""
    return x.device.type == "cpu"


def _blocks(vocabulary: int) -> tuple[int, int]:
    """Number and width of the blocks that cover the vocabulary."""
    width = min(vocabulary, BLOCK)
    return -(-vocabulary // width), width


def _mass(z: Tensor, bits: float, small: bool = False) -> tuple[Tensor, Tensor]:
    """A logit near the largest and ``sum 2^(bits (z - it))`` of blocks ``[N, K, W]``.

    If all are `small` (and in bits), "near" is 0, and the powers take the place of the logits.
    """
    if small:
        return z.new_zeros(z.shape[:-1]), z.exp2_().sum(-1)
    top = z.amax(-1).clamp_(min=torch.finfo(z.dtype).min)
    return top, _power(z, top, bits).sum(-1)


def _power(z: Tensor, top: Tensor, bits: float) -> Tensor:
    """``2^(bits (z - top))``: exp2 costs a third of exp."""
    x = z - top[..., None]
    return (x if bits == 1 else x.mul_(bits)).exp2_()


def _invert_one(z: Tensor, u: Tensor, bits: float, small: bool) -> tuple[Tensor, Tensor]:
    """The inverse CDF of logits ``[N, W]`` that are one block; `small` as in `_mass`."""
    if small:
        top, total = _mass(z, bits, small)
    else:
        top = z.amax(-1).clamp_(min=torch.finfo(z.dtype).min)
        total = (mass := _power(z, top, bits)).sum(-1)
    steps = z.cumsum(1) if small else mass.cumsum_(1)
    place, _ = _search(steps, (u.to(_wide(z)) * steps[:, -1]).to(steps.dtype))
    chosen = z.gather(1, place[:, None])[:, 0].to(_wide(z))
    logp = ((chosen.log2() if small else bits * (chosen - top.to(_wide(z)))) - total.to(_wide(z)).log2()) / _BITS
    return place, logp.to(z.dtype)


def _invert(
    z: Tensor, parts: list[tuple[Tensor, Tensor]], u: Tensor, bits: float, small: bool = False
) -> tuple[Tensor, Tensor]:
    """The inverse CDF in two steps: the block that holds the point, then the token inside it.

    Args:
        z: logits in blocks ``[N, B, W]``; ``bits z`` are logits in bits.
        parts: `_mass` of consecutive blocks.
        u: ``[N]``.
        small: as in `_mass`.
    """
    tops, sums = (torch.cat(x, 1) for x in zip(*parts, strict=True))
    wide, row = _wide(z), torch.arange(len(z), device=z.device)
    top = tops.amax(1)
    mass = _power(tops.to(wide), top.to(wide), bits) * sums
    cdf = mass.cumsum(1)
    block, point = _search(cdf, u.to(wide) * cdf[:, -1])
    before, here = (cdf - mass)[row, block], mass[row, block]
    inside = z[row, block]
    steps = inside.cumsum(1) if small else _power(inside, tops[row, block], bits).cumsum_(1)
    place, _ = _search(steps, ((point - before) / here).clamp(0, 1).to(steps.dtype) * steps[:, -1])
    chosen = inside[row, place].to(wide)
    logp = ((chosen.log2() if small else bits * (chosen - top.to(wide))) - cdf[:, -1].log2()) / _BITS
    return block * z.shape[2] + place, logp.to(z.dtype)


def _search(cdf: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """First entry of each row whose `cdf` exceeds `point`, which is held below the last; and the point held."""
    total = cdf[:, -1]
    held = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, held[:, None], right=True)[:, 0].clamp_(max=cdf.shape[1] - 1), held


def choose(logits: Tensor, options: Sampling, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-prob under the distribution it was chosen from.

    Args:
        logits: ``[N, V]`` of the model.
        options: temperature and filters.
        u: ``[N]`` uniform numbers; not used, and may be None, where the temperature is 0.

    Returns:
        token ids ``[N]`` int64 and log-probs ``[N]`` float32: 0 for greedy (the choice is certain), NaN where the
        logits are no distribution.
    """
    if options.temperature == 0 or u is None:
        token = logits.argmax(-1)
        return token, 0.0 * logits.gather(1, token[:, None])[:, 0].float()
    return draw(filtered(logits, options), u)
