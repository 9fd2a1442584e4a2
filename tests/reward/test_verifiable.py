"""Graders: statuses, bonuses, invalid rows, users' functions that misbehave, packages that hang or are missing."""

import importlib.util
import math
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from steersman.core.errors import RunStopped, UserError
from steersman.reward import verifiable
from steersman.reward.answer import STATUSES, FirstBlock, LastLine, Numeric, WholeText
from steersman.reward.time_limit import TimedFunction
from steersman.reward.verifiable import Grader, MathVerify, ReasoningGym, Reward, RewardFunction, Verifiable

CODE = '''
import os, time
import numpy as np

def reward(prompt, completion, row):
    value = row["value"]
    if value == "hang":
        time.sleep(600)
    if value == "raise":
        raise RuntimeError("no luck")
    if value == "exit":
        os._exit(5)
    if value == "big":
        return 2**20000
    if value == "nan":
        return float("nan")
    if value == "inf":
        return float("inf")
    if value == "numpy":
        return np.float64(0.25)
    if value == "array":
        return np.zeros(3)
    return value

def echo(prompt, completion, row):
    return {"score": len(prompt) + len(completion), "correct": completion == row["answer"], "reason": prompt}

def slow(answer, reference):
    """Hangs or fails on some answers, as a comparison of a package may."""
    if answer == "loop" or reference == "loop always":
        time.sleep(600)
    if answer == "crash":
        os._exit(1)
    if answer == "raise":
        raise ValueError("strange answer")
    if answer == "two":
        return {"score": 2.0, "status": "correct"}
    return {"score": float(answer == reference), "status": "correct" if answer == reference else "wrong"}

not_a_function = 3
'''
SHORT = 0.5


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "reward_examples.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def own(values, name="reward", **options):
    reward = RewardFunction(function=f"reward_examples:{name}", **options)
    with Grader(reward, ["reward_examples"]) as grader:
        n = len(values)
        return grader(["p"] * n, ["c"] * n, [{"value": v} for v in values])


def names(graded):
    return [STATUSES[s] for s in graded.scores.parts["status"].tolist()]


def test_rules_give_every_status_and_its_answer():
    grader = Grader(Verifiable(compare=Numeric()))
    texts = [r"\boxed{2}", r"\boxed{3}", r"\boxed{two}", r"\boxed{2", "2"]
    graded = grader(["p"] * 5, texts, [{"answer": "2.0"}] * 5)
    assert names(graded) == ["correct", "wrong", "unparsable", "unparsable", "no_answer"]
    assert graded.scores.value.tolist() == [1, 0, 0, 0, 0]
    assert graded.scores.valid.tolist() == [True] * 5
    assert graded.scores.parts["correct"].tolist() == [True, False, False, False, False]
    assert graded.scores.parts["format_ok"].tolist() == [True, True, False, False, False]
    assert graded.answer == ("2", "3", "two", None, None)
    assert graded.counts() == dict(zip(STATUSES, (1, 1, 2, 1, 0, 0), strict=True)) | {"invalid": 0}


def test_format_bonus_goes_to_readable_answers_and_leaves_correct_alone():
    grader = Grader(Verifiable(extract=LastLine(), format_bonus=0.1))
    graded = grader(["p"] * 3, ["Answer: a", "Answer: b", "a"], [{"answer": "a"}] * 3)
    assert graded.scores.value.tolist() == pytest.approx([1.1, 0.1, 0.0])
    assert graded.scores.parts["correct"].tolist() == [True, False, False]


def test_rows_that_could_not_be_made_stay_invalid_and_do_not_stop_the_run():
    graded = Grader(Verifiable(extract=WholeText(), max_invalid=0.0))(
        ["p"] * 2, ["a", "a"], [{"answer": "a"}] * 2, valid=[True, False]
    )
    assert graded.scores.valid.tolist() == [True, False]
    assert math.isnan(float(graded.scores.value[1]))
    assert graded.scores.parts["correct"].tolist() == [True, False]
    assert graded.counts()["invalid"] == 1


def test_an_empty_batch():
    graded = Grader(Verifiable())([], [], [])
    assert len(graded.scores) == 0
    assert graded.answer == ()


def test_lists_of_unequal_length_and_rows_without_reference_are_named():
    grader = Grader(Verifiable(compare=Numeric()))
    with pytest.raises(UserError, match=r"differ in length: \[1, 2\]"):
        grader(["p"], ["a", "b"], [{"answer": "1"}])
    with pytest.raises(UserError, match="row 1: has no reference answer"):
        grader(["p"] * 2, ["a"] * 2, [{"answer": "1"}, {}])
    with pytest.raises(UserError, match="rows, line 7: the reference answer 'x' is not a number"):
        grader.check_rows([{"answer": "x", "id": "rows, line 7"}])


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym")
def test_rows_that_reasoning_gym_did_not_make_are_refused():
    with pytest.raises(UserError, match="was not made by reasoning-gym"):
        Grader(Verifiable(compare=ReasoningGym())).check_rows([{"answer": "x"}])


def test_own_functions_may_return_numbers_truth_values_and_dicts():
    graded = own([1, 0.5, "numpy"])
    assert graded.scores.value.tolist() == [1.0, 0.5, 0.25]
    assert set(graded.scores.parts) == set()  # nothing said what is correct
    assert own([1, 0.5], correct_at=1.0).scores.parts["correct"].tolist() == [True, False]
    graded = own([True, False])
    assert graded.scores.value.tolist() == [1.0, 0.0]
    assert graded.scores.parts["correct"].tolist() == [True, False]
    graded = own([{"score": 2.5, "correct": False, "format_ok": True, "reason": "half"}])
    assert graded.scores.value.tolist() == [2.5]
    assert {k: v.tolist() for k, v in graded.scores.parts.items()} == {"correct": [False], "format_ok": [True]}
    assert graded.reasons == {0: "half"}


def test_own_functions_get_prompt_completion_and_row():
    with Grader(RewardFunction(function="reward_examples:echo"), ["reward_examples"]) as grader:
        graded = grader(["one", "é"], ["a", "bb"], [{"answer": "a"}, {"answer": "a"}])
    assert graded.scores.value.tolist() == [4.0, 3.0]
    assert graded.scores.parts["correct"].tolist() == [True, False]
    assert graded.reasons == {0: "one", 1: "é"}


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("text", "the text 'text'"),
        (None, "nothing"),
        ("nan", "nan"),
        ("inf", "inf"),
        (1e300, "1e\\+300"),
        ([1.0, 2.0], "a list of 2"),
        ("array", "a ndarray of 3"),
        ({}, "nothing"),
        ({"score": "1"}, "the text '1'"),
        ({"score": 1, "correct": 1}, "1 as correct"),
        ({"score": 1, "right": True}, "the unknown key 'right'"),
    ],
)
def test_own_functions_that_return_anything_else_are_refused_by_row(value, what):
    with pytest.raises(UserError, match=rf"reward_examples:reward, row 1: returned {what}"):
        own([1.0, value])


def test_a_flag_that_only_some_rows_have_is_refused():
    what = "reward_examples:reward, row 1: says nothing of 'correct', which row 0 has"
    with pytest.raises(UserError, match=f"(?s){what}.*reward.correct_at"):
        own([True, 0.5])


def test_a_broken_package_or_function_is_found_when_the_grader_is_started(monkeypatch, tmp_path):
    monkeypatch.setattr(verifiable, "require", lambda package, where: None)
    (tmp_path / "math_verify").mkdir()
    file = tmp_path / "math_verify" / "__init__.py"
    monkeypatch.syspath_prepend(tmp_path)
    for code, said in (
        ("raise ImportError('half installed')", "did not start: .*half installed"),
        ("def parse(*a, **k): raise OSError('no antlr')\nverify = parse", "cannot compare 1 with 1: OSError: no antlr"),
        ("parse = lambda *a, **k: [1]\nverify = lambda *a, **k: False", "cannot compare 1 with 1: it says .*wrong"),
    ):
        file.write_text(code)
        grader = Grader(Verifiable(compare=MathVerify(), time_limit=60.0))
        with grader, pytest.raises(UserError, match=f"(?s)^reward.compare: .*{said}.*pip install 'math-verify"):
            grader.start()
    with Grader(RewardFunction(function="reward_examples:reward"), ["reward_examples"]) as grader:
        grader.start()
        monkeypatch.setattr(grader, "_timed", TimedFunction("reward_examples:absent", SHORT))
        with pytest.raises(UserError, match=r"^reward\.function: .*cannot import"):
            grader.start()


def test_equal_reasons_are_said_once_and_numbers_without_end_are_refused():
    with pytest.raises(RunStopped, match=r"failed on 1 rows.*\(row 0: reward_examples:reward raised"):
        own(["raise", "raise", 1.0], max_invalid=0.0)
    with pytest.raises(UserError, match="returned a number of 20001 bits"):
        own(["big"])


def test_own_functions_that_hang_raise_or_crash_make_their_rows_invalid():
    graded = own([1.0, "hang", "raise", "exit", 0.0], time_limit=SHORT, max_invalid=0.6)
    assert graded.scores.valid.tolist() == [True, False, False, False, True]
    assert [math.isnan(v) for v in graded.scores.value.tolist()] == [False, True, True, True, False]
    assert graded.scores.errors == {
        1: "reward_examples:reward took longer than 0.5 s",
        2: "reward_examples:reward raised RuntimeError: no luck",
        3: "reward_examples:reward ended its process (exit code 5)",
    }


def test_too_many_invalid_rows_stop_the_run_at_once():
    with pytest.raises(RunStopped, match=r"failed on 2 rows, more than max_invalid = 0.25 of 4 \(row 0: .*no luck"):
        own(["raise", "raise", "hang", "hang"], time_limit=60.0, max_invalid=0.25)
    assert own(["raise", 1, 1, 1], max_invalid=0.25).counts()["invalid"] == 1


def test_own_functions_need_leave_and_must_be_functions():
    with pytest.raises(UserError, match="--allow-import reward_examples"):
        Grader(RewardFunction(function="reward_examples:reward"))
    with pytest.raises(UserError, match="cannot be called"):
        Grader(RewardFunction(function="reward_examples:not_a_function"), ["reward_examples"])
    with pytest.raises(UserError, match="cannot import"):
        Grader(RewardFunction(function="reward_examples:absent"), ["reward_examples"])
    with pytest.raises(ValidationError):
        RewardFunction(function="reward_examples")


@pytest.fixture
def slow_package(monkeypatch):
    """A grader by a package whose comparison hangs, crashes or raises on some answers."""
    monkeypatch.setattr(verifiable, "require", lambda package, where: None)
    grader = Grader(Verifiable(extract=WholeText(), compare=MathVerify(), max_invalid=0.5))
    grader._timed = TimedFunction("reward_examples:slow", SHORT)
    with grader:
        yield grader


def test_answers_on_which_a_comparison_fails_are_failures_of_the_answer(slow_package):
    texts = ["ok", "loop", "crash", "raise", "no"]
    graded = slow_package(["p"] * 5, texts, [{"answer": "ok"}] * 5)
    assert names(graded) == ["correct", "looping", "crashing", "crashing", "wrong"]
    assert graded.scores.value.tolist() == [1, 0, 0, 0, 0]
    assert graded.scores.valid.all()


def test_a_comparison_that_fails_on_the_reference_too_is_invalid(slow_package):
    rows = [{"answer": "loop always"}, {"answer": "a"}, {"answer": "b"}, {"answer": "b"}]
    graded = slow_package(["p"] * 4, ["a", "two", "b", "c"], rows)
    assert graded.scores.valid.tolist() == [False, False, True, True]
    assert "so does the reference itself" in graded.scores.errors[0]
    assert graded.scores.errors[1] == "the scorer gave 2.0"


def test_a_package_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for compare, command in ((MathVerify(), r"'math-verify"), (ReasoningGym(), "reasoning-gym")):
        with pytest.raises(UserError, match=f"needs the package .*\n.*pip install {command}"):
            Grader(Verifiable(compare=compare))


def test_math_verify_compares_expressions():
    pytest.importorskip("math_verify")
    cases = {
        r"\boxed{\frac{1}{2}}": "correct",
        r"\boxed{0.5}": "correct",
        r"\boxed{2}": "wrong",
        r"\boxed{}": "unparsable",
        "0.5": "no_answer",
    }
    with Grader(Verifiable(compare=MathVerify(), time_limit=60.0)) as grader:
        graded = grader(["p"] * len(cases), list(cases), [{"answer": "1/2"}] * len(cases))
    assert names(graded) == list(cases.values())


def test_an_answer_to_math_verify_cannot_hold_several():
    pytest.importorskip("math_verify")
    by = importlib.import_module("steersman.reward.by_math_verify")
    assert by.compare("4", "4")["status"] == "correct"
    assert by.compare(r"3} \boxed{4", "4")["status"] == "unparsable"
    assert [by.balanced(x) for x in ("", "{}", "{{}{}}", "}{", "{", "}")] == [True, True, True, False, False, False]
    with pytest.raises(ValueError, match="is no expression"):
        by.compare("4", "}{")


def test_an_answer_that_makes_math_verify_loop_gains_nothing():
    pytest.importorskip("math_verify")
    hard = r"\boxed{9^{9^{9^{9}}}}"
    with Grader(Verifiable(compare=MathVerify(), time_limit=3.0, max_invalid=0.0)) as grader:
        graded = grader(["p"] * 2, [hard, r"\boxed{7}"], [{"answer": "7"}] * 2)
    assert names(graded)[0] != "correct"
    assert graded.scores.value.tolist() == [0.0, 1.0]
    assert graded.scores.valid.all()


def test_the_union_reads_recipes():
    adapter = TypeAdapter(Reward)
    read = adapter.validate_python({"kind": "verifiable", "extract": {"kind": "block"}, "compare": {"kind": "numeric"}})
    assert read == Verifiable(extract=FirstBlock(), compare=Numeric())
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "verifiable", "max_invalid": 2.0})
