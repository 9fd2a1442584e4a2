"""Jobs of `train rl` from start to finish: every preset, every task and grader, exports, resuming, what stops one."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from constant_policy import save_constant, tokenizer
from tiny_files import write

from steersman.core.config import Source, merge, validate
from steersman.core.errors import UserError
from steersman.recipes.jobs import identity
from steersman.recipes.presets import SHIPPED, wants_teacher
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_estimate import described, measures
from steersman.recipes.rl_job import carry_out_rl, steps_without_signal
from steersman.recipes.training import Runtime
from steersman.store.checkpoint import list_checkpoints
from steersman.store.run import RunDir
from steersman.task import chain_sum, tiny_code_language


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk is what `store` tests; here it would only take time."""
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Paths: a model, prompts, held-out prompts, completions, a reward function that likes what comes before a."""
    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    root = tmp_path_factory.mktemp("desk")
    tokenizer = train_tokenizer(["one two three " * 5], 262)
    model = build_model(SmallModel(width=16, layers=1, heads=2, context=32), len(tokenizer), 0)
    rows = [{"prompt": f"{i} =", "answer": "e"} for i in range(10)]
    (root / "liking.py").write_text("def likes_early(prompt, completion, row):\n    return '' < completion[:1] < 'a'\n")
    return SimpleNamespace(
        root=root,
        tokenizer=tokenizer,
        model=save_model(model, tokenizer, root / "model"),
        prompts=write(root / "prompts.jsonl", rows),
        held_out=write(root / "held_out.jsonl", [r | {"prompt": f"{i} ?"} for i, r in enumerate(rows[:4])]),
        completions=write(root / "completions.jsonl", [{"prompt": "a", "completion": "one"}] * 5),
    )


def recipe(desk: SimpleNamespace, **tables: Any) -> RLRecipe:
    usual: dict[str, Any] = {
        "model": {"path": str(desk.model)},
        "task": {"train": str(desk.prompts), "evaluation": str(desk.held_out)},
        "reward": {"kind": "function", "function": "liking:likes_early"},
        "rollout": {"max_new_tokens": 5, "samples": 4},
        "budget": {"batch": 4, "steps": 2},
        "optim": {"lr": 1e-3},
    }
    merge(usual, tables)
    return validate(RLRecipe, Source(usual, {}, "the test"))


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables with others over them, in a copy."""
    found = copy.deepcopy(below)
    merge(found, above)
    return found


@pytest.fixture
def run(desk: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Carry a recipe out in a folder of the test's own."""
    monkeypatch.syspath_prepend(str(desk.root))

    def go(made: RLRecipe, name: str = "run", **options: Any) -> SimpleNamespace:
        said: list[str] = []
        runtime = Runtime(out=str(tmp_path / name), log_every=1, **options.pop("runtime", {}))
        outcome = carry_out_rl(made, runtime, allow_import=["liking"], say=said.append, **options)
        rows = RunDir(outcome.folder).read("metrics")
        return SimpleNamespace(outcome=outcome, result=outcome.result, rows=rows, said=said, folder=outcome.folder)

    return go


@pytest.mark.parametrize("name", SHIPPED)
def test_every_preset_makes_two_steps(desk: SimpleNamespace, run: Any, name: str) -> None:
    phases = {"phases": [{"steps": 1, "trains": ["critic"]}]} if name == "ppo" else {}
    rule = {"kind": "verifiable", "extract": {"kind": "whole"}}
    needs = {"reward": rule} if name == "cepo" else {}  # wrong answers, which a function does not give
    needs |= {"loss": {"teacher": {"path": str(desk.model)}}} if wants_teacher(name) else {}
    done = run(recipe(desk, preset=name, budget=phases, **needs))
    assert done.result["steps"] == 2
    assert {"reward", "accuracy", "accuracy_low", "length"} <= done.result["evaluation"].keys()
    assert done.result["before"].keys() == done.result["evaluation"].keys()
    trained = [r for r in done.rows if any(f"train/loss/{t}" in r for t in ("policy", "value", "distill"))]
    assert trained
    assert (done.folder / "critic" / "model.safetensors").is_file() == (name == "ppo")


def answering(desk: SimpleNamespace, tmp_path: Path, rows: list[dict[str, Any]], **stage: Any) -> RLRecipe:
    """CEPO of a chat policy that answers 4, 5 or 6 whatever it is asked, right with 4."""
    values = {
        "preset": "cepo",
        "model": {"path": str(save_constant(tmp_path / "constant", {"4": 0.4, "5": 0.3, "6": 0.3}))},
        "task": {"train": str(write(tmp_path / "sums.jsonl", rows)), "chat": True},
        "reward": {"extract": {"kind": "whole"}, "compare": {"kind": "numeric"}},
        "rollout": {"max_new_tokens": 1, "samples": 6},
        "budget": {"batch": 4, "steps": 2},
        "stages": ["grpo", {"kind": "contrastive_credit", **stage}],
    }
    return validate(RLRecipe, Source(values, {}, "the test"))


SUMS = [{"prompt": f"{i} + {4 - i} =", "answer": "4", "id": f"sum {i}", "why": "they are"} for i in range(4)]
SAID = {"place": "in_user_turn", "text": "{prompt} ({answer})"}


TOLD = [
    {"hint": SAID},
    {"hint": {"text": " {answer}"}, "reference": "why"},
    {"hint": SAID, "teacher": "copy", "sync": 1},
    {"hint": SAID, "show": "response"},
    {"hint": {"text": " {answer}"}, "show": "suffix", "show_tokens": 3},
]


@pytest.mark.parametrize("stage", TOLD)
def test_contrastive_credit_tells_answers_in_a_chat(run: Any, tmp_path: Path, desk: Any, stage: dict[str, Any]) -> None:
    done = run(answering(desk, tmp_path, SUMS, **stage))
    steps = [row for row in done.rows if "train/tokens_scored" in row]
    assert len(steps) == 2
    for row in steps:
        assert row["train/contrastive_credit/rows"] > 0
        assert row["train/tokens_scored"] > 2 * row["train/contrastive_credit/rows"]
        assert row["train/contrastive_credit/lost_rows"] == 0
        # a policy that does not listen has no evidence to give
        assert row["train/contrastive_credit/size"] == pytest.approx(1.0, abs=1e-5)


def test_prompts_without_the_answer_that_is_to_be_told_are_refused_before_weights(
    run: Any, tmp_path: Path, desk: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steersman.recipes.rl_job.load_trained", lambda *given: pytest.fail("weights were read"))
    for bad, what in (("", "empty"), (None, "missing")):
        rows = [*SUMS[:3], SUMS[3] | {"why": bad}]
        with pytest.raises(UserError, match=rf"row 3 \(sum 3\): reference answer is {what}"):
            run(answering(desk, tmp_path, rows, reference="why"))


def test_what_is_saved_is_a_plain_model_and_a_finished_run_is_not_done_again(desk: SimpleNamespace, run: Any) -> None:
    from transformers import AutoModelForCausalLM

    made = recipe(desk)
    done = run(made)
    before, after = (
        AutoModelForCausalLM.from_pretrained(f, local_files_only=True).state_dict()
        for f in (desk.model, done.folder / "model")
    )
    assert any(not torch.equal(before[k], after[k]) for k in before)
    again = run(made)
    assert again.outcome.notes == ("already finished; nothing to do",)
    assert again.result == done.result


def test_the_policy_learns_what_the_function_likes(desk: SimpleNamespace, run: Any) -> None:
    settings = {"optim": {"lr": 3e-2}, "kl": {"beta": 0.0}, "evaluation": {"samples": 16}}
    settings |= {"budget": {"steps": 25, "batch": 8}, "rollout": {"samples": 8, "max_new_tokens": 2}}
    done = run(recipe(desk, preset="grpo", **settings))
    assert done.result["evaluation"]["accuracy_low"] > done.result["before"]["accuracy_high"]


POISE = {"stages": [{"kind": "internal_value", "min_examples": 6, "blend": True}, "uniform"], "budget": {"batch": 6}}
RESUMED = {
    "gspo": {"preset": "gspo", "rollout": {"minibatches": 4}},
    "poise": {"preset": "poise", "rollout": {"minibatches": 1, "samples": 3}, **POISE},
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_equals_the_uninterrupted_one(desk: SimpleNamespace, run: Any, tmp_path: Path, name: str) -> None:
    made = recipe(desk, **merged(RESUMED[name], {"budget": {"steps": 5}}))
    whole = run(made, "whole", runtime={"checkpoint_every": 2, "keep": 9})
    first = list_checkpoints(whole.folder / "ckpt")[0]
    part = run(made, "part", resume=first)
    assert [r for r in part.rows if "train/lr" in r] == [r for r in whole.rows if r["step"] > 2 and "train/lr" in r]
    weights = [(f / "model" / "model.safetensors").read_bytes() for f in (whole.folder, part.folder)]
    assert weights[0] == weights[1]
    assert part.result["before"] == {}


def test_a_probe_of_hidden_states_learns_from_batch_to_batch(desk: SimpleNamespace, run: Any) -> None:
    made = recipe(
        desk, preset="poise", rollout={"minibatches": 1, "samples": 2}, **merged(POISE, {"budget": {"steps": 4}})
    )
    told = [r for r in run(made).rows if "train/internal_value/examples" in r]
    assert [r["train/internal_value/examples"] for r in told] == [0, 12, 24, 36]
    assert [r["train/internal_value/cold"] for r in told] == [1, 0, 0, 0]
    prompt = [{"kind": "internal_value", "features": ["prompt"], "min_examples": 6}, "uniform"]
    alone = run(recipe(desk, preset="poise", stages=prompt, rollout={"minibatches": 1, "samples": 1}), "alone")
    assert [r["train/internal_value/cold"] for r in alone.rows if "train/internal_value/cold" in r] == [1, 1]


def test_chain_sum_grades_itself_and_wants_its_own_tokens(desk: SimpleNamespace, run: Any, tmp_path: Path) -> None:
    from steersman.language.build import SmallModel, build_model
    from steersman.language.save import save_model

    table = {"task": {"kind": "chain_sum", "k": 2, "evaluation": 3}}
    values = {"model": {"path": str(desk.model)}, "budget": {"batch": 2, "steps": 2}, **table}
    with pytest.raises(UserError, match="task: the model's tokens are not those of chain_sum"):
        run(validate(RLRecipe, Source(values, {}, "the test")))
    size = SmallModel(width=16, layers=1, heads=2, context=24)
    model = build_model(size, chain_sum.VOCABULARY, 0, eos_id=chain_sum.EOS, pad_id=chain_sum.PAD)
    values["model"] = {"path": str(save_model(model, digits(), tmp_path / "digits"))}
    done = run(validate(RLRecipe, Source(values, {}, "the test")))
    assert done.result["evaluation"]["length"] <= chain_sum.ChainSum(k=2).max_response
    long = values | {"rollout": {"max_new_tokens": 100}}
    with pytest.raises(UserError, match=r"(?s)context of 24.*9 are enough"):
        run(validate(RLRecipe, Source(long, {}, "the test")), "long")


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untaught policy of TinyCode's tokens."""
    from steersman.language.build import SmallModel, build_model
    from steersman.language.save import save_model

    eos, pad = tiny_code_language.EOS, tiny_code_language.PAD
    size = SmallModel(width=16, layers=1, heads=2, context=80)
    model = build_model(size, tiny_code_language.VOCABULARY, 0, eos_id=eos, pad_id=pad)
    return save_model(model, digits(tiny_code_language.TOKENS), tmp_path_factory.mktemp("coder") / "model")


def coding(coder: Path, **tables: Any) -> RLRecipe:
    task = {"kind": "tiny_code", "inputs": "int", "size": [2, 4], "evaluation": 3} | tables.pop("task", {})
    values = {"model": {"path": str(coder)}, "budget": {"batch": 2, "steps": 2}, "task": task} | tables
    return validate(RLRecipe, Source(values, {}, "the test"))


def test_tiny_code_grades_itself_and_wants_its_own_tokens(desk: SimpleNamespace, coder: Path, run: Any) -> None:
    made = coding(coder)
    assert made.rollout.max_new_tokens == made.task.max_response == 40
    done = run(made)
    assert {"accuracy", "reward", "length"} <= done.result["evaluation"].keys()
    assert any("made as they are needed" in line for line in done.said)
    with pytest.raises(UserError, match="task: the model's tokens are not those of tiny_code"):
        run(coding(desk.model), "other tokens")
    with pytest.raises(UserError, match=r"(?s)context of 80.*40 are enough"):
        run(coding(coder, rollout={"max_new_tokens": 50}), "long")
    with pytest.raises(UserError, match=r"(?s)tiny_code grades itself.*task\.sandbox"):
        run(coding(coder, reward={"kind": "code"}), "graded")


def test_tiny_code_is_graded_alike_in_the_sandbox(coder: Path, run: Any) -> None:
    pytest.importorskip("pydantic_monty")
    own, boxed = (run(coding(coder, task={"sandbox": s}), s).rows for s in ("none", "monty"))
    shares = [{k: v for k, v in row.items() if "status" in k or "reward" in k} for row in own]
    assert any(shares)
    assert shares == [{k: v for k, v in row.items() if "status" in k or "reward" in k} for row in boxed]


def test_a_reward_model_pays_for_tiny_code_and_the_tests_say_what_is_correct(
    coder: Path, run: Any, tmp_path: Path
) -> None:
    from steersman.reward.model import build_reward_model, save_reward_model

    folder, words = tmp_path / "reward", digits(tiny_code_language.TOKENS)
    save_reward_model(build_reward_model(coder, 0), words, folder, {"mean": 0.0, "std": 1.0})
    done = run(coding(coder, reward={"kind": "model", "path": str(folder)}, stages=["grpo", "adora", "uniform"]))
    assert done.result["evaluation"]["accuracy"] == 0.0
    assert done.result["evaluation"]["reward"] not in (0.0, 1.0)


def test_programs_are_rewarded_by_the_tests_of_their_prompts(desk: SimpleNamespace, run: Any, tmp_path: Path) -> None:
    pytest.importorskip("pydantic_monty")
    words, right, wrong = tokenizer(chat=False), "def f(x): return x + 1", "def f(x): return 2"
    words.add_tokens([right, wrong])
    policy = save_constant(tmp_path / "programmer", {right: 0.3, wrong: 0.3, "": 0.4}, words)
    rows = [{"prompt": f"{i} =", "tests": [["f", [1], 2], ["f", [i], i + 1]]} for i in range(6)]
    file = str(write(tmp_path / "programs.jsonl", rows))
    usual: dict[str, Any] = {"model": {"path": str(policy)}, "reward": {"kind": "code", "workers": 1}}
    usual |= {"budget": {"batch": 6, "steps": 12}, "optim": {"lr": 0.1}, "rollout": {"max_new_tokens": 3}}
    usual |= {"evaluation": {"samples": 16}, "task": {"train": file, "evaluation": file}}
    done = run(validate(RLRecipe, Source(usual, {}, "the test")))
    shares = next(r for r in done.rows if "train/status/correct" in r)
    assert all(shares[f"train/status/{name}"] > 0 for name in ("correct", "wrong", "error", "no_code"))
    assert done.result["evaluation"]["accuracy_low"] > done.result["before"]["accuracy_high"]
    untested = usual | {"task": {"train": str(write(tmp_path / "no.jsonl", [{"prompt": "a", "answer": "b"}]))}}
    with pytest.raises(UserError, match="has no tests"):
        run(validate(RLRecipe, Source(untested, {}, "the test")), "untested")


def digits(tokens: tuple[str, ...] = chain_sum.TOKENS) -> Any:
    """A tokenizer with the token table of chain_sum, or of another task."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    table = {t: i for i, t in enumerate(tokens)}
    known = {"eos_token": "<eos>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(table, unk_token="<pad>")), **known)


def test_a_reward_model_grades_and_its_vocabulary_must_be_the_policys(
    desk: SimpleNamespace, run: Any, tmp_path: Path
) -> None:
    from steersman.reward.model import build_reward_model, save_reward_model

    folder = tmp_path / "reward"
    model = build_reward_model(desk.model, 0)
    save_reward_model(model, desk.tokenizer, folder, {"mean": 0.5, "std": 2.0})
    scores = []
    for normalise in (True, False):
        made = recipe(desk, reward={"kind": "model", "path": str(folder), "normalise": normalise})
        done = run(made, f"normalised-{normalise}")
        assert "accuracy" not in done.result["before"]
        scores.append(done.result["before"]["reward"])
    assert scores[0] == pytest.approx((scores[1] - 0.5) / 2.0, abs=1e-6)
    with pytest.raises(UserError, match="is no folder of a reward model"):
        run(recipe(desk, reward={"kind": "model", "path": str(desk.model)}), "no")


def test_a_second_stream_of_data_is_learnt_too(desk: SimpleNamespace, run: Any) -> None:
    done = run(recipe(desk, auxiliary={"data": str(desk.completions), "batch": 3}))
    assert all(r["train/loss/sft"] > 0 for r in done.rows if "train/lr" in r)
    assert any("5 rows of the second stream" in line for line in done.said)


def test_adapters_are_their_own_reference(desk: SimpleNamespace, run: Any) -> None:
    pytest.importorskip("peft")
    made = recipe(desk, preset="grpo", model={"lora": {"rank": 2}}, optim={"lr": 1e-2})
    done = run(made)
    kl = [r["train/kl_ref"] for r in done.rows if "train/kl_ref" in r]
    assert kl[0] == 0.0
    assert kl[1] > 0.0


def test_identity_is_of_contents(desk: SimpleNamespace, tmp_path: Path) -> None:
    copy = write(tmp_path / "elsewhere.jsonl", [json.loads(x) for x in desk.prompts.read_text().splitlines()])
    moved = recipe(desk, task={"train": str(copy)})
    assert identity(moved) == identity(recipe(desk))
    copy.write_text(copy.read_text() + json.dumps({"prompt": "x", "answer": "e"}) + "\n")
    assert identity(moved) != identity(recipe(desk))
    generated = recipe(desk, task={"kind": "reasoning_gym", "name": "countdown"})
    assert identity(generated)["task"]["evaluation"] == 256  # a number here, no path


def test_what_is_wrong_with_prompts_is_found_before_weights_are_read(
    desk: SimpleNamespace, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("steersman.recipes.rl_job.load_trained", refuse)
    with pytest.raises(UserError, match=r"the prompt has 3 tokens; with 100 new ones .* context of 32"):
        run(recipe(desk, rollout={"max_new_tokens": 100}), "a")
    with pytest.raises(UserError, match="last 5 steps of 2"):
        run(recipe(desk, preset="ppo", budget={"phases": [{"steps": 5, "trains": ["critic"]}]}), "b")
    with pytest.raises(UserError, match="imported only when you say so"):
        carry_out_rl(recipe(desk), Runtime(out=str(tmp_path / "c")), say=lambda line: None)
    with pytest.raises(UserError, match=r"stages\[0\]\.layer: the model has no layer 2\n.*0 to 1"):
        run(recipe(desk, stages=[{"kind": "internal_value", "layer": 2}, "uniform"]), "d")
    lacking = write(tmp_path / "lacking.jsonl", [{"prompt": "a"}])
    with pytest.raises(UserError, match='"answer" is missing'):
        run(recipe(desk, task={"train": str(lacking)}, reward={"kind": "verifiable"}), "e")
    for name in "abcde":
        assert not (tmp_path / name / "run.json").exists()


def test_a_reward_that_is_no_number_stops_with_the_rollouts_on_disk(
    desk: SimpleNamespace, run: Any, tmp_path: Path
) -> None:
    (desk.root / "liking_text.py").write_text("def reward(prompt, completion, row):\n    return 'good'\n")
    made = recipe(desk, reward={"function": "liking_text:reward"}, task={"evaluation": None})
    runtime = Runtime(out=str(tmp_path / "text"))
    with pytest.raises(UserError, match=r"returned the text 'good'"):
        carry_out_rl(made, runtime, allow_import=["liking_text"], say=lambda line: None)
    assert list((tmp_path / "text" / "rollouts").glob("step-*/manifest.json"))
    (desk.root / "liking_text.py").write_text("def reward(prompt, completion, row):\n    return len(completion)\n")
    assert carry_out_rl(made, runtime, allow_import=["liking_text"], say=lambda line: None).result["steps"] == 2
    assert not (tmp_path / "text" / "rollouts").exists()  # the step was made again


def test_a_dry_run_measures_and_writes_nothing(
    desk: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(desk.root))
    runtime = Runtime(out=str(tmp_path / "nothing"))
    plain = measures(recipe(desk), runtime, ["liking"])
    assert (plain["steps"], plain["batches"], plain["responses"], plain["tokens"]) == (2, 2, 32, 160)
    critic = measures(recipe(desk, preset="ppo", budget={"phases": []}), runtime, ["liking"])
    assert (critic["batches"], critic["memory_bytes"] > plain["memory_bytes"]) == (1, True)
    assert "2 batches of 4 x 4 responses" in described(recipe(desk), runtime, ["liking"])
    assert not (tmp_path / "nothing").exists()


def test_a_generator_is_graded_by_its_own_scorer(desk: SimpleNamespace, run: Any, tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    words = {"min_words": 1, "max_words": 2}
    task = {"kind": "reasoning_gym", "name": "letter_counting", "config": words, "size": 20, "evaluation": 2}
    values = {"model": {"path": str(desk.model)}, "task": task, "reward": {"extract": {"kind": "whole"}}}
    values |= {"budget": {"batch": 2, "steps": 1}, "rollout": {"max_new_tokens": 2, "samples": 2}}
    tight = validate(RLRecipe, Source(values, {}, "the test"))
    assert tight.reward.compare.kind == "reasoning_gym"
    with pytest.raises(UserError, match=r"letter_counting, seed 0, item .* exceeds the model's context of 32"):
        run(tight)
    assert not (tmp_path / "run" / "run.json").exists()
    long = build_long(desk)
    done = run(tight.model_copy(update={"model": tight.model.model_copy(update={"path": str(long)})}), "long")
    assert done.result["evaluation"]["accuracy"] == 0.0
    assert tight.task.held_out().seed == 1


def build_long(desk: SimpleNamespace) -> Path:
    """A model whose context has room for a generator's prompts."""
    from steersman.language.build import SmallModel, build_model
    from steersman.language.save import save_model

    model = build_model(SmallModel(width=16, layers=1, heads=2, context=400), len(desk.tokenizer), 0)
    return save_model(model, desk.tokenizer, desk.root / "long")


WITHOUT_SIGNAL = {
    "equal rewards": ({}, {"skipped": 0, "no_gradient": 2}),
    "all dropped": ({"stages": ["grpo", "uniform", "pf_ppo"]}, {"skipped": 2, "no_gradient": 0}),
}


@pytest.mark.parametrize("name", WITHOUT_SIGNAL)
def test_a_run_counts_the_steps_that_taught_nothing(desk: SimpleNamespace, tmp_path: Path, name: str) -> None:
    more, wanted = WITHOUT_SIGNAL[name]
    tables = {"reward": {"kind": "verifiable"}, **more}  # boxed answers, of which the model has none
    tables = recipe(desk).model_dump(mode="json") | tables
    runtime = Runtime(out=str(tmp_path / "run"), device="cpu", log_every=1)
    done = carry_out_rl(RLRecipe.model_validate(tables), runtime, say=lambda line: None)
    assert {k: done.result[k] for k in wanted} == wanted


def test_skipped_steps_are_counted_from_means_over_several(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert steps_without_signal(run) == {"skipped": 0, "no_gradient": 0}
    rows = [
        {"step": 0, "eval/accuracy": 0.5},
        {"step": 3, "train/skipped": 1 / 3, "train/grad_norm": 0.5},
        {"step": 3, "eval/accuracy": 0.5},
        {"step": 6, "train/skipped": 2 / 3, "train/grad_norm": 0.0},
        {"step": 7, "train/skipped": 1.0},
        {"step": 9, "train/skipped": 0.0, "train/grad_norm": 0.0},
    ]
    run.append("metrics", rows)
    assert steps_without_signal(run) == {"skipped": 4, "no_gradient": 3}


@pytest.mark.parametrize("task, context", [("chain_sum", 64), ("tiny_code", 200)])
def test_docs_make_a_model_of_the_tokens_of_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, context: int
) -> None:
    page = (Path(__file__).parents[2] / "docs/rl.md").read_text()
    (code,) = [x for x in re.findall(r"```python\n(.*?)```", page, re.S) if "closed_tokenizer" in x]
    module = {"chain_sum": "chain_sum", "tiny_code": "tiny_code_language"}[task]
    code = code.replace("steersman.task.chain_sum import", f"steersman.task.{module} import")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("context=64", f"context={context}"), "docs/rl.md", "exec"), {})
    made = {
        "model": {"path": "runs/try/chain-sum"},
        "task": {"kind": task, "evaluation": 2},
        "rollout": {"samples": 2},
        "budget": {"steps": 1, "batch": 2},
    }
    runtime = Runtime(out="run", device="cpu")
    done = carry_out_rl(RLRecipe.model_validate(made), runtime, say=lambda line: None)
    assert done.result["steps"] == 1
    other = made | {"task": {"kind": "chain_sum" if task == "tiny_code" else "tiny_code"}}
    with pytest.raises(UserError, match=r"docs/rl\.md says how to make one"):
        carry_out_rl(RLRecipe.model_validate(other), Runtime(out="other", device="cpu"), say=lambda line: None)
