"""Which answers are told: rules, ties, what is no wrong answer, and references that are missing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.objective.credit.references import rejected_rows, right_answers, wrong_answers

GROUP = torch.tensor([4, 4, 4, 4, 4, 7, 7, 9, 9])
ANSWER = ["5", "3", "3", "8", None, "1", "1", None, " "]
CORRECT = torch.tensor([True, False, False, False, False, True, True, False, False])
SCORE = torch.tensor([1.0, 0.2, 0.1, 0.0, -1.0, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("lowest", ["8"] * 5 + [None] * 4),  # the lowest score of all has no answer
        ("modal", ["3"] * 5 + [None] * 4),
        ("own", ["8", "3", "3", "8", "8"] + [None] * 4),
    ],
)
def test_rules(rule, wanted):
    assert wrong_answers(ANSWER, CORRECT, SCORE, GROUP, rule=rule) == wanted


def test_an_answer_that_is_right_after_all_is_missing():
    right = ["8", *["8"] * 4, *["1"] * 4]
    assert wrong_answers(ANSWER, CORRECT, SCORE, GROUP, right)[:5] == ["3"] * 5
    spaced = ["5", "5 ", "3"]
    known = torch.tensor([True, False, False]), torch.tensor([1.0, 0.0, 0.5]), torch.zeros(3, dtype=torch.int64)
    assert wrong_answers(spaced, *known) == ["3"] * 3


def test_rows_that_were_not_graded_say_nothing():
    valid = torch.tensor([True, True, True, False, True, True, True, True, True])
    assert wrong_answers(ANSWER, CORRECT, SCORE, GROUP, valid=valid)[:5] == ["3"] * 5


def test_ties_are_decided_by_noise_and_fairly():
    answer, wrong = ["1", "2", "3", "4"], torch.zeros(4, dtype=torch.bool)
    same, group = torch.zeros(4), torch.zeros(4, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for rule in ("lowest", "modal"):
        noise = [torch.rand(4, generator=generator) for _ in range(400)]
        found = [wrong_answers(answer, wrong, same, group, rule=rule, noise=x)[0] for x in noise]
        assert all(60 < found.count(a) < 140 for a in answer)  # 100 expected, sd 8.7
    assert wrong_answers(answer, wrong, same, group)[0] == "1"


@given(st.permutations(range(9)))
@settings(deadline=None, max_examples=30)
def test_the_order_of_rows_does_not_matter(order):
    noise = torch.linspace(0.9, 0.1, 9)
    for rule in ("lowest", "modal", "own"):
        plain = wrong_answers(ANSWER, CORRECT, SCORE, GROUP, rule=rule, noise=noise)
        given_ = [ANSWER[i] for i in order]
        found = wrong_answers(given_, *(x[list(order)] for x in (CORRECT, SCORE, GROUP)), rule=rule,
                              noise=noise[list(order)])  # fmt: skip
        assert found == [plain[i] for i in order]


def test_what_cannot_be_chosen_from_is_refused():
    with pytest.raises(UserError, match="unknown rule 'highest'"):
        wrong_answers(ANSWER, CORRECT, SCORE, GROUP, rule="highest")
    with pytest.raises(UserError, match="9 answers"):
        wrong_answers(ANSWER, CORRECT[:3], SCORE, GROUP)


def test_right_answers_are_text_and_never_empty():
    assert right_answers([{"answer": "7"}, {"answer": 7}, {"answer": 0.5}]) == ["7", "7", "0.5"]
    assert right_answers([{"solution": "x = 7"}], "solution") == ["x = 7"]
    rows = [{"answer": "1"}] * 3
    with pytest.raises(UserError, match="row 3: reference answer is empty"):
        right_answers([*rows, {"answer": " "}])
    with pytest.raises(UserError, match=r"row 3 \(p17\): reference answer is missing"):
        right_answers([*rows, {"id": "p17", "answer": None}])
    with pytest.raises(UserError, match="row 3: reference answer is missing"):
        right_answers([*rows, {}])
    with pytest.raises(UserError, match="row 3: reference answer is a list"):
        right_answers([*rows, {"answer": ["1"]}])


def test_whole_responses_are_those_of_other_rejected_rows():
    """Scores .2, .1, 0 and -1 are wrong in group 4: the lowest is told to all but itself, which is told the next."""
    found = rejected_rows(CORRECT, SCORE, GROUP)
    assert found == [4, 4, 4, 4, 3, None, None, 8, 7]  # answers are not asked for, and no row is told itself
    valid = torch.tensor([True, True, True, True, False, True, True, True, False])
    assert rejected_rows(CORRECT, SCORE, GROUP, valid=valid) == [3, 3, 3, 2, 3, None, None, None, 7]
    alone = torch.tensor([True, False]), torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.int64)
    assert rejected_rows(*alone) == [1, None]
    ties = torch.zeros(9)
    assert rejected_rows(CORRECT, ties, GROUP, torch.tensor([0, 0.9, 0.2, 0.4, 0.3, 0, 0, 0.1, 0.2]))[0] == 2
    with pytest.raises(UserError, match="9 rows, but other arguments have"):
        rejected_rows(CORRECT, SCORE[:3], GROUP)
