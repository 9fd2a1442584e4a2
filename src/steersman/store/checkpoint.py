"""Checkpoints: a folder with tensors (safetensors), values (JSON) and a manifest with sizes and SHA-256.

The manifest is written last, so a folder without a valid one does not exist for the loader. A state is any nesting of
dicts and lists whose leaves are tensors or JSON values. Leaves out: what a state consists of (`train`).
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from steersman.core.errors import CorruptFile, UserError
from steersman.store.files import read_json, sha256, write_bytes, write_json

FORMAT = 1
"""Version of the folder's layout; a loader refuses a newer one."""

_TENSOR = "$tensor"


def flatten(state: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Split a nested state into named tensors and the JSON tree that refers to them.

    Names are JSON pointers (RFC 6901): ``/`` before every key, ``~`` and ``/`` within keys escaped, so that no two
    places share one. A key that begins with ``$`` gets one more, so that it cannot be taken for a reference.

    Raises:
        TypeError: two keys of one mapping have the same text.
    """
    if isinstance(state, Tensor):
        return {prefix: state.detach().cpu().contiguous()}, {_TENSOR: prefix}
    if isinstance(state, Mapping):
        tensors: dict[str, Tensor] = {}
        tree: Any = {}
        for k, v in state.items():
            name = f"$${str(k)[1:]}" if str(k).startswith("$") else str(k)
            if name in tree:
                raise TypeError(f"two keys of a state are both {k!s} at {prefix or '/'}")
            part, tree[name] = flatten(v, f"{prefix}/{str(k).replace('~', '~0').replace('/', '~1')}")
            tensors |= part
        return tensors, tree
    if isinstance(state, list | tuple):
        parts = [flatten(v, f"{prefix}/{i}") for i, v in enumerate(state)]
        return {k: x for part, _ in parts for k, x in part.items()}, [tree for _, tree in parts]
    return {}, state


def restore(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """Undo `flatten`; integer-like keys stay strings."""
    if isinstance(tree, dict):
        if tree.keys() == {_TENSOR}:
            return tensors[tree[_TENSOR]]
        return {k[1:] if k.startswith("$") else k: restore(tensors, v) for k, v in tree.items()}
    return [restore(tensors, v) for v in tree] if isinstance(tree, list) else tree


def save_checkpoint(root: Path, step: int, state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write ``root/step-XXXXXXXX`` and delete all but the newest `keep` valid checkpoints.

    Raises:
        RunStopped: the disk is full or not writable; older checkpoints stay loadable.
    """
    folder = root / f"step-{step:08d}"
    shutil.rmtree(folder, ignore_errors=True)
    tensors, tree = flatten(state)
    # Two names for one storage would be refused by safetensors; a copy costs little and keeps the state exact.
    owners: dict[int, str] = {}
    for name, x in tensors.items():
        if x.numel() and owners.setdefault(x.untyped_storage().data_ptr(), name) != name:
            tensors[name] = x.clone()
    write_bytes(folder / "tensors.safetensors", save(tensors))
    # In the order given: metrics that wait to be averaged must be written in the same order after a resume.
    write_json(folder / "state.json", tree, sort_keys=False)
    files = {n: {"bytes": os.path.getsize(folder / n), "sha256": sha256(folder / n)} for n in _FILES}
    write_json(folder / "manifest.json", {"format": FORMAT, "step": step, "files": files})
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


_FILES = ("tensors.safetensors", "state.json")


def list_checkpoints(root: Path) -> list[Path]:
    """Checkpoint folders that have a manifest, oldest first; contents are verified only by `load_checkpoint`."""
    return sorted(p.parent for p in root.glob("step-*/manifest.json"))


def step_of(folder: Path) -> int:
    """The step a checkpoint folder is named after."""
    return int(folder.name.removeprefix("step-"))


def drop_after(root: Path, step: int) -> None:
    """Delete the checkpoints of steps after `step`, so that a run which goes on from `step` has no stale ones ahead."""
    for folder in root.glob("step-*"):
        if step_of(folder) > step:
            shutil.rmtree(folder, ignore_errors=True)


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest and return the manifest.

    Raises:
        CorruptFile: names the file and what is wrong with it.
    """
    try:
        manifest: dict[str, Any] = read_json(folder / "manifest.json")
        wanted = int(manifest["format"])
        known_files = {n: (int(f["bytes"]), str(f["sha256"])) for n, f in manifest["files"].items()}
        complete = isinstance(manifest["step"], int) and known_files.keys() >= set(_FILES)
    except UserError as error:
        raise CorruptFile(error.what, where=error.where) from None
    except (AttributeError, KeyError, TypeError, ValueError):
        complete, wanted = False, 0
    if wanted > FORMAT:
        raise CorruptFile(
            f"has format {wanted}, this version reads up to {FORMAT}",
            where=str(folder),
            cure="Upgrade steersman.",
        )
    if not complete:
        raise CorruptFile("is not a manifest of a checkpoint", where=str(folder / "manifest.json"))
    for name, (size, content) in known_files.items():
        path = folder / name
        if not path.is_file():
            raise CorruptFile("is missing", where=str(path))
        if path.stat().st_size != size:
            raise CorruptFile(f"has {path.stat().st_size} bytes, its manifest says {size}", where=str(path))
        if sha256(path) != content:
            raise CorruptFile("was altered: its SHA-256 is not the manifest's", where=str(path))
    return manifest


def load_checkpoint(folder: Path) -> tuple[int, Any]:
    """Verify and read one checkpoint; returns (step, state).

    Raises:
        CorruptFile: with the newest older checkpoint that is intact, if there is one.
    """
    try:
        manifest = verify(folder)
        tensors = load_file(folder / "tensors.safetensors")
        return int(manifest["step"]), restore(tensors, read_json(folder / "state.json"))
    except (CorruptFile, SafetensorError, KeyError, TypeError) as error:
        found = error if isinstance(error, CorruptFile) else CorruptFile(f"cannot be read ({error})", where=str(folder))
        older = [p for p in reversed(list_checkpoints(folder.parent)) if p < folder and _intact(p)]
        offer = (
            f"The previous valid checkpoint is {older[0]}; continue from it with --resume {older[0]}" if older else ""
        )
        cure = f"{found.cure}\n       " * bool(found.cure) + (offer or "No older checkpoint is valid.")
        raise CorruptFile(found.what, where=found.where, cure=cure) from None


def latest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint under `root`, verified or not; None where there is none."""
    found = list_checkpoints(root)
    return found[-1] if found else None


def newest_intact(root: Path) -> Path | None:
    """The newest checkpoint whose files match their manifest."""
    return next((p for p in reversed(list_checkpoints(root)) if _intact(p)), None)


def _intact(folder: Path) -> bool:
    try:
        verify(folder)
    except UserError:
        return False
    return True


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state as a nesting of tensors and JSON values."""
    raw = optimizer.state_dict()
    return {"state": {str(k): v for k, v in raw["state"].items()}, "param_groups": raw["param_groups"]}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Undo `optimizer_state` after a round trip through a checkpoint."""
    groups = [g | {"betas": tuple(g["betas"])} if "betas" in g else g for g in state["param_groups"]]
    optimizer.load_state_dict({"state": {int(k): v for k, v in state["state"].items()}, "param_groups": groups})
