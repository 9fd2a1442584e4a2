"""The supervised loss is minus the log-probability, upcast."""

import torch

from steersman.objective.loss.sft import sft
from steersman.objective.reduce import aggregate

SIX_DECIMALS = 1e-6


def test_value_dtype_and_gradient():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    target = torch.tensor([[0, 1, 2], [3, 4, 0]])
    logp = logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
    ours = aggregate(sft(logp), torch.ones(2, 3, dtype=torch.bool))
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    assert torch.allclose(ours, theirs, atol=SIX_DECIMALS)
    (a,), (b,) = (torch.autograd.grad(x, logits) for x in (ours, theirs))
    assert torch.allclose(a, b, atol=SIX_DECIMALS)
    assert sft(torch.tensor([-1.5, 0.0], dtype=torch.bfloat16)).tolist() == [1.5, 0.0]
    assert sft(torch.tensor([-1.5], dtype=torch.bfloat16)).dtype == torch.float32
    assert sft(torch.tensor([float("nan")])).isnan().all()
