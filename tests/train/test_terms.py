"""Terms of the objective: which tokens count, what weighs them, and what they report."""

import math

import pytest
import torch

from steersman.core.types import Rollouts
from steersman.objective.components import Aggregation
from steersman.objective.components_policy import GSPO, Clipped, ClippedValue, KLLoss, Reinforce
from steersman.train.engine.work import Job, Work
from steersman.train.terms import Live, kl_term, policy_term, sft_term, union, value_term

LOGP = torch.tensor([[0.0, -1.0, -2.0, -0.5], [0.0, -0.3, -0.7, 0.0]])
ADVANTAGE = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, -2.0, -2.0, 0.0]])


def rollouts(**streams: torch.Tensor) -> Rollouts:
    ids = torch.zeros(2, 4, dtype=torch.int64)
    known = {"logp_behaviour": LOGP - 0.01, "weight": torch.tensor([1.0, 0.5])}
    streams = {"advantage": ADVANTAGE, **streams}
    return Rollouts.of(ids, torch.tensor([4, 3]), torch.tensor([1, 1]), **known, streams=streams)


def live(value: torch.Tensor = LOGP) -> Live:
    return Live(LOGP.clone().requires_grad_(), torch.ones(2, 4), value)


def test_at_rollout_weights_the_live_policy_is_the_old_one():
    term, now = policy_term(Clipped(), Aggregation()), live()
    loss = term.loss(rollouts(), now)
    assert torch.equal(loss.detach(), -ADVANTAGE * torch.tensor([[1.0], [0.5]]))
    loss.sum().backward()
    assert torch.equal(now.logp.grad, -ADVANTAGE * torch.tensor([[1.0], [0.5]]))
    told = term.watch(rollouts(), now)
    assert float(told["gap_max"].max()) == pytest.approx(0.01)
    assert not bool(told["clip_low"].any() | told["clip_high"].any())
    assert "advantage" in term.needs
    assert "logp_old" not in term.needs


def test_token_weights_weigh_and_zero_leaves_out():
    weight = torch.tensor([[1.0, 0.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    term, part = policy_term(Reinforce(), Aggregation()), rollouts(token_weight=weight)
    assert term.mask(part).tolist() == [[False, False, True, True], [False, True, True, False]]
    wanted = -(ADVANTAGE * LOGP * weight * torch.tensor([[1.0], [0.5]]))
    assert torch.equal(term.loss(part, live()).detach(), wanted)


def test_invalid_rows_are_in_no_mask():
    part = rollouts()
    part = Rollouts.of(
        part.ids, part.length, part.prompt_length, valid=torch.tensor([True, False]), streams=part.streams
    )
    for term in (policy_term(Clipped(), Aggregation()), value_term(ClippedValue(), 1.0), sft_term(1.0)):
        assert term.mask(part).any(1).tolist() == [True, False]


def test_the_kl_is_corrected_only_off_policy():
    term, now = kl_term(KLLoss(beta=0.5, estimator="k1", gradient="reverse"), Aggregation()), live()
    reference = LOGP - 0.2
    on = term.loss(rollouts(logp_ref=reference), now).detach()
    assert torch.allclose(on[0], torch.full((4,), 0.5 * 0.2))
    off = term.loss(rollouts(logp_ref=reference, logp_old=LOGP - 1.0), now).detach()
    assert torch.allclose(off[0], torch.full((4,), 0.5 * 0.2 * 2.718281828))


def test_each_term_has_its_own_denominator():
    weight = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    part = rollouts(token_weight=weight, value=LOGP, returns=LOGP + 1)
    terms = policy_term(Reinforce(), Aggregation()), value_term(ClippedValue(clip=None), 0.25)
    work = Work.of(Job(part, terms), frozenset({"policy", "critic"}))
    assert [int(d.count) for d in work.denominators] == [1, 5]
    assert work.tokens == 1
    assert union(terms, part, "policy").sum() == 1
    assert union(terms, part, "critic").sum() == 5


def test_rows_in_which_nothing_counts_are_not_run():
    weight = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    part = rollouts(token_weight=weight)
    work = Work.of(Job(part, (policy_term(Reinforce(), Aggregation()),)), frozenset({"policy"}))
    assert len(work.rollouts) == 1
    assert len(Work.of(Job(part, (policy_term(Reinforce(), Aggregation()),)), frozenset({"critic"})).rollouts) == 0


def test_the_critic_reports_its_error():
    value, returns = torch.zeros(2, 4), torch.ones(2, 4)
    term = value_term(ClippedValue(clip=None), 2.0)
    part, now = rollouts(value=value, returns=returns), live(value)
    assert term.loss(part, now).unique().tolist() == [0.5]
    assert term.watch(part, now)["value_error"].unique().tolist() == [1.0]
    assert term.weight == 2.0


def test_a_ratio_of_the_whole_row_reads_tokens_that_selection_leaves_out():
    weight = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    old = LOGP - torch.tensor([[0.0, 0.3, 0.0, 0.0], [0.0, 0.0, 0.2, 0.0]])
    part = rollouts(token_weight=weight, logp_old=old)
    term = policy_term(GSPO(eps_low=0.9, eps_high=9.0), Aggregation(mode="seq_mean_token_mean"))
    assert term.mask(part).sum() == 2
    assert union((term,), part, "policy").sum() == 5
    loss = term.loss(part, live()).detach()
    assert float(loss[0, 3]) == pytest.approx(-math.exp(0.3 / 3))
    assert float(loss[1, 1]) == pytest.approx(2 * math.exp(0.2 / 2) * 0.5)
