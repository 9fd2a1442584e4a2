"""Rows to token tensors: exact boundaries, one end, and a truncation policy that says what it did."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH
from steersman.language.build import train_tokenizer
from steersman.language.encode import Truncation, encode_completions, encode_pairs, encode_prompts
from steersman.language.records import Completion, Pair, Rated

CHATML = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
EOS = 0


def bytes_only(**options):
    """A tokenizer with one token a byte, so that lengths are those of the text."""
    return train_tokenizer(["x"], 300, **options)


TOKENIZER = bytes_only(special=["<|turn|>"], chat_template=CHATML)


def text(rollouts, row: int, part: str) -> str:
    p, n = int(rollouts.prompt_length[row]), int(rollouts.length[row])
    return TOKENIZER.decode(rollouts.ids[row, :p] if part == "prompt" else rollouts.ids[row, p:n])


def test_completions_and_their_masks() -> None:
    rows = [Completion(1, "ab", "cde", 2.0), Completion(2, "a", "b")]
    r = encode_completions(rows, TOKENIZER).data
    assert r.length.tolist() == [6, 3]
    assert r.prompt_length.tolist() == [2, 1]
    assert r.action.tolist() == [[False] * 2 + [True] * 4, [False, True, True] + [False] * 3]
    assert r.ids[0, 5] == r.ids[1, 2] == EOS
    assert text(r, 0, "prompt") == "ab"
    assert text(r, 0, "completion") == "cde<|end|>"
    assert r.weight.tolist() == [2.0, 1.0]
    assert r.stop.tolist() == [STOP_EOS] * 2
    assert r.group.tolist() == [0, 1]


@given(
    st.lists(st.tuples(st.text("abc ☃", max_size=6), st.text("abc ☃", min_size=1, max_size=9)), min_size=1, max_size=5)
)
@settings(max_examples=50, deadline=None)
def test_against_encoding_row_by_row(texts: list[tuple[str, str]]) -> None:
    r = encode_completions([Completion(i, p, c) for i, (p, c) in enumerate(texts)], TOKENIZER).data
    for i, (p, c) in enumerate(texts):
        before = TOKENIZER(p)["input_ids"] or [EOS]
        after = [*TOKENIZER(c)["input_ids"], EOS]
        assert r.ids[i, : r.length[i]].tolist() == before + after
        assert (r.ids[i, r.length[i] :] == TOKENIZER.pad_token_id).all()


def test_end_is_not_doubled_and_inner_ends_are_counted() -> None:
    encoded = encode_completions([Completion(1, "a", "b<|end|>"), Completion(2, "a", "b<|end|>c")], TOKENIZER)
    assert encoded.data.length.tolist() == [3, 5]
    assert encoded.report.inner_end == 1


def test_prompts_begin_as_the_tokenizer_would() -> None:
    assert encode_prompts(["", "a"], TOKENIZER) == [[EOS], TOKENIZER("a")["input_ids"]]
    adds = bytes_only(special=["<s>"])
    adds.bos_token = "<s>"
    adds.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <|end|>", special_tokens=[("<s>", 1), ("<|end|>", 0)]
    )
    a = adds("a", add_special_tokens=False)["input_ids"]
    assert adds("a")["input_ids"] == [1, *a, 0]
    assert encode_prompts(["a", "<s>a", ""], adds) == [[1, *a], [1, *a], [1]]
    r = encode_completions([Completion(1, "aaaa", "b")], adds, Truncation(kind="left_prompt", max_length=5)).data
    assert r.ids[0].tolist()[:3] == [1, *a, *a]  # the first token survives a cut on the left
    with pytest.raises(UserError, match="prompts, row 1: the prompt has 3 tokens"):
        encode_prompts(["a", "aaa"], TOKENIZER, max_prompt_length=2)
    with pytest.raises(UserError, match=r"^second: the prompt has 3 tokens"):
        encode_prompts(["a", "aaa"], TOKENIZER, max_prompt_length=2, places=["first", "second"])


def test_prompts_may_be_ids_already() -> None:
    assert encode_prompts(["", [7, 3], (4,), "a"], TOKENIZER) == [[EOS], [7, 3], [4], TOKENIZER("a")["input_ids"]]
    for bad in ([3, -1], [True], [1.0], ["a"]):
        with pytest.raises(UserError, match=r"^prompts, row 1: holds .* no token id"):
            encode_prompts(["a", bad], TOKENIZER)
    with pytest.raises(UserError, match="row 0: is a conversation without a turn"):
        encode_prompts([()], TOKENIZER)


def test_conversations() -> None:
    prompt, answer = ({"role": "user", "content": "Hi"},), ({"role": "assistant", "content": "Ahoy"},)
    r = encode_completions([Completion(1, prompt, answer)], TOKENIZER).data
    assert text(r, 0, "prompt") == "<|turn|>user\nHi<|end|>\n<|turn|>assistant\n"
    assert text(r, 0, "completion") == "Ahoy<|end|>"
    assert encode_prompts([prompt], TOKENIZER)[0] == r.ids[0, : r.prompt_length[0]].tolist()
    with pytest.raises(UserError, match=r"f.jsonl, line 5: .*no chat template"):
        encode_completions([Completion(5, prompt, answer)], bytes_only(), where="f.jsonl")


def test_pairs_share_the_prompt_and_carry_columns() -> None:
    rows = [Pair(1, "pp", "a", "bcd", 0.5, 0.2, 1.5, 3.0), Pair(2, "p", "x", "x<|end|>"), Pair(3, "q", "a", "b")]
    encoded = encode_pairs(rows, TOKENIZER)
    pairs = encoded.data
    assert encoded.report.dropped_identical == 1
    assert [r.line for r in encoded.rows] == [1, 3]
    assert pairs.label.tolist() == [0.5, 1.0]
    assert torch.equal(pairs.first.prompt_length, pairs.second.prompt_length)
    assert torch.equal(pairs.first.ids[0, :2], pairs.second.ids[0, :2])
    assert pairs.first.weight.tolist() == pairs.second.weight.tolist() == [3.0, 1.0]
    torch.testing.assert_close(encoded.column("flip_rate", 0.0), torch.tensor([0.2, 0.0]))
    assert encoded.column("margin").tolist() == [1.5, 0.0]
    rated = encode_completions([Rated(1, "p", "a", True), Rated(2, "p", "b", False)], TOKENIZER)
    assert rated.column("desirable").tolist() == [1.0, 0.0]


ROWS = [Pair(1, "pppp", "a", "bbb"), Pair(2, "p", "aaaaaaa", "b"), Pair(3, "p", "a", "b")]
"""With the end: 4 + (2, 4), 1 + (8, 2), 1 + (2, 2) tokens."""


def lengths(encoded):
    x = encoded.data
    return (
        [r.line for r in encoded.rows],
        x.first.prompt_length.tolist(),
        x.first.length.tolist(),
        x.second.length.tolist(),
    )


def test_refuse_names_row_and_cure() -> None:
    with pytest.raises(UserError, match=r"f, line 2: prompt and response have 1 \+ 8 tokens, more than 8") as caught:
        encode_pairs(ROWS, TOKENIZER, Truncation(max_length=8), where="f")
    assert 'truncation.kind = "drop"' in str(caught.value)
    with pytest.raises(UserError, match="line 1: the prompt has 4 tokens, more than 3"):
        encode_pairs(ROWS, TOKENIZER, Truncation(max_prompt_length=3))
    with pytest.raises(UserError, match="line 1: the prompt has 4 tokens, more than 3"):
        encode_pairs(ROWS, TOKENIZER, context=3)
    with pytest.raises(UserError, match="max_length: is 9 but the model accepts 8"):
        encode_pairs(ROWS, TOKENIZER, Truncation(max_length=9), context=8)
    assert encode_pairs(ROWS, TOKENIZER, context=9).report.rows_out == 3


def test_drop() -> None:
    encoded = encode_pairs(ROWS, TOKENIZER, Truncation(kind="drop", max_length=8))
    assert lengths(encoded) == ([1, 3], [4, 1], [6, 3], [8, 3])
    assert (encoded.report.dropped_long, encoded.report.dropped_lines) == (1, (2,))
    with pytest.raises(UserError, match="all 3 rows are longer than 2 tokens"):
        encode_pairs(ROWS, TOKENIZER, Truncation(kind="drop", max_length=2))


def test_left_prompt_cuts_both_sides_alike() -> None:
    encoded = encode_pairs(ROWS, TOKENIZER, Truncation(kind="left_prompt", max_length=6))
    assert lengths(encoded) == ([1, 3], [2, 1], [4, 3], [6, 3])
    assert (encoded.report.truncated_prompt, encoded.report.dropped_long) == (1, 1)
    assert encoded.data.first.stop.tolist() == [STOP_EOS, STOP_EOS]
    encoded = encode_pairs(ROWS, TOKENIZER, Truncation(kind="left_prompt", max_prompt_length=3))
    assert encoded.data.first.prompt_length.tolist() == [3, 1, 1]
    first = encode_completions(
        [Completion(1, "abcd", "e")], TOKENIZER, Truncation(kind="left_prompt", max_length=4)
    ).data
    assert text(first, 0, "prompt") == "cd"


def test_right_completion_loses_its_end() -> None:
    encoded = encode_pairs(ROWS, TOKENIZER, Truncation(kind="right_completion", max_length=6))
    assert lengths(encoded) == ([1, 2, 3], [4, 1, 1], [6, 6, 3], [6, 3, 3])
    assert encoded.data.first.stop.tolist() == [STOP_EOS, STOP_LENGTH, STOP_EOS]
    assert encoded.data.second.stop.tolist() == [STOP_LENGTH, STOP_EOS, STOP_EOS]
    assert not (encoded.data.first.ids[1, :6] == EOS).any()
    assert encoded.report.truncated_completion == 2
    encoded = encode_pairs(ROWS, TOKENIZER, Truncation(kind="right_completion", max_length=4))
    assert (encoded.report.dropped_lines, encoded.report.rows_out) == ((1,), 2)
    same = [Pair(1, "p", "aab", "aac"), Pair(2, "p", "a", "b")]
    report = encode_pairs(same, TOKENIZER, Truncation(kind="right_completion", max_length=3)).report
    assert (report.dropped_identical, report.rows_out) == (1, 1)


def test_report_adds_up() -> None:
    report = encode_pairs(ROWS, TOKENIZER, Truncation(kind="drop", max_length=8)).report
    assert report.rows_in == report.rows_out + report.dropped_long + report.dropped_identical
    assert (report.tokens, report.longest) == (6 + 8 + 3 + 3, 8)


def test_nothing_to_encode() -> None:
    with pytest.raises(UserError, match="no rows"):
        encode_completions([], TOKENIZER)
    with pytest.raises(UserError, match="identical sides"):
        encode_pairs([Pair(1, "p", "x", "x<|end|>")], TOKENIZER)
