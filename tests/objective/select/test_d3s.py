"""Row and token selection against brute force; ties, scopes, balance, divisors; bad input."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.objective.reduce import MODES, aggregate
from steersman.objective.select.d3s import (
    full_denominator,
    max_variance,
    max_variance_share,
    score_tokens,
    top_tokens,
)

VARIANCE = 1e-9  # of values of size 4 in float64
LOSS = 1e-6  # float32

# few different values, so that ties are common; thirds are not exact in binary
values = st.lists(st.integers(-6, 6).map(lambda k: k / 3), min_size=1, max_size=9)


def variance(a):
    return float(a.double().var(correction=0)) if len(a) else 0.0


def best_by_force(a, n):
    """The largest variance of all subsets of n values."""
    return max(variance(a[list(rows)]) for rows in combinations(range(len(a)), n))


def noise_of(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(values, st.booleans())
@settings(max_examples=150, deadline=None)
def test_rows_are_those_of_brute_force(a, noisy):
    a = torch.tensor(a)
    for n in range(1, len(a) + 1):
        rows = max_variance(a, n, noise=noise_of(len(a)) if noisy else None)
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert len(rows) == n
        assert variance(a[rows]) == pytest.approx(best_by_force(a, n), abs=VARIANCE)


@given(values, st.floats(0.1, 5), st.floats(-3, 3), st.integers(2, 9))
@settings(deadline=None)
def test_unit_and_zero_of_the_advantage_do_not_matter(a, unit, zero, n):
    a = torch.tensor(a, dtype=torch.float64)
    noise = noise_of(len(a))
    found = max_variance(a, n, noise=noise)
    assert max_variance(unit * a + zero, n, noise=noise).tolist() == found.tolist()


@given(values, st.integers(1, 9))
@settings(deadline=None)
def test_any_order_of_rows(a, n):
    a = torch.tensor(a)
    noise, order = noise_of(len(a)), torch.randperm(len(a), generator=torch.Generator().manual_seed(len(a)))
    rows = max_variance(a, n, noise=noise)
    again = max_variance(a[order], n, noise=noise[order])
    assert sorted(order[again].tolist()) == rows.tolist()


@given(values)
@settings(deadline=None)
def test_more_rows_of_binary_advantages_vary_less(a):
    a = torch.tensor([abs(x) for x in a] + [-abs(x) for x in a])
    a = torch.where(a > 0, 1.0, -1.0)
    sizes = range(2, len(a) + 1, 2)
    found = [variance(a[max_variance(a, n)]) for n in sizes]
    assert all(later <= earlier + VARIANCE for earlier, later in pairwise(found))


@given(st.lists(st.tuples(st.integers(-6, 6).map(lambda k: k / 3), st.integers(0, 2)), min_size=1, max_size=12))
@settings(deadline=None)
def test_the_batch_varies_at_least_as_much_as_groups(rows):
    a, group = torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
    inside = max_variance(a, 2, group, "group")
    of_batch = max_variance(a, len(inside), group, "batch")
    assert variance(a[of_batch]) >= variance(a[inside]) - VARIANCE or len(inside) == 1


@given(st.lists(st.tuples(st.integers(-6, 6).map(lambda k: k / 3), st.integers(-1, 2)), min_size=1, max_size=12))
@settings(deadline=None)
def test_groups_are_chosen_one_by_one(rows):
    a, group = torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
    noise = noise_of(len(a))
    found = max_variance(a, 3, group, "group", noise=noise).tolist()
    wanted = []
    for g in group.unique():
        mine = (group == g).nonzero()[:, 0]
        wanted += mine[max_variance(a[mine], 3, noise=noise[mine])].tolist()
    assert found == sorted(wanted)


def test_the_share_may_depend_on_the_size_of_the_group():
    a = torch.tensor([3.0, -1, 0, 2, -2, 5])
    group = torch.tensor([1, 1, 1, 1, 9, 9])
    assert max_variance_share(a, lambda size: size // 2, group).tolist() == [0, 1, 5]


def test_groups_first_then_the_batch():
    a = torch.tensor([4.0, 0, -4, 3, 0, -3, 1, 0, -1])
    group = torch.arange(9) // 3
    assert max_variance(a, (2, 4), group, "group_then_batch").tolist() == [0, 2, 3, 5]
    # an outlier that its own group does not keep is lost to the batch
    tight = torch.tensor([9.0, 8, -9, 0.1, 0.0, -0.1])
    pair = torch.arange(6) // 3
    assert max_variance(tight, 3, pair, "batch").tolist() == [0, 1, 2]
    assert max_variance(tight, (2, 3), pair, "group_then_batch").tolist() == [0, 2, 3]
    # one number: both steps keep about the square root of the share
    assert len(max_variance(a, 4, group, "group_then_batch")) == 4
    assert max_variance(a, 9, group, "group_then_batch").tolist() == list(range(9))


def test_one_row_is_the_largest_in_size():
    assert max_variance(torch.tensor([1.0, -3, 2]), 1).tolist() == [1]
    assert max_variance(torch.tensor([5.0, 5.1, 5.2]), 1).tolist() == [2]


def test_ties_go_to_the_noise_and_not_to_the_first_rows():
    """All rows of a sign are alike: every row must come as often as any other."""
    a = torch.tensor([1.0] * 6 + [-1.0] * 6)
    times = torch.zeros(12)
    for seed in range(600):
        rows = max_variance(a, 4, noise=noise_of(12, seed))
        assert a[rows].sum() == 0
        times[rows] += 1
    assert times.min() > 150  # 200 expected, standard deviation 11.5
    assert times.max() < 250
    assert max_variance(a, 4).tolist() == [4, 5, 6, 7]  # by position, the same every time


def test_equal_variances_prefer_the_mean_of_all_then_fewer_small_ones():
    # n = 3 of +-1: two and one of either sign vary alike; the mean of all is 1/5, so two large ones are nearer
    a = torch.tensor([1.0, 1, 1, -1, -1])
    assert a[max_variance(a, 3)].sum() == 1
    assert (-a)[max_variance(-a, 3)].sum() == -1
    even = torch.tensor([1.0, 1, -1, -1])
    assert even[max_variance(even, 3)].sum() == 1  # j = 1 small value before j = 2


def test_balance():
    """One far negative row: the best set is one-sided, the balanced one is not; a missing sign is filled up."""
    a = torch.tensor([1.0, 1.1, 1.2, 1.3, -1.0, -1.1, -20.0])
    assert (a[max_variance(a, 4)] < 0).sum() == 1
    chosen = a[max_variance(a, 4, balance=True)]
    assert chosen.sort().values.tolist() == pytest.approx([-20, -1.1, 1.2, 1.3])
    few = torch.tensor([1.0, 2, 3, 4, -1])
    assert (few[max_variance(few, 4, balance=True)] < 0).sum() == 1
    zeros = torch.tensor([2.0, 0, 0, 0, 0, 0])
    assert len(max_variance(zeros, 3, balance=True)) == 3


def test_lemma_with_its_limits():
    """A standardised set holds a subset of variance >= 1 for some size, not for every size."""
    a = torch.tensor([1.0, 1, -1, -1])
    assert variance(a[max_variance(a, 2)]) == pytest.approx(1)
    assert variance(a[max_variance(a, 3)]) == pytest.approx(8 / 9)
    unbiased = torch.tensor([1.0] * 3 + [0.0] * 5)
    unbiased = (unbiased - unbiased.mean()) / unbiased.std()
    assert variance(unbiased[max_variance(unbiased, 2)]) == pytest.approx(0.9333, abs=1e-4)


def test_advantages_are_left_alone_and_carry_no_gradient():
    a = torch.randn(9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before = a.detach().clone()
    assert not max_variance(a, 4).requires_grad
    assert torch.equal(a.detach(), before)


def test_many_rows():
    """Twenty thousand: the kept ones are the ends of the sorted list, and no other cut of it varies more."""
    a = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = max_variance(a, 5000, noise=noise_of(20_000))
    assert len(rows) == 5000
    ordered = a.sort().values
    cuts = [variance(torch.cat([ordered[:j], ordered[15_000 + j :]])) for j in range(0, 5001, 100)]
    assert variance(a[rows]) >= max(cuts) - VARIANCE


@pytest.mark.parametrize("scope", ["batch", "group", "group_then_batch"])
def test_no_rows(scope):
    none = torch.zeros(0)
    assert max_variance(none, 3, none.long(), scope).shape == (0,)


A = torch.tensor([1.0, -1.0, 0.5])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: max_variance(A, 0), "n is 0"),
        (lambda: max_variance(A, 1.5), "n is 1.5"),
        (lambda: max_variance(A, True), "n is True"),
        (lambda: max_variance(A, (2, 2)), "in scope batch"),
        (lambda: max_variance(A, (0, 2), A.long(), "group_then_batch"), "n is 0"),
        (lambda: max_variance(torch.tensor([1.0, float("nan")]), 1), "row 1"),
        (lambda: max_variance(torch.tensor([1, 2]), 1), "advantage is torch.int64"),
        (lambda: max_variance(A[None], 1), "of shape"),
        (lambda: max_variance(A, 2, scope="group"), "group is missing"),
        (lambda: max_variance(A, 2, A, "group"), "group is torch.float32"),
        (lambda: max_variance(A, 2, torch.zeros(2, dtype=torch.int64), "group"), "for 3 rows"),
        (lambda: max_variance(A, 2, scope="prompt"), "unknown scope"),
        (lambda: max_variance(A, 2, noise=torch.zeros(2)), "noise is"),
    ],
)
def test_bad_rows_are_named(call, match):
    with pytest.raises(UserError, match=match):
        call()


SCORE = torch.tensor([[3.0, 1.0, 9.0], [2.0, 5.0, 4.0]])
MASK = torch.tensor([[True, True, False], [True, True, True]])


def test_tokens_by_hand():
    assert top_tokens(SCORE, MASK, 0.2).nonzero().tolist() == [[1, 1]]
    assert top_tokens(SCORE, MASK, 0.21).nonzero().tolist() == [[1, 1], [1, 2]]
    assert top_tokens(SCORE, MASK, 0.001).sum() == 1
    assert torch.equal(top_tokens(SCORE, MASK, 1), MASK)
    hidden = SCORE.clone()
    hidden[0, 2] = float("nan")
    assert torch.equal(top_tokens(hidden, MASK, 0.6), top_tokens(SCORE, MASK, 0.6))
    assert not top_tokens(SCORE, MASK & ~MASK, 0.5).any()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
    st.floats(0.01, 1),
    st.booleans(),
)
@settings(deadline=None)
def test_tokens_are_exactly_as_many_and_the_largest(tokens, fraction, noisy):
    score = torch.tensor([[float(t[0]) for t in tokens]])
    mask = torch.tensor([[t[1] for t in tokens]])
    kept = top_tokens(score, mask, fraction, noise_of(len(tokens))[None] if noisy else None)
    n = int(mask.sum())
    exact = -(-fraction * n // 1)  # ceil
    assert int(kept.sum()) == (max(exact, 1) if n else 0)
    assert not (kept & ~mask).any()
    left = score[mask & ~kept]
    assert not kept.any() or not len(left) or left.max() <= score[kept].min()


def test_tied_tokens_go_to_the_noise():
    score, mask = torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool)
    assert top_tokens(score, mask, 0.25).nonzero().tolist() == [[0, 0], [0, 1]]
    noise = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.6, 0.5, 0.2, 0.4]])
    assert top_tokens(score, mask, 0.25, noise).nonzero().tolist() == [[0, 3], [1, 2]]


def test_scores():
    a, h = torch.tensor([[-2.0, 0.5]]), torch.tensor([[0.5, 1.0]])
    assert score_tokens(a, h).tolist() == [[1.0, 0.5]]
    assert score_tokens(a, h, "entropy").tolist() == [[0.5, 1.0]]
    assert score_tokens(a, h, "advantage").tolist() == [[2.0, 0.5]]
    assert not score_tokens(a.requires_grad_(), h).requires_grad


H = torch.tensor([[0.25, 0.5]])


def test_what_is_scored_outside_the_mask_may_be_anything():
    mask, bad = torch.tensor([[True, False]]), H.where(H != 0.5, torch.nan)
    assert score_tokens(H, bad, mask=mask)[mask].tolist() == [0.0625]
    assert score_tokens(bad, -1.0 * H.where(H != 0.25, 0.0), mask=mask)[mask].tolist() == [0.0]
    assert score_tokens(H, H - H - 1e-6).max() < 0  # rounding of an entropy of 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: top_tokens(SCORE, MASK, 0), "fraction is 0"),
        (lambda: top_tokens(SCORE, MASK, 1.01), "fraction is 1.01"),
        (lambda: top_tokens(SCORE, MASK, float("nan")), "fraction is nan"),
        (lambda: top_tokens(SCORE, MASK, True), "fraction is True"),
        (lambda: top_tokens(SCORE / 0 * 0, MASK, 0.5), "row 0"),
        (lambda: top_tokens(SCORE[0], MASK[0], 0.5), "score has shape"),
        (lambda: top_tokens(SCORE, MASK.float(), 0.5), "mask is torch.float32"),
        (lambda: top_tokens(SCORE, MASK, 0.5, SCORE[0]), "noise is"),
        (lambda: score_tokens(SCORE, SCORE[:, :2]), "entropy has shape"),
        (lambda: score_tokens(SCORE, SCORE.clone().requires_grad_()), "entropy has a gradient"),
        (lambda: score_tokens(SCORE, SCORE, "length"), "unknown score"),
        (
            lambda: score_tokens(H, H.where(H != 0.5, torch.nan)),
            "row 0: entropy is nan at token 1",
        ),
        (lambda: score_tokens(H, -H), "row 0: entropy is -0.25 at token 0"),
        (lambda: score_tokens(H, H / 0), "entropy is inf"),
        (lambda: score_tokens(H / 0, H), "row 0: advantage is inf at token 0"),
        (lambda: score_tokens(H, H, mask=torch.ones(1, 2)), "mask is torch.float32"),
        (lambda: full_denominator(MASK, MASK, "mean", torch.zeros(2)), "unknown mode"),
    ],
)
def test_bad_tokens_are_named(call, match):
    with pytest.raises(UserError, match=match):
        call()


@pytest.mark.parametrize("mode", MODES)
def test_weights_bring_back_the_divisor_of_everything(mode):
    """Rescaled loss of what is kept = loss with zeros in place of what is not, over everything."""
    generator = torch.Generator().manual_seed(4)
    before = torch.rand(7, 5, generator=generator) < 0.8
    after = before & (torch.rand(7, 5, generator=generator) < 0.6)
    after[2] = False  # a whole row
    group = torch.tensor([3, 3, 9, 9, 1, 1, 1])
    after[group == 9] = False  # and a whole prompt
    before[6] = after[6] = False  # a row that never counted
    loss = torch.randn(7, 5, generator=generator)
    constant = 5.0 if mode == "seq_sum_const" else None
    wanted = aggregate(loss * after, before, mode, None, group, constant)
    factor = full_denominator(before, after, mode, group)
    found = aggregate(loss * factor[:, None], after, mode, None, group, constant)
    assert float(found) == pytest.approx(float(wanted), abs=LOSS)
    plain = aggregate(loss, after, mode, None, group, constant)
    assert mode == "token_sum" or abs(float(plain - wanted)) > 100 * LOSS
