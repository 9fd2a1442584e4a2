"""Small models and tokenizers of the user's own: byte-level BPE trained on their text, random weights from a seed.

Weights are drawn with counter-based noise, a stream for each parameter's name, so equal seeds give equal models.
Initialisation follows GPT-2 (Radford et al., 2019, section 2.3): N(0, 0.02^2), with what writes into the
residual stream scaled by 1/sqrt(2 layers). Leaves out: training (`train`), existing models (`load`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from steersman.core.component import Component
from steersman.core.errors import UserError
from steersman.core.noise import normal_
from steersman.language.load import train_every_row

INIT_STD = 0.02
BYTES = 256
_RESIDUAL = ("o_proj.weight", "down_proj.weight")


class SmallModel(Component):
    """Size of a small Llama: rotary positions, RMS norms, gated MLP."""

    kind: Literal["llama"] = "llama"
    width: int = Field(default=128, ge=8, description="hidden size")
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    kv_heads: int | None = Field(default=None, ge=1, description="None = heads (no grouping)")
    mlp: int | None = Field(default=None, ge=8, description="None = 8/3 width, rounded up to a multiple of 16")
    context: int = Field(default=256, ge=2, description="largest number of tokens")
    tie: bool = Field(default=True, description="the head shares the embedding")
    rope_theta: float = Field(default=10_000.0, gt=0)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must be heads {self.heads} times an even number")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    eos: str = "<|end|>",
    pad: str | None = None,
    special: Sequence[str] = (),
    context: int | None = None,
    chat_template: str | None = None,
) -> Any:
    """Train a byte-level BPE tokenizer; the same texts in the same order give the same tokenizer.

    Every text can be encoded and decoded without loss, since all 256 bytes are in the vocabulary.

    Args:
        texts: training texts.
        vocab_size: at most this many tokens; fewer where the texts hold no more pairs that occur twice.
        eos: text of the end-of-sequence token, id 0.
        pad: text of a pad token; None uses `eos`, which is safe because masks come from lengths.
        special: further special tokens.
        context: recorded as the tokenizer's `model_max_length`.
        chat_template: Jinja template to store with the tokenizer.

    Returns:
        A `transformers.PreTrainedTokenizerFast`; it adds no special tokens by itself.

    Raises:
        UserError: a vocabulary too small for the bytes and special tokens, repeated special tokens, no text at all.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    names = [eos, *([pad] if pad is not None else []), *special]
    if len(set(names)) < len(names) or "" in names:
        raise UserError(f"special tokens must be different and not empty, got {names}", where="special")
    least = BYTES + len(names)
    if vocab_size < least:
        raise UserError(
            f"vocab_size is {vocab_size}", where="vocab_size", allowed=f">= {least} (bytes, special tokens)"
        )
    seen = 0

    def counted() -> Iterable[str]:
        nonlocal seen
        for text in texts:
            seen += bool(text)
            yield text

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=names,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(counted(), trainer)
    if not seen:
        raise UserError("there is no text to train a tokenizer on", where="texts")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=eos,
        pad_token=eos if pad is None else pad,
        clean_up_tokenization_spaces=False,
        **({"model_max_length": context} if context is not None else {}),
    )
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def build_model(size: SmallModel, vocab: int, seed: int, *, eos_id: int = 0, pad_id: int | None = None) -> Any:
    """Make a randomly initialised Llama in float32 and evaluation mode; equal arguments give equal parameters.

    Every matrix is N(0, 0.02^2), those that write into the residual stream N(0, 0.02^2 / (2 layers)); norms are 1.

    Args:
        size: the shape.
        vocab: rows of the embedding, at least the tokenizer's vocabulary.
        seed: any integer; the global generator is neither read nor moved.
        eos_id: id of the end-of-sequence token.
        pad_id: id used for padding; None = `eos_id`.

    Raises:
        UserError: `eos_id` or `pad_id` outside the vocabulary.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    pad = eos_id if pad_id is None else pad_id
    for name, i in (("eos_id", eos_id), ("pad_id", pad)):
        if not 0 <= i < vocab:
            raise UserError(f"is {i}", where=name, allowed=f"0 <= {name} < {vocab}")
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads or size.heads,
        intermediate_size=size.mlp or -(-8 * size.width // 3 // 16) * 16,
        max_position_embeddings=size.context,
        tie_word_embeddings=size.tie,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        bos_token_id=None,
        eos_token_id=eos_id,
        pad_token_id=pad,
        attention_dropout=0.0,
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are overwritten below
        model = LlamaForCausalLM(config)
    model = model.to(torch.float32)
    parameters = dict(model.named_parameters())
    matrices = [(name, p) for name, p in parameters.items() if p.ndim > 1]
    inner = [(name, p) for name, p in matrices if name.endswith(_RESIDUAL)]
    normal_([x for x in matrices if not x[0].endswith(_RESIDUAL)], INIT_STD, seed, "init")
    normal_(inner, INIT_STD / (2 * size.layers) ** 0.5, seed, "init")
    with torch.no_grad():
        for name, p in parameters.items():
            if p.ndim == 1:
                p.fill_(1.0 if "norm" in name else 0.0)
    train_every_row(model)
    return model.eval()
