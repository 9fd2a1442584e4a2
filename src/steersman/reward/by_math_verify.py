"""Comparison of mathematical expressions by the package math-verify, for a grading process.

The package is imported at the top, so that its import does not count against the time limit of the first answer; only
grading processes import this module. Leaves out: when it is called and what a failure means (`verifiable`).
"""

import logging
from typing import Any

from math_verify import parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off; ours is on


def compare(answer: str, reference: str) -> dict[str, Any]:
    """Whether two mathematical expressions are equal: {"score": 0 or 1, "status": ...}.

    Edge cases: an answer with a brace too many is unparsable; it could close our box, open others, and so give several.

    Raises:
        ValueError: the reference is no expression.
    """
    expected = _read(reference)
    if not expected:
        raise ValueError(f"the reference {reference!r} is no expression")
    try:
        found = _read(answer) if balanced(answer) else []
    except Exception:  # whatever the parser raises on text that is not mathematics
        found = []
    if not found:
        return {"score": 0.0, "status": "unparsable"}
    same = verify(expected, found, timeout_seconds=None, raise_on_error=True)
    return {"score": float(same), "status": "correct" if same else "wrong"}


def balanced(text: str) -> bool:
    """Whether every brace closes one that was opened before it."""
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def _read(text: str) -> Any:
    return parse(rf"\boxed{{{text}}}", parsing_timeout=None, fallback_mode="no_fallback", raise_on_error=True)
