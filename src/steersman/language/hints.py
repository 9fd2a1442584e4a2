"""A prompt with an answer told in it, for models of text: what `core.component.Hinted` becomes.

Behind the prompt its own token ids stay as they are and the words are tokenised after them; in the user's turn the
conversation is rendered anew. Leaves out: which answer and which words (`objective.credit`), rendering and tokenising
of whole prompts (`encode`).
"""

import re
from dataclasses import replace
from typing import Any

from steersman.core.component import Hinted
from steersman.core.errors import UserError, one_line

ANSWER, PROMPT, FEEDBACK = "{answer}", "{prompt}", "{feedback}"
_PLACE = re.compile("|".join(re.escape(x) for x in (ANSWER, PROMPT, FEEDBACK)))


def told(hinted: Hinted, tokenizer: Any) -> Any:
    """What `encode.encode_prompts` takes: token ids, text, or a conversation.

    Args:
        hinted: in a turn of the user it needs `prompt` in its row.
        tokenizer: a transformers tokenizer.

    Raises:
        UserError: names the row: an answer that the tokenizer cannot put into tokens, a prompt that is not known or a
            conversation without a turn of the user.
    """
    where = str(hinted.row.get("id", "context"))
    if hinted.behind and not isinstance(hinted.answer, str):
        text = _text(hinted.answer, tokenizer).rpartition(hinted.behind)[2].strip()
        hinted = replace(hinted, answer=text, behind="")
    if isinstance(hinted.answer, str) and ANSWER in hinted.text:
        check_answer(hinted.answer, tokenizer, where)
    if hinted.place == "after_prompt":
        return spliced(hinted, lambda text: _ids(text, tokenizer))
    answer = hinted.answer if isinstance(hinted.answer, str) else _text(hinted.answer, tokenizer)
    known = {ANSWER: answer, FEEDBACK: hinted.feedback}
    prompt = hinted.row.get("prompt")
    if isinstance(prompt, str):
        return _filled(hinted.text, known | {PROMPT: prompt})
    if not prompt:
        raise UserError("the prompt is not known as text, so nothing can be told in it", where=where)
    turns = [dict(turn) for turn in prompt]
    last = next((i for i in reversed(range(len(turns))) if turns[i]["role"] == "user"), None)
    if last is None:
        cure = 'Set hint.place = "after_prompt".'
        raise UserError("the conversation has no turn of the user to tell an answer in", where=where, cure=cure)
    turns[last]["content"] = _filled(hinted.text, known | {PROMPT: turns[last]["content"]})
    return tuple(turns)


def spliced(hinted: Hinted, ids_of: Any) -> list[int]:
    """The prompt's own token ids with the words behind them; an answer of token ids keeps them.

    Args:
        hinted: with the place "after_prompt".
        ids_of: text -> token ids.

    Raises:
        UserError: `behind` is set; only text can be searched.
    """
    if hinted.behind:
        raise UserError("responses of this task are no text to search", where="behind", cure="Leave it out.")
    known = {FEEDBACK: hinted.feedback}
    if isinstance(hinted.answer, str):
        return [*hinted.prompt, *ids_of(_filled(hinted.text, known | {ANSWER: hinted.answer}))]
    out = list(hinted.prompt)
    for i, words in enumerate(hinted.text.split(ANSWER)):
        text = _filled(words, known)
        out += [*(hinted.answer if i else ()), *(ids_of(text) if text else ())]
    return out


def _filled(text: str, known: dict[str, str]) -> str:
    """The template with what is known in its places; what looks like a place in one of them is left alone."""
    return _PLACE.sub(lambda place: known.get(place[0], place[0]), text)


def _ids(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _text(ids: tuple[int, ...], tokenizer: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def check_answer(answer: str, tokenizer: Any, where: str) -> None:
    """Refuse an answer without tokens, or with the token for what is unknown; `where` names its row."""
    unknown = tokenizer.unk_token_id
    try:
        ids = _ids(answer, tokenizer)
    except Exception:  # a vocabulary without a token for what is unknown; tokenizers raises no class of its own
        ids = []
    if not ids or (unknown is not None and unknown in ids and tokenizer.unk_token not in answer):
        raise UserError(f"reference answer {one_line(answer)!r} cannot be put into the model's tokens", where=where)
