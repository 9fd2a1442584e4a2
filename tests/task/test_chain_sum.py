"""The running-sum testbed against enumeration and Monte Carlo: prompts, demonstrator, verifier."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from steersman.core.errors import UserError
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.reward.answer import STATUSES
from steersman.task.chain_sum import (
    EOS,
    EQUALS,
    FILLER,
    FILLERS,
    HASH,
    LONG,
    PAD,
    SHORT,
    TOKENS,
    VOCABULARY,
    ChainSum,
    demonstrate,
    examples,
    grade,
    prompts,
    read_digits,
    target,
    text,
    verify,
)

STANDARD_ERRORS = 4.0
TASKS = [ChainSum(), ChainSum(k=(2, 8), error=0.018, error_hard=0.264), ChainSum(k=(1, 3), fillers=0, hint=1.0)]


def share_is(found, p):
    n = found.numel()
    assert abs(float(found.double().mean()) - p) <= STANDARD_ERRORS * (p * (1 - p) / n) ** 0.5


def rows(*texts):
    """Rollouts of texts such as "12=|1133#3.", where "|" ends the prompt and "." is the end of sequence."""
    pieces = [t.split("|") for t in texts]
    coded = [[EOS if c == "." else TOKENS.index(c) for c in a + b] for a, b in pieces]
    ids = torch.full((len(texts), max(map(len, coded))), PAD)
    for i, row in enumerate(coded):
        ids[i, : len(row)] = torch.tensor(row)
    return Rollouts.of(ids, torch.tensor([len(r) for r in coded]), torch.tensor([len(a) for a, _ in pieces]))


def parse(task, row, ids):
    """An independent reading of a demonstrator's row: digits, hint, sums, answer; asserts the grammar."""
    ids = list(ids)
    k = ids.index(EQUALS)
    digits, rest, hint = ids[:k], ids[k + 1 :], None
    if row != k + 1:
        assert row == k + 4
        assert rest[0] == 16
        assert rest[2] == EQUALS
        hint, rest = rest[1], rest[3:]
    sums = []
    for d in digits:
        fillers, (copy, s), rest = rest[: task.fillers], rest[task.fillers : task.width], rest[task.width :]
        assert all(FILLER <= f < FILLER + FILLERS for f in fillers)
        assert copy == d
        assert 0 <= s < 10
        sums.append(s)
    assert rest == [HASH, sums[-1], EOS]
    return digits, hint, sums


def test_the_token_table():
    assert len(TOKENS) == VOCABULARY == 19
    assert text(torch.tensor([2, 14, 10, 2, 2, 15, 2, 17])) == "2=a22#2<eos>"


@pytest.mark.parametrize("task", TASKS)
def test_demonstrator_keeps_the_grammar_and_errs_at_the_stated_rate(task):
    batch = examples(task, 3000, seed=3).check()
    assert batch.ids.shape[1] <= task.max_length
    errors, hard, offsets, hinted, sizes, fillers = [], [], [], [], [], []
    for ids, n, start in zip(batch.ids.tolist(), batch.length.tolist(), batch.prompt_length.tolist(), strict=True):
        assert set(ids[n:]) <= {PAD}
        digits, hint, sums = parse(task, start, ids[:n])
        fillers += [i for i in ids[start:n] if FILLER <= i < FILLER + FILLERS]
        sizes.append(len(digits))
        hinted.append(hint is not None)
        assert hint in (None, sums[-1])
        for d, s, before in zip(digits, sums, [0, *sums], strict=False):
            (hard if d >= 5 else errors).append(s != (before + d) % 10)
            if s != (before + d) % 10:
                offsets.append((s - before - d) % 10)
    share_is(torch.tensor(errors), task.error)
    share_is(torch.tensor(hard), task.error if task.error_hard is None else task.error_hard)
    for o in range(1, 10):
        share_is(torch.tensor([x == o for x in offsets]), 1 / 9)
    if task.hint < 1:
        share_is(torch.tensor(hinted), task.hint)
    else:
        assert all(hinted)
    for k in range(task.shortest, task.longest + 1):
        if task.shortest < task.longest:
            share_is(torch.tensor([s == k for s in sizes]), 1 / (task.longest - task.shortest + 1))
    for f in range(FILLER, FILLER + FILLERS) if task.fillers else ():
        share_is(torch.tensor([x == f for x in fillers]), 1 / FILLERS)


def test_prompts_have_uniform_digits_and_groups_of_their_own():
    task = ChainSum(k=(2, 5))
    batch = prompts(task, 4000, seed=1)
    assert bool((batch.length == batch.prompt_length).all())
    digits, k = read_digits(batch)
    for d in range(10):
        share_is(digits[digits >= 0] == d, 0.1)
    assert bool(((digits >= 0).sum(1) == k).all())
    again = prompts(task, 4000, seed=1, round=1)
    assert not set(again.group.tolist()) & set(batch.group.tolist())
    assert not torch.equal(read_digits(again)[0], digits)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(0, 5), st.integers(1, 20), st.sampled_from(TASKS))
def test_a_row_is_a_function_of_seed_step_round_and_row(seed, step, round, n, task):
    few, many = (prompts(task, size, seed, step, round) for size in (n, n + 7))
    assert [text(r[:m]) for r, m in zip(few.ids, few.length, strict=True)] == [
        text(r[:m]) for r, m in zip(many.ids[:n], many.length[:n], strict=True)
    ]
    assert torch.equal(few.group, many.group[:n])
    some, more = examples(task, n, seed, step), examples(task, n + 7, seed, step)
    width = some.ids.shape[1]
    assert torch.equal(some.ids, more.ids[:n, :width])
    assert torch.equal(some.length, more.length[:n])


def test_purposes_steps_and_seeds_are_independent_draws():
    base = prompts(ChainSum(), 200, 0).ids
    for other in (
        prompts(ChainSum(), 200, 1),
        prompts(ChainSum(), 200, 0, step=1),
        prompts(ChainSum(), 200, 0, purpose="held-out"),
    ):
        share_is(other.ids[:, :5] == base[:, :5], 0.1)


def test_demonstrating_over_hinted_rows_reads_their_digits_only():
    task = ChainSum(k=(1, 4))
    hinted = examples(ChainSum(k=(1, 4), hint=1.0), 50, seed=2)
    again = demonstrate(task, hinted, seed=5, hint=0.0)
    assert torch.equal(read_digits(hinted)[0], read_digits(again)[0])
    assert torch.equal(again.prompt_length, read_digits(again)[1] + 1)


CASES = {
    "12=|1133#3.": ("correct", 3),
    "12=|#3.": ("correct", 3),  # only what is between "#" and the end counts
    "12=?9=|1133#3.": ("correct", 3),
    "12=|1133#4.": ("wrong", 4),
    "12=|1133#4#3.": ("correct", 3),
    "12=|1133#33.": ("unparsable", -1),
    "12=|1133#.": ("unparsable", -1),
    "12=|1133#a.": ("unparsable", -1),
    "12=|1133#3#.": ("unparsable", -1),
    "12=|1133#3": ("no_answer", -1),  # cut
    "12=|11333.": ("no_answer", -1),
    "12=|.": ("no_answer", -1),
    "12=|": ("no_answer", -1),
    "12=|3.": ("no_answer", -1),  # "#" must stand in the response
    "99=|99 9#8.".replace(" ", ""): ("correct", 8),
}


def test_verifier_by_cases():
    answer, status = verify(rows(*CASES))
    assert [(STATUSES[s], a) for s, a in zip(status.tolist(), answer.tolist(), strict=True)] == list(CASES.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.lists(st.sampled_from([*range(18)]), max_size=8))
def test_verifier_equals_a_plain_reading(digits, response):
    response = response[: response.index(EOS) + 1] if EOS in response else response
    ids = torch.tensor([[*digits, EQUALS, *response, PAD, PAD]])
    n = len(digits) + 1
    answer, status = verify(Rollouts.of(ids, torch.tensor([n + len(response)]), torch.tensor([n])))
    if response[-1:] != [EOS] or HASH not in response:
        expected = "no_answer"
    elif len(response) < 3 or response[-3] != HASH or response[-2] > 9:
        expected = "unparsable"
    else:
        expected = "correct" if response[-2] == sum(digits) % 10 else "wrong"
        assert int(answer) == response[-2]
    assert STATUSES[int(status)] == expected


def test_grades_and_rows_that_are_not_valid():
    batch = rows("12=|1133#3.", "12=|1133#4.", "12=|11", "12=|1133#3.")
    batch = Rollouts.of(
        batch.ids,
        batch.length,
        batch.prompt_length,
        valid=torch.tensor([True, True, True, False]),
        stop=torch.tensor([0, 0, STOP_LENGTH, 3]),
    )
    scores = grade(batch)
    assert scores.value.tolist()[:3] == [1.0, 0.0, 0.0]
    assert scores.value[3].isnan()
    assert scores.parts["correct"].tolist() == [True, False, False, False]
    assert scores.parts["format_ok"].tolist() == [True, True, False, False]
    assert set(scores.errors) == {3}


def test_examples_are_right_as_often_as_the_demonstrator_says():
    batch = examples(ChainSum(error=0.0), 300, seed=1)
    assert bool(grade(batch).parts["correct"].all())
    assert torch.equal(verify(batch)[0], target(batch))


@pytest.mark.parametrize("bad", ["=|1.", "1a=|1.", "12=?=|1.", "12=?3|1.", "12|1.", "12=3|1."])
def test_a_foreign_prompt_is_named(bad):
    with pytest.raises(UserError, match=r"row 1: .* is no prompt"):
        verify(rows("12=|1133#3.", bad))


@pytest.mark.parametrize("bad", [{"k": (4, 2)}, {"k": 0}, {"error": 0.95}, {"hint": 1.5}, {"fillers": -1}])
def test_impossible_knobs_are_refused(bad):
    with pytest.raises(ValidationError):
        ChainSum(**bad)


def test_impossible_requests_are_refused():
    with pytest.raises(UserError, match="0 prompts"):
        prompts(ChainSum(), 0, 0)
    with pytest.raises(UserError, match="round -1"):
        prompts(ChainSum(), 1, 0, round=-1)


MODES = ChainSum(k=(1, 5), error=0.2, error_long=0.05, fillers=0, hint=0.3)


def test_modes_are_chosen_alike_and_each_has_its_grammar_and_error_rate():
    batch = examples(MODES, 6000, seed=9).check()
    assert batch.ids.shape[1] <= MODES.max_length
    errors, modes, hinted = {SHORT: [], LONG: []}, [], []
    for ids, n, start in zip(batch.ids.tolist(), batch.length.tolist(), batch.prompt_length.tolist(), strict=True):
        mode, rest = ids[start], ids[start + 1 : n]
        modes.append(mode == LONG)
        digits = ids[: ids.index(EQUALS)]
        hinted.append(start == len(digits) + 4)
        before = 0
        for d in digits:
            step, rest = rest[: 4 if mode == LONG else 2], rest[4 if mode == LONG else 2 :]
            assert step[0] == d
            assert step[2:] == ([FILLER + 2, FILLER + 3] if mode == LONG else [])
            errors[mode].append(step[1] != (before + d) % 10)
            before = step[1]
        assert rest == [HASH, before, EOS]
        assert not hinted[-1] or ids[start - 2] == before
    share_is(torch.tensor(modes), 0.5)
    share_is(torch.tensor(hinted), 0.3)
    share_is(torch.tensor(errors[SHORT]), 0.2)
    share_is(torch.tensor(errors[LONG]), 0.05)


def test_lengths_of_the_two_modes_are_those_of_the_testbed():
    task = ChainSum(k=5, error=0.2, error_long=0.05, fillers=0, hint=0.0)
    batch = examples(task, 200, seed=1)
    long = batch.ids[torch.arange(200), batch.prompt_length] == LONG
    lengths = batch.length - batch.prompt_length
    assert set(lengths[long].tolist()) == {24} == {task.max_response}
    assert set(lengths[~long].tolist()) == {14}


def test_one_mode_is_as_before_and_two_error_rates_of_a_step_are_refused():
    assert "error_long" not in ChainSum().model_dump(exclude_none=True)
    assert (ChainSum().lead, ChainSum().max_response) == (0, 18)
    with pytest.raises(ValidationError, match="exclude each other"):
        ChainSum(error_hard=0.2, error_long=0.05)


def test_answers_of_both_modes_are_graded():
    scores = grade(rows("12=|a1123#3.", "12=|b11cd23cd#3.", "12=|b11cd23cd#4."))
    assert scores.value.tolist() == [1.0, 1.0, 0.0]
