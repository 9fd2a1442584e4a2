"""How an answer is found in a completion and compared with the reference: explicit rules, one component each.

An extractor is a pure function text -> (answer or None, status); a comparator says (score, status) of an answer and a
reference. A rule never falls back to another rule: a box that is not closed is unparsable although the text may hold a
number elsewhere. Leaves out: time limits and batches (`verifiable`), comparators from packages (`comparators`).
"""

import re
import unicodedata
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from steersman.core.component import Component

STATUSES = ("correct", "wrong", "unparsable", "no_answer", "looping", "crashing")
"""What became of a response. All are valid grades; only the first is a success. `looping` and `crashing` are answers on
which a comparison did not end in time or failed."""
FOUND = ""
"""The extractors' status of success."""
MAX_ANSWER = 10_000
"""Characters; a longer answer is unparsable."""
_MAX_EXPONENT = 400
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)?(?:\.(\d*))?(?:[eE]([+-]?\d{1,5}))?")
_MARKUP = " \t\r*_#>"

Extracted = tuple[str | None, str]


def last_boxed(text: str) -> Extracted:
    r"""Content of the last ``\boxed{...}`` or ``\fbox{...}``, braces balanced (``\{`` and ``\}`` do not count).

    Edge cases: of a box in a box the inner one; an empty box, or a last one that is not closed, is unparsable.
    """
    starts = [m.end() for m in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]
    if not starts:
        return None, "no_answer"
    depth = 1
    for m in re.compile(r"\\.|[{}]", re.S).finditer(text, starts[-1]):
        depth += {"{": 1, "}": -1}.get(m[0], 0)
        if depth == 0:
            return _answer(text[starts[-1] : m.start()])
    return None, "unparsable"


def last_line(text: str, label: str = "Answer:") -> Extracted:
    """What follows `label` on the last line that begins with it; blanks and ``* _ # >`` around both are dropped.

    Edge cases: nothing after the label is unparsable, also where an earlier line had an answer.
    """
    for line in reversed(text.split("\n")):
        bare = line.lstrip(_MARKUP)
        if bare.startswith(label):
            return _answer(bare[len(label) :].strip(_MARKUP))
    return None, "no_answer"


def first_block(text: str, tag: str = "answer") -> Extracted:
    """What stands in the first ``<tag>...</tag>``; an opened block that is not closed is unparsable."""
    return between(text, f"<{tag}>", f"</{tag}>")


def between(text: str, start: str, end: str, which: Literal["first", "last"] = "first") -> Extracted:
    """What stands between the first (or last) `start` and the next `end`; without that `end` it is unparsable."""
    at = text.find(start) if which == "first" else text.rfind(start)
    if at < 0:
        return None, "no_answer"
    stop = text.find(end, at + len(start))
    return (None, "unparsable") if stop < 0 else _answer(text[at + len(start) : stop])


def whole_text(text: str) -> Extracted:
    """The whole completion without surrounding blanks; nothing but blanks is no answer."""
    return _answer(text) if text.strip() else (None, "no_answer")


def _answer(found: str) -> Extracted:
    found = found.strip()
    return (found, FOUND) if 0 < len(found) <= MAX_ANSWER else (None, "unparsable")


def normalise(text: str, ignore_case: bool = False) -> str:
    """Unicode NFC, runs of blanks as one space, none at the ends; case folded if asked.

    NFC, not NFKC: the latter turns 10² into 102.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return text.casefold() if ignore_case else text


def parse_number(text: str) -> Fraction | None:
    """A number as an exact fraction: 12, -1,250, .5, 3e-4, 2/3, $7, 7.; None where `text` is not one.

    Percentages, units, words and exponents beyond +-400 are not numbers.
    """
    parts = text.strip().strip("$").removesuffix(".").replace("\u2212", "-").split("/")
    if len(parts) > 2 or len(text) > _MAX_EXPONENT:
        return None
    values = [_decimal(part.strip()) for part in parts]
    if any(v is None for v in values) or (len(values) == 2 and values[1] == 0):
        return None
    top, *below = (v for v in values if v is not None)
    return top / below[0] if below else top


def _decimal(text: str) -> Fraction | None:
    match = _NUMBER.fullmatch(text)
    if not match or not (match[2] or match[3]) or not text.isascii():
        return None
    exponent = int(match[4] or 0)
    if abs(exponent) > _MAX_EXPONENT:
        return None
    fraction = match[3] or ""
    value = Fraction(int((match[2] or "0").replace(",", "") + fraction), 10 ** len(fraction))
    return (-1 if match[1] == "-" else 1) * value * Fraction(10) ** exponent


class LastBoxed(Component):
    """The last ``\\boxed{...}``."""

    kind: Literal["boxed"] = "boxed"

    def __call__(self, text: str) -> Extracted:
        """`last_boxed`."""
        return last_boxed(text)


class LastLine(Component):
    """The last line that begins with a label."""

    kind: Literal["line"] = "line"
    label: str = Field("Answer:", min_length=1, description="What the line begins with.")

    def __call__(self, text: str) -> Extracted:
        """`last_line`."""
        return last_line(text, self.label)


class FirstBlock(Component):
    """The first ``<answer>`` block."""

    kind: Literal["block"] = "block"
    tag: str = Field("answer", min_length=1, description="Name of the tag.")

    def __call__(self, text: str) -> Extracted:
        """`first_block`."""
        return first_block(text, self.tag)


class Between(Component):
    """What stands between two texts."""

    kind: Literal["between"] = "between"
    start: str = Field(min_length=1, description="Text before the answer.")
    end: str = Field(min_length=1, description="Text after the answer.")
    which: Literal["first", "last"] = Field("first", description="Which start text counts.")

    def __call__(self, text: str) -> Extracted:
        """`between`."""
        return between(text, self.start, self.end, self.which)


class WholeText(Component):
    """The completion as it is."""

    kind: Literal["whole"] = "whole"

    def __call__(self, text: str) -> Extracted:
        """`whole_text`."""
        return whole_text(text)


Extractor = Annotated[LastBoxed | LastLine | FirstBlock | Between | WholeText, Field(discriminator="kind")]


class Exact(Component):
    """Equal text after `normalise`."""

    kind: Literal["exact"] = "exact"
    ignore_case: bool = Field(False, description="Whether A equals a.")

    def __call__(self, answer: str, reference: str) -> tuple[float, str]:
        """1, "correct" where both are the same text."""
        same = normalise(answer, self.ignore_case) == normalise(reference, self.ignore_case)
        return float(same), "correct" if same else "wrong"

    def check_reference(self, reference: str) -> str:
        """What is wrong with a reference answer, or ""."""
        return "" if reference.strip() else "is empty"


class Numeric(Component):
    """Numbers within a tolerance, compared as exact fractions: |a - b| <= max(absolute, relative |b|)."""

    kind: Literal["numeric"] = "numeric"
    absolute: float = Field(1e-9, ge=0.0, allow_inf_nan=False, description="Largest difference that counts as equal.")
    relative: float = Field(0.0, ge=0.0, lt=1.0, description="The same as a share of the reference.")

    def __call__(self, answer: str, reference: str) -> tuple[float, str]:
        """1, "correct" within the tolerance; an answer that is no number is unparsable."""
        a, b = parse_number(answer), parse_number(reference)
        if a is None or b is None:
            return 0.0, "unparsable"
        same = abs(a - b) <= max(Fraction(self.absolute), Fraction(self.relative) * abs(b))
        return float(same), "correct" if same else "wrong"

    def check_reference(self, reference: str) -> str:
        """What is wrong with a reference answer, or ""."""
        return "" if parse_number(reference) is not None else "is not a number"
