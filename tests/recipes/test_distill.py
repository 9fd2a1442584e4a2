"""Jobs of `train distill` from start to finish: kinds of teachers, selection, no grader, resuming, what stops one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from constant_policy import save_constant
from safetensors.torch import load_file
from tiny_files import write

from steersman.core import noise
from steersman.core.config import Source, merge, validate
from steersman.core.errors import UserError
from steersman.recipes.distill import DistillRecipe
from steersman.recipes.jobs import identity
from steersman.recipes.rl_checks import check_method
from steersman.recipes.rl_estimate import described, measures
from steersman.recipes.rl_job import carry_out_rl
from steersman.recipes.teachers import Distill, ModelTeacher, SelfTeacher
from steersman.recipes.training import Runtime
from steersman.recipes.verbs import check
from steersman.store.checkpoint import list_checkpoints
from steersman.store.run import RunDir

OWN = """
import torch

class Flat:
    vocabulary = {rows}

    def log_probs(self, ids, length):
        return torch.zeros(len(length), self.vocabulary).log_softmax(-1)

short = Flat()
short.vocabulary = 7
nothing = object()
"""


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk is what `store` tests; here it would only take time."""
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Paths: a model, a larger teacher, one with another tokenizer, one with spare rows, prompts with and without
    answers."""
    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    root = tmp_path_factory.mktemp("desk")
    tokenizer, other = train_tokenizer(["one two three " * 5], 262), train_tokenizer(["six seven " * 5], 261)
    small, large = (SmallModel(width=w, layers=1, heads=2, context=32) for w in (16, 24))

    def model(size: Any, words: Any, name: str, seed: int, rows: int = 0) -> Path:
        made = build_model(size, rows or len(words), seed)
        noise.normal_([(n, p) for n, p in made.named_parameters() if p.ndim > 1], 0.3, seed, "desk")
        return save_model(made, words, root / name)

    rows = [{"prompt": f"{i} ="} for i in range(10)]
    (root / "own_teacher.py").write_text(OWN.format(rows=len(tokenizer)))
    return SimpleNamespace(
        root=root,
        model=model(small, tokenizer, "model", 0),
        teacher=model(large, tokenizer, "teacher", 1),
        foreign=model(large, other, "foreign", 1),
        spare=model(large, tokenizer, "spare", 1, len(tokenizer) + 9),
        prompts=write(root / "prompts.jsonl", rows),
        answered=write(root / "answered.jsonl", [r | {"answer": "e"} for r in rows]),
        gap=write(root / "gap.jsonl", [*(r | {"answer": "e"} for r in rows[:4]), {"prompt": "5 =", "answer": ""}]),
        held_out=write(root / "held_out.jsonl", [{"prompt": f"{i} ?", "answer": "e"} for i in range(4)]),
    )


def recipe(desk: SimpleNamespace, **tables: Any) -> DistillRecipe:
    usual: dict[str, Any] = {
        "model": {"path": str(desk.model)},
        "task": {"train": str(desk.prompts), "evaluation": str(desk.held_out)},
        "loss": {"teacher": {"path": str(desk.teacher)}},
        "rollout": {"max_new_tokens": 5, "samples": 2},
        "budget": {"batch": 4, "steps": 2},
        "optim": {"lr": 1e-3},
    }
    merge(usual, tables)
    return validate(DistillRecipe, Source(usual, {}, "the test"))


@pytest.fixture
def run(desk: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Carry a recipe out in a folder of the test's own."""
    monkeypatch.syspath_prepend(str(desk.root))

    def go(made: DistillRecipe, name: str = "run", **options: Any) -> SimpleNamespace:
        said: list[str] = []
        runtime = Runtime(out=str(tmp_path / name), log_every=1, **options.pop("runtime", {}))
        outcome = carry_out_rl(made, runtime, allow_import=["own_teacher"], say=said.append, **options)
        rows = RunDir(outcome.folder).read("metrics")
        return SimpleNamespace(outcome=outcome, result=outcome.result, rows=rows, said=said, folder=outcome.folder)

    return go


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_without_a_grader_it_reports_lengths_and_the_divergence(desk: SimpleNamespace, run: Any) -> None:
    done = run(recipe(desk))
    assert done.result["verb"] == "distill"
    assert done.result["before"].keys() == done.result["evaluation"].keys() == {"length", "ended_share", "divergence"}
    assert done.result["before"]["divergence"] > 0.1
    trained = [r for r in done.rows if "train/loss/distill" in r]
    assert len(trained) == 2
    assert not any("reward" in k or "zero_signal" in k for r in done.rows for k in r)
    assert all(r["train/gap_max"] < 1e-4 for r in trained)
    shown = [json.loads(line) for line in (done.folder / "samples.jsonl").read_text().splitlines()]
    assert shown
    assert "reward" not in shown[0]


def test_it_learns_what_the_teacher_does(desk: SimpleNamespace, run: Any) -> None:
    done = run(recipe(desk, budget={"steps": 25, "batch": 8}, optim={"lr": 1e-2}))
    assert done.result["evaluation"]["divergence"] < 0.7 * done.result["before"]["divergence"]


KINDS: dict[str, dict[str, Any]] = {
    "function": {"kind": "function", "object": "own_teacher:Flat"},
    "spare rows": {"path": "spare"},
    "start": {"kind": "self"},
    "live": {"kind": "self", "version": "live"},
    "average": {"kind": "self", "version": "average", "rate": 0.5},
    "average every other step": {"kind": "self", "version": "average", "rate": 1.0, "every": 2},
    "mixture": {"kind": "self", "version": "mixture", "rate": 0.3},
    "mixture told nothing": {"kind": "self", "version": "mixture", "tell": "nothing"},
    "average told nothing": {"kind": "self", "version": "average", "tell": "nothing"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_teacher(desk: SimpleNamespace, run: Any, name: str) -> None:
    teacher = KINDS[name] | ({"path": str(desk.spare)} if "path" in KINDS[name] else {})
    usual = recipe(desk).model_dump(exclude_none=True) | {"task": {"train": str(desk.answered)}}
    usual["loss"] = {"kind": "distill", "teacher": teacher, "divergence": "jsd"}
    made = validate(DistillRecipe, Source(usual, {}, "the test"))
    assert measures(made, Runtime(), ["own_teacher"])["seconds"] > 0
    done = run(made)
    first = done.rows[0]["train/loss/distill"]
    assert first >= 0
    assert (first > 1e-3) == ("told nothing" not in name)  # those are the policy itself before the first step


def test_the_own_teacher_of_a_task(run: Any, tmp_path: Path) -> None:
    from steersman.language.build import SmallModel, build_model
    from steersman.language.closed import closed_tokenizer
    from steersman.language.save import save_model
    from steersman.task import planted

    words = closed_tokenizer(planted.TOKENS, planted.EOS, planted.PAD)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=32), len(planted.TOKENS), 0)
    folder = save_model(model, words, tmp_path / "student")
    values = {
        "model": {"path": str(folder)},
        "task": {"kind": "planted", "evaluation": 8},
        "loss": {"teacher": {"kind": "task"}},
        "stages": [{"kind": "select_tokens", "rule": "q3", "keep": 0.2}],
        "budget": {"batch": 8, "steps": 2},
    }
    done = run(validate(DistillRecipe, Source(values, {}, "the test")))
    assert {"accuracy", "divergence"} <= done.result["evaluation"].keys()
    first = done.rows[0]
    assert first["train/select_tokens/tokens_out"] == int(0.2 * first["train/select_tokens/tokens_in"])
    assert first["train/tokens_trained"] == first["train/select_tokens/tokens_out"]


def test_a_run_and_its_checkpoint_can_teach(desk: SimpleNamespace, run: Any) -> None:
    """The checkpoint of the last step holds the weights that were exported, so both give the same steps."""
    taught = run(recipe(desk), "teacher")
    checkpoint = list_checkpoints(taught.folder / "ckpt")[-1]
    found = {}
    for name, path in (("run", taught.folder), ("model", taught.folder / "model"), ("checkpoint", checkpoint)):
        done = run(recipe(desk, loss={"teacher": {"path": str(path)}}), name)
        found[name] = weights(done.folder)
    for name in ("model", "checkpoint"):
        assert all(torch.equal(found[name][k], x) for k, x in found["run"].items())
    adapters = run(recipe(desk, model={"lora": {"rank": 2}}), "adapters")
    with pytest.raises(UserError, match="is a checkpoint of adapters"):
        run(recipe(desk, loss={"teacher": {"path": str(list_checkpoints(adapters.folder / "ckpt")[-1])}}), "other")


@pytest.mark.parametrize("version", ["start", "average", "mixture"])
def test_adapters_can_be_taught_by_what_they_adapt(desk: SimpleNamespace, run: Any, version: str) -> None:
    usual = recipe(desk, model={"lora": {"rank": 2}}, task={"train": str(desk.answered)}).model_dump(exclude_none=True)
    usual["loss"] = {"kind": "distill", "teacher": {"kind": "self", "version": version, "rate": 0.5}}
    done = run(validate(DistillRecipe, Source(usual, {}, "the test")))
    assert done.rows[0]["train/loss/distill"] > 1e-3
    assert done.rows[0]["train/grad_norm"] > 0


def test_a_finished_run_is_not_done_again_and_a_stopped_one_goes_on(desk: SimpleNamespace, run: Any) -> None:
    made = recipe(desk, budget={"steps": 4}, stages=[{"kind": "select_tokens", "keep": 0.5}])
    usual = {"runtime": {"checkpoint_every": 1, "keep": 9}}
    whole = run(made, **usual)
    assert "already finished; nothing to do" in run(made, **usual).outcome.notes
    again = run(made, "again", **usual)
    (again.folder / "result.json").unlink()
    last = list_checkpoints(again.folder / "ckpt")[1]
    resumed = run(made, "again", resume=last, **usual)
    assert all(torch.equal(weights(resumed.folder)[k], x) for k, x in weights(whole.folder).items())
    for row in resumed.rows:
        assert row == whole.rows[resumed.rows.index(row)]


def test_the_identity_is_that_of_the_teachers_weights(desk: SimpleNamespace, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(desk.teacher, tmp_path / "moved"))
    usual, moved, other = (
        identity(recipe(desk, loss={"teacher": {"path": str(p)}})) for p in (desk.teacher, copy, desk.spare)
    )
    assert usual == moved
    assert usual != other


def test_what_it_costs_is_told_before(desk: SimpleNamespace) -> None:
    plain, chosen = recipe(desk), recipe(desk, stages=["select_tokens"])
    cheap, dear = (measures(r, Runtime()) for r in (plain, chosen))
    assert cheap["memory_bytes"] == dear["memory_bytes"]
    assert "steps        2: 2 batches of 4 x 2 responses" in described(plain, Runtime())


def test_the_tables_become_the_other_side_of_the_loss(desk: SimpleNamespace) -> None:
    sides = {}
    for version in ("start", "live", "average", "mixture"):
        found = Distill(teacher=SelfTeacher(version=version), divergence="jsd", beta=0.3, top_k=7).against
        assert found.before is not None
        assert (found.form.kind, found.form.beta, found.form.top_k) == ("jsd", 0.3, 7)
        sides[version] = found.by
    assert sides == {"start": "reference", "live": "policy", "average": "teacher", "mixture": "teacher"}
    cut = Distill(teacher=ModelTeacher(path="x"), top_k=7, top_of="teacher", tail=False).against.form
    assert (cut.top_k, cut.of, cut.tail) == (7, "teacher", False)
    assert Distill(teacher=ModelTeacher(path="x"), divergence="sampled").against.form.kind == "sampled"
    assert Distill(teacher=ModelTeacher(path="x")).against.by == "teacher"
    hinted = recipe(desk).model_dump(exclude_none=True) | {"task": {"kind": "chain_sum"}}
    hinted["loss"] = {"kind": "distill", "teacher": {"kind": "self"}}
    made = validate(DistillRecipe, Source(hinted, {}, "the test"))
    assert made.teacher is not None
    assert made.teacher.hint.text == "?{answer}="  # type: ignore[union-attr]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another tokenizer": ({"loss": {"teacher": {"path": "foreign"}}}, "policy and teacher have different vocabularies"),
    "no folder": ({"loss": {"teacher": {"path": "nowhere"}}}, "does not exist"),
    "no teacher of its own": ({"loss": {"teacher": {"kind": "task"}}}, "the task questions has no teacher of its own"),
    "an analytic policy that is too short": (
        {"loss": {"teacher": {"kind": "function", "object": "own_teacher:short"}}},
        "the teacher's 7",
    ),
    "nothing analytic": (
        {"loss": {"teacher": {"kind": "function", "object": "own_teacher:nothing"}}},
        "object is no analytic policy",
    ),
    "nothing of that name": (
        {"loss": {"teacher": {"kind": "function", "object": "own_teacher:who"}}},
        "cannot import 'own_teacher:who'",
    ),
    "a reference without an answer": (
        {"task": {"train": "gap"}, "loss": {"teacher": {"kind": "self"}}},
        "gap.jsonl|answer",
    ),
    "a reward that nobody gives": ({"stages": ["grpo"]}, "grpo reads the reward, and nothing grades"),
    "an advantage that nobody reads": ({"stages": ["grpo"], "reward": {}}, "nothing behind it reads"),
    "live and told nothing": (
        {"loss": {"teacher": {"kind": "self", "version": "live", "tell": "nothing"}}},
        "compared with itself",
    ),
    "a mixture of the policy alone": (
        {"loss": {"teacher": {"kind": "self", "version": "mixture", "rate": 1.0}}},
        'version = "live"',
    ),
    "a beat of what does not move": ({"loss": {"teacher": {"kind": "self", "every": 2}}}, "every is read only where"),
    "a cut of the whole vocabulary": ({"loss": {"tail": False}}, "there is no top_k"),
    "a cut of one token": ({"loss": {"divergence": "sampled", "top_k": 5}}, "leave top_k out"),
    "an end of jsd": ({"loss": {"divergence": "jsd", "beta": 1.0}}, "beta"),
    "no such divergence": ({"loss": {"divergence": "kl"}}, "divergence"),
    "a keep of 0": ({"stages": [{"kind": "select_tokens", "keep": 0.0}]}, "keep"),
    "no such rule": ({"stages": [{"kind": "select_tokens", "rule": "best"}]}, "rule"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_work_is_refused_before_anything_is_written(desk: SimpleNamespace, run: Any, name: str) -> None:
    tables, match = BAD[name]
    usual = recipe(desk).model_dump(exclude_none=True)
    teacher = tables.get("loss", {}).get("teacher")
    if teacher is not None:
        usual["loss"]["teacher"] = {}
    merge(usual, json.loads(json.dumps(tables)))
    if teacher is not None and "path" in teacher:
        usual["loss"]["teacher"]["path"] = str(getattr(desk, teacher["path"], desk.root / teacher["path"]))
    if "task" in tables:
        usual["task"]["train"] = str(getattr(desk, tables["task"]["train"]))

    def whole() -> None:
        made = validate(DistillRecipe, Source(usual, {}, "the test"))
        check(made)
        run(made)

    with pytest.raises(UserError, match=match):
        whole()


def test_without_a_teacher_it_says_how_to_give_one() -> None:
    with pytest.raises(UserError, match=r"loss\.teacher"):
        validate(DistillRecipe, Source({"model": {"path": "m"}, "task": {"train": "d"}}, {}, "the test"))


def answers(tmp_path: Path, **teacher: Any) -> dict[str, Any]:
    """Tables of a policy that draws 4, 5 and 6, right with 4, and learns from itself."""
    rows = [{"prompt": f"{i} + {4 - i} =", "answer": "4", "id": f"sum {i}"} for i in range(4)]
    return {
        "model": {"path": str(save_constant(tmp_path / "constant", {"4": 0.3, "5": 0.4, "6": 0.3}))},
        "task": {"train": str(write(tmp_path / "sums.jsonl", rows))},
        "reward": {"extract": {"kind": "whole"}, "compare": {"kind": "numeric"}},
        "rollout": {"max_new_tokens": 1, "samples": 3},
        "loss": {"teacher": {"kind": "self", "hint": {"text": " {answer}"}, **teacher}},
    }


@pytest.mark.parametrize("tell", ["sibling", "sibling_answer"])
@pytest.mark.parametrize("version", ["live", "average"])
def test_rows_without_a_sibling_that_was_right_count_nowhere(run: Any, tmp_path: Path, tell: str, version: str) -> None:
    table = {"budget": {"batch": 4, "steps": 2}, **answers(tmp_path, tell=tell, version=version)}
    done = run(validate(DistillRecipe, Source(table, {}, "the test")))
    steps = [r for r in done.rows if "train/tokens_trained" in r]
    assert len(steps) == 2
    assert all(0 <= r["train/tokens_trained"] < r["train/tokens_generated"] for r in steps)
    assert any(r["train/tokens_trained"] > 0 for r in steps)


SAYS = {"place": "after_prompt", "text": " {answer}", "feedback": " [{feedback}]", "both": " {answer} [{feedback}]"}


@pytest.mark.parametrize("version", ["live", "mixture"])
def test_wrong_responses_are_told_what_the_grader_said(run: Any, tmp_path: Path, version: str) -> None:
    """Every response is one token, so as many tokens are learnt from as there are wrong responses."""
    teacher = {"tell": "nothing", "feedback": "always", "version": version, "hint": SAYS}
    table = {"budget": {"batch": 4, "steps": 2}, **answers(tmp_path, **teacher)}
    done = run(validate(DistillRecipe, Source(table, {}, "the test")))
    steps = [r for r in done.rows if "train/tokens_trained" in r]
    assert len(steps) == 2
    for r in steps:
        assert r["train/tokens_trained"] == round((1 - r["train/accuracy"]) * 12) > 0


def test_feedback_adds_rows_where_no_sibling_was_right(run: Any, tmp_path: Path) -> None:
    trained = {}
    for said in ("never", "otherwise", "always"):
        teacher = {"tell": "sibling_answer", "feedback": said, "version": "live", "hint": SAYS}
        table = {"budget": {"batch": 4, "steps": 1}, **answers(tmp_path / said, **teacher)}
        done = run(validate(DistillRecipe, Source(table, {}, "the test")), said)
        trained[said] = done.rows[0]["train/tokens_trained"]
    assert trained["never"] < trained["otherwise"] == trained["always"] <= 12


def test_feedback_needs_a_grader_with_words(tmp_path: Path) -> None:
    table = {"budget": {"batch": 4, "steps": 2}, **answers(tmp_path, tell="nothing", feedback="always")}
    one = {**table, "rollout": {"samples": 1, "max_new_tokens": 1}}
    check_method(validate(DistillRecipe, Source(one, {}, "the test")))  # a response's own feedback needs no sibling
    bare = {k: v for k, v in table.items() if k != "reward"}
    with pytest.raises(UserError, match=r"(?s)feedback: tells what the grader said, and nothing gives 'feedback'"):
        check_method(validate(DistillRecipe, Source(bare, {}, "the test")))
    own = {**bare, "task": {"kind": "chain_sum"}, "rollout": {"samples": 2}}
    with pytest.raises(UserError, match="nothing gives 'feedback'"):
        check_method(validate(DistillRecipe, Source(own, {}, "the test")))
    for tell, match in (("answer", "never told, since the answer is always there"), ("nothing", "told always")):
        teacher = {"kind": "self", "tell": tell, "feedback": "otherwise"}
        with pytest.raises(UserError, match=match):
            validate(DistillRecipe, Source({**table, "loss": {"teacher": teacher}}, {}, "the test"))


def test_siblings_need_a_grader_and_more_than_one_response(tmp_path: Path) -> None:
    table = {"budget": {"batch": 4, "steps": 2}, **answers(tmp_path, tell="sibling")}
    one = {**table, "rollout": {"samples": 1}}
    with pytest.raises(UserError, match="tells another response to the prompt, and there is one"):
        check_method(validate(DistillRecipe, Source(one, {}, "the test")))
    bare = {k: v for k, v in table.items() if k != "reward"}
    with pytest.raises(UserError, match="tells correct responses, and nothing gives 'correct'"):
        check_method(validate(DistillRecipe, Source(bare, {}, "the test")))
    wrong = {**table, "loss": {"teacher": {"kind": "self", "behind": "</t>"}}}
    with pytest.raises(UserError, match="behind is read only where tell"):
        validate(DistillRecipe, Source(wrong, {}, "the test"))
