"""Policy losses: the printed vector, formulas by hand, finite differences, first-step gradients, bounds, bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.objective.loss import policy
from steersman.objective.reduce import aggregate

PRINTED = 1e-6  # vectors printed with two decimals, reached in float32
EXACT = 1e-12  # float64 algebra
ROUNDED = 1e-10  # the same through a logarithm and an exponential of up to 20
FINITE = 1e-7  # central differences in float64

OLD = torch.tensor([[0.5, 0.2, 0.4], [0.3, 0.6, 0.1]]).log()
NEW = torch.tensor([[0.7, 0.2, 0.2], [0.9, 0.3, 0.5]]).log()
SIGN = torch.tensor([[1.0], [-1.0]]).expand(2, 3).contiguous()
MASK = torch.ones(2, 3, dtype=torch.bool)
LOSSES = {
    "reinforce": lambda p, old, a, m: policy.reinforce(p, a),
    "clipped": lambda p, old, a, m: policy.clipped(p, old, a),
    "dual": lambda p, old, a, m: policy.clipped(p, old, a, 0.2, 0.2, 3.0),
    "gspo": lambda p, old, a, m: policy.gspo(p, old, a, m, 3e-4, 4e-4),
    "cispo": lambda p, old, a, m: policy.cispo(p, old, a, 5.0),
    "sapo": lambda p, old, a, m: policy.sapo(p, old, a),
}
every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def draws(*shape, seed=0):
    return torch.from_numpy(generator(seed, "policy").standard_normal(shape))


def slope(value, leaf):
    (got,) = torch.autograd.grad(value, leaf)
    return got


def test_printed_vector():
    logp = NEW.clone().requires_grad_()
    value = aggregate(policy.clipped(logp, OLD, SIGN, 0.2, 0.28, 3.0), MASK)
    assert value.item() == pytest.approx(0.67, abs=PRINTED)
    want = torch.tensor([[0, -1 / 6, -1 / 12], [0.25, 0, 0]])
    got = slope(value, logp)
    # Row 1, token 0: rho = 3 = c, so the branches of the dual clip tie and share the gradient rho / 6 = 0.5 in halves;
    # a last bit of the exponential elsewhere would give it to one of them.
    assert min(abs(float(got[1, 0]) - x) for x in (0.0, 0.25, 0.5)) < PRINTED
    got[1, 0] = 0.25
    assert torch.allclose(got, want, atol=PRINTED, rtol=0)


def test_printed_clip_of_four():
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5]])
    a = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    got = policy.clipped(ratio.log(), torch.zeros(1, 4), a, 0.2, 0.2)
    assert torch.allclose(got, torch.tensor([[-1.2, 1.5, -0.5, 0.8]]), atol=PRINTED, rtol=0)


@given(ratio=st.floats(0.05, 20), a=st.floats(-3, 3), dual=st.sampled_from([None, 1.5, 3.0]))
def test_clip_by_hand(ratio, a, dual):
    want = -min(ratio * a, min(max(ratio, 0.8), 1.28) * a)
    if dual is not None and a < 0:
        want = min(want, -dual * a)
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64)
    got = policy.clipped(logp, torch.zeros_like(logp), torch.full_like(logp, a), 0.2, 0.28, dual)
    assert got.item() == pytest.approx(want, abs=ROUNDED)


@given(ratio=st.floats(0.05, 20), a=st.floats(-3, 3))
def test_cispo_and_sapo_by_hand(ratio, a):
    logp = torch.tensor([[math.log(ratio) - 1]], dtype=torch.float64)
    old, adv = torch.full_like(logp, -1.0), torch.full_like(logp, a)
    want = -min(ratio, 4.0) * a * (math.log(ratio) - 1)
    assert policy.cispo(logp, old, adv, 4.0).item() == pytest.approx(want, abs=ROUNDED)
    tau = 0.9 if a > 0 else 1.3
    want = -4 / tau / (1 + math.exp(-tau * (ratio - 1))) * a
    assert policy.sapo(logp, old, adv, 0.9, 1.3).item() == pytest.approx(want, abs=ROUNDED)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_step_has_the_gradient_of_reinforce(loss, dtype):
    logp = (draws(4, 5).to(dtype) - 3).requires_grad_()
    row = draws(4, 1, seed=1).to(dtype).expand(4, 5).contiguous()  # GSPO agrees token by token for row advantages
    mask = draws(4, 5, seed=2) > -0.5
    for old in (logp.detach(), logp.detach().clone()):
        got = slope(aggregate(loss(logp, old, row, mask), mask, "seq_mean_token_mean"), logp)
        want = slope(aggregate(policy.reinforce(logp, row), mask, "seq_mean_token_mean"), logp)
        assert torch.equal(got, want) or torch.allclose(got, want, atol=torch.finfo(dtype).eps, rtol=0)


def test_first_step_reads_minus_the_mean_advantage():
    logp, a = draws(3, 4), draws(3, 4, seed=1)
    mask = torch.ones(3, 4, dtype=torch.bool)
    for value in (policy.clipped(logp, logp, a), policy.gspo(logp, logp, a, mask, 0.1, 0.1)):
        assert torch.allclose(value, -a, atol=EXACT, rtol=0)
    assert torch.allclose(policy.sapo(logp, logp, a, 2.0, 2.0), -a, atol=EXACT, rtol=0)


def three_token_policy(theta, tokens):
    return torch.log_softmax(theta, -1)[torch.arange(tokens.shape[1]), tokens]


def central(f, theta, step=1e-6):
    out = torch.zeros_like(theta)
    for i in range(theta.numel()):
        move = torch.zeros_like(theta).flatten()
        move[i] = step
        move = move.view_as(theta)
        out.view(-1)[i] = (f(theta + move) - f(theta - move)) / (2 * step)
    return out


def sequence_clip(logp, old, a, mask, low, high):
    """GSPO as printed: one ratio and one term a row."""
    s = ((logp - old) * mask).sum(1).div(mask.sum(1)).exp()
    row = a[:, 0]
    return torch.maximum(-s * row, -s.clamp(1 - low, 1 + high) * row).mean()


@pytest.mark.parametrize("name", ["clipped", "dual", "sapo", "reinforce", "cispo", "gspo"])
def test_finite_differences_on_a_three_token_policy(name):
    tokens = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0], [1, 0, 0, 2]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False], [True, True, True, False]])
    theta = draws(4, 3, seed=5).requires_grad_()
    old = three_token_policy(theta.detach() + 0.3 * draws(4, 3, seed=6), tokens)
    a = draws(3, 1, seed=7).expand(3, 4).contiguous()
    at = three_token_policy(theta.detach(), tokens)
    low, high = 0.05, 0.02

    def function(t):
        """The function of theta whose gradient the loss must have."""
        logp = three_token_policy(t, tokens)
        if name == "gspo":
            return sequence_clip(logp, old, a, mask, low, high)
        if name == "cispo":  # the weight is held at its value here
            return aggregate(-(at - old).exp().clamp(max=1.1) * a * logp, mask, "seq_mean_token_mean")
        return aggregate(LOSSES[name](logp, old, a, mask), mask, "seq_mean_token_mean")

    loss = {
        "gspo": lambda p: policy.gspo(p, old, a, mask, low, high),
        "cispo": lambda p: policy.cispo(p, old, a, 1.1),
    }.get(name, lambda p: LOSSES[name](p, old, a, mask))
    value = aggregate(loss(three_token_policy(theta, tokens)), mask, "seq_mean_token_mean")
    want = central(function, theta.detach())
    assert want.abs().max() > 1e4 * FINITE
    assert torch.allclose(slope(value, theta), want, atol=FINITE, rtol=0)
    if name == "gspo":
        assert value.item() == pytest.approx(function(theta.detach()).item(), abs=EXACT)


def test_gspo_clips_whole_rows_and_takes_token_advantages():
    logp = torch.tensor([[-1.0, -1.0], [-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.5, -1.1], [-1.0, -2.01]], dtype=torch.float64)
    a = torch.tensor([[1.0, -1.0], [2.0, 0.5]], dtype=torch.float64)
    value = policy.gspo(logp, old, a, torch.ones(2, 2, dtype=torch.bool), 0.1, 0.1)
    s = [math.exp(0.3), math.exp(0.005)]
    want = torch.tensor([[-1.1, s[0]], [-2 * s[1], -0.5 * s[1]]], dtype=torch.float64)
    assert torch.allclose(value, want, atol=EXACT, rtol=0)
    got = slope(value.sum(), logp)
    assert torch.allclose(
        got, torch.tensor([[0.0, s[0]], [-2 * s[1], -0.5 * s[1]]], dtype=torch.float64), atol=EXACT, rtol=0
    )


def test_gspo_ignores_what_the_mask_hides():
    mask = torch.tensor([[True, False, True], [False, False, False]])
    logp = draws(2, 3)
    hidden = torch.where(mask, logp, torch.nan).requires_grad_()
    args = (draws(2, 3, seed=1), draws(2, 3, seed=2))
    value = policy.gspo(hidden, *(torch.where(mask, x, torch.nan) for x in args), mask, 0.1, 0.1)
    assert torch.equal(value, policy.gspo(logp, *args, mask, 0.1, 0.1))
    assert not value[~mask].any()
    assert torch.isfinite(slope(value.sum(), hidden)).all()


def test_sapo_gate():
    logp = torch.tensor([[0.4, -0.7]], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    ratio, tau = logp.detach().exp(), torch.tensor([[1.0, 1.05]], dtype=torch.float64)
    gate = 1 / torch.cosh(tau * (ratio - 1) / 2) ** 2
    got = slope(policy.sapo(logp, torch.zeros_like(logp), a).sum(), logp)
    assert torch.allclose(got, -gate * ratio * a, atol=EXACT, rtol=0)


@every
def test_no_gradient_through_advantage_or_old_and_none_lost_to_dtype(loss):
    logp, old, a = (draws(2, 3, seed=s).bfloat16().requires_grad_() for s in range(3))
    value = loss(logp, old, a, MASK)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert logp.grad is not None
    assert old.grad is None
    assert a.grad is None


@every
def test_huge_ratios_stay_finite(loss):
    logp = torch.tensor([[-1e4, -1e-3, -50.0]] * 2, requires_grad=True)
    value = loss(logp, logp.detach().flip(1), SIGN, MASK)
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope(value.sum(), logp)).all()


def test_log_ratios_are_held_within_twenty():
    logp = torch.tensor([[0.0, -300.0]], dtype=torch.float64)
    got = policy.log_ratio(logp, logp.flip(1))
    assert torch.equal(got, torch.tensor([[20.0, -20.0]], dtype=torch.float64))
    assert policy.clipped(logp, logp.flip(1), -torch.ones_like(logp))[0, 0].item() == pytest.approx(math.exp(20))


def test_clip_shares():
    low, high = policy.clip_shares(NEW, OLD, SIGN, MASK, 0.2, 0.28)
    # Ratios 1.4, 1, 0.5 with A > 0 and 3, 0.5, 5 with A < 0.
    assert (low.item(), high.item()) == pytest.approx((1 / 6, 1 / 6), abs=PRINTED)
    first = MASK.clone()
    first[1] = False
    assert policy.clip_shares(NEW, OLD, SIGN, first, 0.2, 0.28)[1].item() == pytest.approx(1 / 3, abs=PRINTED)
    assert policy.clip_shares(NEW, OLD, SIGN, ~MASK) == (0, 0)


def test_clipped_tokens_are_those_without_gradient():
    logp, a = (3 * draws(20, 5)).requires_grad_(), draws(20, 5, seed=1)
    old = torch.zeros(20, 5, dtype=torch.float64)
    low, high = policy.clipped_tokens(logp.detach().exp(), a, 0.2, 0.28)
    got = slope(policy.clipped(logp, old, a).sum(), logp)
    assert low.any()
    assert high.any()
    assert torch.equal(got == 0, low | high)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        *((lambda f=f: f(NEW, OLD, torch.ones(2), MASK), r"advantage has shape \(2,\)") for f in LOSSES.values()),
        (lambda: policy.clipped(NEW, OLD, torch.ones(2)), "broadcast"),
        (lambda: policy.clipped(NEW, OLD[:, :2], SIGN), "logp_old"),
        (lambda: policy.reinforce(NEW[0], SIGN[0]), "logp has shape"),
        (lambda: policy.clipped(NEW, OLD, SIGN, 1.2), "eps_low is 1.2"),
        (lambda: policy.clipped(NEW, OLD, SIGN, 0.2, -0.1), "eps_high is -0.1"),
        (lambda: policy.clipped(NEW, OLD, SIGN, 0.2, 0.2, 1.0), "dual is 1.0"),
        (lambda: policy.gspo(NEW, OLD, SIGN, MASK.float(), 0.1, 0.1), "mask is"),
        (lambda: policy.gspo(NEW, OLD, SIGN, MASK[:1], 0.1, 0.1), "mask has shape"),
        (lambda: policy.cispo(NEW, OLD, SIGN, 0), "cap is 0"),
        (lambda: policy.sapo(NEW, OLD, SIGN, 1.0, -1), "tau_neg is -1"),
        (lambda: policy.reinforce(NEW.long(), SIGN), "logp has dtype"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
