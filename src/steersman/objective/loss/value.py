"""Loss of a critic: squared error to the return, with PPO's optional clip around the old prediction.

Leaves out: returns (`advantage.gae`) and averaging (`reduce.aggregate`, over the same action tokens).
Source: arXiv 1707.06347 and its reference code.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.objective.loss.policy import same_shape
from steersman.objective.loss.robust import check_positive, upcast


def clipped_value(
    value: Tensor, value_old: Tensor, returns: Tensor, clip: float | int | None = 0.2
) -> Float[Tensor, "N L"]:
    """Squared error of a value, pessimistic about steps that leave the old prediction by more than `clip`.

    loss = 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2);  clip None: 1/2 (V - R)^2.

    Args:
        value: V ``[N, L]`` of the live critic, carries the gradient.
        value_old: V_old ``[N, L]`` when the rows were drawn.
        returns: R ``[N, L]``.
        clip: c > 0, in units of the reward; None = no clip.

    Returns:
        ``[N, L]`` >= 0, float32 (float64 for float64 value).

    Raises:
        UserError: shapes other than ``[N, L]``, clip not positive.

    Edge cases: where the clipped term is the larger one the gradient is 0.
    """
    same_shape("clipped_value", value=value, value_old=value_old, returns=returns)
    v, target = upcast(value, "value"), upcast(returns, "returns").detach()
    plain = (v - target).square()
    if clip is None:
        return plain / 2
    old, c = upcast(value_old, "value_old").detach(), check_positive(float(clip), "clip")
    return torch.maximum(plain, (torch.minimum(torch.maximum(v, old - c), old + c) - target).square()) / 2
