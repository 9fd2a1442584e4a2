"""Multi-layer perceptrons whose initial weights are a function of a seed and a name, not of global random state.

Leaves out: training. Source: weights and biases are uniform in +-1 / sqrt(inputs), as torch initialises linear layers.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from steersman.core.noise import generator


def mlp(inputs: int, hidden: Sequence[int], outputs: int, seed: int, name: str, bias: float | None = None) -> nn.Module:
    """Linear layers with ELU between them; the last one is linear.

    Args:
        inputs, outputs: sizes.
        hidden: sizes of the hidden layers.
        seed: of the initial weights.
        name: of this network; networks of other names have other weights.
        bias: initial bias of the last layer; None = random as in the others.
    """
    layers: list[nn.Module] = []
    sizes = [inputs, *hidden, outputs]
    for i, (a, b) in enumerate(pairwise(sizes)):
        linear = nn.utils.skip_init(nn.Linear, a, b)
        bound = 1 / math.sqrt(max(a, 1))
        draw = generator(seed, f"weights/{name}", i).uniform(-bound, bound, (b, a + 1))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(draw[:, :a]))
            linear.bias.copy_(torch.from_numpy(draw[:, a]))
        layers += [linear, nn.ELU()]
    if bias is not None:
        nn.init.constant_(layers[-2].bias, bias)
    return nn.Sequential(*layers[:-1])
