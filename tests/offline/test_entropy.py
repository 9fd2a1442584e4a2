"""Entropies of eq. (1) to (5) and the bias of their estimates."""

import math

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.offline import entropy as e

BOTH_SIDES = 1e-10
SAMPLED = 4.0  # standard errors of a mean over replications


def world(seed: int, states: int = 4, actions: int = 3, outcomes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    rho = draw.dirichlet(np.ones(states * actions)).reshape(states, actions)
    return rho, draw.dirichlet(np.ones(outcomes), (states, actions))


@pytest.mark.parametrize("seed", range(5))
def test_both_sides_of_equation_2(seed: int) -> None:
    rho, kernel = world(seed)
    assert e.transition_entropy(rho, kernel) == pytest.approx(
        e.factored_transition_entropy(rho, kernel), abs=BOTH_SIDES
    )


def test_a_deterministic_world_adds_nothing() -> None:
    rho, kernel = world(0)
    sure = np.eye(5)[kernel.argmax(-1)]
    for f in (e.transition_entropy, e.factored_transition_entropy):
        assert f(rho, sure) == pytest.approx(e.occupancy_entropy(rho), abs=BOTH_SIDES)


def test_the_uniform_law_has_the_log_of_its_size() -> None:
    assert e.entropy(np.full(8, 1 / 8)) == pytest.approx(math.log(8), abs=BOTH_SIDES)
    assert e.entropy(np.array([1.0, 0.0])) == 0.0
    assert e.naive_entropy(np.array([5, 5, 5])) == pytest.approx(math.log(3), abs=BOTH_SIDES)
    assert e.naive_entropy(np.array([7])) == 0.0
    assert e.naive_entropy(np.array([1, 3])) == pytest.approx(e.entropy(np.array([0.25, 0.75])), abs=BOTH_SIDES)


def test_images_stay_within_the_bound_of_equation_5() -> None:
    rho, kernel = world(3, states=4)
    draw = np.random.default_rng(4)

    def doubled(share: np.ndarray) -> float:
        """Every state in two copies, visited in these shares; outcomes unchanged."""
        return e.transition_entropy(
            np.concatenate([rho * share[:, None], rho * (1 - share[:, None])]), np.concatenate([kernel, kernel])
        )

    one, two = doubled(draw.random(4)), doubled(draw.random(4))
    image = e.transition_entropy(rho, kernel)
    assert min(one, two) >= image
    assert abs(one - two) <= e.homomorphism_gap(one, two, image) + BOTH_SIDES


def test_the_bias_is_what_sampling_shows() -> None:
    p, n, times = np.array([0.4, 0.3, 0.2, 0.1]), 200, 20_000
    draws = np.random.default_rng(0).multinomial(n, p, times)
    logs = np.log(draws, out=np.zeros(draws.shape), where=draws > 0)
    naive = math.log(n) - (draws * logs).sum(1) / n
    gap = e.entropy(p) - naive.mean()
    assert abs(gap - e.entropy_bias(p, n)) < SAMPLED * naive.std() / math.sqrt(times)
    assert e.entropy_bias(p, n) == pytest.approx(3 / 400 + (1 / 0.4 + 1 / 0.3 + 5 + 10 - 1) / 480_000, abs=1e-15)
    low, high = e.log_count_bias(p, n)
    seen = e.entropy(p) - np.log((draws > 0).sum(1)).mean()
    assert low <= seen <= high


def test_when_the_count_is_no_worse() -> None:
    n = 50
    k = 2 * n * math.log(n) + 1
    assert e.count_is_no_worse(math.ceil(k), n)
    assert not e.count_is_no_worse(math.floor(k), n)
    assert (math.ceil(k) - 1) / (2 * n) >= math.log(n) > (math.floor(k) - 1) / (2 * n)


def test_what_is_no_law_is_refused() -> None:
    rho, kernel = world(1)
    with pytest.raises(UserError, match="sums to"):
        e.entropy(np.array([0.5, 0.4]))
    with pytest.raises(UserError, match="negative or not finite"):
        e.entropy(np.array([1.5, -0.5]))
    with pytest.raises(UserError, match="no distributions"):
        e.transition_entropy(rho, kernel * 2)
    with pytest.raises(UserError, match="has shape"):
        e.transition_entropy(rho, kernel[:2])
    with pytest.raises(UserError, match="p > 0"):
        e.entropy_bias(np.array([1.0, 0.0]), 5)
    with pytest.raises(UserError, match="1 or more"):
        e.naive_entropy(np.array([]))
