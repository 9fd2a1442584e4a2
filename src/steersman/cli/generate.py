"""`steersman generate`: completions of prompts, with the log-prob of every token.

Rows go to ``--out`` (whole or not at all) or to standard output; progress and the summary go to standard error. Leaves
out: grading completions, several models at once, continuing a run that was stopped.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

if TYPE_CHECKING:
    from steersman.core.types import Rollouts
    from steersman.language.records import Prompt

DEFAULT_NEW_TOKENS = 128
MOST_SAMPLES = 2**20
"""The noise of sample j of prompt i is number i * MOST_SAMPLES + j, so that asking for more keeps the first ones."""


def generate(
    model: Annotated[Path, typer.Option("--model", help="Folder of a Hugging Face causal language model.")],
    prompts: Annotated[Path | None, typer.Option("--prompts", help="JSON Lines with `prompt`: text or turns.")] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="A prompt; may be repeated.")] = None,
    samples: Annotated[int, typer.Option(help="Completions of each prompt.", min=1, max=MOST_SAMPLES)] = 1,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help=f"Most tokens of a completion; default {DEFAULT_NEW_TOKENS}, or what fits.", min=1),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the likeliest tokens that reach this mass.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Keep tokens at least this share of the likeliest.")] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Text that ends one; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same completions.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSON Lines file to write; default standard output.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Text prompts are a user's turn, or taken as is.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, with the rows if no --out.")
    ] = False,
) -> None:
    """Sample completions of prompts and write them with their tokens and log-probs."""
    given = _read(prompts, prompt or [])
    _check_out(out, prompts)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    _check_sampling(options, stop or [])
    job = _Job(model, device, dtype, given, chat, prompts)
    with _Progress(len(given) * samples) as progress:
        drawn = job.sample(samples, max_new_tokens, seed, progress.watch, **options, stop_strings=stop or [])
    rows = job.rows(drawn, samples, seed)
    _deliver(rows, _summary(drawn, len(given), progress.seconds), out, as_json)


def _read(file: Path | None, texts: list[str]) -> "list[Prompt]":
    """The prompts asked for, from a file or from the command line."""
    from steersman.core.errors import UserError
    from steersman.language.records import Prompt, read_prompts

    if (file is None) == (not texts):
        what = "--prompts and --prompt are both given" if file else "there is no prompt"
        raise UserError(what, cure="Give --prompts FILE.jsonl, or --prompt TEXT.")
    return list(read_prompts(file).rows) if file else [Prompt(i, text) for i, text in enumerate(texts, 1)]


def _check_out(out: Path | None, prompts: Path | None) -> None:
    """Refuse a file that cannot be written, before any compute."""
    from steersman.core.errors import UserError

    if out is None:
        return
    if out.is_dir():
        raise UserError("is a folder", where=f"--out {out}", cure=f"Give a file, such as {out / 'completions.jsonl'}.")
    if prompts is not None and out.exists() and out.samefile(prompts):
        raise UserError("is the file of the prompts", where=f"--out {out}")
    above = next(p for p in out.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"cannot be written: {above} is no folder to write to", where=f"--out {out}")


def _check_sampling(options: dict[str, Any], stop: list[str]) -> None:
    from steersman.core.errors import UserError
    from steersman.language.sampler import sampling

    try:
        sampling(**options)
    except UserError as error:
        name = error.where.split()[0].replace("_", "-")
        raise UserError(error.what, where=f"--{name}", allowed=error.allowed) from None
    if not all(stop):
        raise UserError("is empty", where="--stop", allowed="a text of at least one character")


class _Job:
    """A model, its tokenizer, and the prompts as tokens."""

    def __init__(
        self, folder: Path, device: str, dtype: str, prompts: "list[Prompt]", chat: bool, file: Path | None
    ) -> None:
        import torch

        from steersman.core.errors import UserError
        from steersman.language.encode import encode_prompts
        from steersman.language.load import check_folder, load_model, load_tokenizer

        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise UserError(f"{device!r} is not available here", where="--device", allowed="auto, cpu, cuda")
        check_folder(folder)
        self.prompts, self.tokenizer = prompts, load_tokenizer(folder)
        self.places = [f"{file}, line {p.line}" if file else f"--prompt {p.line}" for p in prompts]
        self.ids = []
        for p, place in zip(prompts, self.places, strict=True):
            turn = chat and isinstance(p.prompt, str)
            text: Any = ({"role": "user", "content": p.prompt},) if turn else p.prompt
            try:
                self.ids += encode_prompts([text], self.tokenizer)
            except UserError as error:
                cure = "Leave out --chat, or store a template: tokenizer.chat_template = '...'." if turn else error.cure
                raise UserError(error.what, where=place, allowed=error.allowed, cure=cure) from None
        gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        self.model = load_model(folder, dtype=dtype, device="cuda" if gpu else "cpu")

    def sample(
        self, samples: int, max_new: int | None, seed: int, watch: Callable[[int, int], None], **options: Any
    ) -> "Rollouts":
        """Draw all completions, those of the first prompt first."""
        import numpy as np

        from steersman.language import decode, load

        place = np.arange(len(self.prompts))[:, None] * MOST_SAMPLES + np.arange(samples)
        return decode.generate(
            self.model,
            self.ids,
            max_new_tokens=self._room(max_new),
            stop_ids=load.stop_ids(self.model, self.tokenizer),
            seed=seed,
            samples_per_prompt=samples,
            sample_ids=place.ravel().tolist(),
            tokenizer=self.tokenizer,
            watch=watch,
            **options,
        )

    def _room(self, max_new: int | None) -> int:
        """Most new tokens of a completion; a prompt that leaves no room for them is refused by its place."""
        from steersman.core.errors import UserError
        from steersman.language.load import context_length

        room = context_length(self.model.config)
        longest = max(range(len(self.ids)), key=lambda i: len(self.ids[i]))
        n = len(self.ids[longest])
        if room is None:
            return max_new or DEFAULT_NEW_TOKENS
        if n + (max_new or 1) > room:
            what = f"has {n:,} tokens; with {max_new or 1:,} new ones that exceeds the model's context of {room:,}"
            cure = "Shorten the prompt." if n >= room else "Shorten the prompt or lower --max-new-tokens."
            raise UserError(what, where=self.places[longest], cure=cure)
        return max_new or min(DEFAULT_NEW_TOKENS, room - n)

    def rows(self, drawn: "Rollouts", samples: int, seed: int) -> list[dict[str, Any]]:
        """One JSON object a completion."""
        from steersman.core.types import STOP_EOS
        from steersman.language.text import response_texts

        assert drawn.logp_behaviour is not None
        out = []
        texts, stop = response_texts(drawn, self.tokenizer), (drawn.stop == STOP_EOS).tolist()
        begin, end = drawn.prompt_length.tolist(), drawn.length.tolist()
        for i, text in enumerate(texts):
            part = slice(begin[i], end[i])
            row: dict[str, Any] = {"prompt": self.prompts[i // samples].prompt, "completion": text}
            row["tokens"] = drawn.ids[i, part].tolist()
            row["logp"] = [round(x, 6) for x in drawn.logp_behaviour[i, part].tolist()]
            out.append(row | {"stop": "eos" if stop[i] else "length", "sample": i % samples, "seed": seed})
        return out


def _summary(drawn: "Rollouts", prompts: int, seconds: float) -> dict[str, Any]:
    from steersman.core.types import STOP_EOS

    tokens = int((drawn.length - drawn.prompt_length).sum())
    return {
        "prompts": prompts,
        "completions": len(drawn),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "ended": float((drawn.stop == STOP_EOS).double().mean()),
    }


def _deliver(rows: list[dict[str, Any]], summary: dict[str, Any], out: Path | None, as_json: bool) -> None:
    """Write the rows, then say what they are."""
    from steersman.store.files import write_text

    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    if out is not None:
        write_text(out, lines)
    if as_json:
        found = summary | {"out": str(out)} if out else summary | {"rows": rows}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if out is None:
        typer.echo(lines, nl=False)
    typer.echo(
        f"{summary['completions']:,} completions of {summary['prompts']:,} prompts: {summary['tokens']:,} tokens in "
        f"{summary['seconds']:.1f} s ({summary['tokens_per_s']:,.0f} tokens/s), {summary['ended']:.0%} ended by "
        f"themselves{f'   wrote {out}' if out else ''}",
        err=True,
    )


class _Progress:
    """A bar of finished completions on a terminal, nothing elsewhere, and the seconds that sampling took."""

    def __init__(self, rows: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
        self.bar = Progress(TextColumn("completions"), *columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task("", total=rows, note="")
        self.tokens, self.seconds, self.begin = 0, 0.0, time.perf_counter()

    def __enter__(self) -> Self:
        self.bar.start()
        self.begin = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self.begin
        self.bar.stop()

    def watch(self, rows: int, tokens: int) -> None:
        """`rows` more completions are finished, `tokens` more tokens drawn."""
        self.tokens += tokens
        rate = self.tokens / (time.perf_counter() - self.begin)
        self.bar.update(self.task, advance=rows, note=f"{rate:,.0f} tokens/s")
