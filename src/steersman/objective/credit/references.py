"""The answers that contrastive credit tells the policy: the right one of each prompt, and a wrong one of its group.

A wrong answer is the final answer of a rejected rollout of the same prompt, so nothing more is sampled.
Leaves out: in which words an answer is told (`credit.hints`), grading (`reward`).
Source: CEPO arXiv 2605.19436, algorithm 1 (rule "lowest"); "modal" and "own" are ours.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from steersman.core.errors import UserError

Rule = Literal["lowest", "modal", "own"]
RULES: tuple[str, ...] = get_args(Rule)


def right_answers(rows: Sequence[Mapping[str, Any]], column: str = "answer") -> list[str]:
    """The reference answer of each row as text.

    Args:
        rows: the grader's row of each rollout.
        column: of the reference; text or a number.

    Raises:
        UserError: names the first row whose answer is missing, empty, or neither text nor a number. An empty one is no
            small thing: it would be told as an answer, and credit would be noise.
    """
    found = []
    for i, row in enumerate(rows):
        value = row.get(column)
        where = f"row {i} ({row['id']})" if row.get("id") else f"row {i}"
        cure = f"Give every prompt a {column!r}, or name another column in `reference`."
        if value is None:
            raise UserError("reference answer is missing", where=where, cure=cure)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UserError(f"reference answer is a {type(value).__name__}", where=where, allowed="text or a number")
        if not str(value).strip():
            raise UserError("reference answer is empty", where=where, cure=cure)
        found.append(str(value))
    return found


def wrong_answers(
    answer: Sequence[str | None],
    correct: Tensor,
    score: Tensor,
    group: Tensor,
    right: Sequence[str] | None = None,
    rule: str = "lowest",
    noise: Tensor | None = None,
    valid: Tensor | None = None,
) -> list[str | None]:
    """A wrong answer to the prompt of each row, from the rejected rollouts of its group.

    Candidates are the answers of rows that are not correct; one that equals the right answer, or that of a correct row
    of the group, is none. lowest: that of the candidate with the lowest score; modal: the most frequent one; own: the
    row's own where it is a candidate, else as lowest. Ties go to the smallest noise.

    Args:
        answer: extracted answer of each row; None or blank = there is none.
        correct: ``[N]`` bool.
        score: ``[N]``.
        group: prompt ids ``[N]``.
        right: the right answer of each row; None = not known.
        rule: see above.
        noise: uniform numbers ``[N]`` that decide ties; None = the first row wins.
        valid: rows that were graded ``[N]``; None = all.

    Returns:
        One answer a row; None where its group has no candidate.

    Raises:
        UserError: an unknown rule, lengths that disagree.

    Edge cases: a group of correct rows only has no candidate; neither has one whose wrong rows have no answer.

    Source: algorithm 1 of the paper. The released code takes the first 50 characters of a rollout without an answer.
    """
    n = len(answer)
    if rule not in RULES:
        raise UserError(f"unknown rule {rule!r}", where="negative", allowed=", ".join(RULES))
    sizes = {len(x) for x in (correct, score, group, noise, valid, right) if x is not None}
    if sizes - {n}:
        raise UserError(f"{n} answers, but other arguments have {sorted(sizes - {n})} rows", where="wrong_answers")
    known = [None if a is None or not a.strip() else a for a in answer]
    good, there = correct.tolist(), [True] * n if valid is None else valid.tolist()
    ids, marks = group.tolist(), score.tolist()
    luck = list(range(n)) if noise is None else noise.tolist()
    accepted: dict[int, set[str]] = {}
    for i in range(n):
        told = accepted.setdefault(ids[i], set())
        told |= {_plain(a) for a in (right[i] if right else None, known[i] if good[i] and there[i] else None) if a}
    candidates: dict[int, list[int]] = {}
    for i, a in enumerate(known):
        if a is not None and there[i] and not good[i] and _plain(a) not in accepted[ids[i]]:
            candidates.setdefault(ids[i], []).append(i)
    chosen: dict[int, str | None] = {}
    for g, rows in candidates.items():
        if rule == "modal":
            often = Counter(_plain(str(known[i])) for i in rows)
            best = min(rows, key=lambda i: (-often[_plain(str(known[i]))], luck[i]))
        else:
            best = min(rows, key=lambda i: (marks[i], luck[i]))
        chosen[g] = known[best]
    own = {i for rows in candidates.values() for i in rows} if rule == "own" else set()
    return [known[i] if i in own else chosen.get(ids[i]) for i in range(n)]


def rejected_rows(
    correct: Tensor, score: Tensor, group: Tensor, noise: Tensor | None = None, valid: Tensor | None = None
) -> list[int | None]:
    """For each row the rejected rollout of its group with the lowest score, never the row itself.

    Args:
        correct: ``[N]`` bool.
        score: ``[N]``.
        group: prompt ids ``[N]``.
        noise: uniform numbers ``[N]`` that decide ties; None = the first row wins.
        valid: rows that were graded ``[N]``; None = all.

    Returns:
        One row number a row; None where its group has no other row that is wrong.

    Raises:
        UserError: lengths that disagree.

    Source: the ablations of the paper. In the released code the row may be shown its own rollout.
    """
    n = len(correct)
    sizes = {len(x) for x in (score, group, noise, valid) if x is not None}
    if sizes - {n}:
        raise UserError(f"{n} rows, but other arguments have {sorted(sizes - {n})}", where="rejected_rows")
    good, there = correct.tolist(), [True] * n if valid is None else valid.tolist()
    marks, luck = score.tolist(), list(range(n)) if noise is None else noise.tolist()
    of: dict[int, list[int]] = {}
    for i, g in enumerate(group.tolist()):
        if there[i] and not good[i]:
            of.setdefault(g, []).append(i)
    for rows in of.values():
        rows.sort(key=lambda i: (marks[i], luck[i]))
    return [next((j for j in of.get(g, ()) if j != i), None) for i, g in enumerate(group.tolist())]


def _plain(answer: str) -> str:
    """Answers that differ in white space alone are the same."""
    return " ".join(answer.split())
