"""A tokenizer of a fixed list of tokens: the vocabulary of a task of our own.

Leaves out: tokenizers that are trained on text (`build`).
"""

from collections.abc import Sequence
from typing import Any


def closed_tokenizer(tokens: Sequence[str], eos_id: int, pad_id: int, context: int | None = None) -> Any:
    """A tokenizer of the given tokens with their places as ids; where several fit, the longest is taken.

    Args:
        tokens: all of them, those of the end and of padding included, which no text contains.
        eos_id, pad_id: their ids.
        context: recorded as its `model_max_length`; None = no limit.

    Returns:
        A `transformers.PreTrainedTokenizerFast`; decoding puts tokens one behind the other.
    """
    import re

    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    written = [t for i, t in enumerate(tokens) if i not in (eos_id, pad_id)]
    longest_first = "|".join(re.escape(t) for t in sorted(written, key=len, reverse=True))
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(longest_first), "isolated")
    backend.decoder = decoders.Fuse()
    known = {"model_max_length": context} if context is not None else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=tokens[eos_id],
        pad_token=tokens[pad_id],
        clean_up_tokenization_spaces=False,
        **known,
    )
