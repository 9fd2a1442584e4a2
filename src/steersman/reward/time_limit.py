"""Calling a function in a process of its own, with a time limit on every call.

A call that takes too long ends the process and everything it started; the next call starts a new one. What the function
prints is shown on standard error, line by line with its name, up to a few kilobytes. Leaves out: what is called
(`verifiable`), the process itself (`grading_worker`).
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from steersman.core.errors import RunStopped, one_line

START_LIMIT = 120.0
"""Seconds a process may take to import the function."""
PRINTED = 4096
"""Characters that are shown of all that a function prints."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to: its value, or that it raised, took too long or ended its process, and the reason."""

    kind: Literal["value", "raised", "timeout", "died"]
    value: Any = None
    reason: str = ""


class TimedFunction:
    """``module:function`` behind a time limit; the process starts with the first call and serves all further ones.

    Args:
        target: what to import and call; arguments and results travel as JSON.
        time_limit: seconds a call may take.
    """

    def __init__(self, target: str, time_limit: float) -> None:
        self.target, self.time_limit = target, time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[Any, Any] | None = None
        self._unread = b""
        self._printed = _Printed(target)

    def __call__(self, arguments: Sequence[Any]) -> Outcome:
        """Call the function.

        Raises:
            RunStopped: the process cannot be started, or cannot import the function.
        """
        if self._process is None or self._process.poll() is not None:
            self.start()
        outcome = self._exchange(json.dumps(list(arguments)).encode() + b"\n", self.time_limit)
        if outcome.kind in ("timeout", "died"):
            self.close()
        return outcome

    def close(self) -> None:
        """End the process and all that it started."""
        if self._end is not None:
            self._end()
        self._process = self._end = None
        self._printed.files = []

    def start(self) -> None:
        """Start the process now instead of with the first call.

        Raises:
            RunStopped: it cannot be started, or cannot import the function.
        """
        self.close()
        command = [sys.executable, "-P", "-m", "steersman.reward.grading_worker", self.target, str(os.getpid())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._process, self._unread = process, b""
        self._printed.listen(process)
        self._end = weakref.finalize(self, _kill, process)
        ready = self._exchange(b"", START_LIMIT)
        if ready.kind != "value":
            self.close()
            raise RunStopped(f"the grader of {self.target!r} did not start: {ready.reason}")

    def _exchange(self, request: bytes, limit: float) -> Outcome:
        """Send a request and wait for the answer, and show what was printed in between."""
        try:
            return self._wait(request, limit)
        finally:
            self._printed.take()

    def _wait(self, request: bytes, limit: float) -> Outcome:
        """Send a request and wait for the answer; both within `limit`, since a full pipe would block as well."""
        process, end = self._process, time.monotonic() + limit
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        source, sink = process.stdout.fileno(), process.stdin.fileno()
        os.set_blocking(sink, False)
        while b"\n" not in self._unread:
            left = end - time.monotonic()
            if left <= 0:
                return Outcome("timeout", reason=f"took longer than {limit:g} s")
            heard = [source, *self._printed.files]
            readable, writable, _ = select.select(heard, [sink] if request else [], [], left)
            try:
                if writable:
                    request = request[os.write(sink, request) :]
                if {*readable} - {source}:
                    self._printed.take()
                if source in readable:
                    data = os.read(source, 65536)
                    if not data:
                        raise BrokenPipeError
                    self._unread += data
            except BrokenPipeError:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                return Outcome("died", reason=f"ended its process ({_how(process.returncode)})")
        line, _, self._unread = self._unread.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            return Outcome("raised", reason=one_line(str(reply["error"])))
        return Outcome("value", reply.get("value"))


class _Printed:
    """What a process prints: lines on standard error, each with the function's name, until `PRINTED` is reached."""

    def __init__(self, target: str) -> None:
        self.target, self.left = target, PRINTED
        self.files: list[int] = []
        self._line = b""

    def listen(self, process: "subprocess.Popen[bytes]") -> None:
        """From now on, take what this process prints."""
        assert process.stderr is not None
        self.files, self._line = [process.stderr.fileno()], b""
        os.set_blocking(self.files[0], False)

    def take(self) -> None:
        """Show what has come; what is beyond the limit is read too, so that the function never waits for a reader."""
        while self.files:
            try:
                data = os.read(self.files[0], 65536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.files = []  # the function closed it, or is gone
            *lines, self._line = (self._line + data).split(b"\n") if data else (self._line, b"")
            if len(self._line) > PRINTED:  # a line that never ends is shown by its beginning
                lines, self._line = [*lines, self._line], b""
            for line in lines:
                self._show(line.decode("utf-8", "replace"))

    def _show(self, line: str) -> None:
        if self.left <= 0 or not line.strip():
            return
        text = one_line(line.rstrip())
        self.left -= len(text)
        print(f"{self.target}: {text}", file=sys.stderr)
        if self.left <= 0:
            print(f"{self.target}: prints more, which is not shown", file=sys.stderr)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError):
            if pipe:
                pipe.close()
