"""Rows from files: every usual format, and every fault named with file and line."""

import json
from pathlib import Path

import pytest

from steersman.core.errors import UserError
from steersman.language.jsonl import MAX_LINE_BYTES, Problems
from steersman.language.records import Completion, Pair, Rated, detect, read_completions, read_pairs, read_rated

USER, GOOD, BAD = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ahoy"},
    {"role": "assistant", "content": "No"},
)
PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def write(folder: Path, *rows: object, end: str = "\n", start: bytes = b"") -> Path:
    path = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes(start + "".join(line + end for line in lines).encode())
    return path


def test_completion_formats(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"prompt": "p", "completion": "c", "weight": 2},
        {"text": "t", "id": 7},
        {"messages": [USER, GOOD]},
        {"prompt": [USER], "completion": [GOOD]},
        {"prompt": "Hi", "completion": [GOOD]},
        {"prompt": [USER], "completion": "Ahoy"},
    )
    records = read_completions(path)
    assert records.rows[:2] == (Completion(1, "p", "c", 2.0), Completion(2, "", "t"))
    assert [(r.prompt, r.completion) for r in records.rows[2:]] == [((USER,), (GOOD,))] * 4
    assert records.ignored == {"id": 1}
    assert detect(path) == "completions"


def test_pair_formats(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        PAIR | {"label": 0.5, "flip_rate": 0.2, "margin": 1.5, "weight": 3},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "", "chosen": "a", "rejected": "b"},
    )
    records = read_pairs(path)
    assert records.rows[0] == Pair(1, "p", "a", "b", 0.5, 0.2, 1.5, 3.0)
    assert [(r.prompt, r.chosen, r.rejected) for r in records.rows[1:6]] == [((USER,), (GOOD,), (BAD,))] * 5
    assert records.rows[6].prompt == ""
    assert (records.ties, records.ignored) == (1, {})
    assert detect(path) == "pairs"


def test_implicit_prompt_is_the_longest_common_beginning(tmp_path: Path) -> None:
    path = write(tmp_path, {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, GOOD, USER, BAD]})
    (row,) = read_pairs(path).rows
    assert (row.prompt, row.chosen, row.rejected) == ((USER, GOOD, USER), (GOOD,), (BAD,))


def test_system_turn_of_the_sides_joins_a_text_prompt(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    path = write(tmp_path, {"prompt": "Hi", "chosen": [system, USER, GOOD], "rejected": [system, USER, BAD]})
    (row,) = read_pairs(path).rows
    assert (row.prompt, row.chosen, row.rejected) == ((system, USER), (GOOD,), (BAD,))


def test_identical_sides_are_dropped_and_counted(tmp_path: Path) -> None:
    same = {"chosen": [USER, GOOD], "rejected": [USER, GOOD]}
    records = read_pairs(write(tmp_path, PAIR, PAIR | {"rejected": "a"}, same, PAIR))
    assert [r.line for r in records.rows] == [1, 4]
    assert records.identical == (2, 3)
    with pytest.raises(UserError, match="no usable row: all 1 pairs have identical sides"):
        read_pairs(write(tmp_path, PAIR | {"rejected": "a"}))


def test_rated(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c"}
    path = write(
        tmp_path, row | {"label": True}, row | {"label": 0}, {"prompt": [USER], "completion": [GOOD], "label": 1}
    )
    assert read_rated(path).rows == (
        Rated(1, "p", "c", True),
        Rated(2, "p", "c", False),
        Rated(3, (USER,), (GOOD,), True),
    )
    assert detect(path) == "rated"


def test_byte_order_mark_crlf_blank_lines_and_no_last_newline(tmp_path: Path) -> None:
    path = write(tmp_path, PAIR, "", PAIR | {"prompt": "zwei ☃"}, end="\r\n", start=b"\xef\xbb\xbf")
    path.write_bytes(path.read_bytes().rstrip())
    rows = read_pairs(path).rows
    assert [(r.line, r.prompt) for r in rows] == [(1, "p"), (3, "zwei ☃")]


def test_the_message_of_a_missing_field(tmp_path: Path) -> None:
    path = write(tmp_path, PAIR, PAIR, {"prompt": "p", "chosen": "a"})
    with pytest.raises(UserError) as caught:
        read_pairs(path)
    assert str(caught.value) == (
        f'{path}, line 3: "rejected" is missing (found: prompt, chosen). 2 rows before it are fine.\n'
        f"       See them all with: steersman data check {path}"
    )


PAIR_FAULTS = [
    ('{"prompt": "p", ', "not valid JSON"),
    ("[1, 2]x", "not valid JSON"),
    ('{"prompt": "p"', "column 15"),
    ('"text"', "is text, not a JSON object"),
    ("null", "is null, not a JSON object"),
    ('{"prompt": "p", "prompt": "q", "chosen": "a", "rejected": "b"}', '"prompt" stands twice'),
    ('{"prompt": "p", "chosen": "a", "rejected": NaN}', "holds NaN"),
    ('{"prompt": "p", "chosen": "\\ud83d", "rejected": "b"}', "surrogate"),
    ('{"a":' * 100_000, "nested too deeply"),
    (PAIR | {"chosen": 3}, '"chosen" is a number, not text'),
    (PAIR | {"chosen": None}, '"chosen" is null'),
    (PAIR | {"rejected": ""}, '"rejected" is empty'),
    (PAIR | {"rejected": " \n"}, '"rejected" is empty'),
    (PAIR | {"rejected": []}, '"rejected" is empty'),
    (PAIR | {"chosen": [GOOD]}, '"chosen" is a conversation but "rejected" is text'),
    ({"chosen": "a", "rejected": "b"}, '"prompt" is missing'),
    ({"chosen": [GOOD], "rejected": [BAD]}, "do not begin with the same turn"),
    (PAIR | {"prompt": [USER], "chosen": [{"role": "assistant"}]}, '"content" is missing'),
    (PAIR | {"prompt": [USER], "chosen": [{"role": "assistant", "content": None}]}, '"content" is null'),
    (PAIR | {"prompt": [USER], "chosen": [{"role": "assistant", "content": ""}]}, "is empty"),
    (PAIR | {"prompt": ["Hi"]}, '"prompt", turn 1 is text'),
    (PAIR | {"prompt": [USER], "chosen": [USER, USER], "rejected": [USER, BAD]}, 'turn by "user", not by "assistant"'),
    (PAIR | {"label": 1.5}, r'"label" is 1.5 \(allowed: \[0, 1\]\)'),
    (PAIR | {"label": True}, '"label" is true, not a number'),
    (PAIR | {"flip_rate": 0.5}, r'"flip_rate" is 0.5 \(allowed: \[0, 0.5\)\)'),
    (PAIR | {"flip_rate": -0.1}, '"flip_rate" is -0.1'),
    (PAIR | {"weight": -1}, '"weight" is -1'),
    ('{"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1e999}', '"margin" is inf'),
    (PAIR | {"margin": "2"}, '"margin" is text'),
]


@pytest.mark.parametrize("row, message", PAIR_FAULTS)
def test_faults_of_pairs(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path, PAIR, row, PAIR)
    with pytest.raises(UserError, match=message) as caught:
        read_pairs(path)
    assert f"{path}, line 2: " in str(caught.value)
    assert "1 row before it is fine" in str(caught.value)
    problems = Problems()
    assert [r.line for r in read_pairs(path, problems).rows] == [1, 3]
    assert [p.line for p in problems.found] == [2]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "p"}, '"completion" is missing'),
        ({"question": "p"}, r'none of "completion", "messages", "text" is there \(found: question\)'),
        ({"text": ["a"]}, "turn 1 is text"),
        ({"messages": "Hi"}, '"messages" is text'),
        ({"messages": [USER]}, "must end with a turn"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "the last turn is empty"),
        ({"prompt": "p", "completion": {"a": 1}}, "is an object"),
        ({}, "found: nothing"),
    ],
)
def test_faults_of_completions(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_completions(write(tmp_path, row))


@pytest.mark.parametrize("label", ["yes", None, 0.5, [], 2])
def test_faults_of_ratings(tmp_path: Path, label: object) -> None:
    row = {"prompt": "p", "completion": "c"}
    with pytest.raises(UserError, match=r'"label" is .*, not true or false'):
        read_rated(write(tmp_path, row | {"label": label}))
    with pytest.raises(UserError, match='"label" is missing'):
        read_rated(write(tmp_path, row))


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(UserError, match="does not exist"):
        read_pairs(path)
    with pytest.raises(UserError, match="is a directory"):
        read_pairs(tmp_path)
    for content, message in (
        (b"", "is empty"),
        (b"\n \r\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\x1f\x8b\x08", "is a gzip file"),
        (b"PAR1....", "is a Parquet file"),
        (b"{\x00}", "is a binary file"),
        ('{"a": 1}'.encode("utf-16"), "is UTF-16"),
        (b'  [{"prompt": "p"}]', "is one JSON array"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_pairs(path)
    path.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match="line 1: is not UTF-8"):
        read_pairs(path)
    path.write_bytes(b'{"prompt": "' + b"x" * MAX_LINE_BYTES + b'"}\n' + json.dumps(PAIR).encode())
    problems = Problems()
    assert [r.line for r in read_pairs(path, problems).rows] == [2]
    assert "longer than" in problems.found[0].what


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1: unknown format \(found: instruction, output\)"):
        detect(write(tmp_path, {"instruction": "a", "output": "b"}))
    with pytest.raises(UserError, match=r"line 1: is not valid JSON[^\n]*\n *None of the 2 lines of the file"):
        detect(write(tmp_path, "{", "3"))
