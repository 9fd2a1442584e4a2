"""Running a study: lock, artefacts, runs, report. The same call continues; a finished study is left alone.

Leaves out: what a worker does (`study.worker`), how the pool works (`study.pool`), what a person sees (`cli`, through
`Watcher`).
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from steersman.core.errors import UserError
from steersman.store.files import read_json
from steersman.store.run import RunDir, writable
from steersman.study.declare import ModeName, Study
from steersman.study.load import code_of
from steersman.study.plan import (
    Plan,
    PlannedArtefact,
    PlannedRun,
    State,
    artefact_state,
    states,
    study_folder,
    with_finished_seeds,
)
from steersman.study.pool import Crew, Ended, Job, StartCrew, pool
from steersman.study.pool_ray import at_work
from steersman.study.progress import Seen, read_progress

ORPHANS_SECONDS = 10.0
"""How long to wait for the workers of a killed study to be gone."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What there is to see while runs are at work.

    Args:
        done, failed, total: runs of this plan, those finished earlier included.
        active: the runs at work.
        rates: units a second over the active runs, by unit; empty where no run says how far it is.
        seconds_left: estimate from the runs that ended; None before the first.
    """

    done: int
    failed: int
    total: int
    active: tuple[PlannedRun, ...]
    rates: Mapping[str, float]
    seconds_left: float | None


class Watcher(Protocol):
    """Somebody to tell; every method may do nothing."""

    def begin(self, plan: Plan, before: Mapping[str, State], todo: int, workers: int) -> None:
        """Before anything is done."""

    def artefact(self, planned: PlannedArtefact, how: str, line: str, seconds: float) -> None:
        """An artefact was found ("cached", "cached, made by other code") or made ("made"), or could not be."""

    def glance(self, seen: Glance) -> None:
        """A few times a second."""

    def ended(self, run: PlannedRun, error: str, seconds: float, seen: Glance) -> None:
        """A run ended; `error` is empty if it worked."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `run_study` did: the plan, how many runs it made, and what failed (id -> message)."""

    plan: Plan
    made: int
    failures: Mapping[str, str]
    stale: tuple[str, ...]


def run_study(
    study: Study,
    spec: str,
    mode: ModeName,
    root: Path,
    *,
    workers: int | None,
    watch: Watcher,
    extra_seeds: int = 0,
    rerun_stale: bool = False,
    start: StartCrew = pool,
) -> Outcome:
    """Run what is not finished of one mode of a study.

    Args:
        study: the study, loaded from `spec`.
        spec: "module:ATTRIBUTE", from which workers load it again.
        mode: which size.
        root: folder of all runs; ``root/<study name>`` is locked meanwhile.
        workers: processes at a time, >= 1; None: as many as the pool finds sensible.
        watch: is told what happens.
        extra_seeds: seeds more than the mode's own.
        rerun_stale: make runs and artefacts again that other code made; the old run is kept in ``.stale``.
        start: the pool, `study.pool.pool` or one of `study.pool_ray.ray_pool`.

    Returns:
        The outcome; failed runs are in it, not raised.

    Raises:
        UserError: the folder cannot be written or is locked; the plan is impossible.
        RunStopped: the pool died.
    """
    if workers is not None and workers < 1:
        raise UserError(f"{workers} workers", where="--workers", allowed="1 or more")
    code = code_of(spec)
    folder = study_folder(root, study)
    writable(folder)
    with locked(folder) as lock:
        plan = with_finished_seeds(study, mode, extra_seeds, root)
        before = states(plan, root, code)
        runs = [r for r in plan.runs if before[r.id] in ("todo", "failed") or (rerun_stale and before[r.id] == "stale")]
        failures: dict[str, str] = {}
        with start(plan, root, spec, workers, lock) if runs else nullcontext() as crew:
            watch.begin(plan, before, len(runs), crew.workers if crew else 0)
            if crew:
                for run in runs:
                    if before[run.id] == "stale":
                        _set_aside(folder, run.id)
                broken = _prepare(plan, runs, root, code, crew, watch, rerun_stale)
                failures |= broken | _work(plan, runs, root, crew, watch, broken)
        stale = tuple(id for id, state in states(plan, root, code).items() if state == "stale")
        made = len(runs) - sum(r.id in failures for r in runs)
        return Outcome(plan, made, failures, stale)


def _set_aside(folder: Path, run_id: str) -> None:
    """Move a stale run out of the way; the one set aside before it is dropped."""
    kept = folder / ".stale" / run_id
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(exist_ok=True)
    (folder / run_id).rename(kept)


def _needed(plan: Plan, runs: Sequence[PlannedRun]) -> list[PlannedArtefact]:
    """The artefacts that some of `runs` need, with all they need in turn, in an order in which they can be built."""
    by_name = {a.artefact.name: a for a in plan.artefacts}
    wanted: set[str] = set()
    todo = [name for run in runs for name in run.cell.needs]
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += by_name[name].artefact.needs
    return [a for a in plan.artefacts if a.artefact.name in wanted]


def _prepare(
    plan: Plan,
    runs: Sequence[PlannedRun],
    root: Path,
    code: Mapping[str, str],
    crew: Crew,
    watch: Watcher,
    rebuild: bool,
) -> dict[str, str]:
    """Build what is missing of the artefacts; returns what could not be built."""
    jobs = []
    by_id = {a.id: a for a in plan.artefacts}
    ids = {a.artefact.name: a.id for a in plan.artefacts}
    for planned in _needed(plan, runs):
        state = artefact_state(planned, root, code)
        if state == "todo" or (rebuild and state == "stale"):
            jobs.append(Job(planned.id, tuple(ids[n] for n in planned.artefact.needs), rebuild))
        else:
            how = "cached" if state == "done" else "cached, made by other code"
            watch.artefact(planned, how, read_json(planned.folder(root) / "artefact.json")["line"], 0.0)
    failures = {}
    for event in crew.execute(jobs):
        if isinstance(event, Ended) and event.error:
            failures[event.job] = event.error
            watch.artefact(by_id[event.job], "failed", event.error, 0.0)
        elif isinstance(event, Ended):
            note = read_json(by_id[event.job].folder(root) / "artefact.json")
            watch.artefact(by_id[event.job], "made", note["line"], note["timing"]["wall_seconds"])
    return failures


def _work(
    plan: Plan, runs: Sequence[PlannedRun], root: Path, crew: Crew, watch: Watcher, broken: Mapping[str, str]
) -> dict[str, str]:
    """Do the runs whose artefacts are there; returns what failed."""
    by_id = {run.id: run for run in plan.runs}
    board = _Board(plan, runs, root, crew.workers)
    startable = [run for run in runs if not any(need in broken for need in run.artefacts.values())]
    for run in runs:
        if run not in startable:
            lost = next(need for need in run.artefacts.values() if need in broken)
            board.end(run, f"not started, because {lost} failed")
    for event in crew.execute(Job(run.id) for run in startable):
        if isinstance(event, Ended):
            seconds = board.end(by_id[event.job], event.error)
            watch.ended(by_id[event.job], event.error, seconds, board.glance())
        else:
            board.active(event)
            watch.glance(board.glance())
    return board.failures


@dataclass(slots=True)
class _Board:
    """Counts what ended and estimates what is left: mean time of ended runs of the same part, else of all."""

    plan: Plan
    runs: Sequence[PlannedRun]
    root: Path
    workers: int
    failures: dict[str, str] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    walls: dict[str, list[float]] = field(default_factory=dict)
    left: dict[str, PlannedRun] = field(default_factory=dict)
    running: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.left = {run.id: run for run in self.runs}
        for run in self.plan.runs:
            seconds = RunDir(self._folder(run.id)).timing().get("wall_seconds") if run.id not in self.left else None
            if seconds is not None:
                self.walls.setdefault(run.cell.part, []).append(float(seconds))

    def _folder(self, run_id: str) -> Path:
        return study_folder(self.root, self.plan.study) / run_id

    def active(self, ids: tuple[str, ...]) -> None:
        self.running = ids
        for run_id in ids:
            self.begun.setdefault(run_id, time.monotonic())

    def end(self, run: PlannedRun, error: str) -> float:
        del self.left[run.id]
        self.running = tuple(r for r in self.running if r != run.id)
        seconds = time.monotonic() - self.begun.get(run.id, time.monotonic())
        if error:
            self.failures[run.id] = error
        else:
            self.walls.setdefault(run.cell.part, []).append(seconds)
        return seconds

    def glance(self) -> Glance:
        seen = {run_id: read_progress(self._folder(run_id)) for run_id in self.running}
        rates: dict[str, float] = {}
        for found in seen.values():
            if found is not None:
                rates[found.unit] = rates.get(found.unit, 0.0) + found.rate
        total, failed = len(self.plan.runs), len(self.failures)
        running = tuple(self.left[run_id] for run_id in self.running)
        return Glance(total - len(self.left) - failed, failed, total, running, rates, self._seconds_left(seen))

    def _seconds_left(self, seen: Mapping[str, Seen | None]) -> float | None:
        every = [s for walls in self.walls.values() for s in walls]
        seconds = 0.0
        for run in self.left.values():
            walls = self.walls.get(run.cell.part) or every
            found = seen.get(run.id)
            if found is not None and found.rate > 0:
                seconds += max(0, found.total - found.done) / found.rate
            elif walls:
                spent = time.monotonic() - self.begun[run.id] if run.id in self.begun else 0.0
                seconds += max(0.0, sum(walls) / len(walls) - spent)
            else:
                return None
        return seconds / max(1, min(self.workers, len(self.left)))


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the study's folder alone; the lock is released when we and all our workers are gone.

    Raises:
        UserError: another process holds it; the workers of a killed one are waited for.
    """
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        limit = time.monotonic() + ORPHANS_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if at_work(folder):
                    raise BlockingIOError
                break
            except OSError:
                owner = os.pread(handle, 32, 0).decode(errors="replace").strip()
                if _alive(owner) or time.monotonic() > limit:
                    raise UserError(
                        f"is in use by another steersman (process {owner or 'unknown'})",
                        where=str(folder),
                        cure="Wait for it or stop it, or give this one another folder with --root.",
                    ) from None
                time.sleep(0.05)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield handle
    finally:
        os.close(handle)


def _alive(owner: str) -> bool:
    try:
        os.kill(int(owner), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
