"""Reward-model losses: shift invariance, centring, margin, soft and wrong labels."""

import math

import pytest
import torch

from steersman.core.errors import UserError
from steersman.objective.loss.bradley_terry import (
    bradley_terry,
    bradley_terry_forward,
    bradley_terry_unbiased,
    reward_centering,
)
from steersman.objective.loss.preference import dpo, forward_corrected_dpo, rdpo

EXACT = 1e-12
DESCENT = 1e-4

FIRST = torch.tensor([1.0, -2.0, 0.25, 8.0], dtype=torch.float64)
SECOND = torch.tensor([0.5, 1.0, 0.25, -3.0], dtype=torch.float64)


def test_closed_form_with_margin_and_soft_labels():
    d, m, p = FIRST - SECOND, 0.5, torch.tensor([1.0, 0.3, 0.5, 0.0], dtype=torch.float64)
    expected = -(p * torch.sigmoid(d - m).log() + (1 - p) * torch.sigmoid(-d - m).log())
    assert torch.allclose(bradley_terry(d, m, p), expected, rtol=EXACT)
    assert torch.allclose(bradley_terry(d, torch.full((4,), m), p), expected, rtol=EXACT)
    assert torch.equal(bradley_terry(d), dpo(d, 1.0))


def test_gradient_survives_on_the_worst_pairs():
    d = torch.tensor([-20.0, -1e3], requires_grad=True)
    value = bradley_terry(d)
    value.sum().backward()
    assert value.tolist() == pytest.approx([20.0, 1e3], rel=1e-6)
    assert d.grad.tolist() == pytest.approx([-1.0, -1.0], rel=1e-6)


def test_a_constant_on_both_rewards_changes_nothing_but_centring():
    shift = torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    assert torch.allclose(bradley_terry(FIRST + shift - (SECOND + shift)), bradley_terry(FIRST - SECOND), rtol=EXACT)
    assert not torch.allclose(reward_centering(FIRST + shift, SECOND + shift), reward_centering(FIRST, SECOND))
    assert torch.equal(reward_centering(FIRST, SECOND), (FIRST + SECOND) ** 2)


def test_centring_minimiser_has_rewards_that_sum_to_zero():
    first, second = FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()
    p = torch.tensor([0.6, 0.4, 0.5, 0.9], dtype=torch.float64)
    optimiser = torch.optim.LBFGS([first, second], line_search_fn="strong_wolfe", max_iter=500)

    def closure():
        optimiser.zero_grad()
        value = (bradley_terry(first - second, 0.0, p) + 0.01 * reward_centering(first, second)).sum()
        value.backward()
        return value

    optimiser.step(closure)
    assert (first + second).abs().max() < DESCENT
    assert torch.allclose(first - second, torch.logit(p), atol=10 * DESCENT)


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_noise_corrections_match_the_policy_losses_and_are_unbiased(eps):
    d = torch.linspace(-5, 5, 21, dtype=torch.float64)
    assert torch.allclose(bradley_terry_unbiased(d, eps), rdpo(d, 1.0, eps), rtol=EXACT, atol=EXACT)
    assert torch.equal(bradley_terry_forward(d, eps), forward_corrected_dpo(d, 1.0, eps))
    for margin in (0.0, 0.7):
        noisy = (1 - eps) * bradley_terry_unbiased(d, eps, margin) + eps * bradley_terry_unbiased(
            d, eps, margin, torch.zeros(21)
        )
        assert torch.allclose(noisy, bradley_terry(d, margin), rtol=EXACT, atol=EXACT)
        inside = (1 - eps) * torch.sigmoid(d - margin) + eps * torch.sigmoid(-d - margin)
        assert torch.allclose(bradley_terry_forward(d, eps, margin), -inside.log(), rtol=EXACT, atol=EXACT)


def test_bad_input_is_refused():
    d = torch.zeros(3)
    with pytest.raises(UserError, match="margin"):
        bradley_terry(d, torch.zeros(2))
    with pytest.raises(UserError, match="label"):
        bradley_terry(d, 0.0, torch.tensor([1.0, -0.1, math.nan]))
    with pytest.raises(UserError, match="reward_second"):
        reward_centering(d, torch.zeros(2))
