"""The chunked head for two models against whole logits: values, gradients, every option, and what memory it takes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from steersman.core import noise
from steersman.core.component import Form
from steersman.core.errors import UserError
from steersman.language.head_divergence import Head, token_divergence
from steersman.objective.divergence import divergence, entropy, sampled_unchecked

FLOAT32 = 1e-5
"""Relative to the largest: sums of about a hundred float32 terms."""
BFLOAT16 = 2e-2
"""Gradients come back rounded to 8 bits."""
FORMS = (Form(), Form("forward_kl"), Form("jsd", 0.3), Form(top_k=5), Form("jsd", top_k=4, of="teacher", tail=False),
         Form("sampled"))  # fmt: skip
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "all": {"temperature": 1.3, "scale": 0.4, "softcap": 2.5},
}


def draw(*shape: int, name: str, seed: int = 0) -> Tensor:
    x = torch.empty(*shape)
    noise.normal_([(name, x)], 1.0, seed, "test")
    return x


def models(tokens: int, vocabulary: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Head]:
    """Hidden states, weight and bias of a policy, and a teacher of another width."""
    shapes = {"hidden": (tokens, width), "weight": (vocabulary, width), "bias": (vocabulary,)}
    leaves = [draw(*shape, name=name).to(dtype).requires_grad_() for name, shape in shapes.items()]
    other = draw(tokens, width + 2, name="h2").to(dtype), draw(vocabulary, width + 2, name="w2").to(dtype)
    return leaves, Head(*other)


def naive(leaves: list[Tensor], other: Head, options: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Logits of both in float64."""
    hidden, weight, bias = (x.double() for x in leaves)
    z = (hidden @ weight.T + bias) * options.get("scale", 1.0)
    if cap := options.get("softcap"):
        z = torch.tanh(z / cap) * cap
    assert other.weight is not None
    return z / options.get("temperature", 1.0), other.hidden.double() @ other.weight.double().T


def exact(z: Tensor, y: Tensor, drawn: Tensor, form: Form) -> Tensor:
    """A divergence of whole logits."""
    if form.kind == "sampled":
        return sampled_unchecked(z, y, drawn)
    return divergence(z, y, form.kind, form.beta, form.top_k, form.of, form.tail)


def close(found: Tensor, wanted: Tensor, most: float = FLOAT32) -> bool:
    return float((found.detach().double() - wanted.detach()).abs().max()) <= most * max(
        1.0, float(wanted.detach().abs().max())
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("chunk", [1, 4 * 101 * 7, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equals_whole_logits_forward_and_backward(options, chunk, dtype):
    leaves, other = models(37, 101, 19, dtype)
    copies = [x.detach().double().requires_grad_() for x in leaves]
    targets = torch.arange(37) * 3 % 101
    values, logp, spread = token_divergence(Head(*leaves, **options), other, targets, FORMS, chunk)
    z, y = naive(copies, other, options)
    wanted = [exact(z, y, targets, f) for f in FORMS]
    for a, b in zip([*values, spread], [*wanted, entropy(z)], strict=True):
        assert a.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert close(a, b)
    assert close(logp, z.log_softmax(-1).gather(1, targets[:, None])[:, 0])
    assert not logp.requires_grad
    assert not spread.requires_grad
    pull = draw(37, name="pull").double()
    sum((v * pull.to(v.dtype)).sum() for v in values).backward()
    sum((v * pull).sum() for v in wanted).backward()
    for a, b in zip(leaves, copies, strict=True):
        assert a.grad.dtype == dtype
        assert close(a.grad, b.grad, BFLOAT16 if dtype == torch.bfloat16 else FLOAT32)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 23), st.integers(1, 400))
def test_any_shape_and_chunk(tokens, vocabulary, chunk):
    leaves, other = models(tokens, vocabulary, 3)
    targets = torch.zeros(tokens, dtype=torch.int64)
    whole, cut = (token_divergence(Head(*leaves), other, targets, FORMS, c)[0] for c in (None, chunk))
    for a, b in zip(whole, cut, strict=True):
        assert a.shape == (tokens,)
        assert tokens == 0 or close(a, b.double())


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_a_frozen_part_has_no_gradient_and_the_rest_the_same(trained):
    leaves, other = models(11, 13, 5)
    targets = torch.zeros(11, dtype=torch.int64)
    token_divergence(Head(*leaves), other, targets, FORMS)[0][0].sum().backward()
    alone = [x.detach().requires_grad_(i == trained) for i, x in enumerate(leaves)]
    token_divergence(Head(*alone), other, targets, FORMS)[0][0].sum().backward()
    for i, (a, b) in enumerate(zip(alone, leaves, strict=True)):
        assert torch.equal(a.grad, b.grad) if i == trained else a.grad is None


def test_logits_in_place_of_a_head():
    leaves, other = models(6, 9, 4)
    targets = torch.zeros(6, dtype=torch.int64)
    z = (leaves[0] @ leaves[1].T + leaves[2]).detach().requires_grad_()
    found = token_divergence(Head(z, temperature=0.7), other, targets, (Form(),))[0][0]
    found.sum().backward()
    again = z.detach().requires_grad_()
    wanted = divergence(again / 0.7, other.logits(slice(None)))
    wanted.sum().backward()
    assert torch.allclose(found, wanted, atol=FLOAT32)
    assert torch.allclose(z.grad, again.grad, atol=FLOAT32)


def test_spare_rows_are_left_out_of_both():
    leaves, other = models(7, 12, 4)
    assert other.weight is not None
    wide = Head(other.hidden, torch.cat([other.weight, draw(5, 6, name="spare")]))
    targets = torch.zeros(7, dtype=torch.int64)
    with pytest.raises(UserError, match="vocabulary has 12 tokens, that of the other 17"):
        token_divergence(Head(*leaves), wide, targets, (Form(),))
    found = token_divergence(Head(*leaves), wide, targets, (Form(),), shared=10)[0][0]
    z, y = naive(leaves, other, {})
    assert close(found, divergence(z[:, :10], y[:, :10]))


def test_impossible_tokens_can_be_left_out():
    leaves, other = models(3, 8, 4)
    y = other.logits(slice(None)).clone()
    y[:, 5] = -torch.inf
    targets = torch.zeros(3, dtype=torch.int64)
    infinite, finite = (
        token_divergence(Head(*leaves), Head(y), targets, (f,))[0][0] for f in (Form(), Form(impossible="leave_out"))
    )
    assert bool(torch.isinf(infinite).all())
    kept = [i for i in range(8) if i != 5]
    z = naive(leaves, other, {})[0]
    assert close(finite, divergence(z[:, kept], y[:, kept].double()))
    finite.sum().backward()
    assert all(bool(torch.isfinite(x.grad).all()) for x in leaves)


class _Largest(TorchDispatchMode):
    """The largest number of elements of any tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tree_flatten(out)[0] if isinstance(x, Tensor))])
        return out


@contextmanager
def largest() -> Iterator[_Largest]:
    with _Largest() as seen, torch.autograd.set_multithreading_enabled(False):
        yield seen


def test_no_tensor_of_all_tokens_by_the_vocabulary_is_ever_alive():
    tokens, vocabulary, width, rows = 200, 3000, 4, 10
    leaves, other = models(tokens, vocabulary, width)
    targets, chunk = torch.zeros(tokens, dtype=torch.int64), 4 * vocabulary * rows
    with largest() as seen:
        token_divergence(Head(*leaves), other, targets, (Form(),), chunk)[0][0].sum().backward()
    assert seen.most <= vocabulary * rows
    with largest() as plain:
        divergence(leaves[0] @ leaves[1].T, other.logits(slice(None))).sum().backward()
    assert plain.most == tokens * vocabulary  # the hook sees what it is there for


@pytest.mark.parametrize(
    "form", [Form("kl"), Form("jsd", 1.0), Form(top_k=0), Form("sampled", top_k=2), Form(top_k=2, of="both")]
)
def test_bad_forms(form):
    leaves, other = models(2, 3, 2)
    with pytest.raises(UserError):
        token_divergence(Head(*leaves), other, torch.zeros(2, dtype=torch.int64), (form,))


def test_a_drawn_token_that_the_other_excludes():
    """Infinite, or left out: then it tells nothing and pulls nowhere."""
    z = draw(3, 5, name="z").requires_grad_()
    y = draw(3, 5, name="y")
    y[1, 2], targets = -torch.inf, torch.tensor([0, 2, 4])
    refused = token_divergence(Head(z), Head(y), targets, (Form("sampled"),))[0][0]
    assert torch.isinf(refused).tolist() == [False, True, False]
    left = token_divergence(Head(z), Head(y), targets, (Form("sampled", impossible="leave_out"),))[0][0]
    left.sum().backward()
    assert float(left[1]) == 0
    assert not z.grad[1].any()
    assert bool(torch.isfinite(z.grad).all())
    assert z.grad[0].any()
    spare = token_divergence(Head(z), Head(y[:, :4]), targets, (Form("sampled"),), shared=4)[0][0]
    assert torch.isinf(spare).tolist() == [False, True, True]
