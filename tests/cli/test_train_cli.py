"""`steersman train` as a user meets it: bad input, interruption, resuming, JSON, users' own losses."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.cli.main import run

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line; gives its exit code and both streams."""

    def call(*words: object) -> SimpleNamespace:
        capfd.readouterr()
        code = run([str(w) for w in words])
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    root = tmp_path_factory.mktemp("shop")
    tokenizer = train_tokenizer(["good bad film " * 5], 262)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=64), len(tokenizer), 0)
    rows = [{"prompt": f"film {i % 4}", "chosen": f"good {i}", "rejected": f"bad film {i}"} for i in range(12)]
    rated = [{"prompt": r["prompt"], "completion": r["chosen"], "label": i % 2 == 0} for i, r in enumerate(rows)]
    return SimpleNamespace(
        rows=rows,
        model=save_model(model, tokenizer, root / "model"),
        tokenizer=tokenizer,
        pairs=write(root / "pairs.jsonl", rows),
        rated=write(root / "rated.jsonl", rated),
    )


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk is what `store` tests; here it would only take time."""
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def preference(shop: SimpleNamespace, out: Path, *more: object, data: Path | None = None) -> list[object]:
    given = ["--set", "budget.batch=4", "--set", "runtime.checkpoint_every=1"]
    usual = ["--model", shop.model, "--data", data or shop.pairs, "--steps", 4, "--out", out, *given]
    return ["train", "preference", *usual, *more]


def assert_refused(result: SimpleNamespace, *texts: str) -> None:
    """Exit code 2, one message, no traceback, nothing on standard output."""
    assert result.code == 2, result.err
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.err
    assert result.out == ""
    for text in texts:
        assert text in result.err


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
BROKEN_ROWS: dict[str, tuple[Any, str]] = {
    "no JSON": ('{"prompt": "p", ', "line 2: "),
    "missing field": ({"prompt": "p", "chosen": "a"}, 'line 2: "rejected" is missing'),
    "number for text": (GOOD | {"chosen": 7}, 'line 2: "chosen" is a number'),
    "empty completion": (GOOD | {"rejected": " "}, 'line 2: "rejected" is empty'),
    "long prompt": (GOOD | {"prompt": "p" * 70}, "line 2: the prompt has 70 tokens, more than 64"),
    "long row": (GOOD | {"chosen": "a" * 70}, "line 2: prompt and response have 1 + 71 tokens, more than 64"),
    "flip rate of a row": (GOOD | {"flip_rate": 0.5}, 'line 2: "flip_rate" is 0.5'),
}


@pytest.mark.parametrize("name", BROKEN_ROWS)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_broken_row_is_refused_by_file_and_line(
    cli: Cli, shop: SimpleNamespace, tmp_path: Path, name: str, dry: list[str]
) -> None:
    row, message = BROKEN_ROWS[name]
    path = write(tmp_path / "bad.jsonl", [GOOD, row])
    assert_refused(cli(*preference(shop, tmp_path / "out", *dry, data=path)), "bad.jsonl", message)
    assert not (tmp_path / "out" / "run.json").exists()


def test_identical_sides_are_dropped_counted_and_shown(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [*shop.rows, GOOD | {"chosen": "b"}, GOOD | {"rejected": "a"}])
    result = cli(*preference(shop, tmp_path / "out", data=path))
    assert result.code == 0, result.err
    assert "p.jsonl: 12 rows" in result.err
    assert "p.jsonl: 2 pairs with identical sides dropped" in result.err


OPTIONS: dict[str, tuple[list[str], str]] = {
    "flip rate below 0": (["--flip-rate", "-0.1"], "loss.flip_rate (option): got -0.1"),
    "flip rate 0.5": (["--flip-rate", "0.5"], "loss.flip_rate (option): got 0.5"),
    "flip rate NaN": (["--flip-rate", "nan"], "loss.flip_rate (option): got 'nan'"),
    "flip rate text": (["--flip-rate", "some"], "loss.flip_rate (option): got 'some'"),
    "unknown loss": (["--loss", "dpoo"], "Did you mean 'dpo'?"),
    "flip rate of dpo": (["--loss", "dpo", "--flip-rate", "0.1"], "loss.flip_rate (option): unknown key"),
    "unknown key": (["--set", "optim.lrr=1"], "Did you mean optim.lr?"),
    "unknown table": (["--set", "optin.lr=1"], "Did you mean optim?"),
    "unknown runtime key": (["--set", "runtime.micro_token=1"], "Did you mean micro_tokens?"),
    "value out of range": (["--set", "optim.lr=-1"], "optim.lr (--set): got -1"),
    "runtime out of range": (["--set", "runtime.keep=0"], "keep (the command line): got 0"),
    "no assignment": (["--set", "optim.lr"], "is not dotted.path=value"),
    "unknown device": (["--device", "tpu"], "device (the command line): 'tpu' is not known"),
    "unknown tracker": (["--track", "paper"], "track (the command line): 'paper' is not known"),
    "unknown metric": (["--set", "budget.best=acc"], "budget.best"),
    "kto on pairs": (["--loss", "kto"], 'line 1: "completion" is missing (found: prompt, chosen, rejected)'),
    "code of the user's": (["--loss", "own.mod:Loss"], "Add --allow-import own"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_impossible_option_is_one_message(cli: Cli, shop: SimpleNamespace, tmp_path: Path, name: str) -> None:
    options, message = OPTIONS[name]
    assert_refused(cli(*preference(shop, tmp_path / "out", *options)), message)
    assert not list((tmp_path / "out").glob("ckpt*"))
    assert cli(*preference(shop, tmp_path / "out")).code == 0  # the folder is still good for a corrected command


def test_pairs_loss_on_rated_rows(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    result = cli(*preference(shop, tmp_path / "out", "--loss", "dpo", data=shop.rated))
    assert_refused(result, 'line 1: "chosen" is missing (found: prompt, completion, label)')
    assert cli(*preference(shop, tmp_path / "out", "--loss", "kto", data=shop.rated)).code == 0


def test_a_recipe_file_is_named_with_its_line(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    for text, message in (
        ("[optim]\nlr = 1e-3\nbeta_1 = 0.9\n", f"optim.beta_1 ({file}:3): unknown key"),
        ("[budget]\n\nepochs = 0\n", f"budget.epochs ({file}:3): got 0"),
        ("runtime = 3\n", f"runtime ({file}:1): is 3, not a table"),
        ("[runtime]\nthread = 1\n", f"thread ({file}:2): unknown key"),
        ("model = 3\n", "'model' is a value, not a table"),
        ("optim = [\n", "is not valid TOML"),
        ('verb = "sft"\n', "verb"),
        ("format = 2\n", f"format ({file}:1)"),
    ):
        file.write_text(text)
        assert_refused(cli(*preference(shop, tmp_path / "out", "--config", file)), message)


def test_options_go_over_the_file_and_set_over_options(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('[loss]\nkind = "ipo"\ntau = 0.3\n\n[budget]\nsteps = 99\nseed = 3\n\n[runtime]\nlog_every = 2\n')
    out = tmp_path / "out"
    given = preference(shop, out, "--config", file, "--loss", "cdpo", "--flip-rate", "0.2", "--set", "loss.beta=0.7")
    assert cli(*given).code == 0
    known = json.loads((out / "run.json").read_text())
    assert known["loss"] == {"kind": "cdpo", "flip_rate": 0.2, "beta": 0.7}
    assert (known["budget"]["steps"], known["budget"]["seed"]) == (4, 3)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [2, 4]


@pytest.mark.parametrize("missing", ["model", "data"])
def test_what_must_be_given(cli: Cli, shop: SimpleNamespace, missing: str) -> None:
    given = {"model": ["--model", shop.model], "data": ["--data", shop.pairs]}
    del given[missing]
    assert_refused(cli("train", "preference", *next(iter(given.values()))), f"Give it with --{missing}")


def test_a_misspelt_table_is_shown_before_what_is_missing(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    for text, message in (
        ('[modell]\npath = "m"\n', "Did you mean model?"),
        ('[model]\npaht = "m"\n', "Did you mean model.path?"),
        ("model = 3\n", "got 3, a table is wanted"),
    ):
        file.write_text(text)
        assert_refused(cli("train", "preference", "--data", shop.pairs, "--config", file), message)


def _copy(shop: SimpleNamespace, to: Path) -> Path:
    shutil.copytree(shop.model, to)
    return to


def _no_end(folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            known = json.loads((folder / name).read_text())
            for key in ("eos_token", "pad_token"):
                known.pop(key, None)
            (folder / name).write_text(json.dumps(known))


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "has no tokenizer"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
    "no end": (_no_end, "has no end-of-sequence token"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "broken configuration": (lambda f: (f / "config.json").write_text("{"), "is not valid JSON"),
    "nothing": (shutil.rmtree, "does not exist"),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("verb", ["preference", "reward", "preference --dry-run"])
def test_an_incomplete_model_folder(cli: Cli, shop: SimpleNamespace, tmp_path: Path, name: str, verb: str) -> None:
    spoil, message = FOLDERS[name]
    folder = _copy(shop, tmp_path / "model")
    spoil(folder)
    given = ["--model", folder, "--data", shop.pairs, "--out", tmp_path / "out"]
    assert_refused(cli("train", *verb.split(), *given), message, str(folder))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_reference_of_another_vocabulary(cli: Cli, shop: SimpleNamespace, tmp_path: Path, dry: list[str]) -> None:
    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    tokenizer = train_tokenizer(["xyzzy " * 9], 262)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=64), 262, 0)
    other = save_model(model, tokenizer, tmp_path / "other")
    result = cli(*preference(shop, tmp_path / "out", "--set", f"model.reference={other}", *dry))
    assert_refused(result, "policy and reference have different vocabularies", "model.reference")
    assert cli(*preference(shop, tmp_path / "out")).code == 0


def test_a_place_that_cannot_be_written(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(cli(*preference(shop, tmp_path / "file" / "out")), "cannot be written", "--out")
    assert_refused(cli(*preference(shop, tmp_path / "file")), "cannot be written")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_stops_the_run_and_the_same_command_finishes_it(
    cli: Cli, shop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    assert cli(*preference(shop, whole)).code == 0
    from steersman.store import files

    replace, out = os.replace, tmp_path / "out"

    def full(source: Any, target: Any) -> None:
        if "step-00000003" in str(target) and "ckpt" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        result = cli(*preference(shop, out))
    assert result.code == 1
    assert "the disk is full" in result.err
    assert "Traceback" not in result.err
    from steersman.store.checkpoint import latest_checkpoint, verify

    newest = latest_checkpoint(out / "ckpt")
    assert newest is not None
    assert verify(newest)["step"] == 2
    assert cli(*preference(shop, out)).code == 0
    assert_same_run(out, whole)


def assert_same_run(one: Path, two: Path) -> None:
    """Model, metrics and result are equal byte by byte."""
    for name in ("model/model.safetensors", "metrics.jsonl", "result.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_a_damaged_checkpoint_is_named_the_previous_offered_and_taken(
    cli: Cli, shop: SimpleNamespace, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert cli(*preference(shop, whole)).code == 0
    shutil.copytree(whole, out)
    (out / "result.json").unlink()
    damaged = out / "ckpt" / "step-00000004" / "tensors.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    previous = out / "ckpt" / "step-00000003"
    result = cli(*preference(shop, out))
    assert_refused(result, str(damaged), "was altered", f"--resume {previous}")
    damaged.write_bytes(content[:-9])
    assert_refused(cli("train", "preference", "--resume", out), str(damaged), "its manifest says")
    assert cli("train", "preference", "--resume", previous, "--set", "runtime.checkpoint_every=1").code == 0
    assert_same_run(out, whole)


def test_resume_by_folder_by_checkpoint_and_by_a_wrong_folder(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert cli(*preference(shop, whole)).code == 0
    for place in ("", "ckpt/step-00000003"):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        shutil.rmtree(out / "model")
        (out / "result.json").unlink()
        shutil.rmtree(out / "ckpt" / "step-00000004")
        assert cli("train", "preference", "--resume", out / place).code == 0
        assert_same_run(out, whole)
    assert_refused(cli("train", "preference", "--resume", tmp_path), "is neither a run")
    assert_refused(cli("train", "preference", "--resume", tmp_path / "nowhere"), "is neither a run")
    for place in (whole, whole / "ckpt" / "step-00000003"):
        cure = f"Resume it with: steersman train preference --resume {place}"
        assert_refused(cli("train", "sft", "--resume", place), "is a run of `steersman train preference`", cure)
    assert_refused(cli("train", "preference", "--resume", whole, "--steps", 9), "holds another run", "budget")


def test_a_finished_run_does_nothing_and_says_so(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli(*preference(shop, out, "--track", "tensorboard")).code == 0
    assert len(list((out / "tensorboard").iterdir())) == 1
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*") if p.is_file()}
    for again in (preference(shop, out, "--track", "tensorboard"), ["train", "preference", "--resume", out]):
        result = cli(*again)
        assert result.code == 0
        assert "already finished; nothing to do" in result.out
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*") if p.is_file()}


def test_json_alone_on_standard_output(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    given = preference(shop, tmp_path / "out", "--eval", shop.pairs, "--json")
    for _ in range(2):
        result = cli(*given)
        found = json.loads(result.out)
        assert (result.code, found["steps"], found["folder"]) == (0, 4, str(tmp_path / "out"))
        assert found["evaluation"]["accuracy"] >= 0
    dry = json.loads(cli(*preference(shop, tmp_path / "dry", "--json", "--dry-run")).out)
    assert (dry["steps"], dry["folder"]) == (4, str(tmp_path / "dry"))


def test_a_dry_run_writes_nothing(
    cli: Cli, shop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for verb in ("preference", "reward"):
        result = cli("train", verb, "--model", shop.model, "--data", shop.pairs, "--dry-run", "--track", "tensorboard")
        assert result.code == 0, result.err
        assert "would write  runs/" in result.out
        assert "GiB" in result.out
    assert list(tmp_path.iterdir()) == []


OWN = """
from typing import Literal
from torch import Tensor
from torch.nn.functional import softplus
from steersman.core.component import Component

class MyLoss(Component):
    kind: Literal["mine"] = "mine"
    beta: float = 0.1
    def __call__(self, h: Tensor, label: Tensor | None = None) -> Tensor:
        return softplus(-self.beta * h)
"""


def test_a_users_own_loss_trains_resumes_and_needs_permission(
    cli: Cli, shop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_losses.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    given = ["--loss", "my_losses:MyLoss", "--set", "loss.beta=0.3", "--eval", shop.pairs]
    assert_refused(cli(*preference(shop, tmp_path / "out", *given)), "Add --allow-import my_losses")
    assert not (tmp_path / "out").exists()
    whole, allowed = tmp_path / "whole", ["--allow-import", "my_losses"]
    assert cli(*preference(shop, whole, *given, *allowed)).code == 0
    assert json.loads((whole / "run.json").read_text())["loss"] == {"kind": "my_losses:MyLoss", "beta": 0.3}
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / "result.json").unlink()
    shutil.rmtree(tmp_path / "out" / "ckpt" / "step-00000004")
    assert_refused(cli("train", "preference", "--resume", tmp_path / "out"), "Add --allow-import my_losses")
    assert cli("train", "preference", "--resume", tmp_path / "out", *allowed).code == 0
    assert_same_run(tmp_path / "out", whole)
    misspelt = [*given, *allowed, "--set", "loss.betta=1"]
    assert_refused(cli(*preference(shop, tmp_path / "other", *misspelt)), "loss.betta", "Did you mean")


def test_auto_flip_rate_shows_its_estimate(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    result = cli(*preference(shop, tmp_path / "out", "--flip-rate", "auto"))
    assert result.code == 0, result.err
    assert "flip rate (95 %)" in result.out
    assert json.loads((tmp_path / "out" / "result.json").read_text())["flip_rate"]["method"] == "likelihood"


DIES = """
import os, signal, sys
from steersman.cli.main import run

replace, left = os.replace, [{writes}]

def deadly(source, target):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = deadly
run(sys.argv[1:])
"""


def test_kill_in_the_middle_and_the_same_command_again(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    """A process that is killed with SIGKILL while it writes its 40th file: in the middle of a checkpoint."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    more = ["--steps", 20, "--flip-rate", "0.2", "--eval", shop.pairs, "--set", "runtime.evaluate_every=7"]
    assert cli(*preference(shop, whole, *more)).code == 0
    words = [str(w) for w in preference(shop, out, *more)]
    killed = subprocess.run(
        [sys.executable, "-c", DIES.replace("{writes}", "40"), *words],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    done = sorted(p.parent.name for p in (out / "ckpt").glob("step-*/manifest.json"))
    assert done
    assert done[-1] < "step-00000020"
    assert not (out / "result.json").exists()
    assert cli(*preference(shop, out, *more)).code == 0
    assert_same_run(out, whole)
