"""How many different rows a stream of rows has: exactly, or nearly in a fixed amount of memory.

Both counters take rows in any number of parts and merge: the merged counter is that of all rows together, in any order
and however often a part is given. Leaves out: what a row is (`rows`).
Source: HyperLogLog is Flajolet et al. 2007; the estimate from the registers is Ertl 2017 ("New cardinality estimation
algorithms for HyperLogLog sketches", algorithm 6), which has no bias between small and large counts.
"""

import math
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.offline.arrays import numeric
from steersman.offline.rows import as_bytes, kind_of

COUNTERS = ("exact", "hll")
LIMIT = 20_000_000
"""Different rows that an exact counter holds unless told otherwise; 24 bytes each, about 90 while parts are joined."""
_RANKS = 48  # bits of a hash that can tell a rank; with p <= 16 for the register all 64 are used
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash64(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """A 64-bit hash of every row of bytes [n, W], as uint64 [n].

    h = mix(h xor w) over the row's 8-byte words w and its width, mix = splitmix64's finaliser (Steele et al. 2014).
    """
    words = _words(rows)
    h = np.full(len(rows), (seed * int(_GOLDEN) + rows.shape[1]) % 2**64, np.uint64)
    for j in range(words.shape[1]):
        h = _mix((h ^ words[:, j]) + _GOLDEN)
    return h


def _mix(h: np.ndarray) -> np.ndarray:
    h = (h ^ (h >> np.uint64(30))) * _A
    h = (h ^ (h >> np.uint64(27))) * _B
    return h ^ (h >> np.uint64(31))


def _words(rows: np.ndarray) -> np.ndarray:
    """Rows of bytes as 8-byte words [n, ceil(W / 8)], zeros behind."""
    n, width = rows.shape
    padded = np.zeros((n, -(-width // 8) * 8), np.uint8)
    padded[:, :width] = rows
    return padded.view("<u8")


class _Counter:
    """What both counters share: rows come in as bytes, and only rows of one kind are counted together."""

    def __init__(self) -> None:
        self.signature = ""
        self.rows = 0

    def update(self, rows: Any, signature: str = "") -> "_Counter":
        """Count more rows; gives the counter itself.

        Args:
            rows: [n] or [n, d] numbers of one dtype; bytes [n, W] from `rows.Encoder` with their `signature`.

        Raises:
            UserError: NaN, by row and column; a dtype, width or signature that differs from that of earlier rows.
        """
        x = numeric("rows", rows)
        self._same(signature or f"rows {kind_of(x)}")
        if len(x):
            self._add(as_bytes("rows", x, self.rows))
            self.rows += len(x)
        return self

    def _same(self, signature: str) -> None:
        if self.signature and signature != self.signature:
            raise UserError(
                f"rows were made differently: {signature}; before: {self.signature}", where="counter",
                cure="count both with the same dtypes and the same discretiser",
            )  # fmt: skip
        self.signature = signature

    def _add(self, rows: np.ndarray) -> None:
        raise TypeError("a counter of its own kind")

    def _like(self, other: "_Counter") -> None:
        if type(other) is not type(self):
            raise UserError(f"cannot merge {type(other).__name__} into {type(self).__name__}", where="merge")
        if other.signature:
            self._same(other.signature)
        self.rows += other.rows


class ExactCounter(_Counter):
    """Counts different rows by keeping a key of each: the row itself up to 16 bytes, a 128-bit hash beyond.

    Two different long rows share a hash with a probability below 1e-22 among 1e8 rows. Memory grows with the number of
    different rows, not with the number of rows.

    Args:
        limit: different rows it may hold.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__()
        self.limit = limit
        self._keys: np.ndarray | None = None
        self._times = np.zeros(0, np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._waits = 0

    def _add(self, rows: np.ndarray) -> None:
        keys, times = np.unique(_keys(rows), return_counts=True)
        self._wait(keys, times.astype(np.int64))

    def _wait(self, keys: np.ndarray, times: np.ndarray) -> None:
        """Parts are joined once they are as large as what is known, so that every key is sorted few times."""
        self._waiting.append((keys, times))
        self._waits += len(keys)
        if self._waits > max(len(self._times), 2**20):
            self._join()

    def _join(self) -> None:
        if self._waiting:
            known = [] if self._keys is None else [(self._keys, self._times)]
            keys = np.concatenate([k for k, _ in known + self._waiting])
            times = np.concatenate([t for _, t in known + self._waiting])
            self._waiting, self._waits = [], 0
            order = np.argsort(keys, kind="stable")  # merges parts that are sorted already
            keys, times = keys[order], times[order]
            first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            self._keys, self._times = keys[first], np.add.reduceat(times, first)
        if len(self._times) > self.limit:
            raise UserError(
                f"more than {self.limit:,} different rows", where="exact counter", cure='use the counter "hll"'
            )

    def merge(self, other: "ExactCounter") -> "ExactCounter":
        """Count the other's rows too; gives the counter itself.

        Edge cases: `count` is that of the union, so merging twice changes nothing; `times` adds up.

        Raises:
            UserError: rows that were made differently, another kind of counter.
        """
        self._like(other)
        other._join()
        if other._keys is not None:
            self._wait(other._keys, other._times)
        return self

    def count(self) -> int:
        """Number of different rows so far."""
        self._join()
        return len(self._times)

    def times(self) -> np.ndarray:
        """How often each different row came, [u] int64, in no particular order."""
        self._join()
        return self._times.copy()


def _keys(rows: np.ndarray) -> np.ndarray:
    """What stands for a row [n, W]: up to 8 bytes a number, up to 16 the bytes, beyond two hashes."""
    if rows.shape[1] <= 8:
        return _words(rows)[:, 0] if rows.shape[1] else np.zeros(len(rows), np.uint64)
    pair = _words(rows) if rows.shape[1] <= 16 else np.stack([hash64(rows, 1), hash64(rows, 2)], 1)
    return np.ascontiguousarray(pair).view("V16")[:, 0]


class HyperLogLogCounter(_Counter):
    """Estimates the number of different rows from 2^p registers; standard error 1.04 / sqrt(2^p).

    A row's hash chooses a register by its first p bits; the register keeps the largest rank, the number of leading
    zeros of the next 48 bits plus one.

    Args:
        p: 4 to 16; 14 = 16 KB and 0.8 %.
    """

    def __init__(self, p: int = 14) -> None:
        if not isinstance(p, int) or not 4 <= p <= 16:
            raise UserError(f"is {p!r}", where="p", allowed="4 to 16")
        super().__init__()
        self.p = p
        self.registers = np.zeros(2**p, np.uint8)

    @property
    def error(self) -> float:
        """Standard error of `count`, as a share."""
        return 1.04 / math.sqrt(len(self.registers))

    def _add(self, rows: np.ndarray) -> None:
        h = hash64(rows)
        register = (h >> np.uint64(64 - self.p)).astype(np.int64)
        bits = (h << np.uint64(self.p)) >> np.uint64(64 - _RANKS)
        # 48 bits are exact in float64, and frexp's exponent is the number of bits that are left after leading zeros.
        rank = (_RANKS + 1 - np.frexp(bits.astype(np.float64))[1]).astype(np.uint8)
        np.maximum.at(self.registers, register, rank)

    def merge(self, other: "HyperLogLogCounter") -> "HyperLogLogCounter":
        """Count the other's rows too (the larger of each register); gives the counter itself.

        Raises:
            UserError: another p, rows that were made differently, another kind of counter.
        """
        if isinstance(other, HyperLogLogCounter) and other.p != self.p:
            raise UserError(f"p is {other.p} and {self.p}", where="merge", allowed="equal p")
        self._like(other)
        np.maximum(self.registers, other.registers, out=self.registers)
        return self

    def count(self) -> int:
        """Estimated number of different rows so far, rounded."""
        return round(self.estimate())

    def estimate(self) -> float:
        """m^2 / (2 ln 2 z), z = m sigma(C_0 / m) + sum_k C_k 2^-k + m tau(1 - C_q+1 / m) 2^-q, C_k = registers at k."""
        m = len(self.registers)
        at = np.bincount(self.registers, minlength=_RANKS + 2)
        if at[0] == m:
            return 0.0
        z = m * _tau(1 - at[_RANKS + 1] / m)
        for k in range(_RANKS, 0, -1):
            z = 0.5 * (z + at[k])
        z += m * _sigma(at[0] / m)
        return m * m / (2 * math.log(2) * z)


def _sigma(x: float) -> float:
    """x + sum_k x^(2^k) 2^(k-1), for 0 <= x < 1."""
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    """(1 - x - sum_k (1 - x^(2^-k))^2 2^-k) / 3, for 0 <= x <= 1."""
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x, before, y = math.sqrt(x), z, 0.5 * y
        z -= (1 - x) ** 2 * y
    return z / 3


def make_counter(kind: str) -> ExactCounter | HyperLogLogCounter:
    """A new counter by name: "exact" or "hll".

    Raises:
        UserError: any other name.
    """
    if kind not in COUNTERS:
        raise UserError(f"{kind!r} is not known", where="counter", allowed=", ".join(COUNTERS))
    return ExactCounter() if kind == "exact" else HyperLogLogCounter()
