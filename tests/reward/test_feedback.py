"""What graders say of wrong responses: reasons, sentences of every status, silence where there is nothing to say."""

import torch

from steersman.core.types import Scores
from steersman.reward.answer import STATUSES, LastBoxed
from steersman.reward.code import CODE_STATUSES
from steersman.reward.feedback import SENTENCES, feedback
from steersman.reward.verifiable import Graded, Grader, Verifiable


def graded(correct, valid=None, reasons=None, **parts):
    n = len(correct)
    valid = torch.ones(n, dtype=torch.bool) if valid is None else torch.tensor(valid)
    scores = Scores(torch.zeros(n), valid, {"correct": torch.tensor(correct), **parts})
    return Graded(scores, (None,) * n, reasons or {})


def test_a_reason_is_said_of_what_is_wrong_and_of_nothing_else():
    found = feedback(
        graded([False, True, False, False], [True, True, False, True], {0: " off by one ", 1: "x", 2: "y", 3: " "})
    )
    assert found == ("off by one", None, None, None)


def test_without_a_reason_the_status_is_said():
    status = torch.tensor([1, 0, 3, 1])
    found = feedback(graded([False, True, False, False], reasons={3: "see the sign"}, status=status))
    assert found == (SENTENCES["wrong"], None, SENTENCES["no_answer"], "see the sign")


def test_every_status_but_success_has_a_sentence():
    assert {*STATUSES, *CODE_STATUSES} - {"correct"} == SENTENCES.keys()


def test_where_nobody_says_what_is_right_nothing_is_said():
    scores = Scores(torch.zeros(2), torch.ones(2, dtype=torch.bool))
    assert feedback(Graded(scores, (None, None), {0: "bad"})) == (None, None)


def test_a_rule_s_grades_in_words():
    with Grader(Verifiable(extract=LastBoxed())) as grader:
        texts = ["\\boxed{4}", "\\boxed{5}", "five", "\\boxed{5"]
        found = feedback(grader([""] * 4, texts, [{"id": "p", "answer": "4"}] * 4))
    assert found == (None, SENTENCES["wrong"], SENTENCES["no_answer"], SENTENCES["unparsable"])
