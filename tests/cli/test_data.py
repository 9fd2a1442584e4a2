"""`steersman data check` as a user sees it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steersman.cli.data import WIDTH, app
from steersman.language.build import SmallModel, build_model, train_tokenizer
from steersman.language.load import save_model

runner = CliRunner()
GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_clean_file(tmp_path: Path) -> None:
    result = runner.invoke(app, ["check", str(write(tmp_path / "a.jsonl", GOOD))])
    assert result.exit_code == 0, result.output
    assert "1 usable row\n" in result.output
    assert "lengths in tokens were not checked" in result.output
    assert "clean: every row can be trained on" in result.output


def test_broken_rows_leakage_and_width(tmp_path: Path) -> None:
    long = [{"prompt": "p" * 300, "chosen": i} for i in range(30)]
    path = write(tmp_path / "a.jsonl", GOOD, *long)
    result = runner.invoke(app, ["check", str(path), "--eval", str(path)])
    assert result.exit_code == 2, result.output
    assert "broken: line 2:" in result.output
    assert "and 20 more" in result.output
    assert "whole row is in the first file" in result.output
    assert max(len(line) for line in result.output.splitlines() if str(tmp_path) not in line) <= WIDTH


def test_json(tmp_path: Path) -> None:
    result = runner.invoke(app, ["check", str(write(tmp_path / "a.jsonl", GOOD, GOOD)), "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["rows"], report["duplicates"], report["clean"]) == (2, [2], True)


def test_model_gives_tokens_and_context(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["x"], 300)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=4), len(tokenizer), 0)
    folder = save_model(model, tokenizer, tmp_path / "model")
    path = write(tmp_path / "a.jsonl", GOOD, GOOD | {"prompt": "ppppp"})
    result = runner.invoke(app, ["check", str(path), "--model", str(folder)])
    assert result.exit_code == 2, result.output
    assert "prompt alone longer than the context" in result.output
    assert "longest row" in result.output
    assert "not checked" not in result.output
    assert "not clean: training would refuse it: 1 prompt longer than the context" in result.output
    path = write(tmp_path / "b.jsonl", GOOD, GOOD | {"chosen": "aaaaa"})
    result = runner.invoke(app, ["check", str(path), "--model", str(folder)])
    assert result.exit_code == 0, result.output
    assert "clean but for 1 longer row: training refuses such unless data.truncation.kind" in result.output


@pytest.mark.parametrize(
    "rows, message",
    [
        ([GOOD | {"chosen": "b"}] * 2, "no row can be trained on; 2 pairs with identical sides"),
        ([GOOD | {"chosen": 3}], "no row can be trained on; 1 broken line"),
    ],
)
def test_a_file_without_a_usable_row_is_not_clean(tmp_path: Path, rows: list[object], message: str) -> None:
    path = write(tmp_path / "a.jsonl", *rows)
    result = runner.invoke(app, ["check", str(path)])
    assert result.exit_code == 2, result.output
    assert f"not clean: training would refuse it: {message}" in result.output
    result = runner.invoke(app, ["check", str(write(tmp_path / "b.jsonl", GOOD)), "--eval", str(path)])
    assert result.exit_code == 2, result.output
    assert "no row of the second file can be used" in result.output


@pytest.mark.parametrize("arguments", [["nowhere.jsonl"], ["--model", "nowhere"]])
def test_user_errors_are_one_message(tmp_path: Path, arguments: list[str]) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    result = runner.invoke(app, ["check", *([] if len(arguments) == 1 else [str(path)]), *arguments])
    assert result.exit_code == 2
    assert "error: nowhere" in result.output
    assert "Traceback" not in result.output
