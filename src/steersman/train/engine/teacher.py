"""Teachers of an engine: whether one speaks the policy's language, and one that follows the policy at a distance.

Leaves out: what is learnt from a teacher (`train.terms_distill`), where it comes from (`recipes`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steersman.core.errors import UserError
from steersman.language.compare import Teacher
from steersman.train.parameters import trainable_state


def check_vocabulary(policy: Any, teacher: nn.Module | Teacher, shared: int | None) -> None:
    """Refuse a teacher whose token ids are not the policy's; what ids mean is for their tokenizers to compare.

    Args:
        policy: the policy, or how many ids it has.
        teacher: a model or an analytic policy.
        shared: ids that both have; None = all, of which they must have equally many.

    Raises:
        UserError: says how many ids each has.
    """
    own, other = _rows(policy), _rows(teacher)
    if shared is None and own != other:
        what = f"the policy's vocabulary has {own} rows, the teacher's {other}"
        cure = "Where both use one tokenizer and only spare rows differ, say how many ids they share."
        raise UserError(what, where="teacher", cure=cure)
    if shared is not None and not 0 < shared <= min(own, other):
        raise UserError(f"shares {shared} ids", where="teacher", allowed=f"1..{min(own, other)}")


def _rows(side: Any) -> int:
    if isinstance(side, int):
        return side
    if not isinstance(side, nn.Module):
        found = getattr(side, "vocabulary", None)
        if not isinstance(found, int) or not callable(getattr(side, "log_probs", None)):
            cure = "Give it `vocabulary`, a number, and `log_probs(ids, length)`."
            raise UserError(f"{type(side).__name__} is no analytic policy", where="teacher", cure=cure)
        return found
    config: Any = side.config
    return int(config.get_text_config().vocab_size)


def check_follows(policy: nn.Module, teacher: nn.Module | None, rate: float, every: int = 1) -> None:
    """Refuse a rate or a number of steps out of range, and a teacher that is no copy of the policy.

    Raises:
        UserError: says what is wrong.
    """
    if not 0 < rate <= 1:
        raise UserError(f"is {rate}", where="teacher_rate", allowed="0 <= teacher_rate <= 1")
    if every < 1:
        raise UserError(f"is {every}", where="teacher_every", allowed="1 or more")
    own = {} if teacher is None else {n: p.shape for n, p in teacher.named_parameters()}
    if any(own.get(n) != p.shape for n, p in trainable_state(policy).items()):
        raise UserError("only a copy of the policy can follow it", where="teacher")


def check_mixes(teacher: nn.Module | Teacher | None, mix: float) -> None:
    """Refuse a share out of range, and one of nobody.

    Raises:
        UserError: says what is wrong.
    """
    if not 0 < mix < 1:
        raise UserError(f"is {mix}", where="teacher_mix", allowed="0 <= teacher_mix < 1")
    if teacher is None:
        raise UserError("there is no teacher to mix the policy with", where="teacher_mix", cure="Give teacher=.")


@torch.no_grad()
def follow(followed: Mapping[str, Tensor], policy: nn.Module, rate: float) -> None:
    """teacher += rate (policy - teacher), in place, for parameters by name."""
    for name, p in trainable_state(policy).items():
        followed[name].mul_(1 - rate).add_(p.to(followed[name].dtype), alpha=rate)
