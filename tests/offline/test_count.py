"""Counters: exact against sets, HyperLogLog against its standard error, merging."""

import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.offline.count import LIMIT, ExactCounter, HyperLogLogCounter, hash64, make_counter

ERRORS = 3  # standard errors that an estimate may be off; seeds are fixed
SMALL = 0.02


def distinct(n: int, start: int = 0, width: int = 1) -> np.ndarray:
    """Rows whose first number is different in each."""
    out = np.zeros((n, width), np.int64)
    out[:, 0] = np.arange(start, start + n)
    return out


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_exact_against_a_set(width: int) -> None:
    rows = np.random.default_rng(width).integers(0, 4, (5000, width))
    counter = ExactCounter()
    for part in np.array_split(rows, 7):
        counter.update(part)
    wanted = {}
    for row in map(tuple, rows.tolist()):
        wanted[row] = wanted.get(row, 0) + 1
    assert counter.count() == len(wanted)
    assert sorted(counter.times().tolist()) == sorted(wanted.values())


def test_parts_are_joined_as_they_grow() -> None:
    counter = ExactCounter()
    for i in range(12):
        counter.update(distinct(2**18, i * 2**17))
    assert counter.count() == 2**18 + 11 * 2**17
    assert sorted(set(counter.times().tolist())) == [1, 2]


def test_a_limit_is_kept() -> None:
    assert LIMIT > 10**7
    with pytest.raises(UserError, match=r"more than 99 different rows(.|\n)*hll"):
        ExactCounter(limit=99).update(distinct(100)).count()


@pytest.mark.parametrize("n", [1000, 3000, 10_000, 30_000, 60_000, 100_000, 1_000_000])
@pytest.mark.parametrize("width", [1, 3])
def test_hyperloglog_is_within_its_error(n: int, width: int) -> None:
    counter = HyperLogLogCounter(14)
    for a in range(0, n, 2**17):
        counter.update(distinct(min(2**17, n - a), a, width))
    assert counter.error == pytest.approx(0.008125)
    assert abs(counter.estimate() / n - 1) < ERRORS * counter.error


def test_it_has_no_bias_between_small_and_large() -> None:
    # Around 2.5 m the plain estimate of 2007 is off by a percent or two on average; this one is not.
    m = 2**10
    ratios = []
    for i in range(40):
        counter = HyperLogLogCounter(10).update(distinct(int(2.5 * m), 10**6 * i))
        ratios.append(counter.estimate() / (2.5 * m))
    assert abs(np.mean(ratios) - 1) < ERRORS * 1.04 / math.sqrt(m) / math.sqrt(40)


@pytest.mark.parametrize("n", [0, 1, 2, 10, 100, 1000, 10_000])
def test_small_counts_are_nearly_exact(n: int) -> None:
    counter = HyperLogLogCounter(14)
    if n:
        counter.update(distinct(n))
    assert abs(counter.count() - n) <= SMALL * n


@pytest.mark.parametrize("kind", ["exact", "hll"])
def test_merging_is_counting_the_union(kind: str) -> None:
    a, b, both = (make_counter(kind) for _ in range(3))
    a.update(distinct(3000))
    b.update(distinct(3000, 2000))
    both.update(distinct(5000))
    other = make_counter(kind).update(distinct(3000, 2000))
    other.merge(make_counter(kind).update(distinct(3000)))
    assert a.merge(b).count() == both.count() == other.count()
    before = a.count()
    assert a.merge(b).merge(b).merge(make_counter(kind)).count() == before


def test_rows_of_another_kind_are_refused() -> None:
    counter = ExactCounter().update(np.zeros((2, 2), np.float32))
    with pytest.raises(UserError, match="made differently"):
        counter.update(np.zeros((2, 2), np.float64))
    with pytest.raises(UserError, match="made differently"):
        counter.update(np.zeros((2, 3), np.float32))
    with pytest.raises(UserError, match="made differently"):
        counter.merge(ExactCounter().update(np.zeros((1, 2), np.int64)))
    with pytest.raises(UserError, match="cannot merge"):
        counter.merge(HyperLogLogCounter())
    with pytest.raises(UserError, match="p is 10 and 14"):
        HyperLogLogCounter(14).merge(HyperLogLogCounter(10))
    with pytest.raises(UserError, match=r"rows, row 3, column 1"):
        counter.update(np.zeros((1, 2), np.float32)).update(np.array([[0, np.inf]], np.float32))
    for bad in (3, 17, 14.0):
        with pytest.raises(UserError, match="4 to 16"):
            HyperLogLogCounter(bad)


def test_hashes_spread_over_all_bits() -> None:
    h = hash64(distinct(20_000).view(np.uint8).reshape(20_000, 8))
    assert len(np.unique(h)) == 20_000
    bits = (h[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(20_000)
    assert (hash64(np.zeros((1, 3), np.uint8)) != hash64(np.zeros((1, 4), np.uint8))).all()
