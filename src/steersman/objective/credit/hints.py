"""The words in which the policy is told something before it scores its own response again.

A hint is one template for right and wrong answers, so that only the answer differs. Leaves out: token ids (`World`).
Sources: behind the prompt, CEPO's released code; in the user's turn, after SDPO (arXiv 2601.20802) and OPSD (arXiv
2601.18734).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from steersman.core.component import Component, Hinted
from steersman.core.errors import UserError
from steersman.core.types import Rollouts

ANSWER, PROMPT = "{answer}", "{prompt}"
DEFAULTS = {
    "after_prompt": " {answer}",
    "in_user_turn": "{prompt}\n\nCorrect solution:\n\n{answer}\n\nCorrectly solve the original question.",
}
"""Text of each place where nothing else is said."""


class Hint(Component):
    """Where an answer is told and in which words.

    after_prompt: behind the whole prompt, the header of the assistant's turn included. in_user_turn: the last turn of
    the user is rendered anew; of a plain prompt the whole text.
    """

    place: Literal["after_prompt", "in_user_turn"] = Field("after_prompt", description="where the answer stands")
    text: str | None = Field(None, description="with {answer}, and {prompt} in a turn; absent = the place's own words")

    @model_validator(mode="after")
    def _has_places(self) -> "Hint":
        words = self.words
        if ANSWER not in words:
            raise ValueError(f"text is {words!r}, without a place for the answer; write {ANSWER} where it stands")
        if (PROMPT in words) != (self.place == "in_user_turn"):
            what = "needs" if self.place == "in_user_turn" else "stands behind the prompt and cannot have"
            raise ValueError(f"text is {words!r}; {self.place} {what} {PROMPT}")
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


def prompts(rollouts: Rollouts) -> list[tuple[int, ...]]:
    """Token ids of each row's own prompt."""
    spans = zip(rollouts.ids.tolist(), rollouts.prompt_length.tolist(), strict=True)
    return [tuple(ids[:n]) for ids, n in spans]
