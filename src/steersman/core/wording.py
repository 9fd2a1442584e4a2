"""What is wrong with a value of a recipe, in a user's words instead of those of the library that found it.

Leaves out: where the value stands and how it is spelt (`core.config`).
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_TABLES = ("model_type", "model_attributes_type", "dict_type", "mapping_type", "dataclass_type")
_LISTS = ("list", "tuple", "set", "frozenset")
_NOUNS = {"float": "a number", "int": "a whole number", "string": "text", "bool": "true or false"}
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_SAID = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_SIZES = {"too_short": ("min_length", "at least"), "too_long": ("max_length", "at most")}


def wrong(kind: str, given: Any, message: str, context: Mapping[str, Any]) -> str:
    """What is wrong with a value.

    Args:
        kind: pydantic's name of the error.
        given: the value.
        message: pydantic's own words, used where there are none of ours: a validator's, which are ours already.
        context: the error's numbers, such as ``{"gt": 0}``.
    """
    noun = _noun(kind)
    if noun and (isinstance(given, Mapping) or noun == "a table"):
        return f"got {'a table' if isinstance(given, Mapping) else repr(given)}, {noun} is wanted"
    shown = repr(given) if not isinstance(given, Mapping | BaseModel) else "these values together"
    return f"got {shown}: {_must(kind, noun, given, context) or _own(message)}"


def _noun(kind: str) -> str:
    """The type that is wanted, if the error is about types; a table is known by that name alone."""
    if kind in _TABLES:
        return "a table"
    name = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_parsing_size").removesuffix("_from_float")
    if kind == name:
        return ""
    return "a list" if name in _LISTS else _NOUNS.get(name, "")


def _must(kind: str, noun: str, given: Any, context: Mapping[str, Any]) -> str:
    number = isinstance(given, int | float) or str(given).lower().lstrip("+-") in ("nan", "inf", "infinity")
    if kind == "finite_number" or (kind in _BOUNDS and number and math.isnan(float(given))):
        return "must be a finite number"  # of nan, pydantic names whichever bound it looked at
    if kind in _BOUNDS:
        bound = _BOUNDS[kind]
        return f"must be {_SAID[bound]} {context[bound]:.12g}"
    if kind == "string_pattern_mismatch":
        return "has not the form that is wanted"
    for name, (key, words) in _SIZES.items():
        if kind.endswith(name) and key in context:
            unit = "character" if kind.startswith("string") else "item"
            return f"must have {words} {context[key]} {unit}{'' if context[key] == 1 else 's'}"
    return f"must be {noun}" if noun else ""


def _own(message: str) -> str:
    return f"{message[:1].lower()}{message[1:]}"
