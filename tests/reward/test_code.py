"""Code in completions, and the grader of programs: extraction rules, statuses, scores, invalid rows, bad rows."""

import pytest
import torch
from pydantic import ValidationError

from steersman.core.errors import RunStopped, UserError
from steersman.reward.code import CODE_STATUSES, CodeReward, Fenced, WholeCode, fenced
from steersman.reward.code_grader import CodeGrader, calls_of, grader_of
from steersman.reward.sandbox import SandboxFault, Verdict
from steersman.reward.verifiable import Grader, Verifiable

pytest.importorskip("pydantic_monty")

FIRST = "Here:\n```python\nx = 1\n```\nand\n~~~~\ny = 2\n~~~\n~~~~\n"
ROW = {"id": "add", "tests": [["f", [2], 3], ["f", [5], 6]]}


@pytest.mark.parametrize(
    "text, options, wanted",
    [
        (FIRST, {}, ("x = 1\n", "")),
        (FIRST, {"which": "last"}, ("y = 2\n~~~\n", "")),
        ("x = 1", {}, ("x = 1", "")),
        ("x = 1", {"otherwise": "no_code"}, (None, "no_code")),
        (" \n\t", {}, (None, "no_code")),
        ("", {}, (None, "no_code")),
        ("```\n```", {}, (None, "no_code")),
        ("```python\nx = 1", {}, (None, "unparsable")),
        ("```python\nx = 1\n``", {}, (None, "unparsable")),
        ("```python\nx = 1\n```python\n", {}, (None, "unparsable")),
        ("```bash\nls\n```", {}, (None, "no_code")),
        ("```bash\nls\n```\n```py\nx\n```", {}, ("x\n", "")),
        ("```Python title\nx\n```", {}, ("x\n", "")),
        ("````\n```\nx\n```\n````", {}, ("```\nx\n```\n", "")),
        ("   ```\r\nx\r\n   ```  \r\n", {}, ("x\n", "")),
        ("    ```\nx", {}, ("    ```\nx", "")),
        ("say `x` and ```x```", {"otherwise": "no_code"}, (None, "no_code")),
        ("#" * 200_000, {}, (None, "unparsable")),
        ("```\na\n```\n```\nb", {"which": "last"}, (None, "unparsable")),
        ("```\na\n```\n```\nb", {}, ("a\n", "")),
    ],
)
def test_where_the_code_stands(text, options, wanted):
    assert fenced(text, **options) == wanted
    assert Fenced(**options)(text) == wanted


def test_the_whole_completion():
    assert WholeCode()("```\nx\n```") == ("```\nx\n```", "")
    assert WholeCode()("\n") == (None, "no_code")


CASES = {
    "```python\ndef f(x): return x + 1\n```": ("correct", 1.0, True),
    "def f(x): return 3": ("wrong", 0.5, True),
    "def f(x): return x + 1.0": ("wrong", 0.0, True),
    "def f(x): return 3 if x == 2 else 1 // 0": ("error", 0.5, True),
    "def f(x):\n while True: pass": ("timeout", 0.0, True),
    "def f(x): return [0] * 10 ** 11": ("memory", 0.0, True),
    "def f(x): return open('/etc/passwd').read()": ("forbidden", 0.0, True),
    "```bash\nls\n```": ("no_code", 0.0, False),
    "```python\ndef f(x): return x + 1": ("unparsable", 0.0, False),
}


@pytest.mark.parametrize("score, bonus", [("all", 0.0), ("fraction", 0.0), ("all", 0.25), ("fraction", 0.25)])
def test_statuses_and_scores(score, bonus):
    n = len(CASES) + 1
    with CodeGrader(CodeReward(score=score, format_bonus=bonus, seconds=0.5)) as grader:
        graded = grader(["?"] * n, [*CASES, "x"], [ROW] * n, [True] * (n - 1) + [False])
    scores = graded.scores
    assert scores.valid.tolist() == [True] * (n - 1) + [False]
    assert scores.errors == {n - 1: "the response could not be made"}
    assert bool(scores.value[-1].isnan())
    for i, (status, share, code) in enumerate(CASES.values()):
        assert graded.statuses[int(scores.parts["status"][i])] == status
        assert bool(scores.parts["correct"][i]) == (status == "correct")
        assert bool(scores.parts["format_ok"][i]) == code == (graded.answer[i] is not None)
        assert float(scores.parts["passed"][i]) == share
        assert float(scores.value[i]) == (share if score == "fraction" else float(status == "correct")) + bonus * code
        assert (i in graded.reasons) == (code and status != "correct")
    assert graded.counts() == {s: sum(c[0] == s for c in CASES.values()) for s in CODE_STATUSES} | {"invalid": 1}


class Faulty:
    """A sandbox with prepared answers."""

    def __init__(self, *batches):
        self.batches = list(batches)

    def run_many(self, programs, tests):
        return self.batches.pop(0)

    def close(self):
        pass


GOOD, BAD = Verdict("pass", (True, True)), Verdict("fail", (True, False))


def graded_by(reward, *batches):
    grader = CodeGrader(reward)
    grader.close()
    grader._open = Faulty(*batches)
    n = len(batches[0])
    return grader(["?"] * n, ["def f(x): return 1"] * n, [ROW] * n)


def test_only_a_fault_of_the_sandbox_is_invalid_and_too_many_stop_the_run():
    fault = SandboxFault("no workers")
    graded = graded_by(CodeReward(max_invalid=0.5), [GOOD, fault, BAD])
    assert graded.scores.valid.tolist() == [True, False, True]
    assert graded.scores.errors == {1: "no workers"}
    assert torch.isnan(graded.scores.value).tolist() == [False, True, False]
    assert graded.answer[1] is None
    with pytest.raises(RunStopped, match="row 1: no workers"):
        graded_by(CodeReward(), [GOOD, fault, BAD])


def test_runs_that_disagree_are_invalid():
    reward = CodeReward(runs=2, max_invalid=1.0)
    graded = graded_by(reward, [GOOD, GOOD, BAD, SandboxFault("a")], [GOOD, BAD, BAD, GOOD])
    assert graded.scores.valid.tolist() == [True, False, True, False]
    assert "disagree" in graded.scores.errors[1]
    with CodeGrader(CodeReward(runs=2)) as grader:
        assert grader(["?"], ["def f(x): return x + 1"], [ROW]).scores.value.tolist() == [1.0]


def test_json_has_no_tuples_and_a_tolerance_can_be_given():
    row = {"tests": [["f", [], [1, [2.0]]]]}
    with CodeGrader(CodeReward(tolerance=1e-6)) as grader:
        graded = grader(["?"] * 2, ["def f(): return (1, [2.0000001])", "def f(): return (1, [2.1])"], [row] * 2)
        assert graded.scores.value.tolist() == [1.0, 0.0]
        grader.close()
        assert grader(["?"], ["def f(): return [1, [2]]"], [row]).scores.value.tolist() == [1.0]


def test_the_other_backend_knows_all_of_python():
    code = "import heapq\nclass A(list): pass\nf = lambda x: heapq.nsmallest(1, A([x + 1]))[0]"
    for backend, status in (("monty", "forbidden"), ("subprocess", "correct")):
        with CodeGrader(CodeReward(backend=backend)) as grader:
            assert grader(["?"], [code], [ROW]).counts()[status] == 1


@pytest.mark.parametrize(
    "row, match",
    [
        ({}, "has no tests"),
        ({"tests": []}, "has no tests"),
        ({"tests": "f(1)"}, "has no tests"),
        ({"tests": [["f", 1, 2]]}, r"tests\[0\]"),
        ({"tests": [["f", [1], 2], ["f", [1]]]}, r"tests\[1\]"),
        ({"tests": [["f(", [1], 2]]}, "no name of a function"),
        ({"tests": [["f", [object()], 2]]}, "cannot be given"),
    ],
)
def test_rows_that_cannot_be_graded(row, match):
    with CodeGrader(CodeReward(backend="subprocess")) as grader:
        grader.check_rows([ROW])
        with pytest.raises(UserError, match=match) as caught:
            grader.check_rows([ROW, row])
        assert "row 1" in str(caught.value)
        with pytest.raises(UserError, match=match):
            grader(["?"] * 2, ["x"] * 2, [ROW, row])
        with pytest.raises(UserError, match="differ in length"):
            grader(["?"], ["x"] * 2, [ROW, ROW])


def test_a_graders_kind_follows_its_reward():
    with grader_of(CodeReward(backend="subprocess")) as grader:
        assert isinstance(grader, CodeGrader)
        assert grader.reward.kind == "code"
        assert grader([], [], []).scores.value.shape == (0,)
    assert isinstance(grader_of(Verifiable()), Grader)
    assert calls_of(ROW, "here") == [("f", (2,), 3), ("f", (5,), 6)]


@pytest.mark.parametrize("bad", [{"seconds": 0}, {"memory": 0}, {"runs": 3}, {"tolerance": -1}, {"backend": "docker"}])
def test_bad_options(bad):
    with pytest.raises(ValidationError):
        CodeReward(**bad)
