"""The words in which the policy is told something before it scores its own response again.

A hint is one template for right and wrong answers, so that only the answer differs. Leaves out: token ids (`World`).
Sources: behind the prompt, CEPO's released code; in the user's turn, after SDPO (arXiv 2601.20802) and OPSD (arXiv
2601.18734).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator

from steersman.core.component import Component, Hinted
from steersman.core.errors import UserError
from steersman.core.types import Rollouts

ANSWER, PROMPT, FEEDBACK = "{answer}", "{prompt}", "{feedback}"
DEFAULTS = {
    "after_prompt": " {answer}",
    "in_user_turn": "{prompt}\n\nCorrect solution:\n\n{answer}\n\nCorrectly solve the original question.",
}
"""Text of each place where nothing else is said."""
_SAID = "The following is feedback from your unsuccessful earlier attempt:\n\n{feedback}"
_AGAIN = "Correctly solve the original question."
FEEDBACK_DEFAULTS = {
    "after_prompt": (" {feedback}", " {answer} {feedback}"),
    "in_user_turn": (
        f"{{prompt}}\n\n{_SAID}\n\n{_AGAIN}",
        f"{{prompt}}\n\nCorrect solution:\n\n{{answer}}\n\n{_SAID}\n\n{_AGAIN}",
    ),
}
"""The same for feedback alone, and for an answer with feedback."""


class Hint(Component):
    """Where an answer is told and in which words.

    after_prompt: behind the whole prompt, the header of the assistant's turn included. in_user_turn: the last turn of
    the user is rendered anew; of a plain prompt the whole text.
    """

    place: Literal["after_prompt", "in_user_turn"] = Field("after_prompt", description="where the answer stands")
    text: str | None = Field(None, description="with {answer}, and {prompt} in a turn; absent = the place's own words")

    @model_validator(mode="after")
    def _has_places(self) -> "Hint":
        _check_places("text", self.words, self.place, {ANSWER: "the answer"})
        return self

    @property
    def words(self) -> str:
        """The template."""
        return DEFAULTS[self.place] if self.text is None else self.text

    def tell(
        self,
        rollouts: Rollouts,
        rows: Sequence[Mapping[str, Any]],
        answers: Sequence[str | tuple[int, ...] | None],
        behind: str = "",
    ) -> list[Hinted | None]:
        """What stands before each response when its answer is told; None where there is none.

        Args:
            rollouts: N rows.
            rows: the grader's row of each.
            answers: text or token ids for each.
            behind: of token ids only the text behind the last of these is told; empty = all of it.
        """
        if not len(rollouts) == len(rows) == len(answers):
            sizes = len(rollouts), len(rows), len(answers)
            raise UserError(f"{sizes} rollouts, rows and answers", where="hint")
        found: list[Hinted | None] = []
        for ids, row, answer in zip(prompts(rollouts), rows, answers, strict=True):
            found.append(None if answer is None else Hinted(ids, row, self.place, self.words, answer, behind))
        return found


class FeedbackHint(Hint):
    """A hint that can tell what the grader said of the row's own response too, alone or with an answer."""

    feedback: str | None = Field(None, description="with {feedback} alone; absent = the place's own words")
    both: str | None = Field(None, description="with {answer} and {feedback}; absent = the place's own words")

    @model_validator(mode="after")
    def _has_places_of_both(self) -> "FeedbackHint":
        alone, both = self.feedback_words
        said = {FEEDBACK: "the feedback"}
        _check_places("feedback", alone, self.place, said)
        _check_places("both", both, self.place, said | {ANSWER: "the answer"})
        if ANSWER in alone:
            raise ValueError(f"feedback is {alone!r}, told where there is no answer; it cannot have {ANSWER}")
        return self

    @property
    def feedback_words(self) -> tuple[str, str]:
        """The templates of feedback alone, and of an answer with feedback."""
        alone, both = FEEDBACK_DEFAULTS[self.place]
        return alone if self.feedback is None else self.feedback, both if self.both is None else self.both

    def tell_both(
        self,
        rollouts: Rollouts,
        rows: Sequence[Mapping[str, Any]],
        answers: Sequence[str | tuple[int, ...] | None],
        said: Sequence[str | None],
        behind: str = "",
    ) -> list[Hinted | None]:
        """What stands before each response: its answer, its feedback, or both; None where there is neither.

        Args:
            rollouts, rows, answers, behind: as `tell`.
            said: feedback for each.
        """
        alone, both = self.feedback_words
        given = ["" if a is None and s is not None else a for a, s in zip(answers, said, strict=True)]
        found = self.tell(rollouts, rows, given, behind)
        for i, (hinted, answer, words) in enumerate(zip(found, answers, said, strict=True)):
            if hinted is not None and words is not None:
                text, after = (alone, "") if answer is None else (both, behind)
                found[i] = replace(hinted, text=text, feedback=words, behind=after)
        return found


def _check_places(name: str, words: str, place: str, wanted: Mapping[str, str]) -> None:
    """Refuse a template without the places that it needs, or with one that it cannot fill."""
    for mark, what in wanted.items():
        if mark not in words:
            raise ValueError(f"{name} is {words!r}, without a place for {what}; write {mark} where it stands")
    if (PROMPT in words) != (place == "in_user_turn"):
        what = "needs" if place == "in_user_turn" else "stands behind the prompt and cannot have"
        raise ValueError(f"{name} is {words!r}; {place} {what} {PROMPT}")


def prompts(rollouts: Rollouts) -> list[tuple[int, ...]]:
    """Token ids of each row's own prompt."""
    spans = zip(rollouts.ids.tolist(), rollouts.prompt_length.tolist(), strict=True)
    return [tuple(ids[:n]) for ids, n in spans]
