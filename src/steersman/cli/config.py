"""`steersman config`: show, copy and check recipes without running anything."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Show, copy and check recipes.")

NAMES = "sft, reward, preference, rl, inventory, or a preset of rl: grpo, dapo, ppo, ..."
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key.")]
Allowed = Annotated[list[str] | None, typer.Option("--allow-import", metavar="PACKAGE", help="Import code of yours.")]


@app.command()
def show(
    name: Annotated[str, typer.Argument(help=NAMES)],
    overrides: Overrides = None,
    allow_import: Allowed = None,
) -> None:
    """Print a recipe with every key, its default and its meaning."""
    typer.echo(_shipped(name, overrides or [], allow_import or []), nl=False)


@app.command()
def cp(
    name: Annotated[str, typer.Argument(help=NAMES)],
    file: Annotated[Path, typer.Argument(help="where to")],
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write a recipe to a file of your own to edit."""
    from steersman.core.errors import UserError
    from steersman.store.files import write_text

    if file.exists() and not force:
        raise UserError("is there already", where=str(file), cure="Add --force to replace it.")
    write_text(file, _shipped(name, overrides or [], []))
    typer.echo(str(file))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="a recipe in TOML")],
    overrides: Overrides = None,
    allow_import: Allowed = None,
) -> None:
    """Say whether a recipe is valid, and print it resolved; a table ``[runtime]`` is checked and left out."""
    from steersman.cli.train import runtime_source
    from steersman.core.config import read, to_toml, validate
    from steersman.recipes.inventory import InventoryRuntime
    from steersman.recipes.training import Runtime
    from steersman.recipes.verbs import check as check_recipe

    source = read(file, overrides or [])
    if "runtime" in source.values:
        how = InventoryRuntime if source.values.get("verb") == "inventory" else Runtime
        validate(how, runtime_source(source))
    recipe = validate(recipe_class(source.values, source.name), source, allow_import or [])
    for line in check_recipe(recipe):
        typer.echo(line, err=True)
    typer.echo(to_toml(recipe), nl=False)


def recipe_class(values: dict[str, object], where: str) -> type:
    """The class of a recipe, from its ``verb`` key.

    Raises:
        UserError: no verb, or one that does not exist.
    """
    from difflib import get_close_matches

    from steersman.core.errors import UserError
    from steersman.recipes.verbs import RECIPES

    verb = values.get("verb")
    if isinstance(verb, str) and verb in RECIPES:
        return RECIPES[verb]
    near = get_close_matches(str(verb), RECIPES, n=1)
    what = "verb is missing" if verb is None else f"{verb!r} is not known"
    cure = f"Did you mean {near[0]!r}?" if near else 'Example: verb = "preference"'
    raise UserError(what, where=f"verb ({where})", allowed=", ".join(RECIPES), cure=cure)


def _shipped(name: str, overrides: list[str], allow_import: list[str]) -> str:
    """A recipe of a verb, or of a preset, with example paths."""
    from difflib import get_close_matches

    from steersman.core.config import read, to_toml, validate
    from steersman.core.errors import UserError
    from steersman.recipes.inventory import EXAMPLE
    from steersman.recipes.presets import DISTILLED, SHIPPED, wants_teacher
    from steersman.recipes.verbs import RECIPES, check

    if name not in RECIPES and name not in SHIPPED:
        near = get_close_matches(name, [*RECIPES, *SHIPPED], n=1)
        cure = f"Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{name!r} is not known", where="name", allowed=", ".join([*RECIPES, *SHIPPED]), cure=cure)
    verb = name if name in RECIPES else "distill" if name in DISTILLED else "rl"
    base: dict[str, object] = {"verb": verb, "model": {"path": "path/to/model"}}
    base |= {"preset": name} if name in SHIPPED else {}
    rows = {"train": "train.jsonl"}
    base |= {"task": {"kind": "questions"} | rows} if verb in ("rl", "distill") else {"data": rows}
    if name == "distill" or wants_teacher(name):
        base |= {"loss": {"kind": "distill", "teacher": {"path": "path/to/teacher"}}}
    base = {"verb": verb, **EXAMPLE} if verb == "inventory" else base
    recipe = validate(RECIPES[str(base["verb"])], read(None, overrides, base), allow_import)
    check(recipe)
    return to_toml(recipe)
