"""Loss components call the functions beside them; defaults, ranges, "auto", per-example rates, discriminated union."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from steersman.core.errors import UserError
from steersman.objective import components as parts
from steersman.objective.loss import preference as loss
from steersman.objective.reduce import aggregate, denominators

H = torch.tensor([1.5, -1.0, 1.25, 2.0])
LABEL = torch.tensor([1.0, 0.0, 0.5, 0.8])
SIX_DECIMALS = 1e-6

PAIRS = {
    "dpo": (parts.DPO(), lambda h: loss.dpo(h, 0.1)),
    "cdpo": (parts.CDPO(), lambda h: loss.cdpo(h, 0.1, 0.1)),
    "rdpo": (parts.RDPO(), lambda h: loss.rdpo(h, 0.1, 0.1)),
    "ipo": (parts.IPO(), lambda h: loss.ipo(h, 0.1)),
    "ripo": (parts.RIPO(), lambda h: loss.ripo(h, 0.1, 0.1)),
    "slic": (parts.SLiC(), lambda h: loss.slic(h, 0.1)),
    "rslic": (parts.RSLiC(), lambda h: loss.rslic(h, 0.1, 0.1)),
    "probit": (parts.Probit(), lambda h: loss.probit(h, 0.1)),
    "forward_corrected_dpo": (parts.ForwardCorrectedDPO(), lambda h: loss.forward_corrected_dpo(h, 0.1, 0.1)),
}
ROBUST = ["cdpo", "rdpo", "ripo", "rslic", "probit", "forward_corrected_dpo"]
KINDS = TypeAdapter(parts.PreferenceLoss)


@pytest.mark.parametrize("kind", PAIRS)
def test_call_equals_the_function_and_soft_labels_mix_both_sides(kind):
    component, fn = PAIRS[kind]
    assert KINDS.validate_python({"kind": kind}) == component
    assert torch.equal(component(H), fn(H))
    mixed = LABEL * fn(H) + (1 - LABEL) * fn(-H)
    assert torch.allclose(component(H, LABEL), mixed, atol=SIX_DECIMALS)
    assert torch.allclose(component(H, torch.zeros(4)), fn(-H), atol=SIX_DECIMALS)
    with pytest.raises(UserError, match="label"):
        component(H, torch.tensor([1.0, 2.0, 0.0, 0.5]))


@pytest.mark.parametrize("kind", ROBUST)
def test_auto_must_be_settled_before_use(kind):
    component = KINDS.validate_python({"kind": kind, "flip_rate": "auto"})
    with pytest.raises(UserError, match="learner estimates it"):
        component(H)
    settled = component.with_flip_rate(0.2)
    assert settled.flip_rate == 0.2
    assert torch.equal(settled(H), component(H, flip_rate=0.2))
    with pytest.raises(ValidationError):
        component.with_flip_rate(0.5)


@pytest.mark.parametrize("kind", ROBUST)
def test_a_rate_for_each_example(kind):
    component = PAIRS[kind][0]
    rate = torch.tensor([0.0, 0.1, 0.2, 0.4])
    together = component(H, LABEL, flip_rate=rate)
    alone = [component.with_flip_rate(round(float(r), 1))(H[i : i + 1], LABEL[i : i + 1]) for i, r in enumerate(rate)]
    assert torch.allclose(together, torch.cat(alone), atol=SIX_DECIMALS, rtol=SIX_DECIMALS)
    with pytest.raises(UserError, match="flip_rate"):
        component(H, flip_rate=rate[:2])


@pytest.mark.parametrize("kind", ROBUST)
@pytest.mark.parametrize("rate", [-0.1, 0.5, float("nan"), "guess"])
def test_rates_out_of_range_are_refused(kind, rate):
    with pytest.raises(ValidationError, match="flip_rate"):
        KINDS.validate_python({"kind": kind, "flip_rate": rate})


@pytest.mark.parametrize("kind", ["dpo", "ipo", "slic", "kto"])
def test_losses_without_noise_model_take_no_rate(kind):
    with pytest.raises(ValidationError, match="flip_rate"):
        KINDS.validate_python({"kind": kind, "flip_rate": 0.1})


def test_safeguards():
    guarded = parts.RDPO(beta=1.0, max_margin=1.9, clip_weight=0.8)
    assert guarded.active(H).tolist() == [False, True, False, True]  # -1 pulls with .86, 2 exceeds the margin
    assert not parts.RDPO(beta=1.0).active(H).any()
    x = H.clone().requires_grad_()
    guarded(x).sum().backward()
    expected = torch.sigmoid(-H) + torch.tensor([0.125, 0.125, 0.125, 0.0])
    assert torch.allclose(-x.grad, expected.clamp(max=0.8), atol=SIX_DECIMALS)


def test_kto():
    desirable = torch.tensor([True, False, True, False])
    component = KINDS.validate_python({"kind": "kto", "weight_undesirable": 1.5})
    assert torch.equal(component(H, desirable, 0.4), loss.kto(H, desirable, 0.1, 0.4, 1.0, 1.5))


def test_bradley_terry():
    first, second = H, LABEL
    d = first - second
    assert torch.equal(parts.BradleyTerry()(first, second), loss.bradley_terry(d))
    centred = parts.BradleyTerry(margin=0.5, centering=0.01)(first, second, LABEL)
    expected = loss.bradley_terry(d, 0.5, LABEL) + 0.01 * (first + second) ** 2
    assert torch.allclose(centred, expected, atol=SIX_DECIMALS)
    for correction, fn in (("unbiased", loss.bradley_terry_unbiased), ("forward", loss.bradley_terry_forward)):
        component = parts.BradleyTerry(correction=correction, flip_rate=0.2)
        assert torch.equal(component(first, second), fn(d, 0.2))
        waiting = parts.BradleyTerry(correction=correction, flip_rate="auto")
        with pytest.raises(UserError, match="auto"):
            waiting(first, second)
        assert torch.equal(waiting.with_flip_rate(0.2)(first, second), fn(d, 0.2))


@pytest.mark.parametrize("options", [{"flip_rate": 0.1}, {"correction": "forward"}, {"margin": -1.0}])
def test_bradley_terry_refuses_options_that_would_do_nothing(options):
    with pytest.raises(ValidationError):
        parts.BradleyTerry(**options)
    with pytest.raises(UserError, match="none"):
        parts.BradleyTerry()(H, H, flip_rate=0.1)


def test_aggregation_and_sft():
    mask = torch.tensor([[True, True], [True, False]])
    logp = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]])
    component = parts.Aggregation(mode="seq_mean_token_mean")
    assert component.denominators(mask) == denominators(mask, "seq_mean_token_mean")
    value = component(parts.SFT()(logp), mask)
    assert value.item() == pytest.approx(2.25, abs=SIX_DECIMALS)
    assert value == aggregate(-logp, mask, "seq_mean_token_mean")
    for options in ({"mode": "seq_sum_const"}, {"constant": 4.0}, {"mode": "mean"}):
        with pytest.raises(ValidationError):
            parts.Aggregation(**options)
