"""Arithmetic of a model's forward pass: float32, or bfloat16 matrix products with everything else as it was.

Parameters, optimiser state, log-probs and losses stay float32 either way. bfloat16 pays on GPUs and on processors with
bf16 units from a width of about 512; on smaller models it only loses digits.
"""

from typing import Any, Literal

import torch

from steersman.language.trunk import capability, trunk_of, unwrap


def set_precision(model: Any, precision: Literal["float32", "bfloat16"]) -> None:
    """Make every later forward pass of the model's trunk run in `precision`, in place.

    Args:
        model: a causal language model, a sequence classifier, or a LoRA wrapper around one.
        precision: "bfloat16" runs matrix products under autocast; "float32" leaves the model as it is.
    """
    if precision == "float32":
        return
    capability(model)  # decided in full precision, where a wrong hidden state can be told from a rounded one
    trunk = trunk_of(unwrap(model))
    plain, device = trunk.forward, next(model.parameters()).device.type

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return plain(*args, **kwargs)

    trunk.forward = forward
