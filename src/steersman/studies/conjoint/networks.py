"""A small network as the model of choices, against the two-way logit: where the logit is right, and where it is not.

The network gives each profile a worth; the difference of two is the log-odds, so that it is antisymmetric as the logit.
It plugs into `optimize_policy` by `pair_prob`. Leaves out: the authors' transformer, which has standard errors.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steersman.core.noise import generator
from steersman.decide.conjoint import ConjointData, Factor, Outcome, PairLogit, optimize_policy
from steersman.decide.conjoint.outcome import OutcomeModel, one_hot
from steersman.decide.conjoint.policy import Grid
from steersman.decide.conjoint.surface import every_pair
from steersman.studies.conjoint.worlds import binary, crossed, draw_profiles

HIDDEN, STEPS, RATE, DECAY = 24, 400, 0.02, 1e-3
LAM = 0.02


@dataclass(frozen=True)
class Worth:
    """Pr(first) = sigma(f(first) - f(second)) for any table of worths of all profiles.

    Args:
        factors: the attributes.
        worth: [N] log-odds, in the order of `Grid`.
    """

    factors: tuple[Factor, ...]
    worth: np.ndarray

    def pair_prob(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Of the first against the second."""
        sizes = [len(f.levels) for f in self.factors]
        a, b = (self.worth[np.ravel_multi_index(x.T, sizes)] for x in (first, second))
        return 1 / (1 + np.exp(b - a))


def fit_network(data: ConjointData, seed: int) -> Worth:
    """Two layers of tanh, Adam on all rows at once, weight decay; initial weights from ``seed``."""
    assert data.second is not None
    x = [torch.from_numpy(one_hot(data.factors, t)).float() for t in (data.first, data.second)]
    y, draw = torch.from_numpy(data.outcome).float(), generator(seed, "conjoint study/network")
    sizes = (x[0].shape[1], HIDDEN, HIDDEN, 1)
    weights = [torch.from_numpy(draw.standard_normal((a, b)) / a**0.5).float() for a, b in itertools.pairwise(sizes)]
    biases = [torch.zeros(b) for b in sizes[1:-1]]
    for w in (*weights, *biases):
        w.requires_grad_()

    def worth(t: Tensor) -> Tensor:
        for w, b in zip(weights, biases, strict=False):
            t = torch.tanh(t @ w + b)
        return (t @ weights[-1])[:, 0]

    steps = torch.optim.AdamW([*weights, *biases], RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        loss = nn.functional.binary_cross_entropy_with_logits(worth(x[0]) - worth(x[1]), y)
        steps.zero_grad()
        loss.backward()
        steps.step()
    every = torch.from_numpy(Grid(data.factors).onehot).float()
    with torch.no_grad():
        return Worth(data.factors, worth(every).double().numpy())


def run(world: str, seed: int, samples: int) -> dict[str, Any]:
    """Errors of both models' chances over all pairs of profiles, of Q at their policies, and true worth of those.

    Args:
        world: "two-way" (the logit is right), or "four-way": worth depends on the parity of four factors as well.
        seed: of the survey and of the network.
        samples: pairs.
    """
    factors = binary(5)
    grid, rng = Grid(factors), generator(11, f"conjoint study/{world}")
    terms = crossed(factors)
    worth = terms.features(grid.onehot) @ (rng.standard_normal(len(terms.names)) * 0.4)
    if world == "four-way":
        worth = worth + 1.2 * (2 * (grid.profiles[:, :4].sum(1) % 2) - 1)
    truth, draw = Worth(factors, worth), generator(seed, f"conjoint study/networks {world}")
    first, second = (draw_profiles(factors, samples, draw) for _ in range(2))
    y = (draw.random(samples) < truth.pair_prob(first, second)).astype(np.float64)
    data = ConjointData(factors, first, second, y)
    table, best = every_pair(truth, grid), optimize_policy(truth, lam=LAM)
    against = table @ grid.joint(best.design.x)
    out: dict[str, Any] = {}
    for name, model in (("logit", PairLogit().fit(data)), ("network", fit_network(data, seed))):
        out[name] = _errors(model, grid, table, against)
    return out | {"best": best.value}


def _errors(model: Outcome | OutcomeModel, grid: Grid, table: np.ndarray, against: np.ndarray) -> dict[str, float]:
    found = optimize_policy(model, lam=LAM)
    true = float(grid.joint(found.policy.x) @ against)
    return {
        "chance": float(np.sqrt(((every_pair(model, grid) - table) ** 2).mean())),
        "value": found.value - true,
        "worth": true,
    }
