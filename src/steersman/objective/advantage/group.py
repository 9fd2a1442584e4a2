"""Advantages of whole responses against the other responses to the same prompt.

Rows with `valid` False (the grader failed) are in no statistic and get 0; a group of one, and a group whose scores are
all equal, gets exactly 0 (`group_counts` says how often). A leave-one-out mean is never divided by a leave-one-out
deviation, which explodes ([1, 0, 0, 0] -> 1e6).
Leaves out: tokens (`advantage.gae`), selection and reweighting of rows.
Sources: GRPO arXiv 2402.03300; Dr.GRPO arXiv 2503.20783; RLOO arXiv 2402.14740; ReMax arXiv 2310.10505; OPO arXiv
2505.23585; GDPO as in TRL's ``normalize_then_sum``.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.advantage.segment import batch_deviation, by_group, check_rows, group_counts

__all__ = ["group_counts", "grpo", "normalise_then_sum", "opo", "passk", "remax", "rloo"]

Scale = Literal["group", "batch", "none"]
SCALES: tuple[str, ...] = get_args(Scale)


def grpo(
    score: Tensor,
    group: Tensor,
    scale: str = "group",
    eps: float | int = 1e-6,
    valid: Tensor | None = None,
) -> Float[Tensor, " N"]:
    """Group-relative advantage: the score less the mean of its group, in units of a standard deviation.

    A_i = (S_i - mu_g) / (sd + eps), with sd of the group ("group"), of all valid rows ("batch"), or no division
    ("none", Dr.GRPO). mu_g = mean over the group, row i included; sd divides by size - 1.

    Args:
        score: S ``[N]``, any unit.
        group: prompt id of each row ``[N]``, integers in any order.
        scale: what divides.
        eps: >= 0, added to sd; 1e-6 in verl, 1e-4 in TRL, 1e-9 in OpenRLHF.
        valid: ``[N]``; False = no score (it may be NaN); None = all valid.

    Returns:
        ``[N]`` float32 (float64 for float64 scores); sums to 0 in each group.

    Raises:
        UserError: unknown scale, negative eps, shapes or dtypes that disagree, NaN or infinity in a valid row.

    Edge cases: exactly 0 for rows that are not valid, groups of one and groups of equal scores (in any dtype); eps is
    not relied upon for that. Because mu_g includes row i, the expected gradient is (G - 1) / G of the true one.

    Source: arXiv 2402.03300; "none" arXiv 2503.20783; "batch" as in TRL. The published code gives groups of one the raw
    score (verl) or 0 (TRL); ours is 0.
    """
    _check_scale(scale, eps, "grpo")
    g = by_group(score, group, valid, "grpo")
    centred = g.score - g.mean
    if scale == "none":
        return g.finish(centred)
    return g.finish(centred / ((g.deviation() if scale == "group" else batch_deviation(g.score, g.valid)) + eps))


def _check_scale(scale: str, eps: float | int, where: str) -> None:
    if scale not in SCALES:
        raise UserError(f"unknown scale {scale!r}", where=f"{where}, scale", allowed=", ".join(SCALES))
    if not 0 <= eps < float("inf"):
        raise UserError(f"eps is {eps}", where=f"{where}, eps", allowed="a finite number >= 0")


def rloo(score: Tensor, group: Tensor, valid: Tensor | None = None) -> Float[Tensor, " N"]:
    """Leave-one-out advantage: the score less the mean score of the *other* rows of its group.

    A_i = S_i - mean_{j != i} S_j = G / (G - 1) (S_i - mu_g), G = valid rows of the group.

    Args:
        score: S ``[N]``.
        group: prompt id of each row ``[N]``.
        valid: ``[N]``; False = no score.

    Returns:
        ``[N]`` float32 (float64 for float64 scores); its expected policy gradient is unbiased.

    Raises:
        UserError: as `grpo`.

    Edge cases: as `grpo`. There is no option to divide by a leave-one-out deviation, which explodes.

    Source: arXiv 2402.14740.
    """
    g = by_group(score, group, valid, "rloo")
    return g.finish((g.score - g.mean) * g.size / (g.size - 1).clamp(min=1))


def opo(
    score: Tensor,
    group: Tensor,
    length: Tensor,
    valid: Tensor | None = None,
) -> Float[Tensor, " N"]:
    """Advantage against the length-weighted mean of the group, the variance-minimising baseline under its assumptions.

    A_i = S_i - sum_j L_j S_j / sum_j L_j, sums over the valid rows of the group (i included).

    Args:
        score: S ``[N]``.
        group: prompt id of each row ``[N]``.
        length: L ``[N]`` >= 0, action tokens of each row.
        valid: ``[N]``; False = no score.

    Returns:
        ``[N]`` float32 (float64 for float64 scores).

    Raises:
        UserError: as `grpo`, and lengths of another shape or negative.

    Edge cases: as `grpo`; a group without any token gets 0.

    Source: arXiv 2505.23585, as in verl.
    """
    g = by_group(score, group, valid, "opo")
    if length.shape != score.shape or bool((length < 0).any()):
        raise UserError("length must be one number >= 0 for each row", where="opo, length")
    weight = length.to(g.score.dtype)
    tokens = g.total(weight)
    baseline = g.total(weight * g.score) / torch.where(tokens > 0, tokens, torch.ones_like(tokens))
    return g.finish(torch.where(tokens > 0, g.score - baseline, torch.zeros_like(baseline)))


def remax(score: Tensor, greedy: Tensor, valid: Tensor | None = None) -> Float[Tensor, " N"]:
    """Advantage against the greedy response to the same prompt, or any other baseline that is not of row i.

    A_i = S_i - b_i, with b_i = the score of the greedy response to row i's prompt (of a learned b(x), a constant).

    Args:
        score: S ``[N]``.
        greedy: b ``[N]``, already brought to rows.
        valid: ``[N]``; False where either score is missing.

    Returns:
        ``[N]`` float32 (float64 for float64 scores); unbiased because b does not depend on row i's own draw.

    Raises:
        UserError: shapes that disagree; NaN or infinity in a valid row of either argument.

    Edge cases: rows that are not valid get 0. Groups play no role, so neither do singletons.

    Source: arXiv 2310.10505.
    """
    x, valid = check_rows(score, valid, "remax")
    if greedy.shape != score.shape:
        raise UserError(f"greedy has shape {tuple(greedy.shape)} for {score.shape[0]} rows", where="remax, greedy")
    b, _ = check_rows(greedy, valid, "remax, greedy")
    return (x - b).to(torch.promote_types(score.dtype, torch.float32))


def passk(
    score: Tensor,
    group: Tensor,
    scale: str = "group",
    eps: float | int = 1e-6,
    valid: Tensor | None = None,
) -> Float[Tensor, " N"]:
    """Advantage for the best of the group: only the best row is rewarded, by its lead over the second best.

    A_i = (S_i - second largest S of the group) / (sd + eps) for the best row, 0 for the others; `scale` as in `grpo`.

    Args:
        score: S ``[N]``.
        group: prompt id of each row ``[N]``.
        scale: what divides.
        eps: >= 0.
        valid: ``[N]``; False = no score.

    Returns:
        ``[N]`` >= 0, float32 (float64 for float64 scores).

    Raises:
        UserError: as `grpo`.

    Edge cases: as `grpo`; a tie for the best gives 0 everywhere, so the order of rows does not matter.

    Source: verl's ``grpo_passk``, which raises on groups of one.
    """
    _check_scale(scale, eps, "passk")
    g = by_group(score, group, valid, "passk")
    top = g.valid & (g.score == g.best(g.score))
    tied = g.total(top.to(g.score.dtype)) > 1
    second = g.best(torch.where(top, torch.full_like(g.score, -torch.inf), g.score))
    lead = torch.where(top & ~tied & ~g.silent, g.score - second, torch.zeros_like(second))
    if scale == "none":
        return g.finish(lead)
    return g.finish(lead / ((g.deviation() if scale == "group" else batch_deviation(g.score, g.valid)) + eps))


def normalise_then_sum(
    parts: Tensor,
    weight: Tensor,
    group: Tensor,
    eps: float | int = 1e-4,
    valid: Tensor | None = None,
) -> Float[Tensor, " N"]:
    """Advantage from several rewards, each normalised in its group, summed with weights, normalised over the batch.

    x_i = sum_k w_k grpo(S_k)_i; A_i = (x_i - mean x) / (sd x + eps) over valid rows. The usual alternative, to sum
    first, is ``grpo(parts @ weight, group)``; the two differ wherever the rewards have different spreads.

    Args:
        parts: one reward in each column ``[N, K]``.
        weight: w ``[K]``.
        group: prompt id of each row ``[N]``.
        eps: >= 0, 1e-4 in TRL.
        valid: ``[N]``; False = a part is missing.

    Returns:
        ``[N]`` float32 (float64 for float64 parts).

    Raises:
        UserError: as `grpo`, and shapes of parts and weight that disagree.

    Edge cases: as `grpo` for each part; a batch in which the sums are equal gives 0. eps > 0 shrinks small rewards a
    little more than large ones; where rewards cancel exactly, the second division makes that remainder large again.

    Source: GDPO, as in TRL's ``normalize_then_sum``.
    """
    if parts.ndim != 2 or weight.shape != parts.shape[1:]:
        what = f"parts have shape {tuple(parts.shape)} and weight {tuple(weight.shape)}"
        raise UserError(what, where="normalise_then_sum", allowed="[N, K] and [K]")
    columns = [grpo(parts[:, k].double(), group, "group", eps, valid) for k in range(parts.shape[1])]
    x = torch.stack(columns, 1) @ weight.double() if columns else parts.double().sum(1)
    valid = torch.ones_like(group, dtype=torch.bool) if valid is None else valid
    if not bool(valid.any()):
        return torch.zeros_like(x, dtype=torch.promote_types(parts.dtype, torch.float32))
    scaled = (x - x[valid].mean()) / (batch_deviation(x, valid) + eps)
    return torch.where(valid, scaled, torch.zeros_like(x)).to(torch.promote_types(parts.dtype, torch.float32))
