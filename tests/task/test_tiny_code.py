"""TinyCode: the table of functions, prompts, purposes, the demonstrator, both graders, the world."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from steersman.core.component import Hinted
from steersman.core.errors import UserError
from steersman.core.types import Rollouts, Scores
from steersman.reward.code import CODE_STATUSES, CodeReward, WholeCode
from steersman.reward.code_grader import CodeGrader
from steersman.reward.sandbox import Sandbox, SandboxFault
from steersman.task.tiny_code import TinyCode, demonstrate, examples, grade, prompts, responses
from steersman.task.tiny_code_functions import (
    LARGEST,
    MAX_TOKENS,
    MOST_ALIKE,
    PROBES,
    SHARES,
    VISIBLE,
    functions,
    probes,
)
from steersman.task.tiny_code_language import EOS, PAD, evaluate, parse, size, text_of, tokenize
from steersman.task.tiny_code_world import HELD_OUT_SEED, TinyCodeWorld

SIGNATURES = [("int", "int"), ("list", "int"), ("list", "list")]
STANDARD_ERRORS = 4.0
UNAMBIGUOUS = 0.9  # share of prompts whose examples single out a function: the task's promise
TASKS = [TinyCode(inputs="int"), TinyCode(inputs="list"), TinyCode()]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_table_says_what_its_programs_do(signature):
    of = functions(*signature)
    inputs = probes(of.given)
    assert len(inputs) == PROBES == len(set(map(str, inputs)))
    for f in range(0, len(of), 61):
        tree = parse(of.program[f], of.given)
        assert tree == of.tree[f]
        assert size(tree) == of.size[f] <= LARGEST
        assert len(tokenize(of.program[f])) <= MAX_TOKENS
        assert [evaluate(tree, x) for x in inputs] == [of.values[v] for v in of.value[f]]
    assert max(np.bincount(row).max() for row in of.value) <= MOST_ALIKE
    assert len(np.unique(of.value[:, :VISIBLE], axis=0)) == len(of)  # no two alike, so none has a shorter equal
    assert bool((np.diff(of.size) >= 0).all())


@pytest.mark.parametrize("signature", SIGNATURES)
def test_small_functions_are_all_there(signature):
    of = functions(*signature)
    behaviours = {tuple(row) for row in of.value[:, :VISIBLE].tolist()}
    known = {str(v): i for i, v in enumerate(of.values)}
    wanted = {
        ("int", "int"): ["abs(x)", "-x", "x+3", "x*x", "x//2", "x%3", "max(x,2)", "x*2+1", "abs(x)-1", "-abs(x)"],
        ("list", "int"): ["sum(x)", "len(x)", "max(x)", "min(x)+1", "sum(x[1:])", "max(x)-min(x)", "sum(x)*2"],
        ("list", "list"): ["sorted(x)", "x[::-1]", "x[1:]", "[-i for i in x]", "[i*2 for i in x]", "sorted(x)[:2]"],
    }[signature]
    for text in wanted:
        values = [evaluate(parse(text, of.given), x) for x in probes(of.given)[:VISIBLE]]
        assert tuple(known.get(str(v)) for v in values) in behaviours, text


def test_no_list_is_made_of_an_int():
    with pytest.raises(ValueError, match="no list"):
        functions("int", "list")


@pytest.mark.parametrize("signature", SIGNATURES)
def test_purposes_share_the_functions_as_stated(signature):
    of = functions(*signature)
    for i, share in enumerate(SHARES.values()):
        error = (share * (1 - share) / len(of)) ** 0.5
        assert abs(float((of.purpose == i).mean()) - share) <= STANDARD_ERRORS * error
    assert abs(sum(SHARES.values()) - 1) < 1e-12


def read(rollouts):
    ids = [row[:n] for row, n in zip(rollouts.ids.tolist(), rollouts.length.tolist(), strict=True)]
    return [text_of(x) for x in ids]


@pytest.mark.parametrize("task", TASKS)
def test_prompts_show_true_examples_and_test_on_others(task):
    asked = prompts(task, 150, seed=1, step=4)
    for text, row in zip(read(asked.prompts), asked.rows, strict=True):
        assert text.endswith(" ; ")
        tree = parse(row["answer"], row["kind"])
        assert task.size[0] <= row["size"] == size(tree) <= task.size[1]
        shown = [part.removeprefix("f(").split(")=") for part in text.removesuffix(" ; ").split(" ")]
        assert len(shown) == len({x for x, _ in shown}) == task.shown
        for x, y in shown:
            given = [int(v) for v in x.strip("[]").split(",")]
            value = evaluate(tree, given if row["kind"] == "list" else given[0])
            assert str(value).replace(" ", "") == y
            assert x not in [str(test[1][0]).replace(" ", "") for test in row["tests"]]
        assert len(row["tests"]) == task.tests == len({str(t[1]) for t in row["tests"]})
        assert len({str(t[2]) for t in row["tests"]}) > 1
        for name, (given,), value in row["tests"]:
            assert (name, evaluate(tree, given)) == ("f", value)
    assert bool((asked.prompts.length == asked.prompts.prompt_length).all())


@pytest.mark.parametrize("task", TASKS)
def test_examples_single_out_a_function_and_rivals_are_counted(task):
    asked = prompts(task, 400, seed=2)
    assert asked.ambiguity <= 1 - UNAMBIGUOUS
    found = 0
    for text, row in list(zip(read(asked.prompts), asked.rows, strict=True))[:25]:
        fits = 0
        for made in ("int", "list") if row["kind"] == "list" else ("int",):
            of = functions(row["kind"], made)
            inside = np.flatnonzero((task.size[0] <= of.size) & (of.size <= task.size[1]))
            known = {str(v).replace(" ", ""): i for i, v in enumerate(of.values)}
            at = {str(x).replace(" ", ""): i for i, x in enumerate(probes(of.given))}
            for part in text.removesuffix(" ; ").split(" "):
                x, y = part.removeprefix("f(").split(")=")
                inside = inside[of.value[inside, at[x]] == known.get(y, -1)]
            fits += len(inside)
        assert row["others"] == fits - 1
        found += fits > 1
    one = TinyCode(inputs=task.inputs, shown=1, draws=1)
    assert prompts(one, 100, seed=2).ambiguity > asked.ambiguity


def same(a, b):
    return read(a.prompts) == read(b.prompts) and a.rows == b.rows and torch.equal(a.prompts.group, b.prompts.group)


def test_prompts_are_functions_of_seed_step_round_and_row():
    task = TinyCode(inputs="int")
    full = prompts(task, 40, seed=5, step=3, round=2)
    assert same(full, prompts(task, 40, seed=5, step=3, round=2))
    part = prompts(task, 11, seed=5, step=3, round=2)
    assert (read(part.prompts), part.rows) == (read(full.prompts)[:11], full.rows[:11])
    others = [{"seed": 6, "step": 3, "round": 2}, {"seed": 5, "step": 4, "round": 2}, {"seed": 5, "step": 3}]
    for other in others:
        assert read(prompts(task, 40, **other).prompts) != read(full.prompts)
    assert not set(prompts(task, 40, 5, 3).prompts.group.tolist()) & set(full.prompts.group.tolist())


def test_purposes_never_share_a_function():
    asked = {p: {row["answer"] for row in prompts(TinyCode(), 300, seed=1, purpose=p).rows} for p in SHARES}
    for p in SHARES:
        assert asked[p]
        for q in SHARES:
            assert p == q or not asked[p] & asked[q]


def test_sizes_are_uniform_over_those_that_exist():
    sizes = [row["size"] for row in prompts(TinyCode(inputs="int", size=(4, 9)), 1200, seed=3).rows]
    for s in range(4, 10):
        p = 1 / 6
        assert abs(sizes.count(s) / 1200 - p) <= STANDARD_ERRORS * (p * (1 - p) / 1200) ** 0.5


@pytest.fixture(scope="module")
def sandbox():
    pytest.importorskip("pydantic_monty")
    with Sandbox(workers=2) as made:
        yield made


@pytest.mark.parametrize("task", TASKS)
def test_the_demonstrator_is_right_by_both_graders(task, sandbox):
    asked = prompts(task, 60, seed=7)
    shown = demonstrate(asked).check()
    assert torch.equal(shown.group, asked.prompts.group)
    assert responses(shown) == [row["answer"] for row in asked.rows]
    assert int((shown.length - shown.prompt_length).max()) <= task.max_response
    for graded in (grade(shown, asked.rows), grade(shown, asked.rows, sandbox)):
        assert bool((graded.scores.value == 1).all())
        assert graded.counts()["correct"] == 60
        assert graded.answer == tuple(row["answer"] for row in asked.rows)
    batch = examples(task, 30, seed=7, step=2).check()
    assert bool((batch.ids[torch.arange(30), batch.length - 1] == EOS).all())


def answered(asked, texts, end=True):
    """Prompts with given responses."""
    n, given = len(texts), asked.prompts
    ids = [
        [*given.ids[i, : int(given.prompt_length[i])].tolist(), *tokenize(t), *[EOS] * end] for i, t in enumerate(texts)
    ]
    out = torch.full((n, max(map(len, ids))), PAD)
    for row, x in zip(out, ids, strict=True):
        row[: len(x)] = torch.tensor(x)
    return Rollouts.of(out, torch.tensor([len(x) for x in ids]), given.prompt_length[:n], group=given.group[:n])


def test_both_graders_agree_on_other_functions_and_broken_programs(sandbox):
    asked = prompts(TinyCode(), 240, seed=11)
    tables = {k: [p for s in SIGNATURES if s[0] == k for p in functions(*s).program] for k in ("int", "list")}
    texts = []
    for i, row in enumerate(asked.rows):
        right = row["answer"]
        other = tables[row["kind"]][(i * 7919) % len(tables[row["kind"]])]
        fails = f"{right}//(len(x)-3)" if row["kind"] == "list" else f"9//(x-{row['tests'][i % 8][1][0]})"
        texts.append([right, other, f"({right})", fails, right + ")", tables["int"][i], f"{right}+x", "x"][i % 8])
    rollouts = answered(asked, [t.replace("--", "-") for t in texts])
    fast, slow = grade(rollouts, asked.rows), grade(rollouts, asked.rows, sandbox)
    for name in ("correct", "format_ok", "passed", "status"):
        assert torch.equal(fast.scores.parts[name], slow.scores.parts[name]), name
    assert torch.equal(fast.scores.value, slow.scores.value)
    seen = {s for s, n in fast.counts().items() if n}
    assert {"correct", "wrong", "error", "forbidden"} <= seen
    assert 0 < float(grade(rollouts, asked.rows, score="fraction").scores.value.sum()) > float(fast.scores.value.sum())


def test_statuses():
    asked = prompts(TinyCode(inputs="int"), 6, seed=1)
    texts = ["x", "", "x+", "sum(x)", "9//0", asked.rows[5]["answer"]]
    rollouts = answered(asked, texts)
    graded = grade(rollouts, asked.rows)
    assert [CODE_STATUSES[s] for s in graded.scores.parts["status"].tolist()] == [
        "wrong", "no_code", "error", "forbidden", "error", "correct",
    ]  # fmt: skip
    assert graded.answer == ("x", None, *texts[2:])
    cut = grade(answered(asked, [asked.rows[0]["answer"]], end=False), asked.rows[:1])
    assert cut.counts()["unparsable"] == 1
    lost = Rollouts.of(rollouts.ids, rollouts.length, rollouts.prompt_length, valid=torch.tensor([True] * 5 + [False]))
    graded = grade(lost, asked.rows)
    assert graded.scores.valid.tolist() == [True] * 5 + [False]
    assert bool(graded.scores.value[5].isnan())
    assert 5 in graded.scores.errors
    inside = [*tokenize("x"), EOS, EOS]
    twice = answered(asked, ["x"])
    twice = Rollouts.of(
        torch.tensor([twice.ids[0, : int(twice.prompt_length[0])].tolist() + inside]),
        twice.prompt_length + 3, twice.prompt_length,
    )  # fmt: skip
    assert grade(twice, asked.rows[:1]).counts()["error"] == 1


class Failing:
    """A sandbox without workers."""

    def run_many(self, programs, calls):
        return [SandboxFault("no workers")] * len(programs)


def test_a_fault_of_the_sandbox_is_invalid():
    asked = prompts(TinyCode(inputs="int"), 2, seed=1)
    graded = grade(answered(asked, ["x", "x+"]), asked.rows, Failing())
    assert graded.scores.valid.tolist() == [False, True]
    assert graded.scores.errors == {0: "no workers"}


def test_rows_fit_the_grader_of_any_program():
    pytest.importorskip("pydantic_monty")
    asked = prompts(TinyCode(), 20, seed=3)
    texts = [f"def f(x): return {row['answer']}" for row in asked.rows]
    with CodeGrader(CodeReward(extract=WholeCode())) as grader:
        grader.check_rows(asked.rows)
        assert grader(read(asked.prompts), texts, asked.rows).scores.value.tolist() == [1.0] * 20


def test_the_world():
    world = TinyCodeWorld(TinyCode(inputs="int"), held_out_size=12)
    drawn = world.draw(5, seed=1, step=2)
    assert len(drawn) == 5
    assert drawn.ids == world.draw(5, seed=1, step=2).ids
    held_out = world.held_out()
    assert (len(held_out), len(world.held_out(3))) == (12, 3)
    assert held_out.ids[:3] == world.held_out(3).ids
    assert TinyCodeWorld(TinyCode(inputs="int")).held_out() is None
    shown = demonstrate(prompts(world.task, 5, 1, 2))
    assert world.grade(shown, drawn.rows).scores.value.tolist() == [1.0] * 5
    before, after = world.texts(shown)[0]
    assert text_of(drawn.ids[0]) == before
    assert after == drawn.rows[0]["answer"] + "<eos>"
    assert world.encode([before, list(drawn.ids[0])]) == [list(drawn.ids[0])] * 2
    for bad, match in (("y", "TinyCode"), (({"role": "user"},), "conversations"), ("", "conversations")):
        with pytest.raises(UserError, match=match):
            world.encode([bad])
    with pytest.raises(UserError, match="purpose"):
        TinyCodeWorld(TinyCode(), 3, held_out_purpose="other")
    same = TinyCodeWorld(TinyCode(inputs="int", size=(2, 4)), 40, held_out_purpose="rl")
    assert not {*same.held_out().ids} & {*same.draw(40, HELD_OUT_SEED, 0).ids}  # the functions are the same
    assert {r["answer"] for r in same.held_out().rows} & {r["answer"] for r in same.draw(40, HELD_OUT_SEED, 0).rows}
    with pytest.raises(UserError, match="held_out_size"):
        TinyCodeWorld(TinyCode(), -1)
    world.close()


@pytest.mark.parametrize("inputs", ["int", "list", "both"])
def test_no_prompt_is_longer_than_is_said(inputs):
    task = TinyCode(inputs=inputs)
    seen = int(prompts(task, 300, 0, purpose="sft").prompts.prompt_length.max())
    assert seen <= task.max_prompt
    widest = {"int": ["f(-9)=-9999 "], "list": ["f([-9,-9,-9,-9,-9])=[-9999,-9999,-9999,-9999,-9999] "]}
    text = widest.get(inputs, widest["list"]) * task.shown
    assert len(tokenize("".join(text) + "; ")) == task.max_prompt


def test_a_reward_model_pays_and_the_tests_say_what_is_correct():
    class Model:
        def __call__(self, rollouts):
            valid = torch.arange(len(rollouts)) != 1
            value = torch.where(valid, torch.arange(len(rollouts)) / 2.0, torch.nan)
            return Scores(value, valid, {}, {1: "the reward model gave nan"})

        model = torch.nn.Linear(1, 1)

    world = TinyCodeWorld(TinyCode(inputs="int"), model=Model())
    shown = demonstrate(prompts(world.task, 3, 1, 2))
    graded = world.grade(shown, world.draw(3, 1, 2).rows)
    assert graded.scores.valid.tolist() == [True, False, True]
    assert graded.scores.value[[0, 2]].tolist() == [0.0, 1.0]
    assert graded.scores.parts["correct"].tolist() == [True] * 3
    assert graded.scores.errors == {1: "the reward model gave nan"}


def test_bad_input():
    task = TinyCode(inputs="int")
    for bad, match in (({"n": 0}, "0 prompts"), ({"round": -1}, "round"), ({"purpose": "train"}, "purpose")):
        with pytest.raises(UserError, match=match):
            prompts(task, **({"n": 2, "seed": 0} | bad))
    asked = prompts(task, 2, 0)
    with pytest.raises(UserError, match="1 rows for 2"):
        grade(asked.prompts, asked.rows[:1])
    with pytest.raises(UserError, match="no function"):
        prompts(TinyCode(inputs="int", size=(2, 2)), 1, 0, purpose="validation")
    for bad in ({"size": (5, 4)}, {"size": (1, 4)}, {"size": (2, 10)}, {"shown": 0}, {"tests": 1}, {"inputs": "str"}):
        with pytest.raises(ValidationError):
            TinyCode(**bad)


def test_a_told_answer_stands_behind_the_prompts_own_tokens() -> None:
    world = TinyCodeWorld(TinyCode(inputs="int"))
    own = world.draw(1, 0, 0).ids[0]
    text = "f(2)=5 ; "
    assert world.encode([Hinted(own, {}, "after_prompt", "{answer}", text)]) == [[*own, *world.encode([text])[0]]]
    with pytest.raises(UserError, match="no conversations"):
        world.encode([Hinted(own, {}, "in_user_turn", "{prompt}{answer}", text)])
