"""`steersman generate` as a user meets it: rows, log-probs, prompts of both kinds, bad input."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import environment

from steersman.cli.main import run

LOGP_TOLERANCE = 1e-5
"""Nats between a printed log-prob (six decimals) and a plain forward, float32."""
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run `steersman generate`; gives its exit code and both streams, and the rows of standard output."""

    def call(*words: object) -> SimpleNamespace:
        capfd.readouterr()
        code = run(["generate", *(str(w) for w in words)])
        out, err = capfd.readouterr()
        rows = [json.loads(line) for line in out.splitlines()] if out[:1] == "{" and "\n  " not in out else None
        return SimpleNamespace(code=code, out=out, err=err, rows=rows)

    return call


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    from steersman.core import noise
    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    root = tmp_path_factory.mktemp("shop")
    roles = ["<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer = train_tokenizer(["good bad film " * 5], 266, special=roles, chat_template=TEMPLATE)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=64, tie=False), len(tokenizer), 0)
    noise.normal_([("head", model.get_output_embeddings().weight)], 0.2, 3, "test")
    bare = train_tokenizer(["good bad film " * 5], 266, special=roles)
    return SimpleNamespace(
        root=root,
        model=save_model(model, tokenizer, root / "model"),
        bare=save_model(model, bare, root / "bare"),
        tokenizer=tokenizer,
        loaded=model.eval(),
    )


TALK = [{"role": "user", "content": "good film?"}]
ROWS: list[dict[str, Any]] = [{"prompt": "good film", "chosen": "x"}, {"prompt": TALK}, {"prompt": "", "other": 1}]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write(tmp_path / "prompts.jsonl", ROWS)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def logp_of(shop: SimpleNamespace, ids: list[int], row: dict[str, Any], temperature: float = 1.0) -> list[float]:
    import torch

    whole = torch.tensor([ids + row["tokens"]])
    with torch.no_grad():
        logp = torch.log_softmax(shop.loaded(whole).logits[0] / temperature, -1)
    return [float(logp[len(ids) - 1 + t, token]) for t, token in enumerate(row["tokens"])]


def test_rows_of_a_file(cli: Cli, shop: SimpleNamespace, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "completions.jsonl"
    done = cli("--model", shop.model, "--prompts", prompts, "--samples", 2, "--max-new-tokens", 20, "--out", out)
    assert (done.code, done.out) == (0, "")
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [r["prompt"] for r in rows] == [r["prompt"] for r in ROWS for _ in range(2)]
    assert [r["sample"] for r in rows] == [0, 1] * 3
    started = ["good film", "<|user|>good film?<|assistant|>", "<|end|>"]
    for i, row in enumerate(rows):
        assert list(row) == ["prompt", "completion", "tokens", "logp", "stop", "sample", "seed"]
        ids = shop.tokenizer(started[i // 2])["input_ids"]
        expected = logp_of(shop, ids, row)
        assert max(abs(a - b) for a, b in zip(row["logp"], expected, strict=True)) < LOGP_TOLERANCE
        assert row["completion"] == shop.tokenizer.decode(row["tokens"], skip_special_tokens=True)
        ended = row["tokens"][-1] == shop.tokenizer.eos_token_id
        assert row["stop"] == ("eos" if ended else "length")
        assert ended or len(row["tokens"]) == 20
    tokens = sum(len(r["tokens"]) for r in rows)
    share = sum(r["stop"] == "eos" for r in rows) / 6
    assert f"6 completions of 3 prompts: {tokens} tokens in" in done.err
    assert f"{share:.0%} ended by themselves" in done.err
    assert str(out) in done.err
    assert done.err.count("\n") == 1


def test_prompts_on_the_command_line(cli: Cli, shop: SimpleNamespace) -> None:
    done = cli("--model", shop.model, "--prompt", "bad film", "--prompt", "good", "--max-new-tokens", 3)
    assert done.code == 0
    assert [r["prompt"] for r in done.rows] == ["bad film", "good"]
    assert "2 completions of 2 prompts" in done.err


def test_more_samples_or_prompts_keep_the_first(cli: Cli, shop: SimpleNamespace) -> None:
    usual = ["--model", shop.model, "--prompt", "bad film", "--max-new-tokens", 6]
    many = cli(*usual, "--prompt", "good", "--samples", 4).rows
    for row, first in zip(cli(*usual, "--samples", 2).rows, many[:2], strict=True):
        assert {**row, "logp": 0} == {**first, "logp": 0}
        assert max(abs(a - b) for a, b in zip(row["logp"], first["logp"], strict=True)) < LOGP_TOLERANCE
    assert len({tuple(r["tokens"]) for r in many[:4]}) == 4
    other = cli(*usual, "--samples", 2, "--seed", 1).rows
    assert [r["tokens"] for r in other] != [r["tokens"] for r in many[:2]]
    assert {r["seed"] for r in other} == {1}


def test_sampling_options_reach_the_sampler(cli: Cli, shop: SimpleNamespace) -> None:
    usual = ["--model", shop.model, "--prompt", "bad film", "--max-new-tokens", 6, "--samples", 3]
    ids = shop.tokenizer("bad film")["input_ids"]
    for row in cli(*usual, "--temperature", 0.5).rows:
        expected = logp_of(shop, ids, row, 0.5)
        assert max(abs(a - b) for a, b in zip(row["logp"], expected, strict=True)) < LOGP_TOLERANCE
    greedy = cli(*usual, "--temperature", 0).rows
    assert len({tuple(r["tokens"]) for r in greedy}) == 1
    for option, value in (("--top-k", 1), ("--top-p", 1e-6), ("--min-p", 1)):
        rows = cli(*usual, option, value).rows
        assert [r["tokens"] for r in rows] == [r["tokens"] for r in greedy], option
        assert {x for r in rows for x in r["logp"]} <= {0.0}


def test_stop(cli: Cli, shop: SimpleNamespace) -> None:
    usual = ["--model", shop.model, "--prompt", "bad film", "--max-new-tokens", 20, "--samples", 24]
    plain, cut = cli(*usual).rows, cli(*usual, "--stop", "e", "--stop", "o").rows
    hit = 0
    for whole, row in zip(plain, cut, strict=True):
        assert whole["tokens"][: len(row["tokens"])] == row["tokens"]
        found = "e" in row["completion"] or "o" in row["completion"]
        assert found == ("e" in whole["completion"] or "o" in whole["completion"])
        assert found <= (row["stop"] == "eos")
        assert not found or not {"e", "o"} & set(shop.tokenizer.decode(row["tokens"][:-1]))
        hit += found
    assert hit > 2


def test_chat(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"prompt": "good film?"}, {"prompt": TALK}])
    usual = ["--model", shop.model, "--max-new-tokens", 4, "--temperature", 0]
    chat = cli(*usual, "--prompts", file, "--chat").rows
    assert chat[0]["tokens"] == chat[1]["tokens"]
    assert [r["prompt"] for r in chat] == ["good film?", TALK]
    plain = cli(*usual, "--prompts", file, "--no-chat").rows
    assert plain[1] == chat[1]
    assert plain[0]["tokens"] != chat[0]["tokens"]


def test_json(cli: Cli, shop: SimpleNamespace, prompts: Path, tmp_path: Path) -> None:
    usual = ["--model", shop.model, "--prompts", prompts, "--max-new-tokens", 5, "--json"]
    done = cli(*usual)
    found = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert found["completions"] == len(found["rows"]) == 3
    assert found["tokens"] == sum(len(r["tokens"]) for r in found["rows"])
    assert found["ended"] == sum(r["stop"] == "eos" for r in found["rows"]) / 3
    out = tmp_path / "o.jsonl"
    second = json.loads(cli(*usual, "--out", out).out)
    assert second["out"] == str(out)
    assert "rows" not in second
    assert [json.loads(line) for line in out.read_text("utf-8").splitlines()] == found["rows"]


def test_default_length_is_what_fits(cli: Cli, shop: SimpleNamespace) -> None:
    rows = cli("--model", shop.model, "--prompt", "good film", "--samples", 12).rows
    room = 64 - len(shop.tokenizer("good film")["input_ids"])
    assert max(len(r["tokens"]) for r in rows) == room


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "there is no prompt"),
        (["--prompt", "a", "--prompts", "FILE"], "both given"),
        (["--prompts", "missing.jsonl"], "missing.jsonl: does not exist"),
        (["--prompt", "a", "--top-p", "1.5"], "--top-p: got 1.5"),
        (["--prompt", "a", "--top-k", "0"], "--top-k: got 0"),
        (["--prompt", "a", "--temperature", "-1"], "--temperature"),
        (["--prompt", "a", "--temperature", "nan"], "--temperature"),
        (["--prompt", "a", "--min-p", "2"], "--min-p"),
        (["--prompt", "a", "--samples", "0"], "--samples"),
        (["--prompt", "a", "--stop", ""], "--stop: is empty"),
        (["--prompt", "a", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["--prompt", "a", "--device", "tpu"], "--device: 'tpu' is not available"),
        (["--prompt", "a", "--out", "."], "is a folder"),
        (["--prompts", "FILE", "--out", "FILE"], "is the file of the prompts"),
        (["--prompt", "a", "--out", "FILE/x.jsonl"], "no folder to write to"),
        (["--prompt", "a", "--max-new-tokens", "64"], "--prompt 1: has 1 tokens; with 64 new ones that exceeds"),
        (["--prompt", "good", "--prompt", "z" * 64], "--prompt 2: has 64 tokens"),
    ],
)
def test_bad_input(cli: Cli, shop: SimpleNamespace, prompts: Path, words: list[str], message: str) -> None:
    before = prompts.read_bytes()
    done = cli("--model", shop.model, *(w.replace("FILE", str(prompts)) for w in words))
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert prompts.read_bytes() == before


@pytest.mark.parametrize(
    "rows, message",
    [
        (["{", '{"prompt": "a"}', "[]"], "line 1: is not valid JSON"),
        (['{"prompt": "a"}', '{"text": "a"}'], 'line 2: "prompt" is missing (found: text)'),
        (['{"prompt": 3}'], 'line 1: "prompt" is a number'),
        (['{"prompt": []}'], 'line 1: "prompt" is a conversation without a turn'),
        (['{"prompt": [{"role": "user"}]}'], 'line 1: "prompt", turn 1: "content" is missing'),
        ([""], "is empty"),
        (['{"prompt": "a"}', json.dumps({"prompt": "z" * 99})], "line 2: has 99 tokens"),
    ],
)
def test_bad_files(cli: Cli, shop: SimpleNamespace, tmp_path: Path, rows: list[str], message: str) -> None:
    out = tmp_path / "out.jsonl"
    done = cli("--model", shop.model, "--prompts", write(tmp_path / "bad.jsonl", rows), "--out", out)
    assert done.code == 2
    assert message in done.err
    assert not out.exists()
    assert ("1 more line cannot be used" in done.err) == (len(rows) == 3)


def test_conversations_need_a_template(cli: Cli, shop: SimpleNamespace, prompts: Path) -> None:
    done = cli("--model", shop.bare, "--prompts", prompts)
    assert (done.code, f"{prompts}, line 2" in done.err) == (2, True)
    done = cli("--model", shop.bare, "--prompt", "a", "--chat")
    assert (done.code, "Leave out --chat" in done.err) == (2, True)


def test_a_model_that_is_none(cli: Cli, tmp_path: Path) -> None:
    done = cli("--model", tmp_path / "no", "--prompt", "a")
    assert (done.code, "does not exist" in done.err) == (2, True)
    assert cli("--prompt", "a").code == 2


def test_a_file_that_was_there_survives_an_interrupt(shop: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text("old\n")
    code = (
        "import os, signal, sys\nfrom steersman.language import decode\n"
        "decode.generate = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)\n"
        "from steersman.cli.main import run\nsys.exit(run(sys.argv[1:]))"
    )
    words = ["generate", "--model", shop.model, "--prompt", "a", "--out", out]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 130
    assert done.stderr.startswith("stopped;")
    assert out.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["o.jsonl"]
