"""`steersman train rl` as a user meets it: options, presets as recipes, progress lines, refusals, two processes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.cli.progress import WIDTH
from steersman.cli.progress_rl import RLNotes

Cli = Callable[..., SimpleNamespace]
REWARD = "def reward(prompt, completion, row):\n    return '' < completion[:1] < 'a'\n"
PARAMETERS = 2e-5  # two processes against one, after two steps of size 1e-3
LATE = """
import os, time
from pathlib import Path

from steersman.cli.main import main

look = Path.is_file


def late(file):
    end = time.monotonic() + 2
    while file.parent.name == "two" and not look(file) and time.monotonic() < end:
        time.sleep(0.01)
    return look(file)


if os.environ["RANK"] == "1":
    Path.is_file = late
main()
"""
"""The second process looks for a file of the run when the first has written it, if that one gets so far alone."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk is what `store` tests; here it would only take time."""
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    root = tmp_path_factory.mktemp("desk")
    tokenizer = train_tokenizer(["one two three " * 5], 262)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=32), len(tokenizer), 0)
    lines = "".join(json.dumps({"prompt": f"{i} =", "answer": "e"}) + "\n" for i in range(10))
    (root / "prompts.jsonl").write_text(lines)
    (root / "taste.py").write_text(REWARD)
    return SimpleNamespace(root=root, model=save_model(model, tokenizer, root / "model"), data=root / "prompts.jsonl")


def words(desk: SimpleNamespace, out: Path, *more: object) -> list[object]:
    sizes = [f"--set={x}" for x in ("budget.batch=4", "rollout.samples=4", "rollout.max_new_tokens=4", "optim.lr=1e-3")]
    return ["train", "rl", "--model", desk.model, "--data", desk.data, "--steps", 2, "--out", out, *sizes, *more]


OWN = ("--set=reward.kind=function", "--set=reward.function=taste:reward", "--allow-import", "taste")


def test_options_presets_lines_and_result(desk: SimpleNamespace, cli: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(desk.root))
    done = cli(*words(desk, tmp_path / "run", "--preset", "dr_grpo", "--eval", desk.data, *OWN))
    assert done.code == 0, done.err
    (line,) = re.findall(r"^step 1/2  (.*)$", done.err, re.M)
    assert line.startswith("accuracy 0.")
    assert "loss" not in done.err
    assert "warning: 10 held-out prompts are training prompts too" in done.err
    assert max(map(len, done.err.replace(str(desk.root), "").splitlines())) <= WIDTH
    assert re.search(r"held-out accuracy +\S+ \[\S+ \S+\] +before: ", done.out)
    assert str(tmp_path / "run" / "samples.jsonl") in done.out
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (kept["stages"][0]["scale"], kept["aggregate"]["constant"]) == ("none", 4)
    again = cli("train", "rl", "--resume", tmp_path / "run", "--allow-import", "taste", "--json")
    assert (
        json.loads(again.out)["evaluation"]["accuracy"]
        == json.loads((tmp_path / "run/result.json").read_text())["evaluation"]["accuracy"]
    )


def test_a_recipe_of_a_preset_can_be_copied_checked_and_trained(
    desk: SimpleNamespace, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    assert cli("config", "cp", "dapo", file, "--set", "rollout.max_new_tokens=4").code == 0
    checked = cli("config", "check", file)
    assert checked.code == 0, checked.err
    assert checked.out == file.read_text() == cli("config", "show", "dapo", "--set", "rollout.max_new_tokens=4").out
    assert "limit = 4" in checked.out
    done = cli(*words(desk, tmp_path / "run", "--config", file, "--set", "budget.seed=1", "--json"))
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 2


def test_what_cannot_work_is_refused_by_check_dry_run_and_training(
    desk: SimpleNamespace, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "gae.toml"
    file.write_text('verb = "rl"\nstages = ["gae"]\n[model]\npath = "m"\n[task]\ntrain = "t.jsonl"\n')
    out = tmp_path / "run"
    stages = '--set=stages=["gae"]'
    for found in (
        cli("config", "check", file),
        cli(*words(desk, out, stages, "--dry-run")),
        cli(*words(desk, out, stages)),
    ):
        assert found.code == 2
        assert found.err.count("error: ") == 1
        assert "gae needs 'value'" in found.err
        assert "Add the table [critic]" in found.err
        assert found.out == ""
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--preset", "dappo"], "preset (option): 'dappo' is not known"),
        (["--set", "task.evaluatoin=x"], "Did you mean task.evaluation?"),
        (["--set", 'stages=["grpoo","uniform"]'], "Did you mean 'grpo'?"),
        (["--set", "rollout.top_p=0.9"], 'add the stage "importance"'),
        (["--set", "reward.compare.kind=math"], "reward.compare"),
    ],
)
def test_mistakes(desk: SimpleNamespace, cli: Cli, tmp_path: Path, more: list[str], message: str) -> None:
    found = cli(*words(desk, tmp_path / "run", *more))
    assert found.code == 2
    assert message in found.err
    assert "Traceback" not in found.err


def test_missing_options_are_named(cli: Cli, desk: SimpleNamespace) -> None:
    assert "Give it with --data" in cli("train", "rl", "--model", desk.model).err
    assert "Give it with --model" in cli("train", "rl", "--data", desk.data).err
    own = cli("train", "rl", "--model", desk.model, "--set", "task.kind=chain_sum")
    assert "the model's tokens are not those of chain_sum" in own.err  # and no --data is asked for


def test_notes_lead_with_accuracy_and_keep_what_the_batch_said() -> None:
    notes = RLNotes(samples=4)
    batch = {"accuracy": 0.5, "reward_mean": 0.25, "rows_generated": 40.0, "zero_signal_groups": 0.5, "entropy": 1.0}
    notes.see(1, batch | {"tokens_per_s": 100.0, "tokens_generated": 200.0})
    assert notes.line() == [
        "accuracy 0.500 [0.24, 0.76]",  # Wilson, 5 of 10 prompts
        "reward 0.250",
        "no signal 50%",
        "entropy 1",
        "100 tokens/s",
    ]
    notes.see(2, {"grad_norm": 0.5, "tokens_per_s": 0.0})
    assert "accuracy 0.500" in notes.short()
    later = notes.line()
    assert later[0] == "grad 0.5"  # of the batch everything was said
    assert 0 < int(later[-1].removesuffix(" tokens/s")) <= 100
    notes.see(3, batch | {"tokens_per_s": 100.0})
    notes.see(4, {"grad_norm": 0.25, "tokens_per_s": 0.0})
    assert notes.line()[:2] == ["accuracy 0.500 [0.24, 0.76]", "reward 0.250 (step 3)"]  # drawn since, and not yet said
    own = RLNotes(1)
    own.see(1, {"reward_mean": -1.5})
    assert own.line() == ["reward -1.500"]


def test_two_processes_train_what_one_does(desk: SimpleNamespace, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    (tmp_path / "late.py").write_text(LATE)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (desk.root, tmp_path))), "OMP_NUM_THREADS": "1"}
    steersman = [sys.executable, "-m", "steersman.cli.main"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    told = []
    for name, before in (("one", steersman), ("two", [*torchrun, "late"])):
        command = [*before, *map(str, words(desk, tmp_path / name, *OWN, "--json"))]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    assert told[0]["tokens"] == told[1]["tokens"]
    one, two = (load_file(tmp_path / n / "model" / "model.safetensors") for n in ("one", "two"))
    assert max(float((one[k] - two[k]).abs().max()) for k in one) <= PARAMETERS
    rows = [(tmp_path / n / "metrics.jsonl").read_text().count("\n") for n in ("one", "two")]
    assert rows[0] == rows[1]
