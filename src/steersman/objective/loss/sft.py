"""Supervised fine-tuning: the negative log-likelihood of a token.

Leaves out: which tokens count and the divisor (`reduce.aggregate`). Source: maximum likelihood.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def sft(logp: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Negative log-likelihood of each token.

    loss_t = -logp_t, with logp_t = log pi(y_t | x, y_<t).

    Args:
        logp: log-probabilities in nats, any shape, <= 0; bfloat16 and float16 are upcast.

    Returns:
        float32 (float64 for float64 input) of the same shape; zeros stay +0.

    Edge cases: NaN and -inf pass through (as NaN and +inf); mask them in `reduce.aggregate`, which cuts their gradient.
    The divisor must be the number of completion tokens of the whole optimiser step, not of a micro-batch.

    Source: maximum likelihood.
    """
    return 0.0 - logp.to(torch.promote_types(logp.dtype, torch.float32))
