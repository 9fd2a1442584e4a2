"""Dynamic sampling: the criterion is accuracy, groups have any ids, sizes and order, and everything is counted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.component import check_pipeline
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import Rollouts
from steersman.objective.advantage.group import grpo
from steersman.objective.components_advantage import GRPO
from steersman.objective.components_reward import Overlong
from steersman.objective.select.groups import DynamicSampling, accuracy_filter

#   group 5: right, wrong, ungraded; 2: all right; -7: all wrong, one ungraded; 2^33: alone; 9: ungraded; 4: 2 of 3
GROUP = torch.tensor([5, 2, -7, 4, 5, 2**33, 2, 4, 9, -7, 5, 4, -7])
RIGHT = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 1, 1]).bool()
VALID = torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0]).bool()


def rollouts(correct=RIGHT, group=GROUP, valid=VALID, reward=None):
    """Responses of one to four tokens; without `reward` it is the accuracy, NaN where not valid."""
    n = len(group)
    reward = torch.where(valid, correct.float(), torch.nan) if reward is None else reward
    known = {"group": group, "valid": valid, "correct": correct, "reward": reward}
    answer = tuple(str(i) for i in range(n))
    length = torch.arange(n) % 4 + 3
    return Rollouts.of(
        torch.arange(6 * n).view(n, 6),
        length,
        torch.full((n,), 2),
        **known,
        answer=answer,
        streams={"logp": torch.ones(n, 6)},
    )


def by_hand(correct, group, valid):
    """The definition, one group at a time."""
    keep = []
    for name in group:
        of = [bool(c) for c, g, v in zip(correct, group, valid, strict=True) if g == name and v]
        keep.append(any(of) and not all(of))
    return keep


def test_groups_with_right_and_wrong_answers_stay():
    keep = accuracy_filter(RIGHT, GROUP, VALID)
    assert keep.tolist() == [g in (5, 4) for g in GROUP.tolist()]
    assert keep.tolist() == by_hand(RIGHT, GROUP, VALID)
    assert not accuracy_filter(RIGHT, GROUP)[8]  # alone, right, graded
    assert accuracy_filter(RIGHT, GROUP)[12]  # its last row, now graded, is right


@given(st.lists(st.tuples(st.booleans(), st.integers(-2, 3), st.booleans()), max_size=20))
def test_any_layout(rows):
    correct, group, valid = (
        torch.tensor([r[i] for r in rows], dtype=d) for i, d in enumerate([bool, torch.int64, bool])
    )
    correct, valid = correct.bool(), valid.bool()
    assert accuracy_filter(correct, group, valid).tolist() == by_hand(correct, group, valid)


def test_rows_are_dropped_and_counted():
    batch = rollouts()
    out, metrics = DynamicSampling()(batch)
    rows = [0, 3, 4, 7, 10, 11]
    assert out.group.tolist() == GROUP[rows].tolist()
    assert torch.equal(out.ids, batch.ids[rows])
    assert out.answer == tuple(str(i) for i in rows)
    assert out.streams["logp"].shape == (6, 6)
    assert metrics == {
        "groups_in": 6,
        "groups_out": 2,
        "all_correct_groups": 2,  # 2 and 2^33
        "all_wrong_groups": 1,
        "ungraded_groups": 1,
        "rows_in": 10,  # valid ones
        "rows_out": 5,
        "tokens_in": float(batch.action[VALID].sum()),
        "tokens_out": float(batch.action[[0, 3, 4, 7, 11]].sum()),
    }
    again, metrics = DynamicSampling()(out)
    assert len(again) == 6
    assert metrics["groups_in"] == metrics["groups_out"] == 2
    repeated, metrics = DynamicSampling()(batch.index(torch.arange(13).repeat(2)))
    assert len(repeated) == 12
    assert metrics["groups_out"] == 2


def test_a_shaped_reward_does_not_smuggle_groups_in():
    """Four right answers of different length: the length punishment gives them a signal, and accuracy 1 drops them."""
    right, group = torch.ones(4, dtype=torch.bool), torch.full((4,), 3)
    batch, _ = Overlong(limit=4, cache=3)(rollouts(right, group, right))
    assert GRPO()(batch)[0].streams["advantage_row"].any()
    assert not accuracy_filter(right, group).any()
    assert len(DynamicSampling()(batch)[0]) == 0


def test_silent_groups_of_accuracies_are_those_that_are_dropped():
    """Where the score is the accuracy, the filter drops just the rows that a group advantage is silent about."""
    batch = rollouts()
    advantage = grpo(batch.reward, GROUP, valid=VALID)
    assert torch.equal(accuracy_filter(RIGHT, GROUP, VALID) & VALID, advantage != 0)


def test_nothing_left_is_no_error():
    batch = rollouts(torch.zeros(13, dtype=torch.bool))
    out, metrics = DynamicSampling()(batch)
    assert len(out) == 0
    assert out.answer == ()
    assert out.trim().ids.shape == (0, 1)
    assert metrics["groups_out"] == metrics["tokens_out"] == 0
    empty, metrics = DynamicSampling()(out)
    assert len(empty) == 0
    assert set(metrics.values()) == {0}
    assert len(GRPO()(out)[0]) == 0


def test_rounds_and_what_happens_if_they_do_not_suffice():
    assert DynamicSampling().most_rounds() == 10
    stage = DynamicSampling(rounds=3, short="stop")
    stage.check_kept(32, 32)
    DynamicSampling(rounds=3).check_kept(0, 32)
    with pytest.raises(RunStopped, match="after 3 rounds only 31 of 32 groups"):
        stage.check_kept(31, 32)


def test_it_needs_no_stream_but_a_grader_that_knows():
    assert DynamicSampling.fields == ("correct",)
    check_pipeline([DynamicSampling()], [])
    batch = rollouts()
    with pytest.raises(UserError, match="which answers are correct"):
        DynamicSampling()(Rollouts.of(batch.ids, batch.length, batch.prompt_length))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: accuracy_filter(RIGHT.float(), GROUP), "correct is torch.float32"),
        (lambda: accuracy_filter(RIGHT[None], GROUP), "correct is torch.bool of shape"),
        (lambda: accuracy_filter(RIGHT, GROUP[:5]), "group is torch.int64 of shape"),
        (lambda: accuracy_filter(RIGHT, GROUP, VALID.long()), "valid is torch.int64"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
