"""Conversations to text through the tokenizer's own chat template, with an exact boundary before the response.

The boundary is found by rendering, never by searching for a marker: the prompt is rendered with the template's
generation prompt, prompt and completion are rendered together, and the first must be a prefix of the second. Leaves
out: reading files (`records`), token ids (`encode`).
"""

from collections.abc import Sequence
from typing import Any

from steersman.core.errors import UserError

Message = dict[str, str]
"""One turn: ``{"role": ..., "content": ...}``."""


def render(tokenizer: Any, messages: Sequence[Message], *, generation_prompt: bool = False, where: str = "") -> str:
    """Render messages with the tokenizer's chat template.

    Args:
        tokenizer: a transformers tokenizer.
        messages: the turns, oldest first.
        generation_prompt: whether the text ends where the assistant would begin to speak.
        where: the row to name in an error.

    Raises:
        UserError: the tokenizer has no template, or the template refuses the messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        cure = "Give prompt and completion as plain text, or store a template: tokenizer.chat_template = '...'."
        raise UserError("the row is a conversation but the tokenizer has no chat template", where=where, cure=cure)
    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation_prompt)
        )
    except Exception as error:  # templates raise whatever Jinja or their author chose
        raise UserError(f"the chat template refuses the conversation: {error}", where=where) from error


def split(
    tokenizer: Any, prompt: Sequence[Message], completion: Sequence[Message], *, where: str = ""
) -> tuple[str, str]:
    """Render a conversation and cut it exactly where the response begins.

    What the template writes after the response's own end-of-sequence token (usually a newline) is left off: nothing is
    an action after the end.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        prompt: the turns before the response; must not be empty.
        completion: the response, one or more turns, the first by the assistant.
        where: the row to name in an error.

    Returns:
        ``(prompt text, response text)``; encode both without adding special tokens.

    Raises:
        UserError: an empty prompt, a completion not begun by the assistant, or a template whose rendering of the prompt
            is not a prefix of its rendering of the whole (a few rewrite earlier turns).
    """
    if not prompt:
        raise UserError("the conversation has no turn before the response", where=where)
    if not completion or completion[0]["role"] != "assistant":
        found = completion[0]["role"] if completion else "nothing"
        raise UserError(f"the response is by {found!r}", where=where, allowed="a turn by 'assistant'")
    before = render(tokenizer, prompt, generation_prompt=True, where=where)
    whole = render(tokenizer, [*prompt, *completion], where=where)
    if not whole.startswith(before):
        cure = "Give prompt and completion as plain text in the form the model expects."
        what = "the chat template rewrites the prompt once the response follows, so the response has no exact beginning"
        raise UserError(what, where=where, cure=cure)
    response = whole[len(before) :]
    bare = response.rstrip()
    return before, bare if tokenizer.eos_token and bare.endswith(tokenizer.eos_token) else response
