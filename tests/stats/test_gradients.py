"""Spread and bias of gradient estimates, and proposition 1 by enumerating every batch of a small policy."""

import itertools

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.stats.gradients import allocation, components, distances, mean_square

EXACT = 1e-12
NOISE = 0.1
"""Relative error of an average of 20,000 draws."""


def toy():
    """Two prompts with three responses: probabilities and gradients of one sample under a baseline of its prompt."""
    draw = generator(0, "toy")
    p = draw.dirichlet(np.ones(3), size=2)
    reward = np.array([[1.0, 0, 0], [1, 1, 0]])
    z = np.zeros((2, 3, 4))
    for x, y in itertools.product(range(2), range(3)):
        score = np.concatenate([-p[x, :2], [0.3 * x, 1.0]])
        score[:2] += np.eye(3)[y, :2]
        z[x, y] = (reward[x, y] - 0.4 - 0.1 * x) * score
    return p, z


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3)])
def test_the_spread_of_an_allocation_is_that_of_every_possible_batch(n, m):
    p, z = toy()
    of_prompt = (p[..., None] * z).sum(1)
    centred = z - of_prompt[:, None]
    within = float((p * np.square(centred).sum(2)).sum(1).mean())
    between = float(np.square(of_prompt - of_prompt.mean(0)).sum(1).mean())
    first = second = 0.0
    for xs in itertools.product(range(2), repeat=n):
        for ys in itertools.product(range(3), repeat=n * m):
            rows = list(itertools.chain.from_iterable([x] * m for x in xs))
            chance = 0.5**n * np.prod([p[x, y] for x, y in zip(rows, ys, strict=True)])
            g = np.mean([z[x, y] for x, y in zip(rows, ys, strict=True)], axis=0)
            first, second = first + chance * g, second + chance * np.square(g).sum()
    assert second - np.square(first).sum() == pytest.approx(allocation(within, between, n, m), abs=EXACT)


def test_one_sample_of_each_prompt_is_best():
    spread = [allocation(3.0, 0.5, 64 // m, m) for m in (1, 2, 4, 8)]
    assert spread == sorted(spread)
    assert np.diff(spread) == pytest.approx([0.5 / 64, 1.0 / 64, 2.0 / 64])


def test_distances_and_mean_square_are_unbiased():
    draw = generator(0, "rows")
    mean, deviation = np.array([0.3, 0.0, -0.1]), np.array([1.0, 2.0, 0.5])
    g = mean + deviation * draw.normal(size=(4000, 5, 3))
    trace, square = float(np.square(deviation).sum()), float(np.square(mean).sum())
    assert np.mean([distances(x).mean() for x in g]) == pytest.approx(trace, rel=NOISE)
    assert np.mean([mean_square(x) for x in g]) == pytest.approx(square, abs=NOISE)
    assert np.mean([np.square(x.mean(0)).sum() for x in g]) > square + 5 * NOISE
    assert min(mean_square(x) for x in g) < 0


def test_components_of_single_samples():
    draw = generator(0, "samples")
    z = 0.7 * draw.normal(size=(20_000, 1, 2)) + 1.5 * draw.normal(size=(20_000, 3, 2))
    within, between = components(z)
    assert within == pytest.approx(2 * 1.5**2, rel=NOISE)
    assert between == pytest.approx(2 * 0.7**2, rel=NOISE)


@pytest.mark.parametrize(
    "call",
    [
        lambda: distances(np.zeros((1, 3))),
        lambda: mean_square(np.full((2, 3), np.nan)),
        lambda: components(np.zeros((2, 1, 3))),
        lambda: allocation(1.0, 1.0, 0, 2),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(UserError):
        call()
