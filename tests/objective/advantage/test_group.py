"""Advantages of rows: printed vectors, closed forms, an enumerable bandit, edge cases, unsorted groups, bad input."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.core.noise import permutation
from steersman.objective.advantage.group import (
    group_counts,
    grpo,
    normalise_then_sum,
    opo,
    passk,
    remax,
    rloo,
)
from steersman.objective.loss.policy import reinforce

PRINTED = 1e-6  # vectors printed with six decimals
EXACT = 1e-12  # float64 algebra
ROUNDED = 1e-10  # float64 algebra in which a shift fifty times the deviation cancels

EIGHT = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
ONE = torch.zeros(8, dtype=torch.int64)
SCORE = torch.tensor([3.0, 1.0, 0.5, 2.0, 7.0, -1.0, 2.0, 4.0, 4.0, 9.0], dtype=torch.float64)
GROUP = torch.tensor([9, -4, 9, -4, 9, 3, 3, 50, 50, 77])
LENGTH = torch.tensor([2, 3, 5, 1, 4, 4, 6, 1, 2, 3])
ROWS = {  # every estimator that compares rows of a group
    "grpo": grpo,
    "grpo batch": lambda s, g, valid=None: grpo(s, g, "batch", valid=valid),
    "grpo none": lambda s, g, valid=None: grpo(s, g, "none", valid=valid),
    "rloo": rloo,
    "opo": lambda s, g, valid=None: opo(s, g, torch.ones_like(g), valid),
    "passk": passk,
    "passk batch": lambda s, g, valid=None: passk(s, g, "batch", valid=valid),
    "sum of two": lambda s, g, valid=None: normalise_then_sum(
        torch.stack([s, s], 1), torch.tensor([0.5, 2.0]), g, valid=valid
    ),
}
every = pytest.mark.parametrize("estimate", ROWS.values(), ids=ROWS)


@pytest.mark.parametrize(
    ("got", "right", "wrong"),
    [
        (grpo(EIGHT, ONE), 1.207612, -0.724567),
        (grpo(EIGHT, ONE, "none"), 0.625, -0.375),
        (rloo(EIGHT, ONE), 0.714286, -0.428571),
    ],
)
def test_printed_vectors(got, right, wrong):
    assert got.dtype == torch.float32
    assert torch.allclose(got, torch.where(EIGHT > 0, right, wrong), atol=PRINTED, rtol=0)


def naive(score, group, one):
    """`one(scores of the group, index in it)` for every row, by loops."""
    out = []
    for i in range(len(score)):
        members = [j for j in range(len(score)) if group[j] == group[i]]
        out.append(one([float(score[j]) for j in members], members.index(i), [int(LENGTH[j]) for j in members]))
    return torch.tensor(out, dtype=torch.float64)


def mean(x):
    return sum(x) / len(x)


def deviation(x):
    return (sum((v - mean(x)) ** 2 for v in x) / (len(x) - 1)) ** 0.5 if len(set(x)) > 1 else 1.0


@pytest.mark.parametrize(
    ("got", "one"),
    [
        (grpo(SCORE, GROUP), lambda s, i, _: (s[i] - mean(s)) / (deviation(s) + 1e-6)),
        (grpo(SCORE, GROUP, "none"), lambda s, i, _: s[i] - mean(s)),
        (grpo(SCORE, GROUP, "batch"), lambda s, i, _: (s[i] - mean(s)) / (deviation(SCORE.tolist()) + 1e-6)),
        (rloo(SCORE, GROUP), lambda s, i, _: s[i] - mean(s[:i] + s[i + 1 :]) if len(s) > 1 else 0.0),
        (
            opo(SCORE, GROUP, LENGTH),
            lambda s, i, n: s[i] - sum(a * b for a, b in zip(s, n, strict=True)) / sum(n),
        ),
        (
            passk(SCORE, GROUP),
            lambda s, i, _: (max(s) - sorted(s)[-2]) / (deviation(s) + 1e-6) if len(s) > 1 and s[i] == max(s) else 0.0,
        ),
    ],
)
def test_unsorted_unequal_groups_against_loops(got, one):
    assert got.dtype == torch.float64
    assert torch.allclose(got, naive(SCORE, GROUP, one), atol=EXACT, rtol=0)


@every
def test_order_of_rows_and_names_of_groups_do_not_matter(estimate):
    order = permutation(len(SCORE), 1, "group")
    value = estimate(SCORE.float(), GROUP)
    assert torch.equal(estimate(SCORE.float()[order], GROUP[order]), value[order])
    assert torch.equal(estimate(SCORE.float(), 1000 - 3 * GROUP), value)


@given(
    scores=st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=9),
    slope=st.floats(0.1, 10),
    shift=st.floats(-5, 5),
)
def test_group_identities(scores, slope, shift):
    s, g = torch.tensor(scores, dtype=torch.float64), torch.zeros(len(scores), dtype=torch.int64)
    size = len(scores)
    centred = grpo(s, g, "none")
    assert torch.allclose(rloo(s, g), size / (size - 1) * centred, atol=EXACT, rtol=EXACT)
    assert abs(float(centred.sum())) < ROUNDED
    if s.std() > 0.1:
        assert torch.allclose(grpo(slope * s + shift, g, eps=0), grpo(s, g, eps=0), atol=ROUNDED, rtol=0)
        assert torch.allclose(grpo(s, g, eps=0).var(), s.new_tensor(1.0), atol=ROUNDED, rtol=0)


def test_binary_scores_weigh_prompts_by_the_deviation():
    p = 3 / 8
    sample_to_population = (8 / 7) ** 0.5  # our deviation divides by G - 1
    got = grpo(EIGHT.double(), ONE, eps=0) * sample_to_population
    assert float(got[0]) == pytest.approx(((1 - p) / p) ** 0.5, abs=EXACT)
    assert float(got[1]) == pytest.approx(-((p / (1 - p)) ** 0.5), abs=EXACT)


def test_leave_one_out_mean_does_not_explode():
    one_right = torch.tensor([1.0, 0.0, 0.0, 0.0])
    for got in (grpo(one_right, ONE[:4]), rloo(one_right, ONE[:4])):
        assert float(got.abs().max()) < 2


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    ("estimate", "factor"),
    [
        (rloo, lambda size: 1.0),
        (lambda s, g: remax(s, torch.full_like(s, 0.7)), lambda size: 1.0),
        (lambda s, g: s, lambda size: 1.0),
        (lambda s, g: grpo(s, g, "none"), lambda size: (size - 1) / size),
    ],
    ids=["rloo", "constant baseline", "raw", "group mean"],
)
def test_expected_gradient_of_an_enumerable_bandit(size, estimate, factor):
    reward = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
    theta = torch.tensor([0.3, -0.4, 0.1], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(torch.softmax(theta, 0) @ reward, theta)
    draws = torch.tensor(list(itertools.product(range(3), repeat=size)))
    logp = torch.log_softmax(theta, 0)[draws]
    advantage = estimate(reward[draws].flatten(), torch.arange(len(draws)).repeat_interleave(size)).view(draws.shape)
    chance = logp.detach().sum(1).exp()
    (got,) = torch.autograd.grad((chance * -reinforce(logp, advantage).mean(1)).sum(), theta)
    assert torch.allclose(got, factor(size) * exact, atol=EXACT, rtol=0)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_equal_scores_give_exactly_zero(estimate, dtype):
    score = torch.tensor([0.1, 0.1, 0.1, -7.3, -7.3], dtype=dtype)
    got = estimate(score, torch.tensor([0, 0, 0, 1, 1]))
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(got, torch.zeros_like(got))


def test_rounding_noise_is_no_signal():
    noisy = torch.tensor([0.3, 0.1 + 0.2, 0.3], dtype=torch.float64)
    assert noisy[0] != noisy[1]
    assert torch.equal(grpo(noisy, ONE[:3], eps=0), torch.zeros(3, dtype=torch.float64))
    assert grpo(torch.tensor([0.3, 0.3 + 2e-8], dtype=torch.float64), ONE[:2], eps=0).abs().max() > 0.7


@every
def test_groups_of_one_get_zero(estimate):
    got = estimate(torch.tensor([5.0, 1.0, 0.0]), torch.tensor([8, 2, 2]))
    assert got[0] == 0 or estimate is ROWS["sum of two"]
    assert got[1] > 0
    assert torch.equal(estimate(torch.tensor([5.0]), torch.tensor([0])), torch.zeros(1))
    assert estimate(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@every
def test_invalid_rows_are_in_no_statistic(estimate):
    valid = torch.tensor([True, False, True, True, True, True, True, False, True, True])
    score = torch.where(valid, SCORE, torch.tensor([torch.nan, torch.inf] * 5, dtype=torch.float64))
    got = estimate(score, GROUP, valid=valid)
    assert torch.equal(got[~valid], torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(got[valid], estimate(SCORE[valid], GROUP[valid]), atol=EXACT, rtol=0)
    assert torch.equal(estimate(score, GROUP, valid=torch.zeros_like(valid)), torch.zeros(10, dtype=torch.float64))


def test_counts():
    score = torch.tensor([1.0, 0.0, 2.0, 2.0, 5.0, torch.nan, 3.0, torch.nan])
    group = torch.tensor([0, 0, 1, 1, 2, 2, 0, 3])
    valid = torch.isfinite(score)
    got = group_counts(score, group, valid)
    assert (got.rows, got.invalid_rows, got.groups) == (8, 2, 3)
    assert (got.singletons, got.zero_signal, got.silent_rows) == (1, 1, 3)
    assert int((grpo(score, group, valid=valid)[valid] == 0).sum()) == got.silent_rows


def test_ties_for_the_best_reward_nobody():
    assert torch.equal(passk(torch.tensor([2.0, 2.0, 1.0]), ONE[:3]), torch.zeros(3))
    assert torch.equal(passk(torch.tensor([2.0, 0.5, 1.0]), ONE[:3], "none"), torch.tensor([1.0, 0.0, 0.0]))


def test_opo_without_tokens_is_zero():
    got = opo(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 3]))
    assert torch.equal(got, torch.tensor([0.0, 0.0, 0.75, -0.25]))


def test_normalise_then_sum_frees_small_rewards_from_large_ones():
    parts = torch.tensor([[1.0, 0.0], [0.0, 100.0], [1.0, 0.0], [0.0, 100.0]], dtype=torch.float64)
    equal = normalise_then_sum(parts, torch.ones(2), ONE[:4], eps=0)
    assert not equal.any()
    summed = grpo(parts @ torch.ones(2, dtype=torch.float64), ONE[:4])
    assert summed[1] > 0.8
    first = normalise_then_sum(parts, torch.tensor([2.0, 1.0]), ONE[:4], eps=0)
    assert torch.allclose(first, grpo(parts[:, 0], ONE[:4], eps=0), atol=ROUNDED, rtol=0)


def test_remax():
    got = remax(torch.tensor([1.0, torch.nan, 0.0]), torch.tensor([0.25, 0.5, 1.0]), torch.tensor([True, False, True]))
    assert torch.equal(got, torch.tensor([0.75, 0.0, -1.0]))


def test_gradients_are_finite_where_groups_are_silent():
    for estimate in ROWS.values():
        score = torch.tensor([1.0, 1.0, 2.0, 3.0, 0.5], requires_grad=True)
        estimate(score, torch.tensor([0, 0, 1, 2, 2])).sum().backward()
        assert torch.isfinite(score.grad).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: grpo(torch.tensor([0.0, torch.nan]), ONE[:2]), "row 1.*nan"),
        (lambda: rloo(torch.tensor([0.0, 1.0, -torch.inf]), ONE[:3]), "row 2.*-inf"),
        (lambda: grpo(EIGHT, ONE[:7]), "group.*7.*8 rows"),
        (lambda: grpo(EIGHT, ONE.float()), "integer id"),
        (lambda: grpo(EIGHT[:, None], ONE), "one floating-point number"),
        (lambda: grpo(EIGHT.long(), ONE), "int64"),
        (lambda: grpo(EIGHT, ONE, valid=ONE), "one bool"),
        (lambda: grpo(EIGHT, ONE, "rows"), "unknown scale 'rows'"),
        (lambda: passk(EIGHT, ONE, eps=-1.0), "eps is -1"),
        (lambda: opo(EIGHT, ONE, ONE - 1), "length"),
        (lambda: remax(EIGHT, torch.tensor([torch.nan] * 8)), "greedy, row 0"),
        (lambda: remax(EIGHT, EIGHT[:1]), "8 rows"),
        (lambda: normalise_then_sum(EIGHT[:, None], torch.ones(2), ONE), "weight"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
