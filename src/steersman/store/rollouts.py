"""Rollouts on disk: ragged, so that nothing but real tokens is stored, and exact.

Leaves out: checkpoints' files and manifests (`checkpoint`), texts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steersman.core.streams import per_token
from steersman.core.types import Rollouts
from steersman.store.checkpoint import load_checkpoint, save_checkpoint

_PER_TOKEN = ("ids", "action", "forced", "logp_behaviour")
_TEXTS = ("answer", "feedback")
_PER_ROW = (
    "length", "prompt_length", "group", "valid", "stop", "weight", "version", "reward", "correct",
)  # fmt: skip


def to_state(rollouts: Rollouts) -> dict[str, Any]:
    """Rollouts as tensors and JSON values; per-token tensors hold the real tokens of all rows one behind the other."""
    width = rollouts.ids.shape[1]
    real = torch.arange(width, device=rollouts.ids.device) < rollouts.length[:, None]
    padding = rollouts.ids[~real]
    state: dict[str, Any] = {"width": width, "pad": int(padding[0]) if len(padding) else 0}
    state |= {k: x[real] for k in _PER_TOKEN if (x := getattr(rollouts, k)) is not None}
    state |= {k: x for k in _PER_ROW if (x := getattr(rollouts, k)) is not None}
    state |= {k: list(x) for k in _TEXTS if (x := getattr(rollouts, k)) is not None}
    return state | {"streams": {k: x[real] if per_token(k) else x for k, x in rollouts.streams.items()}}


def from_state(state: Mapping[str, Any]) -> Rollouts:
    """Undo `to_state`."""
    length = state["length"]
    real = torch.arange(int(state["width"]), device=length.device) < length[:, None]

    def whole(x: Tensor, fill: int = 0) -> Tensor:
        out = torch.full((*real.shape, *x.shape[1:]), fill, dtype=x.dtype, device=x.device)
        out[real] = x
        return out

    known = {k: whole(state[k], int(state["pad"]) if k == "ids" else 0) for k in _PER_TOKEN if k in state}
    known |= {k: state[k] for k in _PER_ROW if k in state}
    streams = {k: whole(x) if per_token(k) else x for k, x in state["streams"].items()}
    known |= {k: tuple(state[k]) for k in _TEXTS if k in state}
    return Rollouts(**known, streams=streams)


def save_rollouts(root: Path, step: int, rollouts: Rollouts, keep: int = 2) -> Path:
    """Write the rollouts of a step under `root`; reads back with `load_rollouts`."""
    return save_checkpoint(root, step, to_state(rollouts), keep)


def load_rollouts(folder: Path) -> tuple[int, Rollouts]:
    """The step and the rollouts of a folder that `save_rollouts` wrote.

    Raises:
        CorruptFile: a file is missing or was altered.
    """
    step, state = load_checkpoint(folder)
    return step, from_state(state)
