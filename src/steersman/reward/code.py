"""A reward for generated programs: where the code stands in a completion, and how its verdict becomes a score.

Extraction is explicit. Fences are lines of three or more backticks or tildes after at most three blanks; a block ends
with a fence of the same sign, at least as long and without a word behind it (CommonMark 0.31, 4.5). What opens with
another language's name is not a candidate. Leaves out: running programs and what that does not protect from
(`sandbox`), grading rows (`code_grader`).
"""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from steersman.core.component import Component
from steersman.reward.answer import FOUND, Extracted
from steersman.reward.sandbox import MAX_PROGRAM

CODE_STATUSES = ("correct", "wrong", "error", "timeout", "memory", "forbidden", "crash", "no_code", "unparsable")
"""What became of a completion; all are valid grades and only the first is a success. The last two are extraction's."""
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\n`]*)$")


def fenced(
    text: str,
    which: Literal["first", "last"] = "first",
    otherwise: Literal["whole", "no_code"] = "whole",
    languages: tuple[str, ...] = ("python", "py", "python3", ""),
) -> Extracted:
    """The first (or last) fenced block of a completion.

    Args:
        text: the completion.
        which: of several blocks.
        otherwise: what a text without any such block is: code as a whole, or no code.
        languages: the first word behind an opening fence, in lower case, "" = none; other blocks do not count.

    Returns:
        code and "", or None and the status: no_code (blank, an empty block, none where `otherwise` says so) or
        unparsable (the block is not closed, or the code has more than `MAX_PROGRAM` characters).

    Edge cases: a block of another language is skipped and makes the text no code as a whole either.
    """
    blocks = list(_blocks(text))
    wanted = [b for b in blocks if b[0] in languages]
    if not wanted:
        return (None, "no_code") if blocks or otherwise == "no_code" else whole(text)
    _, code, closed = wanted[0 if which == "first" else -1]
    return whole(code) if closed else (None, "unparsable")


def whole(text: str) -> Extracted:
    """The text as it is; blank is no code."""
    if not text.strip():
        return None, "no_code"
    return (text, FOUND) if len(text) <= MAX_PROGRAM else (None, "unparsable")


def _blocks(text: str) -> Iterator[tuple[str, str, bool]]:
    """(language, content, closed) of each fenced block."""
    opened: tuple[str, str] | None = None
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened, lines = (fence[1], (fence[2].split() or [""])[0].lower()), []
        elif fence and fence[1].startswith(opened[0]) and not fence[2].strip():
            yield opened[1], "\n".join(lines) + "\n", True
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        yield opened[1], "\n".join(lines), False


class Fenced(Component):
    """A fenced block."""

    kind: Literal["fenced"] = "fenced"
    which: Literal["first", "last"] = Field("first", description="Which of several blocks counts.")
    otherwise: Literal["whole", "no_code"] = Field(
        "whole", description="What a completion without a block is: code as a whole, or no code."
    )
    languages: tuple[str, ...] = Field(
        ("python", "py", "python3", ""), min_length=1, description='Words behind the fence that count; "" = none.'
    )

    def __call__(self, text: str) -> Extracted:
        """`fenced`."""
        return fenced(text, self.which, self.otherwise, self.languages)


class WholeCode(Component):
    """The completion as it is."""

    kind: Literal["whole"] = "whole"

    def __call__(self, text: str) -> Extracted:
        """`whole`."""
        return whole(text)


CodeExtractor = Annotated[Fenced | WholeCode, Field(discriminator="kind")]


class CodeReward(Component):
    """Programs judged by what their functions return on the tests of the prompt's row."""

    kind: Literal["code"] = "code"
    extract: CodeExtractor = Field(Fenced(), description="Where the code stands in the completion.")
    backend: Literal["monty", "subprocess"] = Field(
        "monty", description="The isolated interpreter, or all of Python in a confined process (not for hostile code)."
    )
    score: Literal["all", "fraction"] = Field("all", description="1 if every test passes, or the share that passes.")
    format_bonus: float = Field(0.0, ge=0.0, lt=1.0, description="Added where code was found.")
    tolerance: float | None = Field(
        None, ge=0.0, lt=1.0, description="For floats, |a - b| <= tolerance max(1, |b|); absent: they must be equal."
    )
    seconds: float = Field(2.0, ge=0.01, le=3600.0, description="Time of a program, all its tests together.")
    memory: int = Field(64, ge=1, le=2**20, description="MiB of a program.")
    runs: Literal[1, 2] = Field(
        1, description="2: every program runs twice; where the runs differ, the row is invalid."
    )
    workers: int | None = Field(None, ge=1, description="Programs at the same time; absent: one for each processor.")
    max_invalid: float = Field(0.1, ge=0.0, le=1.0, description="Share of invalid rows above which the run stops.")
