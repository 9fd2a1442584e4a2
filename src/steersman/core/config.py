"""Recipes in TOML: read, override, validate, explain, write back with comments.

Every complaint says the dotted path, the file and line (or ``--set``), what was found, what is allowed and the nearest
spelling. Leaves out: what recipes exist (`recipes`), where a key stands in a text (`core.places`).
"""

import copy
import importlib
import inspect
import json
import math
import re
import sys
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from steersman.core.component import Component
from steersman.core.errors import UserError, one_line
from steersman.core.places import BARE_KEY, locate
from steersman.core.wording import wrong

MAX_TOML_BYTES = 2**20
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Source:
    """Raw values of a recipe and where each dotted path was written (``file:line`` or ``--set``)."""

    values: dict[str, Any]
    places: dict[str, str]
    name: str

    def place(self, path: str) -> str:
        """Where `path`, or the nearest table above it, was written."""
        while path:
            if path in self.places:
                return self.places[path]
            path = path.rpartition(".")[0]
        return self.name


def read(path: Path | None, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None) -> Source:
    """Read a TOML file, put it over `base` and apply ``--set`` overrides.

    Args:
        path: the file; None = only `base` and overrides.
        overrides: texts ``dotted.path=value``; the value is TOML, or a bare word taken as a string.
        base: values that the file may replace (a shipped recipe).

    Raises:
        UserError: missing or oversized file, a TOML syntax error (with line and column), a malformed override.
    """
    values: dict[str, Any] = copy.deepcopy(dict(base)) if base else {}
    places: dict[str, str] = {}
    if path is not None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from None
        if len(data) > MAX_TOML_BYTES:
            raise UserError(f"is larger than {MAX_TOML_BYTES} bytes", where=str(path))
        try:
            text = data.decode()
            merge(values, tomllib.loads(text))
        except UnicodeDecodeError:
            raise UserError("is not UTF-8 text", where=str(path)) from None
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"is not valid TOML: {error}", where=str(path)) from None
        except RecursionError:
            raise UserError("is nested too deeply", where=str(path)) from None
        places = locate(text, str(path))
    # A kind comes first, whatever the order typed: it replaces the table whose other keys belong to another kind.
    for override in sorted(overrides, key=lambda o: not o.partition("=")[0].strip().endswith("kind")):
        key, value = parse_override(override)
        branch = values
        *parents, leaf = key.split(".")
        for parent in parents:
            step = branch.setdefault(parent, {})
            if not isinstance(step, dict):
                cure = f"Set it as a whole: --set '{parent}=...'"
                raise UserError(f"{parent!r} is a value, not a table", where=f"--set {override}", cure=cure)
            branch = step
        if leaf == "kind" and branch.get("kind", value) != value:
            branch.clear()
        branch[leaf] = value
        places = {k: v for k, v in places.items() if not k.startswith(f"{key}.")} | {key: "--set"}
    return Source(values, places, str(path) if path else "the command line")


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``a.b=value``; the value is read as TOML, and as a plain string where it is not TOML."""
    key, sign, value = text.partition("=")
    key = key.strip()
    if not sign or not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", key):
        raise UserError(f"{text!r} is not dotted.path=value", where="--set", cure="Example: --set optim.lr=3e-4")
    try:
        found = tomllib.loads(f"v = {value.strip()}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return key, value.strip()
    return key, found["v"] if found.keys() == {"v"} else value.strip()


def merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put `other` over `into`, table by table; a table whose ``kind`` changes is replaced, not merged."""
    for key, value in other.items():
        old = into.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, dict)
            and value.get("kind", old.get("kind")) == old.get("kind")
        ):
            merge(old, value)
        else:
            into[key] = copy.deepcopy(value)


def validate(model: type[M], source: Source, allow_import: Sequence[str] = ()) -> M:
    """Build `model` from a source; user components named ``package.module:Class`` need `allow_import`.

    A model with a class method ``prepare(source) -> source`` writes its shorthands out before anything is imported.

    Raises:
        UserError: the first complaint in full and the number of further ones; unknown keys come first, since a typo
            explains a missing key, which comes last.
    """
    prepare = getattr(model, "prepare", None)
    source = source if prepare is None else prepare(source)
    try:
        return model.model_validate(_import_components(source.values, source, allow_import, ""))
    except ValidationError as error:
        found = [explain(model, e, source) for e in sorted(error.errors(), key=_rank)]
        problems = list({p.where: p for p in reversed(found)}.values())[::-1]
        first, rest = problems[0], len(problems) - 1
        if rest:
            first.cure = f"{first.cure}\n       and {rest} more: " + "; ".join(
                f"{p.where}: {p.what}" for p in problems[1:6]
            )
        raise UserError(first.what, where=first.where, allowed=first.allowed, cure=first.cure.strip()) from None


def explain(model: type[BaseModel], error: ErrorDetails, source: Source) -> UserError:
    """One pydantic error in the words of a user: where it stands, what is allowed, the nearest spelling."""
    keys, fields, kinds = _walk(model, error["loc"], source.values)
    path = ".".join(keys)
    where = f"{path} ({source.place(path)})" if path else source.name
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        near = get_close_matches(keys[-1], fields, n=1, cutoff=0.5)
        parent = ".".join(keys[:-1])
        cure = f"Did you mean {f'{parent}.' if parent else ''}{near[0]}?" if near else ""
        return UserError("unknown key", where=where, allowed=", ".join(fields), cure=cure)
    if kind == "missing":
        return UserError("is missing", where=where)
    context = error.get("ctx") or {}
    if kind in ("union_tag_invalid", "union_tag_not_found", "literal_error"):
        allowed = str(context.get("expected_tags") or context.get("expected") or ", ".join(kinds)).replace("'", "")
        tag = context.get("tag", given if not isinstance(given, Mapping) else given.get("kind"))
        near = get_close_matches(str(tag), re.split(r", | or ", allowed), n=1)
        what = "kind is missing" if kind == "union_tag_not_found" else f"{tag!r} is not known"
        return UserError(what, where=where, allowed=allowed, cure=f"Did you mean {near[0]!r}?" if near else "")
    what = wrong(kind, given, error["msg"].removeprefix("Value error, "), context)
    allowed = fields[keys[-1]].description or "" if kind == "string_pattern_mismatch" and keys[-1] in fields else ""
    lost = isinstance(given, str) and given.lstrip()[:1] in ("[", "{") and source.place(path) == "--set"
    cure = (
        "It is no TOML and so arrived as text: put its texts in quotes, and all of it in single quotes." if lost else ""
    )
    return UserError(what, where=where, allowed=allowed, cure=cure)


def _rank(error: ErrorDetails) -> int:
    """Order of complaints: unknown keys, wrong values, missing keys."""
    return {"extra_forbidden": 0, "missing": 2, "union_tag_not_found": 2}.get(error["type"], 1)


def _walk(
    model: type[BaseModel], loc: tuple[int | str, ...], values: Any
) -> tuple[list[str], dict[str, FieldInfo], list[str]]:
    """Dotted keys of an error without pydantic's union tags, fields of the table it stands in, kinds it may have."""
    keys: list[str] = []
    inside = current = [model]  # what the table of the last key, and what the value reached so far, may be
    for part in loc:
        named = isinstance(values, Mapping) and "kind" in values
        kinds = [values["kind"]] if named else [_kind(m) for m in current]  # unnamed: the recipe's default kind
        tag = isinstance(values, Mapping) and str(part) in map(str, kinds)
        if tag and (len(current) > 1 or part not in values):
            current = [m for m in current if _kind(m) == part]
            continue
        if keys and not isinstance(values, Mapping) and not (isinstance(values, list) and isinstance(part, int)):
            continue  # the value itself; pydantic goes on with the members of a union of plain types
        if keys and not current and isinstance(values, Mapping) and part not in values:
            continue  # likewise, of a table that stands where such a union is wanted
        keys.append(str(part))
        if isinstance(values, list) and isinstance(part, int):
            values = values[part] if part < len(values) else None
            continue
        inside = current
        current = _models(_annotation(current[0], str(part))) if current else []
        values = values.get(part) if isinstance(values, Mapping) else None
    return keys, inside[0].model_fields if inside else {}, [str(_kind(m)) for m in current]


def _annotation(model: type[BaseModel] | None, name: str) -> Any:
    return model.model_fields[name].annotation if model and name in model.model_fields else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in typing.get_args(annotation) for m in _models(a)]


def _kind(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _import_components(value: Any, source: Source, allowed: Sequence[str], path: str) -> Any:
    """Replace every table whose kind is ``package.module:Class`` by the component it names."""
    if isinstance(value, list):
        return [_import_components(v, source, allowed, f"{path}.{i}") for i, v in enumerate(value)]
    if not isinstance(value, dict):
        return value
    done = {k: _import_components(v, source, allowed, f"{path}.{k}" if path else k) for k, v in value.items()}
    name = done.get("kind")
    if not isinstance(name, str) or ":" not in name:
        return done
    found = import_object(name, allowed, where=f"{path}.kind ({source.place(f'{path}.kind')})")
    if not (inspect.isclass(found) and issubclass(found, Component)):
        raise UserError(
            f"{name} is not a Component",
            where=f"{path}.kind ({source.place(f'{path}.kind')})",
            cure="Derive it from steersman.core.component.Component.",
        )
    named = _named(found, name)
    try:
        return named.model_validate(done)
    except ValidationError as error:
        below = {k.removeprefix(f"{path}."): v for k, v in source.places.items() if k.startswith(f"{path}.")}
        first = explain(named, min(error.errors(), key=_rank), Source(done, below, source.place(path)))
        where = f"{path}.{first.where}" if path else first.where
        raise UserError(first.what, where=where, allowed=first.allowed, cure=first.cure) from None


@cache
def _named(component: type[Component], name: str) -> type[Component]:
    """The component with its import name as `kind`, so that the resolved recipe tells it from every other one."""
    kind: Any = (Literal[name], name)
    return create_model(component.__name__, __base__=component, __module__=component.__module__, kind=kind)


def import_object(name: str, allowed: Sequence[str], where: str = "") -> Any:
    """Import ``package.module:attribute`` if its top-level package is in `allowed`.

    Raises:
        UserError: the package was not allowed, the module or attribute does not exist, or importing it raised or ended
            the interpreter (``sys.exit``).
    """
    module, _, attribute = name.partition(":")
    package = module.partition(".")[0]
    if package not in allowed:
        raise UserError(
            f"{name!r} is code of yours, which is imported only when you say so",
            where=where,
            cure=f"Add --allow-import {package}",
        )
    see_working_folder()
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        found = isinstance(error, ImportError | AttributeError) and str(error)
        said = one_line(str(error) if found else f"it raised {type(error).__name__}: {error}")
        raise UserError(f"cannot import {name!r} ({said})", where=where) from None


def see_working_folder() -> None:
    """Let imports find modules in the working folder, which an installed command does not search; last, so that no
    file there can stand in for a library."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def dump(model: BaseModel) -> dict[str, Any]:
    """The resolved values as JSON-able data, defaults included, absent options left out."""
    # Without warnings: a component of the user's own is no member of the union it stands in.
    return model.model_dump(mode="json", exclude_none=True, warnings="none")


def to_toml(model: BaseModel) -> str:
    """The resolved recipe as TOML, each key with its one-line meaning as a comment; reads back to an equal model."""
    lines: list[str] = []
    _emit(model, "", lines)
    return "\n".join(lines).strip() + "\n"


def _emit(model: BaseModel, path: str, lines: list[str]) -> None:
    tables: list[tuple[str, str, BaseModel]] = []
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        here = f"{path}.{name}" if path else name
        if isinstance(value, BaseModel):
            tables.append((f"[{here}]", here, value))
            continue
        if isinstance(value, list | tuple) and value and all(isinstance(v, BaseModel) for v in value):
            tables += [(f"[[{here}]]", here, v) for v in value]
            continue
        if value is None and info.default is not None:
            raise TypeError(f"{here} is None, which TOML cannot say, and absent means {info.default!r}")
        comment = f"  # {' '.join(info.description.split())}" if info.description else ""
        entry = f"{name} = {_literal(value)}" if value is not None else f"# {name} ="
        lines.append(f"{entry:<32}{comment}".rstrip())
    for header, here, table in tables:
        lines += ["", header]
        _emit(table, here, lines)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value) if not isinstance(value, float) or math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(v) for v in value) + "]"
    if isinstance(value, Mapping):
        keys = {k: k if BARE_KEY.fullmatch(k) else _literal(k) for k in value}
        return "{" + ", ".join(f"{keys[k]} = {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str | Path):
        # JSON's escapes are TOML's, except that TOML wants DEL escaped too.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    raise TypeError(f"{type(value).__name__} has no form in TOML")
