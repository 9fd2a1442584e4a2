"""Aggregation: the printed vector, splits into micro-batches, masks that hide NaN, empty steps, bad input."""

import math
from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.objective.reduce import MODES, aggregate, denominators

PRINTED = 1e-6
SPLIT = 1e-6  # any split of a step, float32
EXACT = 1e-12

LOSS = torch.tensor([[1.0, 2, 3, 4], [10, 20, 0, 0], [5, 0, 0, 0], [7, 7, 7, 7]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
GROUP = torch.tensor([5, 5, 9, 9])
EXPECTED = {
    "token_mean": 6.428571,
    "seq_mean_token_mean": 7.5,
    "seq_mean_token_sum": 15.0,
    "seq_sum_const": 3.75,
    "prompt_mean_token_mean": (40 / 6 + 5) / 2,
    "token_sum": 45.0,
}


def options(mode, group=GROUP):
    return {
        "mode": mode,
        "group": group if mode == "prompt_mean_token_mean" else None,
        "constant": 4.0 if mode == "seq_sum_const" else None,
    }


def rows(opts, part):
    return opts | {"group": None if opts["group"] is None else opts["group"][part]}


modes = pytest.mark.parametrize("mode", MODES)


@modes
def test_printed_vector(mode):
    assert set(EXPECTED) == set(MODES)
    value = aggregate(LOSS, MASK, **options(mode))
    assert value.item() == pytest.approx(EXPECTED[mode], abs=PRINTED)
    assert aggregate(LOSS, MASK.float(), **options(mode)) == value


def by_hand(loss, mask, mode, group, constant):
    """The table of modes, row by row, in plain Python."""
    kept = [[x for x, m in zip(r, k, strict=True) if m] for r, k in zip(loss.tolist(), mask.tolist(), strict=True)]
    real = [r for r in kept if r]
    tokens = sum(map(len, kept))
    if not tokens:
        return 0.0
    total = sum(map(sum, kept))
    if mode == "prompt_mean_token_mean":
        prompts = {}
        for g, r in zip(group.tolist(), kept, strict=True):
            prompts.setdefault(g, []).extend(r)
        means = [sum(r) / len(r) for r in prompts.values() if r]
        return sum(means) / len(means)
    return {
        "token_mean": total / tokens,
        "seq_mean_token_mean": sum(sum(r) / len(r) for r in real) / len(real),
        "seq_mean_token_sum": total / len(real),
        "seq_sum_const": total / (len(real) * (constant or 1)),
        "token_sum": total,
    }[mode]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), width=st.integers(1, 6), mode=st.sampled_from(MODES))
def test_any_split_gives_the_value_and_gradient_of_the_whole_step(seed, n, width, mode):
    g = generator(seed, "batch")
    loss = torch.from_numpy(g.normal(size=(n, width))).float().requires_grad_()
    mask = torch.from_numpy(g.random((n, width)) < 0.5)
    group = torch.from_numpy(g.integers(0, 3, n))
    opts = options(mode, group)
    whole = aggregate(loss, mask, **opts)
    assert whole.item() == pytest.approx(by_hand(loss, mask, mode, group, opts["constant"]), abs=SPLIT)
    (expected,) = torch.autograd.grad(whole, loss)
    order = torch.from_numpy(g.permutation(n))
    for size in (1, 2, 5, n):
        parts = order.split(size)
        step = reduce(add, (denominators(mask[p], **rows(opts, p)) for p in parts))
        pieces = [aggregate(loss[p], mask[p], denominator=step, **rows(opts, p)) for p in parts]
        (gradient,) = torch.autograd.grad(sum(pieces), loss)
        assert sum(pieces).item() == pytest.approx(whole.item(), abs=SPLIT)
        assert torch.allclose(gradient, expected, rtol=0, atol=SPLIT)


@modes
def test_the_wrong_divisor_would_be_seen(mode):
    """Without the step's denominator the parts do not add up, so the test above can fail."""
    pieces = [aggregate(LOSS[p], MASK[p], **rows(options(mode), p)) for p in torch.arange(4).split(1)]
    assert mode == "token_sum" or abs(sum(pieces).item() - EXPECTED[mode]) > 0.1


@modes
def test_a_plain_count_is_the_same_as_denominators(mode):
    if mode == "token_sum":
        with pytest.raises(UserError, match="divides by nothing"):
            aggregate(LOSS, MASK, denominator=3.0, **options(mode))
        return
    count = {"token_mean": 7, "prompt_mean_token_mean": 2}.get(mode, 3)
    for given_count in (count, float(count), torch.tensor(count)):
        parts = [torch.tensor([0, 1]), torch.tensor([2, 3])]  # no prompt is split
        opts = options(mode)
        value = sum(aggregate(LOSS[p], MASK[p], denominator=given_count, **rows(opts, p)) for p in parts)
        assert value.item() == pytest.approx(EXPECTED[mode], abs=PRINTED)


@modes
@pytest.mark.parametrize("hidden", [math.nan, math.inf])
def test_what_the_mask_hides_reaches_neither_value_nor_gradient(mode, hidden):
    loss = torch.where(MASK, LOSS, hidden).requires_grad_()
    value = aggregate(loss, MASK, **options(mode))
    assert value.item() == pytest.approx(EXPECTED[mode], abs=PRINTED)
    value.backward()
    assert torch.isfinite(loss.grad).all()
    assert (loss.grad[~MASK] == 0).all()
    assert (loss.grad[MASK] > 0).all()


@modes
def test_visible_nan_stays_nan(mode):
    loss = LOSS.clone()
    loss[0, 0] = math.nan
    assert aggregate(loss, MASK, **options(mode)).isnan()


@modes
@pytest.mark.parametrize("n", [0, 4])
def test_no_token_at_all_gives_zero_with_a_graph(mode, n):
    loss = torch.full((n, 4), math.nan, requires_grad=True)
    value = aggregate(loss, torch.zeros(n, 4, dtype=torch.bool), **options(mode, GROUP[:n]))
    assert value.item() == 0
    value.backward()
    assert torch.equal(loss.grad, torch.zeros(n, 4))


@modes
def test_an_empty_part_of_a_full_step(mode):
    opts = options(mode)
    parts = [torch.tensor([0, 1, 2]), torch.tensor([3])]
    step = reduce(add, (denominators(MASK[p], **rows(opts, p)) for p in parts))
    pieces = [aggregate(LOSS[p], MASK[p], denominator=step, **rows(opts, p)) for p in parts]
    assert pieces[1].item() == 0
    assert sum(pieces).item() == pytest.approx(EXPECTED[mode], abs=PRINTED)


@modes
def test_extra_padding_and_row_order_change_nothing(mode):
    opts = options(mode)
    wide_loss, wide_mask = torch.nn.functional.pad(LOSS, (0, 3), value=9.0), torch.nn.functional.pad(MASK, (0, 3))
    assert aggregate(wide_loss, wide_mask, **opts).item() == pytest.approx(EXPECTED[mode], abs=PRINTED)
    order = torch.tensor([3, 1, 0, 2])
    value = aggregate(LOSS[order], MASK[order], **rows(opts, order))
    assert value.item() == pytest.approx(EXPECTED[mode], abs=PRINTED)


def test_a_loss_an_example():
    loss, mask = torch.tensor([1.0, 2.0, math.nan]), torch.tensor([True, True, False])
    assert aggregate(loss, mask).item() == 1.5
    assert aggregate(loss, mask, "token_sum").item() == 3.0
    with pytest.raises(UserError, match="shape"):
        aggregate(loss, mask, "seq_mean_token_mean")


def test_precision():
    assert aggregate(LOSS.bfloat16(), MASK).dtype == torch.float32
    value = aggregate(LOSS.double(), MASK)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(45 / 7, abs=EXACT)


def test_bad_input_is_refused():
    cases = {
        "loss has shape": lambda: aggregate(LOSS, MASK[:2]),
        "unknown mode": lambda: denominators(MASK, "mean"),
        "constant is None": lambda: aggregate(LOSS, MASK, "seq_sum_const"),
        "constant is 0": lambda: aggregate(LOSS, MASK, "seq_sum_const", constant=0),
        "group is missing": lambda: aggregate(LOSS, MASK, "prompt_mean_token_mean"),
        "group is of shape": lambda: aggregate(LOSS, MASK, "prompt_mean_token_mean", group=GROUP[:2]),
        "other than 0 and 1": lambda: aggregate(LOSS, MASK * 0.5),
        "denominator is nan": lambda: aggregate(LOSS, MASK, denominator=math.nan),
        "denominator is 0": lambda: aggregate(LOSS, MASK, denominator=0),
        "counted for token_mean": lambda: aggregate(LOSS, MASK, "token_sum", denominator=denominators(MASK)),
        "does not know prompt 5": lambda: aggregate(
            LOSS,
            MASK,
            "prompt_mean_token_mean",
            group=GROUP,
            denominator=denominators(MASK[2:], "prompt_mean_token_mean", GROUP[2:]),
        ),
        "cannot be added": lambda: denominators(MASK) + denominators(MASK, "seq_mean_token_sum"),
    }
    for message, call in cases.items():
        if message == "unknown mode":  # the annotation is checked first in tests
            with pytest.raises(Exception, match="mode"):
                call()
            continue
        with pytest.raises(UserError, match=message):
            call()
