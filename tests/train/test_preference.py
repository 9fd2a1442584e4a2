"""Preference learner: closed forms at the reference, weights, labels, flip rates, evaluation, refusals."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import tiny_language as tiny
import torch
from torch import Tensor

from steersman.core.errors import UserError
from steersman.core.types import Pairs
from steersman.objective.components import CDPO, DPO, IPO, RDPO, PairLoss
from steersman.objective.loss.preference import dpo, rdpo
from steersman.train.optimise import AdamW, Optimiser
from steersman.train.preference import PreferenceLearner, accuracy, noisy_log_likelihood, stack, summed_logp

BETA = 0.3
EXACT = 1e-6  # closed forms in float32
GRADIENT = 1e-5  # gradients of 12 tokens a row added in another order


class Recorder(Optimiser):
    """An optimiser that keeps the gradients of the last step instead of moving anything."""

    def apply(self, step: int) -> dict[str, Tensor | float]:
        self.seen = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        return {"grad_norm": torch.tensor(0.0)}


def learner(model: Any, pairs: Pairs, loss: PairLoss = DPO(beta=BETA), **known: Any) -> PreferenceLearner:
    """A learner at policy == reference whose optimiser only looks."""
    logp = known.get("logp", "sum")
    reference = known.pop("reference", None) or tuple(
        summed_logp(model, s, 64, logp) for s in (pairs.first, pairs.second)
    )
    return PreferenceLearner(model, pairs, reference, loss, Recorder(model.named_parameters(), AdamW(), 1), 64, **known)


def stepped(it: PreferenceLearner) -> tuple[Mapping[str, Tensor | float], list[Tensor]]:
    metrics = it.step(torch.arange(len(it.pairs)), 0)
    return metrics, it.optimiser.seen  # type: ignore[attr-defined]


def test_summed_logp_is_the_textbooks_and_its_mean_divides_by_the_tokens() -> None:
    model, rows = tiny.language_model(), tiny.make_pairs().first
    truth = tiny.textbook_logp(model, rows).detach()
    for budget in (1, 30, 10_000):
        torch.testing.assert_close(summed_logp(model, rows, budget), truth, atol=GRADIENT, rtol=0)
    mean = summed_logp(model, rows, 64, "mean")
    torch.testing.assert_close(mean, truth / torch.tensor(tiny.FIRST), atol=GRADIENT, rtol=0)


def test_at_the_reference_the_loss_is_log_2_and_the_gradient_minus_half_beta_times_the_difference() -> None:
    model, pairs = tiny.language_model(), tiny.make_pairs()
    metrics, found = stepped(learner(model, pairs))
    assert float(metrics["loss"]) == pytest.approx(math.log(2), abs=EXACT)
    assert float(metrics["margin"]) == pytest.approx(0.0, abs=GRADIENT)
    difference = tiny.textbook_logp(model, pairs.first) - tiny.textbook_logp(model, pairs.second)
    (-(BETA / 2) * difference.mean()).backward()
    for g, p in zip(found, learner(model, pairs).optimiser.parameters, strict=True):
        torch.testing.assert_close(g, p.grad, atol=GRADIENT, rtol=0)


def test_away_from_the_reference_h_is_the_difference_of_log_ratios_and_swapping_sides_negates_it() -> None:
    policy, reference, pairs = tiny.language_model(0), tiny.language_model(1), tiny.make_pairs()
    swapped = Pairs(pairs.second, pairs.first, pairs.label)
    known = [summed_logp(reference, s, 64) for s in (pairs.first, pairs.second)]
    one = learner(policy, pairs, reference=(known[0], known[1]))
    two = learner(policy, swapped, reference=(known[1], known[0]))
    first, second = one.margins(pairs, one.reference)
    ratios = [tiny.textbook_logp(policy, s) - tiny.textbook_logp(reference, s) for s in (pairs.first, pairs.second)]
    torch.testing.assert_close(first - second, (ratios[0] - ratios[1]).detach(), atol=GRADIENT, rtol=0)
    assert float(stepped(two)[0]["margin"]) == -float(stepped(one)[0]["margin"])
    assert float(stepped(one)[0]["loss"]) == pytest.approx(float(dpo(first - second, BETA).mean()), abs=GRADIENT)


def test_label_zero_is_the_swapped_pair_and_label_half_is_a_tie() -> None:
    policy, reference, pairs = tiny.language_model(0), tiny.language_model(1), tiny.make_pairs()
    known = tuple(summed_logp(reference, s, 64) for s in (pairs.first, pairs.second))
    swapped = learner(policy, Pairs(pairs.second, pairs.first, pairs.label), reference=known[::-1])
    zero = learner(policy, replace(pairs, label=torch.zeros(8)), reference=known)
    for a, b in zip(stepped(zero)[1], stepped(swapped)[1], strict=True):
        torch.testing.assert_close(a, b, atol=GRADIENT, rtol=0)
    tied = learner(policy, replace(pairs, label=torch.full((8,), 0.5)), reference=known)
    metrics, _ = stepped(tied)
    h = tied.margins(pairs, known)  # type: ignore[arg-type]
    both = (dpo(h[0] - h[1], BETA) + dpo(h[1] - h[0], BETA)) / 2
    assert float(metrics["loss"]) == pytest.approx(float(both.mean()), abs=GRADIENT)
    assert float(metrics["accuracy"]) == 0.5


def test_weights_are_relative_and_weight_two_is_the_pair_twice() -> None:
    model = tiny.language_model()
    weight = torch.tensor([2.0, 1, 1, 1, 1, 1, 1, 1])
    reference = tuple(torch.zeros(8) for _ in range(2))
    plain = learner(model, tiny.make_pairs(), reference=reference)
    plain.step(torch.tensor([0, *range(8)]), 0)
    expected = plain.optimiser.seen  # type: ignore[attr-defined]
    for scale in (1.0, 10.0):
        _, found = stepped(learner(model, tiny.make_pairs(weight=weight * scale), reference=reference))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=GRADIENT, rtol=0)


def test_mean_logp_makes_h_a_difference_of_token_means() -> None:
    policy, reference, pairs = tiny.language_model(0), tiny.language_model(1), tiny.make_pairs()
    known = tuple(summed_logp(reference, s, 64, "mean") for s in (pairs.first, pairs.second))
    it = learner(policy, pairs, IPO(tau=0.5), reference=known, logp="mean")
    ratios = [tiny.textbook_logp(policy, s) - tiny.textbook_logp(reference, s) for s in (pairs.first, pairs.second)]
    h = (ratios[0] / torch.tensor(tiny.FIRST) - ratios[1] / torch.tensor(tiny.SECOND)).detach()
    assert float(stepped(it)[0]["margin"]) == pytest.approx(float(h.mean()), abs=GRADIENT)
    assert float(stepped(it)[0]["loss"]) == pytest.approx(float((h - 1.0).square().mean()), abs=GRADIENT)


def test_a_flip_rate_for_each_pair_follows_its_pair() -> None:
    policy, reference, pairs = tiny.language_model(0), tiny.language_model(1), tiny.make_pairs()
    known = tuple(summed_logp(reference, s, 64) for s in (pairs.first, pairs.second))
    rates = torch.linspace(0, 0.4, 8)
    it = learner(policy, pairs, RDPO(beta=BETA, flip_rate=0.1), reference=known, flip_rate=rates)
    rows = torch.tensor([6, 1, 3])
    metrics = it.step(rows, 0)
    first, second = it.margins(pairs, known)  # type: ignore[arg-type]
    expected = rdpo((first - second)[rows], BETA, rates[rows]).mean()
    assert float(metrics["loss"]) == pytest.approx(float(expected), abs=GRADIENT)


@pytest.mark.parametrize("loss", [DPO(beta=BETA), IPO()])
def test_rates_with_a_loss_that_takes_none_are_refused(loss: PairLoss) -> None:
    with pytest.raises(UserError, match="takes no flip rate"):
        learner(tiny.language_model(), tiny.make_pairs(), loss, flip_rate=torch.full((8,), 0.1))


def test_reference_of_another_number_of_pairs_is_refused() -> None:
    with pytest.raises(UserError, match="8 and 7 reference log-probs for 8 pairs"):
        learner(tiny.language_model(), tiny.make_pairs(), reference=(torch.zeros(8), torch.zeros(7)))
    with pytest.raises(UserError, match="without reference"):
        learner(tiny.language_model(), tiny.make_pairs(), held_out=tiny.make_pairs())


def test_noisy_log_likelihood_by_hand() -> None:
    h, label = torch.tensor([2.0, -1.0, 3.0]), torch.tensor([1.0, 0.0, 0.7])
    rate, beta = 0.2, 0.5

    def q(x: float) -> float:
        return math.log((1 - 2 * rate) / (1 + math.exp(-beta * x)) + rate)

    expected = (q(2) + q(1) + 0.7 * q(3) + 0.3 * q(-3)) / 3
    found = noisy_log_likelihood(h, label, RDPO(beta=beta, flip_rate=rate))
    assert float(found) == pytest.approx(expected, abs=EXACT)
    swapped = noisy_log_likelihood(-h, 1 - label, RDPO(beta=beta, flip_rate=rate))
    assert float(swapped) == pytest.approx(expected, abs=EXACT)
    assert float(noisy_log_likelihood(torch.zeros(3), label, CDPO(flip_rate=0.3))) == pytest.approx(-math.log(2))


def test_evaluation_counts_decided_pairs_and_changes_nothing() -> None:
    policy, reference = tiny.language_model(0), tiny.language_model(1)
    label = torch.tensor([1.0, 0.0, 1.0, 0.5, 1.0, 0.0, 1.0, 1.0])
    pairs = tiny.make_pairs(label)
    known = tuple(summed_logp(reference, s, 64) for s in (pairs.first, pairs.second))
    it = learner(policy, pairs, reference=known, held_out=pairs, held_out_reference=known)
    before = [p.clone() for p in policy.parameters()]
    found = it.evaluate()
    first, second = it.margins(pairs, known)  # type: ignore[arg-type]
    decided = label != 0.5
    right = (((first - second) > 0) == (label > 0.5))[decided]
    assert found["accuracy"] == pytest.approx(int(right.sum()) / 7)
    assert found["accuracy_low"] < int(right.sum()) / 7 < found["accuracy_high"]
    assert found["margin"] == pytest.approx(float((first - second).mean()))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert all(p.grad is None for p in policy.parameters())
    assert learner(policy, pairs, reference=known).evaluate() == {}


def test_stack_keeps_every_row_whatever_the_widths() -> None:
    pairs = tiny.make_pairs(extra=9)
    both = stack(pairs)
    assert both.ids.shape[1] == int(torch.cat([pairs.first.length, pairs.second.length]).max())
    for i, side in enumerate((pairs.first, pairs.second)):
        part = both.index(slice(8 * i, 8 * i + 8))
        assert torch.equal(part.length, side.length)
        assert torch.equal(part.action.sum(1), side.action.sum(1))
        for n, length in enumerate(side.length.tolist()):
            assert torch.equal(part.ids[n, :length], side.ids[n, :length])


def test_accuracy_and_its_interval_speak_of_the_same_pairs() -> None:
    h = torch.tensor([1.0, 2.0, -1.0, 0.0, 5.0, -5.0])
    label = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5, 0.5])
    found = accuracy(h, label)
    assert found["accuracy"] == 0.5
    assert found["accuracy_low"] < 0.5 < found["accuracy_high"]
    assert all(math.isnan(v) for v in accuracy(h[4:], label[4:]).values())


def test_a_step_whose_rows_weigh_nothing_changes_nothing() -> None:
    pairs = tiny.make_pairs(weight=torch.zeros(8))
    metrics, found = stepped(learner(tiny.language_model(1), pairs))
    assert float(metrics["loss"]) == 0.0
    assert all(not bool(g.any()) for g in found)
