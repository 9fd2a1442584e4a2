"""Rollouts and the five kinds of data, in a walk whose returns are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.offline.returns import returns
from steersman.offline.rollouts import epsilon_greedy, rollout, uniform
from steersman.offline.schemes import SCHEMES, make_datasets, mixed


class Walk:
    """Go right from 0 to 5; reward 1 at the end; stopped after 20 steps."""

    action_space = SimpleNamespace(n=2, start=0)

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict]:
        self.at, self.t = 0, 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.at, self.t = max(0, self.at + (1 if action else -1)), self.t + 1
        done = self.at == 5
        return self._seen(), float(done), done, self.t == 20 and not done, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.at], np.float32)


def right(obs: np.ndarray, noise: np.random.Generator) -> int:
    return 1


def test_a_rollout_is_what_happened() -> None:
    log = rollout(Walk(), right, 12)
    assert log.obs[:, 0].tolist() == [0, 1, 2, 3, 4] * 2 + [0, 1]
    assert log.next_obs[:, 0].tolist() == [1, 2, 3, 4, 5] * 2 + [1, 2]
    assert np.flatnonzero(log.terminated).tolist() == [4, 9]
    assert log.episode.tolist() == [0, 5, 10, 12]
    assert log.n_actions == 2
    found = returns(log)
    assert (found.value.tolist(), found.cut) == ([1.0, 1.0], 1)
    still = rollout(Walk(), lambda obs, noise: 0, 45)
    assert np.flatnonzero(still.truncated).tolist() == [19, 39]
    assert len(rollout(Walk(), right, 3)) == 3  # no episode ends: one that is cut
    with pytest.raises(UserError, match="1 or more"):
        rollout(Walk(), right, 0)


def test_noise_is_a_function_of_the_seed() -> None:
    act = uniform(Walk.action_space)
    one = rollout(Walk(), act, 200, seed=3)
    assert (one.action == rollout(Walk(), act, 200, seed=3).action).all()
    assert (one.action != rollout(Walk(), act, 200, seed=4).action).any()


def test_five_kinds() -> None:
    n = 1000
    replay = rollout(Walk(), uniform(Walk.action_space), n, seed=9)
    made = make_datasets(Walk(), right, replay, n, seed=1)
    assert tuple(made) == SCHEMES
    assert {len(x) for x in made.values()} == {n}
    assert made["replay"] is replay
    assert made["expert"].action.all()
    assert abs(made["random"].action.mean() - 0.5) < 4 * 0.5 / n**0.5
    noisy = 1 - made["noisy"].action.mean()  # a fifth of the steps is uniform, half of which go left
    assert abs(noisy - 0.1) < 4 * (0.1 * 0.9 / n) ** 0.5
    both = made["mixed"]
    assert (both.action[:800] == made["random"].action[:800]).all()
    assert (both.obs[800:] == made["expert"].obs[800:]).all()
    assert 800 in both.episode  # the seam joins nothing
    few = make_datasets(Walk(), right, None, 50, schemes=("mixed",))
    assert tuple(few) == ("mixed",)


def test_a_seam_inside_an_episode_leaves_two_that_are_not_whole() -> None:
    a, b = (rollout(Walk(), right, 12) for _ in range(2))
    found = returns(mixed(a, b, share=0.5))  # 6 rows: one whole episode and one step; then the end of an episode
    assert (found.value.tolist(), found.cut, found.late, found.dropped) == ([1.0], 2, 1, 3)


def test_actions_that_do_not_begin_at_zero() -> None:
    walk = Walk()
    walk.action_space = SimpleNamespace(n=2, start=1, shape=())
    walk_step, walk.step = walk.step, lambda action: walk_step(action - 1)
    log = rollout(walk, uniform(walk.action_space), 200)
    assert sorted(set(log.action.tolist())) == [0, 1]
    moved = log.next_obs[:, 0] - log.obs[:, 0]
    assert (moved[log.action == 1] == 1).all()


def test_box_spaces() -> None:
    box = SimpleNamespace(
        low=np.array([-1.0, 0.0], np.float32), high=np.array([1.0, 5.0], np.float32), dtype=np.float32
    )
    draws = np.stack([uniform(box)(None, np.random.default_rng(i)) for i in range(200)])
    assert draws.dtype == np.float32
    assert (draws >= box.low).all()
    assert (draws <= box.high).all()
    assert draws[:, 1].max() > 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_datasets(Walk(), right, None, 10), "no transitions of the training"),
        (lambda: make_datasets(Walk(), right, rollout(Walk(), right, 9), 10), "9 transitions of the training"),
        (lambda: make_datasets(Walk(), right, None, 10, schemes=("er",)), "'er' is not known"),
        (lambda: mixed(rollout(Walk(), right, 9), rollout(Walk(), right, 8)), "9 random transitions and 8"),
        (lambda: mixed(rollout(Walk(), right, 9), rollout(Walk(), right, 9), 0.01), "leaves nothing"),
        (lambda: epsilon_greedy(right, right, 1.5), "0 to 1"),
        (lambda: uniform(SimpleNamespace(n=2, shape=(2,))), "cannot be drawn from"),
        (lambda: uniform(SimpleNamespace(low=np.array(-np.inf), high=np.array(np.inf))), "cannot be drawn from"),
    ],
)
def test_what_is_refused(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_gymnasiums_own_worlds(name: str) -> None:
    env = pytest.importorskip("gymnasium").make(name)
    log = rollout(env, uniform(env.action_space), 250)
    assert len(log) == 250
    assert log.discrete == (name != "Pendulum-v1")
    assert log.n_actions == getattr(env.action_space, "n", None)
    ended = np.flatnonzero(log.terminated | log.truncated)
    np.testing.assert_array_equal(log.episode[1:-1] - 1, ended)
    if name == "Pendulum-v1":  # never terminates, and is stopped after 200 steps
        assert np.flatnonzero(log.truncated).tolist() == [199]
