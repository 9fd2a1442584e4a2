"""Responses as text, and stop strings: found exactly where the text of the tokens so far first contains one."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from steersman.core import noise
from steersman.core.errors import UserError
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.language import text as under_test
from steersman.language.build import SmallModel, build_model, train_tokenizer
from steersman.language.decode import generate
from steersman.language.text import StopStrings, check_stop_strings, response_texts, token_texts

TEXTS = ["the end of the film", "The END. naïve café 🙂 日本語", "Observation: then\n\nQuestion: the end"] * 4


def byte_level() -> Any:
    return train_tokenizer(TEXTS, 300, special=["<|user|>"])


def sentencepiece_like() -> Any:
    """Words with a leading space mark, bytes for what is not in the vocabulary, as Llama 2 decodes them."""
    pieces = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *"▁abcdENDe", "▁the", "▁end", "nd", "▁END"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [("n", "d")] if "n" in vocab else []
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {"byte level": byte_level(), "sentencepiece": sentencepiece_like()}


def first_stop(strings: list[str], tokenizer: Any, prompt: list[int], ids: list[int]) -> int | None:
    """By brute force: the number of tokens after which the response's whole text contains a stop string."""
    decode = lambda x: tokenizer.decode(x, skip_special_tokens=False, clean_up_tokenization_spaces=False)  # noqa: E731
    for n in range(1, len(ids) + 1):
        if any(s in decode(prompt + ids[:n])[len(decode(prompt)) :] for s in strings):
            return n
    return None


def found_at(strings: list[str], tokenizer: Any, prompt: list[int], ids: list[int]) -> int | None:
    stops = StopStrings(strings, tokenizer, [prompt])
    return next((n for n, token in enumerate(ids, 1) if stops.extend([0], [token])[0]), None)


@pytest.mark.parametrize(
    "response, strings",
    [
        ("the film. The END. and", ["END."]),
        ("the film\n\nQuestion: what", ["\nQuestion"]),
        ("naïve café 🙂 and 日本語", ["🙂"]),
        ("naïve café 🙂 and 日本語", ["本", "zzz"]),
        ("ends <|user|> here", ["<|user|>"]),
        ("the end of the film", [" "]),
        ("nothing here", ["absent"]),
    ],
)
def test_across_token_borders(response: str, strings: list[str]) -> None:
    tokenizer = TOKENIZERS["byte level"]
    prompt, ids = tokenizer("Say it:")["input_ids"], tokenizer(response)["input_ids"]
    single = [i for c in response for i in tokenizer(c)["input_ids"]]  # a token a character, or a byte
    for row in (ids, single):
        assert found_at(strings, tokenizer, prompt, row) == first_stop(strings, tokenizer, prompt, row)
    hit = found_at(strings, tokenizer, prompt, single)
    assert (hit is None) == (strings == ["absent"])


@given(st.sampled_from(sorted(TOKENIZERS)), st.data())
@settings(max_examples=150, deadline=None)
def test_any_tokens(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    token = st.integers(0, len(tokenizer) - 1)
    prompt = [tokenizer.convert_tokens_to_ids("e")] * 2
    ids = data.draw(st.lists(token, min_size=1, max_size=25))
    whole = tokenizer.decode(prompt + ids, clean_up_tokenization_spaces=False)
    pieces = st.text(st.sampled_from(sorted(set(whole) - {"\ufffd"}) or ["a"]), min_size=1, max_size=3)
    cut = data.draw(st.integers(0, max(len(whole) - 1, 0)))
    strings = [s for s in (whole[cut : cut + 3],) if s and "\ufffd" not in s] + [data.draw(pieces)]
    assert found_at(strings, tokenizer, prompt, ids) == first_stop(strings, tokenizer, prompt, ids)


def test_a_string_that_begins_in_the_prompt_does_not_count() -> None:
    tokenizer = TOKENIZERS["byte level"]
    prompt, ids = tokenizer("the EN")["input_ids"], tokenizer("D. and END")["input_ids"]
    assert found_at(["END"], tokenizer, prompt, ids) == len(ids)


def test_first_word_keeps_its_space() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    the, end = tokenizer.convert_tokens_to_ids(["▁the", "▁END"])
    assert found_at([" END"], tokenizer, [the], [end]) == 1
    r = Rollouts.of(torch.tensor([[the, end, the]]), torch.tensor([3]), torch.tensor([1]))
    assert response_texts(r, tokenizer) == [" END the"]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(alphabet="abcdEND the\n🙂é日", max_size=20))
@settings(deadline=None, max_examples=40)
def test_the_texts_of_tokens_are_those_of_the_row(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text, add_special_tokens=False) or [5]
    rows = Rollouts.of(torch.tensor([[*ids, 0, 0]]), torch.tensor([len(ids)]), torch.tensor([0]))
    (found,) = token_texts(rows, tokenizer)
    assert len(found) == len(ids)
    assert "".join(found) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_the_last_token_of_a_character_adds_it_and_special_tokens_are_spelt_out() -> None:
    tokenizer = TOKENIZERS["byte level"]
    ids = tokenizer.encode("a🙂<|user|>b", add_special_tokens=False)
    rows = Rollouts.of(torch.tensor([ids]), torch.tensor([len(ids)]), torch.tensor([0]))
    (found,) = token_texts(rows, tokenizer)
    assert [t for t in found if t] == ["a", "🙂", "<|user|>", "b"]
    cut = Rollouts.of(torch.tensor([ids[:2]]), torch.tensor([2]), torch.tensor([0]))
    if found[1] == "":  # the character is spread over tokens: where it never ends, that is said
        assert token_texts(cut, tokenizer) == [["a", "\ufffd"]]


def test_response_texts() -> None:
    tokenizer = TOKENIZERS["byte level"]
    eos = tokenizer.eos_token_id
    rows = [(tokenizer(p)["input_ids"], tokenizer(c)["input_ids"]) for p, c in [("café", " 🙂"), ("the", " film")]]
    ids = torch.full((2, 30), 9)
    for i, (p, c) in enumerate(rows):
        ids[i, : len(p) + len(c) + 1] = torch.tensor([*p, *c, eos])
    lengths = torch.tensor([[len(p) + len(c) + 1, len(p)] for p, c in rows])
    r = Rollouts.of(ids, lengths[:, 0], lengths[:, 1])
    assert response_texts(r, tokenizer) == [" 🙂", " film"]
    assert response_texts(r, tokenizer, special=True) == [" 🙂<|end|>", " film<|end|>"]


class Counting:
    """A tokenizer that counts the ids it decodes."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.ids = inner, 0

    def batch_decode(self, rows: list[list[int]], **options: Any) -> list[str]:
        self.ids += sum(map(len, rows))
        return self.inner.batch_decode(rows, **options)


@pytest.mark.parametrize("kind", ["text", "not text"])
def test_cost_is_linear(kind: str) -> None:
    tokenizer = Counting(TOKENIZERS["byte level"])
    broken = tokenizer.inner.convert_tokens_to_ids("ĩ")  # the byte 0x87, which only continues a character
    n = 400
    ids = tokenizer.inner("the film " * n)["input_ids"][:n] if kind == "text" else [broken] * n
    assert found_at(["zz"], tokenizer, [], ids) is None
    most = 4 if kind == "text" else 2 * under_test.MOST_PENDING + under_test.MOST_PENDING
    assert tokenizer.ids <= most * n


@pytest.fixture(scope="module")
def model():
    made = build_model(SmallModel(width=16, layers=1, heads=2, context=64, tie=False), 300, 0)
    noise.normal_([("head", made.get_output_embeddings().weight)], 0.1, 3, "test")
    return made.eval()


@pytest.mark.parametrize("batch_tokens", [32_768, 1])
def test_generate_ends_where_the_text_first_contains_one(model, batch_tokens: int) -> None:
    tokenizer = TOKENIZERS["byte level"]
    eos, prompts, strings = tokenizer.eos_token_id, [[30, 31], [40], [50, 51, 52]], ["e", "th", "\x05"]
    common: dict[str, Any] = {"max_new_tokens": 30, "stop_ids": eos, "seed": 3, "samples_per_prompt": 12}
    plain = generate(model, prompts, **common)
    cut = generate(
        model, prompts, **common, stop_strings=strings, tokenizer=tokenizer, batch_tokens=batch_tokens
    ).check()
    hits = 0
    for i in range(len(plain)):
        prompt = prompts[i // 12]
        whole = plain.ids[i, len(prompt) : plain.length[i]].tolist()
        n = first_stop(strings, tokenizer, prompt, whole)
        mine = cut.ids[i, len(prompt) : cut.length[i]].tolist()
        assert mine == whole[:n]
        assert cut.action[i].sum() == len(mine)
        hits += n is not None
        assert cut.stop[i] == (STOP_EOS if n is not None or whole[-1] == eos else STOP_LENGTH)
    assert 5 < hits < len(plain)


def test_bad_strings(model) -> None:
    tokenizer = TOKENIZERS["byte level"]
    with pytest.raises(UserError, match="need a tokenizer"):
        generate(model, [[1]], max_new_tokens=2, stop_ids=0, seed=0, stop_strings="x")
    with pytest.raises(UserError, match="empty"):
        check_stop_strings(["a", ""], tokenizer)
    assert check_stop_strings("a", tokenizer) == ("a",)
    assert check_stop_strings((), None) == ()
