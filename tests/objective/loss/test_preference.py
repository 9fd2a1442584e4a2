"""Preference losses against printed vectors, two-term closed forms, limits, gradients and bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.objective.loss import preference as loss
from steersman.objective.loss.robust import check_flip_rate, upcast

PRINTED = 1e-6  # vectors printed with six decimals
RELATIVE = 1e-6  # identity with the two-term form
FLOAT32 = 2e-6  # float32 against float64
EXACT = 1e-12  # float64 algebra
CONVERGED = 1e-8  # tabular minimiser

POLICY_W, POLICY_L = [-12.0, -20.0, -7.5, -30.0], [-15.0, -18.0, -9.0, -30.0]
REF_W, REF_L = [-13.0, -19.5, -8.0, -31.0], [-14.5, -18.5, -8.25, -29.0]
RATES = [0.0, 0.1, 0.3, 0.45, 0.49]


def log_ratios():
    w, v, rw, rv = (torch.tensor(x) for x in (POLICY_W, POLICY_L, REF_W, REF_L))
    return w - rw, v - rv


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def plain(z):
    """l(z) = softplus(-z) without the library's shortcut beyond 20, in float64."""
    return torch.logaddexp(torch.zeros_like(z), -z)


def two_terms(loss_fn, z, eps):
    return ((1 - eps) * loss_fn(z) - eps * loss_fn(-z)) / (1 - 2 * eps)


FAMILY = {  # every loss as a function of (h, flip_rate) at beta = 1 or tau = .5
    "cdpo": lambda h, e: loss.cdpo(h, 1.0, e),
    "rdpo": lambda h, e: loss.rdpo(h, 1.0, e),
    "ripo": lambda h, e: loss.ripo(h, 0.5, e),
    "rslic": lambda h, e: loss.rslic(h, 1.0, e),
    "probit": lambda h, e: loss.probit(h, 1.0, e),
    "forward": lambda h, e: loss.forward_corrected_dpo(h, 1.0, e),
    "bt_unbiased": lambda h, e: loss.bradley_terry_unbiased(h, e),
    "bt_forward": lambda h, e: loss.bradley_terry_forward(h, e),
}
CLEAN = {  # the same losses without noise
    "cdpo": lambda h: loss.dpo(h, 1.0),
    "rdpo": lambda h: loss.dpo(h, 1.0),
    "ripo": lambda h: loss.ipo(h, 0.5),
    "rslic": lambda h: loss.slic(h, 1.0),
    "probit": lambda h: loss.probit(h, 1.0),
    "forward": lambda h: loss.dpo(h, 1.0),
    "bt_unbiased": loss.bradley_terry,
    "bt_forward": loss.bradley_terry,
}
family = pytest.mark.parametrize("name", FAMILY)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpo", [0.620957, 0.744397, 0.632599, 0.598139]),
        ("cdpo", [0.650957, 0.724397, 0.657599, 0.638139]),
        ("rdpo", [0.570957, 0.777730, 0.590932, 0.531472]),
        ("slic", [0.85, 1.1, 0.875, 0.8]),
    ],
)
def test_printed_vectors_from_log_probabilities(name, expected):
    w, v = log_ratios()
    h = w - v
    assert h.tolist() == [1.5, -1.0, 1.25, 2.0]
    args = (0.1, 0.2) if name in ("cdpo", "rdpo") else (0.1,)
    got = getattr(loss, name)(h, *args)
    assert got.dtype == torch.float32
    assert torch.allclose(got, torch.tensor(expected), atol=PRINTED, rtol=0)


def test_kto_printed_vector():
    w, v = log_ratios()
    good = loss.kto(w, torch.ones(4, dtype=torch.bool), 0.1, 0.4)
    bad = loss.kto(v, torch.zeros(4, dtype=torch.bool), 0.1, 0.4)
    assert torch.allclose(good, torch.tensor([0.485004, 0.522485, 0.497500, 0.485004]), atol=PRINTED, rtol=0)
    assert torch.allclose(bad, torch.tensor([0.477515, 0.502500, 0.471282, 0.465057]), atol=PRINTED, rtol=0)


def test_kto_weights_and_reference_without_gradient():
    g = torch.tensor([1.0, 2.0])
    kl = torch.tensor(0.4, requires_grad=True)
    x = g.clone().requires_grad_()
    value = loss.kto(x, torch.tensor([True, False]), 0.1, kl, weight_desirable=2.0, weight_undesirable=3.0)
    expected = [2 * (1 - 1 / (1 + math.exp(-0.06))), 3 * (1 - 1 / (1 + math.exp(0.16)))]
    assert torch.allclose(value, torch.tensor(expected), atol=PRINTED, rtol=0)
    value.sum().backward()
    assert kl.grad is None
    assert x.grad[0] < 0 < x.grad[1]
    negative = loss.kto(g, torch.tensor([True, False]), 0.1, -5.0)
    assert torch.equal(negative, loss.kto(g, torch.tensor([True, False]), 0.1, 0.0))


def test_mismatched_kl():
    g = torch.tensor([1.0, -0.5, 0.7], requires_grad=True)
    assert loss.mismatched_kl(g).item() == pytest.approx(0.4, abs=PRINTED)
    assert not loss.mismatched_kl(g).requires_grad
    assert loss.mismatched_kl(-g).item() == 0
    with pytest.raises(UserError, match="two examples"):
        loss.mismatched_kl(g[:1])


@given(z=st.floats(-50, 50), eps=st.floats(0, 0.49))
def test_one_term_identity(z, eps):
    x = f64(z)
    got, want = loss.rdpo(x, 1.0, eps), two_terms(plain, x, eps)
    # near a zero crossing a relative error means nothing: measure against the terms that cancel
    scale = ((1 - eps) * plain(x) + eps * plain(-x)) / (1 - 2 * eps)
    assert (got - want).abs() <= RELATIVE * torch.minimum(scale, want.abs() + EXACT * scale / RELATIVE)
    assert (loss.rdpo(x.float(), 1.0, eps).double() - want).abs() <= FLOAT32 * scale
    smooth = (1 - eps) * plain(x) + eps * plain(-x)
    assert torch.allclose(loss.cdpo(x, 1.0, eps), smooth, rtol=RELATIVE, atol=0)


@pytest.mark.parametrize("eps", RATES[1:])
def test_rdpo_is_cdpo_with_negative_smoothing(eps):
    z = torch.linspace(-30, 30, 61, dtype=torch.float64)
    c = eps / (1 - 2 * eps)
    assert torch.allclose(loss.rdpo(z, 1.0, eps), (1 + c) * plain(z) - c * plain(-z), rtol=EXACT, atol=EXACT)


@family
def test_no_noise_is_the_clean_loss_bit_for_bit(name):
    h = torch.cat([torch.linspace(-60, 60, 241), torch.tensor([1e3, -1e3, 0.0])])
    for rate in (0.0, torch.zeros(len(h))):
        assert torch.equal(FAMILY[name](h, rate), CLEAN[name](h))


def test_no_noise_with_soft_labels_is_dpo_bit_for_bit():
    h, label = torch.linspace(-9, 9, 7), torch.linspace(0, 1, 7)
    for value in (loss.rdpo(h, 0.3, 0.0, label), loss.cdpo(h, 0.3, 0.0, label)):
        assert torch.equal(value, loss.dpo(h, 0.3, label))


@pytest.mark.parametrize("name", ["rdpo", "ripo", "rslic", "probit", "bt_unbiased"])
@pytest.mark.parametrize("eps", [0.1, 0.3, 0.45])
def test_expectation_over_flips_is_the_clean_loss_and_gradient(name, eps):
    h = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
    noisy = (1 - eps) * FAMILY[name](h, eps) + eps * FAMILY[name](-h, eps)
    clean = CLEAN[name](h)
    if name == "ripo":  # equal up to the dropped constant
        noisy = noisy - (noisy - clean).detach()[0]
    assert torch.allclose(noisy, clean, rtol=EXACT, atol=EXACT)
    (g_noisy,), (g_clean,) = (torch.autograd.grad(x.sum(), h) for x in (noisy, clean))
    assert torch.allclose(g_noisy, g_clean, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(("eps", "variance"), [(0.1, 0.068906), (0.3, 0.643125), (0.45, 12.1275)])
def test_variance_that_flips_add(eps, variance):
    z = f64(0.7)
    kept, flipped = loss.rdpo(z, 1.0, eps), loss.rdpo(-z, 1.0, eps)
    mean = (1 - eps) * kept + eps * flipped
    got = (1 - eps) * (kept - mean) ** 2 + eps * (flipped - mean) ** 2
    assert got.item() == pytest.approx(variance, abs=PRINTED)


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_gradient_weights(eps):
    z = torch.linspace(-8, 8, 33, dtype=torch.float64)
    p, q = torch.sigmoid(z), eps + (1 - 2 * eps) * torch.sigmoid(z)
    expected = {
        "dpo": (lambda x: loss.dpo(x, 1.0), torch.sigmoid(-z)),
        "cdpo": (lambda x: loss.cdpo(x, 1.0, eps), torch.sigmoid(-z) - eps),
        "rdpo": (lambda x: loss.rdpo(x, 1.0, eps), torch.sigmoid(-z) + eps / (1 - 2 * eps)),
        "forward": (lambda x: loss.forward_corrected_dpo(x, 1.0, eps), (1 - 2 * eps) * p * (1 - p) / q),
    }
    for fn, weight in expected.values():
        assert torch.allclose(loss.gradient_weight(fn, z), weight, rtol=EXACT, atol=EXACT)
    at_zero = loss.gradient_weight(expected["rdpo"][0], f64(0.0))
    assert at_zero.item() == pytest.approx(0.5 / (1 - 2 * eps), abs=EXACT)


def test_policy_gradient_at_the_reference():
    w, v = (torch.zeros(3, requires_grad=True) for _ in range(2))
    value = loss.dpo(w - v, 0.1)
    assert torch.allclose(value, torch.full((3,), math.log(2)), atol=PRINTED, rtol=0)
    value.sum().backward()
    assert torch.allclose(w.grad, torch.full((3,), -0.05))
    assert torch.allclose(v.grad, torch.full((3,), 0.05))


@pytest.mark.parametrize("eps", RATES)
def test_large_margins_are_linear_and_gradients_finite(eps):
    z = torch.tensor([1e3, -1e3], requires_grad=True)
    c = eps / (1 - 2 * eps)
    value = loss.rdpo(z, 1.0, eps)
    assert torch.equal(value, torch.tensor([-c * 1e3, 1e3 + c * 1e3]))
    for name, fn in FAMILY.items():
        x = z.detach().clone().requires_grad_()
        y = fn(x, eps)
        y.sum().backward()
        assert bool(torch.isfinite(y).all() and torch.isfinite(x.grad).all()), name


def test_probit_gradient_is_right_far_out():
    z = torch.tensor([-1e3, -40.0, 0.0, 40.0], requires_grad=True)
    loss.probit(z, 1.0).sum().backward()
    mills = [-1000.000999998, -40.0249688, -math.sqrt(2 / math.pi), 0.0]  # -(x + 1/x - 2/x^3 ...)
    assert torch.allclose(z.grad, torch.tensor(mills), rtol=FLOAT32, atol=0)
    x = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: loss.probit(v, 1.0, 0.2), (x,))
    normal = torch.distributions.Normal(f64(0.0), f64(1.0))
    assert torch.allclose(loss.probit(x, 1.0), -normal.cdf(x).log(), rtol=RELATIVE)


def test_forward_correction_closed_form_and_bounds():
    z = torch.linspace(-20, 20, 81, dtype=torch.float64)
    for eps in RATES[1:]:
        value = loss.forward_corrected_dpo(z, 1.0, eps)
        assert torch.allclose(value, -((1 - 2 * eps) * torch.sigmoid(z) + eps).log(), rtol=EXACT, atol=EXACT)
        assert loss.forward_corrected_dpo(f64(-1e3), 1.0, eps).item() == pytest.approx(-math.log(eps), abs=EXACT)
        assert loss.forward_corrected_dpo(f64(1e3), 1.0, eps).item() == pytest.approx(-math.log1p(-eps), abs=EXACT)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.4])
def test_ripo_is_ipo_at_a_smaller_tau(eps):
    h = torch.linspace(-5, 5, 21, requires_grad=True)
    ours, theirs = loss.ripo(h, 0.2, eps), loss.ipo(h, 0.2 * (1 - 2 * eps))
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(x.sum(), h)[0] for x in (ours, theirs)))
    robust = loss.robustify(lambda x: loss.ipo(x, 0.2), eps)(h.detach().double())
    difference = robust - loss.ripo(h.detach().double(), 0.2, eps)
    assert torch.allclose(difference, difference[0].expand(21), rtol=EXACT, atol=1e-9)


def test_rslic_pieces():
    eps = 0.2
    z = f64(-1.0, -0.5, 0.0, 0.99, 1.0, 3.0, 1e3)
    inside, beyond = 1 - z / (1 - 2 * eps), -eps * (1 + z) / (1 - 2 * eps)
    expected = torch.where(z.abs() <= 1, inside, beyond)
    assert torch.allclose(loss.rslic(z, 1.0, eps), expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("fn", [loss.rdpo, loss.cdpo])
def test_swapping_the_label_mirrors_the_margin(fn):
    h = torch.linspace(-40, 40, 33)
    eps = torch.linspace(0, 0.49, 33)
    assert torch.equal(fn(h, 0.7, eps, torch.zeros(33)), fn(-h, 0.7, eps))
    assert torch.equal(fn(h, 0.7, eps, torch.ones(33)), fn(h, 0.7, eps))
    assert torch.equal(loss.dpo(h, 0.7, torch.zeros(33)), loss.dpo(-h, 0.7))


@given(z=st.floats(-30, 30), p=st.floats(0, 1), eps=st.floats(0, 0.45))
def test_soft_labels(z, p, eps):
    x, label = f64(z), f64(p)
    outer = (p - eps) / (1 - 2 * eps)  # may lie outside [0, 1]
    assert torch.allclose(
        loss.rdpo(x, 1.0, eps, label), outer * plain(x) + (1 - outer) * plain(-x), rtol=1e-9, atol=1e-9
    )
    inner = (1 - eps) * p + eps * (1 - p)
    assert torch.allclose(
        loss.cdpo(x, 1.0, eps, label), inner * plain(x) + (1 - inner) * plain(-x), rtol=1e-9, atol=1e-9
    )
    mixed = loss.soften(lambda v: loss.rdpo(v, 1.0, eps), x, label)
    assert torch.allclose(loss.rdpo(x, 1.0, eps, label), mixed, rtol=1e-9, atol=1e-9)


def test_ties_do_not_depend_on_the_flip_rate():
    h, tie = torch.linspace(-3, 3, 7), torch.full((7,), 0.5)
    for eps in RATES:
        assert torch.allclose(loss.rdpo(h, 1.0, eps, tie), loss.dpo(h, 1.0, tie), atol=FLOAT32)
    assert torch.autograd.functional.jacobian(lambda x: loss.dpo(x, 1.0, tie).sum(), torch.zeros(7)).abs().max() == 0


@family
def test_one_rate_an_example_and_batch_order(name):
    h = torch.linspace(-6, 6, 5, dtype=torch.float64)
    rate = f64(*RATES)
    together = FAMILY[name](h, rate)
    alone = torch.cat([FAMILY[name](h[i : i + 1], RATES[i]) for i in range(5)])
    assert torch.allclose(together, alone, rtol=EXACT, atol=EXACT)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(FAMILY[name](h[order], rate[order]), together[order])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_upcast(dtype):
    h = torch.tensor([1.5, -1.0, 60.0], dtype=dtype)
    for fn in FAMILY.values():
        value = fn(h, 0.2)
        assert value.dtype == torch.float32
        assert torch.equal(value, fn(h.float(), 0.2))
    assert loss.dpo(h.double(), 1.0).dtype == torch.float64


@pytest.mark.parametrize(
    ("fn", "logit"),
    [
        (lambda z, y: loss.dpo(z, 1.0, y), 0.405465),
        (lambda z, y: loss.cdpo(z, 1.0, 0.1, y), 0.322773),
        (lambda z, y: loss.rdpo(z, 1.0, 0.1, y), 0.510826),
        (lambda z, y: loss.soften(lambda x: loss.forward_corrected_dpo(x, 1.0, 0.1), z, y), 0.510826),
    ],
)
def test_scalar_minimisers(fn, logit):
    z, q = f64(0.0).requires_grad_(), f64(0.6)
    optimiser = torch.optim.LBFGS(
        [z], line_search_fn="strong_wolfe", max_iter=100, tolerance_grad=1e-12, tolerance_change=0
    )

    def closure():
        optimiser.zero_grad()
        value = fn(z, q).sum()
        value.backward()
        return value

    optimiser.step(closure)
    assert z.item() == pytest.approx(logit, abs=PRINTED)


def test_tabular_policy_converges_to_the_clean_preference():
    """Gradient descent on a table of margins, fed with counts of noisy wins, finds logit((q - eps) / (1 - 2 eps))."""
    eps, wins = 0.2, f64(0.3, 0.45, 0.5, 0.7, 0.75)
    table = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    for _ in range(4000):
        value = (wins * loss.rdpo(table, 1.0, eps) + (1 - wins) * loss.rdpo(-table, 1.0, eps)).sum()
        (slope,) = torch.autograd.grad(value, table)
        table = (table - slope).detach().requires_grad_()
    assert torch.allclose(table, torch.logit((wins - eps) / (1 - 2 * eps)), atol=CONVERGED, rtol=0)


def test_max_margin_stops_only_the_linear_term():
    z = torch.tensor([-3.0, 1.0, 5.0], dtype=torch.float64, requires_grad=True)
    guarded = loss.rdpo(z, 1.0, 0.2, max_margin=2.0)
    assert torch.equal(guarded, loss.rdpo(z, 1.0, 0.2))
    (g,) = torch.autograd.grad(guarded.sum(), z)
    c = 0.2 / 0.6
    expected = -(torch.sigmoid(-z.detach()) + f64(c, c, 0.0))
    assert torch.allclose(g, expected, rtol=EXACT)
    assert loss.safeguards_active(z, 1.0, 0.2, max_margin=2.0).tolist() == [False, False, True]
    label = f64(1, 1, 0)  # a flipped label has its own margin, -5, which is not large
    assert loss.safeguards_active(z, 1.0, 0.2, label, max_margin=2.0).tolist() == [False, False, False]
    assert not loss.safeguards_active(z, 1.0, 0.2).any()


def test_clip_weight_bounds_the_gradient_and_keeps_the_value():
    z = torch.tensor([-3.0, 0.0, 5.0], dtype=torch.float64, requires_grad=True)
    rate = f64(0.49, 0.1, 0.0)
    guarded = loss.rdpo(z, 1.0, rate, clip_weight=0.7)
    assert torch.equal(guarded, loss.rdpo(z, 1.0, rate))
    (g,) = torch.autograd.grad(guarded.sum(), z)
    free = torch.sigmoid(-z.detach()) + rate / (1 - 2 * rate)
    assert torch.allclose(-g, free.clamp(max=0.7), rtol=EXACT)
    assert loss.safeguards_active(z, 1.0, rate, clip_weight=0.7).tolist() == [True, False, False]


def test_robustify_and_boundedness():
    z = torch.linspace(-4, 4, 17, dtype=torch.float64)
    for fn in (plain, torch.exp, lambda x: (x - 1) ** 2):
        assert torch.allclose(loss.robustify(fn, 0.3)(z), two_terms(fn, z, 0.3), rtol=EXACT, atol=1e-9)
    assert torch.allclose(loss.robustify(plain, 0.3)(z), loss.rdpo(z, 1.0, 0.3), rtol=EXACT, atol=EXACT)
    assert not loss.is_bounded_below(lambda x: loss.dpo(x, 1.0), 0.1)
    assert not loss.is_bounded_below(lambda x: loss.slic(x, 1.0), 0.1)
    assert loss.is_bounded_below(lambda x: loss.dpo(x, 1.0), 0.0)
    assert loss.is_bounded_below(lambda x: loss.ipo(x, 0.1), 0.4)


@family
@pytest.mark.parametrize(
    "rate",
    [
        -0.01,
        0.5,
        0.9,
        float("nan"),
        float("inf"),
        torch.tensor([0.1, 0.2]),
        torch.tensor([0.1, 0.5, 0.1]),
    ],
    ids=str,
)
def test_bad_flip_rates_are_refused(name, rate):
    with pytest.raises(UserError, match="flip_rate"):
        FAMILY[name](torch.zeros(3), rate)


@pytest.mark.parametrize("rate", ["auto", None, "0.1"])
def test_flip_rates_that_are_no_numbers_are_refused(rate):
    with pytest.raises(UserError, match="flip_rate is"):
        check_flip_rate(rate, torch.zeros(3))
    assert torch.equal(check_flip_rate([0.1, 0.2], torch.zeros(2)), torch.tensor([0.1, 0.2]))


def test_integers_are_refused():
    with pytest.raises(UserError, match="dtype"):
        upcast(torch.zeros(3, dtype=torch.int64), "h")


def test_the_bad_example_is_named():
    with pytest.raises(UserError, match="nan for example 2"):
        loss.rdpo(torch.zeros(3), 0.1, torch.tensor([0.1, 0.2, float("nan")]))


@pytest.mark.parametrize("fn", [lambda h, y: loss.dpo(h, 1.0, y), lambda h, y: loss.rdpo(h, 1.0, 0.1, y)])
def test_bad_labels_and_arguments_are_refused(fn):
    for label in (torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, math.nan, 0.0])):
        with pytest.raises(UserError, match="label"):
            fn(torch.zeros(3), label)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_bad_scalars_are_refused(value):
    h = torch.zeros(3)
    for call in (
        lambda: loss.dpo(h, value),
        lambda: loss.ipo(h, value),
        lambda: loss.ripo(h, value, 0.1),
        lambda: loss.kto(h, h > 0, value, 0.0),
        lambda: loss.rdpo(h, 0.1, 0.1, max_margin=value),
        lambda: loss.rdpo(h, 0.1, 0.1, clip_weight=value),
    ):
        with pytest.raises(UserError, match="finite number > 0"):
            call()
    with pytest.raises(UserError, match="desirable"):
        loss.kto(h, h, 0.1, 0.0)
    with pytest.raises(UserError, match="weight_desirable"):
        loss.kto(h, h > 0, 0.1, 0.0, weight_desirable=-1.0)
    with pytest.raises(UserError, match="tau"):
        loss.ipo(h, torch.tensor([0.1, 0.0, 0.1]))


def test_nan_stays_nan():
    h = torch.tensor([math.nan, 1.0])
    for fn in FAMILY.values():
        assert fn(h, 0.1).isnan().tolist() == [True, False]


def test_identical_sides_give_no_gradient():
    logp = torch.randn(4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss.rdpo(logp - logp, 0.1, 0.2).sum().backward()
    assert logp.grad.abs().max() == 0


def test_monte_carlo_flips_are_unbiased():
    """Real flips of 200,000 labels, within 4 standard errors."""
    n, eps = 200_000, 0.3
    g = generator(7, "flips")
    z = torch.from_numpy(g.normal(size=n) + 1.5)
    flipped = torch.from_numpy(g.random(n) < eps)
    noisy = loss.rdpo(torch.where(flipped, -z, z), 1.0, eps)
    gap = noisy - loss.dpo(z, 1.0)
    assert gap.mean().abs() < 4 * gap.std() / n**0.5
    biased = loss.dpo(torch.where(flipped, -z, z), 1.0) - loss.dpo(z, 1.0)
    assert biased.mean() > 4 * biased.std() / n**0.5  # the check can see a bias of this size
