"""The worst intervention by gradient ascent through the predictor and the mechanisms, from several starts.

Each mutable variable follows a small network of its parents, squashed into its range. The problem is not concave, so
one start is what the direct method found, and the risks of all starts are told. Leaves out: mechanisms that have no
gradient (classes, trees), which are refused.
Source: Liu et al. 2023, Algorithm 1; they use one start, no range and a penalty on weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from steersman.core import noise
from steersman.core.errors import UserError
from steersman.decide.invariance.data import Columns, count, stack
from steersman.decide.invariance.direct import Search, losses, search_direct
from steersman.decide.invariance.discrete import Function
from steersman.decide.invariance.regressors import Constant
from steersman.decide.invariance.world import Additive, Policy, SampledWorld, StablePredictor

HIDDEN, STEPS, RATE = 8, 200, 0.03
COPY_STEPS = 300
"""Steps in which a network learns what the direct method found."""
LEAST_STARTS = 5
PENALTY = 0.01
"""On the norm of the weights where there is no range, as in the authors' code."""


@dataclass(frozen=True)
class NetworkPolicy:
    """A mutable variable's intervention: a network of its parents; as arrays, so that it outlives the search."""

    name: str
    parents: tuple[str, ...]
    parts: tuple[np.ndarray, ...]
    mean: np.ndarray
    sd: np.ndarray
    ends: tuple[float, float] | None
    seen: np.ndarray = field(repr=False)

    def __call__(self, columns: Columns) -> np.ndarray:
        w1, b1, w2, b2 = self.parts
        z = (stack(columns, self.parents, count(columns)) - self.mean) / self.sd
        raw = np.tanh(z @ w1 + b1) @ w2 + b2
        if self.ends is None:
            return raw
        low, high = self.ends
        return low + (high - low) / (1 + np.exp(-raw))

    def rows(self, most: int = 25) -> list[dict[str, float]]:
        """The intervention as a table: its value at some rows of the parents."""
        at = self.seen[np.argsort(self.seen[:, 0])] if len(self.parents) == 1 else self.seen
        at = at[np.linspace(0, len(at) - 1, min(most, len(at))).astype(int)] if self.parents else at[:1]
        value = self(dict(zip(self.parents, at.T, strict=True)) or {"": np.zeros(len(at))})
        return [{**dict(zip(self.parents, row.tolist(), strict=True)), self.name: float(v)}
                for row, v in zip(at, value, strict=True)]  # fmt: skip


def check_differentiable(world: SampledWorld, function: Function) -> None:
    """Refuse what has no gradient, by name."""
    for v, mechanism in world.mechanisms.items():
        if not isinstance(mechanism, Additive) or not _smooth(mechanism.model):
            raise UserError(f"the mechanism of {v!r} has no gradient", where="adversary",
                            allowed="regressor linear or mlp, no discrete variable after a mutable one",
                            cure='adversary="direct"')  # fmt: skip
    for m in world.graph.mutable:
        if world.ranges[m].levels is not None:
            raise UserError(f"{m!r} is discrete", where="adversary", allowed="continuous mutable variables",
                            cure='adversary="direct"')  # fmt: skip
    if not isinstance(function, StablePredictor) or not _smooth(function.model):
        raise UserError("the predictor has no gradient", where="adversary", allowed="regressor linear or mlp",
                        cure='adversary="direct"')  # fmt: skip


def search_gradient(
    world: SampledWorld,
    function: StablePredictor,
    grid: int = 21,
    draws: int = 2,
    restarts: int = LEAST_STARTS,
    seed: int = 0,
    bounded: bool = True,
) -> Search:
    """The policy of gradient ascent; the first start is a copy of the direct method's, the others are random.

    Args:
        world, function, grid, draws, seed: as in `search_direct`.
        restarts: starts, 5 or more.
        bounded: squash into the range; otherwise nothing bounds a value but a penalty on weights.

    Returns:
        The best start's policy and the risks of all starts on the noise they were found with; the direct method's own
        policy if none beats it.
    """
    check_differentiable(world, function)
    if restarts < LEAST_STARTS:
        raise UserError(f"{restarts} restarts", where="restarts", allowed=f"{LEAST_STARTS} or more: not concave")
    names = [m for m in world.graph.nodes if m in world.graph.mutable]
    base = {k: np.tile(v, draws) for k, v in world.rows.items()}
    u = world.uniform(count(base), seed, "invariance/direct")
    first = search_direct(world, function, grid, draws, seed=seed)
    before = float(losses(world, function, base, first.policy, u).mean())
    scale = {m: _scales(world, m, bounded) for m in names}
    found: list[tuple[float, dict[str, Policy]]] = []
    for start in range(restarts):
        parts = {m: _start(world, m, seed, start) for m in names}
        if start == 0:
            _copy(world, first.policy, world.simulate(base, first.policy, u), parts, scale)
        _climb(world, function, base, u, parts, scale, bounded)
        policy = {m: _policy(world, m, parts[m], scale[m], base) for m in names}
        found.append((float(losses(world, function, base, policy, u).mean()), policy))
    risks = tuple(r for r, _ in found)
    best = max(found, key=lambda r: r[0])
    return Search(best[1] if best[0] >= before else first.policy, risks)


def _smooth(model: object) -> bool:
    return hasattr(model, "torch") or isinstance(model, Constant)


def _tensor(model: Any, x: Any) -> Any:
    import torch

    return torch.full((len(x),), model.value, dtype=torch.float64) if isinstance(model, Constant) else model.torch()(x)


def _scales(world: SampledWorld, name: str, bounded: bool) -> tuple[np.ndarray, np.ndarray, tuple[float, float] | None]:
    """Mean and spread of the parents, and the ends of the range."""
    x = stack(world.rows, world.graph.parents(name), count(world.rows))
    sd = x.std(0)
    r = world.ranges[name]
    return x.mean(0), np.where(sd > 0, sd, 1.0), (r.low, r.high) if bounded else None


def _start(world: SampledWorld, name: str, seed: int, start: int) -> list[Any]:
    import torch

    k = len(world.graph.parents(name))
    rng = noise.generator(seed, f"invariance/gradient/{name}", index=start)
    shapes = ((k, HIDDEN), (HIDDEN,), (HIDDEN,), (1,))
    return [torch.from_numpy(rng.standard_normal(s)).requires_grad_() for s in shapes]


def _value(parts: list[Any], scale: Any, x: Any) -> Any:
    import torch

    mean, sd, ends = scale
    w1, b1, w2, b2 = parts
    raw = torch.tanh(((x - torch.from_numpy(mean)) / torch.from_numpy(sd)) @ w1 + b1) @ w2 + b2
    return raw if ends is None else ends[0] + (ends[1] - ends[0]) * torch.sigmoid(raw)


def _columns(made: Mapping[str, Any], names: tuple[str, ...], rows: int) -> Any:
    import torch

    return torch.stack([made[p] for p in names], 1) if names else torch.zeros((rows, 0), dtype=torch.float64)


def _copy(
    world: SampledWorld,
    policy: Mapping[str, Policy],
    made: Columns,
    parts: Mapping[str, list[Any]],
    scale: Mapping[str, Any],
) -> None:
    """Fit networks to what the direct method does on the rows of its own environment."""
    import torch

    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in made.items()}
    for m in parts:
        target = torch.from_numpy(np.asarray(policy[m](made), float))
        wide = max(float(world.ranges[m].high - world.ranges[m].low), 1e-12)
        x = _columns(tensors, world.graph.parents(m), len(target))
        optimiser = torch.optim.Adam(parts[m], lr=RATE)
        for _ in range(COPY_STEPS):
            optimiser.zero_grad()
            (((_value(parts[m], scale[m], x) - target) / wide) ** 2).mean().backward()
            optimiser.step()


def _climb(
    world: SampledWorld,
    function: StablePredictor,
    base: Columns,
    u: Mapping[str, np.ndarray],
    parts: Mapping[str, list[Any]],
    scale: Mapping[str, Any],
    bounded: bool,
) -> None:
    import torch

    given = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in base.items()}
    left = {
        v: torch.from_numpy(m.residuals[(u[v] * len(m.residuals)).astype(np.int64)]) if world.noise else 0.0
        for v, m in world.mechanisms.items()
        if isinstance(m, Additive) and v in u
    }
    n = count(base)
    weights = [w for p in parts.values() for w in p]
    optimiser = torch.optim.Adam(weights, lr=RATE)
    for _ in range(STEPS):
        made = dict(given)
        for v in world.made:
            x = _columns(made, world.graph.parents(v), n)
            if v in parts:
                made[v] = _value(parts[v], scale[v], x)
            else:
                made[v] = _tensor(world.mechanisms[v].model, x) + left[v]  # type: ignore[union-attr]
        gap = made[world.graph.target] - _tensor(function.model, _columns(made, function.columns, n))
        gain = (gap**2).mean()
        if not bounded:
            gain = gain - PENALTY * sum(w.norm() for w in weights)
        optimiser.zero_grad()
        (-gain).backward()
        optimiser.step()


def _policy(world: SampledWorld, name: str, parts: list[Any], scale: Any, base: Columns) -> NetworkPolicy:
    mean, sd, ends = scale
    parents = world.graph.parents(name)
    n = count(base)
    seen = stack(base, parents, n)[:: max(1, n // 200)]
    return NetworkPolicy(name, parents, tuple(p.detach().numpy().copy() for p in parts), mean, sd, ends, seen)
