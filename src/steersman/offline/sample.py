"""A random part of a log, drawn while it streams.

Leaves out: drawing batches for training (`transitions.draw`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from steersman.core.errors import UserError
from steersman.offline.chunks import FIRST, ROWS, Chunk, Log


@dataclass(frozen=True, slots=True)
class Subsample:
    """`n` rows of `log` without replacement, in their order; a function of (seed, number) alone.

    Rows are no longer neighbours: every one stands for itself, which suits counting pairs and nothing else.
    """

    log: Log
    n: int
    seed: int
    number: int

    @property
    def n_actions(self) -> int | None:
        """That of the whole log."""
        return self.log.n_actions

    def __len__(self) -> int:
        return self.n

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """How many of a chunk's rows are drawn follows the hypergeometric law; which ones, a permutation."""
        from steersman.core.noise import generator

        draw = generator(self.seed, "subsample", self.number)
        left, wanted, start = len(self.log), self.n, 0
        for chunk in self.log.chunks(rows):
            size = len(chunk)
            take = int(draw.hypergeometric(size, left - size, wanted)) if left > size else wanted
            left, wanted = left - size, wanted - take
            if take:
                at = np.sort(draw.permutation(size)[:take])
                parts = {k: getattr(chunk, k)[at] for k in ("obs", "action", "reward", "terminated", "truncated")}
                yield replace(chunk, start=start, begin=np.full(take, FIRST, np.uint8), **parts)
                start += take


def subsample(log: Log, n: int, seed: int, number: int = 0) -> Subsample:
    """Draw `n` rows of a log; see `Subsample`.

    Raises:
        UserError: more rows than there are, or none.
    """
    if not 1 <= n <= len(log):
        raise UserError(f"{n:,} rows of {len(log):,}", where="subsample", allowed=f"1 to {len(log):,}")
    return Subsample(log, n, seed, number)
