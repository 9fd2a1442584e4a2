"""The critic of a language policy: a trunk with one output a token, read where the token is predicted.

V[n, t] is read from the hidden state of token t - 1, so it knows the prefix and not the token. A critic is a reward
model in form (`reward.model`), so any saved reward model can be one. Leaves out: its loss (`objective.loss.value`).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.language.pack import take
from steersman.language.trunk import last_hidden
from steersman.reward.model import head_of


def token_values(critic: nn.Module, rollouts: Rollouts, mask: Tensor) -> Float[Tensor, "N L"]:
    """Value before each token of the mask, float32, 0 elsewhere, with gradients.

    Args:
        critic: a sequence-classification model with one output.
        rollouts: rows on the critic's device.
        mask: tokens whose value is asked, bool ``[N, L]``; none may be the first of its row.
    """
    hidden, where = last_hidden(critic, rollouts.ids, rollouts.length, rollouts.prompt_length)
    rows, columns = mask.nonzero(as_tuple=True)
    value = _head(critic, take(hidden, where[rows, columns - 1]))
    blank = torch.zeros(mask.numel(), dtype=torch.float32, device=mask.device)
    return blank.index_copy(0, rows * mask.shape[1] + columns, value).view(mask.shape)


def end_values(critic: nn.Module, rollouts: Rollouts) -> Float[Tensor, " N"]:
    """Value after the last token of rows that were cut, float32 ``[N]``; 0 of rows that ended by themselves."""
    cut = rollouts.stop == STOP_LENGTH
    value = torch.zeros(len(rollouts), dtype=torch.float32, device=cut.device)
    if not bool(cut.any()):
        return value
    part = rollouts.index(cut)
    hidden, where = last_hidden(critic, part.ids, part.length, part.prompt_length)
    last = where.gather(1, (part.length - 1)[:, None])[:, 0]
    return value.index_copy(0, cut.nonzero()[:, 0], _head(critic, take(hidden, last)))


def _head(critic: Any, hidden: Tensor) -> Tensor:
    """The float32 head on hidden states ``[T, D]``."""
    head = head_of(critic)
    value = hidden.float() @ head.weight.float().T
    return (value if head.bias is None else value + head.bias.float())[:, 0]
