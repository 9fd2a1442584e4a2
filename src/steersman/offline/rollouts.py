"""Transitions from acting in a Gymnasium environment.

An environment is anything with Gymnasium's `reset` and `step`; the package itself is not imported. Leaves out:
training.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.offline.arrays import from_arrays
from steersman.offline.transitions import Transitions

Act = Callable[[np.ndarray, np.random.Generator], Any]
"""A policy as a function: observation and a generator to an action."""


def rollout(env: Any, act: Act, n: int, seed: int = 0, purpose: str = "rollout") -> Transitions:
    """Act for exactly `n` steps; the last episode is cut where the steps run out.

    Args:
        env: Gymnasium environment; `reset(seed=...)` once, then it goes on by itself. Actions of a discrete space that
            does not begin at 0 are stored from 0 on.
        act: what to do.
        n: transitions, 1 or more.
        seed, purpose: of the environment and of the policy's noise.

    Raises:
        UserError: n < 1; observations that are no arrays of one shape; NaN.
    """
    if n < 1:
        raise UserError(f"is {n}", where="n", allowed="1 or more")
    noise = generator(seed, purpose)
    columns: dict[str, list[Any]] = {k: [] for k in ("obs", "action", "reward", "next_obs", "terminated", "truncated")}
    episode, obs = 0, env.reset(seed=int(noise.integers(2**31)))[0]
    ids = []
    for _ in range(n):
        action = act(obs, noise)
        after, reward, terminated, truncated, _info = env.step(action)
        row = (obs, action, float(reward), after, bool(terminated), bool(truncated))
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
        ids.append(episode)
        obs = after
        if terminated or truncated:
            episode, obs = episode + 1, env.reset()[0]
    size, first = discrete(env.action_space)
    whole = {k: np.asarray(v) for k, v in columns.items()}
    if size is not None:
        whole["action"] = whole["action"] - first
    # A run in which no episode ended is still one honest, cut episode.
    return from_arrays(**whole, episode=ids, n_actions=size)


def discrete(space: Any) -> tuple[int | None, int]:
    """Number of actions of Gymnasium's Discrete and the first of them; None for other spaces."""
    if hasattr(space, "n") and not getattr(space, "shape", ()):
        return int(space.n), int(getattr(space, "start", 0))
    return None, 0


def uniform(space: Any) -> Act:
    """The policy that draws uniformly from an action space.

    Args:
        space: Gymnasium's Discrete or a bounded Box (`low`, `high`).

    Raises:
        UserError: another space, or an unbounded one.
    """
    n, first = discrete(space)
    if n is not None:
        return lambda obs, noise: first + int(noise.integers(n))
    if hasattr(space, "low") and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        low, high, dtype = space.low, space.high, space.dtype
        return lambda obs, noise: noise.uniform(low, high).astype(dtype)
    raise UserError(f"{space} cannot be drawn from", where="action space", allowed="Discrete, or a bounded Box")


def epsilon_greedy(act: Act, other: Act, epsilon: float) -> Act:
    """Do `other` with probability `epsilon`, else `act`.

    Raises:
        UserError: epsilon outside [0, 1].
    """
    if not 0 <= epsilon <= 1:
        raise UserError(f"is {epsilon}", where="epsilon", allowed="0 to 1")
    return lambda obs, noise: other(obs, noise) if noise.random() < epsilon else act(obs, noise)
