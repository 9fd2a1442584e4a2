"""What of a model is trained and saved with a checkpoint: the parameters that require gradients, by name.

With LoRA these are the adapters only. Leaves out: whole model folders (`language.load`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steersman.core.errors import CorruptFile


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter, detached, for every parameter that requires a gradient; a tied parameter appears once."""
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def load_trainable_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy saved parameters into the model in place.

    Raises:
        CorruptFile: a name or a shape that the model does not have; the model is left as it was.
    """
    copy_into(trainable_state(model), state)


def copy_into(own: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Copy saved tensors into those of the same names, in place; all of them or, with an error, none.

    Raises:
        CorruptFile: names or shapes that differ.
    """
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise CorruptFile(f"checkpoint and model differ in {len(odd)} parameters, first {odd[0]!r}")
    for name, p in own.items():
        if p.shape != state[name].shape:
            raise CorruptFile(f"{name} has shape {tuple(state[name].shape)}, the model wants {tuple(p.shape)}")
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
