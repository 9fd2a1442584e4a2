"""`steersman train inventory`: an ordering policy for an inventory network, from a TOML file.

Leaves out: what the file may say (`recipes.inventory`), carrying it out (`recipes.inventory_job`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

LINES = 10
"""Lines of progress of a run."""


def inventory(
    file: Annotated[Path | None, typer.Argument(help="The network, its demand, a policy: a recipe in TOML.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Optimiser steps.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; default runs/inventory-<identity>.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the recipe.")
    ] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="A run's folder, or one of its checkpoints.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, train nothing.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """An ordering policy for an inventory network, by gradients through its simulation (HDPO)."""
    import json

    from steersman.recipes.inventory_job import carry_out_inventory, described
    from steersman.store.files import tag

    recipe, runtime, checkpoint = _resolve(file, steps, out, overrides or [], resume, device)
    if dry_run:
        plan = described(recipe, runtime)
        typer.echo(json.dumps(plan, indent=2) if as_json else _plan(plan))
        return
    watch, say = _Progress(as_json), (lambda line: None) if as_json else (lambda line: typer.echo(line, err=True))
    done = carry_out_inventory(recipe, runtime, say=say, watch=watch, resume=checkpoint)
    if as_json:
        typer.echo(json.dumps(tag(dict(done.result) | {"folder": str(done.folder)}), indent=2))
        return
    for note in done.notes:
        typer.echo(note)
    _show(done.result)
    typer.echo(f"policy  {done.folder / 'policy'}\npage  {done.folder / 'report.html'}")


def _resolve(
    file: Path | None, steps: int | None, out: Path | None, overrides: list[str], resume: Path | None,
    device: str | None,
) -> tuple[Any, Any, Path | None]:  # fmt: skip
    """(recipe, runtime, checkpoint): file, then options, then ``--set``; with ``--resume`` the run's own recipe."""
    from steersman.cli.train import _run_of, _same_verb, runtime_source
    from steersman.core.config import parse_override, read, validate
    from steersman.core.errors import UserError
    from steersman.recipes.inventory import InventoryRecipe, InventoryRuntime
    from steersman.store.files import read_json

    base, checkpoint = {}, None
    if resume is not None:
        folder, checkpoint = _run_of(resume)
        base, out = read_json(folder / "recipe.json"), out or folder
        _same_verb(base, "inventory", resume)
    elif file is None:
        raise UserError("there is no network", where="FILE", cure="steersman config show inventory shows an example.")
    given = [] if steps is None else [f"budget.steps={steps}"]
    source = read(file, given + [o for o in overrides if not o.startswith("runtime.")], base)
    own = runtime_source(source)
    sets = dict(parse_override(o.removeprefix("runtime.")) for o in overrides if o.startswith("runtime."))
    sets |= {k: str(v) for k, v in (("out", out), ("device", device)) if v is not None}
    own.values.update(sets)
    own.places.update(dict.fromkeys(sets, "the command line"))
    return validate(InventoryRecipe, source), validate(InventoryRuntime, own), checkpoint


class _Progress:
    """About ten plain lines on standard error."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.cost, self.told = quiet, "", 0

    def __call__(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """A logged step, or an evaluation."""
        if "eval/cost" in metrics:
            self.cost = f"  held out {metrics['eval/cost']:.4g}"
            return
        due = step == total or step * LINES // total > self.told
        if self.quiet or not due or "loss" not in metrics:
            return
        self.told = step * LINES // total
        typer.echo(f"step {step}/{total}  cost {metrics['loss']:.4g}{self.cost}", err=True)


def _plan(plan: Mapping[str, Any]) -> str:
    known = plan["reference"]
    lines = [
        f"{plan['locations']} locations, {plan['edges']} edges",
        f"policy {plan['policy']} with {plan['parameters']:,} weights",
        f"{plan['steps']:,} steps of {plan['method']} on {plan['scenarios']:,} scenarios: "
        f"{plan['simulated_periods']:,} simulated periods",
        f"known {known['kind']}: {known['cost']:.4g} ({known['name']})" if known else "no optimum is known",
        f"would write {plan['folder']}",
    ]
    return "\n".join(lines)


def _show(result: Mapping[str, Any]) -> None:
    from steersman.cli.table import console, grid, print_table
    from steersman.page.number import number

    out = console()
    table = grid("", "cost a period and store", "95 % interval")
    test, known, gap = result["test"], result["reference"], result["gap"]
    table.add_row("learnt policy, test", number(test["value"]), f"[{number(test['low'])}, {number(test['high'])}]")
    for n, found in result["curve"].items():
        interval = f"[{number(found['low'])}, {number(found['high'])}]"
        table.add_row(f"from {n} scenarios", number(found["value"]), interval)
    if known:
        table.add_row(f"{known['kind']}: {known['name']}", number(known["cost"]), "")
        low, value, high = (number(100 * gap[k], 2) for k in ("low", "value", "high"))
        table.add_row("gap", f"{value} %", f"[{low}, {high}] %")
    print_table(out, table)
    typer.echo(f"{result['steps']} steps ({result['reason']})")
