"""The schedule of DP-BAI against its published formulas, and budgets that never overrun."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.decide.dp_bai import phases as module
from steersman.decide.dp_bai.phases import BudgetTooSmall, Spending, check_budget, check_sizes, collected, schedule

TABLE = {
    (2, 2): (2, 1),
    (3, 2): (3, 2, 1),
    (5, 2): (5, 1),
    (30, 2): (30, 1),
    (10, 3): (10, 4, 2, 1),
    (100, 4): (100, 7, 2, 1),
    (20, 10): (20, 10, 5, 3, 2, 1),
    (64, 64): (64, 32, 16, 8, 4, 2, 1),
    (1000, 10): (1000, 74, 27, 13, 7, 4, 2, 1),
    (1, 5): (1,),
    (7, 1): (7, 1),
}


@pytest.mark.parametrize("arms, dim", TABLE)
def test_the_table(arms, dim):
    assert schedule(arms, dim) == TABLE[arms, dim]


def test_sizes_fall_strictly_from_all_arms_to_one():
    for arms, dim in itertools.product(range(2, 501), range(1, 13)):
        sizes = schedule(arms, dim)
        assert check_sizes(sizes, arms) == sizes
        assert module.halving(arms)[-1] == 1


def test_bad_sizes_and_counts_are_refused():
    for sizes in ((), (5, 1), (4, 4, 1), (4, 2), (4, 5, 1)):
        with pytest.raises(UserError, match="strictly falling"):
            check_sizes(sizes, 4)
    with pytest.raises(UserError, match="0 arms"):
        schedule(0, 2)


courses = st.tuples(st.integers(2, 60), st.integers(1, 8), st.sampled_from(["floor", "paper"]), st.booleans())


@settings(deadline=None, max_examples=60)
@given(courses, st.data())
def test_no_course_of_the_phases_spends_more_than_the_budget(course, data):
    arms, dim, rounding, always_all = course
    dim = min(dim, arms)
    sizes = schedule(arms, dim)
    phases = len(sizes) - 1
    possible = collected(sizes, dim, always_all)
    with pytest.raises(BudgetTooSmall) as caught:
        check_budget(Spending(0, phases, dim, rounding), possible)
    least = caught.value.least
    check_budget(Spending(least, phases, dim, rounding), possible)
    with pytest.raises(BudgetTooSmall):
        check_budget(Spending(least - 1, phases, dim, rounding), possible)
    budget = least + data.draw(st.integers(0, 200))
    spending = Spending(budget, phases, dim, rounding)
    spent = [max(n * spending.pulls(n) for n in counts) for counts in possible]
    if rounding == "floor":
        assert sum(spent) <= budget
        assert least == phases * max(max(c) for c in possible)
    else:
        assert spending.fits(possible) == (sum(spent) <= budget)


def test_the_two_roundings_by_hand():
    # K = 10, d = 3: three phases of which the first pulls 3 arms (3 < sqrt 10), the others all of 4 and 2 arms
    possible = collected((10, 4, 2, 1), 3)
    assert possible == [(3,), (1, 4), (1, 2)]
    assert [Spending(100, 3, 3).pulls(n) for n in (3, 4, 2)] == [11, 8, 16]
    assert [Spending(100, 3, 3, "paper").pulls(n) for n in (3, 4, 2)] == [11, 8, 16]  # T' = 94
    assert [Spending(104, 3, 3, "paper").pulls(n) for n in (3, 4, 2)] == [11, 9, 17]  # T' = 98
    # all of them pulled: 10 ceil(94/30) + 4 ceil(94/12) + 2 ceil(94/6) = 40 + 32 + 32 = 104 > 100
    assert not Spending(100, 3, 3, "paper").fits(collected((10, 4, 2, 1), 3, always_all=True))
    assert Spending(100, 3, 3, "paper").fits(possible)
