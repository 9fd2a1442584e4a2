"""The harness as a user meets it: kill, continue, add seeds, failures, stale runs."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import TOYS, command, environment, results, study

PATIENCE_SECONDS = 30
ORPHANS_GONE_SECONDS = 5


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    done = study("run", root, "--workers", "2")
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def copied(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "runs"))


def exists(root: Path, pattern: str, count: int = 1):
    return lambda: len(list(root.glob(pattern))) >= count


def killed_when(root: Path, moment, sent: int) -> int:
    """Start the study, send a signal at the moment, and return the exit code."""
    words = ["study", "run", "toy_study:STUDY", "--allow-import", "toy_study", "--root", str(root), "--workers", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(*words), env=environment(TOY_PAUSE="0.05"), **quiet) as process:
        limit = time.monotonic() + PATIENCE_SECONDS
        while not moment() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.002)
        assert moment(), "the moment never came"
        process.send_signal(sent)
        return process.wait(PATIENCE_SECONDS)


def lock_is_free(root: Path) -> bool:
    """Whether no process, worker or not, holds the study any more."""
    handle = os.open(root / "toy" / ".lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def gone_soon(root: Path) -> bool:
    limit = time.monotonic() + ORPHANS_GONE_SECONDS
    while not lock_is_free(root) and time.monotonic() < limit:
        time.sleep(0.02)
    return lock_is_free(root)


def test_killed_at_five_moments_the_results_are_the_same_bytes(clean: Path, tmp_path: Path):
    root = tmp_path / "runs"
    moments = [
        exists(root, "cache/.building-*"),
        exists(root, "toy/*/run.json"),
        exists(root, "toy/*/ckpt/last.json", 2),
        exists(root, "toy/*/result.json", 1),
        exists(root, "toy/*/result.json", 2),
    ]
    for moment in moments:
        assert killed_when(root, moment, signal.SIGKILL) == -signal.SIGKILL
        assert gone_soon(root), "a killed study left a worker running"
    assert len(results(root)) < 4
    done = study("run", root, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert results(root) == results(clean)
    assert len(results(root)) == 4
    timings = [json.loads(f.read_text()) for f in (root / "toy").glob("*/timing.json")]
    assert any(t["partial"] and t["attempts"] > 1 for t in timings)
    assert "nothing to do: all 4 runs are finished" in study("run", root).stdout


def test_a_killed_study_really_was_continued_and_not_begun_again(tmp_path: Path):
    root = tmp_path / "runs"
    killed_when(root, exists(root, "toy/*/ckpt/last.json"), signal.SIGKILL)
    assert gone_soon(root)
    (checkpoint,) = list((root / "toy").glob("*/ckpt/last.json"))[:1]
    state = json.loads(checkpoint.read_text())
    checkpoint.write_text(json.dumps({**state, "x": 1000.0}))
    assert study("run", root).returncode == 0
    assert json.loads(results(root)[checkpoint.parent.parent.name])["x"] > 100


def test_ctrl_c_says_how_to_continue_and_leaves_nobody(clean: Path, tmp_path: Path):
    root = tmp_path / "runs"
    assert killed_when(root, exists(root, "toy/*/ckpt/last.json"), signal.SIGINT) == 130
    assert lock_is_free(root)
    assert study("run", root).returncode == 0
    assert results(root) == results(clean)


def test_a_finished_study_is_left_alone(copied: Path):
    def stamps():
        files = sorted(f for f in copied.rglob("*") if f.is_file() and f.name != ".lock")
        return {f: (f.stat().st_mtime_ns, f.stat().st_ino) for f in files}

    before = stamps()
    again = study("run", copied)
    assert again.returncode == 0
    assert "nothing to do: all 4 runs are finished" in again.stdout
    assert "T1 drift ends higher" in again.stdout
    assert stamps() == before


def test_a_missing_report_is_made_again_and_nothing_else(copied: Path):
    (copied / "toy/report/index.html").unlink()
    times = {f: f.stat().st_mtime_ns for f in copied.glob("toy/*/result.json")}
    assert "nothing to do" in study("run", copied).stdout
    assert (copied / "toy/report/index.html").is_file()
    assert {f: f.stat().st_mtime_ns for f in copied.glob("toy/*/result.json")} == times


def test_one_worker_equals_two_and_every_worker_has_one_thread(clean: Path, tmp_path: Path):
    assert study("run", tmp_path, "--workers", "1").returncode == 0
    assert results(tmp_path) == results(clean)
    assert {json.loads(r)["threads"] for r in results(clean).values()} == {"1"}


def test_seeds_add_runs_and_stay_in_the_report(copied: Path):
    old = results(copied)
    more = study("run", copied, "--seeds", "1")
    assert "continuing: 4 of 6 runs are finished" in more.stdout
    assert old.items() < results(copied).items()
    assert len(results(copied)) == 6
    plain = study("run", copied)
    assert "nothing to do: all 6 runs are finished" in plain.stdout
    assert json.loads((copied / "toy/report/report.json").read_text())["extra_seeds"] == 1


def test_failed_runs_leave_the_others_alone_and_are_tried_again(tmp_path: Path):
    cure = tmp_path / "cured"
    root = tmp_path / "runs"
    broken = study("run", root, "--workers", "2", name="BREAKING", TOY_CURE=str(cure))
    assert broken.returncode == 1
    folder = root / "breaking"
    assert len(results(root, "breaking")) == 1
    errors = {f.parent.name: f.read_text() for f in folder.glob("*/error.txt")}
    text = {name.rsplit("-", 1)[0]: error for name, error in errors.items()}
    assert "ZeroDivisionError: a bug in the toy" in text["quick-walk-still-s0"]
    assert "Traceback" in text["quick-walk-still-s0"]
    assert "about to break" in text["quick-walk-still-s0"]
    assert "error: the toy was given nonsense" in text["quick-walk-drift-s0"]
    assert "Traceback" not in text["quick-walk-drift-s0"]
    assert "killed by SIGKILL" in text["quick-walk-still-s1"]
    assert "Traceback" not in broken.stdout + broken.stderr
    assert all(name in broken.stdout for name in errors)
    assert "3 of 4 runs failed" in broken.stdout
    assert "3 of its 4 runs failed or are not finished" in " ".join(broken.stdout.split())
    status = json.loads(study("status", root, "--json", name="BREAKING", TOY_CURE=str(cure)).stdout)
    assert status["counts"] == {"done": 1, "stale": 0, "todo": 0, "failed": 3}
    cure.touch()
    cured = study("run", root, name="BREAKING", TOY_CURE=str(cure))
    assert cured.returncode == 0, cured.stdout + cured.stderr
    assert "trying 3 failed runs again" in cured.stdout
    assert not list(folder.glob("*/error.txt"))


def test_an_artefact_that_cannot_be_built_stops_only_what_needs_it(tmp_path: Path):
    done = study("run", tmp_path, name="GROUNDLESS")
    assert done.returncode == 1
    assert "base  FAILED: the ground is missing" in done.stdout
    assert "because base-" in done.stdout
    assert [name.rsplit("-", 1)[0] for name in results(tmp_path, "groundless")] == ["quick-free-still-s0"]


def test_artefacts_are_built_once_and_said_to_be_cached(copied: Path):
    more = study("run", copied, "--seeds", "1").stdout
    assert "base  cached" in more, more
    assert "base  made" not in more
    assert "ground  cached" in more


def own_toy(tmp_path: Path) -> Path:
    """A copy of the toy studies that a test may change."""
    shutil.copytree(TOYS, tmp_path / "toys", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "toys" / "toy_study.py"


def test_runs_made_by_other_code_are_stale_and_rerun_only_when_asked(tmp_path: Path):
    file, root = own_toy(tmp_path), tmp_path / "runs"
    path = {"PYTHONPATH": str(file.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    assert study("run", root, **path).returncode == 0
    old = results(root)
    file.write_text(file.read_text().replace("* 0.9 + cell", "* 0.8 + cell"))
    plain = study("run", root, **path)
    assert "nothing to do" in plain.stdout
    assert "4 runs stale (made by other code" in plain.stdout
    assert results(root) == old
    status = json.loads(study("status", root, "--json", **path).stdout)
    assert status["counts"] == {"done": 0, "stale": 4, "todo": 0, "failed": 0}
    rerun = study("run", root, "--rerun-stale", **path)
    assert rerun.returncode == 0
    assert "base  made" in rerun.stdout
    assert results(root).keys() == old.keys()
    assert all(results(root)[name] != old[name] for name in old)
    assert {f.parent.name: f.read_bytes() for f in (root / "toy/.stale").glob("*/result.json")} == old
    assert "stale" not in study("run", root, **path).stdout


def test_an_unfinished_run_of_other_code_begins_anew(clean: Path, tmp_path: Path):
    root = tmp_path / "runs"
    killed_when(root, exists(root, "toy/*/ckpt/last.json"), signal.SIGKILL)
    assert gone_soon(root)
    for file in (root / "toy").glob("*/run.json"):
        made = json.loads(file.read_text())
        made["made_by"]["source"] = "0" * 16
        file.write_text(json.dumps(made))
    for file in (root / "toy").glob("*/ckpt/last.json"):
        file.write_text(json.dumps({"step": 5, "x": 1e6}))
    assert study("run", root).returncode == 0
    assert results(root) == results(clean)


def test_two_studies_do_not_write_one_folder(copied: Path):
    handle = os.open(copied / "toy" / ".lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        refused = study("run", copied)
    finally:
        os.close(handle)
    assert refused.returncode == 2
    assert f"in use by another steersman (process {os.getpid()})" in refused.stderr


def test_a_root_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    refused = study("run", tmp_path / "file")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "cannot be written" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_report_of_one_mode_does_not_mix_runs_of_another(copied: Path):
    assert study("run", copied, "--full").returncode == 0
    report = json.loads((copied / "toy/report/report.json").read_text())
    assert report["mode"] == "full"
    assert len(report["runs"]) == 12
    assert all(run.startswith("full-") for run in report["runs"])
    claims = {c["id"]: c for c in report["claims"]}
    assert claims["T1"]["verdict"] == "supported"
    assert claims["T1"]["n_seeds"] == 6
    quick = study("report", copied, "--quick", "--json")
    assert all(run.startswith("quick-") for run in json.loads(quick.stdout)["runs"])


def test_a_mode_that_a_study_lacks_is_refused(tmp_path: Path):
    refused = study("run", tmp_path, "--gpu")
    assert refused.returncode == 2
    assert "has no gpu mode" in refused.stderr


def test_one_run_can_be_repeated_without_the_pool(clean: Path, tmp_path: Path):
    run = next(iter(results(clean)))
    words = [command()[0], "-m", "steersman.study.worker", str(tmp_path), "toy_study:STUDY", "quick", run]
    done = subprocess.run(words, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == {run: results(clean)[run]}
