"""Running programs that nobody has read, and judging them by what their functions return.

A program is defined, then its functions are called one by one; each call's arguments are sent, its value comes back
and is compared here, in the parent, with an expected value that never leaves it. Exit codes and printed text count for
nothing, so that leaving early, printing the right text or patching `assert` gains nothing. What a program does to
itself (too long, too much memory, an exception, a crash, something it may not do) is a verdict with a status; a fault
of the sandbox is a `SandboxFault`. Which of the two it was, when a worker died, is settled by running the program a
second time and then a program known to work.

Backends: `monty`, an interpreter of a subset of Python without files, sockets, processes or clock (`sandbox_monty`);
`subprocess`, the whole of Python in a process that has given up rights (`sandbox_subprocess`).

Not covered: flaws of the interpreter or of the kernel; time and heat of the machine (side channels); with
`subprocess` also reading every file that the user may read, and, where the system call filter is missing (other than
Linux on x86-64), network, processes and the user's files. Do not run code of an adversary with `subprocess`.
"""

import keyword
import math
import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from steersman.core.errors import RunStopped, UserError
from steersman.reward.sandbox_values import check_value, matches

Call = tuple[str, tuple[Any, ...], Any]
"""(name of a function, its arguments, the expected value)."""
Status = Literal["pass", "fail", "error", "timeout", "memory", "forbidden", "crash"]
MAX_RESULT = 2**20
"""Characters of a returned value, written as JSON; a larger one is an error."""
MAX_PROGRAM = 100_000
"""Characters of a program; a longer one is an error and is not run."""
_FATAL = ("timeout", "memory", "crash")
_CONTROL = "def control(x):\n    return [x]\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Args:
        seconds: wall-clock time for its definition and all calls together, > 0.
        memory: bytes beyond what the interpreter itself needs, >= 2^20.
        depth: calls on the stack, 10 to 1000.
        output: characters of printed text that are kept, from the end.
    """

    seconds: float = 2.0
    memory: int = 64 * 2**20
    depth: int = 500
    output: int = 2000

    def __post_init__(self) -> None:
        for name, low, high in (("seconds", 0.01, 3600), ("memory", 2**20, 2**40), ("depth", 10, 1000)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name} is {value}", where="Limits", allowed=f"{low} to {high}")
        if not 0 <= self.output <= MAX_RESULT:
            raise UserError(f"output is {self.output}", where="Limits", allowed=f"0 to {MAX_RESULT}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a program.

    Args:
        status: pass = every call gave the expected value; else that of the first call that did not: fail = another
            value, error = an exception or a value that cannot be read, timeout, memory, forbidden = asked for a file,
            process, module or feature that the sandbox does not give, crash = its worker died.
        per_test: whether each call gave the expected value; False for those that were not reached.
        seconds: wall-clock time.
        stdout_tail: the last characters that it printed.
        detail: why, for a reader; holds no expected value.
    """

    status: Status
    per_test: tuple[bool, ...]
    seconds: float = math.nan
    stdout_tail: str = ""
    detail: str = ""

    @property
    def passed(self) -> float:
        """Share of the calls that gave the expected value."""
        return sum(self.per_test) / len(self.per_test)


class SandboxFault(RunStopped):
    """The sandbox itself failed; nothing is known of the program."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a definition or a call came to: `text` is a value as `sandbox_child.encoder` writes it, or the reason."""

    kind: Literal["value", "error", "timeout", "memory", "forbidden", "crash"]
    text: str = ""


class Tail:
    """The last characters of a text that arrives in pieces."""

    def __init__(self, size: int) -> None:
        self.size, self.text = size, ""

    def add(self, piece: str) -> None:
        """Append, and forget what is too old."""
        self.text = (self.text + piece[-self.size :])[-self.size :] if self.size else ""


class Backend(Protocol):
    """What runs programs; safe to use from several threads."""

    def outcomes(self, program: str, calls: Sequence[Call], tail: Tail) -> Generator[Outcome, None, None]:
        """The outcome of the definition, then of each call in order; nothing follows one after which it is lost.

        Raises:
            SandboxFault: the sandbox failed.
        """
        ...

    def close(self) -> None:
        """End every process."""
        ...


class Sandbox:
    """A pool that runs programs; close it, or use it in a ``with`` statement.

    Args:
        backend: "monty" or "subprocess".
        limits: of each program; None: `Limits()`.
        workers: programs at the same time; None: one for each processor.
        tolerance: for floats, see `sandbox_values.matches`.
        lists_alike: whether a tuple counts as a list.

    Raises:
        UserError: the backend's package is not installed, or the platform does not have it.
    """

    def __init__(
        self,
        backend: Literal["monty", "subprocess"] = "monty",
        limits: Limits | None = None,
        workers: int | None = None,
        tolerance: float | None = None,
        lists_alike: bool = False,
    ) -> None:
        if backend not in ("monty", "subprocess"):
            raise UserError(f"there is no backend {backend!r}", where="sandbox", allowed="monty, subprocess")
        if tolerance is not None and not 0 <= tolerance < 1:
            raise UserError(f"tolerance is {tolerance}", where="sandbox", allowed="0 <= tolerance < 1")
        self.limits = limits or Limits()
        self.tolerance, self.lists_alike = tolerance, lists_alike
        workers = os.cpu_count() or 1 if workers is None else workers
        if workers < 1:
            raise UserError(f"workers is {workers}", where="sandbox", allowed="1 or more")
        self._backend = _backend(backend, self.limits, workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; a closed sandbox is not used again."""
        self._threads.shutdown(cancel_futures=True)
        self._backend.close()

    def run(self, program: str, calls: Sequence[Call]) -> Verdict:
        """Judge one program.

        Args:
            program: source text.
            calls: what is called and expected, at least one.

        Raises:
            UserError: calls that cannot be made, see `check_calls`.
            SandboxFault: the sandbox failed.
        """
        check_calls(calls)
        return self._settled(program, calls)

    def run_many(self, programs: Sequence[str], calls: Sequence[Sequence[Call]]) -> list[Verdict | SandboxFault]:
        """Judge programs at the same time, each with calls of its own; a fault is returned in its program's place.

        Raises:
            UserError: lists of unequal length, or calls that cannot be made.
        """
        if len(programs) != len(calls):
            raise UserError(f"{len(programs)} programs for {len(calls)} lists of calls", where="sandbox")
        for i, wanted in enumerate(calls):
            check_calls(wanted, f"program {i}")

        def one(program: str, wanted: Sequence[Call]) -> Verdict | SandboxFault:
            try:
                return self._settled(program, wanted)
            except SandboxFault as fault:
                return fault

        return list(self._threads.map(one, programs, calls))

    def _settled(self, program: str, calls: Sequence[Call]) -> Verdict:
        """A verdict that is the program's own doing: a death of its worker must repeat, and a control must live."""
        verdict = self._once(program, calls)
        if verdict.status != "crash":
            return verdict
        verdict = self._once(program, calls)
        if verdict.status == "crash":
            control = self._once(_CONTROL, [("control", (1,), [1])])
            if control.status != "pass":
                raise SandboxFault(f"a worker died, and so did a harmless program: {control.status}, {control.detail}")
        return verdict

    def _once(self, program: str, calls: Sequence[Call]) -> Verdict:
        start, tail = time.monotonic(), Tail(self.limits.output)
        if len(program) > MAX_PROGRAM or any("\ud800" <= c <= "\udfff" for c in program):
            said: list[tuple[Status, str]] = [("error", f"no text of at most {MAX_PROGRAM:,} characters")] * len(calls)
        else:
            said = self._said(program, calls, tail)
        status, detail = next(((s, d) for s, d in said if s != "pass"), ("pass", ""))
        per_test = tuple(s == "pass" for s, _ in said)
        return Verdict(status, per_test, time.monotonic() - start, tail.text, detail)  # type: ignore[arg-type]

    def _said(self, program: str, calls: Sequence[Call], tail: Tail) -> list[tuple[Status, str]]:
        """(status, detail) of each call; what ended the program counts for all calls that were not made."""
        said: list[tuple[Status, str]] = []
        with closing(self._backend.outcomes(program, calls, tail)) as outcomes:
            defined = next(outcomes)
            if defined.kind != "value":
                return [(defined.kind, defined.text)] * len(calls)
            for i, (call, outcome) in enumerate(zip(calls, outcomes, strict=False)):
                status, detail = self._judge(outcome, call[2])
                said.append((status, f"call {i}: {detail}" if detail else ""))
        return said + [said[-1]] * (len(calls) - len(said))

    def _judge(self, outcome: Outcome, expected: Any) -> tuple[Status, str]:
        if outcome.kind != "value":
            return outcome.kind, outcome.text
        try:
            if len(outcome.text) > MAX_RESULT:
                raise ValueError("the value is too large")
            right = matches(outcome.text, expected, self.tolerance, self.lists_alike)
        except ValueError as error:
            return "error", str(error)
        return ("pass", "") if right else ("fail", f"gave {outcome.text[:200]}")


def run(
    program: str,
    calls: Sequence[Call],
    limits: Limits | None = None,
    backend: Literal["monty", "subprocess"] = "monty",
) -> Verdict:
    """Judge one program in a sandbox of its own; a `Sandbox` is faster for many.

    Raises:
        UserError: calls that cannot be made, or the backend is not installed.
        SandboxFault: the sandbox failed.
    """
    with Sandbox(backend, limits, workers=1) as sandbox:
        return sandbox.run(program, calls)


def check_calls(calls: Sequence[Call], where: str = "calls") -> None:
    """Refuse calls that cannot be made.

    Raises:
        UserError: there are none; one is no (name, tuple of arguments, expected value); a name that is no identifier;
            a value that cannot be conveyed.
    """
    if not calls:
        raise UserError("there are no calls, so that every program would pass", where=where)
    for i, call in enumerate(calls):
        if not isinstance(call, tuple) or len(call) != 3 or not isinstance(call[1], tuple):
            raise UserError("is no (name, tuple of arguments, expected value)", where=f"{where}[{i}]")
        name = call[0]
        if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
            raise UserError(f"{name!r} is no name of a function", where=f"{where}[{i}]")
        check_value(call[1], f"{where}[{i}], arguments")
        check_value(call[2], f"{where}[{i}], expected value")


def _backend(name: str, limits: Limits, workers: int) -> Backend:
    if name == "monty":
        from steersman.reward.sandbox_monty import MontyBackend

        return MontyBackend(limits, workers)
    from steersman.reward.sandbox_subprocess import SubprocessBackend

    return SubprocessBackend(limits)
