"""`steersman config`: what is shown is valid, what is wrong is named, nothing is overwritten."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from steersman.cli.config import app
from steersman.core.errors import UserError

runner = CliRunner()


@pytest.mark.parametrize("verb", ["sft", "reward", "preference"])
def test_what_cp_writes_is_valid_and_show_prints_the_same(tmp_path: Path, verb: str) -> None:
    file = tmp_path / "r.toml"
    assert runner.invoke(app, ["cp", verb, str(file)]).exit_code == 0
    assert runner.invoke(app, ["show", verb]).stdout == file.read_text()
    checked = runner.invoke(app, ["check", str(file)])
    assert checked.exit_code == 0, checked.output
    assert checked.stdout == file.read_text()


def test_show_takes_changes_and_names_a_wrong_one() -> None:
    assert "lr = 0.5 " in runner.invoke(app, ["show", "sft", "--set", "optim.lr=0.5"]).stdout
    result = runner.invoke(app, ["show", "sft", "--set", "optim.lrr=0.5"])
    assert isinstance(result.exception, UserError)
    assert "optim.lrr (--set): unknown key" in str(result.exception)


def test_cp_does_not_replace_a_file(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("mine")
    result = runner.invoke(app, ["cp", "sft", str(file)])
    assert isinstance(result.exception, UserError)
    assert file.read_text() == "mine"
    assert runner.invoke(app, ["cp", "sft", str(file), "--force"]).exit_code == 0
    assert file.read_text() != "mine"


def test_check_names_file_and_line_and_knows_runtime(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    runner.invoke(app, ["cp", "preference", str(file)])
    text = file.read_text()
    file.write_text(text + "\n[runtime]\nthreads = 1\n")
    assert runner.invoke(app, ["check", str(file)]).exit_code == 0
    file.write_text(text + "\n[runtime]\nthreads = 0\n")
    line = len(text.splitlines()) + 3
    assert f"threads ({file}:{line}): got 0" in str(runner.invoke(app, ["check", str(file)]).exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "verb is missing"),
        ('verb = "preferense"', "Did you mean 'preference'?"),
        ('verb = "sft"', "is missing"),
        ("verb = [1]", "is not known"),
    ],
)
def test_a_file_without_a_known_verb(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "r.toml"
    file.write_text(text)
    result = runner.invoke(app, ["check", str(file)])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
