"""The chunked head: log-probabilities and entropies of given tokens without a ``[tokens, vocabulary]`` tensor.

Logits exist only as tiles small enough for the processor's cache. One sweep over the tiles keeps a running maximum,
normaliser and entropy sum (online softmax: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018)
and, where hidden states need a gradient, the expected output embedding. That makes their gradient a scalar multiple of
a saved ``[tokens, width]`` tensor; only the weight's gradient needs the tiles again, and they are recomputed. Tiles
hold logits in bits, because ``exp2`` costs a third of ``exp``; results are in nats.

Leaves out: sampling (`decode`), divergences between two models, second derivatives.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from steersman.core.errors import UserError

CPU_CHUNK_BYTES = 4 << 20
"""Tile on a CPU: stays in the last-level cache, where a pass over it is almost free beside the products."""
GPU_CHUNK_BYTES = 256 << 20
"""Tile on an accelerator: large enough that launching kernels costs nothing beside running them."""
_BITS = 1.0 / math.log(2.0)
_IMPOSSIBLE = -1e30
"""Stands for minus infinity: below every logit, and 0 times it is 0 where minus infinity would give NaN."""


def token_logp(
    hidden: Float[Tensor, "T D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " T"],
    temperature: float = 1.0,
    bias: Float[Tensor, " V"] | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk_bytes: int | None = None,
    entropy: bool = True,
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """Log-probability of each target token and entropy of its distribution, in nats.

    ``z = scale (hidden weight^T + bias)``; with a cap ``z = softcap tanh(z / softcap)``; then
    ``logp[t] = z[t, targets[t]] / temperature - log sum_v exp(z[t, v] / temperature)`` and
    ``entropy[t] = -sum_v p[t, v] log p[t, v]``.

    Args:
        hidden: last hidden states, any float dtype; one row predicts one token.
        weight: output embedding, same dtype as `hidden` or another float dtype.
        targets: int64 token ids in [0, V); not checked against V on an accelerator, where that would wait for it.
        temperature: > 0; divides the logits after the cap.
        bias: added before `scale`; None = none.
        scale: Cohere's `logit_scale`, the inverse of Granite's `logits_scaling`.
        softcap: > 0, Gemma 2's `final_logit_softcapping`; None = none.
        chunk_bytes: size of a tile of logits; None = 4 MiB on a CPU, 256 MiB elsewhere. Changes rounding only.
        entropy: False spares the entropy (one pass over each tile); it is then NaN.

    Returns:
        ``(logp, entropy)``, float32 (float64 for float64 input). Gradients reach hidden, weight and bias through
        `logp`; the entropy is detached. Whatever does not require a gradient costs nothing in the backward.

    Raises:
        UserError: shapes that disagree, integer inputs of the wrong type, an id outside the vocabulary, or an option
            outside its range.

    Edge cases:
        T = 0 gives two empty tensors. Logits and sums are float32 when `hidden` is bfloat16 or float16. A bias of minus
        infinity makes a token impossible; the entropy stays finite.
    """
    _check(hidden, weight, targets, bias, temperature, scale, softcap, chunk_bytes)
    if chunk_bytes is None:
        chunk_bytes = CPU_CHUNK_BYTES if hidden.device.type == "cpu" else GPU_CHUNK_BYTES
    return _TokenLogp.apply(hidden, weight, bias, targets, _Form(temperature, scale, softcap), chunk_bytes, entropy)


class _Form(NamedTuple):
    """What stands between the product and the softmax."""

    temperature: float
    scale: float
    softcap: float | None

    def to_bits(self) -> float:
        """Factor of the product: the whole way to bits, or to the argument of the tanh."""
        return self.scale / self.softcap if self.softcap else self.scale * _BITS / self.temperature

    def cap_bits(self) -> float:
        """Factor of the tanh, in bits."""
        return (self.softcap or 0.0) * _BITS / self.temperature


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: float,
    scale: float,
    softcap: float | None,
    chunk_bytes: int | None,
) -> None:
    where = "token_logp"
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        shapes = f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)}"
        raise UserError(f"{shapes} do not fit", where=where, allowed="[T, D] and [V, D]")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise UserError(f"targets are {targets.dtype} {tuple(targets.shape)}", where=where, allowed="int64 [T]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise UserError(f"bias has shape {tuple(bias.shape)}", where=where, allowed=f"[{weight.shape[0]}]")
    if not (hidden.is_floating_point() and weight.is_floating_point()):
        raise UserError(f"hidden is {hidden.dtype}, weight {weight.dtype}", where=where, allowed="floating point")
    numbers = {"temperature": temperature, "softcap": 1.0 if softcap is None else softcap}
    for name, x in numbers.items():
        if not (math.isfinite(x) and x > 0):
            raise UserError(f"{name} is {x}", where=where, allowed="a finite number > 0")
    if not math.isfinite(scale) or scale == 0:
        raise UserError(f"scale is {scale}", where=where, allowed="a finite number, not 0")
    if chunk_bytes is not None and chunk_bytes < 1:
        raise UserError(f"chunk_bytes is {chunk_bytes}", where=where, allowed=">= 1")
    if targets.device.type == "cpu" and len(targets):
        low, high = (int(x) for x in targets.aminmax())
        if low < 0 or high >= weight.shape[0]:
            bad = low if low < 0 else high
            raise UserError(f"token id {bad} is outside the vocabulary", where=where, allowed=f"0..{len(weight) - 1}")


def _tiling(tokens: int, vocabulary: int, itemsize: int, chunk_bytes: int) -> tuple[int, int]:
    """Tokens and vocabulary entries of one tile: about square, because both products read both edges."""
    entries = max(chunk_bytes // itemsize, 1)
    columns = max(1, min(vocabulary, entries // max(1, min(tokens, math.isqrt(entries)))))
    return max(1, min(tokens, entries // columns)), columns


class _TokenLogp(torch.autograd.Function):
    """`token_logp` with the gradients of its docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        form: _Form,
        chunk_bytes: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            swept = _sweep(hidden, weight, bias, targets, form, chunk_bytes, entropy, ctx.needs_input_grad[0])
        ctx.form, ctx.chunk_bytes, ctx.dtypes = form, chunk_bytes, (hidden.dtype, weight.dtype)
        recompute = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        kept = (hidden, weight, bias, targets) if recompute else (None,) * 4
        ctx.save_for_backward(*kept, swept.lse, swept.direction)
        ctx.mark_non_differentiable(swept.entropy)
        return swept.logp, swept.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, lse, direction = ctx.saved_tensors
        to_hidden = to_weight = to_bias = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                to_hidden = (direction * grad[:, None]).to(ctx.dtypes[0])
            if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
                to_weight, to_bias = _weight_gradient(
                    hidden, weight, bias, targets, lse, grad, ctx.form, ctx.chunk_bytes, ctx.needs_input_grad[1:3]
                )
        return to_hidden, to_weight, to_bias, None, None, None, None


class _Swept(NamedTuple):
    logp: Tensor
    entropy: Tensor
    lse: Tensor
    """Log-normaliser in bits."""
    direction: Tensor | None
    """d logp[t] / d hidden[t]."""


def _sweep(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    form: _Form,
    chunk_bytes: int,
    want_entropy: bool,
    want_direction: bool,
) -> _Swept:
    """The forward: one pass over all tiles, vocabulary outside so that a tile of the weight is converted once."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    tokens, vocabulary = len(hidden), len(weight)
    rows, columns = _tiling(tokens, vocabulary, dtype.itemsize, chunk_bytes)
    scaled = _times(hidden, form.to_bits(), dtype)
    so_far = _Softmax(scaled, form, want_entropy, want_direction)
    buffers = [torch.empty(rows * columns, dtype=dtype, device=hidden.device) for _ in range(2)]
    for v in range(0, vocabulary, columns):
        part = weight[v : v + columns].to(dtype)
        offset = None if bias is None else _offset(bias[v : v + columns], form, dtype)
        for t in range(0, tokens, rows):
            here = slice(t, min(t + rows, tokens))
            z, e = (x[: (here.stop - t) * len(part)].view(-1, len(part)) for x in buffers)
            _logits(scaled[here], part.t(), offset, form, z)
            so_far.fold(z, e, here, targets[here] - v, part)
    return so_far.finish(weight[targets].to(dtype) if want_direction else None)


class _Softmax:
    """Online softmax: what is known of each token's distribution after some tiles of its logits.

    ``top`` is the largest logit, ``total = sum_v 2^(z_v - top)``, ``spread = sum_v 2^(z_v - top) (z_v - top)``,
    ``chosen`` the target's logit, ``expected = sum_v 2^(z_v - top) slope_v weight_v``. The sums over tiles are float64,
    a number a token, so that their rounding is not seen beside that of the logits.
    """

    def __init__(self, scaled: Tensor, form: _Form, want_entropy: bool, want_direction: bool) -> None:
        self.top = torch.full_like(scaled[:, :1], _IMPOSSIBLE)
        self.chosen = torch.zeros_like(self.top)
        self.total = torch.zeros_like(self.top, dtype=_wide(scaled))
        self.spread = torch.zeros_like(self.total) if want_entropy else None
        self.expected = torch.zeros_like(scaled) if want_direction else None
        self.form = form

    def fold(self, z: Tensor, e: Tensor, here: slice, local: Tensor, part: Tensor) -> None:
        """Take in the tile `z` of the tokens `here`; `local` are their targets within the tile, `e` is scratch."""
        top, total = self.top[here], self.total[here]
        _pick(z, local, self.chosen[here])
        before = top.clone()
        torch.maximum(before, z.amax(1, keepdim=True), out=top)
        torch.exp2(z.sub_(top), out=e)
        moved = before - top
        shrink = torch.exp2(moved)
        if self.spread is not None:  # moving the top shifts every earlier term
            spread = self.spread[here]
            spread.add_(moved * total).mul_(shrink).add_(torch.linalg.vecdot(e, z)[:, None])
        total.mul_(shrink).add_(e.sum(1, keepdim=True))
        if self.expected is not None:
            if self.form.softcap:
                e.mul_(_slope(z.add_(top), self.form))
            self.expected[here].mul_(shrink).addmm_(e, part)

    def finish(self, target_weight: Tensor | None) -> _Swept:
        """Results in nats; `target_weight` is the weight of each token's target, given where a direction is wanted."""
        dtype = self.top.dtype
        bits = self.total.log2()
        lse = bits + self.top
        logp = _times(self.chosen - lse, 1 / _BITS, dtype)[:, 0]
        entropy = torch.full_like(logp, math.nan)
        if self.spread is not None:
            entropy = _times(bits - self.spread / self.total, 1 / _BITS, dtype)[:, 0]
        if self.expected is not None and target_weight is not None:
            steep = _slope(self.chosen, self.form) if self.form.softcap else 1.0
            self.expected.div_(self.total.to(dtype)).neg_().add_(target_weight * steep)
            self.expected.mul_(self.form.scale / self.form.temperature)
        return _Swept(logp, entropy, lse[:, 0].to(dtype), self.expected)


def _wide(x: Tensor) -> torch.dtype:
    return x.dtype if x.device.type == "mps" else torch.float64


def _times(x: Tensor, factor: float, dtype: torch.dtype) -> Tensor:
    """``factor x``, rounded once: a factor that is itself rounded to float32 shifts every result to the same side."""
    return (x.to(_wide(x)) * factor).to(dtype)


def _offset(bias: Tensor, form: _Form, dtype: torch.dtype) -> Tensor:
    """The bias of one tile with the factor of the product; minus infinity (a token that cannot be) made finite."""
    return (bias.to(dtype) * form.to_bits()).clamp(min=_IMPOSSIBLE)


def _logits(left: Tensor, right: Tensor, offset: Tensor | None, form: _Form, out: Tensor) -> None:
    """Logits of one tile in bits, into `out`; `left` and `offset` already carry the factor."""
    if offset is None:
        torch.mm(left, right, out=out)
    else:
        torch.addmm(offset, left, right, out=out)
    if form.softcap:
        out.tanh_().mul_(form.cap_bits())


def _slope(z: Tensor, form: _Form) -> Tensor:
    """Derivative of the cap at capped logits `z` in bits: ``1 - tanh^2``."""
    return (z / form.cap_bits()).square_().neg_().add_(1.0)


def _pick(z: Tensor, local: Tensor, chosen: Tensor) -> None:
    """Copy the logits of the targets that lie in this tile; no branch, so that an accelerator is not waited for."""
    inside = (local >= 0) & (local < z.shape[1])
    picked = z.gather(1, local.clamp(0, z.shape[1] - 1)[:, None])
    chosen.copy_(torch.where(inside[:, None], picked, chosen))


def _weight_gradient(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    lse: Tensor,
    grad: Tensor,
    form: _Form,
    chunk_bytes: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias from recomputed tiles, transposed so that no product reads across its rows."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    tokens, vocabulary = len(hidden), len(weight)
    rows, columns = _tiling(tokens, vocabulary, dtype.itemsize, chunk_bytes)
    scaled = _times(hidden, form.to_bits(), dtype)
    pull = grad.to(dtype) * (form.scale / form.temperature)
    pulled = hidden.to(dtype) * pull[:, None]
    to_weight = torch.empty_like(weight) if wanted[0] else None
    to_bias = torch.empty_like(bias) if wanted[1] and bias is not None else None
    buffer = torch.empty(rows * columns, dtype=dtype, device=hidden.device)
    for v in range(0, vocabulary, columns):
        part = weight[v : v + columns].to(dtype)
        offset = None if bias is None else _offset(bias[v : v + columns], form, dtype)[:, None]
        sums = torch.zeros_like(part)
        bias_sums = torch.zeros_like(part[:, 0])
        for t in range(0, tokens, rows):
            here = slice(t, min(t + rows, tokens))
            z = buffer[: (here.stop - t) * len(part)].view(len(part), -1)
            _logits(part, scaled[here].t(), offset, form, z)
            slope = _slope(z, form) if form.softcap else None
            z.sub_(lse[here]).exp2_()
            local = targets[here] - v
            inside = (local >= 0) & (local < len(part))
            z.scatter_add_(0, local.clamp(0, len(part) - 1)[None], -inside[None].to(dtype))
            if slope is not None:
                z.mul_(slope)
            if to_weight is not None:
                sums.addmm_(z, pulled[here], alpha=-1.0)
            if to_bias is not None:
                bias_sums.addmv_(z, pull[here], alpha=-1.0)
        if to_weight is not None:
            to_weight[v : v + columns] = sums
        if to_bias is not None:
            to_bias[v : v + columns] = bias_sums
    return to_weight, to_bias
