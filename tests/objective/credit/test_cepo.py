"""Contrastive evidence: the check vector, the safety guarantees, and Bayes on a policy that can be enumerated."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.core.errors import UserError
from steersman.objective.credit.cepo import credit, evidence

PRINTED = 1e-6  # the vector is printed with six decimals
ROUNDING = 1e-6  # float32
EXACT = 1e-9  # float64
TELESCOPE = 1e-6  # sums of logarithms in float64

DELTA = [0.0, 1.2, -0.01, -0.5, 0.05]
ALL = torch.ones(1, 5, dtype=torch.bool)

advantages = st.floats(-3, 3).filter(lambda a: a == 0 or abs(a) > 1e-3)
lams, bounds = st.floats(0, 1), st.floats(0.01, 3)


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logp(seed: int, n: int, width: int) -> torch.Tensor:
    return -numbers(seed, n, width).abs() * 2


def test_the_check_vector():
    pos = torch.tensor([DELTA]) - 7.0
    found = evidence(torch.tensor([1.5]), pos, torch.full((1, 5), -7.0), ALL, 0.5, 0.5)
    wanted = torch.tensor([[1.5, 1.875, 1.492537, 1.204898, 1.538453]])
    assert float((found - wanted).abs().max()) <= PRINTED


def test_a_negative_advantage_turns_the_evidence_round():
    other = torch.full((1, 5), -7.0, dtype=torch.float64)
    delta = torch.tensor([DELTA], dtype=torch.float64)
    found = evidence(torch.tensor([-2.0], dtype=torch.float64), other + delta, other, ALL, 0.4, 0.3)
    wanted = -2.0 * (0.6 + 0.4 * (-delta).exp().clamp(0.7, 1.3))
    assert float((found - wanted).abs().max()) <= EXACT


@given(advantages, lams, bounds, st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_direction_is_anchored(a, lam, eps_w, seed):
    pos, other = 30 * logp(seed, 1, 6), 30 * logp(seed + 1, 1, 6)
    mask = torch.ones(1, 6, dtype=torch.bool)
    found = evidence(torch.tensor([a], dtype=torch.float64), pos, other, mask, lam, eps_w)
    if a == 0:
        assert torch.equal(found, torch.zeros_like(found))
        return
    ratio = found / a
    assert float(ratio.min()) >= 1 - lam * eps_w - ROUNDING
    assert float(ratio.max()) <= 1 + lam * eps_w + ROUNDING
    if lam < 1:
        assert bool((ratio > 0).all())


def test_the_sign_never_turns_whatever_the_bounds():
    found = evidence(torch.tensor([-1.0, 1.0]), torch.tensor([[-99.0], [-99.0]]), torch.tensor([[-1.0], [-1.0]]),
                     torch.ones(2, 1, dtype=torch.bool), 1.0, 2.0)  # fmt: skip
    assert found[0, 0] == -3.0
    assert 0 < float(found[1, 0]) < 1e-8  # exp(-20)


def test_nothing_to_say_leaves_the_advantage_exactly():
    a, pos, other = numbers(0, 4).float(), logp(1, 4, 7).float(), logp(2, 4, 7).float()
    mask = torch.ones(4, 7, dtype=torch.bool)
    plain = a[:, None].expand(4, 7)
    for lam in (0.3, 0.7, 1.0):
        assert torch.equal(evidence(a, pos, pos, mask, lam), plain)
    assert torch.equal(evidence(a, pos, other, mask, lam=0.0), plain)
    assert not torch.equal(evidence(a, pos, other, mask), plain)


def test_cepo_with_p_minus_of_the_policy_is_rlsd_to_the_bit():
    a, pos, own = numbers(0, 4).float(), logp(1, 4, 7).float(), logp(2, 4, 7).float()
    mask = torch.ones(4, 7, dtype=torch.bool)
    rlsd = a[:, None] * (0.5 + 0.5 * (a.sign()[:, None] * (pos - own)).clamp(-20, 20).exp().clamp(0.5, 1.5))
    assert torch.equal(evidence(a, pos, own, mask), rlsd)


def test_swapping_the_references_turns_delta():
    a, pos, other = torch.ones(3), logp(1, 3, 5), logp(2, 3, 5)
    mask = torch.ones(3, 5, dtype=torch.bool)
    assert torch.equal(credit(a, pos, other, mask).delta, -credit(a, other, pos, mask).delta)


@given(st.integers(0, 50), st.sampled_from([-1.0, 1.0]))
@settings(deadline=None)
def test_sharpness(seed, a):
    """CEPO credits (blames) more than RLSD exactly where the wrong answer makes the token less (more) likely."""
    own, pos, neg = (logp(seed + i, 1, 9) for i in range(3))
    mask, one = torch.ones(1, 9, dtype=torch.bool), torch.tensor([a], dtype=torch.float64)
    unclipped = {"lam": 1.0, "eps_w": 1e9}
    cepo, rlsd = evidence(one, pos, neg, mask, **unclipped).abs(), evidence(one, pos, own, mask, **unclipped).abs()
    assert torch.equal(cepo > rlsd, (neg < own) if a > 0 else (neg > own))


def test_no_gradient_reaches_anything():
    a, pos, other = (x.requires_grad_() for x in (numbers(0, 2), logp(1, 2, 3), logp(2, 2, 3)))
    found = evidence(a, pos, other, torch.ones(2, 3, dtype=torch.bool))
    assert not found.requires_grad
    score = numbers(5, 2, 3).requires_grad_()
    (found * score).sum().backward()
    assert torch.equal(score.grad, found)  # ordinary score functions, combined
    assert [x.grad for x in (a, pos, other)] == [None, None, None]


def test_padding_order_and_a_constant_in_the_logits_do_not_matter():
    a, mask = numbers(0, 4), numbers(9, 4, 6) > -0.5
    logits = [numbers(i, 4, 6, 11) for i in (1, 2)]
    drawn = torch.randint(0, 11, (4, 6, 1), generator=torch.Generator().manual_seed(0))

    def sampled(x: torch.Tensor) -> torch.Tensor:
        return x.log_softmax(-1).gather(2, drawn)[..., 0]

    pos, other = map(sampled, logits)
    plain = evidence(a, pos, other, mask)
    shifted = evidence(a, *(sampled(x + 3.7) for x in logits), mask)
    assert float((shifted - plain).abs().max()) <= EXACT
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(evidence(a[order], pos[order], other[order], mask[order]), plain[order])
    pad = torch.full((4, 3), torch.nan, dtype=torch.float64)
    none = torch.zeros(4, 3, dtype=torch.bool)
    wide = evidence(a, *(torch.cat([pad, x, pad], 1) for x in (pos, other)), torch.cat([none, mask, none], 1))
    assert torch.equal(wide[:, 3:9], plain)
    assert not wide[:, :3].any()


def test_an_advantage_a_token_is_taken_as_it_is():
    a, pos, other = numbers(0, 3, 4), logp(1, 3, 4), logp(2, 3, 4)
    mask = torch.ones(3, 4, dtype=torch.bool)
    whole = evidence(a, pos, other, mask)
    for t in range(4):
        column = evidence(a[:, t], pos, other, mask)[:, t]
        assert torch.equal(whole[:, t], column)


def test_what_is_clipped_is_told():
    found = credit(torch.tensor([1.0]), torch.tensor([DELTA]), torch.zeros(1, 5), ALL, 0.5, 0.5)
    assert found.clipped.tolist() == [[False, True, False, False, False]]  # exp(-.5) = .61 is above .5
    assert found.delta[0].tolist() == pytest.approx(DELTA)


def test_bad_input_is_told_by_row():
    a, x = torch.tensor([0.0, 1.0, 1.0]), torch.zeros(3, 2)
    mask = torch.ones(3, 2, dtype=torch.bool)
    broken = x.clone()
    broken[0, 0] = torch.nan  # without an advantage it is not looked at
    assert torch.equal(evidence(a, broken, x, mask), a[:, None].expand(3, 2))
    broken[2, 1] = torch.nan
    with pytest.raises(UserError, match=r"row 2: logp_pos - logp_other is NaN at token 1"):
        evidence(a, broken, x, mask)
    with pytest.raises(UserError, match="row 1: logp_pos - logp_other is NaN at token 0"):
        evidence(a, x - torch.inf, x - torch.inf, mask)
    with pytest.raises(UserError, match="advantage is NaN"):
        evidence(a * torch.nan, x, x, mask)
    with pytest.raises(UserError, match=r"lam: is 1\.2"):
        evidence(a, x, x, mask, lam=1.2)
    with pytest.raises(UserError, match="eps_w: is 0"):
        evidence(a, x, x, mask, eps_w=0)
    with pytest.raises(UserError, match="bool"):
        evidence(a, x, x, mask.float())
    with pytest.raises(UserError, match=r"\[N\] or \[N, L\]"):
        evidence(a[:2], x, x, mask)
    with pytest.raises(UserError, match="logp_other"):
        evidence(a, x, x[:, :1], mask)


class HiddenMarkov:
    """A policy that writes `length` letters along a hidden chain; its answer is the state in which the chain ends."""

    def __init__(self, states: int, letters: int, length: int) -> None:
        self.start = numbers(1, states).softmax(0)
        self.move = numbers(2, states, states).softmax(1)
        self.emit = numbers(3, states, letters).softmax(1)
        self.letters, self.length, self.states = letters, length, states

    def joint(self, prefix: tuple[int, ...]) -> torch.Tensor:
        """P(prefix, answer = r) for each r: forward over what is written, then free moves to the end."""
        alpha = self.start
        for t in range(self.length):
            alpha = alpha * self.emit[:, prefix[t]] if t < len(prefix) else alpha
            alpha = alpha @ self.move if t + 1 < self.length else alpha
        return alpha

    def next_logp(self, text: tuple[int, ...], answer: int | None) -> torch.Tensor:
        """log P of each letter of `text`, given what stands before it and, where told, the answer."""
        told = [self.joint(text[:t]) for t in range(len(text) + 1)]
        mass = torch.stack([p.sum() if answer is None else p[answer] for p in told])
        return mass.log().diff()


def test_exact_evidence_telescopes_to_the_odds_of_the_answers():
    policy = HiddenMarkov(states=3, letters=3, length=4)
    prior = policy.joint(()) / policy.joint(()).sum()
    texts = list(itertools.product(range(3), repeat=4))
    assert sum(float(policy.joint(t).sum()) for t in texts) == pytest.approx(1.0, abs=TELESCOPE)
    own = torch.stack([policy.next_logp(t, None) for t in texts])
    told = [torch.stack([policy.next_logp(t, r) for t in texts]) for r in range(3)]
    mask, one = torch.ones_like(own, dtype=torch.bool), torch.ones(len(texts))
    after = torch.stack([policy.joint(t) / policy.joint(t).sum() for t in texts])
    for right, wrong in itertools.permutations(range(3), 2):
        rlsd = credit(one, told[right], own, mask).delta.sum(1)
        assert float((rlsd - (after[:, right] / prior[right]).log()).abs().max()) <= TELESCOPE
        cepo = credit(one, told[right], told[wrong], mask).delta.sum(1)
        odds = (after[:, right] / after[:, wrong]).log() - (prior[right] / prior[wrong]).log()
        assert float((cepo - odds).abs().max()) <= TELESCOPE
        assert float(odds.abs().max()) > 0.1
