"""Run directories: one folder is one run, rows survive a kill, the result comes last."""

import errno
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from steersman.core.errors import CorruptFile, RunStopped, UserError
from steersman.store import run as run_module
from steersman.store.run import MOST_NAMED, RunDir, differences, writable

DEFINITION = {"lr": 0.1, "limits": {"x": math.inf}, "rows": (1, 2), "none": None, 3: math.nan}


def test_making_the_object_touches_nothing(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "r")
    assert not run.finished
    assert run.read("metrics") == []
    assert run.timing() == {}
    run.truncate_after("metrics", 3)
    assert not (tmp_path / "r").exists()
    assert run.checkpoints == tmp_path / "r" / "ckpt"


def test_the_same_run_may_start_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "r")
    run.start(DEFINITION | {"made_by": {"torch": "1"}})
    before = (tmp_path / "r" / "run.json").read_bytes()
    run.start(dict(reversed(DEFINITION.items())) | {"made_by": {"torch": "2"}})
    assert (tmp_path / "r" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "change, named",
    [
        ({"lr": 0.2}, ["lr = 0.1 (now 0.2)"]),
        ({"rows": [1, 3]}, ["rows = [1, 2] (now [1, 3])"]),
        ({"extra": 1}, ["extra = absent (now 1)"]),
        ({"lr": 0.2, "none": 0}, ["lr = 0.1 (now 0.2)", "none = null (now 0)"]),
    ],
)
def test_another_run_is_refused_by_the_keys_that_differ(
    tmp_path: Path, change: dict[str, Any], named: list[str]
) -> None:
    run = RunDir(tmp_path)
    run.start(DEFINITION)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UserError, match=re.escape(f"holds another run, made with {', '.join(named)}")) as caught:
        run.start(DEFINITION | change)
    assert caught.value.where == str(tmp_path)
    with pytest.raises(UserError, match=r"made with lr = 0\.1 \(now absent\)"):
        run.start({k: v for k, v in DEFINITION.items() if k != "lr"})
    assert (tmp_path / "run.json").read_bytes() == before


def test_rows_keep_nan_and_order(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "r")
    run.append("metrics", [{"step": 1, "loss": math.nan, "z": -math.inf}, {"step": 2, "a": "é"}])
    run.append("metrics", [])
    run.append("metrics", [{"step": 3}])
    rows = run.read("metrics")
    assert [r["step"] for r in rows] == [1, 2, 3]
    assert math.isnan(rows[0]["loss"])
    assert rows[0]["z"] == -math.inf
    assert list(rows[0]) == ["step", "loss", "z"]
    assert "NaN" not in (tmp_path / "r" / "metrics.jsonl").read_text()


ROWS = [{"step": s, "loss": 0.1 * s, "é": math.nan} for s in range(5)]


@pytest.mark.parametrize("cut", [1, 5, 9, 14])
def test_a_torn_last_line_is_dropped_and_written_again(tmp_path: Path, cut: int) -> None:
    run, whole = RunDir(tmp_path / "r"), RunDir(tmp_path / "whole")
    run.append("metrics", ROWS[:4])
    whole.append("metrics", ROWS)
    file = tmp_path / "r" / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert [r["step"] for r in run.read("metrics")] == [0, 1, 2]
    run.truncate_after("metrics", 2)
    run.append("metrics", ROWS[3:])
    assert file.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("step, left", [(-1, 0), (0, 1), (2, 3), (9, 5)])
def test_truncating_keeps_the_bytes_of_what_stays(tmp_path: Path, step: int, left: int) -> None:
    run = RunDir(tmp_path)
    run.append("metrics", ROWS)
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    run.truncate_after("metrics", step)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(lines[:left])


def test_damage_inside_a_file_is_not_skipped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(CorruptFile, match="is not valid JSON") as caught:
        run.read("metrics")
    assert caught.value.where == f"{tmp_path / 'metrics.jsonl'}:2"


def test_the_result_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, written = RunDir(tmp_path), []
    real = run_module.write_json
    monkeypatch.setattr(run_module, "write_json", lambda p, v: (written.append(p.name), real(p, v)))
    run.finish({"loss": math.nan}, {"seconds": 1.5})
    assert written == ["timing.json", "result.json"]
    assert run.finished
    assert math.isnan(run.result()["loss"])
    assert run.timing() == {"seconds": 1.5}


def test_a_failure_before_the_result_leaves_the_run_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path, __: Any) -> None:
        raise RunStopped("full")

    monkeypatch.setattr(run_module, "write_json", fail)
    with pytest.raises(RunStopped):
        RunDir(tmp_path).finish({}, {})
    assert not RunDir(tmp_path).finished


def test_no_result_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        RunDir(tmp_path).result()


def test_appending_to_a_full_disk_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunStopped, match="cannot write"):
        RunDir(tmp_path / "file").append("metrics", [{"step": 1}])


def test_a_writable_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    writable(tmp_path / "a" / "b")
    writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(UserError, match="cannot be written") as caught:
            writable(bad)
        assert caught.value.where == str(bad)
        assert "--out" in caught.value.cure

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        writable(tmp_path / "x")


def test_differences_are_named_in_depth_shortly_and_not_all() -> None:
    there = {"made_by": 1, "budget": {"steps": 40, "seed": 0}, "stages": [{"kind": "grpo"}, {"kind": "uniform"}]}
    now = {"made_by": 2, "budget": {"steps": 60, "seed": 0}, "stages": [{"kind": "rloo"}, {"kind": "uniform"}]}
    want = ["budget.steps = 40 (now 60)", 'stages.0.kind = "grpo" (now "rloo")']
    assert differences(there, now) == want
    assert differences(there, there | {"made_by": 3}) == []
    assert differences({"data": "a" * 16}, {"data": "b" * 16}) == ["other contents of data"]
    (long,) = differences({"text": "x" * 999}, {"text": "y"})
    assert len(long) < 80
    assert differences({"limits": {}}, {"limits": {"kl": 1.0}}) == ["limits.kl = absent (now 1.0)"]
    assert differences({"a": float("nan")}, {"a": float("nan")}) == []


def test_of_many_differences_the_first_are_named(tmp_path: Path) -> None:
    RunDir(tmp_path).start({str(i): 0 for i in range(MOST_NAMED + 3)})
    with pytest.raises(UserError, match=r"4 = 0 \(now 1\) and 3 more") as caught:
        RunDir(tmp_path).start({str(i): 1 for i in range(MOST_NAMED + 3)})
    assert caught.value.what.count("now") == MOST_NAMED


def test_a_process_that_does_not_write_reads_what_another_wrote(tmp_path: Path) -> None:
    writer, reader = RunDir(tmp_path / "run"), RunDir(tmp_path / "run", writes=False)
    reader.start({"seed": 1})
    reader.append("metrics", [{"step": 1}])
    reader.finish({}, {})
    assert not writer.path.exists()
    writer.start({"seed": 1})
    writer.append("metrics", [{"step": 1}, {"step": 2}])
    reader.truncate_after("metrics", 1)
    assert [r["step"] for r in reader.read("metrics")] == [1, 2]
    with pytest.raises(UserError, match="another run"):
        reader.start({"seed": 2})
