"""Small logs that tests share."""

import numpy as np
import pytest

from steersman.offline.transitions import Transitions


def make_log(n: int = 60, length: int = 10, seed: int = 0, dim: int = 3) -> Transitions:
    """Episodes of `length` steps, discrete actions, every second episode truncated, the rest terminated."""
    draw = np.random.default_rng(seed)
    last = np.arange(n) % length == length - 1
    odd = np.arange(n) // length % 2 == 1
    obs = draw.standard_normal((n, dim)).astype(np.float32)
    return Transitions.from_arrays(
        obs, draw.integers(0, 3, n), draw.standard_normal(n), last & ~odd, last & odd, n_actions=3
    )


@pytest.fixture
def log() -> Transitions:
    return make_log()
