"""What a grader said of wrong responses, in words that a policy can be told.

Leaves out: grading (`verifiable`, `code_grader`), in which words it is told (`objective.credit.hints`).
"""

from steersman.reward.verifiable import Graded

SENTENCES = {
    "wrong": "The answer is wrong.",
    "unparsable": "The answer could not be read.",
    "no_answer": "No answer was found.",
    "looping": "The answer could not be compared in time.",
    "crashing": "The answer could not be compared.",
    "error": "The program failed.",
    "timeout": "The program did not end in time.",
    "memory": "The program took too much memory.",
    "forbidden": "The program asked for something that it may not use.",
    "crash": "The program crashed.",
    "no_code": "No code was found.",
}
"""Status of `reward.answer.STATUSES` or `reward.code.CODE_STATUSES` -> what is said where the grader has no words."""


def feedback(graded: Graded) -> tuple[str | None, ...]:
    """What was said of each response that is not right.

    Args:
        graded: of N responses.

    Returns:
        The grader's own reason, else the sentence of the status; None where the response is right or was not graded,
        where nobody says whether it is right, and where there is neither.

    Edge cases: a reason of white space alone is none. A right answer itself is never said, unless a function of the
    user's says it.
    """
    correct, status = graded.scores.parts.get("correct"), graded.scores.parts.get("status")
    found: list[str | None] = []
    for i, valid in enumerate(graded.scores.valid.tolist()):
        if not valid or correct is None or bool(correct[i]):
            found.append(None)
            continue
        said = graded.reasons.get(i, "").strip()
        if not said and status is not None and int(status[i]) >= 0:
            said = SENTENCES[graded.statuses[int(status[i])]]
        found.append(said or None)
    return tuple(found)
