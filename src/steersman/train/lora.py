"""Low-rank adapters through peft: only the adapters are trained, and the base model stands beside them untouched.

Adapter noise is counter-based, so equal seeds give equal runs. Leaves out: saving and merging (`language.load`).
Source: Hu et al. 2021.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from steersman.core.errors import UserError
from steersman.core.noise import normal_


def add_lora(
    model: nn.Module, rank: int, alpha: float, targets: Sequence[str] | Literal["all-linear"], seed: int
) -> Any:
    """Wrap `model` so that each target matrix W acts as W + (alpha / rank) B A, with B = 0 and A ~ N(0, 1/rank).

    Args:
        model: a causal language model.
        rank: rows of A.
        alpha: scale.
        targets: endings of the names of linear layers, or "all-linear" for all but the head.
        seed: seed of A.

    Returns:
        A peft model whose only trainable parameters are the adapters.

    Raises:
        UserError: peft is missing, or a target names no linear layer.

    A sequence classifier's new head is trained beside the adapters, since it was never trained before.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("LoRA needs the package peft", cure="pip install peft") from None
    names = targets if isinstance(targets, str) else list(targets)
    check_targets(model, names)
    task = "SEQ_CLS" if "SequenceClassification" in type(model).__name__ else "CAUSAL_LM"
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, task_type=task)
    with warnings.catch_warnings():  # peft asks transformers for a name that it is about to change
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(model, settings)  # type: ignore[arg-type]
    normal_([(n, p) for n, p in wrapped.named_parameters() if "lora_A" in n], rank**-0.5, seed, "lora")
    return wrapped.eval()


def check_targets(model: nn.Module, targets: Sequence[str] | Literal["all-linear"]) -> None:
    """Refuse a target that is the ending of no linear layer's name.

    Raises:
        UserError: names it, and the names there are.
    """
    linear = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    unknown = [] if isinstance(targets, str) else [t for t in targets if t not in linear]
    if unknown:
        allowed = ", ".join(sorted(linear))
        raise UserError(f"{unknown[0]!r} names no linear layer", where="model.lora.targets", allowed=allowed)
