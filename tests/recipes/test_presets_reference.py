"""Each preset's advantage and loss against its formula written out by hand, in float64, on fixed responses.

Two prompts: one with eight responses of which three are right (the published check vector), one with four. Lengths
differ, the policy has moved since the responses were drawn, and a reference and a critic have opinions of their own.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from steersman.core import noise
from steersman.core.types import STOP_EOS, STOP_LENGTH, Rollouts
from steersman.recipes.presets import PRESETS
from steersman.recipes.rl import RLRecipe
from steersman.recipes.rl_parts import stages_of, terms_of
from steersman.train.terms import Live

VALUE, GRADIENT, VECTOR = 2e-6, 2e-6, 1e-6  # float32 against float64, sums over some 60 tokens
LIMIT, PROMPT, WIDTH = 10, 2, 12
RIGHT = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1]).bool()
GROUP = torch.tensor([5] * 8 + [9] * 4)
SIZE = torch.tensor([3, 7, 10, 2, 5, 10, 9, 1, 4, 6, 10, 8])
N = len(SIZE)


def normal(name: str, scale: float) -> Tensor:
    x = torch.empty(N, WIDTH)
    noise.normal_([(name, x)], scale, 0, "reference")
    return x


OLD = -normal("old", 1.0).abs() - 0.1
NOW = OLD + normal("moved", 0.25)
REF = OLD + normal("reference", 0.2)
TOLD, TOLD_WRONG = OLD + normal("told", 0.4), OLD + normal("told wrong", 0.4)
VALUES = normal("value", 0.5)
VALUES_NOW = VALUES + normal("critic moved", 0.3)
MASK = (torch.arange(WIDTH) >= PROMPT) & (torch.arange(WIDTH) < PROMPT + SIZE[:, None])


def rollouts() -> Rollouts:
    ids = torch.zeros(N, WIDTH, dtype=torch.int64)
    stop = torch.where(SIZE == LIMIT, STOP_LENGTH, STOP_EOS)
    known = {"group": GROUP, "reward": RIGHT.float(), "correct": RIGHT, "stop": stop, "logp_behaviour": OLD}
    known["answer"] = tuple("AB"[int(x)] for x in RIGHT)
    streams = {"logp_old": OLD, "logp_ref": REF, "value": VALUES, "value_end": torch.zeros(N)}
    streams |= {"logp_teacher": TOLD, "logp_teacher_wrong": TOLD_WRONG}
    streams = {k: x * MASK if x.ndim == 2 else x for k, x in streams.items()}
    states = {"hidden_prompt": OLD[:, :4], "hidden_reasoning": NOW[:, :4], "entropy": -OLD * MASK}
    return Rollouts.of(ids, PROMPT + SIZE, torch.full((N,), PROMPT), **known, streams=streams | states).check()


def recipe(name: str) -> RLRecipe:
    table = {"preset": name, "model": {"path": "policy"}, "task": {"kind": "chain_sum"}}
    return RLRecipe.model_validate(table | {"rollout": {"max_new_tokens": LIMIT}})


# Everything below is written from the papers, for double tensors of all tokens, without a call into the library.
R = RIGHT.double()
OLD64, NOW64, REF64, M = OLD.double(), NOW.double(), REF.double(), MASK.double()
L = SIZE.double()


def each_group(f: Callable[[Tensor], Tensor], score: Tensor = R) -> Tensor:
    out = torch.zeros(N, dtype=torch.float64)
    for g in (5, 9):
        out[g == GROUP] = f(score[g == GROUP])
    return out


def standardised(score: Tensor = R) -> Tensor:
    return each_group(lambda s: (s - s.mean()) / (s.std() + 1e-6), score)


def centred(score: Tensor = R) -> Tensor:
    return each_group(lambda s: s - s.mean(), score)


def whitened(x: Tensor) -> Tensor:
    kept = x[MASK]
    return (x - kept.mean()) / (kept.var(correction=0) + 1e-8).sqrt()


def last_token(score: Tensor) -> Tensor:
    out = torch.zeros(N, WIDTH, dtype=torch.float64)
    out[torch.arange(N), PROMPT + SIZE - 1] = score
    return out


def kl_fined(beta: float) -> Tensor:
    return last_token(R) - beta * (OLD64 - REF64) * M


def to_come(x: Tensor) -> Tensor:
    return (x * M).flip(1).cumsum(1).flip(1)


def clip(a: Tensor, now: Tensor, low: float, high: float) -> Tensor:
    rho = (now - OLD64).exp()
    return -torch.minimum(rho * a, rho.clamp(1 - low, 1 + high) * a)


def per_row(x: Tensor) -> Tensor:
    return ((x * M).sum(1) / L).mean()


def per_token(x: Tensor) -> Tensor:
    return (x * M).sum() / L.sum()


def grpo(now: Tensor) -> tuple[Tensor, Tensor]:
    a, log_ratio = standardised()[:, None], now - REF64
    rho = (now - OLD64).exp().detach()
    k3 = (-log_ratio).exp() - 1 + log_ratio
    # as written: the derivative of k3 itself; off-policy the ratio, without a gradient, corrects value and gradient
    return a.expand(N, WIDTH), per_row(clip(a, now, 0.2, 0.2) + 0.04 * rho * k3)


def dr_grpo(now: Tensor) -> tuple[Tensor, Tensor]:
    a = centred()[:, None]
    return a.expand(N, WIDTH), (clip(a, now, 0.2, 0.2) * M).sum() / (N * LIMIT)


def rloo(now: Tensor) -> tuple[Tensor, Tensor]:
    score = kl_fined(0.05).sum(1)
    a = each_group(lambda s: s - (s.sum() - s) / (len(s) - 1), score)[:, None]
    return a.expand(N, WIDTH), (-a * now * M).sum(1).mean()


def reinforce_pp(now: Tensor) -> tuple[Tensor, Tensor]:
    a = whitened(to_come(kl_fined(1e-4)))
    return a, per_token(clip(a, now, 0.2, 0.2))


def reinforce_pp_baseline(now: Tensor) -> tuple[Tensor, Tensor]:
    a = whitened(centred()[:, None] * M)
    rho, log_ratio = (now - OLD64).exp().detach(), now - REF64
    return a, per_token(clip(a, now, 0.2, 0.2) + 1e-5 * rho * log_ratio.square() / 2)


def dapo(now: Tensor) -> tuple[Tensor, Tensor]:
    cache = LIMIT // 5
    fine = ((LIMIT - cache - L) / cache).clamp(-1, 0)
    a = standardised(2 * R - 1 + fine)[:, None]
    return a.expand(N, WIDTH), per_token(clip(a, now, 0.2, 0.28))


def gspo(now: Tensor) -> tuple[Tensor, Tensor]:
    a = standardised()
    s = (((now - OLD64) * M).sum(1) / L).exp()
    return a[:, None].expand(N, WIDTH), -torch.minimum(s * a, s.clamp(1 - 3e-4, 1 + 4e-4) * a).mean()


def cispo(now: Tensor) -> tuple[Tensor, Tensor]:
    a = standardised()[:, None]
    return a.expand(N, WIDTH), per_token(-(now - OLD64).exp().clamp(max=5.0).detach() * a * now)


def sapo(now: Tensor) -> tuple[Tensor, Tensor]:
    a = standardised()[:, None]
    tau = torch.where(a > 0, 1.0, 1.05)
    return a.expand(N, WIDTH), per_row(-4 / tau * torch.sigmoid(tau * ((now - OLD64).exp() - 1)) * a)


def ppo(now: Tensor) -> tuple[Tensor, Tensor]:
    a = whitened(by_gae()[0])
    return a, per_token(clip(a, now, 0.2, 0.2))


def told(width: float) -> Tensor:
    a = standardised()[:, None]
    weight = (a.sign() * (TOLD.double() - TOLD_WRONG.double())).exp().clamp(1 - width, 1 + width)
    return a * (0.5 + 0.5 * weight)


def cepo(now: Tensor) -> tuple[Tensor, Tensor]:
    return told(0.5), per_token(clip(told(0.5), now, 0.2, 0.28))


def rlsd(now: Tensor) -> tuple[Tensor, Tensor]:
    return told(0.2), per_token(clip(told(0.2), now, 0.2, 0.28))


def poise(now: Tensor) -> tuple[Tensor, Tensor]:
    # before the probe has learnt anything: what the other prompt's responses earned
    first = GROUP == 5
    a = (R - torch.where(first, R[~first].mean(), R[first].mean()))[:, None]
    return a.expand(N, WIDTH), per_row(clip(a, now, 0.2, 0.28))


def by_gae() -> tuple[Tensor, Tensor]:
    value, reward = VALUES.double() * M, last_token(R)
    a = torch.zeros(N, WIDTH, dtype=torch.float64)
    for i in range(N):
        carry, after = 0.0, 0.0
        for t in range(PROMPT + int(SIZE[i]) - 1, PROMPT - 1, -1):
            delta = float(reward[i, t]) + after - float(value[i, t])
            carry = delta + 0.95 * carry
            a[i, t], after = carry, float(value[i, t])
    return a, a + value


BY_HAND: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    f.__name__: f
    for f in (grpo, dr_grpo, rloo, reinforce_pp, reinforce_pp_baseline, dapo, gspo, cispo, sapo, ppo, poise, cepo, rlsd)
}


def ours(name: str) -> tuple[Rollouts, Tensor, dict[str, float]]:
    """The batch after the preset's stages, the gradient by log-prob, and the value of each term."""
    batch, made = rollouts(), recipe(name)
    for stage in stages_of(made):
        batch, _ = stage(batch)
    logp = (NOW * MASK).requires_grad_()
    value = (VALUES_NOW * MASK).requires_grad_()
    live = Live(logp, torch.zeros_like(logp), value)
    losses: dict[str, Any] = {}
    for term in terms_of(made):
        mask = term.mask(batch)
        denominator = term.aggregation.denominators(mask, batch.group)
        losses[term.name] = term.weight * term.aggregation(term.loss(batch, live), mask, denominator, batch.group)
    sum(losses.values()).backward()
    return batch, logp.grad, {k: float(x) for k, x in losses.items()}


def test_every_preset_has_its_formula():
    assert BY_HAND.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", BY_HAND)
def test_advantage_loss_and_gradient_are_those_of_the_paper(name):
    now = NOW.double().requires_grad_()
    advantage, loss = BY_HAND[name](now)
    loss.backward()
    batch, gradient, losses = ours(name)
    mine = batch.streams["advantage"].double()
    assert float(((mine - advantage) * M).abs().max()) <= VALUE
    assert not bool(mine[~MASK].any())
    assert losses["policy"] + losses.get("kl", 0.0) == pytest.approx(float(loss), abs=VALUE)
    gap = (gradient.double() - now.grad * M).abs()
    assert float(gap.max()) <= GRADIENT
    assert float(gradient.abs().max()) > 1000 * GRADIENT


@pytest.mark.parametrize(
    "name, right, wrong",
    [("grpo", 1.207612, -0.724567), ("dr_grpo", 0.625, -0.375), ("gspo", 1.207612, -0.724567)],
)
def test_the_published_check_vector(name, right, wrong):
    found = ours(name)[0].streams["advantage"][:8, PROMPT]
    assert found[:3].tolist() == pytest.approx([right] * 3, abs=VECTOR)
    assert found[3:].tolist() == pytest.approx([wrong] * 5, abs=VECTOR)


def test_the_check_vector_of_leave_one_out():
    batch = rollouts()
    made = [s for s in stages_of(recipe("rloo")) if s.kind != "kl_reward"]
    for stage in made:
        batch, _ = stage(batch)
    found = batch.streams["advantage"][:8, PROMPT]
    assert found.tolist() == pytest.approx([0.714286] * 3 + [-0.428571] * 5, abs=VECTOR)


def test_the_critic_of_ppo_is_fitted_to_its_returns():
    returns = by_gae()[1]
    batch, _, losses = ours("ppo")
    assert float(((batch.streams["returns"] - returns) * M).abs().max()) <= VALUE
    now, old = VALUES_NOW.double(), VALUES.double()
    held = old + (now - old).clamp(-0.2, 0.2)
    wanted = per_token(0.5 * torch.maximum((now - returns).square(), (held - returns).square()))
    assert losses["value"] == pytest.approx(float(wanted), abs=VALUE)


def test_dapo_drops_groups_by_accuracy_although_lengths_differ():
    batch = rollouts()
    everything = batch.correct.clone()
    everything[:8] = True
    from dataclasses import replace

    stage = stages_of(recipe("dapo"))[0]
    kept, told = stage(replace(batch, correct=everything, reward=everything.float()))
    assert kept.group.unique().tolist() == [9]
    assert math.isclose(told["groups_out"], 1)
