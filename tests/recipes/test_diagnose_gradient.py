"""`diagnose gradient` from start to finish: the same figures again, what each estimator is, the command, refusals."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_files import write

from steersman.cli import main
from steersman.core.errors import UserError
from steersman.recipes.diagnose_gradient import GradientQuestion, diagnose_gradient

HALF = 'half=[{kind="baseline",value=0.5},"uniform"]'
SAME = 1e-5
"""Of figures that follow from the same gradients, cut into other micro-batches, in float32."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model that has learnt nothing, prompts, and a function that likes what comes before a."""
    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    root = tmp_path_factory.mktemp("desk")
    tokenizer = train_tokenizer(["one two three " * 5], 262)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=32), len(tokenizer), 0)
    (root / "likes.py").write_text("def early(prompt, completion, row):\n    return '' < completion[:1] < 'a'\n")
    rows = [{"prompt": f"{i} =", "answer": "e"} for i in range(10)]
    return SimpleNamespace(
        root=root, model=save_model(model, tokenizer, root / "model"), prompts=write(root / "prompts.jsonl", rows)
    )


@pytest.fixture
def asked(desk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(desk.root))

    def question(**changes: Any) -> GradientQuestion:
        usual: dict[str, Any] = {"max_new_tokens": 3, "reward": "likes:early", "allow_import": ("likes",)}
        usual |= {"estimators": ("rloo", HALF), "shapes": ("4x3",), "batches": 5, "reference_batches": 6, "warmup": 0}
        return GradientQuestion(desk.model, str(desk.prompts), **(usual | changes))

    return question


def values(found: dict[str, Any], name: str) -> list[float]:
    return [r[name]["value"] for r in found["estimators"]]


def test_two_shapes_and_the_same_again(asked: Any) -> None:
    said: list[str] = []
    found = diagnose_gradient(asked(shapes=("4x3", "6x2")), said.append).summary
    order = [(r["estimator"], r["prompts"], r["samples"]) for r in found["estimators"]]
    assert order == [("rloo", 4, 3), ("half", 4, 3), ("rloo", 6, 2), ("half", 6, 2)]
    assert said[-2:] == ["drawing 10 batches of responses of at most 3 tokens", "drawing 6 batches for the reference"]
    assert all(x > 0 for x in values(found, "spread"))
    assert 0 < found["reliability"] < 1
    again = diagnose_gradient(asked(shapes=("4x3", "6x2"), micro_tokens=20)).summary
    for name in ("spread", "cosine"):
        assert values(again, name) == pytest.approx(values(found, name), rel=SAME, abs=SAME)
    other = diagnose_gradient(asked(shapes=("4x3", "6x2"), seed=1)).summary
    assert values(other, "spread") != pytest.approx(values(found, "spread"), rel=0.01)


def test_estimators_of_one_shape_see_the_same_rollouts(asked: Any) -> None:
    """RLOO is the group mean's advantage times m / (m - 1): the same direction, another length."""
    centred = 'centred=[{kind="grpo",scale="none"},"uniform"]'
    rloo, mean = diagnose_gradient(asked(estimators=("rloo=['rloo','uniform']", centred))).found.rows
    assert mean.found.spread.value == pytest.approx(rloo.found.spread.value * (2 / 3) ** 2, rel=SAME)
    assert mean.found.cosine.value == pytest.approx(rloo.found.cosine.value, rel=SAME)
    assert mean.found.length.value == pytest.approx(rloo.found.length.value * 2 / 3, rel=SAME)


def test_the_penalty_of_a_preset_is_nothing_where_training_begins(asked: Any) -> None:
    """The preset rloo has a KL penalty in its reward, and the policy is its own reference."""
    preset, plain = diagnose_gradient(asked(estimators=("rloo", "plain=['rloo','uniform']"))).found.rows
    assert preset.found.spread.value == pytest.approx(plain.found.spread.value, rel=SAME)


def test_a_memory_is_filled_before_and_not_in_between(asked: Any) -> None:
    """A probe that has seen nothing has the mean of other prompts as its baseline, one that has seen some has not."""
    stage = '{kind="internal_value",min_examples=8,features=["prompt"]}'
    estimators = (f"probe=[{stage},'uniform']", "rloo")
    cold, warm = (diagnose_gradient(asked(estimators=estimators, warmup=w)).found.rows[0].found for w in (0, 3))
    assert cold.spread.value != pytest.approx(warm.spread.value, rel=0.01)
    twice = diagnose_gradient(asked(estimators=(estimators[0], f"again=[{stage},'uniform']"), warmup=3)).found.rows
    assert twice[0].found.spread.value == pytest.approx(twice[1].found.spread.value, rel=SAME)


@pytest.mark.parametrize("name", ["grpo", "dapo", "poise", "cispo", "pf_ppo_adora_d3s", "reinforce_pp"])
def test_presets(asked: Any, name: str) -> None:
    found = diagnose_gradient(asked(estimators=(name,), batches=3, reference_batches=3, warmup=1)).found
    assert [r.estimator for r in found.rows] == [name]


def test_single_responses_are_held_against_no_baseline(asked: Any) -> None:
    none = 'none=[{kind="baseline",value=0},"uniform"]'
    found = diagnose_gradient(asked(estimators=(none,), shapes=("12x1",), batches=12, reference_batches=12)).found
    length = found.rows[0].found.length
    assert length.contains(1.0)


def test_the_command(desk: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(str(desk.root))
    out = tmp_path / "found"
    words = ["diagnose", "gradient", "--model", str(desk.model), "--task", str(desk.prompts), "--max-new-tokens", "3"]
    words += ["--reward", "likes:early", "--allow-import", "likes", "--batches", "8", "--reference-batches", "8"]
    words += ["--estimator", "grpo", "--estimator", HALF, "--batch", "4x3", "--out", str(out)]
    assert main.run(words) == 0
    printed = capsys.readouterr().out
    assert "half" in printed
    assert "4 x 3" in printed
    assert all(len(line) <= 100 for line in printed.splitlines() if str(out) not in line)
    stored = json.loads((out / "gradient.json").read_text())
    assert stored["batches"] == 8
    page = (out / "report.html").read_text()
    assert "<!doctype html>" in page
    assert page.count("<svg") >= 5
    assert main.run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimators"] == stored["estimators"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"estimators": ("grppo",)}, "'grppo' is not known(.|\n)*Did you mean grpo"),
        ({"estimators": ("ppo",)}, "--estimator ppo: needs a critic"),
        ({"estimators": ("opd",)}, "'opd' is not known"),
        ({"estimators": ("x=[",)}, "--estimator x: stages cannot be read"),
        ({"estimators": ("x=['uniform']",)}, "--estimator x on 4 x 3, stages"),
        ({"estimators": ("x=[{kind='baseline',valu=1}]",)}, "valu"),
        ({"estimators": ("rloo", "rloo")}, "rloo comes twice"),
        ({"estimators": ()}, "--estimator: nothing to compare"),
        ({"estimators": ("poise",), "shapes": ("8x1",)}, "--estimator poise on 8 x 1(.|\n)*--batch 8x2, or read"),
        ({"estimators": ("grpo",), "shapes": ("6x1",)}, "--estimator grpo on 6 x 1(.|\n)*--batch 6x2, or take"),
        ({"shapes": ("8",)}, "--batch: is '8'"),
        ({"shapes": ("0x4",)}, "--batch: is '0x4'"),
        ({"batches": 2}, "--batches: is 2"),
        ({"reference_batches": 2}, "--reference-batches: is 2"),
        ({"warmup": -1}, "--warmup: is -1"),
        ({"temperature": 0.0}, "--temperature: is 0.0"),
        ({"task": "nowhere.jsonl"}, "does not exist"),
    ],
)
def test_refused_before_anything_is_loaded(asked: Any, changes: dict[str, Any], match: str) -> None:
    said: list[str] = []
    known = {"task": changes.pop("task")} if "task" in changes else {}
    question = asked(**changes)
    if known:
        question = GradientQuestion(question.model, known["task"])
    with pytest.raises(UserError, match=match):
        diagnose_gradient(question, said.append)
    assert not any("loading" in line for line in said)


def test_rewards_without_a_signal_say_so(desk: SimpleNamespace, asked: Any) -> None:
    (desk.root / "dull.py").write_text("def same(prompt, completion, row):\n    return 1.0\n")
    with pytest.raises(UserError, match="no batch of the reference has a gradient"):
        diagnose_gradient(asked(reward="dull:same", allow_import=("dull",)))
