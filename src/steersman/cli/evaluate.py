"""`steersman evaluate`: how good a policy is at a task, against another policy, and how far from a reference.

Figures go to standard output, as a table or as JSON; rows go to ``--out``; progress goes to standard error. Leaves out:
what is measured and how (`recipes.evaluate`), the table (`evaluate_table`).
"""

import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

if TYPE_CHECKING:
    from steersman.language.sampler import Sampling
    from steersman.recipes.evaluate_task import Asked

MOST_SAMPLES = 2**20


def evaluate(
    model: Annotated[Path, typer.Option("--model", help="Folder of the policy.")],
    task: Annotated[str, typer.Option("--task", help="JSONL of prompt and answer, reasoning_gym:NAME, or chain_sum.")],
    extract: Annotated[
        str | None, typer.Option(help="Where the answer stands: boxed (default), line, block, between, whole.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="When it is right: exact (default), numeric, math_verify, reasoning_gym.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="Grade with your own package.module:function instead.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="task.KEY=VALUE or reward.KEY=VALUE; may be repeated.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="First so many prompts; default all of a file, 200 of others.", min=1)
    ] = None,
    samples: Annotated[int, typer.Option(help="Responses to each prompt.", min=1, max=MOST_SAMPLES)] = 1,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a response; default 512, or what fits.", min=1)
    ] = None,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the likeliest tokens that reach this mass.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Keep tokens at least this share of the likeliest.")] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Text that ends a response; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 0,
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Text prompts are a user's turn, or taken as is.")
    ] = False,
    against: Annotated[Path | None, typer.Option(help="Folder of another policy: win rate against it.")] = None,
    judge: Annotated[
        str, typer.Option(help="Who wins: task (its grader), a reward model's folder, or package.module:function.")
    ] = "task",
    best_of: Annotated[int | None, typer.Option(help="Best-of-N curve up to this N.", min=1)] = None,
    rank: Annotated[
        str | None, typer.Option(help="What --best-of ranks by: a reward model's folder, or package.module:function.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of a policy: KL of the model to it.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds one call of your function may take.", min=0.01)] = 10.0,
    allow_import: Annotated[
        list[str] | None, typer.Option("--allow-import", help="Package of yours that may be imported.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON Lines file for the responses and grades.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a policy: accuracy, pass@k, win rate, best of N, KL to a reference."""
    sampled = _sampling({"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}, stop or [])
    _check_out(out, task)
    asked = _asked(
        task,
        extract=extract,
        compare=compare,
        reward=reward,
        overrides=sets or [],
        time_limit=time_limit,
        limit=limit,
        chat=chat,
        allow_import=allow_import or [],
    )
    from steersman.recipes.evaluate import Further
    from steersman.recipes.evaluate import evaluate as measure
    from steersman.recipes.evaluate_sample import Drawn

    drawn = Drawn(samples, max_new_tokens, sampled, tuple(stop or []), seed, device, dtype)
    further = Further(against, judge, best_of, rank, reference, time_limit)
    with _Progress() as progress:
        found = measure(model, asked, drawn, further, progress.watch, lambda rows: _write(rows, out))
    _write(found.rows, out)
    summary = found.summary | ({"out": str(out)} if out else {})
    if as_json:
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False))
        return
    from steersman.cli.evaluate_table import show

    show(summary)


def _sampling(options: dict[str, Any], stop: list[str]) -> "Sampling":
    from steersman.core.errors import UserError
    from steersman.language.sampler import sampling

    if not all(stop):
        raise UserError("is empty", where="--stop", allowed="a text of at least one character")
    try:
        return sampling(**options)
    except UserError as error:
        name = error.where.split()[0].replace("_", "-")
        raise UserError(error.what, where=f"--{name}", allowed=error.allowed) from None


def _asked(task: str, **options: Any) -> "Asked":
    """The task, with complaints about its tables said in the words of the command line."""
    from steersman.core.errors import UserError
    from steersman.recipes.evaluate_task import read_task

    said = {"reward.extract": "--extract", "reward.compare": "--compare", "reward.function": "--reward"}
    try:
        return read_task(task, **options)
    except UserError as error:
        table, _, place = error.where.partition(" ")
        if place == "(the command line)" and table in said:
            raise UserError(error.what, where=said[table], allowed=error.allowed, cure=error.cure) from None
        raise


def _check_out(out: Path | None, task: str) -> None:
    """Refuse a file that cannot be written, before any compute."""
    from steersman.core.errors import UserError

    if out is None:
        return
    if out.is_dir():
        raise UserError("is a folder", where=f"--out {out}", cure=f"Give a file, such as {out / 'responses.jsonl'}.")
    if out.exists() and Path(task).is_file() and out.samefile(task):
        raise UserError("is the file of the prompts", where=f"--out {out}")
    above = next(p for p in out.absolute().parents if p.exists())
    if not above.is_dir():
        raise UserError(f"cannot be written: {above} is no folder to write to", where=f"--out {out}")
    try:
        handle, probe = tempfile.mkstemp(prefix=".probe-", dir=above)  # what may be written, only writing tells
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        what = f"cannot be written: {above} is no folder to write to ({error.strerror})"
        raise UserError(what, where=f"--out {out}", cure="Choose another file with --out.") from None


def _write(rows: list[dict[str, Any]], out: Path | None) -> None:
    from steersman.store.files import write_text

    if out is not None:
        write_text(out, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


class _Progress:
    """A bar of what is being done on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.now: str | None = None
        self.task: Any = None

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def watch(self, what: str, done: int, total: int) -> None:
        """`done` more of `total` are done of what is being done; 0 = nobody knows how many there are."""
        if what != self.now:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.now, self.task = what, self.bar.add_task(what, total=total or None)
        self.bar.update(self.task, advance=done)
