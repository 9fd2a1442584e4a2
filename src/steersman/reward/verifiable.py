"""Graders of answers that can be checked: rules, packages and the user's own function, all with honest failures.

A response that is wrong, cannot be read, or makes a comparison hang or crash is a valid failure with a status of its
own, so that nothing is gained by evading the grader. A grader that itself failed gives an invalid row, never 0. Which
of the two it was, when a comparison of a package did not end well, is settled by comparing the reference with itself in
a fresh process: where that works, the answer is at fault. Of the user's own function nobody can tell, so its failures
are invalid. Leaves out: finding and comparing (`answer`), processes (`time_limit`), rewards from models (`model`).
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from steersman.core.component import Component
from steersman.core.config import import_object
from steersman.core.errors import RunStopped, UserError, one_line
from steersman.core.types import Scores
from steersman.reward.answer import FOUND, STATUSES, Exact, Extractor, LastBoxed, Numeric
from steersman.reward.time_limit import Outcome, TimedFunction

Row = Mapping[str, Any]
"""A prompt's row: `answer`, the reference, and whatever else the prompt's file or generator gave, as JSON values."""
MOST_SHOWN = 60
"""Characters that are shown of what a function returned."""
_LARGEST = torch.finfo(torch.float32).max
_RETURNS = "a number, true or false, or a dict of score, correct, format_ok, reason"


class MathVerify(Component):
    """Equal as mathematical expressions, by the package math-verify."""

    kind: Literal["math_verify"] = "math_verify"


class ReasoningGym(Component):
    """The scorer of the reasoning-gym generator that made the item; scores between 0 and 1 are partly right."""

    kind: Literal["reasoning_gym"] = "reasoning_gym"


Comparator = Annotated[Exact | Numeric | MathVerify | ReasoningGym, Field(discriminator="kind")]


class Verifiable(Component):
    """Find the answer in the completion, compare it with the reference."""

    kind: Literal["verifiable"] = "verifiable"
    extract: Extractor = Field(LastBoxed(), description="Where the answer stands in the completion.")
    compare: Comparator = Field(Exact(), description="When it is right.")
    format_bonus: float = Field(
        0.0, ge=0.0, lt=1.0, description="Added where an answer was found; all-wrong groups then have a signal."
    )
    time_limit: float = Field(5.0, gt=0.0, le=600.0, description="Seconds that a package may take to compare.")
    max_invalid: float = Field(0.1, ge=0.0, le=1.0, description="Share of invalid rows above which the run stops.")


class RewardFunction(Component):
    """The user's own function (prompt, completion, row) -> a number, true or false, or a dict."""

    kind: Literal["function"] = "function"
    function: str = Field(pattern=r"^[\w.]+:\w+$", description="package.module:function")
    correct_at: float | None = Field(
        None, allow_inf_nan=False, description="Scores from here on are correct, where the function does not say."
    )
    time_limit: float = Field(10.0, gt=0.0, le=3600.0, description="Seconds that one call may take.")
    max_invalid: float = Field(0.1, ge=0.0, le=1.0, description="Share of invalid rows above which the run stops.")


Reward = Annotated[Verifiable | RewardFunction, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Graded:
    """What a grader said.

    Args:
        scores: value, valid, errors; parts `correct` and `format_ok` (bool; absent where a user's function says nothing
            of them) and `status` (index in `statuses`; not of a user's function).
        answer: the answer found in each row, None where there is none.
        reasons: row -> what a user's function, or the sandbox of a program, said of it.
        statuses: names of the values of `status`.
    """

    scores: Scores
    answer: tuple[str | None, ...]
    reasons: dict[int, str] = field(default_factory=dict)
    statuses: tuple[str, ...] = STATUSES

    def counts(self) -> dict[str, int]:
        """Number of valid rows of each status, and of invalid rows."""
        status = self.scores.parts.get("status")
        found = (
            {}
            if status is None
            else {name: int(((status == i) & self.scores.valid).sum()) for i, name in enumerate(self.statuses)}
        )
        return found | {"invalid": int((~self.scores.valid).sum())}


@dataclass(frozen=True, slots=True)
class _Grade:
    """One row's verdict; `error` is set where there is none."""

    score: float = math.nan
    correct: bool | None = None
    format_ok: bool | None = None
    status: str | None = None
    answer: str | None = None
    reason: str = ""
    error: str = ""


class Grader:
    """A reward of this module, ready to grade; close it, or use it in a ``with`` statement, to end its process.

    Args:
        reward: which rule or function.
        allow_import: packages that `RewardFunction` may import.

    Raises:
        UserError: a package is not installed, the function may not be imported or is none.
    """

    def __init__(self, reward: Verifiable | RewardFunction, allow_import: Sequence[str] = ()) -> None:
        self.reward = reward
        self._timed: TimedFunction | None = None
        if isinstance(reward, RewardFunction):
            if not callable(import_object(reward.function, allow_import, where="reward.function")):
                raise UserError(f"{reward.function!r} cannot be called", where="reward.function")
            self._timed = TimedFunction(reward.function, reward.time_limit)
        elif isinstance(reward.compare, MathVerify | ReasoningGym):
            require(reward.compare.kind, "reward.compare")
            self._timed = TimedFunction(f"steersman.reward.by_{reward.compare.kind}:compare", reward.time_limit)

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the grader's process and try it, so that a function or package that is broken is known before any work.

        Raises:
            UserError: it cannot be imported, or the package cannot compare a number with itself.
        """
        if self._timed is None:
            return
        own = isinstance(self.reward, RewardFunction)
        where = "reward.function" if own else "reward.compare"
        cure = (
            "" if isinstance(self.reward, RewardFunction) else f"Install it anew: {INSTALL[self.reward.compare.kind]}"
        )
        try:
            self._timed.start()
        except RunStopped as error:
            raise UserError(str(error), where=where, cure=cure) from None
        if own or not isinstance(self.reward, Verifiable) or not isinstance(self.reward.compare, MathVerify):
            return
        tried = self._timed(["1", "1"])
        if tried.kind == "timeout":  # slow is not broken
            return
        if tried.kind != "value" or tried.value.get("status") != "correct":
            said = tried.reason or f"it says {one_line(str(tried.value), MOST_SHOWN)}"
            raise UserError(f"math-verify cannot compare 1 with 1: {said}", where=where, cure=cure)

    def close(self) -> None:
        """End the grader's process; the next call starts a new one."""
        if self._timed is not None:
            self._timed.close()

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse rows that cannot be graded, before anything is generated.

        Raises:
            UserError: names the first row without a usable reference.
        """
        for i, row in enumerate(rows):
            if fault := self._fault(row):
                raise UserError(fault, where=str(row.get("id", f"row {i}")))

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        rows: Sequence[Row],
        valid: Sequence[bool] | None = None,
    ) -> Graded:
        """Grade completions.

        Args:
            prompts: text of each prompt.
            completions: text of each response, without special tokens.
            rows: the prompts' rows.
            valid: False = the response could not be made; it stays invalid and is not graded. None: all could.

        Raises:
            UserError: lists of unequal length; a row without a usable reference; a user's function that returned text,
                NaN, an infinite number or several values (the row is named).
            RunStopped: more than the share `max_invalid` of the graded rows is invalid, or the process does not start.
        """
        sizes = {len(prompts), len(completions), len(rows), len(completions if valid is None else valid)}
        if len(sizes) > 1:
            raise UserError(f"prompts, completions, rows and valid differ in length: {sorted(sizes)}", where="reward")
        self.check_rows(rows)
        made = [True] * len(rows) if valid is None else [bool(v) for v in valid]
        grades: list[_Grade] = []
        failed: list[tuple[int, str]] = []
        for i, (prompt, completion, row) in enumerate(zip(prompts, completions, rows, strict=True)):
            if not made[i]:
                grades.append(_Grade(error="the response could not be made"))
                continue
            grades.append(self._grade(i, prompt, completion, row))
            if grades[-1].error:
                failed.append((i, grades[-1].error))
                self._stop_above_limit(failed, sum(made))
        return _collect(grades, self.reward.function if isinstance(self.reward, RewardFunction) else "reward")

    def _stop_above_limit(self, failed: Sequence[tuple[int, str]], n: int) -> None:
        if len(failed) > self.reward.max_invalid * n:
            alike = {reason: i for i, reason in reversed(failed)}  # one row of each reason, the first
            first = "; ".join(f"row {i}: {reason}" for reason, i in sorted(alike.items(), key=lambda x: x[1])[:3])
            share = f"max_invalid = {self.reward.max_invalid:g} of {n}"
            raise RunStopped(f"the grader failed on {len(failed)} rows, more than {share} ({first})")

    def _grade(self, i: int, prompt: str, completion: str, row: Row) -> _Grade:
        if isinstance(self.reward, RewardFunction):
            assert self._timed is not None
            return _own(i, self._timed([prompt, completion, dict(row)]), self.reward)
        answer, status = self.reward.extract(completion)
        if answer is None or status != FOUND:
            return _Grade(0.0, False, False, status)
        grade = self._compare(answer, row)
        if grade.error:
            return grade
        readable = grade.status != "unparsable"
        bonus = self.reward.format_bonus if readable else 0.0
        return _Grade(grade.score + bonus, grade.correct, readable, grade.status, answer)

    def _compare(self, answer: str, row: Row) -> _Grade:
        compare = self.reward.compare if isinstance(self.reward, Verifiable) else None
        if isinstance(compare, Exact | Numeric):
            score, status = compare(answer, row["answer"])
            return _Grade(score, status == "correct", status=status)
        assert self._timed is not None
        reference = row["reasoning_gym"] if isinstance(compare, ReasoningGym) else row["answer"]
        outcome = self._timed([answer, reference])
        if outcome.kind == "value":
            score, status = float(outcome.value["score"]), outcome.value["status"]
            if not 0.0 <= score <= 1.0:
                return _Grade(error=f"the scorer gave {score}")
            return _Grade(score, status == "correct", status=status)
        self.close()
        control = self._timed([row.get("answer") or "0", reference])
        if control.kind != "value":
            self.close()
            return _Grade(error=f"{outcome.reason}; so does the reference itself: {control.reason}")
        return _Grade(0.0, False, status="looping" if outcome.kind == "timeout" else "crashing")

    def _fault(self, row: Row) -> str:
        if isinstance(self.reward, RewardFunction):
            return ""
        compare = self.reward.compare
        if isinstance(compare, ReasoningGym):
            return "" if isinstance(row.get("reasoning_gym"), Mapping) else "was not made by reasoning-gym"
        answer = row.get("answer")
        if not isinstance(answer, str):
            return f"has no reference answer (answer is {answer!r})"
        if isinstance(compare, MathVerify):
            return "" if answer.strip() else "the reference answer is empty"
        fault = compare.check_reference(answer)
        return f"the reference answer {answer!r} {fault}" if fault else ""


INSTALL = {
    "math_verify": "pip install 'math-verify[antlr4-13-2]'",
    "reasoning_gym": "pip install reasoning-gym  # needs a C compiler",
}
"""The command that installs each package a grader may need."""


def require(package: Literal["math_verify", "reasoning_gym"], where: str) -> None:
    """Refuse, with the command to type, if a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"needs the package {package.replace('_', '-')}", where=where, cure=INSTALL[package])


def _own(i: int, outcome: Outcome, reward: RewardFunction) -> _Grade:
    """What the user's function said of row `i`."""
    if outcome.kind != "value":
        return _Grade(error=f"{reward.function} {_verb(outcome)}{outcome.reason}")
    value = outcome.value
    said = value if isinstance(value, dict) and "__type__" not in value else {"score": value}
    where = f"{reward.function}, row {i}"
    if unknown := sorted(said.keys() - {"score", "correct", "format_ok", "reason"}):
        raise UserError(f"returned the unknown key {unknown[0][:MOST_SHOWN]!r}", where=where, allowed=_RETURNS)
    score = said.get("score")
    if not isinstance(score, bool | int | float) or not -_LARGEST <= score <= _LARGEST:
        raise UserError(f"returned {_shown(score)}", where=where, allowed=f"{_RETURNS}; numbers finite")
    correct = said.get("correct", score if isinstance(score, bool) else None)
    if correct is None and reward.correct_at is not None:
        correct = score >= reward.correct_at
    for name, flag in (("correct", correct), ("format_ok", said.get("format_ok"))):
        if not (flag is None or isinstance(flag, bool)):
            raise UserError(f"returned {_shown(flag)} as {name}", where=where, allowed="true or false")
    return _Grade(float(score), correct, said.get("format_ok"), reason=str(said.get("reason", "")))


def _verb(outcome: Outcome) -> str:
    return "raised " if outcome.kind == "raised" else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return one_line(str(value.get("__type__", "a dict")), MOST_SHOWN)
    if isinstance(value, str):
        return f"the text {value[:MOST_SHOWN]!r}"
    return "nothing" if value is None else one_line(str(value), MOST_SHOWN)


_CURES = {
    "correct": "Let every row say it (true or false, or the key correct of a dict) or none, or set reward.correct_at.",
    "format_ok": "Give the key format_ok for every row, or for none.",
}


def _collect(grades: Sequence[_Grade], grader: str) -> Graded:
    """Rows' verdicts as tensors; a flag that only some valid rows have is refused in the name of `grader`."""
    valid = torch.tensor([not g.error for g in grades], dtype=torch.bool)
    parts = {}
    for name in ("correct", "format_ok", "status"):
        values = [getattr(g, name) for g in grades]
        known = [i for i, g in enumerate(grades) if not g.error and values[i] is not None]
        if not known:
            continue
        if len(known) < int(valid.sum()):
            row = next(i for i, g in enumerate(grades) if not g.error and values[i] is None)
            what = f"says nothing of {name!r}, which row {known[0]} has"
            raise UserError(what, where=f"{grader}, row {row}", cure=_CURES.get(name, ""))
        if name == "status":
            parts[name] = torch.tensor([-1 if v is None else STATUSES.index(v) for v in values])
        else:
            parts[name] = torch.tensor([bool(v) for v in values])
    errors = {i: g.error for i, g in enumerate(grades) if g.error}
    scores = Scores(torch.tensor([g.score for g in grades], dtype=torch.float32), valid, parts, errors)
    return Graded(scores, tuple(g.answer for g in grades), {i: g.reason for i, g in enumerate(grades) if g.reason})
