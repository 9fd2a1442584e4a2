"""Finding and comparing answers: cases that graders get wrong, and properties over generated texts."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.reward.answer import (
    FOUND,
    MAX_ANSWER,
    Between,
    Exact,
    FirstBlock,
    LastBoxed,
    LastLine,
    Numeric,
    WholeText,
    between,
    first_block,
    last_boxed,
    last_line,
    normalise,
    parse_number,
    whole_text,
)

NONE, BROKEN = (None, "no_answer"), (None, "unparsable")
PLAIN = st.text(alphabet=st.characters(blacklist_characters="\\{}<>\n", blacklist_categories=["Cs"]), max_size=30)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{5}.", ("5", FOUND)),
        (r"\boxed{1} then \boxed{2}", ("2", FOUND)),
        (r"\boxed{\frac{1}{2}}", (r"\frac{1}{2}", FOUND)),
        (r"\boxed{\{1, 2\}}", (r"\{1, 2\}", FOUND)),
        (r"\boxed{ a }", ("a", FOUND)),
        (r"\fbox{7}", ("7", FOUND)),
        (r"\boxed {7}", ("7", FOUND)),
        (r"\boxed{\boxed{3}}", ("3", FOUND)),
        ("\\boxed{1\n2}", ("1\n2", FOUND)),
        (r"\boxed{1} and \boxed{2", BROKEN),  # no falling back to the box before
        (r"\boxed{\}", BROKEN),
        (r"\boxed{}", BROKEN),
        ("boxed{5}", NONE),
        (r"\boxed 5", NONE),
        ("", NONE),
    ],
)
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected == LastBoxed()(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: 5", ("5", FOUND)),
        ("Answer: 4\nAnswer: 5\nbye", ("5", FOUND)),
        ("  **Answer:** 5 **", ("5", FOUND)),
        ("Answer: 5\r\n", ("5", FOUND)),
        ("Answer: 4\nAnswer:", BROKEN),
        ("The Answer: 5", NONE),
        ("answer: 5", NONE),
        ("", NONE),
    ],
)
def test_last_line(text, expected):
    assert last_line(text) == expected == LastLine()(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer> 5 </answer>", ("5", FOUND)),
        ("<answer>5</answer><answer>6</answer>", ("5", FOUND)),
        ("6 <answer>5", BROKEN),
        ("<answer></answer>", BROKEN),
        ("</answer>5", NONE),
        ("the answer is 5", NONE),
    ],
)
def test_first_block(text, expected):
    assert first_block(text) == expected == FirstBlock()(text)


def test_between_and_whole():
    assert between("#1;#2;", "#", ";") == ("1", FOUND)
    assert Between(start="#", end=";", which="last")("#1;#2;") == ("2", FOUND)
    assert between("#1;#2", "#", ";", "last") == BROKEN
    assert between("##", "##", "##") == BROKEN  # the end is looked for behind the start
    assert whole_text(" 5 \n") == ("5", FOUND) == WholeText()(" 5 \n")
    assert whole_text(" \n") == NONE
    assert whole_text("1" * (MAX_ANSWER + 1)) == BROKEN


@settings(max_examples=60, deadline=None)
@given(PLAIN, PLAIN.filter(str.strip), PLAIN)
def test_what_was_put_in_is_found(before, answer, after):
    found = (answer.strip(), FOUND)
    assert last_boxed(f"{before}\\boxed{{{answer}}}{after}") == found
    assert first_block(f"{before}<answer>{answer}</answer>{after}") == found
    assert between(f"{before}<<{answer}>>{after}", "<<", ">>") == found


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_an_answer_or_a_status_of_failure(text):
    for extract in (LastBoxed(), LastLine(), FirstBlock(), WholeText(), Between(start="a", end="b")):
        answer, status = extract(text)
        assert (answer is None) == (status != FOUND)
        assert status in (FOUND, "no_answer", "unparsable")


def test_exact():
    assert Exact()("a  b", " a b ") == (1.0, "correct")
    assert Exact()("e\u0301", "\u00e9") == (1.0, "correct")
    assert Exact()("A", "a") == (0.0, "wrong")
    assert Exact(ignore_case=True)("A", "a") == (1.0, "correct")
    assert normalise("10\u00b2") != "102"
    assert Exact().check_reference(" ") == "is empty"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-1,250.50", Fraction(-2501, 2)),
        (".5", Fraction(1, 2)),
        ("3e-4", Fraction(3, 10_000)),
        ("2 / 3", Fraction(2, 3)),
        ("-2/-3", Fraction(2, 3)),
        ("$7", 7),
        ("7.", 7),
        ("\u22123", -3),
        ("+0", 0),
    ],
)
def test_numbers_are_read_exactly(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", ".", "-", "e5", "1,25", "1/0", "1/2/3", "50%", "five", "nan", "inf", "0x10", "1_000", "1e99999", "1e401", "٣",
     "1 2", "9" * 500, "1e-"],
)  # fmt: skip
def test_what_is_no_number(text):
    assert parse_number(text) is None


def test_numeric_within_its_tolerance():
    assert Numeric()("0.5", "1/2") == (1.0, "correct")
    assert Numeric()("12345678901234567891", "12345678901234567890") == (0.0, "wrong")  # equal as floats
    assert Numeric()("0.3333", "1/3") == (0.0, "wrong")
    assert Numeric(absolute=1e-3)("0.3333", "1/3") == (1.0, "correct")
    assert Numeric(relative=0.01)("99", "100") == (1.0, "correct")
    assert Numeric(relative=0.01)("98.9", "100") == (0.0, "wrong")
    assert Numeric()("half", "1/2") == (0.0, "unparsable")
    assert Numeric().check_reference("half") == "is not a number"


@settings(max_examples=60, deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_a_fraction_reads_back(value):
    assert parse_number(f"{value.numerator}/{value.denominator}") == value


@settings(max_examples=60, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_reads_back(value):
    assert float(parse_number(repr(value))) == value
