"""From a recipe to a learner: reference log-probs kept and healed, flip rates of the file, prompts on request."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_files import write

from steersman.language.build import SmallModel, build_model
from steersman.language.load import load_model, load_tokenizer
from steersman.language.save import save_model
from steersman.objective.components import RDPO
from steersman.recipes.data import read_data
from steersman.recipes.learners import Bench
from steersman.recipes.training import RECIPES, Runtime
from steersman.reward.model import build_reward_model
from steersman.store.checkpoint import latest_checkpoint
from steersman.store.run import RunDir
from steersman.train.preference import summed_logp


def bench(shop: SimpleNamespace, path: Path, verb: str, train: Path, said: list[str], **known: Any) -> Bench:
    model = {"path": str(shop.model), **known.pop("model", {})}
    data = {"train": str(train), **known.pop("data", {})}
    recipe = RECIPES[verb].model_validate({"model": model, "data": data, **known})
    tokenizer = load_tokenizer(shop.model)
    loaded = build_reward_model(shop.model, 0) if verb == "reward" else load_model(shop.model)
    found = read_data(recipe, tokenizer, 64)
    cpu = torch.device("cpu")
    return Bench(recipe, Runtime(), RunDir(path), loaded, tokenizer, found, cpu, said.append)


def test_reference_log_probs_are_kept_and_a_damaged_file_is_computed_again(shop, tmp_path: Path) -> None:
    said: list[str] = []
    expected = bench(shop, tmp_path, "preference", shop.pairs, said).learner()
    first = [x.clone() for x in expected.reference]
    assert torch.equal(first[0], summed_logp(expected.model, expected.pairs.first, 4096))
    assert sum("reference log-probs" in s for s in said) == 1
    bench(shop, tmp_path, "preference", shop.pairs, said).learner()
    assert sum("reference log-probs" in s for s in said) == 1
    kept = latest_checkpoint(tmp_path / "reference" / "train")
    assert kept is not None
    (kept / "tensors.safetensors").write_bytes((kept / "tensors.safetensors").read_bytes()[:-1])
    again = bench(shop, tmp_path, "preference", shop.pairs, said).learner()
    assert any("computed again" in s for s in said)
    assert all(torch.equal(a, b) for a, b in zip(again.reference, first, strict=True))


def test_another_reference_model_is_the_one_that_is_scored(shop, tmp_path: Path) -> None:
    other = build_model(SmallModel(width=16, layers=1, heads=2, context=64), 262, 9)
    folder = save_model(other, load_tokenizer(shop.model), tmp_path / "other")
    it = bench(shop, tmp_path / "run", "preference", shop.pairs, [], model={"reference": str(folder)}).learner()
    assert torch.equal(it.reference[0], summed_logp(other, it.pairs.first, 4096))


def test_flip_rates_of_the_file_and_auto_go_together(shop, tmp_path: Path) -> None:
    rates = [0.01 * i for i in range(12)]
    path = write(tmp_path / "p.jsonl", [r | {"flip_rate": e} for r, e in zip(shop.rows, rates, strict=True)])
    said: list[str] = []
    known = {"loss": {"kind": "rdpo", "flip_rate": "auto"}, "data": {"evaluation": str(shop.pairs)}}
    it = bench(shop, tmp_path / "run", "preference", path, said, **known).learner()
    torch.testing.assert_close(it.flip_rate, torch.tensor(rates))
    assert isinstance(it.loss, RDPO)
    assert it.loss.flip_rate == pytest.approx(0.055)
    assert "loss" in it.evaluate()
    assert "flip rates: one for each pair, mean 0.055" in said


def test_reward_margins_and_flip_rates_come_from_the_rows(shop, tmp_path: Path) -> None:
    rows = [r | {"margin": i / 4, "flip_rate": 0.1} for i, r in enumerate(shop.rows)]
    path = write(tmp_path / "p.jsonl", rows)
    known = {"loss": {"kind": "bradley_terry", "correction": "forward", "flip_rate": 0.3}}
    it = bench(shop, tmp_path / "run", "reward", path, [], **known).learner()
    assert it.margin.tolist() == [i / 4 for i in range(12)]
    torch.testing.assert_close(it.flip_rate, torch.full((12,), 0.1))


def test_prompts_are_learnt_on_request_except_their_first_token(shop, tmp_path: Path) -> None:
    plain = bench(shop, tmp_path, "sft", shop.completions, []).learner()
    both = bench(shop, tmp_path, "sft", shop.completions, [], loss={"prompt": True}).learner()
    assert torch.equal(both.data.action.sum(1), both.data.length - 1)
    assert torch.equal(plain.data.action.sum(1), plain.data.length - plain.data.prompt_length)
    assert torch.equal(both.data.ids, plain.data.ids)
    both.data.check()


def test_kto_partners_fit_into_the_context(shop, tmp_path: Path) -> None:
    rows = [
        {"prompt": "p" * 50, "completion": "a", "label": True},
        {"prompt": "q", "completion": "b" * 50, "label": False},
    ]
    it = bench(shop, tmp_path, "preference", write(tmp_path / "k.jsonl", rows), [], loss={"kind": "kto"}).learner()
    assert it.other.length.tolist() == [64, 3]
