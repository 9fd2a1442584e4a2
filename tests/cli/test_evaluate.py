"""`steersman evaluate` as a user meets it: tables, JSON, rows, chain_sum, reward models, bad input."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.cli.main import run

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from constant_policy import save_constant, tokenizer

WIDTH = 100
CODE = """
def longer(prompt, a, b):
    return "tie" if len(a) == len(b) else "a" if len(a) > len(b) else "b"

def shorter(prompt, completion, row):
    return -len(completion)

def score(prompt, completion, row):
    return {"score": len(completion) / 10, "correct": completion == "4", "reason": prompt}
"""
Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run `steersman evaluate`; gives its exit code, both streams, and standard output as JSON if it is."""

    def call(*words: object) -> SimpleNamespace:
        capfd.readouterr()
        code = run(["evaluate", *(str(w) for w in words)])
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, found=json.loads(out) if out[:1] == "{" else None)

    return call


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("shop")
    (root / "functions_of_evaluate.py").write_text(CODE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(root)
    rows = [{"prompt": f"{i} + {4 - i} =", "answer": "4", "id": f"sum {i}"} for i in range(12)]
    (root / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (root / "bare.jsonl").write_text('{"prompt": "1 ="}\n{"prompt": "2 ="}\n')
    yield SimpleNamespace(
        root=root,
        file=root / "q.jsonl",
        bare=root / "bare.jsonl",
        ours=save_constant(root / "ours", {"": 0.5, "4": 0.3, "5": 0.2}),
        theirs=save_constant(root / "theirs", {"": 0.25, "4": 0.5, "5": 0.25}),
    )
    patch.undo()


MINE = ["--allow-import", "functions_of_evaluate"]
EVERYTHING = [
    "--judge",
    "functions_of_evaluate:longer",
    "--best-of",
    4,
    "--rank",
    "functions_of_evaluate:shorter",
    *MINE,
]


def rule(shop: SimpleNamespace, *more: object) -> list[object]:
    return ["--model", shop.ours, "--task", shop.file, "--extract", "whole", *more]


def test_everything_at_once(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    further = ["--samples", 4, "--against", shop.theirs, "--reference", shop.theirs, *EVERYTHING]
    done = cli(*rule(shop), *further, "--out", out)
    assert (done.code, done.err) == (0, "")
    for line in done.out.splitlines():
        assert len(line) <= WIDTH
        assert line == line.rstrip()
    for text in ("12 prompts × 4 samples", "answers: whole, compared: exact", "accuracy", "pass@4", "status   correct"):
        assert text in done.out, text
    for text in ("best of n, ranked by", "KL to", "against", "win rate", "at equal length", "flips", "invalid 0"):
        assert text in done.out, text
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["side"] for row in rows] == ["model"] * 48 + ["against"] * 48
    assert rows[0].keys() >= {"id", "prompt", "completion", "answer", "score", "status", "correct", "length", "stop"}
    assert {"rank_score", "log_ratio", "outcome", "flipped"} <= rows[0].keys()
    assert (rows[5]["id"], rows[5]["prompt"], rows[5]["sample"]) == ("sum 1", "1 + 3 =", 1)
    again = cli(*rule(shop), *further, "--json")
    assert again.found["accuracy"]["value"] == sum(row["correct"] for row in rows[:48]) / 48
    assert again.found["against"]["wins"] == sum(row["outcome"] == "win" for row in rows[:48])
    assert again.found["kl"]["reference"] == str(shop.theirs)
    assert [point["n"] for point in again.found["best_of"]["curve"]] == [1, 2, 4]
    assert again.err == ""


def test_one_sample_is_greedy_and_wilson(cli: Cli, shop: SimpleNamespace) -> None:
    sure = save_constant(shop.root / "sure", {"": 0.2, "4": 0.8})
    words = ["--model", sure, "--task", shop.file, "--extract", "whole", "--temperature", 0, "--max-new-tokens", 1]
    found = cli(*words, "--json").found
    assert (found["accuracy"]["value"], found["accuracy"]["method"]) == (1.0, "wilson")
    assert 0.5 < found["accuracy"]["low"] < 1.0 == found["accuracy"]["high"]
    assert (found["length"]["mean"], found["length"]["ended"], found["max_new_tokens"]) == (1.0, 0.0, 1)
    assert found["status"]["correct"] == 12
    stopped = cli(*words[:-2], "--max-new-tokens", 9, "--stop", "44", "--json").found
    assert (stopped["length"]["mean"], stopped["length"]["ended"]) == (2.0, 1.0)


def test_options_of_rules_and_functions(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    usual = ["--model", shop.ours, "--task", shop.file, "--samples", 3, "--limit", 5, "--json"]
    plain = cli(*usual, "--extract", "whole", "--compare", "numeric").found
    wide = cli(*usual, "--extract", "whole", "--compare", "numeric", "--set", "reward.compare.absolute=1.0").found
    assert wide["accuracy"]["value"] > plain["accuracy"]["value"]
    assert (plain["prompts"], plain["samples"]) == (5, 3)
    out = tmp_path / "o.jsonl"
    own = cli(*usual, "--reward", "functions_of_evaluate:score", *MINE, "--out", out).found
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert own["score"]["value"] == pytest.approx(sum(len(r["completion"]) / 10 for r in rows) / 15)
    assert own["rule"] == "graded by functions_of_evaluate:score"
    assert rows[0]["reason"] == rows[0]["prompt"]
    assert own["accuracy"]["value"] == sum(r["completion"] == "4" for r in rows) / 15


def test_chat(cli: Cli, shop: SimpleNamespace) -> None:
    usual = rule(shop, "--limit", 2, "--json")
    plain = cli(*usual, "--max-new-tokens", 64 - len(tokenizer()("0 + 4 =")["input_ids"]))
    chat = cli(*usual, "--chat", "--max-new-tokens", 64 - len(tokenizer()("0 + 4 =")["input_ids"]))
    assert plain.code == 0
    assert (chat.code, "sum 0: the prompt has" in chat.err) == (2, True)  # the roles are two tokens more
    assert cli(*usual, "--chat").code == 0


def chain_sum_folder(folder: Path) -> Path:
    """A model of random weights with the tokens of chain_sum."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from steersman.language.build import SmallModel, build_model
    from steersman.language.save import save_model
    from steersman.task.chain_sum import EOS, PAD, TOKENS, VOCABULARY

    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(TOKENS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokens = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    size = SmallModel(width=16, layers=1, heads=2, context=40)
    return Path(save_model(build_model(size, VOCABULARY, 0, eos_id=EOS, pad_id=PAD), tokens, folder))


def test_chain_sum(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    folder, out = chain_sum_folder(tmp_path / "m"), tmp_path / "o.jsonl"
    words = ["--model", folder, "--task", "chain_sum", "--limit", 6, "--samples", 2, "--set", "task.k=2"]
    done = cli(*words, "--reference", folder, "--out", out, "--json")
    assert done.code == 0, done.err
    found, rows = done.found, [json.loads(line) for line in out.read_text().splitlines()]
    assert (found["prompts"], found["rule"], found["max_new_tokens"]) == (6, "graded by the task", 9)
    assert found["kl"]["k1"]["per_response"]["value"] == 0.0
    assert len({row["prompt"] for row in rows}) > 1
    assert all(row["prompt"][2] == "=" and len(row["prompt"]) == 3 for row in rows)
    assert sum(found["status"].values()) == 12
    judged = cli(*words, "--against", folder, "--judge", "functions_of_evaluate:longer", *MINE, "--json").found
    assert judged["against"]["invalid"] == 0
    for more, message in (
        (["--extract", "boxed"], "--extract: does not apply"),
        (["--against", folder, "--judge", shop.ours], "--judge: .* reads text; chain_sum has none"),
        (["--stop", "a"], "--stop: does not apply"),
        (["--set", "task.k=60"], "more than the model's context of 40"),
    ):
        refused = cli(*words, *more)
        assert (refused.code, message.split(".*")[-1] in refused.err) == (2, True), refused.err
    wrong = cli("--model", shop.ours, "--task", "chain_sum")
    assert (wrong.code, "not those of chain_sum" in wrong.err) == (2, True)


def test_a_reward_model_ranks_and_judges(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    from steersman.core import noise
    from steersman.language.build import SmallModel, build_model
    from steersman.language.save import save_model
    from steersman.reward.model import build_reward_model, save_reward_model

    tokens = tokenizer(size=266)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=96), len(tokens), 0)
    noise.normal_([(k, p) for k, p in model.named_parameters() if p.ndim > 1], 0.3, 0, "reward")
    save_model(model, tokens, tmp_path / "base")
    folder = tmp_path / "rm"
    save_reward_model(build_reward_model(tmp_path / "base", 1), tokens, folder, {"mean": 0.0, "std": 1.0})
    out = tmp_path / "o.jsonl"
    words = ["--samples", 2, "--best-of", 2, "--rank", folder, "--against", shop.theirs, "--judge", folder]
    done = cli(*rule(shop), *words, "--out", out, "--json")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    scores = [row["rank_score"] for row in rows[:24]]
    chosen = [max(scores[i : i + 2]) for i in range(0, 24, 2)]
    assert done.found["best_of"]["curve"][1]["ranking"]["value"] == pytest.approx(sum(chosen) / 12)
    assert done.found["against"]["flip_rate"] is None
    assert len(set(scores)) > 2
    assert "flips" not in cli(*rule(shop), *words).out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--task", "missing.jsonl"], "--task missing.jsonl: does not exist"),
        (["--extract", "boxd"], "--extract: 'boxd' is not known"),
        (["--compare", "numerik"], "--compare: 'numerik' is not known"),
        (["--compare", "reasoning_gym"], "items of reasoning-gym only"),
        (["--reward", "functions_of_evaluate:score"], "--extract: does not apply: --reward grades"),
        (["--set", "reward.colour=red"], "reward.colour"),
        (["--set", "colour"], "colour"),
        (["--top-p", "1.5"], "--top-p: got 1.5"),
        (["--temperature", "0", "--samples", "2"], "--samples: is 2"),
        (["--samples", "0"], "--samples"),
        (["--limit", "0"], "--limit"),
        (["--stop", ""], "--stop: is empty"),
        (["--judge", "a:b"], "--judge: needs two policies"),
        (["--best-of", "2"], "--rank: is missing beside --best-of"),
        (["--rank", "functions_of_evaluate:shorter"], "--best-of: is missing beside --rank"),
        (["--best-of", "2", "--rank", "functions_of_evaluate:shorter"], "--best-of: is 2"),
        (["--best-of", "1", "--rank", "functions_of_evaluate:shorter"], "Add --allow-import functions_of_evaluate"),
        (["--best-of", "1", "--rank", "OURS"], "no reward.json"),
        (["--reference", "OURS", "--temperature", "0.5"], "--reference: is measured on samples of the model itself"),
        (["--reference", "nowhere"], "nowhere: does not exist"),
        (["--against", "nowhere"], "nowhere: does not exist"),
        (["--against", "OURS", "--judge", "nowhere"], "--judge: 'nowhere' is no folder"),
        (["--device", "tpu"], "--device: 'tpu'"),
        (["--dtype", "int8"], "unknown dtype"),
        (["--out", "."], "is a folder"),
        (["--out", "FILE"], "is the file of the prompts"),
        (["--out", "FILE/x.jsonl"], "no folder to write to"),
        (["--out", "/proc/rows.jsonl"], "no folder to write to ("),
        (["--out", "/proc/self/deep/rows.jsonl"], "no folder to write to ("),
        (["--max-new-tokens", "64"], "sum 0: the prompt has"),
        (["--time-limit", "0"], "--time-limit"),
    ],
)
def test_bad_input(cli: Cli, shop: SimpleNamespace, words: list[str], message: str) -> None:
    before = shop.file.read_bytes()
    named = {"OURS": str(shop.ours), "FILE": str(shop.file)}
    given = [named.get(w, w.replace("FILE", str(shop.file))) for w in words]
    done = cli(*rule(shop), *given)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert shop.file.read_bytes() == before


def test_prompts_without_answers(cli: Cli, shop: SimpleNamespace) -> None:
    usual: list[Any] = ["--model", shop.ours, "--task", shop.bare]
    done = cli(*usual)
    assert (done.code, "nothing can be measured" in done.err) == (2, True)
    done = cli(*usual, "--reference", shop.theirs)
    assert done.code == 0
    assert "accuracy" not in done.out
    assert "not graded" in done.out
    assert "a token" in done.out


def test_samples_are_kept_when_a_grader_fails(cli: Cli, shop: SimpleNamespace, tmp_path: Path) -> None:
    (shop.root / "broken_of_evaluate.py").write_text("def score(prompt, completion, row):\n    raise ValueError('x')\n")
    out = tmp_path / "o.jsonl"
    words = ["--model", shop.ours, "--task", shop.file, "--reward", "broken_of_evaluate:score"]
    done = cli(*words, "--allow-import", "broken_of_evaluate", "--out", out)
    assert (done.code, "the grader failed" in done.err) == (1, True)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 12
    assert "score" not in rows[0]
    assert os.listdir(tmp_path) == ["o.jsonl"]
