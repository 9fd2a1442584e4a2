"""How good the behaviour in a log is, and how much of the world it saw: TQ and SACo, without any training.

Leaves out: reading files (`arrays`, `parquet`, `by_minari`), what the measures recommend (`advise`).
Source: Schweighofer et al. 2022 ("A Dataset Perspective on Offline Reinforcement Learning"), eq. (6) and (7). Their
code's "exact" count adds actions to states, and its limits of cells are each data set's own unless given; neither is
copied here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.offline.arrays import actions, numeric, observations
from steersman.offline.chunks import Chunk, Log, check_chunk
from steersman.offline.count import ExactCounter, HyperLogLogCounter, make_counter
from steersman.offline.entropy import naive_entropy
from steersman.offline.returns import returns
from steersman.offline.rows import Discretizer, Encoder, Plain
from steersman.offline.sample import subsample

__all__ = [
    "Count", "Coverage", "Discretizer", "ExactCounter", "HyperLogLogCounter", "Plain", "count", "coverage",
    "lsaco", "offline_performance", "quality", "saco", "trajectory_quality", "unique_pairs",
]  # fmt: skip

POINTS = 24
"""Points of a coverage curve."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many different pairs a log has.

    Args:
        unique: different pairs u; an estimate with the counter "hll".
        rows: transitions N.
        signature: how pairs were made (dtypes, or the discretiser's edges).
        counter: "exact" or "hll".
        curve: (n, different pairs among the first n transitions), ascending; the last is (N, u).
        entropy: naive entropy H^ of the pairs, nats; None with "hll", which does not know how often each came.
    """

    unique: int
    rows: int
    signature: str
    counter: str
    curve: tuple[tuple[int, int], ...]
    entropy: float | None

    @property
    def perplexity(self) -> float | None:
        """exp(H^) <= u."""
        return None if self.entropy is None else math.exp(self.entropy)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of a log beside that of a reference.

    Args:
        u, u_ref: different pairs of both.
        saco: u / u_ref; above 1 where the log saw more than the reference. Mean of the repeats with subsampling.
        lsaco: log u / log u_ref; None where the reference has a single pair.
        entropy, entropy_ref: naive entropies, nats; entropy_ratio: their ratio; None where not known.
        perplexity: exp(entropy).
        curve, curve_ref: different pairs among the first n transitions.
        rows: transitions that were compared, of each.
        signature, counter: how was counted.
        spread: standard deviation of SACo over the repeats of subsampling; None without.
    """

    u: int
    u_ref: int
    saco: float
    lsaco: float | None
    entropy: float | None
    entropy_ref: float | None
    entropy_ratio: float | None
    perplexity: float | None
    curve: tuple[tuple[int, int], ...]
    curve_ref: tuple[tuple[int, int], ...]
    rows: int
    signature: str
    counter: str
    spread: float | None = None


def quality(mean: float, low: float, high: float) -> float:
    """(mean - low) / (high - low), eq. (7) and the performance omega; not clipped.

    Args:
        mean: mean return; low: of a random policy; high: of the best policy known.

    Raises:
        UserError: low and high are equal, or a value is not finite.
    """
    if not all(math.isfinite(v) for v in (mean, low, high)):
        raise UserError(f"mean {mean}, low {low}, high {high}", where="trajectory quality", allowed="finite returns")
    if high == low:
        raise UserError(f"expert and minimum returns are equal ({high:g}); TQ is undefined", where="trajectory quality")
    return (mean - low) / (high - low)


def trajectory_quality(dataset: Log, low: Log | float, high: Log | float, discount: float = 1.0) -> float:
    """TQ = (g(D) - g(low)) / (g(high) - g(low)), g = mean over whole episodes of sum_t discount^t r_t, eq. (7).

    Args:
        dataset: D.
        low: random-policy data, or its mean return.
        high: expert data, or its mean return. The paper's code takes the best point of the online evaluation curve.
        discount: gamma; 1 as the paper's code and tables. Means given as numbers must use the same.

    Returns:
        TQ; negative or above 1 where the data are worse than low or better than high.

    Raises:
        UserError: no whole episode; equal returns of low and high; NaN.
    """
    ends = [float(x) if isinstance(x, int | float | np.number) else returns(x, discount).mean(name)
            for name, x in (("low", low), ("high", high))]  # fmt: skip
    return quality(returns(dataset, discount).mean("dataset"), *ends)


def offline_performance(curve: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """omega of the best and of the last evaluation point.

    omega = (max_t mean_s g_s,t - low) / (high - low): mean over seeds first, then the best point, which an offline user
    cannot know; so the last point is given too.

    Args:
        curve: [S, T] mean return of each seed at each evaluation point.
        low, high: as in `quality`.
    """
    mean = np.asarray(curve, np.float64).mean(0)
    return quality(float(mean.max()), low, high), quality(float(mean[-1]), low, high)


def unique_pairs(obs: Any, action: Any, encoder: Encoder | None = None) -> int:
    """Number of different (s, a) pairs, exactly.

    Args:
        obs: [N, ...] numbers.
        action: [N], [N, 1] or one-hot integers; floats [N] or [N, A].
        encoder: `Discretizer`; None = pairs as they are, floats bit by bit.

    Raises:
        UserError: lengths that differ, NaN.
    """
    seen, done = observations("obs", numeric("obs", obs)), actions(numeric("action", action), None)[0]
    if len(seen) != len(done):
        raise UserError(f"has {len(done):,} rows, obs has {len(seen):,}", where="action")
    return ExactCounter().update((encoder or Plain()).rows(seen, done)).count()


def count(
    log: Log, encoder: Encoder | None = None, counter: str = "exact", points: int = POINTS, look: Any = None
) -> Count:
    """Count different pairs in one pass, with the curve of how they came.

    Args:
        log: transitions.
        encoder: how pairs are made; None = as they are.
        counter: "exact" or "hll".
        points: of the curve.
        look: called with every chunk, for what else is to be measured in the same pass.

    Raises:
        UserError: values that cannot be used, by row; an unknown counter; too many pairs for the exact counter.
    """
    how, tally = encoder or Plain(), make_counter(counter)
    marks = sorted({math.ceil(len(log) * k / points) for k in range(1, points + 1)})
    curve: list[tuple[int, int]] = []
    for chunk in _cut_at(log, marks):
        check_chunk(chunk, log.n_actions)
        signature = how.signature(chunk.obs, chunk.action)
        tally.update(how.rows(chunk.obs, chunk.action, chunk.start), signature)
        if look is not None:
            look(chunk)
        if tally.rows in marks:
            curve.append((tally.rows, tally.count()))
    times = tally.times() if isinstance(tally, ExactCounter) else None
    entropy = None if times is None else naive_entropy(times)
    return Count(tally.count(), tally.rows, tally.signature, counter, tuple(curve), entropy)


def _cut_at(log: Log, marks: list[int]) -> Iterator[Chunk]:
    """Chunks that end at these numbers of rows, so that the curve's points are exact."""
    for chunk in log.chunks():
        inside = [m - chunk.start for m in marks if chunk.start < m < chunk.start + len(chunk)]
        for a, b in zip([0, *inside], [*inside, len(chunk)], strict=True):
            yield replace(
                chunk, start=chunk.start + a, obs=chunk.obs[a:b], action=chunk.action[a:b], reward=chunk.reward[a:b],
                terminated=chunk.terminated[a:b], truncated=chunk.truncated[a:b], begin=chunk.begin[a:b],
            )  # fmt: skip


def saco(mine: Count, ref: Count) -> float:
    """u / u_ref, eq. (6), for counts made alike of equally many transitions.

    Raises:
        UserError: other discretisers, dtypes or counters; unequal numbers of transitions; an empty reference.
    """
    if mine.signature != ref.signature or mine.counter != ref.counter:
        raise UserError(
            f"counted differently: {mine.counter}, {mine.signature}; reference: {ref.counter}, {ref.signature}",
            where="SACo", cure="count both with one discretiser, the same dtypes and the same counter",
        )  # fmt: skip
    if mine.rows != ref.rows:
        raise UserError(
            f"{mine.rows:,} transitions against {ref.rows:,} of the reference: more transitions see more pairs",
            where="SACo", allowed="equally many", cure="subsample both to the smaller size, several times",
        )  # fmt: skip
    if ref.unique == 0:
        raise UserError("the reference has no pairs", where="SACo")
    return mine.unique / ref.unique


def lsaco(mine: Count, ref: Count) -> float | None:
    """log u / log u_ref; None where the reference has a single pair."""
    saco(mine, ref)
    return None if ref.unique == 1 else math.log(mine.unique) / math.log(ref.unique)


def coverage(
    dataset: Log,
    ref: Log,
    encoder: Encoder | None = None,
    counter: str = "exact",
    repeats: int = 0,
    seed: int = 0,
) -> Coverage:
    """SACo = u(D) / u(D_ref), its variants, and how coverage grew, eq. (6).

    Args:
        dataset: D; ref: D_ref, from the same task and with as many transitions (the paper: the replay data).
        encoder: how pairs are made, the same for both; None = as they are, which suits discrete observations.
        counter: "exact" or "hll" (0.8 % standard error, a fixed 16 KB).
        repeats: 0 = unequal sizes are refused; else both are subsampled to the smaller size so often.
        seed: of the subsamples.

    Raises:
        UserError: unequal sizes without `repeats`; different dtypes or discretisers; values that cannot be used.
    """
    if repeats < 0:
        raise UserError(f"is {repeats}", where="repeats", allowed="0 or more")
    if len(dataset) != len(ref) and not repeats:
        raise UserError(
            f"{len(dataset):,} transitions against {len(ref):,} of the reference: more transitions see more pairs",
            where="SACo", allowed="equally many", cure="repeats=5 subsamples both to the smaller size, five times",
        )  # fmt: skip
    if len(dataset) == len(ref):
        return compare(count(dataset, encoder, counter), count(ref, encoder, counter))
    n = min(len(dataset), len(ref))
    pairs = [
        [count(subsample(x, n, seed, k) if len(x) > n else x, encoder, counter) for x in (dataset, ref)]
        for k in range(repeats)
    ]
    return averaged([compare(a, b) for a, b in pairs])


def compare(mine: Count, ref: Count) -> Coverage:
    """Two counts side by side.

    Raises:
        UserError: counts that `saco` refuses.
    """
    ratio = None
    if mine.entropy is not None and ref.entropy:
        ratio = mine.entropy / ref.entropy
    return Coverage(
        mine.unique, ref.unique, saco(mine, ref), lsaco(mine, ref), mine.entropy, ref.entropy, ratio, mine.perplexity,
        mine.curve, ref.curve, mine.rows, mine.signature, mine.counter,
    )  # fmt: skip


def averaged(several: list[Coverage]) -> Coverage:
    """Means over repeats, with the spread of SACo; curves are those of the first repeat."""

    def mean(values: list[float | None]) -> float | None:
        return None if None in values else float(np.mean([v for v in values if v is not None]))

    names = ("lsaco", "entropy", "entropy_ref", "entropy_ratio", "perplexity")
    means = {k: mean([getattr(c, k) for c in several]) for k in names}
    ratios = [c.saco for c in several]
    u, u_ref = (round(float(np.mean([getattr(c, k) for c in several]))) for k in ("u", "u_ref"))
    spread = float(np.std(ratios, ddof=1)) if len(ratios) > 1 else None
    return replace(several[0], u=u, u_ref=u_ref, saco=float(np.mean(ratios)), spread=spread, **means)
