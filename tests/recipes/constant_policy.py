"""Policies whose next token has one distribution whatever came before, so that everything about them is known.

All embeddings are equal and nothing is added to them, so the last hidden state is one vector h; the head maps h to the
wanted log-probs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from steersman.language.build import SmallModel, build_model, train_tokenizer
from steersman.language.save import save_model

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROLES = ["<|user|>", "<|assistant|>"]
NEVER = -60.0
"""Logit of a token that is not drawn."""


def tokenizer(chat: bool = True, size: int = 270, text: str = "1 + 1 = 2 ") -> Any:
    """Bytes, roles and the end token "<|end|>"."""
    return train_tokenizer([text * 9], size, special=ROLES, chat_template=TEMPLATE if chat else None)


def constant_model(probability: Mapping[str, float], tokens: Any, context: int = 64) -> Any:
    """A Llama that draws each text of `probability` with its probability; "" stands for the end of the response."""
    model = build_model(SmallModel(width=8, layers=1, heads=1, context=context, tie=False), len(tokens), 0)
    logits = torch.full((len(tokens),), NEVER)
    for text, p in probability.items():
        (token,) = [tokens.eos_token_id] if text == "" else tokens(text, add_special_tokens=False)["input_ids"]
        logits[token] = torch.tensor(p).log()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.zero_()
        model.get_input_embeddings().weight.fill_(1.0)
        hidden = model(torch.tensor([[1]]), output_hidden_states=True).hidden_states[-1][0, 0]
        model.get_output_embeddings().weight.copy_(logits[:, None] * hidden / hidden.square().sum())
    return model


def save_constant(folder: Path, probability: Mapping[str, float], tokens: Any = None, context: int = 64) -> Path:
    """Write such a policy as a model folder."""
    tokens = tokenizer() if tokens is None else tokens
    return Path(save_model(constant_model(probability, tokens, context), tokens, folder))
