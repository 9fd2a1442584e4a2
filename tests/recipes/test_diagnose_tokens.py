"""`diagnose tokens` from start to finish: an analytic teacher, a model as one, the command, refusals."""

import json
import math

import pytest
import torch

from steersman.cli import main
from steersman.core.errors import UserError
from steersman.language.closed import closed_tokenizer
from steersman.language.save import save_model
from steersman.recipes.diagnose_tokens import TokenQuestion, diagnose
from steersman.studies.planted_policy import new_student
from steersman.task import planted

SUM = 1e-6
SAME = 1e-4  # a model against itself, float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A student that has learnt nothing."""
    path = tmp_path_factory.mktemp("student") / "model"
    model = new_student({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}, seed=0)
    save_model(model, closed_tokenizer(planted.TOKENS, planted.EOS, planted.PAD, 32), path)
    return path


def question(folder, **changes):
    known = {"teacher": "planted", "task": "planted", "limit": 6, "samples": 2, "device": "cpu", "keep": 0.3}
    return TokenQuestion(folder, **(known | changes))


def test_against_the_task_s_own_teacher(folder):
    said = []
    answer = diagnose(question(folder), said.append)
    s, found = answer.summary, answer.found
    assert (s["prompts"], s["responses"], s["vocabulary"]) == (6, 12, planted.VOCABULARY)
    assert s["tokens"] == int(found.rollouts.action.sum())
    assert sum(r["share"] for r in s["quadrants"]) == pytest.approx(1, abs=SUM)
    assert {r["tokens"] for r in s["rules"]} == {math.floor(0.3 * s["tokens"] + 1e-9)}
    assert s["logits_bytes"]["all"] == 4 * s["tokens"] * planted.VOCABULARY
    assert said[-1] == f"scoring {s['tokens']:,} tokens"
    again = diagnose(question(folder, micro_tokens=40)).found
    assert all(torch.equal(x, again.kept[n]) for n, x in found.kept.items())


def test_a_model_agrees_with_itself(folder):
    s = diagnose(question(folder, teacher=str(folder))).summary
    assert abs(s["divergence"]) < SAME


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "found"
    asked = ["diagnose", "tokens", "--model", str(folder), "--teacher", "planted", "--task", "planted", "--limit", "4"]
    assert main.run([*asked, "--out", str(out), "--keep", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "Q3  sure, and the teacher disagrees" in printed
    assert all(len(line) <= 100 for line in printed.splitlines() if str(out) not in line)
    stored = json.loads((out / "tokens.json").read_text())
    assert stored["keep"] == 0.5
    assert "<!doctype html>" in (out / "report.html").read_text()
    assert main.run([*asked, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["keep"] == 0.2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"keep": 0.0}, "keep: is 0.0"),
        ({"keep": 1.5}, "keep: is 1.5"),
        ({"temperature": 0.0}, "--temperature: is 0.0"),
        ({"task": "chain_sum"}, "--teacher planted: teaches the task planted only"),
        ({"teacher": "nowhere"}, "nowhere"),
        ({"max_new_tokens": 30}, "--max-new-tokens"),
        ({"device": "tpu"}, "--device"),
    ],
)
def test_refused_before_anything_is_drawn(folder, changes, match):
    said = []
    with pytest.raises(UserError, match=match):
        diagnose(question(folder, **changes), said.append)
    assert said == []


def test_a_model_of_other_tokens_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    model = new_student({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}, seed=0)
    save_model(model, closed_tokenizer(planted.TOKENS[::-1], 1, 0, 32), other)
    with pytest.raises(UserError, match="tokens are not those of planted"):
        diagnose(question(other))
    with pytest.raises(UserError, match="--teacher"):
        diagnose(question(folder, teacher=str(other)))
