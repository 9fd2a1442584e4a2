"""Which token comes next: temperature and filters, and the inverse CDF of what they leave at a given uniform number.

The filtered, renormalised distribution is the one drawn from, so its log-probs are those recorded. Filters and their
order (temperature, top-k, top-p, min-p) are those of transformers' logits warpers.
Leaves out: running the model and where the uniform numbers come from (`decode`), stop strings (`text`).
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.core.component import Component
from steersman.core.config import Source, validate

HEAD = 1024
"""Tokens that top-p looks at before it sorts the whole vocabulary."""


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
    top = logits.amax(-1, keepdim=True)
    mass = torch.sub(logits, top).exp_()
    log_norm = top + mass.sum(-1, keepdim=True).log_()
    cdf = mass.cumsum_(-1)
    total = cdf[:, -1:]
    point = torch.minimum(u[:, None].to(cdf.dtype) * total, torch.nextafter(total, torch.zeros_like(total)))
    token = torch.searchsorted(cdf, point, right=True).clamp_(max=logits.shape[-1] - 1)
    return token[:, 0], (logits.gather(1, token) - log_norm)[:, 0]


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
