"""Low-rank adapters: identity at the start, equal for equal seeds, only they move, and the reward head with them."""

from pathlib import Path
from typing import Any

import pytest
import tiny_language as tiny
import torch

from steersman.core.errors import UserError
from steersman.language.build import SmallModel, build_model, train_tokenizer
from steersman.language.load import load_model
from steersman.language.save import save_model
from steersman.objective.components import BradleyTerry
from steersman.reward.model import build_reward_model, head_of, save_reward_model, score_rows
from steersman.train.lora import add_lora
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.parameters import trainable_state
from steersman.train.preference import summed_logp
from steersman.train.reward_model import RewardLearner
from steersman.train.sft import SftLearner

CLOSE = 1e-5  # the merged product W + B A in another order


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_model(SmallModel(width=16, layers=2, heads=2, context=64), 257, 0)
    return save_model(model, train_tokenizer(["a b"], 257), tmp_path_factory.mktemp("base") / "model")


def adapted(folder: Path, seed: int = 0, targets: Any = "all-linear") -> Any:
    return add_lora(load_model(folder), 4, 8.0, targets, seed)


def trained(model: Any, steps: int = 3) -> Any:
    it = SftLearner(model, tiny.responses(tiny.FIRST, 1), Optimiser(model.named_parameters(), AdamW(lr=0.01), 3), 40)
    for i in range(steps):
        it.step(torch.arange(8), i)
    return model


def test_it_begins_as_the_model_it_wraps_and_moves_only_adapters(folder: Path) -> None:
    rows, plain = tiny.responses(tiny.FIRST, 1), load_model(folder)
    model = adapted(folder)
    assert torch.equal(summed_logp(model, rows, 40), summed_logp(plain, rows, 40))
    names = list(trainable_state(model))
    assert all("lora_" in n for n in names)
    assert len(names) == 2 * 2 * 7  # A and B of seven matrices in two layers, none of the head
    trained(model)
    base = {n.replace(".base_layer", ""): p for n, p in model.get_base_model().named_parameters() if "lora_" not in n}
    assert all(torch.equal(base[n], p) for n, p in plain.named_parameters())
    assert not torch.equal(summed_logp(model, rows, 40), summed_logp(plain, rows, 40))


def test_equal_seeds_give_equal_adapters_whatever_the_global_generator(folder: Path) -> None:
    torch.manual_seed(1)
    one = trainable_state(adapted(folder, 3))
    torch.manual_seed(2)
    two = trainable_state(adapted(folder, 3))
    assert all(torch.equal(one[n], two[n]) for n in one)
    other = trainable_state(adapted(folder, 4))
    assert not any(torch.equal(one[n], other[n]) for n in one if "lora_A" in n)
    a = torch.cat([x.flatten() for n, x in one.items() if "lora_A" in n])
    assert float(a.std()) == pytest.approx(4**-0.5, rel=0.05)


def test_merged_and_separate_folders_score_alike(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model, rows = trained(adapted(folder)), tiny.responses(tiny.FIRST, 1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    save_model(model, tokenizer, tmp_path / "merged")
    save_model(model, tokenizer, tmp_path / "alone", adapter="separate")
    truth = summed_logp(model, rows, 40)
    for other in (load_model(tmp_path / "merged"), load_model(folder, adapter=tmp_path / "alone")):
        torch.testing.assert_close(summed_logp(other, rows, 40), truth, atol=CLOSE, rtol=0)


def test_targets(folder: Path) -> None:
    names = trainable_state(adapted(folder, targets=["q_proj", "v_proj"]))
    assert {n.split(".lora_")[0].rpartition(".")[2] for n in names} == {"q_proj", "v_proj"}
    with pytest.raises(UserError, match=r"model.lora.targets: 'q_prj' names no linear layer\n.*q_proj"):
        adapted(folder, targets=["q_prj"])


def test_a_reward_models_head_is_trained_and_saved_with_its_adapters(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = add_lora(build_reward_model(folder, 0), 4, 8.0, "all-linear", 0)
    before = head_of(model).weight.detach().clone()
    assert [n for n in trainable_state(model) if "lora_" not in n] == [
        "base_model.model.score.modules_to_save.default.weight"
    ]
    pairs = tiny.make_pairs()
    it = RewardLearner(model, pairs, BradleyTerry(), Optimiser(model.named_parameters(), AdamW(lr=0.01), 6), 40)
    losses = [float(it.step(torch.arange(8), i)["loss"]) for i in range(6)]
    assert losses[-1] < losses[0] - 0.1
    assert not torch.equal(before, head_of(model).weight)
    save_reward_model(model, AutoTokenizer.from_pretrained(folder), tmp_path / "rm", {"mean": 0.0, "std": 1.0})
    again = build_reward_model(tmp_path / "rm", 9)
    torch.testing.assert_close(
        score_rows(again, pairs.first, 40), score_rows(model, pairs.first, 40), atol=CLOSE, rtol=0
    )
