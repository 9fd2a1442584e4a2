"""Selection of tokens: the stream ``token_weight``, and the rule that learns from uncertain tokens only.

A selecting stage multiplies ``token_weight`` (1 where nobody wrote it), so selections combine; weight 0 takes a token
out of the loss and of its denominator, while rewards, advantages and lengths still see it.
Leaves out: rows and groups (`select.rows`, `select.groups`), the weights of another sampler (`loss.importance`).
Source: the 80/20 rule, "Beyond the 80/20 rule", arXiv 2506.01939.
"""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_reward import counted

_WHOLE = 1e-9
"""keep * n this close above a whole number counts as that number: 0.07 * 100 is 7, not 7.000000000000001."""


def in_loss(rollouts: Rollouts) -> Bool[Tensor, "N L"]:
    """Action tokens of valid rows that no stage has given the weight 0."""
    mask = counted(rollouts)
    weight = rollouts.streams.get("token_weight")
    return mask if weight is None else mask & (weight != 0)


def weigh(rollouts: Rollouts, factor: Tensor) -> Rollouts:
    """The rollouts with ``token_weight`` (1 where nobody wrote it) multiplied by `factor` ``[N, L]``."""
    before = rollouts.streams.get("token_weight")
    factor = factor if factor.is_floating_point() else factor.float()
    return rollouts.with_streams(token_weight=factor if before is None else before * factor)


def in_and_out(before: Rollouts, after: Rollouts) -> dict[str, float]:
    """Metrics of a selecting stage: rows and tokens in the loss before and after it."""
    old, new = in_loss(before), in_loss(after)
    return {
        "rows_in": float(old.any(1).sum()),
        "rows_out": float(new.any(1).sum()),
        "tokens_in": float(old.sum()),
        "tokens_out": float(new.sum()),
    }


def top_entropy(entropy: Tensor, mask: Tensor, keep: float | int) -> Bool[Tensor, "N L"]:
    """The most uncertain tokens of the batch, at least the share `keep` of them.

    kept_t = m_t and H_t >= h, h = the k-th largest H of the mask, k = ceil(keep n), n = tokens of the mask.

    Args:
        entropy: H ``[N, L]``, nats; pass the whole optimisation batch, not a micro-batch.
        mask: m ``[N, L]`` bool.
        keep: in (0, 1].

    Returns:
        bool ``[N, L]``, a subset of the mask; the order of rows does not matter.

    Raises:
        UserError: shapes other than ``[N, L]``, a mask that is not bool, keep outside (0, 1], NaN or infinity inside
            the mask.

    Edge cases: all tokens tied with the k-th are kept, so equal entropies keep everything; an empty mask keeps nothing.
    What stands outside the mask may be anything.

    Source: arXiv 2506.01939 (keep 0.2); TRL takes an interpolated quantile in place of the k-th largest.
    """
    if mask.ndim != 2 or mask.dtype != torch.bool or entropy.shape != mask.shape:
        what = f"entropy has shape {tuple(entropy.shape)}, mask is {mask.dtype} of shape {tuple(mask.shape)}"
        raise UserError(what, where="top_entropy", allowed="entropy [N, L] and a bool mask of its shape")
    if not 0 < keep <= 1:
        raise UserError(f"keep is {keep}", where="top_entropy, keep", allowed="0 < keep <= 1")
    bad = mask & ~torch.isfinite(entropy)
    if bool(bad.any()):
        row, token = (int(i) for i in bad.nonzero()[0])
        what = f"entropy is {float(entropy[row, token])} at token {token}"
        raise UserError(what, where=f"top_entropy, row {row}", allowed="finite")
    known = entropy[mask]
    if not known.numel():
        return mask.clone()
    k = max(math.ceil(keep * known.numel() - _WHOLE), 1)
    return mask & (entropy >= known.topk(k).values[-1])


class TopEntropy(Stage):
    """Only the most uncertain tokens are learnt from (arXiv 2506.01939): a share of those that are still in the loss.

    The entropy is that of the policy at rollout weights; every update that the rollouts serve has the same tokens.
    """

    needs = ("entropy",)
    gives = ("token_weight",)
    kind: Literal["top_entropy"] = "top_entropy"
    keep: Annotated[float, Field(gt=0, le=1)] = Field(0.2, description="share of the step's tokens that is kept")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        """Multiply ``token_weight`` by 1 at the kept tokens (`top_entropy`) and by 0 elsewhere."""
        entropy, mask = rollouts.streams["entropy"].detach(), in_loss(rollouts)
        kept = top_entropy(entropy, mask, self.keep)
        out = weigh(rollouts, kept)
        threshold = {"threshold": float(entropy[kept].min())} if bool(kept.any()) else {}
        return out, in_and_out(rollouts, out) | threshold
