"""The whole of Python for one program, in a fresh process that has given up rights; weaker than the interpreter.

The process starts without environment (but a fixed hash seed), without site-packages, in an empty folder of its own,
as the leader of a session, and confines itself before the program is sent (`sandbox_child`). The parent keeps the
clock and kills the whole process group when it is over, one way or the other. Leaves out: the verdict (`sandbox`).

Not for code of an adversary: it reads every file that its user may read, and where the system call filter is missing
(`SubprocessBackend.confinement` lacks "calls") it also has network, processes and its user's files.
"""

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.reward import sandbox_child
from steersman.reward.sandbox import MAX_RESULT, Call, Limits, Outcome, SandboxFault, Tail
from steersman.reward.sandbox_values import encode

START_LIMIT = 60.0
"""Seconds a process may take to be ready; more is a fault of the sandbox."""
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
_KINDS = ("error", "memory", "forbidden")


class SubprocessBackend:
    """Programs in processes of their own.

    Args:
        limits: of each program.

    Raises:
        UserError: the platform has no process groups.
    """

    def __init__(self, limits: Limits) -> None:
        if os.name != "posix":
            raise UserError("the subprocess backend needs Linux or macOS", where="sandbox", cure="Use monty.")
        self.limits = limits
        self.confinement: tuple[str, ...] = ()
        """What the last process could give up: limits, parent (dies with it), calls (the system call filter)."""

    def close(self) -> None:
        """Nothing outlives its program."""

    def outcomes(self, program: str, calls: Sequence[Call], tail: Tail) -> Generator[Outcome, None, None]:
        """See `sandbox.Backend`."""
        with tempfile.TemporaryDirectory(prefix="steersman-sandbox-") as folder:
            process = _Process(self.limits, folder, tail)
            try:
                ready = process.ask({"nonce": process.nonce, "program": program}, time.monotonic() + START_LIMIT)
                if ready.kind != "value":
                    raise SandboxFault(f"a process was not ready: {ready.kind}, {ready.text}; {tail.text}")
                self.confinement = tuple(json.loads(ready.text))
                end = time.monotonic() + self.limits.seconds
                yield (last := process.ask(None, end))
                for name, given, _ in calls if last.kind == "value" else ():
                    yield (last := process.ask([name, json.loads(encode(given))], end))
                    if last.kind in ("timeout", "memory", "crash"):
                        break
            finally:
                process.kill()


class _Process:
    """One child: requests are answered in order, what it prints goes to `tail`."""

    def __init__(self, limits: Limits, folder: str, tail: Tail) -> None:
        self.nonce, self._tail, self._seconds, self._number, self._unread = (
            secrets.token_hex(16),
            tail,
            limits.seconds,
            0,
            b"",
        )
        told = {"seconds": limits.seconds, "memory": limits.memory, "depth": limits.depth, "result": MAX_RESULT}
        child = str(Path(sandbox_child.__file__))
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-B", "-u", child, json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxFault(f"a process cannot be started: {error}") from None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._in, self._out, self._printed = (
            p.fileno() for p in (self._child.stdin, self._child.stdout, self._child.stderr)
        )
        os.set_blocking(self._in, False)

    def ask(self, request: Any, end: float) -> Outcome:
        """Send one line, wait for one line until `end`, and keep what is printed meanwhile."""
        data = json.dumps(request).encode() + b"\n"
        with selectors.DefaultSelector() as ready:
            ready.register(self._out, selectors.EVENT_READ)
            ready.register(self._printed, selectors.EVENT_READ)
            ready.register(self._in, selectors.EVENT_WRITE)
            while b"\n" not in self._unread:
                left = end - time.monotonic()
                if left <= 0:
                    return Outcome("timeout", f"took longer than {self._seconds:g} s")
                for key, _ in ready.select(left):
                    try:
                        if key.fd == self._in:
                            data = data[os.write(self._in, data) :]
                            if not data:
                                ready.unregister(self._in)
                        elif not self._read(key.fd):
                            if key.fd == self._out:
                                return self._dead(end)
                            ready.unregister(key.fd)
                    except BrokenPipeError:
                        return self._dead(end)
                if len(self._unread) > 2 * MAX_RESULT:
                    return Outcome("error", "the value is too large")
        line, _, self._unread = self._unread.partition(b"\n")
        return self._answer(line)

    def _read(self, source: int) -> bool:
        data = os.read(source, 65536)
        if source == self._out:
            self._unread += data
        else:
            self._tail.add(data.decode(errors="replace"))
        return bool(data)

    def _answer(self, line: bytes) -> Outcome:
        before = f"{self.nonce} {self._number} ".encode()
        self._number += 1
        if not line.startswith(before):
            return Outcome("crash", "wrote into the channel of the answers")
        try:
            text = line[len(before) :].decode()
            if not text.startswith('{"error"'):
                return Outcome("value", text)
            said = json.loads(text)["error"]
            kinds: Any = [k for k in _KINDS if k == said["kind"]] or ["error"]
            return Outcome(kinds[0], str(said["message"])[:500])
        except (ValueError, KeyError, TypeError, RecursionError):
            return Outcome("error", "the answer cannot be read")

    def _dead(self, end: float) -> Outcome:
        """The answers' channel was closed: by its end, or by the program."""
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(max(0.05, min(1.0, end - time.monotonic())))
        code = self._child.poll()
        if code == -signal.SIGXCPU:
            return Outcome("timeout", "used up its processor time")
        return Outcome("crash", "closed its answers" if code is None else f"ended with {code}")

    def kill(self) -> None:
        """End the process and its group, and let go of the pipes."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        os.set_blocking(self._printed, False)
        with suppress(BlockingIOError):
            self._read(self._printed)  # what was printed last; a pipe holds no more than one reading
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
