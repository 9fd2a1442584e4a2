"""Questions from files and generators, and which of them a step sees."""

import importlib.util
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.reward.answer import STATUSES, WholeText
from steersman.reward.verifiable import Grader, ReasoningGym, Verifiable
from steersman.task.prompts import Question, ReasoningGymQuestions, ReasoningGymTask, draw, read_questions

needs_package = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym")


def write(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_rows_are_read_with_all_their_columns(tmp_path):
    turns = [{"role": "user", "content": "1 + 1 ="}]
    file = write(
        tmp_path / "q.jsonl",
        {"prompt": "2 + 2 =", "answer": 4, "source": "mine", "difficulty": 0.25},
        "",
        {"prompt": turns, "answer": " 2", "id": 7},
    )
    first, second = read_questions(file)
    where = f"{file}, line 1"
    row = {"answer": "4", "source": "mine", "difficulty": 0.25, "id": where}
    assert first == Question(where, "2 + 2 =", row, 0.25)
    assert second == Question("7", tuple(turns), {"answer": " 2", "id": "7"}, None)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ({"answer": "1"}, '"prompt" is missing'),
        ({"prompt": " ", "answer": "1"}, '"prompt" is empty'),
        ({"prompt": [], "answer": "1"}, '"prompt" is a conversation without a turn'),
        ({"prompt": "a"}, '"answer" is missing'),
        ({"prompt": "a", "answer": None}, '"answer" is null, not text'),
        ({"prompt": "a", "answr": "1"}, "did you mean 'answr'"),
        ({"prompt": "a", "answer": ""}, '"answer" is empty'),
        ({"prompt": "a", "answer": True}, '"answer" is true'),
        ({"prompt": "a", "answer": ["1"]}, '"answer" is a list'),
        ({"prompt": "a", "answer": "1", "id": ""}, '"id" is empty'),
        ({"prompt": "a", "answer": "1", "id": 1.5}, '"id" is a number'),
        ({"prompt": "a", "answer": "1", "id": "one"}, "\"id\" 'one' was used before, in line 1"),
        ({"prompt": "a", "answer": "1", "difficulty": "hard"}, '"difficulty" is text'),
        ('{"prompt": "a", "answer": "1", "difficulty": 1e999}', '"difficulty" is inf'),
        ("{", "is not valid JSON"),
    ],
)
def test_broken_rows_are_named_by_file_and_line(tmp_path, bad, what):
    file = write(tmp_path / "q.jsonl", {"prompt": "a", "answer": "1", "id": "one"}, bad, bad)
    with pytest.raises(UserError) as error:
        read_questions(file)
    assert f"{file}, line 2: " in str(error.value)
    assert what in str(error.value)
    assert "1 more line cannot be used" in str(error.value)


def test_answers_may_be_missing_where_nothing_compares_them(tmp_path):
    file = write(tmp_path / "q.jsonl", {"prompt": "a", "target": 3})
    (row,) = (q.row for q in read_questions(file, needs_answer=False))
    assert row == {"target": 3, "answer": None, "id": f"{file}, line 1"}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**31), st.integers(1, 3))
def test_draws_go_through_the_source_in_whole_orders(size, n, seed, rounds):
    source = range(size)
    drawn = [draw(source, n, seed, s, r, rounds) for s in range(8) for r in range(rounds)]
    flat = [i for part in drawn for i in part]
    for start in range(0, len(flat) - size + 1, size):
        assert sorted(flat[start : start + size]) == list(source)
    assert drawn[-1] == draw(source, n, seed, 7, rounds - 1, rounds)  # whatever was drawn before


def test_seeds_and_orders_differ():
    source = range(50)
    assert draw(source, 50, 0) != draw(source, 50, 1)
    assert draw(source, 50, 0, step=0) != draw(source, 50, 0, step=1)


@pytest.mark.parametrize("bad", [{"n": 0}, {"n": 1, "step": -1}, {"n": 1, "round": 1}, {"n": 1, "round": -1}])
def test_impossible_draws_are_refused(bad):
    with pytest.raises(UserError, match="is impossible"):
        draw(range(3), seed=0, **bad)
    with pytest.raises(UserError, match="no prompts"):
        draw([], 1, 0)


@needs_package
@pytest.mark.parametrize("name", ["chain_sum", "countdown", "word_ladder", "arc_agi", "gsm_symbolic"])
def test_generators_are_lists_whose_own_answers_score_one(name):
    task = ReasoningGymTask(name=name, size=20, seed=3)
    source, again = ReasoningGymQuestions(task), ReasoningGymQuestions(task)
    assert len(source) == 20
    assert source[19] == again[19]
    assert (
        source[4].prompt != ReasoningGymQuestions(ReasoningGymTask(name=name, size=20, seed=4))[3].prompt
    )  # seeds do not overlap
    questions = [source[i] for i in (0, 19)]
    json.dumps([q.row for q in questions])
    reward = Verifiable(extract=WholeText(), compare=ReasoningGym(), time_limit=60.0)
    with Grader(reward) as grader:
        graded = grader(["p"] * 3, [*(q.row["answer"] for q in questions), "x"], [questions[i].row for i in (0, 1, 1)])
    assert graded.scores.value.tolist()[:2] == [1.0, 1.0]
    assert [STATUSES[s] for s in graded.scores.parts["status"].tolist()][:2] == ["correct", "correct"]
    assert not bool(graded.scores.parts["correct"][2])
    with pytest.raises(IndexError):
        source[20]


@needs_package
def test_generators_options_reach_them_and_are_checked():
    task = ReasoningGymTask(name="chain_sum", config={"min_terms": 4, "max_terms": 4}, size=5)
    assert all(len(q.prompt.split(":")[1].split()) == 8 for q in ReasoningGymQuestions(task))  # 4 terms, 3 signs, "="
    for options, what in (
        ({"name": "chain_sums"}, "Did you mean 'chain_sum'"),
        ({"name": "chain_sum", "config": {"nope": 1}}, "unexpected keyword argument 'nope'"),
        ({"name": "chain_sum", "config": {"min_terms": 9, "max_terms": 2}}, "max_terms must be >= min_terms"),
        ({"name": "chain_sum", "config": {"seed": 1}}, "seed belongs beside the options"),
    ):
        with pytest.raises(UserError, match=what):
            ReasoningGymQuestions(ReasoningGymTask(**options))


def test_a_package_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"task: needs the package reasoning-gym\n +pip install reasoning-gym"):
        ReasoningGymQuestions(ReasoningGymTask(name="chain_sum"))
