"""Shares over a run: ends, the way between, and counts made of shares."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.component import Moment
from steersman.objective.select.schedule import at_least, linear, nearest, progress

EXACT = 1e-12


def at(step, total):
    return Moment(step=step, total=total)


def test_ends_and_middle():
    assert [progress(at(s, 5)) for s in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert (progress(at(0, 1)), progress(at(7, 5))) == (0, 1)
    assert linear(0.25, 0.5, at(0, 41)) == 0.25
    assert linear(0.25, 0.5, at(40, 41)) == 0.5
    assert linear(0.2, 0.5, at(20, 41)) == pytest.approx(0.35, abs=EXACT)


def test_the_default_shares_of_d3s_learn_from_an_eighth_of_all_tokens():
    total = 10_001
    used = sum(linear(0.25, 0.5, at(s, total)) * linear(0.2, 0.5, at(s, total)) for s in range(total)) / total
    assert used == pytest.approx(0.1375, abs=2e-6)  # a sum in place of an integral


def test_counts():
    assert [nearest(0.25, n) for n in (0, 1, 2, 6, 10)] == [0, 1, 1, 2, 3]  # halves go up
    assert nearest(0.15, 10) == 2  # 1.5 in decimals
    assert nearest(1.0, 7) == 7
    assert at_least(0.07, 100) == 7
    assert [at_least(0.2, n) for n in (0, 1, 5, 6)] == [0, 1, 1, 2]


@given(st.floats(0.01, 1), st.integers(1, 1000))
@settings(deadline=None)
def test_counts_are_possible(share, n):
    assert 1 <= nearest(share, n) <= n
    assert 1 <= at_least(share, n) <= n
    assert abs(nearest(share, n) - share * n) <= 0.5 + 1e-6 or nearest(share, n) == 1
