"""The study commands: names, tables, JSON, exit codes."""

import json
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import command, environment, steersman, study

from steersman.cli.study import resolve
from steersman.cli.watch import counted, duration
from steersman.core.errors import UserError
from steersman.studies import STUDIES

WIDTH = 100


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    done = study("run", root)
    assert done.returncode == 0, done.stderr
    return root, done


def test_resolve_knows_our_studies_and_the_nearest_name():
    assert resolve("rdpo", []) == STUDIES["rdpo"]
    with pytest.raises(UserError, match="Did you mean rdpo"):
        resolve("rpdo", [])


def test_foreign_code_is_imported_only_where_allowed():
    assert resolve("my_pkg.part:STUDY", ["my_pkg"]) == "my_pkg.part:STUDY"
    for allowed in ([], ["my"], ["my_pkg.par"]):
        with pytest.raises(UserError, match="--allow-import my_pkg"):
            resolve("my_pkg.part:STUDY", allowed)


@pytest.mark.parametrize("name, said", [("toy_study:NOTHING", "has no 'NOTHING'"), ("toy_study:STEPS", "not a Study")])
def test_what_is_no_study_is_refused(name, said):
    done = steersman("study", "show", name, "--allow-import", "toy_study")
    assert done.returncode == 2
    assert said in done.stderr


def test_a_module_that_is_not_there_is_refused():
    done = steersman("study", "show", "nowhere_at_all:STUDY", "--allow-import", "nowhere_at_all")
    assert done.returncode == 2
    assert "there is no module 'nowhere_at_all'" in done.stderr


def test_the_table_fits_and_ends_with_the_report_and_the_next_command(made):
    _, done = made
    assert max(len(line) for line in done.stdout.splitlines() if "report.json" not in line and "/" not in line) <= WIDTH
    last = done.stdout.strip().splitlines()[-2:]
    assert "report/index.html" in " ".join(last)
    assert "again with more seeds: steersman study run toy_study:STUDY --full" in last[-1]
    assert "not testable here: the moon (too far)" in done.stdout
    assert "what was equal: steps" in done.stdout
    assert "by design this size leaves T1 inconclusive (smallest p reachable: 0.25)" in done.stdout
    assert "\x1b" not in done.stdout
    assert "█" not in done.stdout


def test_json_is_one_document_on_standard_output(made):
    root, _ = made
    for words in (["run"], ["status"], ["report"]):
        found = json.loads(study(*words, root, "--json").stdout)
        assert found["study"] == "toy"
    shown = json.loads(steersman("study", "show", "toy_study:STUDY", "--allow-import", "toy_study", "--json").stdout)
    assert shown["modes"]["quick"]["undecidable"] == ["T1"]
    assert shown["modes"]["quick"]["smallest_p"] == {"T1": 0.25}
    assert set(shown["modes"]) == {"quick", "full"}


def test_status_of_a_study_never_run(tmp_path: Path):
    done = study("status", tmp_path)
    assert done.returncode == 0
    assert "0 done, 0 stale, 4 todo, 0 failed" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_report_of_a_study_never_run_is_one_clear_error(tmp_path: Path):
    done = study("report", tmp_path / "runs")
    assert done.returncode == 2
    assert done.stderr.startswith("error: study toy has no finished run of the quick mode")
    assert "Run it first: steersman study run toy" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_two_sizes_at_once_are_refused(tmp_path: Path):
    done = study("run", tmp_path, "--quick", "--full")
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


def test_diff_of_two_folders(made, tmp_path: Path):
    root, _ = made
    other = shutil.copytree(root, tmp_path / "runs")
    same = steersman("study", "diff", str(root / "toy"), str(other / "toy"))
    assert same.returncode == 0, same.stderr
    assert "nothing changed" in same.stdout
    file = other / "toy/report/report.json"
    file.write_text(file.read_text().replace('"verdict": "supported"', '"verdict": "contradicted"'))
    changed = steersman("study", "diff", str(root / "toy"), str(file))
    assert "something changed" in changed.stdout
    assert json.loads(steersman("study", "diff", str(root / "toy"), str(file), "--json").stdout)["changed"] is True
    missing = steersman("study", "diff", str(tmp_path), str(file))
    assert missing.returncode == 2
    assert "holds no report" in missing.stderr


def test_strict_says_three_when_a_claim_is_contradicted(made, tmp_path: Path):
    root = shutil.copytree(made[0], tmp_path / "runs")
    assert study("run", root, "--strict").returncode == 0
    for file in (root / "toy").glob("*/result.json"):
        file.write_text(json.dumps({"x": {"$float": "nan"}, "steps": 6, "threads": "1"}))
    done = study("run", root, "--strict")
    assert "T2 every walk is finite" in done.stdout
    assert done.returncode == 3


def on_terminal(words: list[str], **more: str) -> str:
    main, side = pty.openpty()
    with subprocess.Popen(
        command(*words), env=environment(TERM="xterm", COLUMNS="100", **more), stdout=side
    ) as process:
        os.close(side)
        seen = b""
        while True:
            try:
                data = os.read(main, 65536)
            except OSError:
                break
            if not data:
                break
            seen += data
        process.wait(60)
    os.close(main)
    return seen.decode()


def test_a_terminal_gets_a_bar_and_colours_the_verdict_only(tmp_path: Path):
    words = ["study", "run", "toy_study:STUDY", "--allow-import", "toy_study", "--root", str(tmp_path)]
    seen = on_terminal(words, NO_COLOR="", TOY_PAUSE="0.1")
    assert "runs" in seen
    assert re.search(r"[━█╸]", seen)
    assert re.search(r"\x1b\[32msupported\x1b\[0m", seen)
    plain = on_terminal(words, NO_COLOR="1")
    assert "supported" in plain
    assert not re.search(r"\x1b\[3[0-9]m", plain)


@pytest.mark.parametrize("seconds, text", [(0.44, "0.4 s"), (9.96, "10 s"), (59.7, "1 min 0 s"), (100, "1 min 40 s")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_counted():
    assert (counted(1, "run"), counted(2, "run"), counted(1200, "run")) == ("1 run", "2 runs", "1,200 runs")
