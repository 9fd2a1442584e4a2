"""Told prompts as tokens: own ids are kept, turns are rendered anew, answers must have tokens."""

from typing import Any

import pytest

from steersman.core.component import Hinted
from steersman.core.errors import UserError
from steersman.language.build import train_tokenizer
from steersman.language.encode import encode_prompts
from steersman.language.hints import spliced, told

ROLES = ["<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = train_tokenizer(["1 + 1 = 2 " * 9], 270, special=ROLES, chat_template=TEMPLATE)
TURN = "{prompt} Told: {answer}. Solve {prompt}"


def ids(text: str) -> list[int]:
    return CHAT(text, add_special_tokens=False)["input_ids"]


def hinted(place: Any, text: str, answer: Any, prompt: Any = "1 + 1 =", own: tuple[int, ...] = (7, 8)) -> Hinted:
    return Hinted(own, {"id": "p5", "prompt": prompt}, place, text, answer)


def test_behind_the_prompt_its_own_ids_stay():
    assert told(hinted("after_prompt", " ={answer}!", "2"), CHAT) == [7, 8, *ids(" =2!")]
    assert told(hinted("after_prompt", " ={answer}!", (3, 4, 5)), CHAT) == [7, 8, *ids(" ="), 3, 4, 5, *ids("!")]
    assert told(hinted("after_prompt", "{answer}", (3,)), CHAT) == [7, 8, 3]


def test_in_the_turn_of_the_user_the_conversation_is_rendered_anew():
    turns = ({"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": "2"},
             {"role": "user", "content": "2 + {answer} ="})  # fmt: skip
    (found,) = encode_prompts([told(hinted("in_user_turn", TURN, "4 {prompt}", turns), CHAT)], CHAT)
    last = "2 + {answer} = Told: 4 {prompt}. Solve 2 + {answer} ="  # braces of prompt and answer are left alone
    assert CHAT.decode(found) == f"<|user|>1 + 1 =<|assistant|>2<|user|>{last}<|assistant|>"
    assert turns[2]["content"] == "2 + {answer} ="


def test_a_plain_prompt_is_filled_in_and_ids_are_decoded():
    assert told(hinted("in_user_turn", TURN, "2"), CHAT) == "1 + 1 = Told: 2. Solve 1 + 1 ="
    assert told(hinted("in_user_turn", "{prompt}|{answer}", tuple(ids("1 + 1"))), CHAT) == "1 + 1 =|1 + 1"


def test_own_tasks_put_in_tokens_of_their_own():
    given = Hinted((2, 7, 14), {}, "after_prompt", "?{answer}=", "9")
    assert spliced(given, lambda text: list(map(ord, text))) == [2, 7, 14, ord("?"), ord("9"), ord("=")]


def digits(**unknown: str) -> Any:
    """A tokenizer of single characters; what is none of them is unknown, or an error of the tokenizer."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {c: i for i, c in enumerate(["<unk>" if unknown else "<none>", *"0123456789?="])}
    backend = Tokenizer(models.WordLevel(vocabulary, **unknown))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **unknown)


@pytest.mark.parametrize("tokenizer", [digits(), digits(unk_token="<unk>")], ids=["raises", "unknown"])
def test_an_answer_without_tokens_is_refused_by_row(tokenizer):
    assert told(hinted("after_prompt", "?{answer}=", "9"), tokenizer) == [7, 8, 11, 10, 12]
    for answer in ("9z", ""):
        with pytest.raises(UserError, match=f"p5: reference answer '{answer}' cannot be put into the model's tokens"):
            told(hinted("after_prompt", "?{answer}=", answer), tokenizer)


def test_a_prompt_that_is_not_known_and_a_conversation_without_a_user_are_refused():
    with pytest.raises(UserError, match="p5: the prompt is not known as text"):
        told(Hinted((1,), {"id": "p5"}, "in_user_turn", TURN, "2"), CHAT)
    with pytest.raises(UserError, match="p5: the conversation has no turn of the user"):
        told(hinted("in_user_turn", TURN, "2", ({"role": "system", "content": "x"},)), CHAT)


def test_the_thinking_of_a_response_is_left_out():
    given = Hinted((7, 8), {"id": "p5"}, "after_prompt", " ={answer}", tuple(ids("1 + 1 </t> 1 </t> 2")), "</t>")
    assert told(given, CHAT) == [7, 8, *ids(" =2")]
    with pytest.raises(UserError, match="behind: responses of this task are no text"):
        spliced(given, ids)


def test_feedback_stands_in_its_place_and_what_looks_like_a_place_in_it_is_left_alone():
    said = "got {answer}, {prompt} or {feedback}"
    alone = Hinted((7, 8), {"id": "p5", "prompt": "1 + 1 ="}, "in_user_turn", "{prompt} No: {feedback}.", "", "", said)
    assert told(alone, CHAT) == f"1 + 1 = No: {said}."
    both = Hinted((7, 8), alone.row, "in_user_turn", "{prompt}|{answer}|{feedback}", tuple(ids("2")), "", said)
    assert told(both, CHAT) == f"1 + 1 =|2|{said}"
    after = Hinted((7, 8), alone.row, "after_prompt", " ={answer}! {feedback}.", (3, 4), "", "no")
    assert told(after, CHAT) == [7, 8, *ids(" ="), 3, 4, *ids("! no.")]
    words = Hinted((7, 8), alone.row, "after_prompt", " {feedback}.", "", "", said)
    assert told(words, CHAT) == [7, 8, *ids(f" {said}.")]
