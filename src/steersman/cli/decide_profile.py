"""`steersman decide profile`: which profile to field, from a conjoint survey.

Leaves out: reading, fitting, deciding, the page (`recipes.decide_profile`).
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from steersman.core.errors import UserError

DEFAULT_OUT = Path("profile-decision")


def profile(
    survey: Annotated[Path, typer.Argument(help="CSV file with one row for each profile.")],
    factors: Annotated[str, typer.Option("--factors", help="Columns of the attributes, separated by commas.")],
    outcome: Annotated[str, typer.Option("--outcome", help="Column: 1 = chosen, 0 = not; or a rating.")],
    pair: Annotated[str | None, typer.Option("--pair", help="Column that names the pair; none: ratings.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Column that names the respondent.")] = None,
    opponent: Annotated[
        str | None, typer.Option("--opponent", help="Column of the profile's party: the other party answers.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Column of the respondent's party.")] = None,
    infer_group: Annotated[
        bool, typer.Option("--infer-group", help="Infer it from each respondent's even-numbered tasks.")
    ] = False,
    primaries: Annotated[
        bool, typer.Option("--primaries/--no-primaries", help="Each party's own voters nominate.")
    ] = True,
    strength: Annotated[float, typer.Option(help="How surely the better candidate wins a primary; 0 = a coin.")] = 1.0,
    lam: Annotated[
        str, typer.Option("--lam", help="Price of leaving the design; auto = whatever does best in cross-fitting.")
    ] = "0.05",
    penalty: Annotated[str, typer.Option(help="l2, kl, reverse_kl or none; alone also l1 or linf.")] = "l2",
    link: Annotated[str, typer.Option(help="logit or linear.")] = "logit",
    interactions: Annotated[str, typer.Option(help="all, none, or screened by a group lasso.")] = "all",
    models: Annotated[
        str, typer.Option(help="four: each party's stages apart; two: drawn toward one another.")
    ] = "four",
    solver: Annotated[str, typer.Option(help="Of the game: extragradient, ogda or simultaneous.")] = "extragradient",
    design: Annotated[
        Path | None, typer.Option("--design", help="JSON: {factor: {level: probability}}; none: the shares observed.")
    ] = None,
    forbid: Annotated[
        list[str] | None, typer.Option("--forbid", help="FACTOR=LEVEL,FACTOR=LEVEL: a profile nobody could be shown.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(help="Draw respondents so many times; 0 = not.", min=0)] = 0,
    folds: Annotated[int, typer.Option(help="Folds of respondents for the honest value.", min=2)] = 5,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    where: Annotated[list[str] | None, typer.Option("--where", help="COLUMN=VALUE: only these rows.")] = None,
    band: Annotated[str | None, typer.Option("--range", help="LOW,HIGH: what values are held against.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and the figures.")] = DEFAULT_OUT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Choose a distribution over profiles, alone or against an opponent, with intervals."""
    from steersman.recipes.decide_profile import ProfileQuestion, decide
    from steersman.store.files import write_json, write_text
    from steersman.store.run import writable

    writable(out)
    asked = ProfileQuestion(
        survey, tuple(f.strip() for f in factors.split(",")), outcome, pair, cluster, opponent, group, infer_group,
        primaries, strength, _price(lam), penalty, link, interactions, bootstrap, folds, level,
        tuple(_equation(w) for w in where or ()), _range(band), seed, design,
        tuple(_combination(x) for x in forbid or ()), models, solver,
    )  # fmt: skip
    found = decide(asked, lambda line: typer.echo(line, err=True))
    write_text(out / "report.html", found.page)
    write_json(out / "profile.json", found.summary, sort_keys=False)
    if as_json:
        typer.echo(json.dumps(found.summary | {"out": str(out)}, indent=2, ensure_ascii=False, allow_nan=False))
        return
    _show(found.summary)
    print(f"\npage  {out / 'report.html'}")


def _equation(text: str, where: str = "--where") -> tuple[str, str]:
    column, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"{text!r} has no equals sign", where=where, allowed="COLUMN=VALUE")
    return column, value


def _combination(text: str) -> dict[str, str]:
    """Levels are cut at commas that an equation follows, so that a level may hold a comma."""
    return dict(_equation(part.strip(), "--forbid") for part in re.split(r",(?=[^,=]+=)", text))


def _price(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{text!r} is no number", where="--lam", allowed="0 or more, or auto") from None


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(x) for x in text.split(","))
    except ValueError:
        raise UserError(f"{text!r} is no range", where="--range", allowed="LOW,HIGH") from None
    if not low < high:
        raise UserError(f"{text!r} is no range", where="--range", allowed="LOW below HIGH")
    return low, high


def _show(summary: dict[str, Any]) -> None:
    from steersman.cli.table import console, grid, print_table
    from steersman.page.number import number

    out = console()
    arms = summary["policy"] if "parties" in summary else {"policy": summary["policy"]}
    spread = summary["policy_se"] if "parties" in summary else {"policy": summary["policy_se"]}
    table = grid("factor", "level", *(x for arm in arms for x in (arm, "se")))
    for factor, shares in next(iter(arms.values())).items():
        for i, level in enumerate(shares):
            cells = [f"{x[arm][factor][level]:.3f}" for arm in arms for x in (arms, spread)]
            table.add_row("" if i else factor, level, *cells)
    print_table(out, table)
    print()
    table = grid("value", "", "interval")
    for name, v in summary["values"].items():
        table.add_row(name, number(v["value"], 3), f"[{number(v['low'], 3)}, {number(v['high'], 3)}]")
    print_table(out, table)
    print(f"\nlam {summary['lam']:.4g}, penalty {summary['penalty']}: {summary['status']}")
    if "exploitability" in summary:
        print(f"exploitability {number(summary['exploitability'], 4)}")
    inferred = summary.get("inferred", {})
    for name, value in inferred.items():
        words = ", ".join(f"{k} {number(v)}" for k, v in value.items()) if isinstance(value, dict) else number(value)
        print(f"{name.replace('_', ' ')}: {words}")
    for line in summary["notes"]:
        print(f"note: {line}")
