"""The pool's own promises: who holds the lock, and what a dead server looks like."""

import fcntl
import os
import signal
from pathlib import Path

import pytest
import toy_study

from steersman.core.errors import RunStopped
from steersman.study.plan import make_plan
from steersman.study.pool import Ended, Job, default_workers, pool

SPEC = "toy_study:STUDY"


def free(file: Path) -> bool:
    handle = os.open(file, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def held(file: Path) -> int:
    handle = os.open(file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def test_the_workers_hold_the_lock_after_the_study_is_gone(tmp_path: Path):
    lock = held(tmp_path / "lock")
    with pool(make_plan(toy_study.STUDY, "quick"), tmp_path, SPEC, 1, lock):
        os.close(lock)  # as if this process had been killed
        assert not free(tmp_path / "lock")
    assert free(tmp_path / "lock")


def test_jobs_start_after_what_they_need_and_never_more_than_workers(tmp_path: Path):
    plan = make_plan(toy_study.STUDY, "quick")
    ids = {a.artefact.name: a.id for a in plan.artefacts}
    jobs = [Job(run.id, (ids["base"],)) for run in plan.runs] + [Job(ids["base"], (ids["ground"],)), Job(ids["ground"])]
    lock = held(tmp_path / "lock")
    ended, most = [], 0
    with pool(plan, tmp_path, SPEC, 2, lock) as workers:
        for event in workers.execute(jobs):
            if isinstance(event, Ended):
                assert event.error == ""
                ended.append(event.job)
            else:
                most = max(most, len(event))
    os.close(lock)
    assert ended[:2] == [ids["ground"], ids["base"]]
    assert sorted(ended[2:]) == sorted(run.id for run in plan.runs)
    assert most == 2


def test_a_server_that_dies_stops_the_run_with_one_message(tmp_path: Path):
    plan = make_plan(toy_study.STUDY, "quick")
    lock = held(tmp_path / "lock")
    with pool(plan, tmp_path, SPEC, 1, lock) as workers:
        os.kill(workers.server.pid, signal.SIGKILL)
        with pytest.raises(RunStopped, match="the worker server ended with exit code -9"):
            list(workers.execute([Job(plan.runs[0].id)]))
    os.close(lock)


def test_a_server_that_cannot_import_says_why(tmp_path: Path):
    plan = make_plan(toy_study.STUDY, "quick")
    lock = held(tmp_path / "lock")
    with (
        pool(plan, tmp_path, "no_such_module:STUDY", 1, lock) as workers,
        pytest.raises(RunStopped, match="no_such_module"),
    ):
        list(workers.execute([Job(plan.runs[0].id)]))
    os.close(lock)


def test_workers_are_bounded():
    assert 1 <= default_workers() <= 8
