"""What `steersman data check` finds, on files small enough to count by hand."""

import json
from pathlib import Path

import pytest

from steersman.core.errors import UserError
from steersman.language.build import train_tokenizer
from steersman.language.data_check import check_file

TOKENIZER = train_tokenizer(["x"], 300)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def pair(prompt: str, chosen: str, rejected: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def test_pairs(tmp_path: Path) -> None:
    report = check_file(
        write(
            tmp_path / "a.jsonl",
            pair("p", "good", "bad", id=3),
            pair("p", "good", "bad"),
            pair("P ", "Good", "ｂａｄ"),
            pair("p", "bad", "good"),
            pair("p", "same", "same"),
            "{",
            pair("q", "long answer", "no", label=0.5),
            {"prompt": "p", "chosen": "a"},
            pair("q", "yes", "no", label=0.1),
        )
    )
    assert (report.format, report.rows) == ("pairs", 6)
    assert [p.line for p in report.problems] == [6, 8]
    assert report.duplicates == (2,)
    assert report.near_duplicates == (3,)
    assert report.contradictions == (4,)
    assert report.identical == (5,)
    assert report.labels == {"chosen better": 4, "tie": 1, "rejected better": 1}
    assert report.ignored == {"id": 1}
    assert (report.characters["chosen"].smallest, report.characters["chosen"].largest) == (3, 11)
    assert (report.tokens, report.leakage) == ({}, None)
    assert not report.clean
    assert json.loads(json.dumps(report.as_dict()))["problems"][0]["line"] == 6


def test_label_below_a_half_is_not_a_contradiction_of_swapped_sides(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", pair("p", "a", "b"), pair("p", "b", "a", label=0.0), pair("p", "a", "b", label=0)
    )
    assert check_file(path).contradictions == (3,)


def test_ratings_and_clean_file(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c"}
    path = write(
        tmp_path / "a.jsonl", row | {"label": True}, row | {"label": False}, row | {"completion": "d", "label": 1}
    )
    report = check_file(path)
    assert report.labels == {"desirable": 2, "undesirable": 1}
    assert report.contradictions == (2,)
    assert report.clean


def test_leakage(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", {"prompt": "one", "completion": "c"}, {"text": "A text."})
    held = write(
        tmp_path / "b.jsonl",
        {"prompt": "One", "completion": "other"},
        {"prompt": "two", "completion": "c"},
        {"prompt": " one", "completion": "C"},
        {"text": "a  text."},
        {"text": "b"},
        "?",
    )
    report = check_file(train, held)
    assert report.leakage is not None
    assert (report.leakage.rows_in_eval, report.leakage.prompts, report.leakage.rows) == (5, (1, 3), (3, 4))
    assert [p.line for p in report.eval_problems] == [6]
    assert not report.clean


def test_tokens_and_context(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", pair("p", "aaa", "b"), pair("ppppp", "a", "b"), pair("pp", "a" * 9, "b"))
    report = check_file(path, tokenizer=TOKENIZER, context=4)
    assert (report.tokens["prompt"].largest, report.tokens["chosen"].smallest) == (5, 2)
    assert report.tokens["longest row"].largest == 2 + 9 + 1
    assert report.over_context == (1, 2, 3)
    assert report.long_prompts == (2,)
    assert not report.clean
    assert check_file(path, tokenizer=TOKENIZER, context=5).long_prompts == ()


def test_conversation_without_template_is_a_broken_row(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]}
    path = write(tmp_path / "a.jsonl", chat, {"prompt": "p", "completion": "c"})
    assert check_file(path).clean
    report = check_file(path, tokenizer=TOKENIZER)
    assert [p.line for p in report.problems] == [1]
    assert "no chat template" in report.problems[0].what


def test_a_file_without_a_json_object_names_its_first_line_and_why(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for text, more in (("\n3\n", ""), ("\n3\nx\n", "None of the 2 lines of the file is a JSON object.")):
        path.write_text(text)
        with pytest.raises(UserError, match="line 2: is a number, not a JSON object") as caught:
            check_file(path)
        assert caught.value.cure == more


def test_unreadable_file_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        check_file(tmp_path / "none.jsonl")
