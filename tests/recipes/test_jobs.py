"""Jobs from start to finish: identity, corrected recipes, finished runs, exports, what stops one before it starts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_files import write

from steersman.core.errors import RunStopped, UserError
from steersman.recipes.jobs import carry_out, identity, output_folder
from steersman.recipes.training import RECIPES, Recipe, Runtime
from steersman.store.files import canonical


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk is what `store` tests; here it would only take time."""
    monkeypatch.setattr("steersman.store.files.os.fsync", lambda _: None)


def recipe(shop: SimpleNamespace, verb: str = "preference", train: Path | None = None, **known: Any) -> Recipe:
    usual = {"sft": shop.completions, "reward": shop.pairs, "preference": shop.pairs}[verb]
    model = {"path": str(shop.model), **known.pop("model", {})}
    data = {"train": str(train or usual), **known.pop("data", {})}
    budget = {"steps": 2, "batch": 4, **known.pop("budget", {})}
    return RECIPES[verb].model_validate({"model": model, "data": data, "budget": budget, **known})


_APART = {"rank": 2, "merge": False}


def quiet(line: str) -> None:
    """Say nothing."""


def test_identity_is_of_contents_and_not_of_places(shop: SimpleNamespace, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.jsonl"
    copy.write_bytes(shop.pairs.read_bytes())
    assert identity(recipe(shop)) == identity(recipe(shop, train=copy))
    copy.write_text(copy.read_text() + copy.read_text().splitlines()[0] + "\n")
    assert identity(recipe(shop)) != identity(recipe(shop, train=copy))
    assert output_folder(recipe(shop), Runtime()).name.startswith("preference-")
    with pytest.raises(UserError, match="does not exist"):
        identity(recipe(shop, train=tmp_path / "nowhere.jsonl"))


@pytest.mark.parametrize(
    ("verb", "lora"),
    [(v, a) for v in RECIPES for a in (None, {"rank": 2}, _APART) if v != "reward" or a != _APART],
)
def test_every_verb_exports_what_plain_transformers_loads(
    shop: SimpleNamespace, tmp_path: Path, verb: str, lora: dict[str, Any] | None
) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    settings = {"model": {"lora": lora, "activation_checkpointing": True}} if lora else {}
    job = recipe(shop, verb, data={"evaluation": str(shop.pairs if verb != "sft" else shop.completions)}, **settings)
    outcome = carry_out(job, Runtime(out=str(tmp_path / "run")), say=quiet)
    folder = outcome.folder / "model"
    assert outcome.result["steps"] == 2
    assert outcome.result["evaluation"]["loss"] > 0
    if verb == "reward":
        found: Any = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        assert found.config.num_labels == 1
        assert outcome.result["report_on"] == "held-out pairs"
    elif lora and not lora.get("merge", True):
        assert (folder / "adapter_model.safetensors").is_file()
        return
    else:
        found = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert all(bool(p.isfinite().all()) for p in found.parameters())
    again = carry_out(job, Runtime(out=str(tmp_path / "run")), say=quiet)
    assert again.notes == ("already finished; nothing to do",)
    assert canonical(dict(again.result)) == canonical(dict(outcome.result))  # as texts: NaN equals NaN


def test_bfloat16_changes_the_arithmetic_but_not_the_parameters_type(shop: SimpleNamespace, tmp_path: Path) -> None:
    results = []
    for precision in ("float32", "bfloat16"):
        job = recipe(shop, "sft", model={"precision": precision}, data={"evaluation": str(shop.completions)})
        outcome = carry_out(job, Runtime(out=str(tmp_path / precision)), say=quiet)
        results.append(outcome.result["evaluation"]["loss"])
    assert results[0] != results[1]
    assert results[0] == pytest.approx(results[1], rel=0.02)
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "bfloat16" / "model" / "model.safetensors")
    assert {x.dtype for x in weights.values()} == {torch.float32}


def test_a_corrected_recipe_may_use_the_folder_of_one_that_failed_before_training(
    shop: SimpleNamespace, tmp_path: Path
) -> None:
    runtime = Runtime(out=str(tmp_path / "run"))
    with pytest.raises(UserError, match=r"budget\.best"):
        carry_out(recipe(shop, budget={"best": "acuracy"}, data={"evaluation": str(shop.pairs)}), runtime, say=quiet)
    assert (tmp_path / "run" / "run.json").is_file()
    assert carry_out(recipe(shop), runtime, say=quiet).result["steps"] == 2
    with pytest.raises(UserError, match="holds another run"):
        carry_out(recipe(shop, budget={"seed": 1}), runtime, say=quiet)
    assert carry_out(recipe(shop), runtime, say=quiet).notes == ("already finished; nothing to do",)


def test_a_folder_that_is_not_ours_is_never_emptied(shop: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"study": "someone\'s"}')
    with pytest.raises(UserError, match="holds another run"):
        carry_out(recipe(shop), Runtime(out=str(tmp_path)), say=quiet)
    assert (tmp_path / "run.json").read_text() == '{"study": "someone\'s"}'


def test_divergence_stops_and_keeps_the_checkpoint(shop: SimpleNamespace, tmp_path: Path) -> None:
    job = recipe(shop, budget={"steps": 200, "limits": {"margin": 5.0}}, optim={"lr": 0.05}, loss={"kind": "dpo"})
    runtime = Runtime(out=str(tmp_path / "run"), log_every=1)
    outcome = carry_out(job, runtime, say=quiet)
    assert outcome.result["reason"].startswith("diverged: margin = ")
    assert outcome.result["steps"] < 200
    stopped = outcome.result["steps"]
    assert (tmp_path / "run" / "ckpt" / f"step-{stopped:08d}" / "manifest.json").is_file()
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_nan_stops_the_run_and_the_last_checkpoint_stays(shop: SimpleNamespace, tmp_path: Path) -> None:
    job = recipe(shop, "sft", budget={"steps": 9}, optim={"lr": 10.0, "clip": 0.0, "eps": 1e-30, "weight_decay": 1e30})
    with pytest.raises(RunStopped, match="The last checkpoint is still good"):
        carry_out(job, Runtime(out=str(tmp_path / "run"), log_every=1, checkpoint_every=1), say=quiet)
    assert not (tmp_path / "run" / "result.json").exists()


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "reference that is not used": ("sft", {"model": {"reference": "MODEL"}}, "a reference is not used by sft"),
    "reward auto": (
        "reward",
        {"loss": {"kind": "bradley_terry", "correction": "forward", "flip_rate": "auto"}},
        "steersman train preference --loss rdpo --flip-rate auto",
    ),
    "lora target": ("preference", {"model": {"lora": {"targets": ["nope"]}}}, "'nope' names no linear layer"),
    "reward adapters apart": ("reward", {"model": {"lora": {"merge": False}}}, "always written merged"),
    "cuda": ("sft", {}, "'cuda' is not available here"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused_before_training(shop: SimpleNamespace, tmp_path: Path, name: str) -> None:
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    verb, known, message = CASES[name]
    known = {k: {n: str(shop.model) if v == "MODEL" else v for n, v in t.items()} for k, t in known.items()}
    runtime = Runtime(out=str(tmp_path / "run"), device="cuda" if name == "cuda" else "auto")
    with pytest.raises(UserError, match=message):
        carry_out(recipe(shop, verb, **known), runtime, say=quiet)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("verb", "loss", "rows", "message"),
    [
        (
            "preference",
            {"kind": "dpo"},
            [{"flip_rate": 0.1}] * 12,
            "dpo takes no flip rate, but the pairs carry one each",
        ),
        ("reward", {}, [{"flip_rate": 0.1}] * 12, "bradley_terry takes no flip rate"),
        (
            "preference",
            {},
            [{"flip_rate": 0.1}] * 5 + [{}] * 7,
            "line 6: flip_rate is missing while",
        ),
        ("preference", {"kind": "rdpo", "flip_rate": "auto"}, [{}] * 9, "9 pairs are too few"),
    ],
)
def test_settings_and_columns_that_do_not_go_together(
    shop: SimpleNamespace, tmp_path: Path, verb: str, loss: dict[str, Any], rows: list[dict[str, Any]], message: str
) -> None:
    data = write(tmp_path / "p.jsonl", [a | b for a, b in zip(shop.rows, rows, strict=False)])
    job = recipe(shop, verb, data, **({"loss": loss} if loss else {}))
    with pytest.raises(UserError, match=message):
        carry_out(job, Runtime(out=str(tmp_path / "run")), say=quiet)
    assert not (tmp_path / "run" / "run.json").exists()


def test_kto_with_one_prompt_is_refused(shop: SimpleNamespace, tmp_path: Path) -> None:
    data = write(tmp_path / "k.jsonl", [{"prompt": "p", "completion": str(i), "label": True} for i in range(3)])
    with pytest.raises(UserError, match="two different prompts"):
        carry_out(recipe(shop, train=data, loss={"kind": "kto"}), Runtime(out=str(tmp_path / "run")), say=quiet)


def test_a_corrected_recipe_uses_nothing_kept_for_the_failed_one(shop: SimpleNamespace, tmp_path: Path) -> None:
    other = write(tmp_path / "p.jsonl", [r | {"rejected": f"a very bad film {i}"} for i, r in enumerate(shop.rows)])
    with pytest.raises(UserError, match=r"budget\.best"):
        carry_out(recipe(shop, budget={"best": "x"}), Runtime(out=str(tmp_path / "run")), say=quiet)
    assert (tmp_path / "run" / "reference").is_dir()
    for name in ("run", "fresh"):
        carry_out(recipe(shop, train=other), Runtime(out=str(tmp_path / name)), say=quiet)
    for name in ("metrics.jsonl", "result.json", "model/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_the_seed_draws_the_head_of_a_reward_model_and_adapters(shop: SimpleNamespace) -> None:
    from steersman.recipes.jobs import load_trained
    from steersman.train.parameters import trainable_state

    for verb, known in (("reward", {}), ("sft", {"model": {"lora": {"rank": 2}}})):
        states = [
            trainable_state(load_trained(recipe(shop, verb, budget={"seed": seed}, **known), torch.device("cpu")))
            for seed in (0, 1, 1)
        ]
        drawn = [n for n in states[0] if "score" in n or "lora_A" in n]
        assert drawn
        assert not any(torch.equal(states[0][n], states[1][n]) for n in drawn)
        assert all(torch.equal(states[1][n], states[2][n]) for n in drawn)
