"""HTML as plain strings that cannot be injected into: text is escaped unless it is already `Html`.

Leaves out: templates, parsing, anything that knows what a page is about. Source: none; the tables and the page shell
follow the HTML standard (a scrollable region is focusable and labelled, data blocks are `application/json`).
"""

import base64
import hashlib
import html as _html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from steersman.core.errors import UserError
from steersman.page import theme

_SURROGATE = re.compile("[\ud800-\udfff]")  # half characters, which UTF-8 cannot hold
_SCRIPTS = ("page.js", "tokens.js")  # one after the other, in one function
_VOID = frozenset({"meta", "br", "hr", "input", "wbr", "link"})


class Html(str):
    """Markup that is already safe; every other string is escaped on its way into a page."""

    __slots__ = ()


def escape(value: object) -> Html:
    """Return `value` as safe markup: `Html` unchanged, ``None`` and ``False`` as nothing, anything else escaped."""
    if value is None or value is False:
        return Html("")
    return value if isinstance(value, Html) else Html(_html.escape(str(value), quote=True))


def join(*parts: object, sep: str = "") -> Html:
    """Escape every part and put them after one another."""
    return Html(escape(sep).join(escape(p) for p in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """One element with escaped children and attributes.

    Args:
        name: element name (trusted, from code).
        children: text (escaped) or `Html`.
        attributes: ``class_`` means ``class``, other underscores become hyphens; ``True`` writes a bare attribute,
            ``None`` and ``False`` leave it out.
    Returns: the element.
    Edge cases: void elements (``meta``, ``br`` ...) take no children and no end tag.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{_html.escape(str(value), quote=True)}"')
    head = f"<{name}{''.join(written)}>"
    return Html(head if name in _VOID else f"{head}{join(*children)}</{name}>")


def json_block(data: object, **attributes: object) -> Html:
    """Embed plain data as a JSON block that no text inside can close.

    Args:
        data: plain Python data; NaN and infinity are refused (JSON has neither; the caller decides what they become).
        attributes: attributes of the script element.
    Raises: ValueError for NaN or infinity.
    """
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return tag("script", Html(text), type="application/json", **attributes)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: heading, how its cells are set, and an optional second line of the heading."""

    title: str
    kind: Literal["text", "number", "figure", "head"] = "text"
    note: str = ""


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[object]],
    *,
    label: str,
    empty: str,
    details: Sequence[object] | None = None,
    stack: bool = False,
) -> Html:
    """A table in a box of its own that scrolls sideways when the screen is narrow.

    Args:
        columns: headings; a column of kind "head" holds row headings, "number" is set right in tabular figures.
        rows: cells, text or `Html`, one per column.
        label: name of the region for screen readers.
        empty: what to say when there are no rows.
        details: per row, markup of a second row that opens on a tap and shows on hover (``None``: no such row).
        stack: on a phone show each row as a card instead of scrolling.
    Returns: the box with the table, or a paragraph with `empty`.
    Raises: ValueError where a row's length differs from the number of columns.
    """
    if not rows:
        return tag("p", empty, class_="empty")
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"table {label!r}: every row needs {len(columns)} cells")
    heads = [
        tag("th", c.title, c.note and tag("small", c.note), scope="col", class_=c.kind, role=stack and "columnheader")
        for c in columns
    ]
    body = []
    for i, row in enumerate(rows):
        cells = [_cell(column, cell, stack) for column, cell in zip(columns, row, strict=True)]
        body.append(tag("tr", *cells, role=stack and "row"))
        if details is not None:
            body.append(tag("tr", tag("td", details[i], colspan=len(columns)), class_="more", role=stack and "row"))
    role = "rowgroup" if stack else None
    head = tag("thead", tag("tr", *heads, role=stack and "row"), role=role)
    whole = tag("table", head, tag("tbody", *body, role=role), class_=stack and "stack", role=stack and "table")
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=label)


def _cell(column: Column, cell: object, stack: bool) -> Html:
    if column.kind == "head":
        return tag("th", cell, scope="row", class_="head", role=stack and "rowheader")
    return tag("td", cell, class_=column.kind, data_label=column.title, role=stack and "cell")


def section(title: str, *children: object, anchor: str, lead: str = "") -> Html:
    """A part of a page with a heading that can be linked to and an optional line of introduction."""
    return tag("section", tag("h2", title), lead and tag("p", lead, class_="lead"), *children, id=anchor)


def link(text: object, target: str) -> Html:
    """A link to a web page or to a file beside this page.

    Raises: UserError for any scheme other than http and https (``javascript:`` and the like).
    """
    scheme, colon, _ = target.partition(":")
    if colon and "/" not in scheme and "#" not in scheme and scheme.lower() not in ("http", "https"):
        raise UserError(f"a link may not lead to {target!r}", where="report", allowed="http, https or a relative path")
    return tag("a", text, href=target)


def _static(*names: str) -> str:
    return "".join(files("steersman.page").joinpath("static", name).read_text("utf-8") for name in names)


def shell(title: str, *body: object) -> Html:
    """A whole page: one file with its styles and its script inside, which can reach no network.

    Args:
        title: text of the window's title.
        body: the content.
    Returns: the document, to be written as UTF-8.
    Edge cases: the content security policy allows this script by its hash only, so that markup which slipped in could
        not run, and allows no connection at all. Half characters (lone surrogates) become U+FFFD.
    """
    script = f'"use strict";\n(() => {{\n{_static(*_SCRIPTS)}}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(theme.css())),
    )
    toggle = tag("button", "Dark", type="button", class_="theme", hidden=True, aria_label="switch light and dark")
    main = tag("main", toggle, *body)
    tip = tag("div", class_="tip", role="status", hidden=True)
    document = tag("html", head, tag("body", main, tip, tag("script", Html(script))), lang="en")
    return Html(_SURROGATE.sub("\ufffd", f"<!doctype html>\n{document}\n"))
