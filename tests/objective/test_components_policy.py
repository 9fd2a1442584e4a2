"""The components of the policy-gradient loop apply their functions, with published defaults and checked options."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.core.types import Rollouts
from steersman.objective import components_policy as parts
from steersman.objective.divergence import kl_penalty
from steersman.objective.loss import importance, policy
from steersman.objective.loss.value import clipped_value


def draws(seed):
    return torch.from_numpy(generator(seed, "parts").standard_normal((3, 4))).float()


LOGP, OLD, ADVANTAGE = draws(0), draws(1), draws(2)
MASK = torch.tensor([[True, True, False, False], [True, True, True, True], [False, False, False, False]])


@pytest.mark.parametrize(
    ("component", "want"),
    [
        (parts.Reinforce(), policy.reinforce(LOGP, ADVANTAGE)),
        (parts.Clipped(), policy.clipped(LOGP, OLD, ADVANTAGE, 0.2, 0.28)),
        (parts.Clipped(eps_low=0.1, dual=3.0), policy.clipped(LOGP, OLD, ADVANTAGE, 0.1, 0.28, 3.0)),
        (parts.GSPO(), policy.gspo(LOGP, OLD, ADVANTAGE, MASK, 3e-4, 4e-4)),
        (parts.CISPO(cap=1.5), policy.cispo(LOGP, OLD, ADVANTAGE, 1.5)),
        (parts.SAPO(tau_neg=2.0), policy.sapo(LOGP, OLD, ADVANTAGE, 1.0, 2.0)),
    ],
)
def test_policy_losses(component, want):
    assert torch.equal(component(LOGP, OLD, ADVANTAGE, MASK), want)
    again = TypeAdapter(parts.PolicyLoss).validate_python(component.model_dump())
    assert again == component


def test_clipped_tokens():
    ratio, a = (LOGP - OLD).exp(), ADVANTAGE
    low, high = parts.Clipped(dual=3.0).clipped_tokens(LOGP, OLD, a, MASK)
    assert torch.equal(low, MASK & (ratio < 0.8) & (a < 0))
    assert torch.equal(high, MASK & (ratio > 1.28) & (a > 0))
    shares = policy.clip_shares(LOGP, OLD, a, MASK)
    assert [x.sum().item() / 6 for x in (low, high)] == pytest.approx([x.item() for x in shares])
    low, high = parts.CISPO(cap=1.5).clipped_tokens(LOGP, OLD, a, MASK)
    assert not low.any()
    assert torch.equal(high, MASK & (ratio > 1.5))
    low, high = parts.GSPO(eps_low=0.1, eps_high=0.1).clipped_tokens(LOGP, OLD, a, MASK)
    row = ((LOGP - OLD) * MASK).sum(1).div(MASK.sum(1).clamp(min=1)).exp()[:, None]
    assert torch.equal(low | high, MASK & (((row < 0.9) & (a < 0)) | ((row > 1.1) & (a > 0))))
    assert (low | high).any()
    for unbounded in (parts.Reinforce(), parts.SAPO()):
        assert not any(x.any() for x in unbounded.clipped_tokens(LOGP, OLD, a, MASK))


def test_value_and_kl():
    assert torch.equal(parts.ClippedValue()(LOGP, OLD, ADVANTAGE), clipped_value(LOGP, OLD, ADVANTAGE, 0.2))
    assert torch.equal(parts.ClippedValue(clip=None)(LOGP, OLD, ADVANTAGE), (LOGP - ADVANTAGE) ** 2 / 2)
    got = parts.KLLoss(beta=0.5, estimator="k2", gradient="as_written")(LOGP, OLD, ADVANTAGE)
    assert torch.equal(got, 0.5 * kl_penalty(LOGP, OLD, ADVANTAGE, "k2", "as_written"))
    assert parts.KLLoss() == parts.KLLoss(beta=0.04, estimator="k3", gradient="reverse")


def sampled():
    batch = Rollouts.of(
        torch.zeros(3, 4, dtype=torch.int64), torch.tensor([2, 4, 4]), torch.zeros(3, dtype=torch.int64)
    )
    valid = torch.tensor([True, True, False])
    return Rollouts.of(
        batch.ids, batch.length, batch.prompt_length, valid=valid, logp_behaviour=LOGP, streams={"logp_old": OLD}
    )


def test_importance_correction_multiplies_token_weights():
    stage = parts.ImportanceCorrection(mode="token_mask", high=4.0, low=0.5)
    want = importance.importance_weight(OLD, LOGP, MASK, "token_mask", 4.0, 0.5)
    out, metrics = stage(sampled())
    assert torch.equal(out.streams["token_weight"], want)
    assert metrics["dropped_share"] == pytest.approx(float((MASK & (want == 0)).sum()) / 6)
    assert 0 < metrics["dropped_share"] < 1
    assert metrics["weight_mean"] == pytest.approx(float(want.sum()) / 6)
    twice, _ = stage(sampled().with_streams(token_weight=torch.full((3, 4), 0.5)))
    assert torch.equal(twice.streams["token_weight"], 0.5 * want)


def test_importance_correction_needs_what_the_sampler_recorded():
    batch = Rollouts.of(sampled().ids, sampled().length, sampled().prompt_length, streams={"logp_old": OLD})
    with pytest.raises(UserError, match="logp_behaviour"):
        parts.ImportanceCorrection()(batch)


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (parts.KLLoss, {"estimator": "k1", "gradient": "as_written"}, "pure noise"),
        (parts.ImportanceCorrection, {"low": 0.5}, "cuts from above only"),
        (parts.Clipped, {"dual": 0.9}, "dual"),
        (parts.CISPO, {"cap": 0.0}, "cap"),
    ],
)
def test_options_that_cannot_work(cls, options, match):
    with pytest.raises(ValidationError, match=match):
        cls(**options)
