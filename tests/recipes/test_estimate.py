"""What a dry run says: it refuses what the job would refuse, counts by hand, and writes nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.core.errors import UserError
from steersman.recipes.estimate import duration, estimate, measures
from steersman.recipes.training import RECIPES, Runtime


def recipe(shop: SimpleNamespace, verb: str, **known: Any) -> Any:
    model = {"path": str(shop.model), **known.pop("model", {})}
    train = shop.completions if verb == "sft" else shop.pairs
    return RECIPES[verb].model_validate({"model": model, "data": {"train": str(train)}, **known})


def test_counts_by_hand_and_nothing_is_written(
    shop: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = recipe(shop, "sft", budget={"epochs": 3, "batch": 4})
    found = measures(job, Runtime())
    lengths = [len(r["prompt"]) + len(r["chosen"]) + 1 for r in shop.rows]
    assert found["steps"] == 9
    assert found["passes"] == 3
    assert found["tokens"] <= 3 * sum(lengths)  # bytes at most; the tokenizer joins some
    per_layer = 4 * 16 * 16 + 3 * 16 * 48 + 2 * 16
    assert found["parameters"] == found["trained"] == 262 * 16 + per_layer + 16
    assert found["seconds"] > 0
    text = estimate(job, Runtime())
    for word in (
        "steps        9 of 4 rows",
        "parameters   ",
        "time         under a second, within a factor",
        "memory       about",
        "[model]",
    ):
        assert word in text
    assert list(tmp_path.iterdir()) == []


def test_lora_parameters_are_those_that_lora_has(shop: SimpleNamespace) -> None:
    from steersman.language.load import load_model
    from steersman.train.lora import add_lora
    from steersman.train.parameters import trainable_state

    for targets in ("all-linear", ["q_proj", "down_proj"]):
        model = add_lora(load_model(shop.model), 4, 8.0, targets, 0)
        job = recipe(shop, "preference", model={"lora": {"rank": 4, "targets": targets}})
        assert measures(job, Runtime())["trained"] == sum(p.numel() for p in trainable_state(model).values())


def test_it_refuses_what_the_job_would_refuse(shop: SimpleNamespace, tmp_path: Path) -> None:
    for job, message in (
        (recipe(shop, "preference", model={"lora": {"targets": ["nope"]}}), "names no linear layer"),
        (recipe(shop, "sft", model={"reference": str(shop.model)}), "not used by sft"),
        (recipe(shop, "sft", model={"path": str(tmp_path)}), "has no config"),
        (recipe(shop, "preference", model={"reference": str(tmp_path)}), "has no config"),
    ):
        with pytest.raises(UserError, match=message):
            estimate(job, Runtime())


def test_times_for_people() -> None:
    told = {0.004: "under a second", 2.4: "about 2 s", 89.0: "about 89 s", 600.0: "about 10 min", 7200.0: "about 2.0 h"}
    assert {s: duration(s) for s in told} == told
