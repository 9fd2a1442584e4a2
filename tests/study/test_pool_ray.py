"""The Ray pool does what the local pool does: on a Ray of this machine, and without one where that is enough.

Leaves out: a cluster of several machines; what a machine checks before it works is tested on this one.
"""

import dataclasses
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import toy_study
from harness import command, environment, results, study

from steersman.core.errors import RunStopped, UserError
from steersman.study import pool_ray, ray_cluster
from steersman.study.plan import make_plan
from steersman.study.pool import Ended, Job

SPEC = "toy_study:STUDY"
PATIENCE_SECONDS = 60
LOOPBACK = {
    "0100007F",
    "0000000000000000FFFF00000100007F",
    "00000000000000000000000001000000",
}  # as /proc/net writes it
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install ray")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A running Ray with two CPUs, how others join it, and the file that cures the breaking toy study."""

    ray: object
    join: dict[str, str]
    cure: Path

    @property
    def address(self) -> str:
        return self.join["RAY_ADDRESS"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    cure = tmp_path_factory.mktemp("cluster") / "cured"
    variables = {"TOY_PAUSE": "0.05", "TOY_CURE": str(cure)}
    with ray_cluster.environment(variables), ray_cluster.connected("local", 2) as ray:
        join = {**ray_cluster.LOCAL, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray_cluster.token()}
        yield Cluster(ray, {**join, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}, cure)


@pytest.fixture(scope="module")
def local_pool(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("local")
    assert study("run", root, "--workers", "2").returncode == 0
    return root


def toy(folder: Path, **changes: str):
    """A plan of the toy study below a folder, and the order for workers on it."""
    plan = make_plan(toy_study.STUDY, "quick")
    (folder / "toy").mkdir(parents=True, exist_ok=True)
    return plan, dataclasses.replace(pool_ray.order_for(plan, folder, SPEC), **changes)


def crew_of(cluster: Cluster, plan, root: Path, order: pool_ray.Order, workers: int) -> pool_ray.RayPool:
    actor = cluster.ray.remote(num_cpus=1)(pool_ray.Slot)
    crew = pool_ray.RayPool(plan, root, workers, "here", cluster.ray, lambda: actor.remote(order))
    for _ in range(workers):
        crew.add()
    return crew


def let_go(crew: pool_ray.RayPool) -> None:
    for slot in crew.slots():
        crew.ray.kill(slot)


@needs_ray
def test_a_local_ray_gives_the_bytes_of_the_local_pool_and_leaves_nothing(local_pool: Path, tmp_path: Path):
    before = set(Path("/tmp").glob("ray-*"))
    home = tmp_path / "home"
    home.mkdir()
    no_address = {"RAY_ADDRESS": "", "HOME": str(home)}
    done = study("run", tmp_path / "runs", "--workers", "2", "--pool", "ray", **no_address)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "runs") == results(local_pool)
    assert len(results(local_pool)) == 4
    assert "2 workers" in done.stdout
    assert "base  made (starts at 1)" in done.stdout
    assert "(4/4)" in done.stdout
    assert done.stderr == ""
    assert not pool_ray.at_work(tmp_path / "runs" / "toy")
    assert set(Path("/tmp").glob("ray-*")) <= before
    assert not list(home.glob(".ray*"))
    again = study("run", tmp_path / "runs", "--pool", "ray", **no_address)
    assert "nothing to do: all 4 runs are finished" in again.stdout


@needs_ray
def test_a_ray_of_ours_listens_on_the_loopback_only_and_tells_nobody(cluster: Cluster):
    if not Path("/proc/net/tcp").is_file():
        pytest.skip("no /proc to read the listening sockets from")
    family = _descendants(os.getpid())
    held = {os.readlink(fd) for pid in family for fd in _list(f"/proc/{pid}/fd") if fd.is_symlink()}
    listening = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if row.split()[3] == "0A"
    ]
    ours = [row[1].rpartition(":")[0] for row in listening if f"socket:[{row[9]}]" in held]
    assert len(ours) >= 3
    assert set(ours) <= LOOPBACK
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def _list(folder: str) -> list[Path]:
    try:
        return list(Path(folder).iterdir())
    except OSError:
        return []


def _descendants(pid: int) -> set[int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@needs_ray
def test_failures_are_recorded_as_by_the_local_pool(cluster: Cluster, tmp_path: Path):
    texts = []
    cure = {"TOY_CURE": str(cluster.cure)}
    for words, more in ((["--pool", "ray"], cluster.join), ([], {})):
        root = tmp_path / ("ray" if words else "local")
        broken = study("run", root, "--workers", "2", *words, name="BREAKING", **more, **cure)
        assert broken.returncode == 1, broken.stderr
        assert "3 of 4 runs failed" in broken.stdout
        assert "Traceback" not in broken.stdout + broken.stderr
        texts.append({f.parent.name: f.read_text() for f in (root / "breaking").glob("*/error.txt")})
    assert len(texts[0]) == 3
    assert texts[0] == texts[1]
    assert any("killed by SIGKILL" in text for text in texts[0].values())


@needs_ray
@pytest.mark.parametrize("sent, code, then", [(signal.SIGINT, 130, "ray"), (signal.SIGKILL, -9, "local")])
def test_stopped_it_leaves_no_worker_and_either_pool_continues(
    cluster: Cluster, local_pool: Path, tmp_path: Path, sent: int, code: int, then: str
):
    words = ["study", "run", SPEC, "--allow-import", "toy_study", "--root", str(tmp_path), "--pool", "ray"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(*words), env=environment(**cluster.join), **quiet) as process:
        limit = time.monotonic() + PATIENCE_SECONDS
        while not list(tmp_path.glob("toy/*/ckpt/last.json")) and time.monotonic() < limit and process.poll() is None:
            time.sleep(0.005)
        assert pool_ray.at_work(tmp_path / "toy")
        process.send_signal(sent)
        assert process.wait(PATIENCE_SECONDS) == code
    if sent == signal.SIGINT:
        assert not pool_ray.at_work(tmp_path / "toy")
    assert len(results(tmp_path)) < 4
    where = ["--ray-address", cluster.address] if then == "ray" else []
    done = study("run", tmp_path, "--pool", then, *where, **cluster.join)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == results(local_pool)


@needs_ray
def test_jobs_start_after_what_they_need_and_never_more_than_workers(cluster: Cluster, tmp_path: Path):
    plan, order = toy(tmp_path)
    ids = {a.artefact.name: a.id for a in plan.artefacts}
    jobs = [Job(run.id, (ids["base"],)) for run in plan.runs] + [Job(ids["base"], (ids["ground"],)), Job(ids["ground"])]
    crew = crew_of(cluster, plan, tmp_path, order, 2)
    ended, most = [], 0
    for event in crew.execute(jobs):
        if isinstance(event, Ended):
            assert event.error == ""
            ended.append(event.job)
        else:
            most = max(most, len(event))
    let_go(crew)
    assert ended[:2] == [ids["ground"], ids["base"]]
    assert sorted(ended[2:]) == sorted(run.id for run in plan.runs)
    assert most == 2


@needs_ray
def test_a_lost_worker_costs_its_run_and_is_replaced(cluster: Cluster, tmp_path: Path):
    plan, order = toy(tmp_path)
    crew = crew_of(cluster, plan, tmp_path, order, 1)
    assert [e.error for e in crew.execute([Job(a.id) for a in plan.artefacts]) if isinstance(e, Ended)] == ["", ""]
    first, second = plan.runs[0].id, plan.runs[1].id
    ended = {}
    for event in crew.execute([Job(first), Job(second)]):
        if isinstance(event, Ended):
            ended[event.job] = event.error
        elif event == (first,) and not ended:
            cluster.ray.kill(crew.busy[next(iter(crew.busy))][0])
    let_go(crew)
    assert ended[first].startswith("the Ray worker was lost: ")
    assert ended[second] == ""
    assert (tmp_path / "toy" / first / "error.txt").read_text().startswith("the Ray worker was lost: ")
    assert not (tmp_path / "toy" / first / "result.json").exists()


@needs_ray
def test_a_machine_that_does_not_see_the_folder_gives_one_error(cluster: Cluster, tmp_path: Path):
    plan, order = toy(tmp_path / "here", root=str(tmp_path / "elsewhere"))
    crew = crew_of(cluster, plan, tmp_path, order, 2)
    with pytest.raises(UserError) as refused:
        list(crew.execute([Job(run.id) for run in plan.runs]))
    let_go(crew)
    text = str(refused.value)
    assert text.startswith(f"machine {socket.gethostname()} of the Ray cluster: does not see the study's folder")
    assert "--root" in text
    assert "Traceback" not in text


@needs_ray
def test_a_study_that_a_worker_cannot_import_says_why(cluster: Cluster, tmp_path: Path):
    plan, order = toy(tmp_path, spec="no_such_module:STUDY")
    crew = crew_of(cluster, plan, tmp_path, order, 1)
    with pytest.raises(UserError, match="no_such_module"):
        list(crew.execute([Job(plan.runs[0].id)]))
    let_go(crew)


@needs_ray
def test_the_gpu_size_on_a_cluster_without_one_is_refused(cluster: Cluster):
    if cluster.ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="Ray cluster here: has no GPU"):
        ray_cluster.all_of(cluster.ray, "here", "GPU")
    assert ray_cluster.all_of(cluster.ray, "here", "CPU") == 2


@pytest.fixture
def kept_path() -> Iterator[None]:
    path, folder = list(sys.path), os.getcwd()
    yield
    sys.path[:] = path
    os.chdir(folder)


def refusal(order: pool_ray.Order) -> str:
    kind, text = pool_ray.Slot(order).prepare()
    assert kind == "user"
    return text


def test_what_a_machine_is_checked_for_before_it_works(tmp_path: Path, kept_path):
    _, order = toy(tmp_path)
    assert "plans other runs" in refusal(dataclasses.replace(order, ids="other"))
    assert "another version of steersman" in refusal(dataclasses.replace(order, code={**order.code, "source": "0"}))
    assert "another text of the study" in refusal(dataclasses.replace(order, code={**order.code, "study": "0"}))
    assert "under this path is another folder" in refusal(dataclasses.replace(order, mark="other"))
    assert "does not see the study's folder" in refusal(dataclasses.replace(order, root=str(tmp_path / "no")))
    assert not pool_ray.at_work(tmp_path / "toy")


def test_a_fit_machine_works_and_holds_the_folder_until_it_is_gone(tmp_path: Path, kept_path):
    plan, order = toy(tmp_path)
    assert not pool_ray.at_work(tmp_path / "toy")
    slot = pool_ray.Slot(order)
    assert slot.prepare() == ("", "")
    assert pool_ray.at_work(tmp_path / "toy")
    assert [slot.do(a.id, False) for a in plan.artefacts] == [("", ""), ("", "")]
    assert slot.do(plan.runs[0].id, False) == ("", "")
    os.kill(slot._pool.server.pid, signal.SIGKILL)
    kind, text = slot.do(plan.runs[1].id, False)
    assert kind == "stopped"
    assert "the worker server ended with exit code -9" in text
    slot._stack.close()
    assert not pool_ray.at_work(tmp_path / "toy")
    assert [f.parent.name for f in tmp_path.glob("toy/*/result.json")] == [plan.runs[0].id]


def test_a_study_waits_for_workers_that_are_left_on_the_cluster(local_pool: Path, monkeypatch):
    from steersman.study import run

    monkeypatch.setattr(run, "ORPHANS_SECONDS", 0.2)
    mark = local_pool / "toy" / pool_ray._MARK
    mark.touch()
    handle = os.open(mark, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_SH)
    with pytest.raises(UserError, match="in use by another steersman"), run.locked(local_pool / "toy"):
        pass
    os.close(handle)
    with run.locked(local_pool / "toy"):
        pass
    mark.unlink()


def quiet_crew(plan, root: Path, ray=None) -> pool_ray.RayPool:
    return pool_ray.RayPool(plan, root, 1, "here", ray, lambda: None)


def test_a_result_that_cannot_be_seen_here_is_an_error(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pool_ray, "SEEN_SECONDS", 0.1)
    plan, _ = toy(tmp_path)
    crew = quiet_crew(plan, tmp_path)
    job = plan.runs[0].id
    assert "cannot be seen from here" in crew._unseen(job)
    (tmp_path / "toy" / job).mkdir()
    (tmp_path / "toy" / job / "result.json").write_text("{}")
    assert crew._unseen(job) == ""
    assert "artefact.json cannot be seen" in crew._unseen(plan.artefacts[0].id)


def test_a_cluster_with_no_free_cpu_is_said_and_one_without_machines_stops(tmp_path: Path, monkeypatch, capsys):
    class Nodes:
        alive = True

        def nodes(self):
            return [{"Alive": self.alive}]

    monkeypatch.setattr(pool_ray, "WAIT_SECONDS", 0.0)
    plan, _ = toy(tmp_path)
    crew = quiet_crew(plan, tmp_path, Nodes())
    crew._patience()
    assert capsys.readouterr().err == ""  # nobody was asked for
    crew.starting[object()] = object()
    crew._patience()
    crew._patience()
    assert capsys.readouterr().err == "waiting for the Ray cluster at here to give us a first worker\n"
    crew.ray.alive = False
    with pytest.raises(RunStopped, match="the Ray cluster is gone"):
        crew._patience()


def test_pools_and_addresses_that_do_not_go_together_are_refused(tmp_path: Path):
    wrong = study("run", tmp_path, "--pool", "slurm")
    assert wrong.returncode == 2
    assert "there is no pool 'slurm'" in wrong.stderr
    assert "allowed: local, ray" in wrong.stderr
    lost = study("run", tmp_path, "--ray-address", "127.0.0.1:6379")
    assert lost.returncode == 2
    assert "--ray-address 127.0.0.1:6379: needs --pool ray" in lost.stderr
