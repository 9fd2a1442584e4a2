"""Micro-batches and flat streams: every row once, every token once, prompts shared only where they are equal."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.language.pack import flatten, length_blocks, micro_batches, take


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 120))
def test_every_row_is_in_one_micro_batch_within_the_budget(lengths, budget):
    batches = micro_batches(lengths, budget)
    assert sorted(i for b in batches for i in b.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert batch.dtype == torch.int64
        assert len(batch) == 1 or sum(lengths[i] for i in batch.tolist()) <= budget
    in_order = [lengths[i] for b in batches for i in b.tolist()]
    assert in_order == sorted(lengths, reverse=True)


def test_micro_batches_by_hand():
    assert [b.tolist() for b in micro_batches(torch.tensor([3, 9, 3, 4, 20]), 10)] == [[4], [1], [3, 0, 2]]
    assert micro_batches([], 10) == ()


@pytest.mark.parametrize("lengths,budget", [([1], 0), ([1], -5), ([-1], 10)])
def test_micro_batches_refuse(lengths, budget):
    with pytest.raises(UserError, match="micro_batches"):
        micro_batches(lengths, budget)


@given(st.lists(st.integers(0, 300), max_size=30).map(sorted))
def test_blocks_cover_the_rows_and_waste_at_most_a_third(lengths):
    blocks = length_blocks(lengths)
    assert [i for a, b in blocks for i in range(a, b)] == list(range(len(lengths)))
    for a, b in blocks:
        assert lengths[b - 1] <= max(1.5 * lengths[a], 16)


@st.composite
def ragged(draw):
    n, width = draw(st.integers(1, 7)), draw(st.integers(1, 30))
    length = draw(st.lists(st.integers(0, width), min_size=n, max_size=n))
    prompt = [draw(st.integers(0, x)) for x in length]
    ids = draw(st.lists(st.lists(st.integers(0, 1), min_size=width, max_size=width), min_size=n, max_size=n))
    return torch.tensor(ids), torch.tensor(length), torch.tensor(prompt)


@given(ragged(), st.booleans())
def test_the_stream_holds_every_row(drawn, sharing):
    ids, length, prompt_length = drawn
    stream = flatten(ids, length, prompt_length if sharing else None)
    once = {tuple(row[:p].tolist()) for row, p in zip(ids, prompt_length, strict=True)}
    expected = int((length - prompt_length).sum()) + sum(map(len, once)) if sharing else int(length.sum())
    assert len(stream) == expected
    for n in range(len(ids)):
        real = stream.where[n, : length[n]]
        assert torch.equal(stream.ids[real], ids[n, : length[n]])
        assert torch.equal(stream.position[real], torch.arange(length[n]))
        assert (stream.where[n, length[n] :] == 0).all()
    assert stream.longest == int(length.max())


@given(ragged(), st.booleans())
def test_blocks_and_slots_lead_back_to_the_same_token(drawn, sharing):
    ids, length, prompt_length = drawn
    stream = flatten(ids, length, prompt_length if sharing else None)
    if not len(stream):
        return
    assert sum(rows for rows, _ in stream.blocks) == len(ids)
    slots = sum(rows * width for rows, width in stream.blocks)
    if stream.index is None:
        assert stream.slot is None
        assert slots == len(stream)
        return
    assert len(stream.index) == slots
    assert torch.equal(stream.index[stream.slot], torch.arange(len(stream)))
    order, first = length.argsort(stable=True).tolist(), 0
    for rows, width in stream.blocks:
        for row in stream.index[first : first + rows * width].view(rows, width):
            n = order.pop(0)
            assert torch.equal(row[: length[n]], stream.where[n, : length[n]])
        first += rows * width


def test_equal_rows_need_no_index_at_all():
    stream = flatten(torch.arange(12).view(3, 4), torch.tensor([4, 4, 4]))
    assert stream.slot is None
    assert stream.index is None
    assert stream.blocks == ((3, 4),)


def test_only_equal_prompts_are_shared():
    ids = torch.tensor([[5, 6, 7, 1], [5, 6, 8, 2], [5, 9, 7, 3], [5, 6, 7, 4]])
    stream = flatten(ids, torch.tensor([4, 4, 4, 4]), torch.tensor([2, 2, 2, 3]))
    assert len(stream) == 16 - 2
    assert torch.equal(stream.where[0, :2], stream.where[1, :2])
    assert not torch.equal(stream.where[0, :2], stream.where[3, :2])


def test_taking_rows_twice_adds_their_gradients():
    x = torch.arange(6.0).view(3, 2).requires_grad_()
    index = torch.tensor([2, 0, 2])
    out = take(x, index)
    assert torch.equal(out, x[index])
    out.backward(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert x.grad.tolist() == [[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]
