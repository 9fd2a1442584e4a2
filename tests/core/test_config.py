"""Recipes in TOML: every complaint in full, overrides, user components, and the way back to TOML."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, WrapValidator

from steersman.core.component import Component
from steersman.core.config import (
    MAX_TOML_BYTES,
    dump,
    import_object,
    merge,
    parse_override,
    read,
    to_toml,
    validate,
)
from steersman.core.errors import MOST_SAID, UserError


class Inner(Component):
    depth: int = Field(1, ge=0, description="how deep")
    words: list[str] | Literal["all"] = "all"


class Alpha(Component):
    kind: Literal["alpha"] = "alpha"
    rate: float = Field(0.1, gt=0, lt=1, description="share\nof   rows")
    inner: Inner = Inner()


class Beta(Component):
    kind: Literal["beta"] = "beta"
    beta: float = 1.0
    name: str | None = None


def _own(value: Any, handler: Any) -> Any:
    return value if isinstance(value, Component) else handler(value)


Part = Annotated[Annotated[Alpha | Beta, Field(discriminator="kind")], WrapValidator(_own)]


class Top(Component):
    title: str
    size: int = Field(3, ge=1, le=10, description="number")
    ratio: float = 0.5
    on: bool = False
    limits: dict[str, float] = Field({})
    many: list[float] = Field([])
    nested: list[list[int]] = Field([])
    missing: float | None = Field(None, description="absent = none")
    part: Part = Alpha()
    inner: Inner = Inner()
    stages: list[Part] = Field([])


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "r.toml"
    file.write_text(text)
    return file


def complaint(tmp_path: Path, text: str, *overrides: str, **settings: Any) -> UserError:
    file = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        validate(Top, read(file, overrides), **settings)
    return caught.value


def at(tmp_path: Path, path: str, line: int) -> str:
    return f"{path} ({tmp_path / 'r.toml'}:{line})"


@pytest.mark.parametrize(
    "text, path, line, what",
    [
        ('title = "x"\nsize = "many"\n', "size", 2, "got 'many': must be a whole number"),
        ('title = "x"\nsize = 11\n', "size", 2, "got 11: must be at most 10"),
        ('title = "x"\n\n[part]\nkind = "alpha"\nrate = 1.0\n', "part.rate", 5, "got 1.0: must be below 1"),
        ('title = "x"\n[part]\nkind = "alpha"\n[part.inner]\ndepth = -1\n', "part.inner.depth", 5, "got -1"),
        ('title = "x"\npart.kind = "alpha"\npart.inner.depth = -1\n', "part.inner.depth", 3, "got -1"),
        ('title = "x"\n[limits]\na = "b"\n', "limits.a", 3, "got 'b'"),
        ('title = "x"\nmany = [\n 1.0,\n "b",\n]\n', "many.1", 2, "got 'b'"),
        ('title = "x"\npart = 3\n', "part", 2, "got 3, a table is wanted"),
        ('title = "x"\ninner = 3\n', "inner", 2, "got 3, a table is wanted"),
        ('title = "x"\nlimits = 3\n', "limits", 2, "got 3, a table is wanted"),
        ('title = "x"\n[ratio]\na = 1\n', "ratio", 2, "got a table, a number is wanted"),
        ('title = "x"\n[size]\na = 1\n', "size", 2, "got a table, a whole number is wanted"),
        ('title = "x"\n[inner]\nwords = {a = 1}\n', "inner.words", 3, "got a table, a list is wanted"),
        ('title = "x"\npart.kind = "alpha"\npart.rate = nan\n', "part.rate", 3, "got nan: must be a finite number"),
        ('title = "x"\ninner = {depth = 1.5}\n', "inner.depth", 2, "got 1.5"),
        ('title = "x"\n[inner]\nwords = 3\n', "inner.words", 3, "got 3"),
        ('title = "x"\n[part]\nkind = "beta"\nbeta = "b"\n', "part.beta", 4, "got 'b'"),
        (
            'title = "x"\n[[stages]]\nkind = "beta"\n[[stages]]\nkind = "beta"\nbeta = []\n',
            "stages.1.beta",
            6,
            "got []",
        ),
        (
            'title = "x"\n[[stages]]\nkind = "beta"\n[[stages]]\nkind = "alpha"\n[stages.inner]\ndepth = -1\n',
            "stages.1.inner.depth",
            7,
            "got -1",
        ),
    ],
)
def test_wrong_values_say_path_line_and_value(tmp_path: Path, text: str, path: str, line: int, what: str) -> None:
    found = complaint(tmp_path, text)
    assert found.where == at(tmp_path, path, line)
    assert found.what.startswith(what)


@pytest.mark.parametrize(
    "text, path, line, cure",
    [
        ('title = "x"\nsise = 3\n', "sise", 2, "Did you mean size?"),
        ('title = "x"\n[part]\nkind = "alpha"\nrates = 0.5\n', "part.rates", 4, "Did you mean part.rate?"),
        (
            'title = "x"\n[part]\nkind = "alpha"\ninner.dept = 5\n',
            "part.inner.dept",
            4,
            "Did you mean part.inner.depth?",
        ),
        ('title = "x"\n[part]\nkind = "beta"\nqqqq = 0.5\n', "part.qqqq", 4, ""),
        ('title = "x"\n[inner]\nzzzz = 0.5\n', "inner.zzzz", 3, ""),
        ('title = "x"\n[[stages]]\nkind = "beta"\nbeat = 0.5\n', "stages.0.beat", 4, "Did you mean stages.0.beta?"),
    ],
)
def test_unknown_keys_get_the_nearest_spelling(tmp_path: Path, text: str, path: str, line: int, cure: str) -> None:
    found = complaint(tmp_path, text)
    assert (found.what, found.where, found.cure) == ("unknown key", at(tmp_path, path, line), cure)


def test_an_unknown_key_lists_the_fields_of_its_own_table(tmp_path: Path) -> None:
    assert complaint(tmp_path, 'title="x"\n[part]\nkind = "beta"\nq = 1\n').allowed == "kind, beta, name"
    assert complaint(tmp_path, 'title="x"\n[part]\nkind = "alpha"\ninner.q = 1\n').allowed == "depth, words"


def test_a_misspelt_kind_names_the_allowed_ones(tmp_path: Path) -> None:
    found = complaint(tmp_path, 'title = "x"\n[part]\nkind = "betta"\n')
    assert (found.what, found.allowed, found.cure) == ("'betta' is not known", "alpha, beta", "Did you mean 'beta'?")
    assert found.where == at(tmp_path, "part", 2)
    found = complaint(tmp_path, 'title = "x"\n[part]\nbeta = 2.0\n')
    assert (found.what, found.allowed) == ("kind is missing", "alpha, beta")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    found = complaint(tmp_path, "size = 3\n")
    assert (found.what, found.where) == ("is missing", f"title ({tmp_path / 'r.toml'})")


def test_further_complaints_are_counted_and_named(tmp_path: Path) -> None:
    found = complaint(tmp_path, "title = 1\nsize = 99\nsise = 3\n")
    assert found.where == at(tmp_path, "sise", 3)
    assert "and 2 more: " in found.cure
    for line, path in ((1, "title"), (2, "size")):
        assert at(tmp_path, path, line) in found.cure


def test_unknown_keys_come_first_and_missing_ones_last(tmp_path: Path) -> None:
    found = complaint(tmp_path, 'size = 99\ntitel = "x"\n')
    assert (found.what, found.where) == ("unknown key", at(tmp_path, "titel", 2))
    assert 0 < found.cure.index("size (") < found.cure.index("title (")


def test_complaints_about_overrides_name_the_option(tmp_path: Path) -> None:
    good = 'title = "x"\n[inner]\ndepth = 3\n'
    assert complaint(tmp_path, good, "size=99").where == "size (--set)"
    assert complaint(tmp_path, good, "inner.depth=-1").where == "inner.depth (--set)"
    assert complaint(tmp_path, good, "inner={depth = -1}").where == "inner.depth (--set)"
    assert complaint(tmp_path, good, "inner.dept=1").where == "inner.dept (--set)"


def test_a_list_that_is_no_toml_is_said_to_have_arrived_as_text(tmp_path: Path) -> None:
    found = complaint(tmp_path, 'title = "x"\n', "many=[1,two]")
    assert (found.where, found.what) == ("many (--set)", "got '[1,two]': must be a list")
    assert "no TOML" in found.cure
    assert complaint(tmp_path, 'title = "x"\nmany = "one"\n').cure == ""


def test_overrides_replace_add_and_win(tmp_path: Path) -> None:
    file = write(tmp_path, 'title = "x"\nsize = 2\n')
    made = validate(
        Top, read(file, ["size=4", "size=5", "inner.depth=7", 'part={kind="beta", name="n"}', "title=bare"])
    )
    assert (made.size, made.inner.depth, made.part, made.title) == (5, 7, Beta(name="n"), "bare")


@pytest.mark.parametrize(
    "text, value",
    [
        ("a=1", 1),
        ("a=1e-3", 1e-3),
        ("a = true", True),
        ("a=[1, 2]", [1, 2]),
        ('a="1"', "1"),
        ("a=bare word", "bare word"),
        ("a=", ""),
        ("a=b=c", "b=c"),
        ("a=-inf", float("-inf")),
        ("a=x/y.jsonl", "x/y.jsonl"),
        ("a=1\nb = 2", "1\nb = 2"),
        ("a=" + "[" * 5000, "[" * 5000),
    ],
)
def test_values_of_overrides(text: str, value: Any) -> None:
    key, found = parse_override(text)
    assert (key, found, type(found)) == ("a", value, type(value))


@pytest.mark.parametrize("text", ["a", "=1", "a b=1", "a..b=1", ".a=1", "a.=1", '"a"=1', ""])
def test_malformed_overrides_show_an_example(text: str) -> None:
    with pytest.raises(UserError, match=r"--set: .* is not dotted\.path=value") as caught:
        parse_override(text)
    assert "--set optim.lr=3e-4" in caught.value.cure


def test_an_override_through_a_value_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "size = 3\n")
    with pytest.raises(UserError, match=r"--set size\.x=1: 'size' is a value, not a table\n +Set it as a whole"):
        read(file, ["size.x=1"])


@pytest.mark.parametrize(
    "data, what",
    [
        (b'title = "x"\nsize = = 3\n', "is not valid TOML: .*line 2, column 8"),
        (b"title = 'x'\nsize = 1\nsize = 2\n", "is not valid TOML"),
        (b'title = "\xff"\n', "is not UTF-8 text"),
        (b"#" * (MAX_TOML_BYTES + 1), "is larger than"),
        (b"x = " + b"[" * 100_000, "is nested too deeply|is not valid TOML"),
    ],
)
def test_unreadable_files(tmp_path: Path, data: bytes, what: str) -> None:
    file = tmp_path / "r.toml"
    file.write_bytes(data)
    with pytest.raises(UserError, match=what) as caught:
        read(file)
    assert caught.value.where == str(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UserError, match=r"cannot be read \("):
            read(path)


def test_dates_are_refused_like_any_other_wrong_type(tmp_path: Path) -> None:
    assert complaint(tmp_path, 'title = "x"\n[inner]\ndepth = 2020-01-01\n').where == at(tmp_path, "inner.depth", 3)


def test_a_file_over_a_base(tmp_path: Path) -> None:
    base = {"title": "b", "part": {"kind": "alpha", "rate": 0.3, "inner": {"depth": 4}}, "limits": {"a": 1.0}}
    kept = validate(Top, read(write(tmp_path, '[part]\nkind = "alpha"\n[part.inner]\nwords = ["w"]\n'), (), base))
    assert kept.part == Alpha(rate=0.3, inner=Inner(depth=4, words=["w"]))
    replaced = validate(Top, read(write(tmp_path, '[part]\nkind = "beta"\n[limits]\nb = 2.0\n'), (), base))
    assert replaced.part == Beta()
    assert replaced.limits == {"a": 1.0, "b": 2.0}
    assert base["part"]["inner"] == {"depth": 4}
    assert base["limits"] == {"a": 1.0}


def test_merging_never_shares_with_its_source() -> None:
    into: dict[str, Any] = {}
    other = {"t": {"l": [1]}, "l": [{"a": 1}]}
    merge(into, other)
    into["t"]["l"].append(2)
    into["l"][0]["a"] = 2
    assert other == {"t": {"l": [1]}, "l": [{"a": 1}]}


MODULE = """
from typing import Literal
from steersman.core.component import Component

class Mine(Component):
    strength: float = 1.0

class Named(Component):
    kind: Literal["named"] = "named"
    strength: float = 2.0

class Plain:
    pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of the user's own that the interpreter can find but has not imported."""
    (tmp_path / "own_parts").mkdir()
    (tmp_path / "own_parts" / "__init__.py").write_text("")
    (tmp_path / "own_parts" / "losses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.startswith("own_parts")]:
        monkeypatch.delitem(sys.modules, name)
    return "own_parts"


@pytest.mark.parametrize("name", ["Mine", "Named"])
def test_a_component_of_the_users_own(tmp_path: Path, package: str, name: str) -> None:
    kind = f"own_parts.losses:{name}"
    file = write(tmp_path, f'title = "x"\n[part]\nkind = "{kind}"\nstrength = 3.0\n')
    made = validate(Top, read(file), allow_import=[package])
    assert made.part.strength == 3.0
    assert made.part.kind == kind
    assert isinstance(made.part, getattr(sys.modules["own_parts.losses"], name))
    # its name stands in what identifies the run, and in the TOML, from which an equal recipe comes back
    assert dump(made)["part"] == {"kind": kind, "strength": 3.0}
    assert validate(Top, read(write(tmp_path, to_toml(made))), allow_import=[package]) == made


def test_nothing_is_imported_without_leave(tmp_path: Path, package: str) -> None:
    text = 'title = "x"\n[part]\nkind = "own_parts.losses:Mine"\n'
    for allowed in ((), ("own",), ("own_parts.losses",)):
        found = complaint(tmp_path, text, allow_import=allowed)
        assert found.where == at(tmp_path, "part.kind", 3)
        assert found.cure == "Add --allow-import own_parts"
    assert not [n for n in sys.modules if n.startswith("own_parts")]


@pytest.mark.parametrize(
    "name, what",
    [
        ("own_parts.losses:Plain", "is not a Component"),
        ("own_parts.losses:Missing", "cannot import"),
        ("own_parts.missing:Mine", "cannot import"),
        ("own_parts.losses:", "cannot import"),
    ],
)
def test_a_name_that_leads_nowhere(tmp_path: Path, package: str, name: str, what: str) -> None:
    found = complaint(tmp_path, f'title = "x"\n[part]\nkind = "{name}"\n', allow_import=[package])
    assert what in found.what
    assert found.where == at(tmp_path, "part.kind", 3)


@pytest.mark.parametrize(
    "code, said",
    [
        ("import sys\nsys.exit(3)\n", "it raised SystemExit: 3"),
        ("def broken(:\n", "it raised SyntaxError"),
        ("raise RuntimeError('a\\x1b[31m' + 'b' * 999)\n", r"it raised RuntimeError: a\x1b[31mbbb"),
        ("import nowhere_at_all\n", "No module named 'nowhere_at_all'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(package: str, tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / package / "bad.py").write_text(code)
    with pytest.raises(UserError, match=re.escape(f"here: cannot import 'own_parts.bad:f' ({said}")) as caught:
        import_object("own_parts.bad:f", [package], where="here")
    assert len(str(caught.value)) < MOST_SAID + 50
    assert str(caught.value).isprintable()


def test_settings_of_a_users_component_are_checked_like_ours(tmp_path: Path, package: str) -> None:
    text = 'title = "x"\n[part]\nkind = "own_parts.losses:Mine"\nstrenght = 3.0\n'
    found = complaint(tmp_path, text, allow_import=[package])
    assert (found.what, found.where) == ("unknown key", at(tmp_path, "part.strenght", 4))
    assert "strength" in found.cure
    found = complaint(tmp_path, text.replace("strenght", "strength"), "part.strength=x", allow_import=[package])
    assert found.where == "part.strength (--set)"


def test_a_component_may_stand_in_a_list(tmp_path: Path, package: str) -> None:
    text = 'title = "x"\n[[stages]]\nkind = "beta"\n[[stages]]\nkind = "own_parts.losses:Mine"\nstrength = "x"\n'
    found = complaint(tmp_path, text, allow_import=[package])
    assert found.where == at(tmp_path, "stages.1.strength", 6)


def test_the_empty_package_is_never_allowed() -> None:
    with pytest.raises(UserError, match="imported only when you say so"):
        import_object(":x", ["os"])


ODD = 'quote " back \\ new\nline tab\t nul\x00 del\x7f é 漢 🙂 \'\'\' """'


def round_trip(tmp_path: Path, model: Any) -> Any:
    return validate(type(model), read(write(tmp_path, to_toml(model))))


def test_everything_comes_back(tmp_path: Path) -> None:
    made = Top(
        title=ODD,
        size=10,
        ratio=float("inf"),
        on=True,
        limits={"plain": 1.0, "a/b.c": -0.0, ODD: 5e-324, "": float("-inf")},
        many=[1e-300, 1e22, 0.1 + 0.2],
        nested=[[1, -2], []],
        missing=1e-6,
        part=Beta(beta=2.5, name=ODD),
        inner=Inner(depth=2, words=["x", ODD]),
        stages=[Alpha(rate=0.25, inner=Inner(depth=9)), Beta(), Alpha()],
    )
    assert round_trip(tmp_path, made) == made
    bare = Top(title="x")
    assert round_trip(tmp_path, bare) == bare
    nan = round_trip(tmp_path, Top(title="x", ratio=float("nan")))
    assert nan.ratio != nan.ratio


def test_comments_stay_on_their_line(tmp_path: Path) -> None:
    text = to_toml(Top(title="x"))
    assert "size = 3                          # number\n" in text
    assert "# missing =                       # absent = none\n" in text
    assert "# share of rows\n" in text


def test_a_none_that_would_read_back_as_something_else_is_a_bug() -> None:
    class Wrong(Component):
        clip: float | None = 1.0

    assert "clip = 1.0" in to_toml(Wrong())
    with pytest.raises(TypeError, match="clip is None"):
        to_toml(Wrong(clip=None))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False)


@given(TEXTS, FLOATS, st.dictionaries(TEXTS, FLOATS, max_size=3), st.lists(TEXTS, max_size=3))
def test_any_text_and_number_comes_back(title: str, ratio: float, limits: dict[str, float], words: list[str]) -> None:
    made = Top(title=title, ratio=ratio, limits=limits, inner=Inner(words=words))
    assert Top.model_validate(tomllib.loads(to_toml(made))) == made


def shipped() -> list[Component]:
    """The recipes that the library ships, with every union member and some options away from their defaults."""
    from steersman.objective.components import PreferenceLoss
    from steersman.recipes.training import RECIPES, Lora, PreferenceRecipe, Runtime

    places: dict[str, Any] = {"model": {"path": "m"}, "data": {"train": "t.jsonl", "evaluation": ODD}}
    made: list[Component] = [r.model_validate(places) for r in RECIPES.values()]
    for loss in get_args(get_args(PreferenceLoss)[0]):
        made.append(PreferenceRecipe.model_validate(places | {"loss": {"kind": loss.model_fields["kind"].default}}))
    lora = {"path": "m", "lora": Lora(targets=["q", "v"])}
    budget = {"steps": 3, "best": "loss", "best_is": "min", "patience": 2, "limits": {"grad/norm": 1.5}}
    made.append(PreferenceRecipe.model_validate(places | {"model": lora, "budget": budget}))
    return [*made, Runtime(), Runtime(out=ODD, threads=2, evaluate_every=5)]


def test_every_shipped_recipe_comes_back(tmp_path: Path) -> None:
    for model in shipped():
        assert round_trip(tmp_path, model) == model


def test_no_shipped_option_has_a_none_that_cannot_be_written() -> None:
    def models(value: Component) -> list[Component]:
        inner = [getattr(value, n) for n in type(value).model_fields]
        return [value, *(m for v in inner if isinstance(v, Component) for m in models(v))]

    for model in (m for s in shipped() for m in models(s)):
        for name, info in type(model).model_fields.items():
            if type(None) in getattr(info.annotation, "__args__", ()):
                assert info.default is None, f"{type(model).__name__}.{name}"
