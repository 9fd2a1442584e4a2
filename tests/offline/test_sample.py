"""Subsamples of a stream: exactly n rows, none twice, every row alike, whatever the chunks."""

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.offline.sample import subsample
from steersman.offline.transitions import Transitions

SPREAD = 4.5  # standard errors that a frequency may be off, over 100 rows


def rows_of(n: int, k: int, number: int, size: int) -> list[int]:
    log = Transitions.from_arrays(np.arange(n), [0] * n, [0.0] * n, np.arange(n) == n - 1, [0] * n)
    chunks = list(subsample(log, k, 0, number).chunks(size))
    assert [c.start for c in chunks] == list(np.cumsum([0, *(len(c) for c in chunks)])[:-1])
    return [int(x) for c in chunks for x in c.obs[:, 0]]


@pytest.mark.parametrize("size", [1, 7, 30, 100, 1000])
@pytest.mark.parametrize("k", [1, 37, 99, 100])
def test_exactly_so_many_none_twice_in_order(size: int, k: int) -> None:
    found = rows_of(100, k, 0, size)
    assert len(found) == k
    assert found == sorted(set(found))


@pytest.mark.parametrize("size", [7, 1000])
def test_every_row_is_drawn_alike(size: int) -> None:
    times = np.zeros(100)
    for number in range(400):
        times[rows_of(100, 30, number, size)] += 1
    assert abs(times - 120).max() < SPREAD * (400 * 0.3 * 0.7) ** 0.5


def test_more_than_there_are() -> None:
    with pytest.raises(UserError, match="allowed: 1 to 100"):
        rows_of(100, 101, 0, 10)
