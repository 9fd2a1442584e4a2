"""Returns of the episodes of a log, in one pass.

Only whole episodes have a return: one that the log cuts off, or whose first steps it lacks, is counted and left out.
Leaves out: what the returns say (`measure`).
"""

from dataclasses import dataclass

import numpy as np

from steersman.core.errors import UserError
from steersman.offline.chunks import LATE, Chunk, Log

CUT, TERMINATED, TRUNCATED = 0, 1, 2
"""How an episode ended: not within the log, the task ended, a limit stopped it."""


@dataclass(frozen=True, slots=True)
class Returns:
    """Episodes of a log in their order.

    Args:
        value: [E] sum_t gamma^t r_t of each whole episode.
        length: [E] steps of each.
        end: [E] `TERMINATED` or `TRUNCATED`.
        cut: episodes without an end in the log; late: episodes without their first steps. An episode may be both.
        dropped: episodes that are not whole, and so in none of the arrays.
    """

    value: np.ndarray
    length: np.ndarray
    end: np.ndarray
    cut: int
    late: int
    dropped: int

    def mean(self, where: str = "returns") -> float:
        """Mean return g of the whole episodes.

        Raises:
            UserError: no episode is whole.
        """
        if not len(self.value):
            raise UserError(
                f"no episode is whole: {self.dropped} were dropped, {self.cut} of them without an end", where=where,
                cure="log at least one episode from its first step to its end",
            )  # fmt: skip
        return float(self.value.mean())


class ReturnTracker:
    """Collects returns chunk by chunk; memory grows with the number of episodes (17 bytes each)."""

    def __init__(self, discount: float = 1.0) -> None:
        if not 0 <= discount <= 1:
            raise UserError(f"is {discount}", where="discount", allowed="0 to 1")
        self.discount = discount
        self._done: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._open = (0.0, 0, CUT, False)  # of the episode at hand: sum, steps, end, late
        self._any = False
        self.cut = self.late = self.dropped = 0

    def update(self, chunk: Chunk) -> None:
        """Take the next rows of the log."""
        if not len(chunk):
            return
        at = np.flatnonzero(chunk.begin)
        if self._any and at.size and at[0] == 0:
            self._close(*(np.array([v]) for v in self._open))
            self._open = (0.0, 0, CUT, False)
        self._any = True
        goes_on = at.size == 0 or at[0] > 0
        starts = np.concatenate([[0], at]) if goes_on else at
        sizes = np.diff(np.append(starts, len(chunk)))
        steps = np.arange(len(chunk)) - np.repeat(starts, sizes)
        before, length, _, was_late = self._open
        if goes_on:
            steps[: sizes[0]] += length
        weighed = chunk.reward.astype(np.float64)
        if self.discount != 1.0:
            weighed = weighed * self.discount**steps
        sums, last = np.add.reduceat(weighed, starts), starts + sizes - 1
        ends = np.where(chunk.terminated[last], TERMINATED, np.where(chunk.truncated[last], TRUNCATED, CUT))
        late = chunk.begin[starts] == LATE
        if goes_on:
            sums[0] += before
            sizes[0] += length
            late[0] = was_late
        self._open = (float(sums[-1]), int(sizes[-1]), int(ends[-1]), bool(late[-1]))
        self._close(sums[:-1], sizes[:-1], ends[:-1], late[:-1])

    def _close(self, sums: np.ndarray, sizes: np.ndarray, ends: np.ndarray, late: np.ndarray) -> None:
        whole = (ends != CUT) & ~late
        self.cut += int((ends == CUT).sum())
        self.late += int(late.sum())
        self.dropped += int((~whole).sum())
        self._done.append((sums[whole], sizes[whole].astype(np.int64), ends[whole].astype(np.uint8)))

    def finish(self) -> Returns:
        """The returns of all rows so far; the last episode counts if it has ended."""
        if self._any:
            self._close(*(np.array([v]) for v in self._open))
            self._any, self._open = False, (0.0, 0, CUT, False)
        none = (np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.uint8))
        value, length, end = (np.concatenate(x) for x in zip(none, *self._done, strict=True))
        return Returns(value, length, end, self.cut, self.late, self.dropped)


def returns(log: Log, discount: float = 1.0) -> Returns:
    """Returns of all whole episodes of a log: sum_t discount^t r_t.

    Args:
        log: transitions in memory, mapped, or in a file.
        discount: gamma, 0 to 1; 1 = undiscounted, as the paper's code and tables.

    Raises:
        UserError: NaN or infinite rewards, by row; `discount` out of range.
    """
    from steersman.offline.chunks import check_finite

    tracker = ReturnTracker(discount)
    for chunk in log.chunks():
        check_finite("reward", chunk.reward, chunk.start)
        tracker.update(chunk)
    return tracker.finish()
