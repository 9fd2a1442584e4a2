"""REINFORCE and PPO on the simulator that HDPO differentiates: what learning costs without its gradients.

Orders are drawn from a Gaussian around the policy's, sigma learnt for each edge, and made admissible (clipped at 0,
shrunk to the stock) by the world. A_t = reward to go minus its mean over scenarios at t (they are independent and
alike, so this is the strongest simple baseline), divided by the deviation of all. Leaves out: critics.
Sources: Williams 1992; PPO arXiv 1707.06347; arXiv 2306.11246 compares REINFORCE variants, the details are ours.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from steersman.control.inventory.hdpo import SimulatedLearner
from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.objective.loss.policy import clipped, reinforce
from steersman.policy.inventory.maps import Outgoing
from steersman.policy.inventory.observe import SUPPLIER, Layout, Observation, OrderingPolicy
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import periods

LEAST = 1e-8
"""Advantages of equal size are not divided by their deviation of 0."""


class GaussianOrders(nn.Module):
    """A policy with noise around its orders: a = mu(obs) + sigma eps.

    Args:
        layout: the network.
        policy: gives mu.
        std: sigma at the start, units, > 0.
    """

    def __init__(self, layout: Layout, policy: OrderingPolicy, std: float = 1.0) -> None:
        super().__init__()
        if not 0 < std < float("inf"):
            raise UserError(f"is {std}", where="std", allowed="a number above 0")
        self.policy, self.outgoing = policy, Outgoing(layout)
        self.log_std = nn.Parameter(torch.full((len(layout.source),), std).log())
        self.register_buffer("outside", layout.source == SUPPLIER, persistent=False)

    def logp(self, obs: Observation, action: Tensor) -> Tensor:
        """log N(action; mu(obs), sigma), summed over edges ``[B]``, nats."""
        return torch.distributions.Normal(self.policy(obs), self.log_std.exp()).log_prob(action).sum(1)

    def admissible(self, obs: Observation, action: Tensor) -> Tensor:
        """The orders ``[B, E]`` that the world makes of an action."""
        wanted = torch.relu(action)
        return torch.where(self.outside, wanted, self.outgoing.proportional(wanted, obs.on_hand))


class ScoreFunction(SimulatedLearner):
    """REINFORCE (epochs = 1, eps = None) or PPO: several clipped updates on the same rollouts.

    Args:
        gaussian: the policy with its noise; `policy` of `SimulatedLearner` is the one inside, without noise.
        seed: of the noise.
        epochs: updates on each batch of rollouts.
        eps: PPO clips ratios to 1 -+ eps; None = no clipping (REINFORCE, one epoch only).
        network, data, optimiser, rest: as `SimulatedLearner`.
    """

    def __init__(
        self, network: Any, gaussian: GaussianOrders, data: Scenarios, optimiser: Any, *, seed: int = 0,
        epochs: int = 1, eps: float | None = None, **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(network, gaussian.policy, data, optimiser, **rest)
        if epochs < 1 or (epochs > 1 and eps is None):
            cure = "Give eps, or one epoch: old rollouts need ratios."
            raise UserError(f"is {epochs} with eps = {eps}", where="epochs", allowed="1 or more", cure=cure)
        self.gaussian, self.seed, self.epochs, self.eps = gaussian, seed, epochs, eps

    @property
    def module(self) -> nn.Module:
        """The policy and its sigma."""
        return self.gaussian

    def backward(self, rows: Tensor, step: int) -> dict[str, Tensor | float]:
        """The score-function gradient on fresh rollouts of the scenarios `rows`."""
        obs, action, advantage, cost = self._rollouts(rows, step)
        logp = self.gaussian.logp(obs, action).view_as(advantage)
        reinforce(logp, advantage).mean().backward()
        return {"loss": cost} | self._spread()

    def step(self, rows: Tensor, step: int) -> Mapping[str, Tensor | float]:
        """`epochs` updates on rollouts of the scenarios `rows`; ``tokens`` counts simulated periods."""
        if self.eps is None:
            return super().step(rows, step)
        obs, action, advantage, cost = self._rollouts(rows, step)
        with torch.no_grad():
            old = self.gaussian.logp(obs, action).view_as(advantage)
        moved: dict[str, Tensor | float] = {}
        for _ in range(self.epochs):
            logp = self.gaussian.logp(obs, action).view_as(advantage)
            clipped(logp, old, advantage, self.eps, self.eps).mean().backward()
            moved = self.optimiser.apply(step)
        beyond = ((logp.detach() - old).exp() - 1).abs() > self.eps
        found = {"loss": cost, "clipped_share": beyond.float().mean(), "tokens": float(len(rows) * self.horizon)}
        return found | self._spread() | moved

    def _spread(self) -> dict[str, Tensor | float]:
        return {"std": self.gaussian.log_std.detach().exp().mean()}

    def _rollouts(self, rows: Tensor, step: int) -> tuple[Observation, Tensor, Tensor, Tensor]:
        """Observations and actions of all periods as ``[B T, ...]``, advantages ``[B, T]``, mean cost."""
        batch, k = self.data.index(rows), self.network.n_stores
        draw = generator(self.seed, "orders", step).standard_normal((self.horizon, len(batch), len(self.network.edges)))
        noise, seen, actions, costs = torch.from_numpy(draw).to(batch.demand), [], [], []

        def act(obs: Observation) -> Tensor:
            action = self.policy(obs) + self.gaussian.log_std.exp() * noise[len(seen)]
            seen.append(obs)
            actions.append(action)
            return self.gaussian.admissible(obs, action)

        with torch.no_grad():
            for moved in periods(self.network, act, batch, self.horizon):
                costs.append(moved.cost.sum(1) / k)
        cost = torch.stack(costs, 1)
        counted = cost * (torch.arange(self.horizon, device=cost.device) >= self.warmup)
        gain = -counted.flip(1).cumsum(1).flip(1)
        gain = gain - gain.mean(0)
        mean = counted.sum() / (len(batch) * (self.horizon - self.warmup))
        return _joined(seen), torch.stack(actions, 1).flatten(0, 1), gain / (gain.std() + LEAST), mean


def _joined(seen: list[Observation]) -> Observation:
    """Observations of T periods as one of B T rows, scenario by scenario."""
    b, t = len(seen[0].inventory), len(seen)

    def rows(name: str) -> Tensor:
        x = torch.stack([getattr(o, name) for o in seen], 1)
        return x.expand(b, *x.shape[1:]).flatten(0, 1)

    first = seen[0]
    fixed = ("holding", "shortage", "procurement", "lead_time", "mean", "std")
    same = {n: x if len(x) == 1 else x.repeat_interleave(t, 0) for n in fixed for x in (getattr(first, n),)}
    return replace(first, inventory=rows("inventory"), past=rows("past"), calendar=rows("calendar"), **same)
