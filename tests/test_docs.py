"""README, CONTRIBUTING and docs say only what exists: commands, options, defaults, links, examples.

Leaves out: running the shell examples (they train; `make demo` runs in CI) and whether the prose is true.
"""

import contextlib
import importlib
import io
import json
import re
import shlex
import textwrap
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import steersman
from steersman.cli.main import app
from steersman.core.component import Component
from steersman.core.config import read, validate
from steersman.recipes.inventory import EXAMPLE
from steersman.recipes.training import Runtime
from steersman.recipes.verbs import RECIPES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
COMMANDS = typer.main.get_command(app)
FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its flags, its text."""

    page: str
    language: str
    flags: tuple[str, ...]
    text: str


def blocks(*languages: str) -> list[Block]:
    found = []
    for page, text in TEXT.items():
        for match in FENCE.finditer(text):
            language, *flags = match[2].split() or [""]
            if language in languages:
                found.append(Block(page, language, tuple(flags), textwrap.dedent(match[3])))
    return found


def prose(page: str) -> str:
    return FENCE.sub("", TEXT[page])


def inline(page: str) -> list[str]:
    """The inline code of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def shell_lines(text: str) -> list[list[str]]:
    """The words of each simple command of a shell block; here-documents are left out."""
    text = re.sub(r"<<'END'\n(?:.*\n)*?END\n", "\n", text).replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word in ("&&", "|", ">"):
                found += [words] if words else []
                words = []
            elif words or not re.fullmatch(r"[A-Z_]+=.*", word):
                words.append(word)
    return found


def parse(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Parse a steersman command line without running it; gives the verbs and the parameters."""
    command: Any = COMMANDS
    verbs = []
    while hasattr(command, "commands"):
        assert {*words[:1]} & {*command.commands}, f"no verb {words[:1]}"
        verbs.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    if "--help" in words:
        return verbs, {}
    return verbs, command.make_context(verbs[-1], list(words)).params


STEERSMAN = [
    (block.page, words[words.index("steersman") + 1 :])
    for block in blocks("sh")
    for words in shell_lines(block.text)
    if words[0].endswith("steersman")
]


def name(value: Any) -> str:
    return f"{value[0]}: {' '.join(value[1])[:60]}"


def test_there_is_something_to_check() -> None:
    assert len(STEERSMAN) > 30
    assert {"README.md", "docs/rdpo.md", "docs/studies.md"} <= TEXT.keys()


@pytest.mark.parametrize("case", STEERSMAN, ids=name)
def test_command_exists_and_its_recipe_is_valid(case: tuple[str, list[str]]) -> None:
    verbs, params = parse(case[1])
    if verbs == ["train", "inventory"]:
        file = [] if params["file"] is None else [str(params["file"])]
        assert file or params["resume"]
        sets = [s for s in params["overrides"] or [] if not s.startswith("runtime.")]
        validate(RECIPES["inventory"], read(None, sets, {"verb": "inventory", **EXAMPLE}))
    elif verbs[0] == "train" and not params.get("resume"):
        answers = verbs[1] in ("rl", "distill")
        rows = {"task": {"kind": "questions", "train": "d"}} if answers else {"data": {"train": "d"}}
        base = {"verb": verbs[1], "model": {"path": "m"}, **rows}
        names = {"loss.kind": "loss", "loss.flip_rate": "flip_rate", "preset": "preset", "loss.teacher.path": "teacher"}
        short = {key: params.get(name) for key, name in names.items()}
        sets = [f"{k}={v}" for k, v in short.items() if v is not None] + (params["overrides"] or [])
        own = [s for s in sets if ":" not in s]  # a component of one's own is not there to be imported
        if len(own) < len(sets):
            assert params["allow_import"]
            return
        validate(RECIPES[verbs[1]], read(None, [s for s in own if not s.startswith("runtime.")], base))
        validate(Runtime, read(None, [s.removeprefix("runtime.") for s in own if s.startswith("runtime.")]))


def test_a_wrong_command_would_be_seen() -> None:
    for words in (["studdy", "list"], ["study", "lst"], ["study", "run", "rdpo", "--qick"], ["train", "sft", "--lr"]):
        with pytest.raises((AssertionError, Exception), match=r"no verb|[Nn]o such option"):
            parse(words)


@pytest.mark.parametrize("page", TEXT)
def test_inline_commands_options_and_targets_exist(page: str) -> None:
    options: set[str] = {"--help"}

    def collect(command: Any) -> None:
        options.update(opt for p in command.params for opt in p.opts)
        for inner in getattr(command, "commands", {}).values():
            collect(inner)

    collect(COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for code in inline(page):
        if code.startswith("pip "):
            continue
        verbs = re.match(r"(?:steersman )?((?:train|data|model|config|study|view|doctor)\b[a-z ]*)", code)
        if code.startswith("steersman ") or (verbs and " " in code.strip()):
            command: Any = COMMANDS
            for word in (code.removeprefix("steersman ")).split():
                if not hasattr(command, "commands") or not re.fullmatch("[a-z]+", word):
                    break
                assert word in command.commands, f"{page}: {code}"
                command = command.commands[word]
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code):
            assert option in options, f"{page}: {code}"
        for key in re.findall(r"--set ([a-z_.0-9]+)=", code):
            assert known(key), f"{page}: {code}"
        if code.startswith("make "):
            assert code.split()[1] in targets, f"{page}: {code}"
    for block in blocks("sh"):
        for words in shell_lines(block.text):
            assert words[0] != "make" or words[1] in targets, f"{block.page}: {words}"


def models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in typing.get_args(annotation) for m in models(a)]


def field(model: type[BaseModel], path: str) -> Any:
    """The field at a dotted path below a model, through unions; None where there is none."""
    head, _, rest = path.partition(".")
    found = model.model_fields.get(head)
    if found is None or not rest:
        return found
    inner = [f for m in models(found.annotation) if (f := field(m, rest)) is not None]
    return inner[0] if inner else None


def known(key: str) -> bool:
    if key.startswith("runtime."):
        return field(Runtime, key.removeprefix("runtime.")) is not None
    return any(field(recipe, key) is not None for recipe in RECIPES.values())


OPTIONS = [
    (page, match[1], re.findall(r"^\| `([a-z_.0-9]+)` \| (.*?) \|", match[2], re.M))
    for page, text in TEXT.items()
    for match in re.finditer(r"<!-- options: (\S+) -->\n((?:\|.*\n)+)", text)
]


def default_of(component: type[BaseModel], path: str) -> Any:
    """The default at a dotted path, taken from the default of the table it stands in."""
    head, _, rest = path.partition(".")
    found = component.model_fields[head]
    value = found.get_default(call_default_factory=True)
    if not rest:
        return value
    if value is PydanticUndefined or value is None:
        return default_of(models(found.annotation)[0], rest)
    for part in rest.split("."):
        value = getattr(value, part)
    return value


def same(shown: str, value: Any) -> bool:
    """Whether a cell of the column "default" says what the code says."""
    if isinstance(value, Component):
        return shown.strip("`") == getattr(value, "kind", "table")
    if isinstance(value, tuple) and value and isinstance(value[0], Component):
        return shown == " ".join(f"`{part.kind}`" for part in value)
    if isinstance(value, tuple) and value:
        return shown == f"`{list(value)}`"
    if isinstance(value, dict) and value:
        return shown == " ".join(f"`{k}` {v:g}".replace("10000", "1e4") for k, v in value.items())
    if value is PydanticUndefined:
        return shown == "–"
    if value is None or value in ((), {}):  # words, not a value
        return not re.fullmatch(r"[\d.e-]+|`(true|false)`|–", shown)
    bare = shown.strip('`"')
    if isinstance(value, bool):
        return bare == str(value).lower()
    return float(bare) == value if isinstance(value, int | float) else bare == value


@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: f"{case[0]}: {case[1]}")
def test_option_table_is_that_of_the_code(case: tuple[str, str, list[tuple[str, str]]]) -> None:
    module, _, attribute = case[1].partition(":")
    component = getattr(importlib.import_module(module), attribute)
    listed = {path for path, _ in case[2]}
    for path, shown in case[2]:
        assert field(component, path) is not None, f"{attribute} has no {path}"
        assert same(shown, default_of(component, path)), f"{path}: {shown!r} but {default_of(component, path)!r}"
    missing = leaves(component, listed) - listed
    assert not missing, f"not in the table: {sorted(missing)}"


def leaves(component: type[BaseModel], listed: set[str], prefix: str = "") -> set[str]:
    """Every option below a component, save those under an entry that the table names as a whole."""
    found = set()
    for key, info in component.model_fields.items():
        path = f"{prefix}{key}"
        if path in listed:
            continue
        inner = models(info.annotation)
        if key in ("kind", "verb", "format") or path == "loss":
            continue  # a name, or a union with tables of its own
        found |= leaves(inner[0], listed, f"{path}.") if inner else {path}
    return found


def test_every_loss_is_named() -> None:
    from steersman.objective.components import PreferenceLoss

    kinds = {m.model_fields["kind"].default for m in models(PreferenceLoss)}
    assert kinds
    for page in ("docs/rdpo.md", "docs/preference.md"):
        assert kinds <= set(re.findall(r"[a-z_]+", TEXT[page])), page


def test_every_preset_stage_and_policy_loss_is_named() -> None:
    from steersman.objective.components_policy import PolicyLoss
    from steersman.objective.stages import AnyStage
    from steersman.recipes.presets import SHIPPED

    kinds = {m.model_fields["kind"].default for union in (AnyStage, PolicyLoss) for m in models(union)}
    assert {"grpo", "clipped"} <= kinds
    assert kinds | SHIPPED.keys() <= set(re.findall(r"`([a-z0-9_]+)`", prose("docs/rl.md")))


def test_metrics_are_measured_somewhere() -> None:
    rooms = [Path(steersman.__file__).parent / room for room in ("train", "objective")]
    source = "".join(p.read_text() for room in rooms for p in room.rglob("*.py"))
    tables = [m[0] for text in TEXT.values() for m in re.finditer(r"^\| metric \|.*\n(?:\|.*\n)+", text, re.M)]
    names = {n for t in tables for row in t.splitlines()[2:] for n in re.findall(r"`([a-z_/]+)`", row.split("|")[1])}
    assert len(names) > 8
    for metric in names:
        # A term's or a stage's name stands before the slash; the critic's are the policy's with its name before them.
        assert f'"{metric.rpartition("/")[2].removeprefix("critic_")}"' in source, metric


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


LINKS = [(p, link) for p in TEXT for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", prose(p)))]


@pytest.mark.parametrize("case", LINKS, ids=lambda case: f"{case[0]}: {case[1]}")
def test_link_leads_somewhere(case: tuple[str, str]) -> None:
    page, link = case
    if link.startswith("https://"):
        return
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.exists(), link
    if anchor:
        assert anchor in {slug(h) for h in re.findall(r"^#+ (.*)$", target.read_text(), re.M)}, link


def test_every_page_is_linked_from_the_index() -> None:
    pages = {page.removeprefix("docs/") for page in TEXT if page.startswith("docs/")} - {"index.md"}
    assert pages <= {link.partition("#")[0] for page, link in LINKS if page == "docs/index.md"}


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: f"{b.page}: {b.text[:40]!r}")
def test_python_compiles_and_runs(block: Block) -> None:
    code = compile(block.text, block.page, "exec")
    if "run" not in block.flags:
        return
    space: dict[str, Any] = {"__name__": "example"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, space)
    expected = re.findall(r"^print\(.*\)\s+# (.*)$", block.text, re.M)
    assert printed.getvalue().splitlines() == expected
    if "study" in block.flags:
        run_study_in_process(space["STUDY"])


def run_study_in_process(study: Any) -> None:
    from steersman.study.declare import Result
    from steersman.study.plan import make_plan
    from steersman.study.verdict import judge

    plan = make_plan(study, "quick")
    results = [Result(r.cell, study.run(r.cell, None, {}), {}, Path()) for r in plan.runs]
    (judged,) = judge(study.claims, plan.mode, results, {})
    assert judged.word in study.answer(results, {judged.claim.id: judged.word})
    assert judged.word == "supported"
    study.show(results)


def test_here_documents_compile() -> None:
    found = [text for b in blocks("sh") for text in re.findall(r"python - <<'END'\n((?:.*\n)*?)END\n", b.text)]
    assert found
    for text in found:
        compile(text, "README.md", "exec")


def test_the_example_component_is_a_loss() -> None:
    import torch

    (block,) = (b for b in blocks("python") if b.page == "docs/recipes.md")
    space: dict[str, Any] = {"__name__": "example"}
    exec(block.text, space)
    assert space["SquaredHinge"](beta=0.5)(torch.tensor([0.0, 1.0, 4.0])).tolist() == [1.0, 0.25, 0.0]


def test_toml_is_a_valid_recipe(tmp_path: Path) -> None:
    found = blocks("toml")
    assert found
    for block in found:
        (tmp_path / "r.toml").write_text(block.text)
        validate(RECIPES[tomllib.loads(block.text)["verb"]], read(tmp_path / "r.toml"))


def test_recipes_find_the_columns_they_read_in_the_file_of_the_readme(tmp_path, monkeypatch) -> None:
    texts = [text for b in blocks("sh") for text in re.findall(r"python - <<'END'\n((?:.*\n)*?)END\n", b.text)]
    (maker,) = (text for text in texts if 'save("sums"' in text)
    (tmp_path / "runs" / "try").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    exec(maker, {"__name__": "example"})
    read_by = []
    for block in blocks("toml"):
        (tmp_path / "r.toml").write_text(block.text)
        recipe = validate(RECIPES[tomllib.loads(block.text)["verb"]], read(tmp_path / "r.toml"))
        file = getattr(getattr(recipe, "task", None), "train", None)
        if file is None or not Path(file).is_file():
            continue
        rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
        readers = [part for part in (*recipe.stages, recipe.teacher) if hasattr(part, "columns")]
        columns = {c for part in readers for c in part.columns}
        columns |= {"answer"} if hasattr(recipe.reward, "compare") else set()
        assert all(columns <= row.keys() for row in rows), block.page
        read_by += [block.page] if columns else []
    assert {"docs/cepo.md", "docs/distill.md"} <= set(read_by)


def test_the_example_recipe_keeps_the_defaults_it_does_not_name(tmp_path: Path) -> None:
    (block,) = (b for b in blocks("toml") if b.page == "docs/recipes.md")
    (tmp_path / "r.toml").write_text(block.text)
    recipe = validate(RECIPES["preference"], read(tmp_path / "r.toml"))
    assert (recipe.loss.beta, recipe.optim.schedule, recipe.optim.warmup) == (0.1, "linear", 0.1)
    assert (recipe.loss.flip_rate, recipe.optim.lr) == (0.2, 1e-3)


def test_example_rows_are_read(tmp_path: Path) -> None:
    from steersman.language.records import READERS, detect

    rows = [code for code in inline("docs/data.md") if code.startswith("{")]
    assert len(rows) == 6
    seen = set()
    for row in rows:
        file = tmp_path / "rows.jsonl"
        file.write_text(json.dumps(json.loads(row)) + "\n")
        kind = detect(file)
        assert len(READERS[kind](file)) == 1
        seen.add(kind)
    assert seen == set(READERS)


def test_rooms_of_the_readme_are_the_folders() -> None:
    listed = set(re.findall(r"^\| `([a-z]+)` \|", TEXT["README.md"], re.M))
    folders = {p.parent.name for p in Path(steersman.__file__).parent.glob("*/__init__.py")}
    assert listed == folders


def test_format_versions() -> None:
    from steersman.recipes import training
    from steersman.store import checkpoint
    from steersman.study import summary

    shown = dict(re.findall(r"^\| (recipe|checkpoint|report) \| (\d+) \|", TEXT["docs/layout.md"], re.M))
    real = {"recipe": training.FORMAT, "checkpoint": checkpoint.FORMAT, "report": summary.FORMAT}
    assert {k: int(v) for k, v in shown.items()} == real


def test_room_order_is_the_enforced_one() -> None:
    (block,) = (b for b in blocks("") if b.page == "CONTRIBUTING.md")
    text = (ROOT / "tests" / "test_floors.py").read_text()
    order = re.findall(r'"([a-z]+)"', text.partition("FLOORS = [")[2].partition("]")[0])
    assert block.text.split() == order
    assert len(order) > 10


def test_the_words_are_for_everybody() -> None:
    for page, text in TEXT.items():
        assert not re.search(r"/work/|/tmp/|\.\./shared", text), page
