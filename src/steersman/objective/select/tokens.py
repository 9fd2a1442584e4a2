"""Selection of tokens: the stream ``token_weight``, TIP's scores and quadrants, and the rule of uncertain tokens only.

A selecting stage multiplies ``token_weight`` (1 where nobody wrote it), so selections combine; weight 0 takes a token
out of the loss and of its denominator, while rewards, advantages and lengths still see it.
Leaves out: rows and groups (`select.rows`, `select.groups`), the weights of another sampler (`loss.importance`), TIP as
a stage (`components_tip`).
Sources: TIP, "Token Importance in On-Policy Distillation", arXiv 2604.14084; "Beyond the 80/20 rule", arXiv 2506.01939.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_reward import counted
from steersman.objective.select import ranks

_WHOLE = 1e-9
"""keep * n this close above a whole number counts as that number: 0.07 * 100 is 7, not 7.000000000000001."""
Rule = Literal["soft_or", "entropy", "divergence", "q3", "random"]
RULES: tuple[str, ...] = get_args(Rule)
SelectMode = Literal["top", "bottom", "sample"]
MODES: tuple[str, ...] = get_args(SelectMode)
LEAST_WEIGHT = 1e-8
"""Least weight of a token in sampling, so that one of score 0 can be drawn once the others are gone."""
MOST_POWER = 16
"""Of an entropy or a divergence as a weight: `LEAST_WEIGHT` to twice this power is still a number."""
SMALLEST = LEAST_WEIGHT ** (2 * MOST_POWER)
"""Weights below count as this."""


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


def scores(
    entropy: Tensor,
    divergence: Tensor | None,
    divergence_forward: Tensor | None = None,
    rule: str = "soft_or",
    entropy_clip_quantile: float | None = 0.98,
    *,
    mask: Tensor | None = None,
    scope: str = "batch",
    divergence_clip_quantile: float | None = None,
) -> Float[Tensor, "*S"]:
    """How much a token is worth learning from a teacher: TIP's selection scores and their controls.

    With hhat, dhat = min-max over the population of min(h, its q-quantile) and of delta:
    soft_or: hhat + dhat - hhat dhat;  q3: delta_fwd (1 - hhat);  entropy: h;  divergence: delta;  random: 1.

    Args:
        entropy: h ``[N, L]`` or ``[M]``, of the student, >= 0; the unit does not matter to soft_or and q3.
        divergence: delta = KL(student || teacher), nats, same shape; only soft_or and divergence read it.
        divergence_forward: delta_fwd = KL(teacher || student), nats, same shape; only q3 reads it.
        rule: see above.
        entropy_clip_quantile: q in (0, 1]; None = no clip (the paper's first revision).
        mask: tokens that count, bool, same shape; None = all.
        scope: "batch" = the population is all tokens, "sequence" = each row is one.
        divergence_clip_quantile: the same for delta; None = no clip (the paper).

    Returns:
        Same shape, float32 (float64 for float64 entropy), without a gradient, 0 outside the mask.

    Raises:
        UserError: an unknown rule or scope, a stream that the rule reads and that is missing, shapes that disagree, a
            quantile outside (0, 1], NaN or infinity inside the mask (a teacher that excludes a token that the student
            does not).

    Edge cases: an axis on which all tokens are equal counts as 0, so soft_or is then the other axis. Soft-OR is at
    least either axis and at most 1. Whatever stands outside the mask does not matter.

    Source: arXiv 2604.14084, eq. 7-8 and sections 6, 7.3, B.2; "random" and the clip of delta are ours.
    """
    needed = {"soft_or": (entropy, divergence), "divergence": (divergence,), "q3": (entropy, divergence_forward)}
    if rule not in RULES:
        raise UserError(f"unknown rule {rule!r}", where="scores, rule", allowed=", ".join(RULES))
    if any(x is None for x in needed.get(rule, ())):
        name = "divergence_forward" if rule == "q3" else "divergence"
        raise UserError(f"{rule} needs {name}, which is None", where="scores")
    reads_d, reads_f = rule in ("soft_or", "divergence"), rule == "q3"
    given = {
        "divergence": divergence if reads_d else None,
        "divergence_forward": divergence_forward if reads_f else None,
    }
    mask, known = ranks.known("scores", mask, entropy=entropy, **given)
    inside = ranks.populations(mask, scope)

    def axis(x: Tensor, q: float | None) -> Tensor:
        rows = ranks.populations(x, scope)
        if q is not None:
            if not 0 < q <= 1:
                raise UserError(f"the clip's quantile is {q}", where="scores", allowed="0 < quantile <= 1, or None")
            rows = rows.minimum(ranks.quantile(rows, inside, q))
        return ranks.min_max(rows, inside).reshape(x.shape)

    if rule == "soft_or":
        h, d = axis(known["entropy"], entropy_clip_quantile), axis(known["divergence"], divergence_clip_quantile)
        most, least = torch.maximum(h, d), torch.minimum(h, d)
        # The same number as h + d - h d, in a form whose rounding cannot leave [max(h, d), 1].
        found = most + least * (1 - most)
    elif rule == "q3":
        found = known["divergence_forward"] * (1 - axis(known["entropy"], entropy_clip_quantile))
    else:
        found = torch.ones_like(known["entropy"]) if rule == "random" else known[rule]
    return torch.where(mask, found, torch.zeros_like(found))


def sampling_weights(
    entropy: Tensor,
    jsd: Tensor | None = None,
    alpha: float | int = 1.0,
    gamma: float | int = 0.0,
    vocabulary: int | None = None,
    *,
    mask: Tensor | None = None,
) -> Float[Tensor, "*S"]:
    """In proportion to what tokens are drawn where uncertainty and disagreement are weighed against each other.

    w = max(H / log V, 1e-8)^alpha max(J / log 2, 1e-8)^gamma.

    Args:
        entropy: H ``[N, L]`` or ``[M]``, nats, >= 0, of the student.
        jsd: J, Jensen-Shannon divergence of student and teacher with beta 1/2, nats, same shape; None with gamma 0.
        alpha: power of the entropy, 0 to 16; 1 with gamma 0 is sampling by entropy.
        gamma: power of the divergence, 0 to 16.
        vocabulary: V > 1; None = the entropy as it is, which changes draws only among tokens at the floor.
        mask: tokens that count, bool, same shape; None = all.

    Returns:
        Same shape, float64, without a gradient, 0 outside the mask; for `select` in mode "sample" with least 0.

    Raises:
        UserError: a power out of range, gamma without jsd, a vocabulary below 2, shapes that disagree, NaN or infinity
            inside the mask.

    Source: `entropy_weighted_sample` in arXiv 2604.14084's repository, which gives no default for alpha.
    """
    for name, power in {"alpha": alpha, "gamma": gamma}.items():
        if not 0 <= power <= MOST_POWER:
            raise UserError(f"is {power}", where=f"sampling_weights, {name}", allowed=f"0 to {MOST_POWER}")
    if gamma and jsd is None:
        raise UserError(f"gamma is {gamma} and jsd is None", where="sampling_weights", cure="Give jsd, or gamma 0.")
    if vocabulary is not None and vocabulary < 2:
        raise UserError(f"is {vocabulary}", where="sampling_weights, vocabulary", allowed="2 or more")
    mask, known = ranks.known("sampling_weights", mask, entropy=entropy, jsd=jsd if gamma else None)
    unit = {"entropy": 1.0 if vocabulary is None else math.log(vocabulary), "jsd": math.log(2)}
    powers, found = {"entropy": alpha, "jsd": gamma}, torch.ones_like(known["entropy"], dtype=torch.float64)
    for name, x in known.items():
        found = found * (x.double() / unit[name]).clamp(min=LEAST_WEIGHT) ** powers[name]
    return torch.where(mask, found, torch.zeros_like(found))


def select(
    score: Tensor,
    mask: Tensor,
    keep: float | int,
    mode: str = "top",
    scope: str = "batch",
    noise: Tensor | None = None,
    least: float | int = LEAST_WEIGHT,
) -> Bool[Tensor, "*S"]:
    """A share of the tokens of the mask, by their scores.

    k = max(1, floor(keep m)) of the m tokens of each population: the largest scores (top), the smallest (bottom), or
    draws without replacement with probabilities proportional to the scores (sample).

    Args:
        score: ``[N, L]`` or ``[M]``; weights >= 0 in mode "sample", where less than `least` counts as that.
        mask: tokens that compete, bool, same shape.
        keep: in (0, 1].
        mode: see above.
        scope: "batch" = all tokens are one population, "sequence" = each row is.
        noise: uniform in (0, 1), same shape; sample needs it. In the other modes the smaller goes first of equal
            scores; None = the lower position.
        least: of a weight in mode "sample"; 0 = all are above it already.

    Returns:
        bool, same shape, a subset of the mask; equal to it for keep 1. With the same noise the sets are nested in keep.

    Raises:
        UserError: keep outside (0, 1], an unknown mode or scope, sample without noise, shapes that disagree, NaN or
            infinity inside the mask.

    Edge cases: an empty population keeps nothing; one of a single token keeps it.

    Source: arXiv 2604.14084, section 6. The paper corrects no inclusion probabilities in mode "sample", so the mean
    over the kept tokens is then no unbiased estimate of the mean over all; neither do we.
    """
    keep = ranks.whole_share(keep, "select, keep")
    if mode not in MODES:
        raise UserError(f"unknown mode {mode!r}", where="select, mode", allowed=", ".join(MODES))
    mask, known = ranks.known("select", mask, score=score)
    if noise is not None and noise.shape != mask.shape:
        what = f"noise has shape {tuple(noise.shape)}"
        raise UserError(what, where="select", allowed=f"{tuple(mask.shape)}, or None")
    if mode == "sample" and noise is None:
        raise UserError("mode sample needs noise", where="select", cure="Give uniform numbers in (0, 1), one a token.")
    inside = ranks.populations(mask, scope)
    rows, luck = ranks.populations(known["score"], scope), None if noise is None else ranks.populations(noise, scope)
    if mode == "bottom":
        rows = -rows
    elif mode == "sample" and luck is not None:
        rows = ranks.race(rows.double().clamp(min=max(least, SMALLEST)), luck)
    return ranks.first(rows, inside, ranks.at_most(keep, inside.sum(1)), luck).reshape(mask.shape)


def unbiased(
    score: Tensor, mask: Tensor, keep: float | int, scope: str, noise: Tensor, least: float | int = LEAST_WEIGHT
) -> Float[Tensor, "*S"]:
    """Weights by which the mean over drawn tokens estimates the mean over all tokens of the mask without a bias.

    u = K / (M pi) at the K tokens of M that ``select(..., "sample")`` draws, 0 elsewhere; pi = `ranks.chances`. Then
    E[(1/K) sum u x] = (1/M) sum x for any x, however the weights and x hang together.

    Args and errors as `select` in mode "sample".

    Returns:
        Same shape, float64; 1 throughout the mask for keep 1.

    Edge cases: unlikely tokens that are drawn get large weights, so the variance may be large.

    Source: arXiv 2604.14084, A.3, has it for draws with replacement; these are the same without.
    """
    kept = select(score, mask, keep, "sample", scope, noise, least)
    inside, luck = ranks.populations(mask, scope), ranks.populations(noise, scope)
    weight = ranks.populations(score.detach(), scope).double().clamp(min=max(least, SMALLEST))
    chance = ranks.chances(weight, inside, ranks.at_most(keep, inside.sum(1)), luck).reshape(mask.shape)
    scale = kept.sum() / mask.sum().clamp(min=1)
    return torch.where(kept, scale / chance, torch.zeros_like(chance))


@dataclass(frozen=True, slots=True)
class Quadrants:
    """Where tokens stand in the plane of entropy and divergence.

    Args:
        label: 1 to 4, 0 outside the mask; the shape of what was given.
        share: of Q1 to Q4 among the tokens of the mask, by name; 0 where there are none.
        entropy_threshold: above it is high, in the unit of the entropy.
        divergence_threshold: above it is high, nats.
    """

    label: Tensor
    share: dict[str, float]
    entropy_threshold: float
    divergence_threshold: float


def quadrants(
    entropy: Tensor,
    divergence: Tensor,
    mask: Tensor | None = None,
    entropy_threshold: float | None = None,
    divergence_threshold: float | None = None,
) -> Quadrants:
    """Sort tokens into TIP's taxonomy.

    Q1: h and delta above their thresholds; Q2: h alone; Q3: delta alone (confident and wrong); Q4: neither.

    Args:
        entropy: h, any shape.
        divergence: delta, same shape.
        mask: tokens that count, bool, same shape; None = all.
        entropy_threshold: None = the median of h over the mask.
        divergence_threshold: None = the median of delta.

    Returns:
        Labels, shares, and the thresholds that were used.

    Raises:
        UserError: shapes that disagree, NaN or infinity inside the mask, a threshold that is not finite.

    Source: arXiv 2604.14084, table 1. The paper names no thresholds; shares mean nothing without those used here.
    """
    mask, known = ranks.known("quadrants", mask, entropy=entropy, divergence=divergence)
    for name, x in {"entropy_threshold": entropy_threshold, "divergence_threshold": divergence_threshold}.items():
        if x is not None and not math.isfinite(x):
            raise UserError(f"is {x}", where=f"quadrants, {name}", allowed="a finite number, or None for the median")

    def cut(x: Tensor, given: float | None) -> float:
        flat = ranks.populations(x, "batch")
        return float(ranks.quantile(flat, ranks.populations(mask, "batch"), 0.5)) if given is None else float(given)

    h, d = cut(known["entropy"], entropy_threshold), cut(known["divergence"], divergence_threshold)
    high, far = known["entropy"] > h, known["divergence"] > d
    label = torch.where(mask, torch.where(far, torch.where(high, 1, 3), torch.where(high, 2, 4)), 0)
    total = max(int(mask.sum()), 1)
    return Quadrants(label, {f"Q{i}": int((label == i).sum()) / total for i in (1, 2, 3, 4)}, h, d)


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
