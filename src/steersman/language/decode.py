"""Sampling from a causal language model: key-value cache, batches of equal prompt length, counter-based noise.

Each token is the inverse CDF of the model's distribution at a uniform number that depends on (seed, step, sample id,
position) only. Batch size, order and who shares a batch therefore change nothing but floating-point ties. Equally long
prompts share a batch, so nothing is padded and no attention mask is needed; a prompt is run once for all its samples;
finished rows leave the batch. Leaves out: choosing a token from logits or hidden states (`sampler`), the cache
(`decode_cache`), log-probs under other models (`head`), text (`encode`, `text`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steersman.core.errors import RunStopped, UserError
from steersman.core.noise import uniform
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.language.capture import Capture, TailState
from steersman.language.decode_step import Forward, Head, head_of
from steersman.language.layers import count_layers
from steersman.language.load import context_length
from steersman.language.sampler import Sampling, sampling
from steersman.language.text import StopStrings, check_stop_strings

COMPACT_BELOW = 0.9
"""Finished rows leave the batch once fewer than this share of its rows still run; leaving copies the cache once."""

NOTHING: Mapping[str, TailState] = {}
"""No hidden states are taken on the way."""


@dataclass(frozen=True, slots=True)
class _Settings:
    max_new: int
    sampling: Sampling
    stop: Tensor
    stop_strings: tuple[str, ...]
    tokenizer: Any
    seed: int
    step: int
    watch: Callable[[int, int], None]
    head: Head | None
    states: Mapping[str, TailState]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]] | Rollouts,
    *,
    max_new_tokens: int,
    stop_ids: int | Sequence[int],
    seed: int,
    samples_per_prompt: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop_strings: str | Sequence[str] = (),
    tokenizer: Any = None,
    sample_ids: Sequence[int] | Tensor | None = None,
    step: int = 0,
    batch_tokens: int = 32_768,
    pad_id: int | None = None,
    watch: Callable[[int, int], None] = lambda rows, tokens: None,
    states: Mapping[str, TailState] = NOTHING,
) -> Rollouts:
    """Sample responses to prompts.

    Args:
        model: a transformers causal language model with an ordinary attention cache.
        prompts: token ids of each prompt; of `Rollouts`, the prompt part of each row is taken (and its `group`).
        max_new_tokens: most tokens a response may have, its end-of-sequence token included.
        stop_ids: ids that end a response; `load.stop_ids(model, tokenizer)`.
        seed: the run's seed.
        samples_per_prompt: responses drawn for each prompt.
        temperature: divides the logits; 0 = greedy.
        top_k, top_p, min_p: filters, None = off; see `sampler.Sampling`.
        stop_strings: texts that end a response once its decoded text contains one. The token that completes it is kept
            and is an action like any other; what that token spells after it is kept too.
        tokenizer: decodes for `stop_strings`; not needed without them.
        sample_ids: one id a response, ``[P * samples_per_prompt]``, distinct; default 0, 1, 2 ... in output order.
        step: the run's step, a further coordinate of the noise.
        batch_tokens: most tokens (prompt and room for the response, all rows) in the cache at a time.
        pad_id: fills the rows on the right; default the first stop id.
        watch: called after every position with the number of rows that ended there and of tokens drawn there.
        states: streams of means of hidden states to be taken on the way, ``[N, D]`` float32; those of response tokens
            cost each row one token more, whose state nothing else needs.

    Returns:
        `Rollouts` of ``P * samples_per_prompt`` rows, all samples of the first prompt first; `logp_behaviour` is under
        the tempered and filtered distribution (0 for greedy: the choice is certain); `stop` is STOP_EOS (a stop id or a
        stop string) or STOP_LENGTH.

    Raises:
        UserError: an empty prompt, a prompt that with the response exceeds the context, an option out of range, stop
            strings without a tokenizer, a model without an attention cache that can be copied, a layer of `states` that
            it does not have.
        RunStopped: the model's logits are NaN or infinite.
    """
    group = prompts.group if isinstance(prompts, Rollouts) else torch.arange(len(prompts))
    rows = _prompt_lists(prompts)
    stop = [stop_ids] if isinstance(stop_ids, int) else list(stop_ids)
    n = len(rows) * samples_per_prompt
    ids = np.arange(n) if sample_ids is None else np.asarray(sample_ids)
    _check(model, rows, ids, n, samples_per_prompt, max_new_tokens, batch_tokens, stop)
    options = sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    texts, ends = check_stop_strings(stop_strings, tokenizer), torch.tensor(stop, device=model.device)
    prompt_length = torch.tensor([len(p) for p in rows]).repeat_interleave(samples_per_prompt)
    width = int(prompt_length.max()) + max_new_tokens
    out = torch.full((n, width), stop[0] if pad_id is None else pad_id, dtype=torch.int64)
    logp, drawn, ended = torch.zeros(n, width), torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
    found: dict[str, Tensor] = {}
    training = model.training
    model.eval()
    try:
        head = head_of(model, options)
        settings = _Settings(max_new_tokens, options, ends, texts, tokenizer, seed, step, watch, head, states)
        for batch in _batches(rows, samples_per_prompt, max_new_tokens, batch_tokens):
            block = torch.tensor([rows[i] for i in dict.fromkeys((batch // samples_per_prompt).tolist())])
            parent = torch.unique_consecutive(torch.from_numpy(batch // samples_per_prompt), return_inverse=True)[1]
            tokens, values, count, stopped, means = _sample(model, block, parent, ids[batch], settings)
            where, width_p = torch.from_numpy(batch), block.shape[1]
            out[where, :width_p] = block[parent]
            live = torch.arange(max_new_tokens) < count[:, None]
            place = slice(width_p, width_p + max_new_tokens)
            out[where, place] = torch.where(live, tokens, out[where, place])
            logp[where, place], drawn[where], ended[where] = values, count, stopped
            for name, x in means.items():
                found.setdefault(name, torch.zeros(n, x.shape[1]))[where] = x
    finally:
        model.train(training)
    return Rollouts.of(
        out,
        prompt_length + drawn,
        prompt_length,
        group=group.cpu().repeat_interleave(samples_per_prompt),
        stop=torch.where(ended, STOP_EOS, STOP_LENGTH),
        logp_behaviour=logp,
        streams=found,
    ).trim()


def _prompt_lists(prompts: Sequence[Sequence[int]] | Rollouts) -> list[list[int]]:
    if isinstance(prompts, Rollouts):
        lengths = prompts.prompt_length.tolist()
        return [row[:n] for row, n in zip(prompts.ids.tolist(), lengths, strict=True)]
    return [list(p) for p in prompts]


def _check(
    model: Any,
    rows: list[list[int]],
    ids: np.ndarray,
    n: int,
    samples: int,
    max_new: int,
    batch_tokens: int,
    stop: list[int],
) -> None:
    """Refuse what cannot be sampled before any compute."""
    for name, value, ok, allowed in (
        ("samples_per_prompt", samples, samples >= 1, ">= 1"),
        ("max_new_tokens", max_new, max_new >= 1, ">= 1"),
        ("batch_tokens", batch_tokens, batch_tokens >= 1, ">= 1"),
        ("stop_ids", stop, len(stop) > 0, "at least one id"),
        ("prompts", len(rows), len(rows) > 0, "at least one prompt"),
    ):
        if not ok:
            raise UserError(f"is {value}", where=name, allowed=allowed)
    if ids.shape != (n,) or len(np.unique(ids)) < n:
        raise UserError(f"must be {n} different ids, got shape {ids.shape}", where="sample_ids")
    room, vocab = context_length(model.config), model.config.get_text_config().vocab_size
    for i, row in enumerate(rows):
        if not row:
            raise UserError("is empty; begin it with a token (encode_prompts does)", where=f"prompt {i}")
        if not (min(row) >= 0 and max(row) < vocab):
            raise UserError("holds an id outside the model's vocabulary", where=f"prompt {i}", allowed=f"[0, {vocab})")
        if room is not None and len(row) + max_new > room:
            what = f"has {len(row)} tokens; with {max_new} new ones that exceeds the context of {room}"
            raise UserError(what, where=f"prompt {i}", cure="Shorten the prompt or lower max_new_tokens.")


def _batches(rows: list[list[int]], samples: int, max_new: int, batch_tokens: int) -> Iterator[np.ndarray]:
    """Output rows that share a batch: equal prompt length, at most `batch_tokens` cached tokens."""
    lengths = np.repeat([len(p) for p in rows], samples)
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        most = max(1, batch_tokens // (int(length) + max_new))
        for start in range(0, len(members), most):
            yield members[start : start + most]


@torch.inference_mode()
def _sample(
    model: Any, block: Tensor, parent: Tensor, ids: np.ndarray, settings: _Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Sample one batch.

    Args:
        block: prompts of equal length ``[P, L]``.
        parent: ``[R]`` which prompt each row continues.
        ids: ``[R]`` sample ids.

    Returns:
        tokens ``[R, T]``, log-probs ``[R, T]`` (0 where nothing was drawn), tokens drawn ``[R]``, ended ``[R]``, means
        of states ``[R, D]`` by name.
    """
    r, t, length, device = len(parent), settings.max_new, block.shape[1], model.device
    tokens = torch.zeros((t, r), dtype=torch.int64, device=device)
    logp = torch.zeros((t, r), device=device)
    count = torch.zeros(r, dtype=torch.int64, device=device)
    ended = torch.zeros(r, dtype=torch.bool, device=device)
    noise = _noise(ids, length, settings, device)
    texts = settings.stop_strings
    strings = StopStrings(texts, settings.tokenizer, block[parent].tolist()) if texts else None
    alive, running = torch.arange(r, device=device), torch.ones(r, dtype=torch.bool, device=device)
    taken = Capture(settings.states, count_layers(model.config) if settings.states else 0, r, t)
    forward = Forward(model, block.to(device), parent.to(device), t, settings.sampling, settings.head, taken.layers)
    taken.prompts(forward.states, parent.to(device))
    live = r
    with forward.attention():
        for i in range(t):
            token, value = forward.choose(None if noise is None else noise[i])
            tokens[i].index_copy_(0, alive, token)
            logp[i].index_copy_(0, alive, torch.where(running, value, 0.0).to(logp.dtype))
            count.index_add_(0, alive, running.long())
            broken = (running & value.isnan()).any()
            staying = running  # where states are taken, a row takes in its last token, too
            running = running & ~_ends(token, alive, running, settings, strings)
            ended.index_copy_(0, alive, ~running)
            drew, (live, bad) = live, torch.stack([running.sum(), broken]).tolist()
            if bad:
                raise RunStopped(
                    "the model's logits are NaN or infinite: its weights are broken, or its type overflows"
                )
            last = live == 0 or i + 1 == t
            settings.watch(drew if last else drew - live, drew)
            if last and not taken.grows:
                break
            if (drew if taken.grows else live) < COMPACT_BELOW * len(alive):
                kept = (staying if taken.grows else running).nonzero()[:, 0]
                forward.select(kept)
                alive, token, running = alive[kept], token[kept], running[kept]
                staying = staying[kept] if taken.grows else running
                noise = None if noise is None else noise[:, kept]
            forward.advance(token)
            if taken.grows:
                states = {number: x[staying, 0] for number, x in forward.states.items()}
                taken.token(tokens[: i + 1], alive[staying], states)
            if last:
                break
    return tokens.t().cpu(), logp.t().cpu(), count.cpu(), ended.cpu(), taken.means()


def _noise(ids: np.ndarray, length: int, settings: _Settings, device: torch.device) -> Tensor | None:
    """The uniform numbers ``[T, R]`` of a batch; None for greedy."""
    if settings.sampling.temperature == 0:
        return None
    position = np.arange(length, length + settings.max_new)
    u = uniform(settings.seed, "sample", ids[None], position[:, None], settings.step)
    return torch.from_numpy(u).to(device, torch.float32)


def _ends(token: Tensor, alive: Tensor, running: Tensor, settings: _Settings, strings: StopStrings | None) -> Tensor:
    """Which rows of the batch end with the token just drawn, ``[N]`` bool."""
    ended = torch.isin(token, settings.stop)
    if strings is not None:
        going = (running & ~ended).nonzero()[:, 0]
        found = strings.extend(alive[going].tolist(), token[going].tolist())
        ended[going] = torch.tensor(found, dtype=torch.bool, device=token.device)
    return ended
