"""Tiny language models with weights large enough to matter, and fixed ragged pairs and responses for them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from steersman.core import noise
from steersman.core.types import Pairs, Rollouts
from steersman.language.build import SmallModel, build_model

VOCABULARY = 60
END = 0
PROMPTS = [2, 5, 3, 1, 4, 2, 6, 3]
FIRST = [4, 2, 7, 3, 1, 9, 3, 5]
SECOND = [3, 6, 2, 8, 4, 2, 1, 5]


def language_model(seed: int = 0, spread: float = 0.15) -> Any:
    """Two layers of width 16; matrices ~ N(0, spread^2), so that log-probs differ from token to token."""
    model = build_model(SmallModel(width=16, layers=2, heads=2, context=64), VOCABULARY, 0, eos_id=END)
    noise.normal_([(n, p) for n, p in model.named_parameters() if p.ndim > 1], spread, seed, "tiny")
    return model


def responses(lengths: list[int], seed: int, extra: int = 0) -> Rollouts:
    """Rows with the prompts of `PROMPTS` (equal for every seed) and random responses that end in END, then padding."""
    prompts = noise.generator(7, "prompts").integers(1, VOCABULARY, (len(PROMPTS), max(PROMPTS)))
    words = noise.generator(seed, "responses").integers(1, VOCABULARY, (len(lengths), max(lengths)))
    total = torch.tensor(PROMPTS) + torch.tensor(lengths)
    ids = torch.full((len(lengths), int(total.max()) + extra), END)
    for i, (p, r) in enumerate(zip(PROMPTS, lengths, strict=True)):
        ids[i, :p] = torch.from_numpy(prompts[i, :p])
        ids[i, p : p + r - 1] = torch.from_numpy(words[i, : r - 1])
    return Rollouts.of(ids, total, torch.tensor(PROMPTS))


def make_pairs(label: Tensor | None = None, weight: Tensor | None = None, extra: int = 0) -> Pairs:
    """Eight pairs; the first side is preferred unless `label` says otherwise."""
    first, second = responses(FIRST, 1, extra), responses(SECOND, 2, extra // 2)
    if weight is not None:
        first, second = replace(first, weight=weight), replace(second, weight=weight)
    return Pairs(first, second, torch.ones(len(PROMPTS)) if label is None else label)


def textbook_logp(model: Any, rollouts: Rollouts) -> Tensor:
    """Sum of log-probs of the action tokens, one row at a time through the whole model."""
    out = []
    for i, n in enumerate(rollouts.length.tolist()):
        logits = model(rollouts.ids[i : i + 1, :n], use_cache=False).logits[0, :-1]
        chosen = logits.log_softmax(-1).gather(1, rollouts.ids[i, 1:n, None])[:, 0]
        out.append(chosen[rollouts.action[i, 1:n]].sum())
    return torch.stack(out)


def grads(model: Any) -> dict[str, Tensor]:
    """Gradients by name."""
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
