"""Where each key of a TOML text stands, for complaints with line numbers.

The standard library's parser gives no line numbers, so the text is read once more: strings, comments and brackets are
skipped, and every line that begins outside them is a header, an entry or empty. Leaves out: parsing (`tomllib`), which
has accepted the text before.
"""

import re
from collections.abc import Iterator, Sequence

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
"""A key that needs no quotes."""

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')"""
_PATH = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_PATH})\s*\]")
_ENTRY = re.compile(rf"\s*({_PATH})\s*=")
_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"""|''' r"'''.*?'''|" r""""(?:\\.|[^"\\\n])*"|'[^'\n]*'|\#[^\n]*|[\[\]{}\n]""", re.S
)
"""What may open, close or hide brackets and line ends in TOML: strings of four kinds, comments, brackets, newlines."""


def locate(text: str, name: str) -> dict[str, str]:
    """Dotted path -> ``name:line`` for every key and table header of a valid TOML text.

    Elements of arrays of tables are counted from 0 (``stages.0.kind``). Keys inside inline tables are not listed; they
    stand where their parent stands.
    """
    places: dict[str, str] = {}
    arrays: dict[str, int] = {}
    table, lines = "", text.split("\n")
    for number in _statements(text):
        line, place = lines[number - 1], f"{name}:{number}"
        if header := _HEADER.match(line):
            table = _table(_parts(header[2]), arrays, element=header[1] == "[[")
            places.setdefault(table, place)
        elif entry := _ENTRY.match(line):
            key = ".".join(_parts(entry[1]))
            places.setdefault(f"{table}.{key}" if table else key, place)
    return places


def _table(parts: Sequence[str], arrays: dict[str, int], element: bool) -> str:
    """The path of a header, with the number of the current element behind the name of every array of tables."""
    path = ""
    for i, part in enumerate(parts):
        path = f"{path}.{part}" if path else part
        if element and i == len(parts) - 1:
            arrays[path] = arrays.get(path, -1) + 1
        if path in arrays:
            path = f"{path}.{arrays[path]}"
    return path


def _statements(text: str) -> Iterator[int]:
    """Numbers of the lines that begin outside every string and bracket."""
    number, depth = 1, 0
    yield number
    for token in _TOKEN.finditer(text):
        found = token[0]
        number += found.count("\n")
        depth += (found in "[{") - (found in "]}")
        if found == "\n" and depth == 0:
            yield number


def _parts(path: str) -> list[str]:
    return [part if BARE_KEY.fullmatch(part) else part[1:-1] for part in re.findall(_KEY, path)]
