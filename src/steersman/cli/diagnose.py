"""`steersman diagnose`: what is wrong with a policy, and where. Nothing is trained.

Leaves out: drawing, scoring and figures (`recipes.diagnose_tokens`).
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Look into a policy: where a teacher disagrees with it.", no_args_is_help=True)
DEFAULT_OUT = Path("token-diagnosis")


@app.callback()
def _together() -> None:
    """Look into a policy: where a teacher disagrees with it."""


@app.command("tokens")
def tokens(
    model: Annotated[Path, typer.Option("--model", help="Folder of the policy.")],
    teacher: Annotated[str, typer.Option("--teacher", help="Folder of a model with its vocabulary, or planted.")],
    task: Annotated[str, typer.Option("--task", help="JSONL of prompts, reasoning_gym:NAME, chain_sum, or planted.")],
    limit: Annotated[
        int | None, typer.Option(help="First so many prompts; default all of a file, 200 of others.", min=1)
    ] = None,
    samples: Annotated[int, typer.Option(help="Responses to each prompt.", min=1, max=1024)] = 4,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a response; default 512, or what fits.", min=1)
    ] = None,
    temperature: Annotated[float, typer.Option(help="Divides the logits of both models.")] = 1.0,
    keep: Annotated[float, typer.Option(help="Share of the tokens that each rule keeps, above 0, at most 1.")] = 0.2,
    entropy_threshold: Annotated[
        float | None, typer.Option(help="Nats above which entropy is high; default the median.")
    ] = None,
    divergence_threshold: Annotated[
        float | None, typer.Option(help="Nats above which divergence is high; default the median.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Text prompts are a user's turn, or taken as is.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and the figures.")] = DEFAULT_OUT,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    micro_tokens: Annotated[int, typer.Option(help="Tokens of one forward pass.", min=1)] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Draw responses, score them by a teacher, and show which tokens a distillation would learn from."""
    from steersman.recipes.diagnose_tokens import TokenQuestion, diagnose
    from steersman.store.files import write_json, write_text
    from steersman.store.run import writable

    writable(out)
    asked = TokenQuestion(
        model, teacher, task, limit, samples, max_new_tokens, temperature, keep, entropy_threshold,
        divergence_threshold, seed, chat, device, dtype, micro_tokens,
    )  # fmt: skip
    found = diagnose(asked, lambda line: typer.echo(line, err=True))
    report = out / "report.html"
    write_text(report, found.page)
    write_json(out / "tokens.json", found.summary)
    if as_json:
        typer.echo(json.dumps(found.summary | {"out": str(out)}, indent=2, ensure_ascii=False, allow_nan=False))
        return
    _show(found.summary)
    print(f"\npage  {report}")


def _show(summary: dict[str, Any]) -> None:
    from steersman.cli.table import console, grid, print_table
    from steersman.page.number import MISSING, number

    def percent(x: float | None) -> str:
        return MISSING if x is None else f"{x:.1%}"

    out = console()
    print(
        f"{summary['tokens']:,} tokens of {summary['responses']:,} responses; mean divergence "
        f"{number(summary['divergence'], 3)} nats.\nHigh: entropy above {number(summary['entropy_threshold'], 3)}, "
        f"divergence above {number(summary['divergence_threshold'], 3)} nats.\n"
    )
    table = grid("", "meaning", "share", "entropy", "divergence", "of all divergence")
    for r in summary["quadrants"]:
        figures = (MISSING if r[k] is None else number(r[k], 3) for k in ("entropy", "divergence"))
        table.add_row(r["quadrant"], r["meaning"], percent(r["share"]), *figures, percent(r["part"]))
    print_table(out, table)
    print(f"\nwhat each rule keeps at {summary['keep']:.0%}")
    table = grid("rule", "tokens", *(f"{q} in it" for q in ("Q1", "Q2", "Q3", "Q4")), "of all Q3", "of divergence")
    for r in summary["rules"]:
        made = (percent(r["makeup"][q]) for q in ("Q1", "Q2", "Q3", "Q4"))
        table.add_row(r["rule"], f"{r['tokens']:,}", *made, percent(r["kept"]["Q3"]), percent(r["part"]))
    print_table(out, table)
    print("\noverlap of what two rules keep (Jaccard)")
    names = list(summary["overlap"])
    table = grid("", *(n.replace("entropy, ", "") for n in names))
    for a, row in summary["overlap"].items():
        table.add_row(a, *(MISSING if x is None else f"{x:.2f}" for x in row.values()))
    print_table(out, table)
