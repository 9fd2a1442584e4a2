"""What a language model says of given rollouts: log-probabilities and entropies of their actions, hidden states.

One forward through the trunk on the real tokens (`trunk`), then the head only at positions that predict something asked
for (`head`). Leaves out: sampling (`decode`), what is made of the numbers (`objective`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from steersman.core.errors import UserError
from steersman.core.types import Pairs, Rollouts
from steersman.language.head import token_logp
from steersman.language.layers import count_layers, layer_index, layer_states
from steersman.language.pack import take
from steersman.language.trunk import capability, last_hidden, logits_of, output_weight, trunk_of, unwrap

Scored = tuple[Float[Tensor, "N L"], Float[Tensor, "N L"]]
"""Log-probabilities and entropies in nats, float32, aligned to the predicted token, 0 where none was asked for."""


class Pool(NamedTuple):
    """Tokens of each row over which the states of a layer are averaged.

    Args:
        layer: as `layers.layer_index`.
        tokens: bool ``[N, L]``, within the rows.
    """

    layer: int | float | None
    tokens: Tensor


def response_logp(
    model: nn.Module,
    rollouts: Rollouts,
    *,
    temperature: float = 1.0,
    entropy: bool = True,
    chunk_bytes: int | None = None,
    mask: Bool[Tensor, "N L"] | None = None,
    share_prompt: bool = True,
) -> Scored:
    """Log-probability and entropy of every action under `model`.

    ``logp[n, t] = log p(ids[n, t] | ids[n, :t])`` with the logits divided by `temperature`;
    ``entropy[n, t] = -sum_v p(v | ids[n, :t]) log p(v | ids[n, :t])``.

    Args:
        model: any decoder-only `transformers` model with a language-model head, or a LoRA wrapper around one.
        rollouts: rows on the model's device.
        temperature: > 0, as sampled with.
        entropy: False spares the entropies; they are then 0.
        chunk_bytes: see `head.token_logp`.
        mask: the tokens to score instead of `rollouts.action`.
        share_prompt: rows with equal prompts compute it once; False = each its own, the same numbers up to rounding.

    Returns:
        ``(logp, entropy)``; gradients flow through `logp`. Dropout is off whatever mode the model is in.

    Raises:
        UserError: a token to be scored is the first of its row, so that nothing predicts it, or lies beyond its end.

    Edge cases:
        No token to score gives zeros. Time and memory go with the real tokens; see `trunk` for the models that are
        run on padded blocks of similar length instead.
    """
    chosen = rollouts.action if mask is None else mask
    form = {"temperature": temperature, "chunk_bytes": chunk_bytes, "entropy": entropy}
    shared_prompt = rollouts.prompt_length if share_prompt else None
    return _score(model, rollouts.ids, rollouts.length, shared_prompt, chosen, form)[:2]


def pooled_states(
    model: nn.Module,
    rollouts: Rollouts,
    pools: Sequence[Pool],
    *,
    temperature: float = 1.0,
    entropy: bool = True,
    mask: Bool[Tensor, "N L"] | None = None,
) -> tuple[Scored, list[Float[Tensor, "N D"]]]:
    """`response_logp`, and means of hidden states over some tokens of each row, out of one forward.

    Args:
        model, rollouts, temperature, entropy, mask: see `response_logp`.
        pools: layers and tokens; the states are those *at* the tokens.

    Returns:
        ``((logp, entropy), a mean [N, D] of each pool)``; means are float32 whatever the model's dtype is, without
        gradients, and 0 in rows without a token of the pool. Of a whole layer no more is kept than one forward gives.

    Raises:
        UserError: as `response_logp`; a layer that does not exist, or whose place in the model cannot be told.
    """
    chosen = rollouts.action if mask is None else mask
    form = {"temperature": temperature, "chunk_bytes": None, "entropy": entropy}
    given = rollouts.ids, rollouts.length, rollouts.prompt_length
    logp, spread, means = _score(model, *given, chosen, form, pools)
    return (logp, spread), means


def token_states(model: nn.Module, rollouts: Rollouts, layer: int | float | None = None) -> Float[Tensor, "N L D"]:
    """The hidden state after a layer that stands before each action token, float32, 0 elsewhere, without gradients.

    Args:
        model: see `response_logp`.
        rollouts: rows on the model's device.
        layer: as `layers.layer_index`; None = the last, from which the head predicts the token.

    Raises:
        UserError: a layer that does not exist, or whose place in the model cannot be told.
    """
    base, _ = unwrap(model), capability(model)
    layers = count_layers(base.config)
    number = layer_index(layer, layers)
    with layer_states(trunk_of(base), layers, [number]) as seen:
        _, where = last_hidden(model, rollouts.ids, rollouts.length, rollouts.prompt_length)
    hidden = torch.cat([x.flatten(0, 1) for x in seen[number]])
    rows, columns = rollouts.action.nonzero(as_tuple=True)
    out = torch.zeros(*rollouts.ids.shape, hidden.shape[1], device=hidden.device)
    out[rows, columns] = hidden[where[rows, columns - 1]].float()
    return out


def pair_logp(
    model: nn.Module,
    pairs: Pairs,
    *,
    temperature: float = 1.0,
    entropy: bool = True,
    chunk_bytes: int | None = None,
    share_prompt: bool = True,
) -> tuple[Scored, Scored]:
    """`response_logp` of both sides in one forward; equal prompts are computed once.

    Args:
        model: see `response_logp`.
        pairs: pairs on the model's device.
        temperature: > 0.
        entropy: False spares the entropies; they are then 0.
        chunk_bytes: see `head.token_logp`.
        share_prompt: False computes the prompt for each side; the same numbers up to rounding.

    Returns:
        ``((logp, entropy) of first, (logp, entropy) of second)``, each as wide as its own side.

    Raises:
        UserError: as `response_logp`.
    """
    sides = pairs.first, pairs.second
    width = max(x.ids.shape[1] for x in sides)
    ids, chosen = (
        torch.cat([nn.functional.pad(getattr(x, name), (0, width - x.ids.shape[1])) for x in sides])
        for name in ("ids", "action")
    )
    length, prompt_length = (torch.cat([getattr(x, name) for x in sides]) for name in ("length", "prompt_length"))
    form = {"temperature": temperature, "chunk_bytes": chunk_bytes, "entropy": entropy}
    logp, spread, _ = _score(model, ids, length, prompt_length if share_prompt else None, chosen, form)
    n, a, b = len(pairs), sides[0].ids.shape[1], sides[1].ids.shape[1]
    return (logp[:n, :a], spread[:n, :a]), (logp[n:, :b], spread[n:, :b])


def response_hidden(
    model: nn.Module, rollouts: Rollouts, position: Int[Tensor, "N ..."] | None = None
) -> Float[Tensor, "N ... D"]:
    """Last hidden states (after the final norm) at chosen tokens of each row.

    Args:
        model: any decoder-only `transformers` model, with or without a head, or a LoRA wrapper around one.
        rollouts: rows on the model's device.
        position: tokens of each row, ``[N]`` or ``[N, K]``, 0 <= position < length; None = the last real token.

    Returns:
        Hidden states in the model's dtype, with gradients.

    Raises:
        UserError: a position outside its row, or an empty row.
    """
    at = rollouts.length - 1 if position is None else position
    columns = at.reshape(len(rollouts), -1)
    outside = ((columns < 0) | (columns >= rollouts.length[:, None])).any(1)
    if bool(outside.any()):
        row = int(outside.nonzero()[0, 0])
        found = f"position {columns[row].tolist()} of a row of {int(rollouts.length[row])} tokens"
        raise UserError(found, where=f"response_hidden, row {row}", allowed="0 <= position < length")
    hidden, where = last_hidden(model, rollouts.ids, rollouts.length)
    return take(hidden, where.gather(1, columns).flatten()).view(*at.shape, -1)


def predicted(chosen: Bool[Tensor, "N L"], length: Int[Tensor, " N"]) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
    """Rows and columns of the chosen tokens, each of which has a real token before it.

    Raises:
        UserError: names one that has not.
    """
    rows, columns = chosen.nonzero(as_tuple=True)
    wrong = (columns == 0) | (columns >= length[rows])
    if bool(wrong.any()):
        row, column = int(rows[wrong][0]), int(columns[wrong][0])
        what = f"token {column} of {int(length[row])} cannot be scored: nothing comes before it, or it is padding"
        raise UserError(what, where=f"row {row}", cure="Begin every prompt with a token, e.g. beginning-of-sequence.")
    return rows, columns


def _score(
    model: nn.Module,
    ids: Tensor,
    length: Tensor,
    shared_prompt: Tensor | None,
    chosen: Tensor,
    form: dict[str, Any],
    pools: Sequence[Pool] = (),
) -> tuple[Tensor, Tensor, list[Tensor]]:
    rows, columns = predicted(chosen, length)
    base, run = unwrap(model), _tiled if capability(model).tiled_head else _dense
    layers = count_layers(base.config) if pools else 0
    numbers = [layer_index(pool.layer, layers) for pool in pools]
    with layer_states(trunk_of(base), layers, sorted({*numbers})) as seen:
        logp, spread, where = run(model, ids, length, shared_prompt, rows, columns, form)
    states = {n: torch.cat([x.flatten(0, 1) for x in parts]) for n, parts in seen.items()}
    means = [_mean(states[n], where, pool.tokens) for n, pool in zip(numbers, pools, strict=True)]
    flat = rows * ids.shape[1] + columns
    spread = spread if form["entropy"] else torch.zeros_like(logp)
    blank = torch.zeros(ids.numel(), dtype=torch.float32, device=ids.device)
    logp, spread = (blank.index_copy(0, flat, x.float()).view(ids.shape) for x in (logp, spread))
    return logp, spread, means


def _mean(states: Tensor, where: Tensor, tokens: Tensor) -> Tensor:
    """Mean of a stream's states ``[T, D]`` over some tokens of each row."""
    count = tokens.sum(1)
    total = torch.segment_reduce(states.index_select(0, where[tokens]).float(), "sum", lengths=count, axis=0)
    return total / count.clamp(min=1)[:, None]


_Run = tuple[Tensor, Tensor, Tensor]
"""Log-probs, entropies, and where each token's state is in the stream that the trunk ran."""


def _tiled(
    model: nn.Module,
    ids: Tensor,
    length: Tensor,
    shared_prompt: Tensor | None,
    rows: Tensor,
    columns: Tensor,
    form: dict[str, Any],
) -> _Run:
    stream, where = last_hidden(model, ids, length, shared_prompt)
    hidden = take(stream, where[rows, columns - 1])
    weight, bias = output_weight(model, hidden.shape[1])
    how = capability(model)
    options: dict[str, Any] = {"bias": bias, "scale": how.scale, "softcap": how.softcap}
    return *token_logp(hidden, weight, ids[rows, columns], **options, **form), where


def _dense(
    model: nn.Module,
    ids: Tensor,
    length: Tensor,
    shared_prompt: Tensor | None,
    rows: Tensor,
    columns: Tensor,
    form: dict[str, Any],
) -> _Run:
    """The model's own logits, for a head that is not a plain product; it runs padded, with every prompt its own."""
    logits, where = logits_of(model, ids, length)
    log_p = (logits[where[rows, columns - 1]].float() / form["temperature"]).log_softmax(-1)
    spread = -(log_p.exp() * log_p).detach().nan_to_num(0.0).sum(-1)
    return log_p.gather(1, ids[rows, columns][:, None])[:, 0], spread, where
