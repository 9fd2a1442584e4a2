"""A local pool: starts the worker server, hands it jobs as workers become free, reports what ended.

One single-thread process per job. The server and its children hold the study's lock with us, so that after a
``kill -9`` nobody else writes the folder before the last of them is gone. Leaves out: what a job does
(`study.worker`), other machines (`study.pool_ray`), what is reported to a person (`cli`).
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from steersman.core.errors import RunStopped
from steersman.study.plan import Plan
from steersman.study.worker import error_file, record_error

MOST_WORKERS = 8
_TICK = 0.25
_ONE_THREAD = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB")


def default_workers() -> int:
    """Cores this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(cores, MOST_WORKERS))


@dataclass(frozen=True, slots=True)
class Job:
    """A run or an artefact to make: its id, the ids that must be there first, and whether to replace a stale one."""

    id: str
    needs: tuple[str, ...] = ()
    rebuild: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that ended: `error` is empty if it worked, else the first line of what went wrong."""

    job: str
    error: str = ""


class Crew(Protocol):
    """Whoever does jobs: the local pool, or one elsewhere."""

    workers: int

    def execute(self, jobs: Iterable[Job]) -> Iterator[Ended | tuple[str, ...]]:
        """As `Pool.execute`."""


StartCrew = Callable[[Plan, Path, str, int | None, int], AbstractContextManager[Crew]]
"""As `pool`: plan, root, spec, workers (None: as many as fit), file descriptor of the study's lock."""


def in_order(
    jobs: Iterable[Job], free: Callable[[int], bool], start: Callable[[Job], None], ended: Callable[[], Iterable[Ended]]
) -> Iterator[Ended | tuple[str, ...]]:
    """Do jobs in the order given, as far as their needs allow; what needs a job that failed is not started.

    Args:
        jobs: ids in `needs` that are not among the jobs are taken as done.
        free: whether one more can be started, given how many run.
        start: starts one.
        ended: those that ended since the last call; waits a moment for them.

    Yields:
        `Ended` for every job, and now and then the ids that run at the moment.
    """
    waiting = {job.id: job for job in jobs}
    active: set[str] = set()
    broken: set[str] = set()
    while waiting or active:
        for job in list(waiting.values()):
            lost = [need for need in job.needs if need in broken]
            if lost:
                del waiting[job.id]
                broken.add(job.id)
                yield Ended(job.id, f"not started, because {lost[0]} failed")
            elif free(len(active)) and not any(n in waiting or n in active for n in job.needs):
                del waiting[job.id]
                active.add(job.id)
                start(job)
        yield tuple(active)
        for event in ended() if waiting or active else ():
            active.remove(event.job)
            if event.error:
                broken.add(event.job)
            yield event


@dataclass(slots=True)
class Pool:
    """A running worker server; made by `pool`."""

    plan: Plan
    root: Path
    workers: int
    server: subprocess.Popen[bytes]
    errors: IO[bytes]
    ready: bool = False
    _rest: bytes = field(default=b"")

    def execute(self, jobs: Iterable[Job]) -> Iterator[Ended | tuple[str, ...]]:
        """Do jobs in the order given, as far as their needs allow.

        Args:
            jobs: ids in `needs` that are not among the jobs are taken as done.

        Yields:
            `Ended` for every job, and now and then the ids that run at the moment.

        Raises:
            RunStopped: the server died; what was finished stays valid.
        """
        jobs = list(jobs)
        if jobs:
            yield from self.importing()
        yield from in_order(
            jobs,
            free=lambda active: active < self.workers,
            start=lambda job: self._send({"job": job.id, "rebuild": job.rebuild}),
            ended=lambda: [Ended(a["job"], self._error(a["job"], a["code"])) for a in self._answers()],
        )

    def importing(self) -> Iterator[tuple[()]]:
        """Yield now and then until the server has imported the study: nobody's clock should run before."""
        while not self.ready:
            yield ()
            list(self._answers())

    def _error(self, job: str, code: int) -> str:
        if code == 0:
            return ""
        file = error_file(self.root, self.plan, job)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            often = " (often: out of memory)" if name == "SIGKILL" else ""
            record_error(self.root, self.plan, job, f"the worker was killed by {name}{often}")
        elif not file.is_file():
            record_error(self.root, self.plan, job, f"the worker ended with exit code {code}")
        text = file.read_text(errors="replace") if file.is_file() else f"the worker ended with exit code {code}"
        return text.split("\n--- last lines")[0].split("\n\n")[0].strip().removeprefix("error: ")

    def _send(self, order: Mapping[str, Any]) -> None:
        assert self.server.stdin is not None
        try:
            self.server.stdin.write(json.dumps(order).encode() + b"\n")
            self.server.stdin.flush()
        except OSError:
            raise self._dead() from None

    def _answers(self) -> Iterator[dict[str, Any]]:
        assert self.server.stdout is not None
        source = self.server.stdout.fileno()
        if not select.select([source], [], [], _TICK)[0]:
            return
        data = os.read(source, 65536)
        if not data:
            raise self._dead()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "ready" in answer:
                self.ready = True
            else:
                yield answer

    def _dead(self) -> RunStopped:
        self.server.wait()
        self.errors.seek(0)
        tail = self.errors.read().decode(errors="replace").strip()[-2000:]
        return RunStopped(
            f"the worker server ended with exit code {self.server.returncode}"
            + (f"\n{tail}" if tail else "")
            + "\n       What was finished is valid; the same command continues."
        )


@contextmanager
def pool(plan: Plan, root: Path, spec: str, workers: int | None, lock: int) -> Iterator[Pool]:
    """Start the worker server, and kill it with everything it started on the way out.

    Args:
        plan: what the server will be asked to do.
        root: the folder of all runs.
        spec: "module:ATTRIBUTE" of the study.
        workers: jobs at a time, >= 1; None: `default_workers`.
        lock: file descriptor of the study's lock, shared with the workers.
    """
    command = [sys.executable, "-P", "-m", "steersman.study.worker", str(root), spec, plan.mode.name]
    command += ["--extra", str(plan.extra), "--serve", str(os.getpid())]
    # One hash seed, so that an iteration over a set of strings cannot differ between two attempts at a run.
    threads = {f"{name}_NUM_THREADS": "1" for name in _ONE_THREAD}
    environment = {**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    path = [p for p in sys.path if p]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    with tempfile.TemporaryFile() as errors:
        # A session of its own: Ctrl-C reaches only us, and we end the workers in order.
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
            pass_fds=(lock,),
        )
        try:
            yield Pool(plan, root, workers or default_workers(), server, errors)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            for pipe in (server.stdin, server.stdout):
                with suppress(OSError):  # an order that was never read
                    if pipe:
                        pipe.close()
