"""What a log holds, in one pass: episodes, returns, rewards, dimensions, actions, coverage; and what is odd about it.

Leaves out: comparing with other logs (`measure`), advice (`advise`), pages (`report_page`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.offline.chunks import Chunk, Log
from steersman.offline.measure import Count, count
from steersman.offline.returns import TERMINATED, TRUNCATED, Returns, ReturnTracker
from steersman.offline.rows import Encoder

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_ACTIONS = 100_000
"""Larger action numbers are not counted one by one."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a log holds.

    Args:
        rows: transitions; terminated, truncated: rows with these flags.
        returns: of the whole episodes.
        reward: least, mean and greatest reward, and the share of rewards that are not 0.
        low, high: [D] least and greatest value of each observation dimension.
        action_times: [K] how often each action was taken; None = continuous, or numbers too large.
        action_low, action_high: [A] ends of continuous actions; None = discrete.
        counted: different pairs.
    """

    rows: int
    terminated: int
    truncated: int
    returns: Returns
    reward: tuple[float, float, float, float]
    low: np.ndarray
    high: np.ndarray
    action_times: np.ndarray | None
    action_low: np.ndarray | None
    action_high: np.ndarray | None
    counted: Count

    @property
    def discrete(self) -> bool:
        """Whether actions are indices."""
        return self.action_low is None


class _Look:
    """Sums over chunks."""

    def __init__(self, discount: float) -> None:
        self.returns = ReturnTracker(discount)
        self.terminated = self.truncated = self.rows = self.nonzero = 0
        self.sum, self.least, self.most = 0.0, np.inf, -np.inf
        self.ends: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.times: np.ndarray | None = np.zeros(0, np.int64)

    def __call__(self, chunk: Chunk) -> None:
        reward = chunk.reward.astype(np.float64)
        self.returns.update(chunk)
        self.rows += len(chunk)
        self.terminated += int(chunk.terminated.sum())
        self.truncated += int(chunk.truncated.sum())
        self.nonzero += int(np.count_nonzero(reward))
        self.sum += float(reward.sum())
        self.least, self.most = min(self.least, float(reward.min())), max(self.most, float(reward.max()))
        self._ends("obs", chunk.obs)
        if chunk.action.dtype.kind == "f":
            self._ends("action", chunk.action)
        elif self.times is not None:
            if chunk.action.max() >= MOST_ACTIONS:
                self.times = None
                return
            more = np.bincount(chunk.action, minlength=len(self.times))
            more[: len(self.times)] += self.times
            self.times = more

    def _ends(self, name: str, x: np.ndarray) -> None:
        flat = x.reshape(len(x), -1)
        low, high = flat.min(0), flat.max(0)
        a, b = self.ends.get(name, (low, high))
        self.ends[name] = (np.minimum(a, low), np.maximum(b, high))


def describe(log: Log, encoder: Encoder | None = None, counter: str = "exact", discount: float = 1.0) -> Description:
    """Look at every row of a log once.

    Args:
        log: transitions, of any size.
        encoder, counter: how pairs are counted, see `measure.count`.
        discount: gamma of the returns.

    Raises:
        UserError: values that cannot be used, by row.
    """
    look = _Look(discount)
    counted = count(log, encoder, counter, look=look)
    times = look.times
    if times is not None and log.n_actions is not None and len(times) < log.n_actions:
        times = np.concatenate([times, np.zeros(log.n_actions - len(times), np.int64)])
    acts = look.ends.get("action", (None, None))
    reward = (look.least, look.sum / look.rows, look.most, look.nonzero / look.rows)
    return Description(
        look.rows, look.terminated, look.truncated, look.returns.finish(), reward, *look.ends["obs"],
        None if "action" in look.ends else times, *acts, counted,
    )  # fmt: skip


def odd(found: Description) -> list[str]:
    """What a reader of the figures should know, a sentence each."""
    return [f"{line}." for line in _odd(found)]


def _odd(found: Description) -> Iterator[str]:
    kept = found.returns
    lengths, n = kept.length, len(kept.length)
    ended = lengths[kept.end == TERMINATED]
    if n and not found.truncated and len(ended) > 1 and ended.max() > 1:
        at_limit = int((ended == ended.max()).sum())
        if at_limit > max(1, n // 10):
            yield (
                f"{at_limit:,} of {n:,} episodes end as terminated after exactly {ended.max():,} steps and none is "
                "truncated: this looks like a time limit stored as termination, which makes values of the last states "
                "wrong"
            )
    if kept.dropped:
        parts = ((kept.cut, "without an end"), (kept.late, "without a beginning"))
        what = ", ".join(f"{k:,} {words}" for k, words in parts if k)
        one = kept.dropped == 1
        yield f"{kept.dropped:,} {'episode is' if one else 'episodes are'} not whole and left out of returns ({what})"
    if not n:
        yield "No episode is whole, so nothing is known of returns"
    if found.reward[0] == found.reward[2]:
        yield f"Every reward is {found.reward[0]:g}"
    if found.action_times is not None and (found.action_times == 0).any():
        never = np.flatnonzero(found.action_times == 0)
        names = ", ".join(map(str, never[:5])) + (" ..." if len(never) > 5 else "")
        yield f"{len(never)} of {len(found.action_times)} actions were never taken: {names}"
    still = np.flatnonzero(found.low == found.high)
    if len(still):
        names = ", ".join(map(str, still[:5])) + (" ..." if len(still) > 5 else "")
        yield f"{len(still)} of {len(found.low)} observation dimensions never change: {names}"


def as_json(found: Description) -> dict[str, Any]:
    """A description as JSON values; returns as quantiles."""
    value, length = found.returns.value, found.returns.length
    whole = len(value) > 0
    return {
        "transitions": found.rows,
        "episodes": len(value),
        "not_whole": found.returns.dropped,
        "ended": {
            "terminated": int((found.returns.end == TERMINATED).sum()),
            "truncated": int((found.returns.end == TRUNCATED).sum()),
        },
        "mean_return": float(value.mean()) if whole else None,
        "return_quantiles": np.quantile(value, QUANTILES).tolist() if whole else None,
        "mean_length": float(length.mean()) if whole else None,
        "length_quantiles": np.quantile(length, QUANTILES).tolist() if whole else None,
        "reward": dict(zip(("least", "mean", "greatest", "share_not_zero"), found.reward, strict=True)),
        "observation_dimensions": len(found.low),
        "observation_low": found.low.astype(float).tolist(),
        "observation_high": found.high.astype(float).tolist(),
        "actions": "discrete" if found.discrete else "continuous",
        "action_times": None if found.action_times is None else found.action_times.tolist(),
        "action_low": None if found.action_low is None else found.action_low.astype(float).tolist(),
        "action_high": None if found.action_high is None else found.action_high.astype(float).tolist(),
        "unique_pairs": found.counted.unique,
        "entropy": found.counted.entropy,
        "perplexity": found.counted.perplexity,
        "counter": found.counted.counter,
        "counted": found.counted.signature,
        "curve": [list(point) for point in found.counted.curve],
    }
