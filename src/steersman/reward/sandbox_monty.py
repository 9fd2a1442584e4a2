"""The isolated interpreter: pydantic-monty, which runs a subset of Python in worker processes of its own.

It has no files, sockets, processes, environment or clock (time stands still, sleeping takes none, `random` starts from
a fixed seed). Every program has a session of its own; nothing of it is left for the next one in the same worker.
Values leave it as text that is written inside, never as objects: making objects of them in the parent would let a
program choose their hashes. Besides the interpreter's limits, a worker starts with an empty environment and, from the
operating system, a ceiling of its address space, no core dump and no bytes into files.

Leaves out: the verdict (`sandbox`). What the subset lacks (inheritance, generators, most modules) is `forbidden`.
"""

import datetime
import importlib.util
import inspect
import os
import secrets
import shutil
import signal
import sysconfig
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

from steersman.core.errors import UserError
from steersman.reward.sandbox import Call, Limits, Outcome, SandboxFault, Tail
from steersman.reward.sandbox_child import encoder

INSTALL = "pip install 'steersman[code]'  # or: pip install pydantic-monty"
GRACE = 0.25
"""Seconds after which a worker that did not stop by itself is killed; also what a program may have used up before its
calls are watched from outside."""
_POLICY: Any = {
    "datetime": datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC),
    "sleep": "zero",
    "process_time": "zero",
    "random_start": {"seed": 0},
}
_OVERHEAD = 2**30
_PER_WORKER = 1000


class MontyBackend:
    """Programs in the isolated interpreter.

    Args:
        limits: of each program.
        workers: most worker processes.

    Raises:
        UserError: the package or its interpreter is not installed.
    """

    def __init__(self, limits: Limits, workers: int) -> None:
        if importlib.util.find_spec("pydantic_monty") is None:
            raise UserError("needs the package pydantic-monty", where="sandbox", cure=INSTALL)
        import pydantic_monty

        self._monty, self._seconds, self._workers = pydantic_monty, limits.seconds, workers
        self._folder = tempfile.TemporaryDirectory(prefix="steersman-sandbox-")
        self._pool = pydantic_monty.Monty(
            binary_path=_starter(Path(self._folder.name), limits.memory),
            min_processes=1,
            max_processes=workers,
            request_timeout=limits.seconds + 4 * GRACE,
            max_checkouts_per_worker=_PER_WORKER,
            feed_duration_limit_grace=GRACE,
        )
        self._limits: Any = {
            "max_feed_duration_secs": limits.seconds,
            "max_memory": limits.memory,
            "max_recursion_depth": limits.depth,
            "max_total_sleep_secs": 0.0,
        }
        try:
            self._pool.__enter__()
        except (RuntimeError, OSError) as error:
            self._folder.cleanup()
            raise UserError(f"the interpreter does not start: {error}", where="sandbox", cure=INSTALL) from None

    def close(self) -> None:
        """End the workers."""
        self._pool.__exit__(None, None, None)
        self._folder.cleanup()

    def outcomes(self, program: str, calls: Sequence[Call], tail: Tail) -> Generator[Outcome, None, None]:
        """See `sandbox.Backend`."""
        names = ("encode", "given", "json", "make")
        encode, arguments, json, make = (f"_{name}_{secrets.token_hex(8)}" for name in names)
        source = _ENCODER.replace("encoder", make).replace("json.", f"{json}.")
        before = f"import json as {json}\n{source}\n{encode} = {make}()"
        try:
            with self._prepared(before) as session:
                start = time.monotonic()
                yield (last := self._feed(session, program, {}, tail, start))
                for name, given, _ in calls if last.kind == "value" else ():
                    # Formatting makes text of whatever comes, without a name that a program could have taken.
                    code = f'f"{{{encode}({name}(*{arguments}))!s}}"'
                    yield (last := self._feed(session, code, {arguments: given}, tail, start))
                    if last.kind in ("timeout", "memory", "crash"):
                        break
        except (self._monty.MontyError, RuntimeError, TimeoutError, OSError) as error:
            raise SandboxFault(f"the interpreter failed: {type(error).__name__}: {error}") from None

    @contextmanager
    def _prepared(self, code: str) -> Generator[Any, None, None]:
        """A session in which trusted code has run; a worker that had died while idle is passed over."""
        with ExitStack() as stack:
            for left in reversed(range(self._workers + 1)):
                try:
                    session = stack.enter_context(self._pool.checkout(limits=self._limits, os_policy=_POLICY))
                    session.feed_run(code)
                    break
                except self._monty.MontyCrashedError:
                    stack.pop_all().close()
                    if not left:
                        raise
            yield session

    def _feed(self, session: Any, code: str, inputs: dict[str, Any], tail: Tail, start: float) -> Outcome:
        used = time.monotonic() - start
        if used >= self._seconds:
            return self._late()
        watch = _Watch(session.worker_pid, self._seconds - used) if used > GRACE else None
        try:
            # A program's value is not converted: the definition's last expression is None, a call's is text.
            code = code if inputs else f"{code}\nNone\n"
            value = session.feed_run(code, inputs=inputs, print_callback=lambda _, text: tail.add(text))
            return Outcome("value", str(value))
        except self._monty.MontyCrashedError as error:
            if error.timed_out or (watch is not None and watch.killed):
                return self._late()
            return Outcome("crash", f"its worker died: {error}"[:500])
        except (self._monty.MontyRuntimeError, self._monty.MontySyntaxError) as error:
            return self._said(error)
        finally:
            if watch is not None:
                watch.end()

    def _late(self) -> Outcome:
        return Outcome("timeout", f"took longer than {self._seconds:g} s")

    def _said(self, error: Any) -> Outcome:
        """What an exception inside the interpreter says of the program."""
        message, inner = str(error)[:500], error.exception()
        if isinstance(inner, TimeoutError) and message.startswith("TimeoutError: feed time limit exceeded"):
            return self._late()
        if isinstance(inner, MemoryError):
            return Outcome("memory", message)
        absent = isinstance(inner, AttributeError) and "module '" in message
        unsupported = "The monty syntax parser" in message or "not supported in this environment" in message
        if isinstance(inner, OSError | ImportError) or absent or unsupported or _no_name(inner, message):
            return Outcome("forbidden", message)
        return Outcome("error", message)


_ABSENT = ("__import__", "input", "compile", "globals", "breakpoint", "exit", "quit")


def _no_name(inner: BaseException, message: str) -> bool:
    """Whether a builtin was asked for that reaches out of a program and that the interpreter does not have."""
    return isinstance(inner, NameError) and any(f"name '{name}'" in message for name in _ABSENT)


class _Watch:
    """Kills a worker after a while, unless it is ended before."""

    def __init__(self, pid: int | None, seconds: float) -> None:
        self.killed = False
        self._pid, self._lock, self._over = pid, threading.Lock(), False
        self._timer = threading.Timer(seconds, self._kill)
        self._timer.daemon = True
        self._timer.start()

    def _kill(self) -> None:
        with self._lock:
            if self._pid is not None and not self._over:
                self.killed = True
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)

    def end(self) -> None:
        """After this the worker is not killed; it may already be another program's."""
        with self._lock:
            self._over = True
        self._timer.cancel()


def _starter(folder: Path, memory: int) -> str | None:
    """A script that starts the interpreter without environment and under limits; None = its own way (no shell)."""
    here = Path(sysconfig.get_path("scripts")) / "monty"
    binary = os.environ.get("MONTY_BIN") or (str(here) if here.is_file() else shutil.which("monty"))
    if os.name != "posix" or binary is None:
        return None
    script = folder / "monty"
    ceiling = (_OVERHEAD + 4 * memory) // 1024
    limits = f"ulimit -c 0; ulimit -f 0; ulimit -v {ceiling} 2>/dev/null"
    script.write_text(f'#!/bin/sh\n{limits}\nexec env -i {quote(binary)} "$@" 2>/dev/null\n')
    script.chmod(0o700)
    return str(script)


_ENCODER = inspect.getsource(encoder)
