"""One job in this process: errors, timings, artefacts, progress."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import toy_study

from steersman.core.errors import RunStopped, UserError
from steersman.store.run import RunDir
from steersman.study import worker
from steersman.study.load import load_study
from steersman.study.plan import make_plan
from steersman.study.progress import Progress, clear_progress, read_progress

SPEC = "toy_study:STUDY"


def planned(**changes):
    return make_plan(dataclasses.replace(toy_study.STUDY, **changes), "quick")


def free(run):
    """A plan of cells that need nothing."""
    mode = toy_study.mode("quick", 0)
    cells = tuple(dataclasses.replace(cell, needs=()) for cell in mode.cells)
    return planned(run=run, mode=lambda n, e: dataclasses.replace(mode, cells=cells, artefacts=()))


@pytest.mark.parametrize("error, code", [(UserError("bad"), 2), (RunStopped("full"), 1), (KeyError("x"), 70)])
def test_an_error_is_kept_and_gives_its_code(tmp_path: Path, error, code, capsys):
    def broken(cell, directory, artefacts):
        raise error

    plan = free(broken)
    job = plan.runs[0].id
    assert worker.attempt(plan, job, tmp_path, SPEC) == code
    kept = (tmp_path / "toy" / job / "error.txt").read_text()
    assert ("Traceback" in kept) == (code == 70)
    assert str(error) in kept
    assert not (tmp_path / "toy" / job / "result.json").exists()


def test_times_of_failed_attempts_are_added_and_of_killed_ones_marked(tmp_path: Path):
    def broken(cell, directory, artefacts):
        raise UserError("bad")

    plan = free(broken)
    job = plan.runs[0].id
    worker.attempt(plan, job, tmp_path, SPEC)
    good = free(lambda cell, directory, artefacts: {"x": 1, "timing": {"tokens": 3}})
    assert worker.attempt(good, job, tmp_path, SPEC) == 0
    directory = RunDir(tmp_path / "toy" / job)
    assert directory.result() == {"x": 1}
    assert (directory.timing()["attempts"], directory.timing()["partial"], directory.timing()["tokens"]) == (
        2,
        False,
        3,
    )
    earlier = [
        {"event": "start"},
        {"event": "end", "cpu_seconds": 2.0, "wall_seconds": 3.0, "peak_rss_mib": 9.0},
        {"event": "start"},
    ]
    own = {"cpu_seconds": 1.0, "wall_seconds": 1.0, "peak_rss_mib": 4.0}
    total = worker._total(earlier, own)
    assert total == {"cpu_seconds": 3.0, "wall_seconds": 4.0, "peak_rss_mib": 9.0, "attempts": 3, "partial": True}


def test_what_is_not_json_is_an_error_and_no_result(tmp_path: Path):
    plan = free(lambda cell, directory, artefacts: {"x": {1, 2}})
    job = plan.runs[0].id
    assert worker.attempt(plan, job, tmp_path, SPEC) == 70
    assert not (tmp_path / "toy" / job / "result.json").exists()


def test_an_artefact_appears_whole_or_not_at_all(tmp_path: Path):
    def half(settings, folder, inputs):
        (folder / "half").write_text("half")
        raise UserError("no more")

    ground = dataclasses.replace(toy_study.ARTEFACTS[1], build=half)
    plan = planned(mode=lambda n, e: dataclasses.replace(toy_study.mode(n, e), artefacts=(ground,), cells=()))
    job = plan.artefacts[0].id
    assert worker.attempt(plan, job, tmp_path, SPEC) == 2
    assert not plan.artefacts[0].folder(tmp_path).exists()
    good = planned()
    assert worker.attempt(good, job, tmp_path, SPEC) == 0
    folder = good.artefacts[0].folder(tmp_path)
    assert folder.name == job
    assert not (folder / "half").exists()
    assert json.loads((folder / "artefact.json").read_text())["line"] == "starts at 2"


def test_an_artefact_that_is_there_is_not_built_again(tmp_path: Path):
    plan = planned()
    job = plan.artefacts[0].id
    assert worker.attempt(plan, job, tmp_path, SPEC) == 0
    before = os.stat(plan.artefacts[0].folder(tmp_path) / "value.json").st_ino
    assert worker.attempt(plan, job, tmp_path, SPEC, rebuild=True) == 0  # made by this code: nothing to replace
    assert os.stat(plan.artefacts[0].folder(tmp_path) / "value.json").st_ino == before


def test_progress_is_read_back_and_cleared(tmp_path: Path):
    assert read_progress(tmp_path) is None
    progress = Progress(tmp_path, 10, "pairs", done=4)
    progress.advance(2)
    seen = read_progress(tmp_path)
    assert (seen.done, seen.total, seen.unit) == (6, 10, "pairs")
    assert seen.rate > 0
    (tmp_path / "progress.json").write_text("{")
    assert read_progress(tmp_path) is None
    clear_progress(tmp_path)
    assert not list(tmp_path.iterdir())


def test_progress_on_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path):
    Progress(tmp_path / "missing", 10).advance()


def test_a_study_is_loaded_from_its_text():
    assert load_study(SPEC) is toy_study.STUDY
    for spec in ("toy_study", ":STUDY", "toy_study:"):
        with pytest.raises(UserError, match="does not name a study"):
            load_study(spec)
