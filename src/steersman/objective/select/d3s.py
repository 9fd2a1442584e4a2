"""D3S: of all rows those whose advantages vary most, and in them the tokens of largest |A| H.

Advantages come from whole groups and are not changed by the selection. The estimate that is left is biased, on purpose:
what is kept depends on rewards. Pass a whole optimisation batch, never a micro-batch.
Leaves out: the stages and the schedule (`components_select`), the advantages (`advantage`).
Sources: arXiv 2509.22115; for rows inside groups also PODS, arXiv 2504.13818.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.reduce import MODES
from steersman.objective.select.schedule import at_least

Scope = Literal["batch", "group", "group_then_batch"]
SCOPES: tuple[str, ...] = get_args(Scope)
TokenScore = Literal["advantage_entropy", "entropy", "advantage", "random"]
EQUAL = 1e-12
"""Variances and means of advantages scaled to [-1, 1] that are this close count as equal."""
ROUNDING = 1e-3
"""Nats by which a computed entropy of 0 may fall below it."""


def _check_noise(noise: Tensor | None, like: Tensor, where: str) -> None:
    if noise is not None and (noise.shape != like.shape or not noise.is_floating_point()):
        what = f"noise is {noise.dtype} of shape {tuple(noise.shape)}"
        raise UserError(what, where=where, allowed=f"numbers of shape {tuple(like.shape)}, or None")


def _check_count(n: object, where: str) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise UserError(f"n is {n}", where=where, allowed="a whole number >= 1")
    return n


def _check_advantage(advantage: Tensor, group: Tensor | None, where: str) -> Tensor:
    """The advantage in float64, checked."""
    if advantage.ndim != 1 or not advantage.is_floating_point():
        what = f"advantage is {advantage.dtype} of shape {tuple(advantage.shape)}"
        raise UserError(what, where=where, allowed="one floating-point number for each row")
    bad = ~torch.isfinite(advantage)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise UserError(f"advantage is {float(advantage[row])}", where=f"{where}, row {row}", allowed="finite")
    if group is not None and (group.shape != advantage.shape or group.is_floating_point() or group.dtype == torch.bool):
        what = f"group is {group.dtype} of shape {tuple(group.shape)} for {advantage.shape[0]} rows"
        raise UserError(what, where=where, allowed="one integer id for each row")
    return advantage.detach().double()


def _smallest(ordered: Tensor, n: int, balance: bool) -> int:
    """How many of the `n` kept ones are smallest of `ordered` (ascending); the others are its largest."""
    b = ordered.numel()
    j = torch.arange(n + 1, device=ordered.device)

    def kept(x: Tensor) -> Tensor:
        sums = torch.cat([x.new_zeros(1), x.cumsum(0)])
        return sums[j] + (sums[b] - sums[b - n + j])

    centred = ordered - ordered.mean()
    scale = centred.abs().amax().clamp(min=torch.finfo(centred.dtype).tiny)
    mean = kept(centred / scale) / n
    variance = kept((centred / scale).square()) / n - mean.square()
    open_ = torch.ones_like(variance, dtype=torch.bool)
    if balance:
        net = kept(ordered.sign()).abs()
        open_ = net == net.amin()
    for x in (-variance, mean.abs()):
        best = x[open_].amin()
        open_ = open_ & (x <= best + EQUAL)
    return int(open_.nonzero()[0, 0])


def _choose(advantage: Tensor, n: int, balance: bool, noise: Tensor | None) -> Tensor:
    """Positions of the `n` values that vary most, ascending."""
    b = advantage.numel()
    if n >= b:
        return torch.arange(b, device=advantage.device)
    order = torch.arange(b, device=advantage.device) if noise is None else noise.argsort(stable=True)
    if n == 1:
        return order[advantage[order].abs().argmax()][None]
    order = order[advantage[order].argsort(stable=True)]
    j = _smallest(advantage[order], n, balance)
    return torch.cat([order[:j], order[b - n + j :]]).sort().values


def each_group(group: Tensor, choose: Callable[[Tensor], Tensor]) -> Int[Tensor, " K"]:
    """Rows that `choose` picks of each group: from its rows ``[G]`` to positions among them; ascending."""
    ids, place = torch.unique(group, return_inverse=True)
    order = place.argsort(stable=True)
    parts = order.split(torch.bincount(place, minlength=ids.numel()).tolist()) if ids.numel() else ()
    found = [rows[choose(rows)] for rows in parts]
    return torch.cat([order[:0], *found]).sort().values


def max_variance(
    advantage: Tensor,
    n: float | int | tuple[int, int],
    group: Tensor | None = None,
    scope: str = "batch",
    balance: bool = False,
    noise: Tensor | None = None,
) -> Int[Tensor, " K"]:
    """The rows whose advantages have the largest variance.

    S = argmax over S of n rows of Var(A_S), population variance. Some j smallest and n - j largest values are always
    optimal, so all j = 0..n are compared: O(B log B), exact.

    Args:
        advantage: A ``[B]``, finite; its own unit, since S is the same for a A + b with a > 0.
        n: >= 1 rows of the batch, or of each group under scope "group". For "group_then_batch" a pair (rows of each
            group, rows of the batch) or the latter alone; each step then keeps about the same share.
        group: prompt id of each row ``[B]``, for the scopes with groups.
        scope: which rows compete: all, those of a group, or first the one and then the other.
        balance: only sets whose numbers of positive and negative advantages differ as little as they can.
        noise: ``[B]``, decides which of equal advantages are kept; None = by position.

    Returns:
        int64 ``[n]`` (of each group at most all its rows), ascending.

    Raises:
        UserError: n below 1 or not whole, unknown scope, a missing group, NaN or infinity, shapes that disagree.

    Edge cases: n >= B keeps every row; n = 1 keeps the row of largest |A|, since every variance is 0. Of sets of equal
    variance the one whose mean is nearest to that of all rows is taken, then the one of fewer small values. Groups of
    any size and order. The kept values may be one-sided unless `balance`.

    Source: arXiv 2509.22115, section on sample-level selection. It describes groups first and "further" the batch;
    whether one follows the other could not be read, hence three scopes.
    """
    where = "max_variance"
    a = _check_advantage(advantage, group, where)
    _check_noise(noise, advantage, where)
    if scope not in SCOPES:
        raise UserError(f"unknown scope {scope!r}", where=f"{where}, scope", allowed=", ".join(SCOPES))
    if isinstance(n, tuple) and scope != "group_then_batch":
        raise UserError(f"n is {n} in scope {scope}", where=f"{where}, n", allowed="a whole number >= 1")
    inner, outer = (n[0], n[1]) if isinstance(n, tuple) else (None, n)
    last = _check_count(outer, f"{where}, n")
    if scope == "batch":
        return _choose(a, last, balance, noise)
    if group is None:
        raise UserError("group is missing", where=f"{where}, group", allowed="one integer id for each row")

    def within(count: Callable[[int], int]) -> Tensor:
        pick = _picker(a, count, balance, noise)
        return each_group(group, pick)

    if scope == "group":
        return within(lambda size: last)
    if inner is None:
        part = math.sqrt(min(last / max(a.numel(), 1), 1.0))
        rows = within(lambda size: at_least(part, size))
    else:
        first = _check_count(inner, f"{where}, n")
        rows = within(lambda size: first)
    return rows[_choose(a[rows], last, balance, None if noise is None else noise[rows])]


def _picker(a: Tensor, count: Callable[[int], int], balance: bool, noise: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda rows: _choose(a[rows], count(rows.numel()), balance, None if noise is None else noise[rows])


def max_variance_share(
    advantage: Tensor, share_of: Callable[[int], int], group: Tensor, balance: bool = False, noise: Tensor | None = None
) -> Int[Tensor, " K"]:
    """`max_variance` in scope "group" where the number of rows depends on the size of the group.

    Args:
        advantage, group, balance, noise: as there.
        share_of: from the size of a group to the rows kept of it, >= 1.

    Returns:
        int64, ascending.

    Raises:
        UserError: as there.
    """
    a = _check_advantage(advantage, group, "max_variance")
    _check_noise(noise, advantage, "max_variance")
    return each_group(group, _picker(a, share_of, balance, noise))


def score_tokens(
    advantage: Tensor, entropy: Tensor, by: str = "advantage_entropy", mask: Tensor | None = None
) -> Float[Tensor, "N L"]:
    """How much a token is worth learning from: |A_t| H_t, or either factor alone.

    Args:
        advantage: A ``[N, L]``, of the token.
        entropy: H ``[N, L]``, nats, over the whole vocabulary, at rollout weights and without a gradient.
        by: "advantage_entropy", or "entropy" or "advantage" as controls.
        mask: bool ``[N, L]``, the tokens that are looked at; None = all of them.

    Returns:
        ``[N, L]`` in the wider dtype of the two, without a gradient.

    Raises:
        UserError: shapes that disagree, an entropy with a gradient, an unknown name; inside the mask an advantage or
            entropy that is not finite, or an entropy below 0 by more than rounding.

    Edge cases: what stands outside the mask may be anything.

    Source: arXiv 2509.22115.
    """
    if advantage.ndim != 2 or entropy.shape != advantage.shape:
        what = f"entropy has shape {tuple(entropy.shape)} and advantage {tuple(advantage.shape)}"
        raise UserError(what, where="score_tokens", allowed="[N, L] both")
    if entropy.requires_grad:
        cure = "Take it from a pass without gradients, or detach it."
        raise UserError("entropy has a gradient", where="score_tokens, entropy", cure=cure)
    size = advantage.detach().abs()
    found = {"advantage_entropy": size * entropy, "entropy": entropy, "advantage": size}
    if by not in found:
        raise UserError(f"unknown score {by!r}", where="score_tokens, by", allowed=", ".join(found))
    _refuse("advantage", advantage, ~torch.isfinite(advantage), mask, "finite")
    _refuse("entropy", entropy, ~(torch.isfinite(entropy) & (entropy >= -ROUNDING)), mask, "finite and >= 0")
    return found[by]


def _refuse(name: str, value: Tensor, bad: Tensor, mask: Tensor | None, allowed: str) -> None:
    """Refuse numbers that are `bad` inside the mask, by name and place."""
    if mask is not None and (mask.shape != value.shape or mask.dtype != torch.bool):
        what = f"mask is {mask.dtype} of shape {tuple(mask.shape)}"
        raise UserError(what, where="score_tokens, mask", allowed=f"bool of shape {tuple(value.shape)}, or None")
    bad = bad if mask is None else bad & mask
    if bool(bad.any()):
        row, token = (int(i) for i in bad.nonzero()[0])
        what = f"{name} is {float(value[row, token])} at token {token}"
        raise UserError(what, where=f"score_tokens, row {row}", allowed=allowed)


def top_tokens(score: Tensor, mask: Tensor, fraction: float | int, noise: Tensor | None = None) -> Bool[Tensor, "N L"]:
    """Exactly a share of the tokens of the mask, those of largest score, pooled over all rows.

    k = max(1, ceil(fraction n)), n = tokens of the mask.

    Args:
        score: ``[N, L]``, finite inside the mask.
        mask: bool ``[N, L]``.
        fraction: in (0, 1].
        noise: ``[N, L]``, decides between equal scores; None = by position.

    Returns:
        bool ``[N, L]``, k tokens of the mask.

    Raises:
        UserError: shapes other than ``[N, L]``, a mask that is not bool, fraction outside (0, 1], NaN or infinity
            inside the mask.

    Edge cases: an empty mask keeps nothing; equal scores still keep k tokens, where a threshold would keep all of them.
    What stands outside the mask may be anything.

    Source: arXiv 2509.22115.
    """
    if mask.ndim != 2 or mask.dtype != torch.bool or score.shape != mask.shape:
        what = f"score has shape {tuple(score.shape)}, mask is {mask.dtype} of shape {tuple(mask.shape)}"
        raise UserError(what, where="top_tokens", allowed="score [N, L] and a bool mask of its shape")
    if isinstance(fraction, bool) or not 0 < fraction <= 1:
        raise UserError(f"fraction is {fraction}", where="top_tokens, fraction", allowed="0 < fraction <= 1")
    _check_noise(noise, score, "top_tokens")
    bad = mask & ~torch.isfinite(score)
    if bool(bad.any()):
        row, token = (int(i) for i in bad.nonzero()[0])
        what = f"score is {float(score[row, token])} at token {token}"
        raise UserError(what, where=f"top_tokens, row {row}", allowed="finite")
    flat = mask.flatten().nonzero()[:, 0]
    if noise is not None:
        flat = flat[noise.flatten()[flat].argsort(stable=True)]
    order = score.detach().flatten()[flat].argsort(descending=True, stable=True)
    kept = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
    kept[flat[order[: at_least(fraction, flat.numel())]]] = True
    return kept.view(mask.shape)


def full_denominator(before: Tensor, after: Tensor, mode: str, group: Tensor) -> Float[Tensor, " N"]:
    """Factor of each row's token weights that turns the divisor of what is kept into that of what there was.

    factor_i = d(after) / d(before), d = what `reduce.aggregate` divides a token of row i by: all tokens (token_mean),
    rows times tokens of the row (seq_mean_token_mean), rows (seq_mean_token_sum, seq_sum_const), prompts times tokens
    of the prompt (prompt_mean_token_mean), 1 (token_sum).

    Args:
        before: tokens in the loss without the selection, bool ``[N, L]``.
        after: tokens in the loss with it, a subset.
        mode: of the loss's aggregation.
        group: prompt id of each row ``[N]``.

    Returns:
        ``[N]`` float32; 1 in rows of which nothing is kept.

    Raises:
        UserError: an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"unknown mode {mode!r}", where="full_denominator, mode", allowed=", ".join(MODES))
    place = torch.unique(group, return_inverse=True)[1]

    def divisor(mask: Tensor) -> Tensor:
        tokens = mask.sum(1).double()
        if mode == "token_sum":
            return torch.ones_like(tokens)
        if mode == "token_mean":
            return tokens.sum().expand(tokens.shape)
        if mode == "prompt_mean_token_mean":
            of_prompt = torch.zeros_like(tokens).index_add(0, place, tokens)
            return of_prompt[place] * (of_prompt > 0).sum()
        return (tokens > 0).sum() * (tokens if mode == "seq_mean_token_mean" else torch.ones_like(tokens))

    return torch.where(after.any(1), divisor(after) / divisor(before).clamp(min=1), 1.0).float()
