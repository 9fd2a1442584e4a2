"""Divergences over the vocabulary: float64 definitions, gradients in closed form, ends, tails, bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.objective.divergence import FORMS, check_form, divergence, entropy, sampled_unchecked

FLOAT32 = 1e-6  # what tip.md asks of float32 against float64
EXACT = 1e-12  # float64 algebra
LIMIT = 1e-4  # jsd scaled at 1e-7 from an end; its next term is smaller by that times the largest ratio, here 1e2
KINDS = ["reverse_kl", "forward_kl", "jsd"]


def logits(seed, rows=4, vocabulary=9, spread=2.0):
    return torch.from_numpy(generator(seed, "exact").standard_normal((rows, vocabulary))) * spread


def textbook(z, y, kind, beta=0.5):
    """The definitions, by sums of p log p."""
    p, q = z.double().softmax(-1), y.double().softmax(-1)

    def kl(a, b):
        return (a * (a / b).log()).sum(-1)

    m = beta * q + (1 - beta) * p
    return {"reverse_kl": kl(p, q), "forward_kl": kl(q, p), "jsd": beta * kl(q, m) + (1 - beta) * kl(p, m)}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_definition(kind):
    z, y = logits(0), logits(1)
    for beta in (0.1, 0.5, 0.9):
        want = textbook(z, y, kind, beta)
        assert torch.allclose(divergence(z, y, kind, beta), want, atol=EXACT, rtol=0)
        got = divergence(z.float(), y.float(), kind, beta)
        assert got.dtype == torch.float32
        assert torch.allclose(got.double(), want, atol=FLOAT32, rtol=0)
    assert divergence(z.bfloat16(), y.bfloat16(), kind).dtype == torch.float32


def test_gradients_in_closed_form_reach_the_student_alone():
    z, y = logits(2).requires_grad_(), logits(3).requires_grad_()
    p, q = z.softmax(-1).detach(), y.softmax(-1).detach()
    kl = divergence(z, y)
    (found,) = torch.autograd.grad(kl.sum(), z)
    assert torch.allclose(found, p * ((p / q).log() - kl.detach()[:, None]), atol=EXACT, rtol=0)
    divergence(z, y, "forward_kl").sum().backward()
    assert torch.allclose(z.grad, p - q, atol=EXACT, rtol=0)
    assert y.grad is None


def test_the_forward_hessian():
    z, y = logits(4, 1)[0], logits(5, 1)[0]
    p = z.softmax(-1)
    hessian = torch.autograd.functional.hessian(lambda x: divergence(x, y, "forward_kl"), z)
    assert torch.allclose(hessian, p.diag() - torch.outer(p, p), atol=EXACT, rtol=0)
    assert float(hessian.trace()) == pytest.approx(1 - float(p.square().sum()), abs=EXACT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [None, 3])
def test_gradcheck(kind, top_k):
    z, y = logits(6, 2, 5).requires_grad_(), logits(7, 2, 5)
    assert torch.autograd.gradcheck(lambda x: divergence(x, y, kind, 0.3, top_k), z)


@given(st.integers(0, 50), st.sampled_from(KINDS), st.floats(0.01, 0.99), st.floats(-50, 50))
def test_never_negative_and_blind_to_a_constant(seed, kind, beta, shift):
    z, y = logits(seed), logits(seed + 100)
    value = divergence(z, y, kind, beta)
    assert bool((value >= -EXACT).all())
    assert torch.allclose(divergence(z + shift, y - shift, kind, beta), value, atol=1e-10, rtol=0)
    assert torch.allclose(divergence(z, z + shift, kind, beta), torch.zeros(4, dtype=torch.float64), atol=1e-10, rtol=0)


def test_jensen_shannon_is_symmetric_and_bounded():
    z, y = logits(8, spread=20.0), logits(9, spread=20.0)
    half = divergence(z, y, "jsd")
    assert torch.allclose(half, divergence(y, z, "jsd"), atol=EXACT, rtol=0)
    assert bool((half <= math.log(2) + EXACT).all())
    assert float(half.max()) > 0.6
    apart = torch.tensor([[0.0, -math.inf], [0.0, 0.0]]), torch.tensor([[-math.inf, 0.0], [0.0, -math.inf]])
    assert float(divergence(*apart, "jsd")[0]) == pytest.approx(math.log(2), abs=FLOAT32)


def test_scaled_ends_of_jsd_are_the_two_kls():
    z, y, small = logits(10), logits(11), 1e-7
    assert torch.allclose(divergence(z, y, "jsd", small) / small, textbook(z, y, "forward_kl"), rtol=LIMIT, atol=LIMIT)
    other = divergence(z, y, "jsd", 1 - small) / small
    assert torch.allclose(other, textbook(z, y, "reverse_kl"), rtol=LIMIT, atol=LIMIT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tail_is_one_token_more(kind):
    z, y = logits(12), logits(13)
    chosen = z.topk(3).indices
    both = []
    for x in (z, y):
        p = x.softmax(-1)
        kept = p.gather(-1, chosen)
        both.append(torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1).log())
    value = divergence(z, y, kind, top_k=3)
    assert torch.allclose(value, textbook(*both, kind), atol=EXACT, rtol=0)
    assert bool((value <= divergence(z, y, kind) + EXACT).all())  # joining events tells less
    assert torch.equal(divergence(z, y, kind, top_k=9), divergence(z, y, kind))
    saturated = torch.tensor([[400.0, 0.0, -5.0]], requires_grad=True)
    found = divergence(saturated, torch.zeros(1, 3), kind, top_k=1)
    found.sum().backward()
    assert bool(torch.isfinite(saturated.grad).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_teachers_likeliest_alone(kind):
    z, y = logits(12), logits(13)
    chosen = y.topk(3).indices
    alone = [x.softmax(-1).gather(-1, chosen) for x in (z, y)]
    wanted = textbook(*((p / p.sum(-1, keepdim=True)).log() for p in alone), kind)
    assert torch.allclose(divergence(z, y, kind, top_k=3, of="teacher", tail=False), wanted, atol=EXACT, rtol=0)
    with_tail = divergence(z, y, kind, top_k=3, of="teacher")
    assert bool((with_tail <= divergence(z, y, kind) + EXACT).all())
    assert not torch.allclose(with_tail, divergence(z, y, kind, top_k=3), atol=FLOAT32)
    assert torch.equal(divergence(z, y, kind, top_k=9, of="teacher", tail=False), divergence(z, y, kind))


def test_the_token_that_was_drawn_tells_the_reverse_kl_on_average():
    """Enumerated over the vocabulary: the value is KL(p || q) and the gradient its gradient."""
    z, y = logits(16, 5, 7).requires_grad_(), logits(17, 5, 7)
    drawn = torch.arange(7).expand(5, 7)
    each = sampled_unchecked(z[:, None].expand(5, 7, 7), y[:, None].expand(5, 7, 7), drawn)
    p = z.detach().softmax(-1)
    mean, whole = (p * each).sum(-1), divergence(z, y)
    assert torch.allclose(mean, whole, atol=EXACT, rtol=0)
    (got,), (wanted,) = (torch.autograd.grad(x.sum(), z) for x in (mean, whole))
    assert torch.allclose(got, wanted, atol=EXACT, rtol=0)
    g = (z.log_softmax(-1) - y.log_softmax(-1)).detach()
    assert torch.allclose(each, g, atol=EXACT, rtol=0)


def test_excluded_tokens():
    z = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    for kind in KINDS:
        value = divergence(z, z.detach(), kind)
        assert float(value.detach()) == 0
        (slope,) = torch.autograd.grad(value.sum(), z)
        assert bool(torch.isfinite(slope).all())
    assert float(divergence(torch.zeros(3), z[0].detach())) == math.inf
    assert float(divergence(z[0].detach(), torch.zeros(3), "forward_kl")) == math.inf
    assert float(divergence(torch.zeros(3), z[0].detach(), "jsd")) < math.log(2)


def test_entropy():
    z = logits(14)
    p = z.softmax(-1)
    assert torch.allclose(entropy(z), -(p * p.log()).sum(-1), atol=EXACT, rtol=0)
    assert torch.allclose(entropy(z, normalize=True), entropy(z) / math.log(9), atol=EXACT, rtol=0)
    assert float(entropy(torch.zeros(7), normalize=True)) == pytest.approx(1.0, abs=FLOAT32)
    assert float(entropy(torch.tensor([0.0, -math.inf]))) == 0
    assert float(entropy(torch.zeros(1), normalize=True)) == 0
    assert torch.autograd.gradcheck(entropy, logits(15, 2, 4).requires_grad_())


NAN, INF = torch.tensor([[0.0, math.nan]]), torch.tensor([[0.0, math.inf]])
PLAIN = torch.zeros(1, 2)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: divergence(PLAIN, torch.zeros(1, 3)), "logits have shape"),
        (lambda: divergence(torch.zeros(()), torch.zeros(())), "logits have shape"),
        (lambda: divergence(PLAIN, PLAIN, "kl"), "unknown divergence 'kl'"),
        (lambda: divergence(PLAIN, PLAIN, "jsd", 0.0), "0 < beta < 1"),
        (lambda: divergence(PLAIN, PLAIN, "jsd", 1.0), "0 < beta < 1"),
        (lambda: divergence(PLAIN, PLAIN, top_k=0), "top_k is 0"),
        (lambda: divergence(PLAIN, PLAIN, top_k=1, of="student"), "of: is 'student'"),
        (lambda: divergence(PLAIN, PLAIN, "sampled"), "unknown divergence 'sampled'"),
        (lambda: check_form("sampled", 0.5, 3, names=FORMS), "reads the token that was drawn"),
        (lambda: divergence(NAN, PLAIN), r"student_logits: hold nan at \[0\]"),
        (lambda: divergence(PLAIN, NAN), r"teacher_logits: hold nan"),
        (lambda: divergence(INF, PLAIN), "student_logits: hold inf"),
        (lambda: divergence(PLAIN, torch.full((1, 2), -math.inf)), "teacher_logits: hold -inf"),
        (lambda: divergence(PLAIN.long(), PLAIN), "student_logits"),
        (lambda: entropy(NAN), "logits: hold nan"),
        (lambda: entropy(torch.zeros(())), "logits have shape"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
