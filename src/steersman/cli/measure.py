"""`steersman measure`: what can be learnt from a log, before any training.

Leaves out: opening, measuring, the page (`recipes.measure`).
"""

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_OUT = Path("dataset-report")


def measure(
    log: Annotated[
        Path,
        typer.Argument(help="Parquet file, .npz or .hdf5 archive, Minari data set, or folder of saved transitions."),
    ],
    ref: Annotated[Path | None, typer.Option("--ref", help="Reference for coverage: a log of the same task.")] = None,
    low: Annotated[str | None, typer.Option("--low", help="Mean return of a random policy, or its log.")] = None,
    high: Annotated[
        str | None, typer.Option("--high", help="Mean return of the best policy known, or its log.")
    ] = None,
    discount: Annotated[float, typer.Option(help="Of returns.")] = 1.0,
    bins: Annotated[
        int, typer.Option(help="Edges a dimension for floats, between the reference's ends; 0 = none.")
    ] = 100,
    counter: Annotated[str, typer.Option(help="exact, or hll: 0.8 % error, fixed memory.")] = "exact",
    repeats: Annotated[int, typer.Option(help="Subsample logs of unequal size so often; 0 = refuse.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of the subsamples.")] = 0,
    obs: Annotated[str | None, typer.Option("--obs", help="Columns of observations, separated by commas.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="Columns of the action.")] = None,
    reward: Annotated[str | None, typer.Option("--reward", help="Column of rewards.")] = None,
    terminated: Annotated[str | None, typer.Option("--terminated", help="Column: the task ended here.")] = None,
    truncated: Annotated[str | None, typer.Option("--truncated", help="Column: stopped here by a limit.")] = None,
    episode: Annotated[str | None, typer.Option("--episode", help="Column of episode ids.")] = None,
    actions: Annotated[int | None, typer.Option("--actions", help="Number of discrete actions.")] = None,
    ends: Annotated[
        str, typer.Option("--ends", help="Ends of episodes without a flag: terminated, truncated, cut or refuse.")
    ] = "refuse",
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and the figures.")] = DEFAULT_OUT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Say how good the behaviour in a log is, how much it covers, and which offline methods can work on it."""
    from steersman.cli.table import dump
    from steersman.recipes.measure import MeasureQuestion
    from steersman.recipes.measure import measure as answer
    from steersman.store.files import write_json, write_text
    from steersman.store.run import writable

    writable(out)
    given = {"obs": obs, "action": action, "reward": reward, "terminated": terminated, "truncated": truncated,
             "episode": episode}  # fmt: skip
    named = {role: tuple(c.strip() for c in text.split(",")) for role, text in given.items() if text}
    asked = MeasureQuestion(
        log, ref, low, high, discount, bins, counter, repeats, seed, named, actions, ends
    )  # fmt: skip
    found = answer(asked, lambda line: typer.echo(line, err=True))
    write_text(out / "report.html", found.page)
    write_json(out / "measure.json", found.summary, sort_keys=False)
    if as_json:
        print(dump(found.summary | {"out": str(out)}))
        return
    _show(found.summary)
    print(f"\npage  {out / 'report.html'}")


def _show(summary: dict[str, Any]) -> None:
    import textwrap

    from steersman.cli.table import console, grid, print_table
    from steersman.cli.watch import WIDTH

    out, table = console(), grid("", "", "")
    for row in _rows(summary):
        table.add_row(*row)
    print_table(out, table)
    if families := summary["advice"]["families"]:
        strata = list(families[0]["evidence"])
        print()
        table = grid("family", "verdict", "expected", *(f"paper, {s}" for s in strata), "methods")
        for f in families:
            cells = (f"{f['expected']:.2f}", *(f"{f['evidence'][s]:.2f}" for s in strata))
            table.add_row(f["family"], f["verdict"], *cells, ", ".join(f["methods"]))
        print_table(out, table)
    print()
    print(textwrap.fill(summary["advice"]["sentence"], WIDTH))
    for line in (*summary["notes"], *summary["advice"]["limits"]):
        print(textwrap.fill(f"note: {line}", WIDTH, subsequent_indent="      "))


def _rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, figure and remark of everything that was measured."""
    from steersman.page.number import Estimate, interval, number, point

    log, quality, coverage = summary["log"], summary["quality"], summary["coverage"]
    whole = f"{log['not_whole']:,} more are not whole" if log["not_whole"] else ""
    rows = [("transitions", f"{log['transitions']:,}", ""), ("episodes", f"{log['episodes']:,}", whole)]
    for name in ("return", "length"):
        if log[f"mean_{name}"] is not None:
            low, *_, high = log[f"{name}_quantiles"]
            rows.append((f"mean {name}", number(log[f"mean_{name}"]), f"{number(low)} to {number(high)}"))
    if quality is not None:
        tq = Estimate(quality["tq"], quality["low"], quality["high"])
        between = (
            f"{interval(tq)}, between returns {number(quality['low_return'])} and {number(quality['high_return'])}"
        )
        rows.append(("TQ", point(tq), between))
    if coverage is not None:
        spread = f" ± {number(coverage['spread'], 3)}" if coverage["spread"] is not None else ""
        told = f"{coverage['unique']:,} of {coverage['unique_reference']:,} different pairs"
        rows.append(("SACo", number(coverage["saco"], 3) + spread, told))
        rows.append(("lSACo", number(coverage["lsaco"], 3), "ratio of the logarithms"))
        if coverage["entropy_ratio"] is not None:
            rows.append(("entropy ratio", number(coverage["entropy_ratio"], 3), "beside the reference"))
    else:
        rows.append(("different pairs", f"{log['unique_pairs']:,}", log["counted"]))
    return rows
