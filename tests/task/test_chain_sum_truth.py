"""Roles, errors and prefix probabilities of the running-sum testbed against enumeration of all offsets."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.task.chain_sum import EOS, FILLER, PAD, TOKENS, ChainSum, examples, grade, prompts, target
from steersman.task.chain_sum_truth import (
    Role,
    answer_given_prefix,
    offsets_to_come,
    read,
    success,
    success_given_prefix,
    success_of_prompts,
)

STANDARD_ERRORS = 4.0
CLOSE = 1e-12
VARIED = [
    ChainSum(k=(1, 4), error=0.05, error_hard=0.4, hint=0.0),
    ChainSum(hint=0.0, fillers=0),
    ChainSum(k=(2, 6), hint=0.0, fillers=3),
]
PUBLISHED = [ChainSum(), ChainSum(k=(2, 8), error=0.018, error_hard=0.264), ChainSum(k=2, fillers=0)]


def row(start, rest):
    ids = [EOS if c == "." else TOKENS.index(c) for c in start + rest]
    return Rollouts.of(torch.tensor([[*ids, PAD]]), torch.tensor([len(ids)]), torch.tensor([len(start)]))


def enumerate_final(task, digits, s, j, answer):
    """P(final sum = answer | running sum s after j steps) by summing over every sequence of offsets."""
    rates = task.error_rates().tolist()
    total = 0.0
    for offsets in itertools.product(range(10), repeat=len(digits) - j):
        p = math.prod(1 - rates[d] if o == 0 else rates[d] / 9 for d, o in zip(digits[j:], offsets, strict=True))
        total += p * ((s + sum(digits[j:]) + sum(offsets)) % 10 == answer)
    return total


@pytest.mark.parametrize(("digits", "answer"), [([7], 7), ([2, 9], 1), ([2, 9], 4), ([5, 1, 8], 4), ([5, 1, 8], 0)])
def test_prefix_probabilities_by_enumeration(digits, answer):
    task = ChainSum(error=0.05, error_hard=0.4)
    written = [(sum(digits[: j + 1]) + 3 * (j > 0)) % 10 for j in range(len(digits))]  # an error at the second step
    response = "".join(f"b{d}{s}" for d, s in zip(digits, written, strict=True)) + f"#{written[-1]}."
    batch = row("".join(map(str, digits)) + "=", response)
    before, after = answer_given_prefix(task, batch, torch.tensor([answer]))
    start, known = len(digits) + 1, [0, *written]
    for j in range(len(digits)):
        now, then = (enumerate_final(task, digits, known[i], i, answer) for i in (j, j + 1))
        spans = [(now, now), (now, now), (now, then)]  # filler, copy, running sum
        for t, (b, a) in enumerate(spans, start + 3 * j):
            assert float(before[0, t]) == pytest.approx(b, abs=CLOSE)
            assert float(after[0, t]) == pytest.approx(a, abs=CLOSE)
    right = float(written[-1] == answer)
    assert before[0, -4:-1].tolist() == after[0, -4:-1].tolist() == [right] * 3
    assert bool(before[0, :start].isnan().all())
    assert bool(before[0, -1].isnan())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.floats(0, 0.9), st.floats(0, 0.9))
def test_dynamic_programme_equals_the_closed_form(digits, easy, hard):
    task = ChainSum(error=easy, error_hard=hard)
    table = offsets_to_come(task, torch.tensor([[*digits, -1, -1]]))[0]
    rates = task.error_rates().tolist()
    for j in range(len(digits) + 3):
        factor = math.prod(1 - rates[d] * 10 / 9 for d in digits[j:])
        expected = [(1 + 9 * factor) / 10] + [(1 - factor) / 10] * 9
        assert table[j].tolist() == pytest.approx(expected, abs=CLOSE)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(VARIED),
)
def test_probabilities_chain_and_sum_to_one(seed, task):
    batch = examples(task, 20, seed)
    found = read(task, batch)
    assert bool(found.whole.all())
    total = torch.zeros(batch.ids.shape, dtype=torch.float64)
    for r in range(10):
        before, after = answer_given_prefix(task, batch, torch.full((20,), r))
        inside = found.role != Role.NONE
        both = inside[:, 1:] & inside[:, :-1]
        assert torch.equal(before[:, 1:][both], after[:, :-1][both])
        changed = inside & (before != after)
        assert bool(((found.role == Role.DECISIVE) | ~changed).all())
        total += after
    assert total[found.role != Role.NONE].tolist() == pytest.approx([1.0] * int((found.role != Role.NONE).sum()))
    before, after = success_given_prefix(task, batch)
    first = before[torch.arange(20), batch.prompt_length]
    assert first.tolist() == pytest.approx(success_of_prompts(task, batch).tolist(), abs=CLOSE)
    last = after[torch.arange(20), batch.length - 1]
    assert torch.equal(last == 1, grade(batch).parts["correct"])


def test_prefix_probabilities_are_calibrated_over_the_demonstrators_rows():
    task = ChainSum(k=(2, 5), error=0.1, error_hard=0.3, hint=0.0)
    batch = examples(task, 6000, seed=11)
    before, after = success_given_prefix(task, batch)
    correct = grade(batch).parts["correct"].double()
    for j in range(2):  # after each of the first two running sums, and in every band of the probability
        p = after[torch.arange(6000), batch.prompt_length + 3 * j + 2]
        for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 0.8), (0.8, 1.01)):
            inside = (p >= low) & (p < high)
            variance = float((p * (1 - p))[inside].sum())
            assert abs(float((correct - p)[inside].sum())) <= STANDARD_ERRORS * variance**0.5 + CLOSE


@pytest.mark.parametrize("task", PUBLISHED)
def test_success_in_closed_form_against_monte_carlo_and_prompts(task):
    p = success(task)
    won = grade(examples(task, 20_000, seed=4)).parts["correct"].double()
    assert abs(float(won.mean()) - p) <= STANDARD_ERRORS * (p * (1 - p) / 20_000) ** 0.5
    each = success_of_prompts(task, prompts(task, 20_000, seed=5))
    assert abs(float(each.mean()) - p) <= STANDARD_ERRORS * float(each.std()) / 20_000**0.5 + CLOSE


def test_success_at_the_published_setting():
    assert success(ChainSum()) == pytest.approx((1 + 9 * (1 - 0.12 / 0.9) ** 5) / 10, abs=CLOSE)
    assert success(ChainSum(error=0.0)) == 1.0
    assert success(ChainSum(k=64, error=0.9)) == pytest.approx(0.1, abs=CLOSE)  # every digit equally likely


def test_roles_steps_and_errors_of_a_row():
    found = read(ChainSum(fillers=1), row("27=", "a22d78#8."))
    f, c, d, a, o = Role.FILLER, Role.COPIED, Role.DECISIVE, Role.ANSWER, Role.OTHER
    assert found.role[0].tolist() == [0, 0, 0, f, c, d, f, c, d, o, a, o, 0]
    assert found.step[0].tolist() == [-1, -1, -1, 0, 0, 0, 1, 1, 1, 2, 2, 2, -1]
    assert found.sums[0].tolist() == [2, 8]
    assert found.error[0].tolist() == [False, True]
    assert found.first_error.tolist() == [1]
    assert found.whole.tolist() == [True]


@pytest.mark.parametrize(
    ("response", "kept", "sums"),
    [
        ("a22d79#9.", 9, [2, 9]),
        ("a32d79#9.", 9, [2, 9]),  # a wrong copy and a wrong answer keep the grammar
        ("a22d79#1.", 9, [2, 9]),
        ("a22d79#9", 8, [2, 9]),  # cut
        ("a22d7", 5, [2, -1]),
        ("a2", 2, [-1, -1]),
        ("", 0, [-1, -1]),
        ("a22#2.", 3, [2, -1]),  # a step is missing
        ("22d79#9.", 0, [-1, -1]),
        ("a2ad79#9.", 2, [-1, -1]),
        ("a22d79#9a", 8, [2, 9]),
        ("a22d79#.", 7, [2, 9]),
        ("a22d79#9.a", 9, [2, 9]),  # goes on after the end
    ],
)
def test_grammar_holds_up_to_the_first_wrong_token(response, kept, sums):
    found = read(ChainSum(), row("27=", response))
    assert (found.role[0] != Role.NONE).tolist()[3 : 3 + len(response)] == [i < kept for i in range(len(response))]
    assert found.sums[0].tolist() == sums
    assert found.whole.tolist() == [response in ("a22d79#9.", "a32d79#9.", "a22d79#1.")]
    _, after = success_given_prefix(ChainSum(), row("27=", response))
    assert int((~after.isnan()).sum()) == kept


def test_errors_are_where_the_demonstrator_made_them():
    task = ChainSum(k=4, error=0.3)
    batch = examples(task, 4000, seed=6)
    found = read(task, batch)
    rate = found.error.double().mean(0)
    assert float((rate - 0.3).abs().max()) <= STANDARD_ERRORS * (0.3 * 0.7 / 4000) ** 0.5
    clean = found.first_error == -1
    assert torch.equal(clean, ~found.error.any(1))
    assert bool(grade(batch).parts["correct"][clean].all())
    assert abs(float(clean.double().mean()) - 0.7**4) <= STANDARD_ERRORS * (0.7**4 * (1 - 0.7**4) / 4000) ** 0.5


def test_tokens_of_fillers_and_copies_change_nothing_decisive_ones_do():
    task = ChainSum(k=3, error=0.2, hint=0.0)
    batch = examples(task, 500, seed=8)
    before, after = success_given_prefix(task, batch)
    role = read(task, batch).role
    change = (after - before).nan_to_num(0.0)
    assert float(change[role != Role.DECISIVE].abs().max()) == 0
    assert float(change[role == Role.DECISIVE].abs().min()) > 0
    fillers = role == Role.FILLER
    other = Rollouts.of(torch.where(fillers, FILLER, batch.ids), batch.length, batch.prompt_length)
    assert torch.equal(success_given_prefix(task, other)[1].nan_to_num(-1), after.nan_to_num(-1))


def test_hinted_rows_are_refused_by_name():
    batch = examples(ChainSum(hint=1.0), 3, seed=0)
    with pytest.raises(UserError, match="row 0: the prompt is hinted"):
        answer_given_prefix(ChainSum(), batch, target(batch))


MODES = ChainSum(k=(1, 4), error=0.2, error_long=0.05, fillers=0, hint=0.0)


def test_roles_of_both_modes_and_what_breaks_the_grammar():
    short, long = row("12=", "a1123#3."), row("12=", "b11cd23cd#3.")
    M, C, D, K, O, A = (Role.MODE, Role.COPIED, Role.DECISIVE, Role.CHECK, Role.OTHER, Role.ANSWER)  # noqa: E741
    assert read(MODES, short).role[0, 3:-1].tolist() == [M, C, D, C, D, O, A, O]
    assert read(MODES, long).role[0, 3:-1].tolist() == [M, C, D, K, K, C, D, K, K, O, A, O]
    assert read(MODES, long).step[0, 3:-1].tolist() == [-1, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert (bool(read(MODES, short).long), bool(read(MODES, long).long)) == (False, True)
    for good in (short, long):
        assert bool(read(MODES, good).whole)
        assert read(MODES, good).sums.tolist() == [[1, 3]]
    for bad, kept in (("b1123#3.", 3), ("a11cd23cd#3.", 3), ("b11dc23cd#3.", 3), ("c1123#3.", 0), ("1123#3.", 0)):
        found = read(MODES, row("12=", bad))
        assert not bool(found.whole)
        assert int((found.role != Role.NONE).sum()) == kept
    wrong = read(MODES, row("12=", "b12cd24cd#4."))
    assert wrong.error.tolist() == [[True, False]]
    assert int(wrong.first_error) == 0


@pytest.mark.parametrize(("mode", "error"), [("a", 0.2), ("b", 0.05)])
def test_probabilities_of_a_mode_by_enumeration(mode, error):
    checks = "cd" if mode == "b" else ""
    batch = row("58=", f"{mode}56{checks}84{checks}#4.")  # an error of one at the first step; right would be 3
    one = {e: ChainSum(error=e) for e in (0.2, 0.05)}
    start = {e: enumerate_final(one[e], [5, 8], 0, 0, 3) for e in one}
    first, last = (enumerate_final(one[error], [5, 8], s, j, 3) for s, j in ((6, 1), (4, 2)))
    before, after = (x[0, 3:-1].tolist() for x in answer_given_prefix(MODES, batch, torch.tensor([3])))
    mean, own, n = sum(start.values()) / 2, start[error], len(checks)
    expected = [own, own, first, *[first] * n, first, last, *[last] * n, last, 0.0, 0.0]
    assert after == pytest.approx(expected, abs=CLOSE)
    assert before == pytest.approx([mean, *expected[:-1]], abs=CLOSE)


def test_success_of_modes_by_enumeration_and_by_simulation():
    digits = row("479=", "")
    exact = sum(enumerate_final(ChainSum(error=e), [4, 7, 9], 0, 0, 0) for e in (0.2, 0.05)) / 2
    assert success_of_prompts(MODES, digits).tolist() == pytest.approx([exact], abs=CLOSE)
    batch = examples(MODES, 20_000, seed=3)
    correct = grade(batch).parts["correct"].double()
    p = success(MODES)
    assert abs(float(correct.mean()) - p) <= STANDARD_ERRORS * (p * (1 - p) / 20_000) ** 0.5
    before, after = success_given_prefix(MODES, batch)
    first = torch.arange(20_000), batch.prompt_length
    assert before[first].tolist() == pytest.approx(success_of_prompts(MODES, batch).tolist(), abs=CLOSE)
    long = read(MODES, batch).long
    assert bool((after[first][long] > before[first][long]).all())
    for mode in (long, ~long):
        q = after[first][mode]
        assert abs(float((correct[mode] - q).sum())) <= STANDARD_ERRORS * float((q * (1 - q)).sum()) ** 0.5


def test_success_of_the_testbeds_two_worlds():
    for easy, hard in ((0.05, 0.2), (0.2, 0.05)):
        task = ChainSum(k=5, error=hard, error_long=easy, fillers=0)
        a, b = (1 + 9 * (1 - 0.05 * 10 / 9) ** 5) / 10, (1 + 9 * (1 - 0.2 * 10 / 9) ** 5) / 10
        assert success(task) == pytest.approx((a + b) / 2, abs=CLOSE)
