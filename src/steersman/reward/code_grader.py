"""Grading completions that are programs, with the interface of `verifiable.Grader`.

A row carries `tests`: a list of [name of a function, list of arguments, expected value], as JSON has them; since JSON
has no tuples, a tuple counts as a list. Programs of a batch run at the same time. A program's own fault is a valid
failure with a status; only a fault of the sandbox, or two runs that disagree, makes a row invalid. Leaves out:
extraction (`code`), running (`sandbox`).
"""

from collections.abc import Mapping, Sequence

import torch

from steersman.core.errors import RunStopped, UserError
from steersman.core.types import Scores
from steersman.reward.code import CODE_STATUSES, CodeReward
from steersman.reward.sandbox import Call, Limits, Sandbox, SandboxFault, Verdict, check_calls
from steersman.reward.verifiable import Graded, Grader, RewardFunction, Row, Verifiable

_OF_VERDICT = {"pass": "correct", "fail": "wrong"}


class CodeGrader:
    """A reward of programs, ready to grade; close it, or use it in a ``with`` statement, to end its workers.

    Args:
        reward: how programs are found, run and scored.

    Raises:
        UserError: the backend is not installed.
    """

    def __init__(self, reward: CodeReward) -> None:
        self.reward = reward
        self._limits = Limits(seconds=reward.seconds, memory=reward.memory * 2**20)
        self._open: Sandbox | None = self._sandbox()

    def __enter__(self) -> "CodeGrader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; the next call starts new ones."""
        if self._open is not None:
            self._open.close()
        self._open = None

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse rows that cannot be graded, before anything is generated.

        Raises:
            UserError: names the first row without usable tests.
        """
        for i, row in enumerate(rows):
            calls_of(row, str(row.get("id", f"row {i}")))

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        rows: Sequence[Row],
        valid: Sequence[bool] | None = None,
    ) -> Graded:
        """Grade completions.

        Args:
            prompts: text of each prompt; not looked at.
            completions: text of each response, without special tokens.
            rows: the prompts' rows.
            valid: False = the response could not be made; it stays invalid and is not run. None: all could.

        Returns:
            `Graded` with parts `correct`, `format_ok` (code was found), `passed` (share of the tests) and `status`
            (index in `CODE_STATUSES`); `answer` is the code, `reasons` why a program failed.

        Raises:
            UserError: lists of unequal length; a row without usable tests.
            RunStopped: more than the share `max_invalid` of the graded rows is invalid.
        """
        sizes = {len(prompts), len(completions), len(rows), len(completions if valid is None else valid)}
        if len(sizes) > 1:
            raise UserError(f"prompts, completions, rows and valid differ in length: {sorted(sizes)}", where="reward")
        tests = [calls_of(row, str(row.get("id", f"row {i}"))) for i, row in enumerate(rows)]
        made = [True] * len(rows) if valid is None else [bool(v) for v in valid]
        found = [self.reward.extract(text) for text in completions]
        run = [i for i, (code, _) in enumerate(found) if code is not None and made[i]]
        verdicts = dict(zip(run, self._judge([found[i][0] or "" for i in run], [tests[i] for i in run]), strict=True))
        errors = {i: str(v) for i, v in verdicts.items() if isinstance(v, SandboxFault)}
        self._stop_above_limit(errors, sum(made))
        errors |= {i: "the response could not be made" for i, m in enumerate(made) if not m}
        return self._graded(found, {i: v for i, v in verdicts.items() if isinstance(v, Verdict)}, errors)

    def _sandbox(self) -> Sandbox:
        reward = self.reward
        return Sandbox(reward.backend, self._limits, reward.workers, reward.tolerance, lists_alike=True)

    def _judge(self, programs: list[str], tests: list[list[Call]]) -> list[Verdict | SandboxFault]:
        if self._open is None:
            self._open = self._sandbox()
        verdicts = self._open.run_many(programs, tests)
        if self.reward.runs == 1:
            return verdicts
        again = self._open.run_many(programs, tests)
        return [_agreed(a, b) for a, b in zip(verdicts, again, strict=True)]

    def _stop_above_limit(self, failed: Mapping[int, str], n: int) -> None:
        if len(failed) > self.reward.max_invalid * n:
            first = "; ".join(f"row {i}: {reason}" for i, reason in list(failed.items())[:3])
            share = f"max_invalid = {self.reward.max_invalid:g} of {n}"
            raise RunStopped(f"the sandbox failed on {len(failed)} rows, more than {share} ({first})")

    def _graded(
        self, found: list[tuple[str | None, str]], verdicts: Mapping[int, Verdict], errors: dict[int, str]
    ) -> Graded:
        status, passed = [], []
        for i, (_, fault) in enumerate(found):
            said = verdicts[i].status if i in verdicts else fault
            status.append(-1 if i in errors else CODE_STATUSES.index(_OF_VERDICT.get(said, said)))
            passed.append(verdicts[i].passed if i in verdicts else 0.0)
        valid = torch.tensor([i not in errors for i in range(len(found))], dtype=torch.bool)
        share = torch.tensor(passed, dtype=torch.float32)
        correct = torch.tensor([s == 0 for s in status], dtype=torch.bool)
        has_code = torch.tensor([code is not None for code, _ in found], dtype=torch.bool) & valid
        value = (correct.float() if self.reward.score == "all" else share) + self.reward.format_bonus * has_code
        parts = {"correct": correct, "format_ok": has_code, "passed": share, "status": torch.tensor(status)}
        scores = Scores(torch.where(valid, value, torch.nan), valid, parts, errors)
        reasons = {i: v.detail for i, v in verdicts.items() if v.detail}
        answers = tuple(None if i in errors else code for i, (code, _) in enumerate(found))
        return Graded(scores, answers, reasons, CODE_STATUSES)


def grader_of(
    reward: Verifiable | RewardFunction | CodeReward, allow_import: Sequence[str] = ()
) -> "Grader | CodeGrader":
    """The grader of a reward; see both classes for what they raise."""
    return CodeGrader(reward) if isinstance(reward, CodeReward) else Grader(reward, allow_import)


def calls_of(row: Row, where: str) -> list[Call]:
    """A row's tests as calls.

    Raises:
        UserError: there are none, or one is no [name, list of arguments, expected value].
    """
    tests = row.get("tests")
    shape = "[[name of a function, [arguments], expected value], ...]"
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise UserError("has no tests", where=where, allowed=shape)
    for i, test in enumerate(tests):
        if not isinstance(test, list | tuple) or len(test) != 3 or not isinstance(test[1], list | tuple):
            raise UserError(f"tests[{i}] is {test!r:.80}", where=where, allowed=shape)
    calls: list[Call] = [(test[0], tuple(test[1]), test[2]) for test in tests]
    check_calls(calls, f"{where}, tests")
    return calls


def _agreed(first: Verdict | SandboxFault, second: Verdict | SandboxFault) -> Verdict | SandboxFault:
    """The first verdict, unless a second run came to another one."""
    if not (isinstance(first, Verdict) and isinstance(second, Verdict)):
        return first if isinstance(first, SandboxFault) else second
    if (first.status, first.per_test) == (second.status, second.per_test):
        return first
    return SandboxFault(f"two runs disagree: {first.status} and {second.status}")
