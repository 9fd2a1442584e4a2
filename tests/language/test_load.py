"""Model folders: what is refused and how, and the round trip through plain transformers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from steersman.core.errors import CorruptFile, RunStopped, UserError
from steersman.language.build import SmallModel, build_model, train_tokenizer
from steersman.language.load import (
    check_same_vocabulary,
    context_length,
    load_model,
    load_tokenizer,
    save_model,
    stop_ids,
)

TEXTS = ["the film was good", "the film was bad", "a film about the sea"] * 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(TEXTS, 270)
    model = build_model(SmallModel(width=16, layers=2, heads=2, context=32), len(tokenizer), seed=1)
    return save_model(model, tokenizer, tmp_path_factory.mktemp("models") / "made")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_round_trip_through_plain_transformers(made: Path) -> None:
    model, tokenizer = load_model(made), load_tokenizer(made)
    plain, plain_tokenizer = AutoModelForCausalLM.from_pretrained(made), AutoTokenizer.from_pretrained(made)
    for (name, a), b in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    text = "the film, été ☃"
    assert tokenizer(text)["input_ids"] == plain_tokenizer(text)["input_ids"]
    assert plain_tokenizer.decode(plain_tokenizer(text)["input_ids"]) == text
    out = plain.generate(**plain_tokenizer("the film", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert out.shape[1] > 2
    assert stop_ids(model, tokenizer) == (0,)
    assert context_length(model.config) == 32


def test_saved_again_after_training_step(made: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(made), load_tokenizer(made)
    ids = torch.tensor([tokenizer("the film was good")["input_ids"]])
    model(ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    save_model(model, tokenizer, tmp_path / "again")
    save_model(model, tokenizer, tmp_path / "again")  # replaces a model
    again = load_model(tmp_path / "again")
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again"]


def test_dropout_is_zero_and_forwards_agree_in_training_mode(made: Path, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=270, n_embd=16, n_layer=1, n_head=2, n_positions=16, eos_token_id=0, bos_token_id=0)
    assert config.resid_pdrop > 0
    save_model(GPT2LMHeadModel(config), load_tokenizer(made), tmp_path / "gpt2")
    edit(tmp_path / "gpt2", resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5)
    model = load_model(tmp_path / "gpt2").train()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)
    assert context_length(model) == 16


def test_dtype_and_device_are_checked_by_name(made: Path) -> None:
    assert load_model(made, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(UserError, match="float32, bfloat16"):
        load_model(made, dtype="fp32")
    with pytest.raises(UserError, match="device"):
        load_model(made, device="no-such-device")


def test_end_of_sequence_used_as_pad_is_trained_as_an_input(made: Path) -> None:
    fresh = build_model(SmallModel(width=16, layers=1, heads=2, tie=False), 270, seed=1)
    for model in (load_model(made), fresh):
        model(torch.tensor([[0, 5, 6]])).logits[:, :, 7].sum().backward()
        assert model.get_input_embeddings().weight.grad[0].abs().sum() > 0
        assert model.get_input_embeddings().weight.grad[5].abs().sum() > 0


def test_missing_things_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a file"):
        load_model(folder / "config.json")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights \(model.safetensors\)"):
        load_model(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickled weights only") as caught:
        load_model(folder)
    assert "save_pretrained" in str(caught.value)
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CorruptFile, match="cannot be read"):
        load_model(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptFile, match="not valid JSON"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config.json"):
        load_model(folder)
    (folder / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match=r"not finished(.|\n)*--resume"):
        load_model(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="LoRA adapter"):
        load_model(folder)


def test_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="model-00002-of-00002"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"is_encoder_decoder": True, "model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "vit"}, "not a causal language model"),
        ({"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}, "never run"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not a causal language model"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"vocab_size": 100}, "270 tokens but the embedding only 100 rows"),
    ],
)
def test_unsuitable_models_are_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_weights_that_leave_parameters_without_value_are_refused(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="no value to 1 parameters"):
        load_model(folder)


def test_no_end_of_sequence_token_is_refused(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["eos_token"]
    path.write_text(json.dumps(config))
    for load in (load_tokenizer, load_model):
        with pytest.raises(UserError, match="no end-of-sequence token"):
            load(folder)


def test_missing_pad_token_becomes_end_of_sequence(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config))
    assert load_tokenizer(folder).pad_token_id == 0


def test_vocabulary_mismatch_is_refused(made: Path) -> None:
    mine, other = load_tokenizer(made), train_tokenizer(["entirely different words"] * 9, 270)
    check_same_vocabulary(mine, load_tokenizer(made))
    with pytest.raises(UserError, match="different vocabularies"):
        check_same_vocabulary(mine, other)
    small = SmallModel(width=16, layers=1, heads=2)
    with pytest.raises(UserError, match="270 rows, the reference's 300"):
        check_same_vocabulary(build_model(small, 270, 0), build_model(small, 300, 0).config)


def test_saving_never_replaces_something_else(made: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(made), load_tokenizer(made)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="does not hold a model"):
        save_model(model, tokenizer, tmp_path / "mine")
    with pytest.raises(UserError, match="is a file"):
        save_model(model, tokenizer, tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "error, place, found, message",
    [
        (OSError(28, "No space left on device"), "tokenizer", RunStopped, "disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "weights", RunStopped, "disk is full"),
        (SafetensorError("I/O error: Permission denied (os error 13)"), "weights", RunStopped, "Permission denied"),
        (SafetensorError("a bug of ours"), "weights", SafetensorError, "a bug of ours"),
    ],
)
def test_failed_save_leaves_the_older_model(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    place: str,
    found: type[Exception],
    message: str,
) -> None:
    model, tokenizer = load_model(folder), load_tokenizer(folder)

    def full(*_: object, **__: object) -> None:
        raise error

    if place == "tokenizer":
        monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    else:
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(found, match=message):
        save_model(model, tokenizer, folder)
    monkeypatch.undo()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    load_model(folder)


def test_lora_adapter_merged_or_separate(made: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, tokenizer = load_model(made), load_tokenizer(made)
    with pytest.raises(UserError, match="no LoRA adapter"):
        save_model(base, tokenizer, tmp_path / "x", adapter="separate")
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.add_(torch.arange(p.numel()).view_as(p) / p.numel())
    ids = torch.arange(6)[None]
    with torch.no_grad():
        expected, plain = model.eval()(ids).logits, load_model(made)(ids).logits
        save_model(model, tokenizer, tmp_path / "merged")
        save_model(model, tokenizer, tmp_path / "adapter", adapter="separate")
        merged = load_model(tmp_path / "merged")(ids).logits
        separate = load_model(made, adapter=tmp_path / "adapter")(ids).logits
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(merged, expected)
    torch.testing.assert_close(separate, expected)
    assert any("lora" in name for name, _ in model.named_parameters())  # the model passed in was left as it is
    with pytest.raises(UserError, match="holds a LoRA adapter"):
        load_model(tmp_path / "adapter")
    with pytest.raises(UserError, match="holds no LoRA adapter"):
        load_model(made, adapter=made)
