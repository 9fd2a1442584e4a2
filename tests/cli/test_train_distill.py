"""`steersman train distill` as a user meets it: options, selection, progress lines, presets, refusals."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk is what `store` tests; here it would only take time."""
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    root = tmp_path_factory.mktemp("desk")
    tokenizer = train_tokenizer(["one two three " * 5], 262)
    folders = {
        name: save_model(
            build_model(SmallModel(width=16, layers=1, heads=2, context=32), rows, seed), words, root / name
        )
        for name, words, rows, seed in (
            ("student", tokenizer, len(tokenizer), 0),
            ("teacher", tokenizer, len(tokenizer), 1),
            ("foreign", train_tokenizer(["six seven " * 5], 261), 261, 1),
        )
    }
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"{i} ="}) + "\n" for i in range(10)))
    return SimpleNamespace(root=root, data=root / "prompts.jsonl", **folders)


def words(desk: SimpleNamespace, out: Path, *more: object) -> list[object]:
    sizes = [f"--set={x}" for x in ("budget.batch=4", "rollout.samples=2", "rollout.max_new_tokens=4", "optim.lr=1e-3")]
    return ["train", "distill", "--model", desk.student, "--data", desk.data, "--steps", 2, "--out", out, *sizes, *more]


def test_options_lines_and_result(desk: SimpleNamespace, cli: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    chosen = ("--teacher", desk.teacher, "--eval", desk.data, "--select", "q3", "--keep", 0.2)
    done = cli(*words(desk, out, *chosen))
    assert done.code == 0, done.err
    (line,) = re.findall(r"^step 1/2  (.*)$", done.err, re.M)
    assert line.startswith("divergence ")
    assert "reward" not in done.err
    assert re.search(r"held-out divergence +\S+ +before: ", done.out)
    assert str(out / "samples.jsonl") in done.out
    kept = json.loads((out / "recipe.json").read_text())
    assert (kept["stages"][0]["rule"], kept["stages"][0]["keep"]) == ("q3", 0.2)
    assert kept["loss"]["teacher"]["path"] == str(desk.teacher)
    again = cli("train", "distill", "--resume", out, "--json")
    assert json.loads(again.out)["steps"] == 2


def test_presets_and_dry_run(desk: SimpleNamespace, cli: Any, tmp_path: Path) -> None:
    found = cli(*words(desk, tmp_path / "run", "--preset", "tip", "--teacher", desk.teacher, "--dry-run"))
    assert found.code == 0, found.err
    assert 'kind = "select_tokens"' in found.out
    assert "steps        2" in found.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ([], "loss.teacher is missing"),
        (["--preset", "opd"], "loss.teacher"),
        (["--teacher", "nowhere"], "does not exist"),
        (["--teacher", "FOREIGN"], "different vocabularies"),
        (["--teacher", "TEACHER", "--keep", 0.5], "needs --select"),
        (["--teacher", "TEACHER", "--select", "q3", "--keep", 1.5], "--keep: is 1.5"),
        (["--teacher", "TEACHER", "--select", "best"], "rule"),
        (["--teacher", "TEACHER", "--set", "loss.divergence=jsd", "--set", "loss.beta=0"], "beta"),
        (["--teacher", "TEACHER", "--set", 'stages=["grpo"]'], "nothing grades the responses"),
    ],
)
def test_what_cannot_work_is_refused(
    desk: SimpleNamespace, cli: Any, tmp_path: Path, more: list[Any], match: str
) -> None:
    named = {"FOREIGN": desk.foreign, "TEACHER": desk.teacher}
    found = cli(*words(desk, tmp_path / "run", *(named.get(x, x) for x in more)))
    assert found.code == 2
    assert found.err.count("error: ") == 1
    assert match in found.err
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_select_and_a_recipe_do_not_go_together(desk: SimpleNamespace, cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    assert cli("config", "cp", "opd", file).code == 0
    found = cli(*words(desk, tmp_path / "run", "--config", file, "--teacher", desk.teacher, "--select", "q3"))
    assert found.code == 2
    assert "--select" in found.err
