"""Tokenizers and small models: equal input, equal result, whatever ran before."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from steersman.core.errors import UserError
from steersman.language.build import INIT_STD, SmallModel, build_model, train_tokenizer

TEXTS = [f"the film number {i} was good and the sea was {i * 7919 % 97} blue" for i in range(200)]
STD_RELATIVE = 0.05
"""Relative error allowed to the standard deviation of a few thousand normal numbers."""
SIZE = SmallModel(width=32, layers=3, heads=4, kv_heads=2, context=64)
TOKENIZER = train_tokenizer(TEXTS, 320, special=["<|user|>"])

HASH = """
from hashlib import sha256
from steersman.language.build import train_tokenizer
print(sha256(train_tokenizer(TEXTS, 320, special=["<|user|>"]).backend_tokenizer.to_str().encode()).hexdigest())
"""


def test_tokenizer_is_the_same_in_another_process() -> None:
    from hashlib import sha256

    out = subprocess.run(
        [sys.executable, "-c", f"TEXTS = {TEXTS!r}\n{HASH}"], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == sha256(TOKENIZER.backend_tokenizer.to_str().encode()).hexdigest()


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=60, deadline=None)
def test_any_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=False) == text


def test_special_tokens_and_sizes() -> None:
    assert len(TOKENIZER) == 320
    assert (TOKENIZER.eos_token, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id) == ("<|end|>", 0, 0)
    assert TOKENIZER("<|user|>")["input_ids"] == [1]
    assert len(TOKENIZER("the film")["input_ids"]) < len("the film")
    padded = train_tokenizer(TEXTS, 300, eos="<e>", pad="<p>", context=99)
    assert (padded.eos_token_id, padded.pad_token_id, padded.model_max_length) == (0, 1, 99)
    assert len(train_tokenizer(["ab"], 300)) == 257  # nothing occurs twice


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"vocab_size": 256}, ">= 257"),
        ({"vocab_size": 300, "special": ["<|end|>"]}, "different"),
        ({"vocab_size": 300, "texts": []}, "no text"),
        ({"vocab_size": 300, "texts": ["", ""]}, "no text"),
    ],
)
def test_impossible_tokenizers_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_tokenizer(**({"texts": TEXTS} | arguments))


def test_parameters_depend_on_the_seed_alone_and_leave_the_global_generator() -> None:
    a = build_model(SIZE, 320, 7)
    torch.rand(11)
    before = torch.get_rng_state()
    b, c = build_model(SIZE, 320, 7), build_model(SIZE, 320, 8)
    assert torch.equal(torch.get_rng_state(), before)
    for (name, x), y, z in zip(a.named_parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(x, y), name
        assert torch.equal(x, z) == (x.ndim == 1), name


def test_initialisation_follows_gpt2() -> None:
    model = build_model(SmallModel(width=64, layers=8, heads=4), 320, 0)
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert torch.equal(p, torch.ones_like(p)), name
        else:
            std = INIT_STD / 4 if name.endswith(("o_proj.weight", "down_proj.weight")) else INIT_STD
            assert float(p.detach().std()) == pytest.approx(std, rel=STD_RELATIVE), name
    assert model.lm_head.weight is model.model.embed_tokens.weight
    untied = build_model(SmallModel(width=16, layers=1, heads=2, tie=False), 300, 0)
    assert not torch.equal(untied.lm_head.weight, untied.model.embed_tokens.weight)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValidationError, match="even number"):
        SmallModel(width=30, heads=4)
    with pytest.raises(ValidationError, match="multiple of kv_heads"):
        SmallModel(width=32, heads=4, kv_heads=3)
    with pytest.raises(UserError, match="eos_id"):
        build_model(SIZE, 320, 0, eos_id=320)
