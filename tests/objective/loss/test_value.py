"""The critic's loss: the printed vector, its gradient on either side of the clip, bad input."""

import pytest
import torch

from steersman.core.errors import UserError
from steersman.objective.loss.value import clipped_value

PRINTED = 1e-6  # a vector printed with three decimals, reached in float32

V, OLD, RETURNS = (torch.tensor([x]) for x in ([1.0, 0.1], [0.5, 0.5], [2.0, 0.0]))


def test_printed_vector():
    got = clipped_value(V, OLD, RETURNS, 0.2)
    assert got.dtype == torch.float32
    assert torch.allclose(got, torch.tensor([[0.845, 0.045]]), atol=PRINTED, rtol=0)
    assert torch.allclose(clipped_value(V, OLD, RETURNS, None), torch.tensor([[0.5, 0.005]]), atol=PRINTED, rtol=0)


def test_gradient_is_that_of_the_larger_error():
    value = torch.tensor([[0.6, 1.0, -2.0, 0.1]], requires_grad=True)
    old, returns = torch.full((1, 4), 0.5, requires_grad=True), torch.tensor([[1.0, 2.0, 2.0, 0.0]], requires_grad=True)
    clipped_value(value, old, returns, 0.2).sum().backward()
    # inside the clip; beyond it towards the return; beyond it away from the return; beyond it and past the clip
    assert torch.allclose(value.grad, torch.tensor([[-0.4, 0.0, -4.0, 0.0]]), atol=PRINTED, rtol=0)
    assert old.grad is None
    assert returns.grad is None


def test_bfloat16_is_upcast():
    assert clipped_value(V.bfloat16(), OLD.bfloat16(), RETURNS.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: clipped_value(V, OLD, RETURNS[0]), r"returns has shape \(2,\), value has"),
        (lambda: clipped_value(V, OLD, RETURNS, 0), "clip is 0"),
        (lambda: clipped_value(V.long(), OLD, RETURNS), "value has dtype"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
