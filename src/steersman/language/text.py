"""Token ids back to text: responses as a reader sees them, and stop strings found while tokens are still being drawn.

Text is always derived from ids, never the reverse. A response is decoded as the continuation of its prompt, because
many tokenizers drop the space in front of whatever they decode first. Leaves out: text to ids (`encode`).
"""

from collections.abc import Sequence
from typing import Any

from steersman.core.errors import UserError
from steersman.core.types import Rollouts

CONTEXT = 4
"""Tokens of the prompt that stop strings are decoded after; enough for a tokenizer to know that it is mid-text."""
MOST_PENDING = 32
"""Tokens that may wait for the rest of a character. Text needs four; only a stream that is no text reaches this."""
_UNFINISHED = "\ufffd"


def response_texts(rollouts: Rollouts, tokenizer: Any, *, special: bool = False) -> list[str]:
    """The text of each response, as the continuation of its prompt's text.

    Args:
        rollouts: prompts and responses.
        tokenizer: the tokenizer of the ids.
        special: whether special tokens (the end-of-sequence token among them) are spelt out.

    Returns:
        One text a row; bytes that are no UTF-8 become the replacement character.
    """
    length, prompt_length = rollouts.length.tolist(), rollouts.prompt_length.tolist()
    rows = [row[:n] for row, n in zip(rollouts.ids.tolist(), length, strict=True)]
    whole = _decode(tokenizer, rows, special)
    before = _decode(tokenizer, [row[:n] for row, n in zip(rows, prompt_length, strict=True)], special)
    alone = _decode(tokenizer, [row[n:] for row, n in zip(rows, prompt_length, strict=True)], special)
    return [
        text[len(head) :] if text.startswith(head) else rest
        for text, head, rest in zip(whole, before, alone, strict=True)
    ]


def token_texts(rollouts: Rollouts, tokenizer: Any) -> list[list[str]]:
    """The text that each token of a row adds to those before it; one behind the other they are the row's text.

    Args:
        rollouts: prompts and responses.
        tokenizer: the tokenizer of the ids.

    Returns:
        One text for each real token of a row, special tokens spelt out. A character spread over several tokens is
        added by the last of them, the others add nothing; so do tokens that a tokenizer merges with the one before.
    """
    rows = zip(rollouts.ids.tolist(), rollouts.length.tolist(), strict=True)
    return [_added(ids[:n], tokenizer) for ids, n in rows]


def _added(ids: list[int], tokenizer: Any) -> list[str]:
    """Each token is decoded after the tokens whose text was settled last, as `StopStrings` does."""
    settled: list[int] = []
    begin, out = 0, []
    for i in range(len(ids)):
        head, text = _decode(tokenizer, [settled, settled + ids[begin : i + 1]], True)
        new = text[len(head) :]
        whole = not new.endswith(_UNFINISHED) or i + 1 == len(ids) or i + 1 - begin >= MOST_PENDING
        out.append(new if whole else "")
        if whole:
            settled, begin = ids[begin : i + 1], i + 1
    return out


class StopStrings:
    """Finds out, token by token, whether the text of each of several responses contains a stop string.

    Each new token is decoded after the tokens whose text was settled last, so the cost of a response is linear in its
    length. Text is settled once it grew and ends in a whole character. Special tokens count as the text they are
    spelt with, so that a chat template's end marker can be a stop string.

    Args:
        strings: texts that end a response; not empty.
        tokenizer: the tokenizer of the ids.
        prompts: the prompt's ids of each response ``[R][*]``; a string that begins in the prompt does not count.

    Edge cases: a character spread over several tokens counts once its last byte is there; in more than `MOST_PENDING`
    tokens without one whole character at the end, a stop string that crosses such a border may be missed.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.strings, self.tokenizer = tuple(strings), tokenizer
        self.keep = max(map(len, self.strings)) - 1
        self.settled = [list(p[-CONTEXT:]) for p in prompts]
        self.pending: list[list[int]] = [[] for _ in prompts]
        self.tail = [""] * len(prompts)

    def extend(self, rows: Sequence[int], tokens: Sequence[int]) -> list[bool]:
        """Append one token to each of the responses `rows`, and say which of them now contain a stop string."""
        for row, token in zip(rows, tokens, strict=True):
            self.pending[row].append(token)
        before = _decode(self.tokenizer, [self.settled[row] for row in rows], True)
        after = _decode(self.tokenizer, [self.settled[row] + self.pending[row] for row in rows], True)
        return [self._found(row, new[len(old) :]) for row, old, new in zip(rows, before, after, strict=True)]

    def _found(self, row: int, new: str) -> bool:
        text = self.tail[row] + new
        if (new and not new.endswith(_UNFINISHED)) or len(self.pending[row]) >= MOST_PENDING:
            self.tail[row] = text[len(text) - self.keep :] if self.keep < len(text) else text
            self.settled[row], self.pending[row] = self.pending[row], []
        return any(s in text for s in self.strings)


def check_stop_strings(strings: str | Sequence[str], tokenizer: Any) -> tuple[str, ...]:
    """Stop strings as a tuple.

    Raises:
        UserError: one of them is empty, or there is no tokenizer to decode with.
    """
    found = (strings,) if isinstance(strings, str) else tuple(strings)
    if not all(isinstance(s, str) and s for s in found):
        raise UserError("holds an empty text or no text", where="stop_strings", allowed="texts of at least a character")
    if found and tokenizer is None:
        raise UserError("need a tokenizer to decode with", where="stop_strings", cure="Give tokenizer=.")
    return found


def _decode(tokenizer: Any, rows: list[list[int]], special: bool) -> list[str]:
    if not rows:
        return []
    options = {"skip_special_tokens": not special, "clean_up_tokenization_spaces": False}
    return list(tokenizer.batch_decode(rows, **options))
