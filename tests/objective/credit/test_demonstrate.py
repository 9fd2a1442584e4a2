"""What is told: a successful sibling, never the row itself, in any order of rows; the reference of each prompt."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.objective.credit.demonstrate import ToldFeedback, ToldRight, ToldSibling, siblings
from steersman.objective.credit.hints import FeedbackHint, Hint

GROUP = torch.tensor([2, 2, 2, 5, 5, 7, 7])
RIGHT = torch.tensor([1, 0, 1, 1, 0, 0, 0]).bool()
VALID = torch.tensor([1, 1, 1, 1, 1, 1, 0]).bool()
HINT = Hint(text="?{answer}=")


def rollouts(**changed):
    known = {"group": GROUP, "correct": RIGHT, "valid": VALID, "answer": ("9", "3", "9", "4", None, "1", None),
             "stop": torch.tensor([STOP_EOS, STOP_EOS, STOP_LENGTH, *[STOP_EOS] * 4])} | changed  # fmt: skip
    ids = torch.arange(35).view(7, 5)
    return Rollouts.of(ids, torch.tensor([5, 4, 5, 5, 5, 5, 5]), torch.full((7,), 2), **known)


def test_a_row_s_sibling_is_right_and_not_itself():
    found = siblings(rollouts())
    assert (found[0], found[2]) == (2, 0)
    assert found[1] in (0, 2)
    assert found[3:] == [None, 3, None, None]  # a single success teaches its group and not itself
    assert siblings(rollouts(valid=~RIGHT)) == [None] * 7


def test_the_order_of_rows_does_not_matter():
    rows, order = rollouts(), torch.tensor([6, 2, 4, 0, 1, 5, 3])
    plain, found = siblings(rows), siblings(rows.index(order))
    for new, old in enumerate(order.tolist()):
        assert (None if found[new] is None else int(order[found[new]])) == plain[old]


def test_responses_and_answers_are_told():
    rows = [{"id": "p", "answer": "9"}] * 7
    told = ToldSibling(HINT)(rollouts(), rows)
    assert told[0].answer == (12, 13, 14)  # it was cut, so nothing ended it
    assert told[2].answer == (2, 3)  # without the token that ended it
    assert told[3] is None
    assert (told[0].prompt, told[0].text, told[0].place) == ((0, 1), "?{answer}=", "after_prompt")
    assert ToldSibling(HINT, show="answer")(rollouts(), rows)[1].answer == "9"
    assert ToldSibling(HINT, behind="</think>")(rollouts(), rows)[0].behind == "</think>"
    assert [h.answer for h in ToldRight(HINT)(rollouts(), rows)] == ["9"] * 7
    assert ToldRight(HINT) == ToldRight(Hint(text="?{answer}="))
    assert hash(ToldSibling(HINT)) == hash(ToldSibling(Hint(text="?{answer}=")))


SAID = (None, "too small", None, None, "no end", "off by one", None)
BOTH = FeedbackHint(text="?{answer}=", feedback="!{feedback}=", both="?{answer}!{feedback}=")


def told_of(rows, **known):
    """(text, answer, feedback, behind) of each row, None where nothing is told."""
    found = ToldFeedback(BOTH, **known)(rows, [{"id": "p", "answer": "9"}] * 7)
    return [None if h is None else (h.text, h.answer, h.feedback, h.behind) for h in found]


def test_feedback_alone_is_told_to_the_rows_that_have_some():
    found = told_of(rollouts(feedback=SAID))
    assert [None if x is None else x[2] for x in found] == list(SAID)
    assert found[1] == ("!{feedback}=", "", "too small", "")


def test_feedback_stands_beside_an_answer_or_in_its_place():
    """Rows 0, 1, 2 and 4 have a sibling that was right; 1, 4 and 5 were wrong and were told why."""
    rows, sibling = rollouts(feedback=SAID), ToldSibling(BOTH, behind="</t>")
    always, otherwise = (told_of(rows, answers=sibling, always=a) for a in (True, False))
    assert always[0] == otherwise[0] == ("?{answer}=", (12, 13, 14), "", "</t>")
    assert always[1][0] == "?{answer}!{feedback}="
    assert always[1][2:] == ("too small", "</t>")
    assert otherwise[1][0] == "?{answer}="
    assert otherwise[1][2] == ""
    assert always[5] == otherwise[5] == ("!{feedback}=", "", "off by one", "")  # only text can be searched for an end
    assert always[3] is otherwise[3] is None
    assert always[6] is otherwise[6] is None
    right = told_of(rows, answers=ToldRight(BOTH))
    assert [x[0] for x in right] == ["?{answer}=" if s is None else "?{answer}!{feedback}=" for s in SAID]
    assert ToldFeedback(BOTH, sibling) == ToldFeedback(BOTH, ToldSibling(BOTH, behind="</t>"))
    assert hash(ToldFeedback(BOTH)) != hash(ToldFeedback(FeedbackHint()))


def test_a_grader_without_words_is_refused():
    with pytest.raises(UserError, match="the rollouts have no feedback"):
        told_of(rollouts())
