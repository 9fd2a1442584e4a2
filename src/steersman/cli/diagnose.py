"""`steersman diagnose`: what is wrong with a policy, and where. Nothing is trained.

Leaves out: drawing, scoring and figures (`recipes.diagnose_tokens`, `recipes.diagnose_probe`).
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Look into a policy: where a teacher disagrees with it, what its hidden states know.", no_args_is_help=True
)
DEFAULT_OUT = Path("token-diagnosis")


@app.callback()
def _together() -> None:
    """Look into a policy: where a teacher disagrees with it, what its hidden states know."""


@app.command("tokens")
def tokens(
    model: Annotated[Path, typer.Option("--model", help="Folder of the policy.")],
    teacher: Annotated[str, typer.Option("--teacher", help="Folder of a model or a run with its tokens, or planted.")],
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


@app.command("probe")
def probe(
    model: Annotated[Path, typer.Option("--model", help="Folder of the policy.")],
    task: Annotated[str, typer.Option("--task", help="JSONL of prompts and answers, reasoning_gym:NAME, chain_sum.")],
    limit: Annotated[
        int | None, typer.Option(help="First so many prompts; default all of a file, 200 of others.", min=1)
    ] = None,
    samples: Annotated[int, typer.Option(help="Responses to each prompt.", min=2, max=1024)] = 4,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a response; default 512, or what the task knows.", min=1)
    ] = None,
    temperature: Annotated[float, typer.Option(help="Divides the logits.")] = 1.0,
    pool: Annotated[int, typer.Option(help="Last tokens of prompt and reasoning that are averaged.", min=1)] = 10,
    reasoning_end: Annotated[
        str | None, typer.Option(help="Text that ends the reasoning, e.g. </think>; default none.")
    ] = None,
    extract: Annotated[str | None, typer.Option(help="How the answer is found in a response.")] = None,
    compare: Annotated[str | None, typer.Option(help="How it is compared with the right one.")] = None,
    reward: Annotated[str | None, typer.Option(help="package.module:function that grades instead.")] = None,
    allow_import: Annotated[
        list[str] | None, typer.Option("--allow-import", help="Package whose function may be run.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Text prompts are a user's turn, or taken as is.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    micro_tokens: Annotated[int, typer.Option(help="Tokens of one forward pass.", min=1)] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Say which layer's hidden states tell what a prompt is worth, for the stage internal_value."""
    from steersman.recipes.diagnose_probe import ProbeQuestion, diagnose_probe

    asked = ProbeQuestion(
        model, task, limit, samples, max_new_tokens, temperature, pool, reasoning_end, extract, compare, reward,
        tuple(allow_import or ()), seed, chat, device, dtype, micro_tokens,
    )  # fmt: skip
    found = diagnose_probe(asked, lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(found.summary, indent=2, ensure_ascii=False, allow_nan=False))
        return
    _show_probes(found.summary)


def _show_probes(summary: dict[str, Any]) -> None:
    from steersman.cli.table import console, grid, print_table

    print(
        f"{summary['responses']:,} responses to {summary['prompts']:,} prompts, mean reward {summary['reward']:.3f}; "
        f"fitted to {summary['fitted']:,}, judged on {summary['held_out']:,}.\nR2 of siblings' rewards on held-out "
        f"prompts; that of the true value is about {summary['ceiling']:.2f}.\n"
    )
    rows = summary["probes"]
    names = list(dict.fromkeys(r["features"] for r in rows if r["layer"] is not None))
    table = grid("layer", *names)
    for layer in range(summary["layers"] + 1):
        of = {r["features"]: r["r2"] for r in rows if r["layer"] == layer}
        table.add_row(str(layer), *(f"{of[n]:.3f}" for n in names))
    print_table(console(), table)
    alone = next(r["r2"] for r in rows if r["layer"] is None)
    ends = f", reasoning_end = {summary['reasoning_end']}" if summary["reasoning_end"] else ""
    print(f'\nthree entropies alone: {alone:.3f}\nbest: {{ kind = "internal_value", layer = {summary["best"]}{ends} }}')


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
