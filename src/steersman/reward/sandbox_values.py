"""What a program returned against what it should have returned, decided in the parent and led by the latter.

Values come as `sandbox_child.encoder` wrote them and are never made into objects: neither an `__eq__` nor a hash of
the program's choosing runs here, and no more is looked at than the expected value has parts. (A set of integers with
equal hashes, made by a program, would otherwise hold the parent for minutes.) Leaves out: running programs (`sandbox`).
"""

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

from steersman.core.errors import UserError
from steersman.reward.sandbox_child import encoder

_PLAIN = (type(None), bool, int, float, str, bytes)
_DEEPEST = 50
encode: Callable[[Any], str] = encoder()
"""Value -> JSON text with types."""


def check_value(value: Any, where: str, depth: int = 0) -> None:
    """Refuse a value that cannot be given to a program or expected of it.

    Raises:
        UserError: a type other than None, bool, int, float, text, bytes, list, tuple, dict, set, frozenset; lone
            surrogates in a text; more than 50 levels.
    """
    if depth > _DEEPEST:
        raise UserError(f"a value has more than {_DEEPEST} levels", where=where)
    if type(value) in _PLAIN:
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise UserError("a text has a lone surrogate", where=where)
        return
    if type(value) is dict:
        parts: Any = [*value.keys(), *value.values()]
    elif type(value) in (list, tuple, set, frozenset):
        parts = value
    else:
        allowed = "None, bool, int, float, text, bytes, list, tuple, dict, set, frozenset"
        raise UserError(f"a {type(value).__name__} cannot be given or expected", where=where, allowed=allowed)
    for part in parts:
        check_value(part, where, depth + 1)


def matches(found: str, expected: Any, tolerance: float | None = None, lists_alike: bool = False) -> bool:
    """Whether a program's value is the expected one.

    Types must agree: True is not 1, 1 is not 1.0, a subclass is not its base. NaN is NaN. Order counts in lists and
    tuples only.

    Args:
        found: JSON text as `encoder` writes it; from the program, and not trusted.
        expected: the right value; trusted.
        tolerance: None = floats must be equal; else |a - b| <= tolerance max(1, |b|), and where a float is expected an
            int counts as a number. Keys and members of sets are always compared exactly.
        lists_alike: whether a tuple counts as a list, which JSON cannot tell apart.

    Raises:
        ValueError: `found` is not such a text.
    """
    try:
        return _same(json.loads(found), expected, tolerance, lists_alike)
    except RecursionError:
        raise ValueError("the value is nested too deeply") from None


def _same(found: Any, expected: Any, tolerance: float | None, alike: bool) -> bool:
    kind = type(expected)
    if expected is None or kind in (bool, str):
        return type(found) is kind and found == expected
    if kind is int:
        return type(found) is int and found == expected if abs(expected) < 2**63 else found == {"int": hex(expected)}
    if kind is float:
        return _same_float(found, expected, tolerance)
    name, parts = _opened(found)
    if kind in (list, tuple):
        if name != kind.__name__ and not (alike and name in ("list", "tuple")):
            return False
        pairs = zip(parts, expected, strict=False)
        return len(parts) == len(expected) and all(_same(a, b, tolerance, alike) for a, b in pairs)
    if name != kind.__name__:
        return False
    if kind is bytes:
        return bool(parts == expected.hex())
    if len(parts) != len(expected):
        return False
    if kind is dict:
        return _same_dict(parts, expected, tolerance, alike)
    wanted = (canonical(json.loads(encode(e)), alike) for e in expected)
    return sorted(canonical(p, alike) for p in parts) == sorted(wanted)


def _same_float(found: Any, expected: float, tolerance: float | None) -> bool:
    if type(found) is not float and (type(found) is not int or tolerance is None):
        return False
    if math.isnan(expected):
        return math.isnan(found)
    if tolerance is None or math.isinf(expected):
        return bool(found == expected)
    return abs(found - expected) <= tolerance * max(1.0, abs(expected))


def _same_dict(parts: Any, expected: dict[Any, Any], tolerance: float | None, alike: bool) -> bool:
    wanted = {canonical(json.loads(encode(k)), alike): v for k, v in expected.items()}
    for part in parts:
        if not isinstance(part, list) or len(part) != 2:
            _malformed()
        key = canonical(part[0], alike)
        if key not in wanted or not _same(part[1], wanted.pop(key), tolerance, alike):
            return False
    return not wanted


def canonical(found: Any, alike: bool = False) -> str:
    """One text for each value of what `encoder` wrote, whatever the order of sets and dicts in it."""
    if not isinstance(found, list | dict):
        return json.dumps(found)
    name, parts = _opened(found)
    if isinstance(parts, str):
        return f"{name}:{parts}"
    if name == "dict":
        pairs = (tuple(p) if isinstance(p, list) and len(p) == 2 else _malformed() for p in parts)
        texts = [f"{canonical(k, alike)}={canonical(v, alike)}" for k, v in pairs]
    else:
        texts = [canonical(p, alike) for p in parts]
    name = "list" if alike and name == "tuple" else name
    return f"{name}({','.join(sorted(texts) if name in ('set', 'frozenset', 'dict') else texts)})"


def _opened(found: Any) -> tuple[str, Any]:
    """(kind, content) of an encoded container; ("", []) for anything else."""
    if isinstance(found, list):
        return "list", found
    if not isinstance(found, dict):
        return "", []
    if len(found) != 1:
        _malformed()
    ((name, content),) = found.items()
    if not isinstance(content, str if name in ("int", "bytes", "other") else list):
        _malformed()
    return name, content


def _malformed() -> NoReturn:
    raise ValueError("the value is not written as it should be")
