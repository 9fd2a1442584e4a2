"""PF-PPO: of the responses to a prompt only some are learnt from, drawn by the rank or the size of their reward.

A reward model is trusted on very good and very bad responses; PPO is then run on what is left as if the policy had
drawn it. That is biased for the policy; `importance` of the stage takes the bias out where the weights allow it.
Leaves out: the stage (`components_filtration`), how far a reward can be trusted (`reward.reliability`).
Source: arXiv 2409.06957 and its released code, which weighs ranks by constants that hold for five responses only.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.advantage.segment import Groups, by_group

FilterName = Literal["none", "bon", "br", "bw", "pow-1", "pow-2", "pow-3", "top", "top-random", "top-bottom"]
STRATEGIES: tuple[str, ...] = get_args(FilterName)
RANKED = ("bon", "br", "bw")
"""Strategies that go by rank alone, which means nothing in a group of equal rewards."""
FULL_SUPPORT = ("none", "br", "pow-1", "pow-2", "pow-3")
"""Strategies under which every response can be drawn."""
ROUNDING = 1e-6
"""Expected numbers of draws this close to a whole one count as whole."""
ZeroVariance = Literal["drop", "random", "keep_all"]
Threshold = float | int | tuple[float, float] | None


def check_filter(strategy: str, threshold: object, zero_variance: str = "drop") -> tuple[float, float]:
    """The two thresholds of a strategy as (upper, lower), NaN where it has none.

    Raises:
        UserError: unknown names, thresholds that are missing, of the wrong number, reversed, not finite, or unused.
    """
    if strategy not in STRATEGIES:
        what = f"unknown strategy {strategy!r}"
        raise UserError(what, where="rank_weights, strategy", allowed=", ".join(STRATEGIES))
    if zero_variance not in get_args(ZeroVariance):
        what, allowed = f"unknown zero_variance {zero_variance!r}", ", ".join(get_args(ZeroVariance))
        raise UserError(what, where="rank_weights, zero_variance", allowed=allowed)
    wanted = {"top": 1, "top-random": 1, "top-bottom": 2}.get(strategy, 0)
    given = () if threshold is None else tuple(threshold) if isinstance(threshold, tuple | list) else (threshold,)
    allowed = ("None", "one number: what is above it is kept", "a pair: above the first or below the second")[wanted]
    if len(given) != wanted or not all(isinstance(x, int | float) and math.isfinite(x) for x in given):
        what = f"threshold is {threshold} for strategy {strategy}"
        raise UserError(what, where="rank_weights, threshold", allowed=allowed)
    if wanted == 2 and given[0] < given[1]:
        what = f"threshold is {threshold}: what is above the first or below the second is everything"
        raise UserError(what, where="rank_weights, threshold", allowed="upper >= lower")
    upper, lower = (*given, math.nan, math.nan)[:2]
    return float(upper), float(lower)


def rank_weights(
    reward: Tensor,
    group: Tensor,
    strategy: str,
    threshold: Threshold = None,
    noise: Tensor | None = None,
    zero_variance: str = "drop",
) -> Float[Tensor, " N"]:
    """Probability with which each response of a group is drawn.

    With ranks 1 (best) to G of the rewards R of a group:
    none         1 / G
    bon          1 for rank 1
    br           1/2 for rank 1, 1 / (2 (G - 1)) for the others
    bw           1/2 for ranks 1 and G
    pow-k        |R|^k / sum |R|^k, R in [-1, 1]
    top          equal for R > a
    top-random   equal for R > a and for each other response that a fair coin keeps
    top-bottom   equal for R > a or R < b

    Args:
        reward: R ``[N]``.
        group: prompt id of each row ``[N]``; groups of any size and order.
        strategy: see above.
        threshold: a for top and top-random, (a, b) with a >= b for top-bottom.
        noise: ``[N]`` in (0, 1), breaks ties and tosses the coins (kept below 1/2). None = tied ranks share their
            weights, and a coin keeps one half of a response: weights 1 and 1/2, brought to the sum 1.
        zero_variance: what bon, br and bw do with two or more equal rewards: give the group 0, let noise rank it (the
            same as keep_all without noise), or weigh all alike.

    Returns:
        ``[N]`` float32 (float64 for float64 rewards), the sum 1 in each group that is kept and 0 in one that is not.

    Raises:
        UserError: NaN or infinite rewards, rewards outside [-1, 1] under pow-k, thresholds that do not fit, unknown
            names, shapes that disagree.

    Edge cases: a group of one keeps its row, and of two br is bw. Rewards that are all 0 weigh alike under pow-k. A
    threshold may leave nothing of a group. Only pow-k and thresholds see more of a reward than its rank.

    Source: arXiv 2409.06957, section 4; released code has 0.4 and 0.1 for br whatever G, and takes the best and worst
    of a whole batch in verl.
    """
    upper, lower = check_filter(strategy, threshold, zero_variance)
    g = by_group(reward, group, None, "rank_weights")
    if noise is not None and noise.shape != reward.shape:
        raise UserError(f"noise has shape {tuple(noise.shape)} for {reward.shape[0]} rows", where="rank_weights, noise")
    if strategy in RANKED:
        return _ranked(g, strategy, noise, zero_variance).to(g.dtype)
    if strategy == "none":
        return (1 / g.size).to(g.dtype)
    if strategy.startswith("pow"):
        bad = g.score.abs() > 1
        if bool(bad.any()):
            row = int(bad.nonzero()[0, 0])
            cure = "Normalise and clip rewards first (mean, std and clip of the stage)."
            what = f"reward is {float(g.score[row])} under {strategy}"
            raise UserError(what, where=f"rank_weights, row {row}", allowed="[-1, 1]", cure=cure)
        raw = g.score.abs() ** int(strategy[-1])
        raw = torch.where(g.total(raw) > 0, raw, torch.ones_like(raw))
    else:
        upper, lower = torch.tensor([upper, lower], dtype=reward.dtype).tolist()  # 0.2 in float32 is not above 0.2
        raw = (g.score > upper).double()
        if strategy == "top-bottom":
            raw = ((g.score > upper) | (g.score < lower)).double()
        if strategy == "top-random":
            coin = torch.full_like(raw, 0.5) if noise is None else (noise < 0.5).to(raw)
            raw = torch.where(g.score > upper, raw, coin)
    total = g.total(raw)
    return torch.where(total > 0, raw / total.clamp(min=torch.finfo(raw.dtype).tiny), 0.0).to(g.dtype)


def _ranked(g: Groups, strategy: str, noise: Tensor | None, zero_variance: str) -> Tensor:
    """Weights by rank; tied rewards share without noise."""
    rank, tied = _ranks(g, noise)
    size, first, last = g.size, rank == 0, rank == g.size - 1
    if strategy == "bon":
        w = first.double()
    elif strategy == "bw":
        w = (first.double() + last.double()) / 2
    else:
        w = torch.where(first, 0.5, 0.5 / (size - 1).clamp(min=1))
    w = torch.where(size == 1, 1.0, w)
    if noise is None:
        ids, place = torch.unique(tied, return_inverse=True)
        sums, counts = w.new_zeros(ids.numel()), w.new_zeros(ids.numel())
        w = (sums.index_add(0, place, w) / counts.index_add(0, place, torch.ones_like(w)))[place]
    equal = g.silent & (size > 1)
    if zero_variance == "drop":
        return torch.where(equal, 0.0, w)
    return torch.where(equal, 1 / size, w) if zero_variance == "keep_all" else w


def within(place: Tensor, *keys: Tensor) -> tuple[Tensor, Tensor]:
    """Rows sorted by group and then by the keys, the first of which counts most; position of each row in its group.

    Args:
        place: number of each row's group ``[N]``, 0 to G - 1.
        keys: ``[N]`` each, ascending; what is equal in all of them keeps the order of rows.

    Returns:
        (rows in their new order, position of each row in its group from 0), int64 ``[N]`` both.
    """
    order = torch.arange(place.numel(), device=place.device)
    for key in (*keys[::-1], place):
        order = order[key[order].argsort(stable=True)]
    at = torch.empty_like(order)
    at[order] = torch.arange(place.numel(), device=place.device)
    begins = torch.full_like(at, place.numel()).scatter_reduce(0, place, at, "amin")
    return order, at - begins[place]


def _ranks(g: Groups, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rank of each row in its group from 0 = best, and a number that equal rewards of a group share.

    Rewards that `by_group` calls equal are ranked by noise alone.
    """
    score = torch.where(g.silent, torch.zeros_like(g.score), g.score)
    order, rank = within(g.place, -score, *(() if noise is None else (noise,)))
    value, where = score[order], g.place[order]
    new = torch.ones_like(value, dtype=torch.bool)
    new[1:] = (value[1:] != value[:-1]) | (where[1:] != where[:-1])
    tied = torch.empty_like(order)
    tied[order] = new.cumsum(0) - 1
    return rank, tied


def draw_rows(
    weight: Tensor, group: Tensor, draws: Tensor, noise: Tensor, order: Tensor, sample: bool = False
) -> Int[Tensor, " K"]:
    """Rows drawn from each group by their weights, with repeats.

    Deterministic: row i comes floor(d w_i) times, and once more with the probability of the rest, by one systematic
    draw over the rows of the group in the order of `order`; so it comes d w_i times on average with the least
    variance, and d = 2 keeps exactly best and worst of bw. Sampled: d independent draws.

    Args:
        weight: w ``[N]``, the sum 1 or 0 in each group (`rank_weights`).
        group: ``[N]``.
        draws: d of each row's group ``[N]`` int64, equal within a group, from 0 to the rows of the group if sampled.
        noise: ``[N]`` in (0, 1): the k-th row of a group in `order` holds the number of its k-th draw.
        order: ``[N]``, random numbers that order the rows of a group.
        sample: independent draws.

    Returns:
        int64, ascending, repeats beside one another; nothing of groups whose weights are 0.

    Edge cases: with equal weights, d rows of G are a simple random sample, since the order is random; d = G gives every
    row once.
    """
    place = torch.unique(group, return_inverse=True)[1]
    rows, position = within(place, order)
    place, first = place[rows], (position == 0)[rows]
    w, d, points = weight[rows].double(), draws[rows], noise[rows].double()

    def running(x: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of `x` up to each row of its group, and over the group."""
        total = torch.zeros_like(x).index_add(0, place, x)
        sums = x.cumsum(0)
        before = torch.zeros_like(x).index_add(0, place, (sums - x) * first)
        return sums - before[place], total[place]

    if sample:
        edges, total = running(w)
        edges = torch.where(total > 0, edges / total.clamp(min=ROUNDING), 1.0).clamp(max=1)
        drawn = (position[rows] < d) & (total > 0)
        found = torch.searchsorted(place + edges, (place + points)[drawn], right=True)
        copies = torch.bincount(torch.minimum(found, _last(place)[drawn]), minlength=len(w))
    else:
        expected = d * w
        whole = (expected + ROUNDING).floor()
        rest = torch.where(expected - whole > ROUNDING, expected - whole, 0.0)
        edges, total = running(rest)
        m = total.round()
        edges = torch.where(total > 0, edges * (m / total.clamp(min=ROUNDING)), 0.0)
        start = torch.zeros_like(points).index_add(0, place, points * first)[place]
        below = (edges - start).ceil().clamp(min=0)  # draws start, start + 1, ... that are below the edge
        below = torch.minimum(below, m)
        previous = torch.where(first, torch.zeros_like(below), below.roll(1))
        copies = (whole + below - previous).long()
    return rows.repeat_interleave(copies).sort().values


def _last(place: Tensor) -> Tensor:
    """Index of the last row of each row's group, for rows sorted by group."""
    return torch.bincount(place).cumsum(0)[place] - 1
