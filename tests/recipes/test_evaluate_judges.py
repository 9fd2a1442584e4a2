"""Judges: both orders, flips, failures without a verdict, and reward models that read text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from constant_policy import save_constant, tokenizer

from steersman.core.errors import RunStopped, UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts, Scores
from steersman.recipes.evaluate_judges import by_function, by_scores, check_judge, score_texts
from steersman.reward.model import build_reward_model, load_reward_model, reward_of, save_reward_model

SCORE = 1e-5
"""Between one reward of a text and the same by hand, float32."""
CODE = """
import os, time

def longer(prompt, a, b):
    return "tie" if len(a) == len(b) else "a" if len(a) > len(b) else "b"

def first(prompt, a, b):
    return "a"

def first_or_tie(prompt, a, b):
    return "a" if a > b else "tie"

def prompts(prompt, a, b):
    return "a" if prompt[0]["content"] == a else "b"

def fails(prompt, a, b):
    if "raise" in (a, b):
        raise ValueError("strange")
    if "hang" in (a, b):
        time.sleep(60)
    return longer(prompt, a, b)

def wrong(prompt, a, b):
    return True

nothing = 3
"""
LIMIT = 10.0


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("judges")
    (folder / "judges_of_a_test.py").write_text(CODE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(folder)
    yield
    patch.undo()


def ask(name: str, first: list[str], second: list[str], limit: float = LIMIT, prompts=None):
    done: list[int] = []
    given = prompts or ["q"] * len(first)
    judged = by_function(f"judges_of_a_test:{name}", limit, given, first, second, done.append)
    assert sum(done) == len(first)
    return judged


def test_both_orders_must_agree() -> None:
    judged = ask("longer", ["aa", "a", "b"], ["b", "bb", "c"])
    assert judged.outcome.tolist() == [1.0, 0.0, 0.5]
    assert not judged.flipped.any()
    judged = ask("first", ["aa", "a"], ["b", "bb"])
    assert judged.outcome.tolist() == [0.5, 0.5]
    assert judged.flipped.all()
    judged = ask("first_or_tie", ["b", "a"], ["a", "a"])  # wins in one order, ties in the other
    assert (judged.outcome.tolist(), judged.flipped.tolist()) == ([0.5, 0.5], [True, False])


def test_conversations_reach_the_judge_as_turns() -> None:
    turns = [[{"role": "user", "content": x}] for x in ("a", "b")]
    assert ask("prompts", ["a", "a"], ["b", "b"], prompts=turns).outcome.tolist() == [1.0, 0.0]


def test_a_judge_that_fails_gives_no_verdict() -> None:
    first = ["raise"] + [f"{'x' * i}" for i in range(19)]
    judged = ask("fails", first, ["yyy"] * 20)
    assert np.isnan(judged.outcome).tolist() == [True] + [False] * 19
    assert judged.errors == {0: "judges_of_a_test:fails raised ValueError: strange"}
    judged = ask("fails", ["hang"] + ["x"] * 19, ["yyy"] * 20, limit=0.5)
    assert "took longer than 0.5 s" in judged.errors[0]
    with pytest.raises(RunStopped, match="the judge failed on 1 of 5 pairs"):
        ask("fails", ["raise"] * 5, ["y"] * 5)
    with pytest.raises(UserError, match="pair 0: answered 'True'"):
        ask("wrong", ["a"], ["b"])


def test_scores_win_lose_tie_or_are_missing() -> None:
    valid = torch.tensor([True, True, True, False])
    first = Scores(torch.tensor([1.0, 0.5, -2.0, torch.nan]), valid, {}, {3: "broke"})
    second = Scores(torch.tensor([0.0, 0.5, 1.0, 1.0]), torch.ones(4, dtype=torch.bool))
    judged = by_scores(first, second)
    assert judged.outcome[:3].tolist() == [1.0, 0.5, 0.0]
    assert np.isnan(judged.outcome[3])
    assert (judged.errors, judged.flipped) == ({3: "broke"}, None)


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from steersman.core import noise
    from steersman.language.build import SmallModel, build_model
    from steersman.language.save import save_model

    root, tokens = tmp_path_factory.mktemp("reward"), tokenizer(size=266)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=24), len(tokens), 0)
    noise.normal_([(k, p) for k, p in model.named_parameters() if p.ndim > 1], 0.3, 0, "reward")
    save_model(model, tokens, root / "base")
    save_reward_model(build_reward_model(root / "base", 1), tokens, root / "rm", {"mean": 0.5, "std": 2.0})
    return root / "rm"


def test_reward_models_read_text_and_know_what_was_cut(reward_folder: Path) -> None:
    tokens, model = tokenizer(size=266), load_reward_model(reward_folder)
    prompts: list = ["1 +", "1 +", [{"role": "user", "content": "1"}], "1"]
    texts = ["22", "22", "4", "9" * 30]
    stop = torch.tensor([STOP_EOS, STOP_LENGTH, STOP_EOS, STOP_EOS])
    said = Rollouts.of(torch.zeros(4, 3, dtype=torch.int64), torch.full((4,), 3), torch.ones(4, dtype=torch.int64))
    said.stop.copy_(stop)
    scores = score_texts(reward_folder, prompts, said, texts, False, torch.device("cpu"))
    assert scores.valid.tolist() == [True, True, True, False]
    assert "longer than the reward model's context" in scores.errors[3]
    whole = ["1 +22<|end|>", "1 +22", "<|user|>1<|assistant|>4<|end|>"]
    for i, text in enumerate(whole):
        ids = torch.tensor([tokens(text)["input_ids"]])
        with torch.no_grad():
            want = reward_of(model.model, Rollouts.of(ids, torch.tensor([ids.shape[1]]), torch.tensor([1])))
        assert float(scores.value[i]) == pytest.approx((float(want[0]) - 0.5) / 2, abs=SCORE)
    assert float(scores.value[0]) != pytest.approx(float(scores.value[1]), abs=SCORE)
    chat = score_texts(reward_folder, ["1"], said.index(slice(2, 3)), ["4"], True, torch.device("cpu"))
    assert float(chat.value[0]) == pytest.approx(float(scores.value[2]), abs=SCORE)


def test_judges_are_checked_before_anything_is_sampled(reward_folder: Path, tmp_path: Path) -> None:
    check_judge(str(reward_folder), "--judge", (), turns=True)
    check_judge("judges_of_a_test:longer", "--judge", ("judges_of_a_test",), turns=False)
    folder = save_constant(tmp_path / "m", {"": 1.0})
    cases = [
        (str(tmp_path / "none"), "is no folder"),
        (str(folder), "no reward.json"),
        ("judges_of_a_test:longer", "--allow-import judges_of_a_test"),
    ]
    for name, message in cases:
        with pytest.raises(UserError, match=message):
            check_judge(name, "--judge", (), turns=False)
    for name in ("nothing", "missing"):
        with pytest.raises(UserError, match="cannot"):
            check_judge(f"judges_of_a_test:{name}", "--judge", ("judges_of_a_test",), turns=False)
    bare = tokenizer(chat=False, size=266)
    bare.save_pretrained(tmp_path / "rm")
    for file in reward_folder.iterdir():
        if not (tmp_path / "rm" / file.name).exists() and "template" not in file.name:
            (tmp_path / "rm" / file.name).write_bytes(file.read_bytes())
    check_judge(str(tmp_path / "rm"), "--judge", (), turns=False)
    with pytest.raises(UserError, match="no chat template"):
        check_judge(str(tmp_path / "rm"), "--judge", (), turns=True)
