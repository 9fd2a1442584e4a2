"""Running a `transformers` trunk on a flat stream: attention within rows, dropout off, activation checkpointing kept.

`rows_attention` is registered with `transformers` under a name of its own; a model uses it only inside `by_rows`, and
recomputed layers use it again whenever they are recomputed. Leaves out: which models can do this (`trunk`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from steersman.language.pack import Flat, take

ATTENTION = "steersman_rows"
_HARMLESS = {"position_ids", "cache_position"}


class CannotFlatten(RuntimeError):
    """An attention layer asks for something that rows alone do not tell."""


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    steersman_rows: Flat | None = None,
    steersman_calls: list[nn.Module] | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within the rows of a flat stream, in the form of `transformers`' attention interface.

    Args:
        module: the calling layer.
        query: ``[1, H, T, d]``, key and value ``[1, H_kv, T, d]`` with H a multiple of H_kv.
        attention_mask: must be None; rows are all that masks here.
        scaling: factor of the scores; None = ``d ** -0.5``.
        steersman_rows: which stream tokens make up each row.
        steersman_calls: gets the layer appended; a probe counts with it.
        softcap: Gemma 2's cap of the scores.
        **kwargs: dropout is off here; a tensor with further meaning (sinks, position biases) is refused.

    Returns:
        ``([1, T, H, d], None)``.
    """
    unknown = unknown_tensors(kwargs)
    if steersman_rows is None or attention_mask is not None or unknown or not getattr(module, "is_causal", True):
        raise CannotFlatten(f"{type(module).__name__} passes {unknown or 'a mask of its own or no rows'}")
    if steersman_calls is not None:
        steersman_calls.append(module)
    attend = _capped_attention(softcap) if softcap else scaled_dot_product_attention
    streams = [_to_blocks(x[0].transpose(0, 1), steersman_rows) for x in (query, key, value)]
    shared = query.shape[1] != key.shape[1]
    out = []
    for (rows, width), *parts in zip(steersman_rows.blocks, *streams, strict=True):
        q, k, v = (x.reshape(rows, width, x.shape[1], x.shape[2]).transpose(1, 2) for x in parts)
        mixed = attend(q, k, v, is_causal=True, scale=scaling, enable_gqa=shared)
        out.append(mixed.transpose(1, 2).flatten(0, 1))
    joined = out[0] if len(out) == 1 else torch.cat(out)
    return (joined if steersman_rows.slot is None else _Place.apply(joined, steersman_rows.slot))[None], None


def unknown_tensors(kwargs: dict[str, Any]) -> list[str]:
    """Names of tensors passed to attention that have a meaning we do not know."""
    return [k for k, x in kwargs.items() if isinstance(x, Tensor) and k not in _HARMLESS]


def _to_blocks(stream: Tensor, rows: Flat) -> tuple[Tensor, ...]:
    """The stream ``[T, H, d]`` as the slots of each block."""
    if rows.index is not None:
        stream = take(stream, rows.index) if rows.shared else _Spread.apply(stream, rows.index, rows.slot)
    return stream.split([n * width for n, width in rows.blocks])


class _Spread(torch.autograd.Function):
    """``x[index]`` where `slot` is where each row of x went; what padding sends back is zero and is not looked at."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Place(torch.autograd.Function):
    """``x[slot]`` for a `slot` without repeats, whose backward copies and does not add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slot: Tensor) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.slots = len(x)
        return x.index_select(0, slot)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.slots, *grad.shape[1:]).index_copy_(0, ctx.saved_tensors[0], grad), None


def _capped_attention(softcap: float) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float | None, enable_gqa: bool) -> Tensor:
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        scores = q @ k.transpose(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
        future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = (softcap * torch.tanh(scores / softcap)).masked_fill(future, -torch.inf)
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v

    return attend


@contextmanager
def attending(model: nn.Module, name: str, attention: Callable[..., Any]) -> Iterator[None]:
    """An attention function for the block; its registration in `transformers` stays, the models' choices do not."""
    from transformers import AttentionInterface

    AttentionInterface.register(name, attention)
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}.values()
    before = [(c, c._attn_implementation_internal) for c in configs if hasattr(c, "_attn_implementation_internal")]
    for config, _ in before:
        config._attn_implementation_internal = name
    try:
        yield
    finally:
        for config, choice in before:
            config._attn_implementation_internal = choice


@contextmanager
def by_rows(model: nn.Module) -> Iterator[None]:
    """`rows_attention` for the block."""
    with attending(model, ATTENTION, rows_attention):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for the block; afterwards every module has its own mode again."""
    training = [m for m in model.modules() if m.training]
    for m in training:
        m.training = False
    try:
        with _checkpointing(model):
            yield
    finally:
        for m in training:
            m.training = True


@contextmanager
def _checkpointing(model: nn.Module) -> Iterator[None]:
    """Layers with activation checkpointing do it for the block although in eval mode, and recompute what they computed.

    `transformers` checkpoints only layers in train mode, and recomputes after the forward has returned, when modes and
    attention function are the caller's again; both are restored around each layer.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer) and m.gradient_checkpointing]
    if not torch.is_grad_enabled():
        layers = []
    before = [layer._gradient_checkpointing_func for layer in layers]
    for layer, checkpoint in zip(layers, before, strict=True):
        layer.training, layer._gradient_checkpointing_func = True, _as_computed(layer, checkpoint)
    try:
        yield
    finally:
        for layer, checkpoint in zip(layers, before, strict=True):
            layer.training, layer._gradient_checkpointing_func = False, checkpoint


def _as_computed(layer: nn.Module, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    def call(forward: Any, *args: Any) -> Any:
        rows = "steersman_rows" in getattr(forward, "keywords", {})

        def quiet(*inputs: Any) -> Any:
            training = [m for m in layer.modules() if m.training]
            for m in training:
                m.training = False
            try:
                if not rows:
                    return forward(*inputs)
                with by_rows(layer):
                    return forward(*inputs)
            finally:
                for m in training:
                    m.training = True

        return checkpoint(quiet, *args)

    return call
