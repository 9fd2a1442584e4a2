"""The process that does the work: one run or one artefact in one process, forked from a server that has imported.

Importing torch and transformers costs seconds, so the pool starts one server process which imports the study once and
forks a child for every job; a child shares nothing with the next one. The server reads jobs as JSON lines from its
standard input and answers with JSON lines on its standard output. It dies with the process that started it, and its
children die with it. ``python -m steersman.study.worker ROOT STUDY MODE RUN_ID`` does one run without a pool.
Leaves out: which jobs, in which order (`study.pool`, `study.run`).
"""

import argparse
import ctypes
import errno
import fcntl
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steersman.core.errors import RunStopped, UserError
from steersman.store.files import digest, read_json, write_json, write_text
from steersman.store.provenance import made_by
from steersman.store.run import RunDir
from steersman.study.load import code_in, code_of, load_study
from steersman.study.plan import Plan, PlannedArtefact, PlannedRun, make_plan, study_folder
from steersman.study.progress import clear_progress

TAIL_LINES = 40
_PR_SET_PDEATHSIG = 1


def do_run(plan: Plan, run: PlannedRun, root: Path, spec: str) -> None:
    """Do one run in this process: start or continue its folder, run the study's function, write the result last.

    Raises:
        UserError, RunStopped: as the study's function; other exceptions are bugs and pass through as well.
    """
    wall, cpu = time.monotonic(), _cpu_seconds()
    folder = study_folder(root, plan.study) / run.id
    code = code_of(spec)
    inputs = {a.artefact.name: a.folder(root) for a in plan.artefacts if a.artefact.name in run.cell.needs}
    notes = {name: read_json(path / "artefact.json") for name, path in inputs.items()}
    made = made_by() | code | {"artefacts": {n: digest(code_in(note["made_by"])) for n, note in notes.items()}}
    _discard_other_code(folder, made)
    directory = RunDir(folder)
    directory.start({**run.identity, "id": run.id, "made_by": made})
    earlier = directory.read("attempts")
    directory.append("attempts", [{"event": "start"}])
    try:
        value = dict(plan.study.run(run.cell, directory, inputs))
    except BaseException:
        directory.append("attempts", [{"event": "end", **_spent(wall, cpu)}])
        raise
    clear_progress(folder)
    timing = {**dict(value.pop("timing", {})), **_total(earlier, _spent(wall, cpu))}
    directory.finish(value, timing)


def _discard_other_code(folder: Path, made: Mapping[str, Any]) -> None:
    """Begin anew where an unfinished run was begun by other code: its checkpoints are not this code's."""
    file = folder / "run.json"
    if not file.is_file():
        return
    known = read_json(file).get("made_by", {})
    if (code_in(known), known.get("artefacts")) != (code_in(made), made["artefacts"]):
        file.unlink()  # first, so that a kill right after it leaves nothing that looks begun
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "log.txt":
                path.unlink()


def _total(earlier: list[dict[str, Any]], own: Mapping[str, float]) -> dict[str, Any]:
    """Add the time of earlier attempts; one that was killed left none, and the sum is then marked as partial."""
    ended = [row for row in earlier if row["event"] == "end"]
    attempts = 1 + sum(row["event"] == "start" for row in earlier)
    return {
        "cpu_seconds": own["cpu_seconds"] + sum(row["cpu_seconds"] for row in ended),
        "wall_seconds": own["wall_seconds"] + sum(row["wall_seconds"] for row in ended),
        "peak_rss_mib": max([own["peak_rss_mib"], *(row["peak_rss_mib"] for row in ended)]),
        "attempts": attempts,
        "partial": len(ended) + 1 < attempts,
    }


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _spent(wall: float, cpu: float) -> dict[str, float]:
    """Time since the run began (imports are the server's, once) and peak memory (imported libraries included)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "cpu_seconds": round(_cpu_seconds() - cpu, 3),
        "wall_seconds": round(time.monotonic() - wall, 3),
        "peak_rss_mib": round(peak / unit, 1),
    }


def build_artefact(plan: Plan, planned: PlannedArtefact, root: Path, spec: str, rebuild: bool = False) -> None:
    """Build one artefact in a temporary folder and put it in its place whole; one that is there is left alone.

    Two studies may want the same artefact at once: the second waits for the first and then finds it.
    """
    final = planned.folder(root)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".building-{planned.id}"
    with (final.parent / f".{planned.id}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.is_dir() and not (rebuild and code_in(read_json(final / "artefact.json")["made_by"]) != code_of(spec)):
            return
        wall, cpu = time.monotonic(), _cpu_seconds()
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        folders = {a.artefact.name: a.folder(root) for a in plan.artefacts if a.artefact.name in planned.artefact.needs}
        line = planned.artefact.build(planned.artefact.settings, temporary, folders)
        note = {"name": planned.artefact.name, "line": line, "made_by": made_by() | code_of(spec)}
        write_json(temporary / "artefact.json", {**note, "timing": _spent(wall, cpu)})
        if final.is_dir():
            old = final.parent / f".old-{planned.id}"
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
            temporary.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(final)


def error_file(root: Path, plan: Plan, job: str) -> Path:
    """Where the error of a job is kept: in the run's folder, or beside the artefact."""
    if any(a.id == job for a in plan.artefacts):
        return root / "cache" / f".{job}.error.txt"
    return study_folder(root, plan.study) / job / "error.txt"


def log_file(root: Path, plan: Plan, job: str) -> Path:
    """Where a job's own output goes."""
    file = error_file(root, plan, job)
    return file.with_name(file.name.replace("error.txt", "log.txt"))


def attempt(plan: Plan, job: str, root: Path, spec: str, rebuild: bool = False) -> int:
    """Do one job; an error is printed and written to its ``error.txt``; returns the exit code."""
    try:
        error_file(root, plan, job).unlink(missing_ok=True)
        artefact = next((a for a in plan.artefacts if a.id == job), None)
        if artefact is not None:
            build_artefact(plan, artefact, root, spec, rebuild)
            return 0
        do_run(plan, next(r for r in plan.runs if r.id == job), root, spec)
        return 0
    except (UserError, RunStopped) as error:
        text, code = f"error: {error}", error.exit_code
    except Exception as error:
        text, code = f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}", 70
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
    record_error(root, plan, job, text)
    return code


def record_error(root: Path, plan: Plan, job: str, text: str) -> None:
    """Write a job's ``error.txt``: what went wrong, then the end of what it printed."""
    log = log_file(root, plan, job)
    printed = log.read_text(errors="replace").splitlines()[-TAIL_LINES:] if log.is_file() else []
    tail = "\n".join(["", "--- last lines it printed ---", *printed]) if printed else ""
    try:
        write_text(error_file(root, plan, job), f"{text}\n{tail}\n")
    except RunStopped as stopped:
        print(f"error: {stopped}", file=sys.stderr, flush=True)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the one that started it dies (Linux; elsewhere the pipe tells it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def serve(plan: Plan, root: Path, spec: str, answers: int) -> None:
    """Fork a child per job line on standard input until it closes; then kill what still runs.

    Args:
        plan: what may be asked for.
        root: the folder of all runs.
        spec: "module:ATTRIBUTE" of the study.
        answers: file descriptor for one JSON line when ready, and one per job that ended.
    """
    children: dict[int, str] = {}
    with _wake_on_child() as wake:
        os.write(answers, b'{"ready": true}\n')
        try:
            for line in _events(0, wake):
                if line is not None:
                    order = json.loads(line)
                    children[_fork(plan, order, root, spec, answers)] = order["job"]
                for pid, status in _ended(children):
                    answer = {"job": children.pop(pid), "code": os.waitstatus_to_exitcode(status)}
                    os.write(answers, json.dumps(answer).encode() + b"\n")
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)


@contextmanager
def _wake_on_child() -> Iterator[int]:
    """A file descriptor that becomes readable when a child ends."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(-1)


def _events(source: int, wake: int) -> Iterator[str | None]:
    """Whole lines from `source`, None when a child ended; ends when `source` is closed."""
    rest = b""
    while True:
        ready, _, _ = select.select([source, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            yield None
        if source in ready:
            data = os.read(source, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode() for line in lines)


def _ended(children: Mapping[int, str]) -> list[tuple[int, int]]:
    found = []
    for pid in children:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            found.append((pid, status))
    return found


def _fork(plan: Plan, order: Mapping[str, Any], root: Path, spec: str, answers: int) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        die_with_parent(server)
        os.close(answers)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _redirect(log_file(root, plan, order["job"]))
        code = attempt(plan, order["job"], root, spec, bool(order.get("rebuild")))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the server's may be cleaned up twice


def _redirect(log: Path) -> None:
    """Send what the job prints to its log; it reads nothing."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        out = os.open(os.devnull, os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m steersman.study.worker")
    parser.add_argument("root", type=Path)
    parser.add_argument("study")
    parser.add_argument("mode")
    parser.add_argument("run_id", nargs="?")
    parser.add_argument("--extra", type=int, default=0)
    parser.add_argument("--serve", type=int, metavar="PARENT")
    given = parser.parse_args(arguments)
    if given.serve is not None:
        die_with_parent(given.serve)
        answers = os.dup(1)
        os.dup2(2, 1)  # whatever an import prints must not look like an answer
    study = load_study(given.study)
    plan = make_plan(study, given.mode, given.extra)
    if given.serve is not None:
        for module in study.preload:
            importlib.import_module(module)
        serve(plan, given.root, given.study, answers)
        return 0
    jobs = [a.id for a in plan.artefacts if not a.folder(given.root).is_dir()] + [given.run_id]
    if given.run_id not in {run.id for run in plan.runs}:
        print(f"error: {given.run_id} is not a run of this plan", file=sys.stderr)
        return 2
    return next((code for code in (attempt(plan, job, given.root, given.study) for job in jobs) if code), 0)


if __name__ == "__main__":
    sys.exit(main())
