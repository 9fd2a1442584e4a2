"""`steersman diagnose`: what is wrong with a policy, and where. Nothing is trained.

Leaves out: drawing, scoring and figures (`recipes.diagnose_tokens`, `diagnose_probe`, `diagnose_gradient`).
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

WHAT = "Look into a policy: where a teacher disagrees with it, what its states know, how good its gradients are."
app = typer.Typer(help=WHAT, no_args_is_help=True)

Model = Annotated[Path, typer.Option("--model", help="Folder of the policy.")]
Graded = Annotated[str, typer.Option("--task", help="JSONL of prompts and answers, reasoning_gym:NAME, chain_sum.")]
Limit = Annotated[int | None, typer.Option(help="First so many prompts; default all of a file, 200 of others.", min=1)]
MaxNew = Annotated[
    int | None, typer.Option(help="Most tokens of a response; default 512, or what the task knows.", min=1)
]
Temperature = Annotated[float, typer.Option(help="Divides the logits.")]
Extract = Annotated[str | None, typer.Option(help="How the answer is found in a response.")]
Compare = Annotated[str | None, typer.Option(help="How it is compared with the right one.")]
Reward = Annotated[str | None, typer.Option(help="package.module:function that grades instead.")]
AllowImport = Annotated[list[str] | None, typer.Option("--allow-import", help="Package whose function may be run.")]
Seed = Annotated[int, typer.Option(help="Same seed, same responses.")]
Chat = Annotated[bool, typer.Option("--chat/--no-chat", help="Text prompts are a user's turn, or taken as is.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the page and the figures.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
MicroTokens = Annotated[int, typer.Option(help="Tokens of one forward pass.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


@app.callback(help=WHAT)
def _together() -> None:
    """Three verbs below one."""


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_json(found: dict[str, Any]) -> None:
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False))


@app.command("tokens")
def tokens(
    model: Model,
    teacher: Annotated[str, typer.Option("--teacher", help="Folder of a model or a run with its tokens, or planted.")],
    task: Annotated[str, typer.Option("--task", help="JSONL of prompts, reasoning_gym:NAME, chain_sum, or planted.")],
    limit: Limit = None,
    samples: Annotated[int, typer.Option(help="Responses to each prompt.", min=1, max=1024)] = 4,
    max_new_tokens: MaxNew = None,
    temperature: Annotated[float, typer.Option(help="Divides the logits of both models.")] = 1.0,
    keep: Annotated[float, typer.Option(help="Share of the tokens that each rule keeps, above 0, at most 1.")] = 0.2,
    entropy_threshold: Annotated[
        float | None, typer.Option(help="Nats above which entropy is high; default the median.")
    ] = None,
    divergence_threshold: Annotated[
        float | None, typer.Option(help="Nats above which divergence is high; default the median.")
    ] = None,
    seed: Seed = 0,
    chat: Chat = False,
    out: Out = Path("token-diagnosis"),
    device: Device = "auto",
    dtype: Dtype = "float32",
    micro_tokens: MicroTokens = 4096,
    as_json: Json = False,
) -> None:
    """Draw responses, score them by a teacher, and show which tokens a distillation would learn from."""
    from steersman.recipes.diagnose_tokens import TokenQuestion, diagnose
    from steersman.store.run import writable

    writable(out)
    asked = TokenQuestion(
        model, task, limit, samples, max_new_tokens, temperature, seed, chat, device, dtype, micro_tokens,
        teacher=teacher, keep=keep, entropy_threshold=entropy_threshold, divergence_threshold=divergence_threshold,
    )  # fmt: skip
    found = diagnose(asked, _say)
    report = _written(out, found.page, "tokens.json", found.summary)
    if as_json:
        _print_json(found.summary | {"out": str(out)})
        return
    _show(found.summary)
    print(f"\npage  {report}")


def _written(out: Path, page: str, name: str, summary: dict[str, Any]) -> Path:
    """Where the page was written; the figures lie beside it."""
    from steersman.store.files import write_json, write_text

    report = out / "report.html"
    write_text(report, page)
    write_json(out / name, summary)
    return report


@app.command("probe")
def probe(
    model: Model,
    task: Graded,
    limit: Limit = None,
    samples: Annotated[int, typer.Option(help="Responses to each prompt.", min=2, max=1024)] = 4,
    max_new_tokens: MaxNew = None,
    temperature: Temperature = 1.0,
    pool: Annotated[int, typer.Option(help="Last tokens of prompt and reasoning that are averaged.", min=1)] = 10,
    reasoning_end: Annotated[
        str | None, typer.Option(help="Text that ends the reasoning, e.g. </think>; default none.")
    ] = None,
    extract: Extract = None,
    compare: Compare = None,
    reward: Reward = None,
    allow_import: AllowImport = None,
    seed: Seed = 0,
    chat: Chat = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    micro_tokens: MicroTokens = 4096,
    as_json: Json = False,
) -> None:
    """Say which layer's hidden states tell what a prompt is worth, for the stage internal_value."""
    from steersman.recipes.diagnose_probe import ProbeQuestion, diagnose_probe

    asked = ProbeQuestion(
        model, task, limit, samples, max_new_tokens, temperature, seed, chat, device, dtype, micro_tokens,
        extract=extract, compare=compare, reward=reward, allow_import=tuple(allow_import or ()), pool=pool,
        reasoning_end=reasoning_end,
    )  # fmt: skip
    found = diagnose_probe(asked, _say)
    if as_json:
        _print_json(found.summary)
        return
    _show_probes(found.summary)


@app.command("gradient")
def gradient(
    model: Model,
    task: Graded,
    estimator: Annotated[
        list[str] | None,
        typer.Option("--estimator", help="Preset of train rl, or NAME=STAGES; again for more; default grpo rloo poise"),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option("--batch", help="PROMPTSxRESPONSES of a batch; again for other shapes. Default 16x4."),
    ] = None,
    batches: Annotated[int, typer.Option(help="Batches of each shape that are measured.", min=3)] = 32,
    reference_batches: Annotated[int, typer.Option(help="Batches behind the reference gradient.", min=3)] = 64,
    warmup: Annotated[int, typer.Option(help="Batches that stages with a memory see before.", min=0)] = 4,
    limit: Limit = None,
    max_new_tokens: MaxNew = None,
    temperature: Temperature = 1.0,
    extract: Extract = None,
    compare: Compare = None,
    reward: Reward = None,
    allow_import: AllowImport = None,
    seed: Seed = 0,
    chat: Chat = False,
    out: Out = Path("gradient-diagnosis"),
    device: Device = "auto",
    dtype: Dtype = "float32",
    micro_tokens: MicroTokens = 4096,
    as_json: Json = False,
) -> None:
    """Compare the gradients of advantage estimators on the same responses: spread, signal against noise, direction."""
    from steersman.recipes.diagnose_gradient import DEFAULT, SHAPES, GradientQuestion, diagnose_gradient
    from steersman.store.run import writable

    writable(out)
    asked = GradientQuestion(
        model, task, limit, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, chat=chat,
        device=device, dtype=dtype, micro_tokens=micro_tokens, extract=extract, compare=compare, reward=reward,
        allow_import=tuple(allow_import or ()), estimators=tuple(estimator or DEFAULT), shapes=tuple(batch or SHAPES),
        batches=batches, reference_batches=reference_batches, warmup=warmup,
    )  # fmt: skip
    found = diagnose_gradient(asked, _say)
    report = _written(out, found.page, "gradient.json", found.summary)
    if as_json:
        _print_json(found.summary | {"out": str(out)})
        return
    _show_gradients(found.found)
    print(f"\npage  {report}")


def _show_gradients(found: Any) -> None:
    import textwrap

    from steersman.assure.diagnose.gradient_page import sentence, shown
    from steersman.cli.table import console, grid, print_table

    print(
        f"{found.batches:,} batches of each shape; reference of {found.reference_batches:,} others, "
        f"{found.reliability:.0%} of it no noise.\n95 % intervals; g is the gradient of one batch.\n"
    )
    table = grid("estimator", "batch", "tr Cov(g)", "|E g|2 / tr Cov", "cos(g, reference)", "cos(E g, reference)")
    for r in found.rows:
        q = r.found
        table.add_row(r.estimator, str(r.shape), *(shown(x) for x in (q.spread, q.signal, q.cosine, q.direction)))
    print_table(console(), table)
    print("\n" + textwrap.fill(sentence(found), 100))


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
    print(f"\nthree entropies alone: {alone:.3f}\na constant, the mean reward: {summary['constant_r2']:.3f}")
    if summary["best"] is None:
        print(
            "no layer beats a constant: more prompts (--limit, --samples) may tell, or take a baseline without states"
        )
        return
    ends = f", reasoning_end = {summary['reasoning_end']}" if summary["reasoning_end"] else ""
    print(f'best: {{ kind = "internal_value", layer = {summary["best"]}{ends} }}')


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
