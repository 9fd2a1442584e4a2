"""A pool on a Ray cluster: every worker of it is a Ray actor that runs the local pool with one worker.

So a run is what it is locally: a single-thread process forked from a server, which writes its own folder atomically and
dies with whoever started it. Ray only says on which machine, and carries the names of jobs and the ends of them. All
machines must see the study's folder under the same path, on a disk that all of them share; each worker checks that, and
that its code and its plan are those of this machine. The workers hold a lock of their own in that folder, so that after
a ``kill -9`` nobody else writes it before the last of them is gone. Leaves out: what a job does (`study.worker`), how
Ray is reached or started (`study.ray_cluster`).
"""

import fcntl
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from steersman.core.errors import RunStopped, UserError
from steersman.store.files import digest, write_text
from steersman.study.declare import ModeName
from steersman.study.load import code_of, load_study
from steersman.study.plan import Plan, make_plan, study_folder
from steersman.study.pool import Ended, Job, Pool, StartCrew, default_workers, in_order, pool
from steersman.study.ray_cluster import all_of, connected
from steersman.study.worker import record_error

WAIT_SECONDS = 20.0
"""How long to wait for a first worker without a word."""
SEEN_SECONDS = 90.0
"""How long a shared disk may take to show here what was written elsewhere (NFS: 60 s by default)."""
GONE_SECONDS = 10.0
"""How long workers may take to be gone after they were stopped."""
_TICK = 0.25
_CONTINUES = "What was finished is valid; the same command continues."
_MARK = ".ray-workers"
Said = tuple[Literal["", "user", "stopped"], str]
"""What a worker answers: whether it can go on, and the error."""


def at_work(folder: Path) -> bool:
    """Whether workers on a Ray cluster, here or elsewhere, still hold a study's folder."""
    try:
        handle = os.open(folder / _MARK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker must know, and by what it tells whether it stands in the same place as we do."""

    root: str
    spec: str
    mode: ModeName
    extra: int
    mark: str
    code: dict[str, str]
    ids: str
    cwd: str
    paths: tuple[str, ...]


def order_for(plan: Plan, root: Path, spec: str) -> Order:
    """Leave a new mark in the study's folder, and say what workers are to find.

    Args:
        plan: what they will be asked to do.
        root: the folder of all runs.
        spec: "module:ATTRIBUTE" of the study, already imported.
    """
    mark = secrets.token_hex(16)
    write_text(study_folder(root, plan.study) / _MARK, mark)
    return Order(
        root=str(root.resolve()),
        spec=spec,
        mode=plan.mode.name,
        extra=plan.extra,
        mark=mark,
        code=code_of(spec),
        ids=_ids(plan),
        cwd=os.getcwd(),
        paths=tuple(os.path.abspath(p) for p in sys.path if p),
    )


def _ids(plan: Plan) -> str:
    return digest([one.id for one in (*plan.artefacts, *plan.runs)])


class Slot:
    """One worker, inside a Ray actor: a server of its own, and one job at a time. It answers with plain texts."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._stack = ExitStack()  # Ray ends the process, and the server with it
        self._pool: Pool | None = None

    def prepare(self) -> Said:
        """Check that this machine sees what the first one sees, and import the study."""
        try:
            self._pool = self._stack.enter_context(opened(self._order))
            for _ in self._pool.importing():
                pass
        except (UserError, OSError) as error:
            return "user", f"machine {socket.gethostname()} of the Ray cluster: {error}"
        except RunStopped as error:
            return "stopped", f"machine {socket.gethostname()} of the Ray cluster: {error}"
        return "", ""

    def do(self, job: str, rebuild: bool) -> Said:
        """Do one job; its error is recorded as by the local pool."""
        assert self._pool is not None
        try:
            (ended,) = [e for e in self._pool.execute([Job(job, (), rebuild)]) if isinstance(e, Ended)]
        except RunStopped as error:
            return "stopped", f"machine {socket.gethostname()} of the Ray cluster: {error}"
        return "", ended.error


@contextmanager
def opened(order: Order) -> Iterator[Pool]:
    """The local pool of one worker that does what `order` says, once this machine was found fit for it.

    Raises:
        UserError: it does not see the study's folder, or has other code or other data.
    """
    sys.path[:] = dict.fromkeys([*(p for p in order.paths if os.path.exists(p)), *sys.path])
    if os.path.isdir(order.cwd):
        os.chdir(order.cwd)
    study = load_study(order.spec)
    root = Path(order.root)
    folder = study_folder(root, study)
    try:
        lock = os.open(folder / _MARK, os.O_RDWR)
    except OSError as error:
        raise _elsewhere(folder, f"it cannot be opened ({error.strerror})") from None
    try:
        found = os.read(lock, 64).decode(errors="replace").strip()
        if found != order.mark:
            raise _elsewhere(folder, "what lies under this path is another folder")
        fcntl.flock(lock, fcntl.LOCK_SH)
        code = code_of(order.spec)
        if code != order.code:
            named = {"source": "version of steersman", "torch": "version of torch", "study": "text of the study"}
            other = [text for key, text in named.items() if code.get(key) != order.code.get(key)]
            cure = "Install the same on every machine of the cluster."
            raise UserError(f"has another {' and '.join(other)} than the one that asks", cure=cure)
        plan = make_plan(study, order.mode, order.extra)
        if _ids(plan) != order.ids:
            cure = "Put what the study reads on the disk that all machines share."
            raise UserError("plans other runs: a file that the study reads differs there", cure=cure)
        with pool(plan, root, order.spec, 1, lock) as one:
            yield one
    finally:
        os.close(lock)


def _elsewhere(folder: Path, why: str) -> UserError:
    cure = "Give --root a folder on a disk that all machines of the cluster share under one path, or use --pool local."
    return UserError(f"does not see the study's folder {folder}: {why}", cure=cure)


@dataclass(slots=True)
class RayPool:
    """Workers on a Ray cluster; made by `ray_pool`."""

    plan: Plan
    root: Path
    workers: int
    address: str
    ray: ModuleType
    hire: Callable[[], Any]
    starting: dict[Any, Any] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    busy: dict[Any, tuple[Any, str]] = field(default_factory=dict)
    _alone: float = field(default_factory=time.monotonic)
    _said: bool = False

    def execute(self, jobs: Iterable[Job]) -> Iterator[Ended | tuple[str, ...]]:
        """As `study.pool.Pool.execute`; a worker that is lost takes one job with it and is replaced.

        Raises:
            UserError: a machine of the cluster does not see the study's folder, or has other code or data.
            RunStopped: a worker could not start, or no machine is left.
        """
        jobs = list(jobs)
        while jobs and not self.idle:
            yield ()
            list(self._ended())
        yield from in_order(jobs, free=lambda _: bool(self.idle), start=self._start, ended=self._ended)

    def _start(self, job: Job) -> None:
        slot = self.idle.pop()
        self.busy[slot.do.remote(job.id, job.rebuild)] = slot, job.id

    def add(self) -> None:
        """Ask the cluster for one more worker."""
        slot = self.hire()
        self.starting[slot.prepare.remote()] = slot

    def slots(self) -> list[Any]:
        """All workers, those that are not there yet included."""
        return [*self.starting.values(), *self.idle, *(slot for slot, _ in self.busy.values())]

    def _ended(self) -> Iterator[Ended]:
        self._patience()
        refs = [*self.starting, *self.busy]
        for ref in self.ray.wait(refs, timeout=_TICK)[0] if refs else ():
            if ref in self.starting:
                self._arrived(ref)
            else:
                yield self._finished(ref)

    def _arrived(self, ref: Any) -> None:
        slot = self.starting[ref]
        try:
            kind, text = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            raise RunStopped(f"a Ray worker could not start: {str(error).strip()[-2000:]}") from None
        if kind:
            raise (UserError if kind == "user" else RunStopped)(text)
        del self.starting[ref]
        self.idle.append(slot)

    def _finished(self, ref: Any) -> Ended:
        slot, job = self.busy.pop(ref)
        try:
            kind, text = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            text = f"the Ray worker was lost: {' '.join(str(error).split())[:1000]}"
            record_error(self.root, self.plan, job, text)
            dismiss(self.ray, slot)  # it may be alive and only out of reach
            self.add()
            return Ended(job, text)
        self.idle.append(slot)
        if kind:
            raise RunStopped(text)
        return Ended(job, text or self._unseen(job))

    def _unseen(self, job: str) -> str:
        """Wait until what was written on another machine can be read on this one."""
        made = {a.id: a.folder(self.root) / "artefact.json" for a in self.plan.artefacts}
        file = made.get(job, study_folder(self.root, self.plan.study) / job / "result.json")
        limit = time.monotonic() + SEEN_SECONDS
        while not file.is_file():
            if time.monotonic() > limit:
                return f"it was finished on the Ray cluster, but {file} cannot be seen from here"
            with suppress(OSError):  # looking into a folder makes NFS ask the server again
                os.listdir(file.parent.parent)
            time.sleep(0.05)
        return ""

    def _patience(self) -> None:
        """Say once that there is no worker yet; stop when there can be none."""
        if self.idle or self.busy or not self.starting:
            self._alone = time.monotonic()
        elif time.monotonic() - self._alone > WAIT_SECONDS:
            self._alone = time.monotonic()
            if not any(node["Alive"] for node in self.ray.nodes()):
                raise RunStopped(f"the Ray cluster is gone\n       {_CONTINUES}")
            if not self._said:
                self._said = True
                print(f"waiting for the Ray cluster at {self.address} to give us a first worker", file=sys.stderr)


def dismiss(ray: ModuleType, slot: Any) -> None:
    """End a worker and what it runs, without waiting."""
    with suppress(ray.exceptions.RayError):
        ray.kill(slot)


def ray_pool(address: str | None = None) -> StartCrew:
    """A pool on a Ray cluster, to be started as `study.pool.pool` is.

    Args:
        address: HOST:PORT of the cluster's head, "auto" for the one that this machine is part of, or "local" for one
            that is started here and ended afterwards. None: what RAY_ADDRESS says, else "local".

    Returns:
        A function of plan, root, spec, workers and lock. Each worker takes one CPU, and one GPU if the study's size is
        "gpu"; workers None: all that the cluster has, or for "local" as many as the local pool would take.
    """
    return partial(_opened, address=address or os.environ.get("RAY_ADDRESS") or "local")


@contextmanager
def _opened(plan: Plan, root: Path, spec: str, workers: int | None, lock: int, *, address: str) -> Iterator[RayPool]:
    order = order_for(plan, root, spec)  # before ray puts its own folders into sys.path
    gpus = int(plan.mode.name == "gpu")
    folder = study_folder(root, plan.study)
    with connected(address, workers or default_workers()) as ray:
        wanted = min(workers or all_of(ray, address, "GPU" if gpus else "CPU"), max(1, len(plan.runs)))
        actor = ray.remote(num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")(Slot)
        crew = RayPool(plan, root, wanted, address, ray, lambda: actor.remote(order))
        try:
            for _ in range(wanted):
                crew.add()
            yield crew
        finally:
            for slot in crew.slots():
                dismiss(ray, slot)
            limit = time.monotonic() + GONE_SECONDS
            while at_work(folder) and time.monotonic() < limit:
                time.sleep(0.02)
