"""Conversations: the boundary is where the template puts it, and a template that moves it is refused."""

import pytest

from steersman.core.errors import UserError
from steersman.language.build import train_tokenizer
from steersman.language.chat import render, split

CHATML = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
REWRITES = "{{ messages | length }}:{% for m in messages %}{{ m.content }}{% endfor %}"
REFUSES = "{{ raise_exception('system turns are not supported') }}"
PROMPT = [{"role": "user", "content": "Hello?"}]
ANSWER = [{"role": "assistant", "content": "Ahoy."}]


def tokenizer(template: str | None):
    return train_tokenizer(["Hello Ahoy"], 300, special=["<|turn|>"], chat_template=template)


def test_render_and_split() -> None:
    t = tokenizer(CHATML)
    assert render(t, PROMPT) == "<|turn|>user\nHello?<|end|>\n"
    assert split(t, PROMPT, ANSWER) == ("<|turn|>user\nHello?<|end|>\n<|turn|>assistant\n", "Ahoy.<|end|>")


def test_turns_within_the_response_stay() -> None:
    before, response = split(tokenizer(CHATML), PROMPT, [*ANSWER, {"role": "tool", "content": "4"}, *ANSWER])
    assert before.endswith("assistant\n")
    assert response == "Ahoy.<|end|>\n<|turn|>tool\n4<|end|>\n<|turn|>assistant\nAhoy.<|end|>"


def test_white_space_stays_where_the_template_writes_no_end() -> None:
    t = tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert split(t, PROMPT, ANSWER)[1] == "assistant: Ahoy.\n"


def test_errors_name_the_row_and_the_cure() -> None:
    with pytest.raises(UserError, match="no chat template") as caught:
        split(tokenizer(None), PROMPT, ANSWER, where="a.jsonl, line 3")
    assert str(caught.value).startswith("a.jsonl, line 3: ")
    with pytest.raises(UserError, match="line 4: the chat template rewrites"):
        split(tokenizer(REWRITES), PROMPT, ANSWER, where="line 4")
    with pytest.raises(UserError, match="system turns are not supported"):
        split(tokenizer(REFUSES), PROMPT, ANSWER)
    with pytest.raises(UserError, match="no turn before"):
        split(tokenizer(CHATML), [], ANSWER)
    with pytest.raises(UserError, match="'user'"):
        split(tokenizer(CHATML), PROMPT, PROMPT)
