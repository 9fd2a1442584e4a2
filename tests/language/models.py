"""Tiny models of several architectures with weights from counter-based noise, and ragged rows for them."""

from typing import Any

import torch
from torch import Tensor, nn

from steersman.core import noise
from steersman.core.types import Rollouts

VOCABULARY = 101
_LLAMA = {"num_key_value_heads": 2, "intermediate_size": 48}
_SIZES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA | {"tie_word_embeddings": True},
    "gpt2": {"n_positions": 32},
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | {"head_dim": 8},
    "gemma2": _LLAMA | {"head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 3.0},
    "mistral": _LLAMA | {"sliding_window": 8},
    "cohere": _LLAMA | {"logit_scale": 0.25},
    "granite": _LLAMA | {"logits_scaling": 3.0},
    "bloom": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mamba": {"state_size": 8},
    "gpt_oss": _LLAMA | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "modernbert-decoder": {"intermediate_size": 48},
}
FLAT = ("llama", "gpt2", "qwen2", "qwen3", "gemma2", "mistral", "cohere", "granite", "opt", "modernbert-decoder")
PADDED = ("bloom", "mamba", "gpt_oss")
DENSE_HEAD = ("modernbert-decoder",)
ALL = FLAT + PADDED


def tiny(name: str, **changes: Any) -> Any:
    """A two-layer model of width 32 in eval mode; matrices ~ N(0, 0.15^2)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
    special = {"pad_token_id": 2, "eos_token_id": 2, "bos_token_id": 1}
    config = AutoConfig.for_model(name, **(common | special | _SIZES[name] | changes))
    model = AutoModelForCausalLM.from_config(config).eval()
    noise.normal_([(k, p) for k, p in model.named_parameters() if p.ndim > 1], 0.15, 0, name)
    return model


def rows(lengths: list[int], prompts: list[int], extra: int = 0, seed: int = 0) -> Rollouts:
    """Random rows whose padding, and some of whose tokens, are the end-of-sequence token 2."""
    width = max([*lengths, 1]) + extra
    ids = torch.from_numpy(noise.generator(seed, "ids").integers(2, VOCABULARY, (len(lengths), width)))
    length, prompt_length = torch.tensor(lengths, dtype=torch.int64), torch.tensor(prompts, dtype=torch.int64)
    ids[torch.arange(width) >= length[:, None]] = 2
    ids[:, width // 2] = 2
    return Rollouts.of(ids, length, prompt_length)


RAGGED = [7, 3, 20, 12, 5, 19, 20], [2, 1, 4, 11, 4, 3, 4]


def plain_logp(model: nn.Module, rollouts: Rollouts, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The same by the textbook: each row alone through the whole model, log-softmax of its logits."""
    logp, entropy = torch.zeros(rollouts.ids.shape), torch.zeros(rollouts.ids.shape)
    out = []
    for n, length in enumerate(rollouts.length.tolist()):
        logits = model(rollouts.ids[n : n + 1, :length], use_cache=False).logits[0, :-1] / temperature
        log_p = logits.log_softmax(-1)
        chosen = log_p.gather(1, rollouts.ids[n, 1:length, None])[:, 0]
        out.append(torch.cat([logp[n, :1], chosen, logp[n, length:]]))
        entropy[n, 1:length] = -(log_p.exp() * log_p).sum(-1).detach()
    return torch.where(rollouts.action, torch.stack(out), 0.0), torch.where(rollouts.action, entropy, 0.0)
