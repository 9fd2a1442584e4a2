"""What an evaluation is asked about: prompts, rules, and which of them do not go together."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from steersman.core.errors import UserError
from steersman.recipes.evaluate_task import MADE, read_task
from steersman.reward.answer import LastBoxed, LastLine, Numeric
from steersman.reward.verifiable import ReasoningGym, RewardFunction, Verifiable

ROWS = [{"prompt": "1 + 1 =", "answer": "2"}, {"prompt": [{"role": "user", "content": "2 + 2 ="}], "answer": 4}]


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path / "q.jsonl", ROWS)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_a_file_and_a_rule(file: str) -> None:
    asked = read_task(file)
    assert asked.reward == Verifiable()
    assert (asked.size, asked.graded, asked.turns, asked.name) == (2, True, True, file)
    assert asked.rule == "answers: boxed, compared: exact"
    sets = ["reward.extract.label=Sum:", "reward.compare.relative=0.01", "reward.format_bonus=0.1"]
    asked = read_task(file, extract="line", compare="numeric", overrides=sets, limit=1)
    assert asked.reward == Verifiable(extract=LastLine(label="Sum:"), compare=Numeric(relative=0.01), format_bonus=0.1)
    assert (asked.size, len(asked.questions or ()), asked.turns) == (1, 1, False)
    assert read_task(file, limit=99).size == 2
    assert isinstance(read_task(file, compare="numeric").reward, Verifiable)
    assert read_task(file, compare="numeric").reward.extract == LastBoxed()  # type: ignore[union-attr]


def test_a_function(file: str) -> None:
    asked = read_task(file, reward="mine:score", time_limit=3.0, overrides=["reward.correct_at=0.5"])
    assert asked.reward == RewardFunction(function="mine:score", time_limit=3.0, correct_at=0.5)
    assert asked.rule == "graded by mine:score"


def test_rows_without_answers(tmp_path: Path) -> None:
    none = write(tmp_path / "none.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    assert (read_task(none).graded, read_task(none).rule) == (False, "not graded")
    assert read_task(none, reward="mine:score").graded
    some = write(tmp_path / "some.jsonl", [{"prompt": "a", "answer": "1"}, {"prompt": "b"}])
    for path, options in ((some, {}), (none, {"compare": "exact"}), (none, {"overrides": ["reward.format_bonus=0.1"]})):
        with pytest.raises(UserError, match='"answer" is missing'):
            read_task(path, **options)


def test_chain_sum_grades_itself() -> None:
    asked = read_task("chain_sum", overrides=["task.k=3", "task.fillers=0"])
    assert (asked.size, asked.graded, asked.questions, asked.rule) == (MADE, True, None, "graded by the task")
    assert (asked.task.k, asked.task.max_response) == (3, 9)  # type: ignore[union-attr]
    assert read_task("chain_sum", limit=7).size == 7


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym")
def test_generators(file: str) -> None:
    asked = read_task("reasoning_gym:chain_sum", overrides=["task.seed=3", "task.size=20"])
    assert (asked.size, asked.reward) == (20, Verifiable(compare=ReasoningGym()))
    assert read_task("reasoning_gym:chain_sum").size == MADE
    assert read_task("reasoning_gym:chain_sum", compare="exact").reward == Verifiable()
    with pytest.raises(UserError, match="no generator 'chain_sun'"):
        read_task("reasoning_gym:chain_sun")


@pytest.mark.parametrize(
    "task, options, message",
    [
        ("missing.jsonl", {}, "--task missing.jsonl: does not exist\n.*reasoning_gym:NAME, or chain_sum"),
        (".", {}, "--task .: is a folder"),
        ("FILE", {"extract": "boxd"}, "reward.extract .*boxd"),
        ("FILE", {"compare": "nearly"}, "reward.compare .*nearly"),
        ("FILE", {"compare": "reasoning_gym"}, "items of reasoning-gym only"),
        ("FILE", {"reward": "mine:f", "extract": "line"}, "--extract: does not apply: --reward grades"),
        ("FILE", {"reward": "mine:f", "compare": "exact"}, "--compare: does not apply"),
        ("FILE", {"reward": "mine"}, "reward.function"),
        ("FILE", {"overrides": ["reward.colour=red"]}, "reward.colour"),
        ("FILE", {"overrides": ["task.k=3"]}, "task.k"),
        ("FILE", {"overrides": ["nothing"]}, "nothing"),
        ("chain_sum", {"extract": "line"}, "--extract: does not apply: chain_sum grades itself"),
        ("chain_sum", {"reward": "a:b"}, "--reward: does not apply"),
        ("chain_sum", {"overrides": ["reward.format_bonus=0.5"]}, "--set reward: does not apply"),
        ("chain_sum", {"chat": True}, "--chat: does not apply"),
        ("chain_sum", {"overrides": ["task.k=0"]}, "task.k"),
    ],
)
def test_what_does_not_go_together(file: str, task: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        read_task(task.replace("FILE", file), **options)
