"""Model folders written whole or not at all, readable by plain `transformers`.

The folder is written under a temporary name beside its place, flushed to disk and renamed; a crash leaves the older
model. Weights are safetensors. Leaves out: reading (`load`), training state (`store.checkpoint`).
"""

import copy
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from steersman.core.errors import UserError
from steersman.store.files import cannot_write


def save_model(
    model: Any, tokenizer: Any, folder: str | os.PathLike[str], *, adapter: Literal["merge", "separate"] = "merge"
) -> Path:
    """Write a folder that plain `transformers` loads: whole or not at all, replacing an older model of that name.

    Args:
        model: a transformers model, or a peft model around one.
        tokenizer: its tokenizer.
        folder: where to; an existing folder is replaced only if it holds a model or nothing.
        adapter: what to do with LoRA weights: "merge" a copy of them into the model (the model passed in is left as it
            is), or "separate" writes the adapter alone, which `load_model(base, adapter=folder)` reads.

    Raises:
        UserError: the folder holds something else, or "separate" for a model without adapters.
        RunStopped: the disk is full or the place cannot be written; an older model there is untouched.
    """
    target, has_adapter = Path(folder), hasattr(model, "merge_and_unload")
    if adapter == "separate" and not has_adapter:
        raise UserError("the model has no LoRA adapter to save separately", where="adapter", allowed="merge")
    check_replaceable(target)
    if adapter == "merge" and has_adapter:
        model = copy.deepcopy(model).merge_and_unload()
    staged: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        with no_bars():
            model.save_pretrained(str(staged))
        tokenizer.save_pretrained(str(staged))
        _flush(staged)
        _swap(staged, target)
    except OSError as error:
        raise cannot_write(target, error) from None
    except SafetensorError as error:
        # The weights are written by native code, which tells the system's errors only as text.
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise cannot_write(target, OSError(int(number[1]), os.strerror(int(number[1])))) from None
    finally:
        if staged is not None and staged.exists():
            shutil.rmtree(staged, ignore_errors=True)
    return target


@contextmanager
def no_bars() -> Iterator[None]:
    """Silence transformers' progress bars, which our own commands replace, and restore them after."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def check_replaceable(target: Path) -> None:
    """Refuse a place that `save_model` would not write to.

    Args:
        target: the folder of the model.

    Raises:
        UserError: a file is there, or a folder that holds something other than a model.
    """
    if target.is_file():
        raise UserError("is a file", where=str(target), cure="Give a new folder.")
    named = any((target / name).is_file() for name in ("config.json", "adapter_config.json"))
    if target.is_dir() and not named and any(target.iterdir()):
        raise UserError("exists and does not hold a model", where=str(target), cure="Give a new or empty folder.")


def _flush(folder: Path) -> None:
    """Make the files of a folder readable by others and force them to disk before the folder gets its name."""
    os.chmod(folder, 0o755)
    for path in folder.rglob("*"):
        if path.is_file():
            os.chmod(path, 0o644)
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _swap(staged: Path, target: Path) -> None:
    """Give the staged folder its name; an older one steps aside first and is removed last."""
    if not target.exists():
        staged.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / "old")
    try:
        staged.rename(target)
    except OSError:
        (old / "old").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
