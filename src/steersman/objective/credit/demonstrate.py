"""What the policy is told before it judges its own responses: the reference, or a sibling that succeeded.

Each is a function of a batch and the grader's rows (`core.component.Before`), equal where its settings are.
Leaves out: wrong answers (`components_credit`), in which words (`credit.hints`), what is made of the judgement.
Sources: OPSD arXiv 2601.18734 (reference); SDPO arXiv 2601.20802 (sibling).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, Rollouts
from steersman.objective.credit.hints import FeedbackHint, Hint
from steersman.objective.credit.references import right_answers
from steersman.objective.select.noise import row_key

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToldRight:
    """The right answer before each response.

    Args:
        hint: where and in which words.
        column: of the prompt's row with the right answer.
    """

    hint: Hint
    column: str = "answer"

    def __call__(self, rollouts: Rollouts, rows: Sequence[Row]) -> list[Any]:
        """What stands before each response."""
        return list(self.hint.tell(rollouts, rows, self.answers(rollouts, rows)))

    def answers(self, rollouts: Rollouts, rows: Sequence[Row]) -> list[Any]:
        """What each row is told."""
        return list(right_answers(rows, self.column))


@dataclass(frozen=True, slots=True)
class ToldSibling:
    """A successful response of the same group, never the row's own; None where there is none.

    Among several the choice follows their tokens, so it is the same in any order of rows.

    Args:
        hint: where and in which words.
        show: the whole response, without the token that ended it, or its answer alone.
        behind: of a response only the text behind the last of these, e.g. the end of thinking; empty = all of it.
    """

    hint: Hint
    show: Literal["response", "answer"] = "response"
    behind: str = ""

    def __call__(self, rollouts: Rollouts, rows: Sequence[Row]) -> list[Any]:
        """What stands before each response; the rollouts say which are correct."""
        return list(self.hint.tell(rollouts, rows, self.answers(rollouts, rows), self.behind))

    def answers(self, rollouts: Rollouts, rows: Sequence[Row]) -> list[Any]:
        """What each row is told; None where it has no sibling that is right."""
        return [None if i is None else self._shown(rollouts, i) for i in siblings(rollouts)]

    def _shown(self, rollouts: Rollouts, i: int) -> str | tuple[int, ...] | None:
        if self.show == "answer":
            assert rollouts.answer is not None
            return rollouts.answer[i]
        return response_ids(rollouts, i)


@dataclass(frozen=True, slots=True)
class ToldFeedback:
    """What the grader said of the row's own response, where that is wrong; alone, or with an answer.

    Args:
        hint: where and in which words.
        answers: what else is told; None = nothing.
        always: False = feedback is told only where there is nothing else to tell.
    """

    hint: FeedbackHint
    answers: ToldRight | ToldSibling | None = None
    always: bool = True

    def __call__(self, rollouts: Rollouts, rows: Sequence[Row]) -> list[Any]:
        """What stands before each response; None where there is neither feedback nor anything else to tell.

        Raises:
            UserError: the rollouts have no feedback.
        """
        if rollouts.feedback is None:
            what = "the rollouts have no feedback: their grader says nothing in words"
            raise UserError(what, where="feedback", cure="Use a verifiable reward, or a function that gives reasons.")
        other: list[Any] = [None] * len(rollouts) if self.answers is None else self.answers.answers(rollouts, rows)
        said = [x if self.always or a is None else None for x, a in zip(rollouts.feedback, other, strict=True)]
        behind = self.answers.behind if isinstance(self.answers, ToldSibling) else ""
        return list(self.hint.tell_both(rollouts, rows, other, said, behind))


def response_ids(rollouts: Rollouts, i: int) -> tuple[int, ...]:
    """Token ids of the response of row i, without the token that ended it."""
    end = int(rollouts.length[i]) - int(rollouts.stop[i] == STOP_EOS)
    return tuple(rollouts.ids[i, int(rollouts.prompt_length[i]) : end].tolist())


def siblings(rollouts: Rollouts) -> list[int | None]:
    """The row of a correct response of the same group beside each row's own; None where there is none."""
    assert rollouts.correct is not None
    group, keys = rollouts.group.tolist(), row_key(rollouts).tolist()
    good: dict[int, list[int]] = {}
    for i in (rollouts.correct & rollouts.valid).nonzero()[:, 0].tolist():
        good.setdefault(group[i], []).append(i)
    for rows in good.values():
        rows.sort(key=lambda i: keys[i])
    return [next((j for j in good.get(g, ()) if j != i), None) for i, g in enumerate(group)]
