"""KL: printed vectors, gradients in closed form on a categorical, off-policy, the exact form, the controller."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.objective.divergence import adapt_beta, divergence, kl_penalty, kl_value

PRINTED = 1e-6  # vectors printed with six decimals
EXACT = 1e-12  # float64 algebra, well below the eight digits asked for
PAIRS = [
    ("k1", "reverse"),
    ("k2", "reverse"),
    ("k3", "reverse"),
    ("k1", "forward"),
    ("k2", "forward"),
    ("k3", "forward"),
    ("k2", "as_written"),
    ("k3", "as_written"),
]
DIRECTION = {("k2", "as_written"): "reverse", ("k3", "as_written"): "forward"}


def logits(seed):
    return torch.from_numpy(generator(seed, "divergence").standard_normal(5))


def expectation(theta, per_token, law=None):
    """Sum over all tokens of their chance (without gradient) times `per_token(logp of every token)`."""
    logp = torch.log_softmax(theta, 0)
    chance = (logp if law is None else law).detach().exp()
    return (chance * per_token(logp[None])[0]).sum()


def slope(value, theta):
    (got,) = torch.autograd.grad(value, theta)
    return got


def test_printed_values():
    logp, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    want = {"k1": [0.5, -1.0], "k2": [0.125, 0.5], "k3": [0.106531, 0.718282]}
    for estimator, expected in want.items():
        assert torch.allclose(kl_value(logp, ref, estimator), torch.tensor(expected), atol=PRINTED, rtol=0)
        got = kl_penalty(logp[None], ref[None], None, estimator, "reverse")
        assert got.dtype == torch.float32
        assert torch.allclose(got, torch.tensor([expected]), atol=PRINTED, rtol=0)


def test_formulas_differentiated_as_written():
    """The table of the module, from raw formulas: what each estimator's gradient is worth in expectation."""
    theta, ref = logits(0).requires_grad_(), torch.log_softmax(logits(1), 0)
    reverse = slope(divergence(theta, ref), theta)
    forward = slope(divergence(theta, ref, "forward_kl"), theta)
    assert (reverse - forward).abs().max() > 0.01

    def gap(p):
        return p - ref

    def k3(p):
        return (-gap(p)).exp() - 1 + gap(p)

    for formula, want in (
        (gap, torch.zeros(5, dtype=torch.float64)),
        (lambda p: gap(p) ** 2 / 2, reverse),
        (k3, forward),
        (lambda p: (p - p.detach()).exp() * k3(p), reverse),
    ):
        assert torch.allclose(slope(expectation(theta, formula), theta), want, atol=EXACT, rtol=0)


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize(("estimator", "gradient"), PAIRS)
def test_expected_value_and_gradient(estimator, gradient, off_policy):
    theta, ref = logits(0).requires_grad_(), torch.log_softmax(logits(1), 0)
    old = torch.log_softmax(logits(2), 0) if off_policy else None

    def per_token(logp):
        return kl_penalty(logp, ref[None], None if old is None else old[None], estimator, gradient)

    value = expectation(theta, per_token, old)
    direction = DIRECTION.get((estimator, gradient), gradient)
    assert torch.allclose(
        slope(value, theta), slope(divergence(theta, ref, f"{direction}_kl"), theta), atol=EXACT, rtol=0
    )
    exact = divergence(theta, ref).item()
    if estimator == "k2":
        assert abs(value.item() - exact) > 0.01  # biased, as stated
    else:
        assert value.item() == pytest.approx(exact, abs=EXACT)


@pytest.mark.parametrize(("estimator", "gradient"), [("k2", "as_written"), ("k3", "as_written")])
def test_as_written_is_the_derivative_of_the_formula_at_every_token(estimator, gradient):
    logp = torch.log_softmax(logits(0), 0)[None].requires_grad_()
    ref = torch.log_softmax(logits(1), 0)[None]
    gap = logp - ref
    formula = gap**2 / 2 if estimator == "k2" else (-gap).exp() - 1 + gap
    got = kl_penalty(logp, ref, None, estimator, gradient)
    assert torch.allclose(got, formula, atol=EXACT, rtol=0)
    assert torch.allclose(slope(got.sum(), logp), slope(formula.sum(), logp), atol=EXACT, rtol=0)


def test_reverse_is_the_corrected_k3_at_every_token():
    logp = torch.log_softmax(logits(0), 0)[None].requires_grad_()
    ref, old = (torch.log_softmax(logits(s), 0)[None] for s in (1, 2))
    gap = logp - ref
    formula = (logp - old).exp() * ((-gap).exp() - 1 + gap)
    got = kl_penalty(logp, ref, old)
    assert torch.allclose(got, formula, atol=EXACT, rtol=0)
    assert torch.allclose(slope(got.sum(), logp), slope(formula.sum(), logp), atol=EXACT, rtol=0)


@given(gap=st.floats(-1e4, 1e4))
def test_k3_is_never_negative_and_always_finite(gap):
    logp = torch.tensor([[gap]], requires_grad=True)
    value = kl_penalty(logp, torch.zeros(1, 1), gradient="forward")
    assert value.item() >= 0
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope(value.sum(), logp)).all()


def test_the_same_policy_costs_nothing():
    logp = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    for estimator, gradient in PAIRS:
        value = kl_penalty(logp, logp.detach(), logp.detach(), estimator, gradient)
        assert not value.any()
        assert not slope(value.sum(), logp).any()


def test_reference_and_old_get_no_gradient():
    logp, ref, old = (torch.log_softmax(logits(s), 0)[None].float().requires_grad_() for s in range(3))
    kl_penalty(logp, ref, old).sum().backward()
    assert logp.grad is not None
    assert ref.grad is None
    assert old.grad is None
    assert kl_penalty(logp.bfloat16(), ref.bfloat16()).dtype == torch.float32


def test_exact_with_excluded_tokens():
    inf = float("inf")
    x = torch.tensor([[0.0, 0.0, -inf], [0.0, 1.0, 2.0]], requires_grad=True)
    ref = torch.tensor([[0.0, 0.0, -inf], [0.0, 1.0, 2.0]])
    value = divergence(x, ref)
    assert torch.equal(value, torch.zeros(2))
    assert torch.isfinite(slope(value.sum(), x)).all()
    assert divergence(torch.zeros(3), ref[0]).item() == inf
    assert divergence(torch.zeros(3), ref[0], "forward_kl").item() == pytest.approx(torch.tensor(1.5).log().item())


def test_controller():
    beta, got = 0.2, []
    for observed in (12, 6, 0, 7):
        beta = adapt_beta(beta, observed, 256, target=6, horizon=10000)
        got.append(beta)
    assert got == pytest.approx([0.201024, 0.201024, 0.199995, 0.200848], abs=PRINTED)
    assert adapt_beta(0.2, -3.0, 256) == adapt_beta(0.2, 0.0, 256)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: kl_penalty(x, x, None, "k1", "as_written"), "pure noise"),
        (lambda x: kl_penalty(x, x, None, "k4"), "unknown estimator 'k4'"),
        (lambda x: kl_penalty(x, x, None, "k3", "backward"), "unknown gradient 'backward'"),
        (lambda x: kl_penalty(x, x[:, :1]), "logp_ref has shape"),
        (lambda x: kl_penalty(x[0], x[0]), "logp has shape"),
        (lambda x: kl_penalty(x, x, x[:1]), "logp_old has shape"),
        (lambda x: kl_value(x, x[0]), "logp_ref"),
        (lambda x: divergence(x, x[0]), "logits have shape"),
        (lambda x: divergence(x, x, "both"), "unknown divergence 'both'"),
        (lambda x: adapt_beta(0.2, float("nan"), 8), "observed nan"),
        (lambda x: adapt_beta(-0.2, 1.0, 8), "beta is -0.2"),
        (lambda x: adapt_beta(0.2, 1.0, 8, target=0), "target is 0"),
        (lambda x: adapt_beta(0.2, 1.0, 8, horizon=1), "too short"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call(torch.zeros(2, 3))
