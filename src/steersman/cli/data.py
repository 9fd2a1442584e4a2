"""`steersman data check`: what a training file holds, without training.

Exit code 0 if every row can be trained on, 2 if some cannot or there is none. Leaves out: repairing files.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steersman.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from steersman.language.data_check import DataReport

app = typer.Typer(no_args_is_help=True, help="Examine training files.")

WIDTH = 100
SHOWN = 10


@app.callback()
def _group() -> None:
    """Examine training files."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="JSON Lines file of completions, pairs or ratings.")],
    eval: Annotated[Path | None, typer.Option("--eval", help="A second file; overlap with FILE is reported.")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="Model folder: lengths in tokens too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Broken rows, duplicates, leakage, lengths and labels of FILE."""
    from steersman.language.data_check import check_file

    try:
        tokenizer, context = _tokenizer(model)
        report = check_file(file, eval, tokenizer=tokenizer, context=context)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        _show(report, measured=model is not None)
    raise typer.Exit(0 if report.clean else 2)


def _tokenizer(folder: Path | None) -> tuple[object, int | None]:
    if folder is None:
        return None, None
    from transformers import AutoConfig

    from steersman.language.load import check_folder, context_length, load_tokenizer

    check_folder(folder)
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return load_tokenizer(folder), context_length(config)


def _show(report: "DataReport", measured: bool) -> None:
    """Print the report: findings first, then lengths; `measured`: tokens were counted."""
    import sys

    from rich.console import Console
    from rich.table import Table

    console = Console(width=min(WIDTH, Console().width) if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(f"{report.path} · {report.format} · {_rows(report.rows, 'usable ')}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("finding", "left"), ("rows", "right"), ("lines", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for name, lines in _findings(report):
        table.add_row(name, f"{len(lines):,}", _some(lines))
    console.print(table)
    for label, problems in (("broken", report.problems), ("broken in the second file", report.eval_problems)):
        for problem in problems[:SHOWN]:
            console.print(f"  {label}: line {problem.line}: {problem.what}", markup=False, soft_wrap=False)
        if len(problems) > SHOWN:
            console.print(f"  ... and {len(problems) - SHOWN:,} more (all of them: --json)")
    if report.labels:
        console.print("labels   " + "   ".join(f"{k} {v:,}" for k, v in report.labels.items()))
    if report.ignored:
        columns = ", ".join(f"{name} ({n:,})" for name, n in report.ignored.items())
        console.print(f"ignored columns   {columns}", markup=False)
    _show_lengths(console, report)
    if not measured:
        console.print("lengths in tokens were not checked: give the model with --model", markup=False)
    if not report.clean:
        console.print(f"not clean: training would refuse it: {'; '.join(report.reasons)}", markup=False)
    elif report.over_context:
        longer = _rows(len(report.over_context), "longer ")
        console.print(f"clean but for {longer}: training refuses such unless data.truncation.kind says what to do")
    else:
        console.print("clean: every row can be trained on")


def _rows(number: int, what: str) -> str:
    return f"{number:,} {what}row{'' if number == 1 else 's'}"


def _findings(report: "DataReport") -> list[tuple[str, tuple[int, ...]]]:
    out = [
        ("broken", tuple(p.line for p in report.problems)),
        ("pairs with identical sides (dropped)", report.identical),
        ("exact duplicates", report.duplicates),
        ("duplicates but for case and white space", report.near_duplicates),
        ("contradicting an earlier row", report.contradictions),
    ]
    if report.context is not None:
        out.append((f"longer than the context of {report.context:,} tokens", report.over_context))
        out.append(("prompt alone longer than the context", report.long_prompts))
    if report.leakage is not None:
        those = _rows(report.leakage.rows_in_eval, "second-file ")
        out.append(("broken in the second file", tuple(p.line for p in report.eval_problems)))
        out.append((f"of {those}: prompt is in the first file", report.leakage.prompts))
        out.append((f"of {those}: whole row is in the first file", report.leakage.rows))
    return out


def _some(lines: tuple[int, ...]) -> str:
    shown = ", ".join(str(i) for i in lines[:5])
    return shown + (", ..." if len(lines) > 5 else "")


def _show_lengths(console: "Console", report: "DataReport") -> None:
    from rich.table import Table

    for unit, lengths in (("characters", report.characters), ("tokens", report.tokens)):
        if not lengths:
            continue
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(unit)
        for name in ("least", "median", "95 %", "most", "mean"):
            table.add_column(name, justify="right")
        for field, x in lengths.items():
            values = asdict(x)
            cells = (values[k] for k in ("smallest", "median", "p95", "largest", "mean"))
            table.add_row(field, *(f"{v:,.0f}" for v in cells))
        console.print(table)
