"""What one forward of a language model says of rollouts: log-probs, entropies, and averages over tokens of each row.

Leaves out: whose forward it is and which rows go together (`local`), values (`train.critic`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.language.score import Pool, pooled_states
from steersman.train.engine.work import Averaged


def scored(model: nn.Module, part: Rollouts, asked: Sequence[Any], temperature: float) -> dict[Any, Tensor]:
    """Those of `asked` that one forward answers: ``logp``, ``entropy`` and `Averaged`.

    Args:
        model: a causal language model.
        part: rows on its device.
        asked: names and `Averaged`; others are left to others.
        temperature: divides the logits, as sampled with.

    Raises:
        UserError: tokens to be averaged that are not bool ``[N, L]``, or lie outside their row; entropies of the first
            token, which nothing predicts.
    """
    tokens = {q: _tokens(q, part) for q in asked if isinstance(q, Averaged)}
    hidden = [q for q in tokens if q.quantity == "hidden"]
    entropies = [q for q in tokens if q.quantity == "entropy"]
    every = bool({"logp", "entropy"} & set(asked))
    mask = part.action if every else torch.zeros_like(part.action)
    for q in entropies:
        mask = mask | tokens[q]
    form: dict[str, Any] = {"temperature": temperature, "entropy": "entropy" in asked or bool(entropies), "mask": mask}
    (logp, spread), means = pooled_states(model, part, [Pool(q.layer, tokens[q]) for q in hidden], **form)
    found: dict[Any, Tensor] = dict(zip(hidden, means, strict=True))
    for q in entropies:
        found[q] = torch.where(tokens[q], spread, 0.0).sum(1) / tokens[q].sum(1).clamp(min=1)
    if every:
        found |= {k: torch.where(part.action, x, 0.0) for k, x in (("logp", logp), ("entropy", spread))}
    return {q: x for q, x in found.items() if q in asked}


def _tokens(asked: Averaged, part: Rollouts) -> Tensor:
    """The tokens over which an average runs."""
    found = asked.pool(part)
    if found.dtype != torch.bool or found.shape != part.ids.shape:
        what = f"tokens to be averaged are {found.dtype} {tuple(found.shape)}"
        raise UserError(what, where="pool", allowed=f"bool {tuple(part.ids.shape)}")
    if bool((found & (torch.arange(found.shape[1], device=found.device) >= part.length[:, None])).any()):
        raise UserError("a token to be averaged is padding", where="pool")
    return found
