"""The trunk and head of any decoder-only `transformers` model, and its last hidden states for ragged rows.

Two ways through the trunk give the same hidden states up to rounding. *Flat*: one stream of the real tokens, with an
attention function of our own that restores the rows. *Padded*: right-padded blocks of rows of similar length with an
attention mask. Which one is a decision of `capability`, made once for each model: flat needs an architecture that calls
`transformers`' attention interface, that knows only full attention (a sliding window does no harm to rows inside it),
and that gave the right hidden states on a probe of two short rows. Everything else (ALiBi, state space, recurrence,
attention of its own) goes padded. Causality makes right padding exact there, too.

Both ways switch dropout off and leave every flag of the model as they found it; activation checkpointing works in both,
in train and in eval mode. Leaves out: encoder-decoders, adapters with virtual tokens, key-value caches (`decode`).
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steersman.core.errors import UserError
from steersman.language.pack import Flat, flatten, length_blocks
from steersman.language.row_attention import by_rows, evaluating

_PROBE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
_PLAIN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


@dataclass(frozen=True, slots=True)
class Capability:
    """How a model's forward is run.

    Args:
        flat: whether the trunk runs on a flat stream of real tokens.
        why: why not, in words; empty where it does.
        window: rows longer than this go padded although `flat`; None = no such limit.
        tiled_head: whether the logits are ``softcap tanh(scale (h W^T + b) / softcap)``, so that `head.token_logp`
            gives them without a ``[tokens, vocabulary]`` tensor.
        scale: of the logits.
        softcap: of the logits.
    """

    flat: bool
    why: str
    window: int | None
    tiled_head: bool
    scale: float = 1.0
    softcap: float | None = None


def unwrap(model: nn.Module) -> Any:
    """The `transformers` model inside a LoRA wrapper (whose layers stay in place), or the model itself.

    Raises:
        UserError: an adapter that adds virtual tokens (prompt or prefix tuning), or an encoder-decoder.
    """
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:
            kind = model.active_peft_config.peft_type
            raise UserError(f"{kind} adds virtual tokens, which have no rollout", where="model", cure="Use LoRA.")
        model = model.get_base_model()
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError("is an encoder-decoder", where=type(model).__name__, allowed="decoder-only language models")
    return model


_known: "weakref.WeakKeyDictionary[nn.Module, Capability]" = weakref.WeakKeyDictionary()


def capability(model: nn.Module) -> Capability:
    """How the forward of `model` is run; the first call for a model tries two short rows both ways.

    Args:
        model: a `transformers` model with or without language-model head, or a LoRA wrapper around one.

    Returns:
        The decision; it is kept for as long as the model lives.
    """
    base = unwrap(model)
    if base not in _known:
        with torch.no_grad(), evaluating(base):
            _known[base] = _probe(base)
    return _known[base]


def last_hidden(
    model: nn.Module, ids: Int[Tensor, "N L"], length: Int[Tensor, " N"], shared_prompt: Int[Tensor, " N"] | None = None
) -> tuple[Float[Tensor, "T D"], Int[Tensor, "N L"]]:
    """Last hidden states of every real token, after the final norm, and where each row's are.

    Args:
        model: see `capability`.
        ids: right-padded token ids.
        length: real tokens of each row.
        shared_prompt: prompt lengths, to compute equal prompts once (`pack.flatten`); ignored where the trunk runs
            padded.

    Returns:
        ``(hidden, where)``: token t of row n has ``hidden[where[n, t]]``; `where` is 0 beyond a row's end.
    """
    base, how = unwrap(model), capability(model)
    longest = int(length.max()) if len(length) else 0
    if how.flat and longest <= (how.window or longest):
        stream = flatten(ids, length, shared_prompt)
        with evaluating(base):
            return _flat_hidden(base, stream), stream.where
    with evaluating(base):
        return _padded(ids, length, lambda x, mask: trunk_of(base)(x, attention_mask=mask, use_cache=False)[0])


def logits_of(
    model: nn.Module, ids: Int[Tensor, "N L"], length: Int[Tensor, " N"]
) -> tuple[Float[Tensor, "T V"], Int[Tensor, "N L"]]:
    """Logits as the model itself computes them, for a head that is not a plain product; laid out as `last_hidden`."""
    base = unwrap(model)
    with evaluating(base):
        return _padded(ids, length, lambda x, mask: base(x, attention_mask=mask, use_cache=False).logits)


def output_weight(model: nn.Module, width: int) -> tuple[Float[Tensor, "V D"], Float[Tensor, " V"] | None]:
    """Weight and bias of the language-model head, through whatever wraps it.

    A head that is not a plain `nn.Linear` (LoRA on the head, a saved copy, a parametrised weight) is still linear: what
    it makes of the unit vectors is its weight, with gradients to everything it is made of.

    Raises:
        UserError: the model has no head.
    """
    head = unwrap(model).get_output_embeddings()
    if head is None:
        raise UserError("has no language-model head", where=type(unwrap(model)).__name__)
    if type(head) is nn.Linear:
        return head.weight, head.bias
    some = next(head.parameters())
    with evaluating(head):
        rows = head(torch.cat([torch.eye(width), torch.zeros(1, width)]).to(some.device, some.dtype))
    return (rows[:-1] - rows[-1]).t(), rows[-1]


def trunk_of(base: Any) -> Any:
    """The model without its head."""
    inner = base.base_model
    if inner is base and base.get_output_embeddings() is not None:  # the prefix names a module it does not have
        return getattr(base, "model", base)
    return inner


def _flat_hidden(base: Any, stream: Flat, calls: list[nn.Module] | None = None) -> Tensor:
    """Last hidden states of a stream ``[T, D]``; `calls` collects the attention layers that asked for its rows."""
    trunk = trunk_of(base)
    if not len(stream):
        return base.get_input_embeddings()(stream.ids)
    with by_rows(trunk):
        inputs = {"position_ids": stream.position[None], "use_cache": False, "steersman_rows": stream}
        if calls is not None:
            inputs["steersman_calls"] = calls
        return trunk(input_ids=stream.ids[None], **inputs)[0][0]


def _padded(ids: Tensor, length: Tensor, run: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """`run` on blocks of rows of similar length; its outputs one below the other."""
    order = length.argsort(stable=True)
    sorted_lengths = length[order].tolist()
    where = torch.zeros_like(ids)
    out: list[Tensor] = []
    first = 0
    for a, b in length_blocks(sorted_lengths):
        rows, wide = order[a:b], max(sorted_lengths[b - 1], 1)
        t = torch.arange(wide, device=ids.device)
        real = t < length[rows, None]
        out.append(run(ids[rows, :wide], real.long()).flatten(0, 1))
        where[rows, :wide] = torch.where(real, first + torch.arange(b - a, device=ids.device)[:, None] * wide + t, 0)
        first += len(out[-1])
    return torch.cat(out), where


def _probe(base: Any) -> Capability:
    """Run two short rows both ways and compare hidden states and logits."""
    config = base.config.get_text_config()
    ids = (torch.arange(12) * 7 + 3).view(2, 6).remainder(config.vocab_size).to(base.device)
    length = torch.tensor([4, 6], device=base.device)
    real = torch.arange(6, device=base.device) < length[:, None]
    truth, where = _padded(ids, length, lambda x, mask: trunk_of(base)(x, attention_mask=mask, use_cache=False)[0])
    truth = truth[where[real]]
    windows = [w for name in _WINDOWS if (w := getattr(config, name, None))]
    scale, softcap = _logit_form(config)
    tiled = _head_agrees(base, ids, length, truth, where[real], scale, softcap)
    why = _why_not_flat(base, config, ids, length, real, truth)
    return Capability(not why, why, min(windows, default=None), tiled, scale, softcap)


def _why_not_flat(base: Any, config: Any, ids: Tensor, length: Tensor, real: Tensor, truth: Tensor) -> str:
    """Why the flat way is not for this model; empty if it is."""
    if not getattr(base, "_supports_attention_backend", False):
        return f"{type(base).__name__} computes attention by itself"
    odd = set(getattr(config, "layer_types", None) or ()) - _PLAIN_LAYERS
    if odd:
        return f"it has layers of type {', '.join(sorted(odd))}"
    calls: list[nn.Module] = []
    stream = flatten(ids, length)
    try:
        flat = _flat_hidden(base, stream, calls)
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        return f"the probe of a flat stream failed: {error}"
    if len(calls) < config.num_hidden_layers:
        return f"only {len(calls)} of {config.num_hidden_layers} layers use the attention interface"
    return "" if agree(flat[stream.where[real]], truth) else "the probe of a flat stream gave other hidden states"


def _head_agrees(
    base: Any, ids: Tensor, length: Tensor, hidden: Tensor, at: Tensor, scale: float, softcap: float | None
) -> bool:
    """Whether scale, cap and the head's weight give the logits that the model itself gives."""
    if base.get_output_embeddings() is None:
        return False
    truth = _padded(ids, length, lambda x, mask: base(x, attention_mask=mask, use_cache=False).logits)[0][at]
    weight, bias = output_weight(base, hidden.shape[1])
    logits = nn.functional.linear(hidden, weight, bias) * scale
    return agree(torch.tanh(logits / softcap) * softcap if softcap else logits, truth)


def _logit_form(config: Any) -> tuple[float, float | None]:
    """Scale (Cohere and Falcon-H1 multiply, Granite divides) and cap (Gemma) of the logits."""
    scale = float(getattr(config, "logit_scale", None) or 1.0) * float(getattr(config, "lm_head_multiplier", 1.0))
    return scale / float(getattr(config, "logits_scaling", 1.0)), getattr(config, "final_logit_softcapping", None)


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two computations of the same numbers differ by rounding only, for `b`'s largest and the type of `a`."""
    tolerance = _PROBE_TOLERANCE[a.dtype] * float(b.abs().max().nan_to_num(posinf=1.0))
    return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=tolerance, equal_nan=True)
