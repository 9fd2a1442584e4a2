"""`steersman decide invariance`: which stable variables to carry into new environments, from a data file.

Leaves out: reading, learning, searching, the page (`recipes.decide_invariance`).
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from steersman.core.errors import UserError

DEFAULT_OUT = Path("invariance-decision")
SHOWN = 12


def invariance(
    data: Annotated[Path, typer.Argument(help="CSV file of numbers, one row for each unit.")],
    outcome: Annotated[str, typer.Option("--outcome", help="Column to predict; its own mechanism must not change.")],
    mutable: Annotated[str, typer.Option("--mutable", help="Columns whose mechanism changes, separated by commas.")],
    environment: Annotated[
        str | None, typer.Option("--environment", help="Column that names each row's environment.")
    ] = None,
    edges: Annotated[
        str | None, typer.Option("--edges", help="'A->B, B->C, C--D' or a file of such lines; else it is learnt.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of the tests that learn the graph.")] = 0.01,
    test: Annotated[str, typer.Option(help="partial (linear) or kci (needs causal-learn).")] = "partial",
    regressor: Annotated[str, typer.Option(help="mlp, linear or boosting.")] = "mlp",
    adversary: Annotated[str, typer.Option(help="auto, exact, direct or gradient.")] = "auto",
    mutable_range: Annotated[
        str, typer.Option("--mutable-range", help="observed, a factor such as 1.5, none, or X9=0:1,X10=-2:2.")
    ] = "observed",
    folds: Annotated[int, typer.Option(help="Folds of cross-fitting.", min=2)] = 5,
    search: Annotated[str, typer.Option(help="classes, exhaustive (a check), or beam (inexact).")] = "classes",
    max_classes: Annotated[int, typer.Option("--max-classes", help="Stop beyond so many classes.", min=1)] = 20_000,
    beam: Annotated[int, typer.Option(help="Width of the inexact search.", min=1)] = 4,
    prefer: Annotated[str, typer.Option(help="lowest risk, or smallest set within one standard error.")] = "lowest",
    rank_all: Annotated[
        bool, typer.Option("--rank-all", help="Judge all classes even where the graph alone decides.")
    ] = False,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="Judge other methods as well.")] = True,
    predict: Annotated[Path | None, typer.Option("--predict", help="CSV of new rows; writes predictions.csv.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and the figures.")] = DEFAULT_OUT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Choose stable variables whose predictor has the smallest error in the worst environment, and say why."""
    from steersman.cli.table import print_json
    from steersman.recipes.decide_invariance import InvarianceQuestion, decide
    from steersman.store.files import write_json, write_text
    from steersman.store.run import writable

    writable(out)
    options = {
        "regressor": regressor, "adversary": adversary, "mutable_range": _range(mutable_range), "folds": folds,
        "search": search, "max_classes": max_classes, "beam": beam, "prefer": prefer, "shortcut": not rank_all,
        "seed": seed,
    }  # fmt: skip
    names = tuple(m.strip() for m in mutable.split(",") if m.strip())
    asked = InvarianceQuestion(data, outcome, names, environment, _edges(edges), alpha, test, options, baselines,
                               predict)  # fmt: skip
    found = decide(asked, lambda line: typer.echo(line, err=True))
    write_text(out / "report.html", found.page)
    write_json(out / "invariance.json", found.summary, sort_keys=False)
    if found.predictions is not None:
        write_text(out / "predictions.csv", "prediction\n" + "".join(f"{v!r}\n" for v in found.predictions.tolist()))
    if as_json:
        print_json(found.summary | {"out": str(out)})
        return
    _show(found.summary)
    if found.predictions is not None:
        print(f"\npredictions  {out / 'predictions.csv'}")
    print(f"\npage  {out / 'report.html'}")


def _edges(given: str | None) -> str | None:
    """Edges as text: the option itself, or what the file it names holds."""
    if given is None or any(arrow in given for arrow in ("->", "<-", "--")):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{given!r} is neither edges nor a file of them ({error})", where="--edges",
                        allowed="'A->B, B->C' or a file") from None  # fmt: skip


def _range(given: str) -> Any:
    if given == "observed":
        return given
    if given == "none":
        return None
    if "=" not in given:
        try:
            return float(given)
        except ValueError:
            pass
        raise UserError(
            f"{given!r} is no range", where="--mutable-range", allowed="observed, 1.5, none, X9=0:1,X10=-2:2"
        )
    found = {}
    for part in given.split(","):
        name, _, ends = part.partition("=")
        try:
            low, high = (float(x) for x in ends.split(":"))
        except ValueError:
            raise UserError(f"{part!r} is no range", where="--mutable-range", allowed="NAME=LOW:HIGH") from None
        found[name.strip()] = (low, high)
    return found


def _show(summary: dict[str, Any]) -> None:
    import textwrap

    from steersman.cli.table import console, grid, print_table
    from steersman.page.number import number

    def say(text: str, lead: str = "") -> None:
        print(textwrap.fill(lead + text, 100, subsequent_indent=" " * len(lead)))

    say(summary["sentence"])
    print()
    edges = [*summary["edges"], *summary["undirected"]]
    say(", ".join(edges) or "no edges", "graph  ")
    say(summary["condition"])
    print()
    table = grid("variable", "", "")
    for name, role in summary["roles"].items():
        table.add_row(name, role, summary["reasons"].get(name, "").removeprefix(role).lstrip("; :"))
    print_table(console(), table)
    print()
    table = grid("stable variables used", "worst-case risk", "se", "")
    for r in summary["ranking"][:SHOWN]:
        mark = "chosen" if r["core"] == summary["chosen"] else "as good within one se" if r["near_best"] else ""
        table.add_row("{" + ", ".join(r["core"]) + "}", number(r["risk"], 4), number(r["se"], 4), mark)
    for name, r in summary["baselines"].items():
        table.add_row(name, number(r["risk"], 4), number(r["se"], 4), "other method")
    print_table(console(), table)
    if len(summary["ranking"]) > SHOWN:
        print(f"and {summary['classes'] - SHOWN} more classes")
    print()
    for line in summary["said"]:
        say(line)
    if summary["graphs_that_fit"] > 1:
        say(f"{summary['graphs_that_fit']} graphs fit the edges; the choice is the safest over all of them.")
    for line in summary["notes"]:
        say(line, "note: ")
