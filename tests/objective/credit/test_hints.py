"""Templates: a place for the answer, a place for the prompt where the prompt is rendered anew."""

import pytest
import torch
from pydantic import ValidationError

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.credit.hints import FeedbackHint, Hint

ROWS = Rollouts.of(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]]), torch.tensor([4, 3]), torch.tensor([2, 1]))


def test_a_template_without_a_place_for_the_answer_is_refused():
    for bad in ({"text": "The answer is known. "}, {"text": ""}, {"place": "in_user_turn", "text": "{prompt}"}):
        with pytest.raises(ValidationError, match="without a place for the answer"):
            Hint(**bad)
    with pytest.raises(ValidationError, match=r"in_user_turn needs \{prompt\}"):
        Hint(place="in_user_turn", text="It is {answer}.")
    with pytest.raises(ValidationError, match=r"behind the prompt and cannot have \{prompt\}"):
        Hint(text="{prompt} {answer}")


def test_the_defaults_are_the_released_ones():
    assert Hint().words == " {answer}"
    assert Hint(place="in_user_turn").words.startswith("{prompt}\n\nCorrect solution:\n\n{answer}")


def test_only_the_answer_differs_between_two_hints():
    one, two = (
        Hint(text=" it is {answer}").tell(ROWS, [{"id": "a"}, {"id": "b"}], x) for x in (["7", "8"], ["9", None])
    )
    assert [h.prompt for h in one] == [(1, 2), (5,)]
    assert (one[0].text, one[0].place) == (two[0].text, two[0].place) == (" it is {answer}", "after_prompt")
    assert (one[0].answer, two[0].answer) == ("7", "9")
    assert two[1] is None
    with pytest.raises(UserError, match="rollouts, rows and answers"):
        Hint().tell(ROWS, [{}], ["1", "2"])


def test_feedback_has_words_of_its_own():
    assert FeedbackHint().feedback_words == (" {feedback}", " {answer} {feedback}")
    alone, both = FeedbackHint(place="in_user_turn").feedback_words
    assert alone.startswith(
        "{prompt}\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}"
    )
    assert both.index("{prompt}") < both.index("{answer}") < both.index("{feedback}")
    for words in (alone, both):
        assert words.endswith("\n\nCorrectly solve the original question.")
    assert FeedbackHint(feedback="{feedback}!", both="{feedback}{answer}").feedback_words == (
        "{feedback}!",
        "{feedback}{answer}",
    )


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"feedback": "wrong"}, "feedback is 'wrong', without a place for the feedback"),
        ({"both": "{answer}"}, "without a place for the feedback"),
        ({"both": "{feedback}"}, "without a place for the answer"),
        ({"feedback": "{answer} {feedback}"}, "it cannot have {answer}"),
        ({"feedback": "{prompt} {feedback}"}, "stands behind the prompt and cannot have"),
        ({"place": "in_user_turn", "both": "{answer} {feedback}"}, "in_user_turn needs {prompt}"),
    ],
)
def test_templates_of_feedback_without_its_places_are_refused(bad, match):
    with pytest.raises(ValidationError, match=match):
        FeedbackHint(**bad)
