"""Worlds: prompts drawn, checked and encoded, responses graded as they were made, invalid rows kept invalid."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steersman.core.errors import UserError
from steersman.core.types import Rollouts, Scores
from steersman.language.build import train_tokenizer
from steersman.reward.answer import STATUSES, Numeric, WholeText
from steersman.reward.model import RewardModel
from steersman.reward.verifiable import Grader, ReasoningGym, Verifiable
from steersman.task import chain_sum
from steersman.task.chain_sum import ChainSum
from steersman.task.prompts import ReasoningGymQuestions, ReasoningGymTask, read_questions
from steersman.task.worlds import ChainSumWorld, TextWorld, numbers

ROLES = ["<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = train_tokenizer(["1 + 1 = 2 " * 9], 270, special=ROLES, chat_template=TEMPLATE)
BARE = train_tokenizer(["1 + 1 = 2 " * 9], 270, special=ROLES)
NUMBERS = Verifiable(extract=WholeText(), compare=Numeric())


def questions(folder: Path, *rows: Any, name: str = "q.jsonl") -> Any:
    made = [r if isinstance(r, dict) else {"prompt": r[0], "answer": r[1], "id": r[0]} for r in rows]
    (folder / name).write_text("".join(json.dumps(r) + "\n" for r in made))
    return read_questions(folder / name, needs_answer=False)


def sums(folder: Path, n: int, name: str = "q.jsonl") -> Any:
    return questions(folder, *((f"{i} + {i} =", str(2 * i)) for i in range(n)), name=name)


def respond(world: TextWorld, prompts: Any, texts: list[str]) -> Rollouts:
    """Rollouts whose responses are the texts and an end-of-sequence token."""
    eos = world.tokenizer.eos_token_id
    rows = [
        [*p, *world.tokenizer(t, add_special_tokens=False)["input_ids"], eos]
        for p, t in zip(prompts.ids, texts, strict=True)
    ]
    ids = torch.full((len(rows), max(map(len, rows))), eos)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    length, begin = torch.tensor([len(r) for r in rows]), torch.tensor([len(p) for p in prompts.ids])
    return Rollouts.of(ids, length, begin, group=prompts.group)


def test_a_text_world_draws_and_grades(tmp_path: Path) -> None:
    world = TextWorld(sums(tmp_path, 5), BARE, Grader(NUMBERS))
    prompts = world.draw(4, seed=3, step=2)
    assert len(prompts) == 4
    assert prompts.group.tolist() == [0, 1, 2, 3]
    for ids, row in zip(prompts.ids, prompts.rows, strict=True):
        assert list(ids) == BARE(row["id"])["input_ids"]
    answers = [row["answer"] for row in prompts.rows]
    rollouts = respond(world, prompts, [answers[0], "-1", "many", answers[3]])
    assert world.texts(rollouts)[1] == (prompts.rows[1]["id"], "-1")
    rollouts = replace(rollouts, valid=torch.tensor([True, True, True, False]))
    graded = world.grade(rollouts, prompts.rows)
    assert graded.scores.value[:3].tolist() == [1, 0, 0]
    assert math.isnan(graded.scores.value[3])
    assert graded.scores.valid.tolist() == rollouts.valid.tolist()
    assert [STATUSES[i] for i in graded.scores.parts["status"][:3]] == ["correct", "wrong", "unparsable"]
    assert graded.answer == (answers[0], "-1", "many", None)
    assert set(world.gives) == {"correct", "answer", "feedback"}
    with pytest.raises(UserError, match="3 rows for 4 responses"):
        world.grade(rollouts, prompts.rows[:3])


def test_a_question_twice_in_a_step_is_two_groups(tmp_path: Path) -> None:
    prompts = TextWorld(sums(tmp_path, 2), BARE, Grader(NUMBERS)).draw(5, seed=0, step=0, round=3)
    assert len(set(prompts.ids)) == 2
    assert prompts.group.tolist() == [(3 << 32) + i for i in range(5)]


def test_every_question_comes_once_before_any_comes_twice(tmp_path: Path) -> None:
    source = sums(tmp_path, 12)
    seen = [i for step in range(3) for i in numbers(source, 4, 7, step)]
    assert sorted(seen) == list(range(12))
    assert seen != [i for step in range(3) for i in numbers(source, 4, 8, step)]


def test_refill_rounds_do_not_repeat_within_a_step_or_change_later_steps(tmp_path: Path) -> None:
    source = sums(tmp_path, 12)
    rounds = [numbers(source, 4, 7, 1, r) for r in range(4)]
    assert sorted(i for r in rounds[:3] for i in r) == list(range(12))
    assert set(rounds[3]) == set(rounds[0])  # all were seen: the first ones again
    other = [numbers(source, 4, 7, 2, r) for r in range(3)]
    assert other[1:] != rounds[1:3]
    assert len(numbers(source, 30, 7, 1, 2)) == 30


def test_held_out_questions_are_fixed_and_leaks_are_counted(tmp_path: Path) -> None:
    world = TextWorld(sums(tmp_path, 5), BARE, Grader(NUMBERS), held_out=sums(tmp_path, 3, "e.jsonl"))
    whole, first = world.held_out(), world.held_out(2)
    assert whole is not None
    assert first is not None
    assert [r["answer"] for r in whole.rows] == ["0", "2", "4"]
    assert first.ids == whole.ids[:2]
    assert world.leaked == 3
    assert TextWorld(sums(tmp_path, 5), BARE, Grader(NUMBERS)).held_out() is None


def test_what_cannot_work_is_refused_by_name_when_the_world_is_made(tmp_path: Path) -> None:
    fits = len(BARE("1 + 1 =")["input_ids"])
    file = questions(tmp_path, ("1 + 1 =", "2"), ("1 + 1 = " * 9, "2"))
    TextWorld(questions(tmp_path, ("1 + 1 =", "2")), BARE, Grader(NUMBERS), context=fits + 6, max_new_tokens=6)
    with pytest.raises(UserError, match=r"^1 \+ 1 =: "):
        TextWorld(questions(tmp_path, ("1 + 1 =", "2")), BARE, Grader(NUMBERS), context=fits + 5, max_new_tokens=6)
    with pytest.raises(UserError, match=r"^1 \+ 1 = 1 .*: the prompt has .* with 6 new ones .* context of 13"):
        TextWorld(file, BARE, Grader(NUMBERS), context=13, max_new_tokens=6)
    with pytest.raises(UserError, match=r"^b: .*'x' is not a number"):
        TextWorld(questions(tmp_path, ("a", "2"), ("b", "x")), BARE, Grader(NUMBERS))
    with pytest.raises(UserError, match="line 1: has no reference answer"):
        TextWorld(questions(tmp_path, {"prompt": "a"}), BARE, Grader(NUMBERS))
    with pytest.raises(UserError, match=r"^a: .*no chat template"):
        TextWorld(questions(tmp_path, ("a", "2")), BARE, Grader(NUMBERS), chat=True)
    good, bad = sums(tmp_path, 1), questions(tmp_path, ("a", "x"), name="e.jsonl")
    with pytest.raises(UserError, match=r"^a: "):
        TextWorld(good, BARE, Grader(NUMBERS), held_out=bad)


def test_chat_makes_text_a_users_turn(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "1 + 1 ="}]
    file = questions(tmp_path, ("1 + 1 =", "2"), {"prompt": turns, "answer": "2"})
    world = TextWorld(file, CHAT, Grader(NUMBERS), held_out=file, chat=True)
    held = world.held_out()
    assert held is not None
    assert held.ids[0] == held.ids[1]
    assert CHAT.decode(held.ids[0]) == "<|user|>1 + 1 =<|assistant|>"
    assert world.texts(respond(world, held, ["2", "3"])) == [("1 + 1 =", "2"), ("1 + 1 =", "3")]
    assert world.encode(["1 + 1 =", turns, [5, 4]]) == [list(held.ids[0]), list(held.ids[0]), [5, 4]]
    plain = TextWorld(file, CHAT, Grader(NUMBERS))
    assert plain.encode(["1 + 1 ="]) == [CHAT("1 + 1 =")["input_ids"]]
    for bad, message in (([-1], "-1, which is no token id"), ([True], "True"), ([], "without a turn")):
        with pytest.raises(UserError, match=message):
            plain.encode([bad])


class LastToken(nn.Module):
    """Stands in for a reward model in a test of what is made of its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def test_a_reward_model_grades_token_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(self: RewardModel, rollouts: Rollouts) -> Scores:
        raw = rollouts.length.float()
        valid = raw < raw.max()
        return Scores(torch.where(valid, raw, torch.nan), valid, {"raw": raw}, {int(raw.argmax()): "too long"})

    monkeypatch.setattr(RewardModel, "__call__", score)
    file = questions(tmp_path, {"prompt": "1 + 1 ="}, {"prompt": "1 +"}, {"prompt": "1"})
    world = TextWorld(file, BARE, RewardModel(LastToken()), held_out=file)
    held = world.held_out()
    assert held is not None
    rollouts = replace(respond(world, held, ["2"] * 3), valid=torch.tensor([True, True, False]))
    graded = world.grade(rollouts, held.rows)
    assert graded.scores.valid.tolist() == [False, True, False]
    assert float(graded.scores.value[1]) == len(held.ids[1]) + 2
    assert sorted(graded.scores.errors) == [0, 2]
    assert graded.answer == (None, None, None)
    assert world.gives == ()
    world.close()


def test_prompts_without_a_grader(tmp_path: Path) -> None:
    file = questions(tmp_path, {"prompt": "1 + 1 ="})
    world = TextWorld(file, BARE, None, held_out=file)
    held = world.held_out()
    assert held is not None
    assert world.gives == ()
    with pytest.raises(UserError, match="no grader"):
        world.grade(respond(world, held, ["2"]), held.rows)
    world.close()


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym")
def test_generators_are_checked_when_drawn() -> None:
    source = ReasoningGymQuestions(ReasoningGymTask(name="chain_sum", size=20))
    world = TextWorld(
        source, BARE, Grader(Verifiable(extract=WholeText(), compare=ReasoningGym())), context=9, held_out=source
    )
    with pytest.raises(UserError, match=r"chain_sum, seed 0, item \d+: the prompt has .* context of 9"):
        world.draw(2, 0, 0)
    with Grader(Verifiable(extract=WholeText(), compare=ReasoningGym())) as grader:
        world = TextWorld(source, BARE, grader, held_out=source)
        held = world.held_out(3)
        assert held is not None
        assert len(held) == 3
        rollouts = respond(world, held, [held.rows[0]["answer"], "no", held.rows[2]["answer"]])
        assert world.grade(rollouts, held.rows).scores.value.tolist() == [1, 0, 1]


def test_chain_sum_world() -> None:
    task = ChainSum(k=(2, 4))
    world = ChainSumWorld(task, held_out_size=6)
    prompts = world.draw(5, seed=1, step=4, round=2)
    assert prompts.group.tolist() == [(2 << 32) + i for i in range(5)]
    shown = [chain_sum.text(torch.tensor(ids)) for ids in prompts.ids]
    for text, row in zip(shown, prompts.rows, strict=True):
        assert text.endswith("=")
        assert int(row["answer"]) == sum(map(int, text[:-1])) % 10
    assert len({row["id"] for row in prompts.rows}) == 5
    assert prompts != world.draw(5, seed=1, step=4, round=1)
    rollouts = chain_sum.demonstrate(task, chain_sum.prompts(task, 5, 1, 4, 2), seed=1, hint=0.0)
    rollouts = replace(rollouts, valid=torch.tensor([True, True, True, True, False]))
    graded = world.grade(rollouts, prompts.rows)
    assert [p for p, _ in world.texts(rollouts)] == shown
    assert graded.answer[4] is None
    assert not graded.scores.valid[4]
    for i, (_, response) in enumerate(world.texts(rollouts)[:4]):
        assert graded.answer[i] == response.split("#")[1][0]
        assert bool(graded.scores.value[i]) == (graded.answer[i] == prompts.rows[i]["answer"])


def test_chain_sum_held_out_prompts_are_fixed() -> None:
    world = ChainSumWorld(ChainSum(), held_out_size=6)
    whole, first = world.held_out(), world.held_out(2)
    assert whole is not None
    assert first is not None
    assert (len(whole), whole.ids[:2]) == (6, first.ids)
    assert whole.ids != world.draw(6, seed=0, step=0).ids
    assert ChainSumWorld(ChainSum()).held_out() is None
    with pytest.raises(UserError, match="is -1"):
        ChainSumWorld(ChainSum(), -1)


def test_chain_sum_reads_contexts() -> None:
    world = ChainSumWorld(ChainSum())
    assert world.encode(["27=?9=", [1, 2], "<eos>#"]) == [[2, 7, 14, 16, 9, 14], [1, 2], [17, 15]]
    for bad, message in (("2+7", "is no text"), ("", "is no text"), ([{"role": "user"}], "no conversations")):
        with pytest.raises(UserError, match=message):
            world.encode([bad])
    world.close()
