"""The chunked head against the plain formula: forward and backward, odd sizes, every option, every chunk size."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steersman.core import noise
from steersman.core.errors import UserError
from steersman.language.head import token_logp

FLOAT32_TOLERANCE = 1e-5
"""Sums of about a hundred float32 terms of order one."""
MEAN_TOLERANCE = 2e-6
BFLOAT16_GRADIENT_TOLERANCE = 2e-2
"""Gradients come back rounded to bfloat16 (8 bits)."""

OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "scale": {"scale": 0.25},
    "softcap": {"softcap": 3.0},
    "all": {"temperature": 1.3, "scale": 2.0, "softcap": 2.5},
}


def draw(tokens: int, vocabulary: int, width: int, bias: bool = True, seed: int = 0) -> tuple[Tensor, ...]:
    hidden, weight = torch.empty(tokens, width), torch.empty(vocabulary, width)
    offset, pull = torch.empty(vocabulary), torch.empty(tokens)
    named = [("hidden", hidden), ("weight", weight), ("bias", offset), ("pull", pull)]
    noise.normal_(named, 1.0, seed, "test")
    targets = torch.from_numpy(noise.generator(seed, "targets").integers(0, vocabulary, tokens))
    return hidden, weight, offset if bias else None, targets, pull


def naive(hidden, weight, targets, temperature=1.0, bias=None, scale=1.0, softcap=None):
    z = hidden @ weight.T
    z = scale * (z if bias is None else z + bias)
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    log_p = (z / temperature).log_softmax(-1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def gradients(function, leaves: list[Tensor], pull: Tensor, *args, **options):
    copies = [x.detach().clone().requires_grad_(x.requires_grad) if x is not None else None for x in leaves]
    hidden, weight, bias = copies
    logp, entropy = function(hidden, weight, *args, bias=bias, **options)
    logp.backward(pull)
    return logp.detach(), entropy.detach(), *(None if x is None else x.grad for x in copies)


def assert_close(a: Tensor, b: Tensor, most: float = FLOAT32_TOLERANCE, mean: float = MEAN_TOLERANCE) -> None:
    difference = (a.double() - b.double()) / b.double().abs().amax().clamp(min=1.0)
    assert difference.abs().max() <= most
    assert abs(float(difference.mean())) <= mean


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk_bytes", [None, 4 * 37 * 10, 4 * 7 * 13, 4 * 20])
def test_equals_the_plain_formula_forward_and_backward(options, bias, chunk_bytes):
    *leaves, targets, pull = draw(37, 101, 19, bias)
    leaves = [x if x is None else x.requires_grad_() for x in leaves]
    slow = gradients(naive, leaves, pull, targets, **options)
    fast = gradients(token_logp, leaves, pull, targets, chunk_bytes=chunk_bytes, **options)
    for a, b in zip(fast, slow, strict=True):
        if b is not None:
            assert_close(a, b)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 23), st.integers(1, 5), st.integers(1, 400), st.integers(0, 9))
def test_any_shape_and_chunk(tokens, vocabulary, width, chunk_bytes, seed):
    hidden, weight, bias, targets, pull = draw(tokens, vocabulary, width, True, seed)
    leaves = [hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    slow = gradients(naive, leaves, pull, targets)
    fast = gradients(token_logp, leaves, pull, targets, chunk_bytes=chunk_bytes)
    for a, b in zip(fast, slow, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_gradcheck_in_float64(options):
    *leaves, targets, _ = draw(5, 7, 3)
    leaves = [x.double().requires_grad_() for x in leaves]

    def logp(hidden, weight, bias):
        return token_logp(hidden, weight, targets, bias=bias, chunk_bytes=8 * 6, **options)[0]

    assert torch.autograd.gradcheck(logp, leaves)
    assert logp(*leaves).dtype == torch.float64


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias"])
def test_a_frozen_input_has_no_gradient_and_the_rest_the_same(trained):
    hidden, weight, bias, targets, pull = draw(37, 101, 19)
    named = {"hidden": hidden, "weight": weight, "bias": bias}
    everything = gradients(token_logp, [x.requires_grad_() for x in named.values()], pull, targets)[2:]
    leaves = [x.detach().requires_grad_(name == trained) for name, x in named.items()]
    only = gradients(token_logp, leaves, pull, targets)[2:]
    for name, a, b in zip(named, only, everything, strict=True):
        if name == trained:
            assert_close(a, b)
        else:
            assert a is None


def test_bfloat16_keeps_float32_logits_and_sums():
    hidden, weight, bias, targets, pull = draw(37, 101, 19)
    leaves = [x.bfloat16().requires_grad_() for x in (hidden, weight, bias)]
    exact = [x.detach().float().requires_grad_() for x in leaves]
    fast, slow = gradients(token_logp, leaves, pull, targets), gradients(naive, exact, pull, targets)
    assert fast[0].dtype == torch.float32
    assert fast[2].dtype == fast[3].dtype == torch.bfloat16
    for a, b in zip(fast[:2], slow[:2], strict=True):
        assert_close(a, b)
    for a, b in zip(fast[2:], slow[2:], strict=True):
        assert_close(a, b, BFLOAT16_GRADIENT_TOLERANCE, BFLOAT16_GRADIENT_TOLERANCE)


def test_autocast_changes_nothing():
    hidden, weight, bias, targets, _ = draw(37, 101, 19)
    with torch.autocast("cpu", torch.bfloat16):
        inside = token_logp(hidden, weight, targets, bias=bias)
    for a, b in zip(inside, token_logp(hidden, weight, targets, bias=bias), strict=True):
        assert torch.equal(a, b)


def test_huge_logits_neither_overflow_nor_lose_the_entropy():
    weight = torch.tensor([[1000.0], [999.0], [-1000.0]])
    hidden = torch.tensor([[1.0], [-1.0]])
    logp, entropy = token_logp(hidden, weight, torch.tensor([1, 2]), chunk_bytes=4)
    p = 1 / (1 + math.e)
    assert logp[0] == pytest.approx(math.log(p), abs=1e-4)
    assert entropy[0] == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), abs=1e-4)
    assert logp[1] == pytest.approx(0.0, abs=1e-4)
    assert entropy[1] == pytest.approx(0.0, abs=1e-4)


def test_logits_of_minus_infinity_are_impossible_tokens():
    hidden, weight, bias, targets, _ = draw(5, 11, 3)
    bias[:4] = -math.inf
    targets = targets.clamp(min=4)
    kept = token_logp(hidden, weight[4:], targets - 4, bias=bias[4:])
    for a, b in zip(token_logp(hidden, weight, targets, bias=bias, chunk_bytes=4 * 10), kept, strict=True):
        assert_close(a, b)


def test_without_entropy_it_is_not_a_number_and_the_rest_is_equal():
    hidden, weight, bias, targets, _ = draw(37, 101, 19)
    logp, entropy = token_logp(hidden, weight, targets, bias=bias, entropy=False)
    assert entropy.isnan().all()
    assert torch.equal(logp, token_logp(hidden, weight, targets, bias=bias)[0])


def test_the_entropy_is_detached():
    hidden, weight, _, targets, _ = draw(5, 7, 3)
    logp, entropy = token_logp(hidden.requires_grad_(), weight, targets)
    assert logp.requires_grad
    assert not entropy.requires_grad


def test_no_tokens():
    hidden, weight, bias, targets, pull = draw(0, 7, 3)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
    logp, entropy, *grads = gradients(token_logp, leaves, pull, targets)
    assert logp.shape == entropy.shape == (0,)
    assert all(float(g.abs().sum()) == 0.0 for g in grads)


def test_no_tensor_as_large_as_tokens_times_vocabulary():
    tokens, vocabulary, width = 256, 512, 4
    hidden, weight, _, targets, pull = draw(tokens, vocabulary, width, bias=False)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, Tensor))
            return out

    with Watch():
        logp, _ = token_logp(hidden.requires_grad_(), weight.requires_grad_(), targets, chunk_bytes=4 * 1024)
        logp.backward(pull)
    assert max(sizes) <= max(tokens, vocabulary) * width


BAD = {
    "width": lambda h, w, b, y: token_logp(h, w[:, :-1], y),
    "three axes": lambda h, w, b, y: token_logp(h[None], w, y),
    "number of targets": lambda h, w, b, y: token_logp(h, w, y[:-1]),
    "int32 targets": lambda h, w, b, y: token_logp(h, w, y.int()),
    "bias": lambda h, w, b, y: token_logp(h, w, y, bias=b[:-1]),
    "integer weight": lambda h, w, b, y: token_logp(h, w.long(), y),
    "temperature 0": lambda h, w, b, y: token_logp(h, w, y, temperature=0.0),
    "temperature NaN": lambda h, w, b, y: token_logp(h, w, y, temperature=math.nan),
    "softcap 0": lambda h, w, b, y: token_logp(h, w, y, softcap=0.0),
    "scale 0": lambda h, w, b, y: token_logp(h, w, y, scale=0.0),
    "chunk 0": lambda h, w, b, y: token_logp(h, w, y, chunk_bytes=0),
    "id too large": lambda h, w, b, y: token_logp(h, w, y + len(w)),
    "id negative": lambda h, w, b, y: token_logp(h, w, y - len(w)),
}


@pytest.mark.parametrize("call", BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(call):
    hidden, weight, bias, targets, _ = draw(5, 7, 3)
    with pytest.raises(UserError, match="token_logp"):
        call(hidden, weight, bias, targets)
