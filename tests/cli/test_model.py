"""`steersman model` as a user sees it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steersman.cli.model import app
from steersman.language.load import load_model, load_tokenizer

runner = CliRunner()


def build(tmp_path: Path, *more: str) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("the film was good\nthe film was bad\n" * 20, encoding="utf-8")
    sizes = ["--vocab", "280", "--width", "16", "--layers", "1", "--heads", "2", "--context", "32"]
    result = runner.invoke(app, ["build", "--from-text", str(text), "--to", str(tmp_path / "m"), *sizes, *more])
    assert result.exit_code == 0, result.output
    assert "untrained" in result.output
    return tmp_path / "m"


def test_build_and_info(tmp_path: Path) -> None:
    folder = build(tmp_path)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert len(tokenizer("the film was good")["input_ids"]) < 10
    result = runner.invoke(app, ["info", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["parameters"] == model.num_parameters()
    assert (facts["tokens"], facts["context"], facts["chat_template"]) == (len(tokenizer), 32, "no")
    plain = runner.invoke(app, ["info", str(folder)])
    assert "LlamaForCausalLM" in plain.output


def test_a_model_is_replaced_only_when_told(tmp_path: Path) -> None:
    folder = build(tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    for command in (["import", "smollm2"], ["build", "--from-text", str(tmp_path / "text.txt"), "--seed", "1"]):
        result = runner.invoke(app, [*command, "--to", str(folder)])
        assert result.exit_code == 2, result.output
        assert "is there already" in result.output
        assert "Add --force to replace it." in result.output
        assert (folder / "model.safetensors").read_bytes() == before
    build(tmp_path, "--seed", "1", "--force")
    assert (folder / "model.safetensors").read_bytes() != before
    (folder / "config.json").unlink()
    result = runner.invoke(app, ["import", "smollm2", "--to", str(folder), "--force"])
    assert result.exit_code == 2, result.output
    assert "does not hold a model" in result.output


def test_build_from_json_lines_equals_build_from_the_same_text(tmp_path: Path) -> None:
    folder = build(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("the film was good", "the film was bad") * 20))
    sizes = ["--vocab", "280", "--width", "16", "--layers", "1", "--heads", "2"]
    result = runner.invoke(app, ["build", "--from-text", str(rows), "--to", str(tmp_path / "n"), *sizes])
    assert result.exit_code == 0, result.output
    assert load_tokenizer(tmp_path / "n").get_vocab() == load_tokenizer(folder).get_vocab()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--from-text", "nowhere.txt"], "nowhere.txt: does not exist"),
        (["--from-text", "broken.jsonl"], "broken.jsonl, line 2"),
        (["--from-text", "empty.txt"], "no text"),
        (["--from-text", "latin.txt"], "not UTF-8"),
        (["--from-text", "ok.txt", "--width", "30"], "even number"),
    ],
)
def test_build_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.jsonl").write_text('{"text": "a"}\n{"text"\n')
    Path("empty.txt").write_text("\n")
    Path("latin.txt").write_bytes("é".encode("latin-1"))
    Path("ok.txt").write_text("a\n")
    result = runner.invoke(app, ["build", "--to", "m", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Value error" not in result.output
    assert not Path("m").exists()


def test_info_and_import_errors(tmp_path: Path) -> None:
    result = runner.invoke(app, ["info", str(tmp_path)])
    assert result.exit_code == 2
    assert "has no config.json" in result.output
    result = runner.invoke(app, ["import", "gpt5", "--to", str(tmp_path / "m")])
    assert result.exit_code == 2
    assert "smollm2" in result.output
