"""Noise belongs to rows: the same in any order, under other padding and prompts, and different for everything else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.component import Moment
from steersman.core.types import Rollouts
from steersman.objective.select.noise import group_noise, row_key, row_noise, token_noise

AT = Moment(seed=3, step=5)


def rollouts(n=40, width=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 5, (n, width), generator=generator)
    length = torch.randint(4, width + 1, (n,), generator=generator)
    return Rollouts.of(ids, length, torch.full((n,), 2), group=torch.arange(n) // 4 + 2**33)


def test_order_padding_and_prompt_do_not_matter():
    batch = rollouts()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    noise, tokens = row_noise(batch, AT, "x"), token_noise(batch, AT, "x")
    assert torch.equal(row_noise(batch.index(order), AT, "x"), noise[order])
    assert torch.equal(token_noise(batch.index(order), AT, "x"), tokens[order])
    assert torch.equal(row_noise(batch.widen(20), AT, "x"), noise)
    padding = torch.arange(9) >= batch.length[:, None]
    other = Rollouts.of(torch.where(padding, 4, batch.ids), batch.length, batch.prompt_length, group=batch.group)
    assert torch.equal(row_noise(other, AT, "x"), noise)
    longer = torch.cat([torch.ones(40, 3, dtype=torch.int64), batch.ids], 1)
    longer = Rollouts.of(longer, batch.length + 3, batch.prompt_length + 3, group=batch.group)
    assert torch.equal(row_noise(longer, AT, "x"), noise)
    assert torch.equal(token_noise(longer, AT, "x")[:, 5:], tokens[:, 2:])


def test_everything_else_matters():
    batch = rollouts()
    noise = row_noise(batch, AT, "x")
    assert len(noise.unique()) == len(torch.unique(torch.cat([batch.group[:, None], shown(batch)], 1), dim=0))
    for other in (row_noise(batch, Moment(3, 6), "x"), row_noise(batch, Moment(4, 5), "x"), row_noise(batch, AT, "y")):
        assert not (other == noise).any()
    assert bool(((noise > 0) & (noise < 1)).all())
    assert len(token_noise(batch, AT, "x")[0, 2:].unique()) == 7


def shown(batch):
    """Responses with -1 for prompt and padding."""
    column = torch.arange(batch.ids.shape[1])
    return torch.where((column >= 2) & (column < batch.length[:, None]), batch.ids, -1)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=2, max_size=20))
@settings(deadline=None)
def test_keys_differ_where_responses_do(responses):
    width = max(map(len, responses))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in responses])
    n = len(responses)
    batch = Rollouts.of(ids, torch.tensor([len(r) for r in responses]), torch.zeros(n, dtype=torch.int64))
    same = Rollouts.of(batch.ids, batch.length, batch.prompt_length, group=torch.zeros(n, dtype=torch.int64))
    assert len(set(row_key(same).tolist())) == len({tuple(r) for r in responses})
    assert len(set(row_key(batch).tolist())) == n


def test_groups():
    ids = torch.tensor([7, 2**33 + 1, 9])
    noise = group_noise(ids, AT, "x", 4)
    assert noise.shape == (3, 4)
    assert len(noise.unique()) == 12
    assert torch.equal(group_noise(ids[1:], AT, "x", 2), noise[1:, :2])


def test_no_rows():
    none = rollouts().index(slice(0, 0))
    assert row_noise(none, AT, "x").shape == (0,)
    assert token_noise(none, AT, "x").shape == (0, 9)
    assert group_noise(none.group, AT, "x").shape == (0, 1)
