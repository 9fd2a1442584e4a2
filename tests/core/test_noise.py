"""Counter-based noise: published vectors, independence of batches, uniformity, and no global state."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from steersman.core.noise import generator, key, normal_, permutation, philox, uniform

ALL_ONES = 0xFFFFFFFF
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL_ONES,) * 4, (ALL_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""Known answers of Philox 4x32-10 from Random123 (kat_vectors): counter, key, output."""
DRAWS = 20_000
SMALLEST_P = 1e-3
"""A Kolmogorov-Smirnov p-value below this would condemn the draws; the seeds are fixed, so it cannot flicker."""
INTEGERS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("counter, words, expected", VECTORS)
def test_published_vectors(counter: tuple[int, ...], words: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert tuple(philox(np.array(counter, np.uint64), words).tolist()) == expected


def test_vectors_hold_inside_a_larger_array() -> None:
    counters = np.array([[VECTORS[0][0], (1, 2, 3, 4)], [(5, 6, 7, 8), VECTORS[0][0]]], np.uint64)
    out = philox(counters, VECTORS[0][1])
    assert tuple(out[0, 0]) == tuple(out[1, 1]) == VECTORS[0][2]


@given(st.integers(0, 2**31), st.lists(st.integers(0, 2**62), min_size=1, max_size=8), INTEGERS, st.randoms())
def test_a_number_depends_on_its_own_coordinates_only(
    seed: int, index: list[int], step: int, order: random.Random
) -> None:
    whole = uniform(seed, "sample", np.array(index)[:, None], np.arange(5), step)
    shuffled = order.sample(range(len(index)), len(index))
    for row in shuffled:
        for position in (4, 0, 2):
            assert uniform(seed, "sample", index[row], position, step) == whole[row, position]


def test_splitting_and_padding_change_nothing() -> None:
    whole = uniform(3, "sample", np.arange(10)[:, None], np.arange(7), 5)
    parts = [uniform(3, "sample", np.arange(a, b)[:, None], np.arange(9), 5)[:, :7] for a, b in ((0, 3), (3, 10))]
    assert np.array_equal(np.concatenate(parts), whole)


def test_the_interval_is_open_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, low, high in ((0, 0.0, 2.0**-52), (ALL_ONES, 1 - 2.0**-52, 1.0)):
        monkeypatch.setattr("steersman.core.noise.philox", lambda c, k, w=word: np.full(c.shape, w, np.uint64))
        assert low < float(uniform(0, "edge", 0)) < high
        assert np.isfinite(np.log(-np.log(uniform(0, "edge", 0))))


@pytest.mark.parametrize("axis", ["index", "position", "step", "seed", "purpose"])
def test_uniform_along_every_coordinate(axis: str) -> None:
    several = range(400)
    draws = {
        "index": lambda: uniform(1, "a", np.arange(DRAWS)),
        "position": lambda: uniform(1, "a", 7, np.arange(DRAWS)),
        "step": lambda: np.array([uniform(1, "a", 0, 0, s) for s in several]),
        "seed": lambda: np.array([uniform(s, "a", 0) for s in several]),
        "purpose": lambda: np.array([uniform(1, f"a{s}", 0) for s in several]),
    }[axis]().ravel()
    assert kstest(draws, "uniform").pvalue > SMALLEST_P
    # neighbours are independent: the lagged differences modulo 1 are uniform too
    assert kstest((draws[1:] - draws[:-1]) % 1, "uniform").pvalue > SMALLEST_P


def test_every_coordinate_matters() -> None:
    base = {"seed": 1, "purpose": "a", "index": 2, "position": 3, "step": 4}
    changes = {"seed": 2, "purpose": "b", "index": 3, "position": 4, "step": 5}
    values = [float(uniform(**base)), *(float(uniform(**base | {k: v})) for k, v in changes.items())]
    # coordinates beyond 32 bits must not be cut off, and index and position are not interchangeable
    values += [float(uniform(1, "a", 2 + 2**32, 3, 4)), float(uniform(1, "a", 3, 2, 4))]
    assert len(set(values)) == len(values)


def test_seed_and_purpose_cannot_run_into_each_other() -> None:
    assert key(1, "1a") != key(11, "a")
    assert key(-1, "a") != key(1, "a")


def test_generators_with_different_coordinates_differ() -> None:
    coordinates = [(s, f"p{p}", t, i) for s in (0, 1) for p in range(20) for t in (0, 1, 2**31) for i in (0, 1, 2)]
    first = {generator(*c).integers(2**63) for c in coordinates}
    assert len(first) == len(coordinates)


def test_a_generator_uses_all_64_bits_of_its_key() -> None:
    for purpose in (f"p{i}" for i in range(40)):
        k0, k1 = key(0, purpose)
        state = generator(0, purpose, 2**31, 3).bit_generator.state["state"]["key"]
        assert state.tolist() == [(k0 << 32) | k1, (2**31 << 32) | 3]


def test_a_permutation_is_one_and_is_repeatable() -> None:
    order = permutation(50, 1, "order", 2)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(order, permutation(50, 1, "order", 2))
    assert not torch.equal(order, permutation(50, 1, "order", 3))
    assert permutation(0, 1, "order").shape == (0,)


def test_normals_belong_to_their_names() -> None:
    a, b, scalar = torch.empty(4, 5000), torch.empty(20), torch.empty(())
    normal_([("a", a), ("b", b), ("s", scalar)], 0.5, 7, "init")
    again = torch.empty(20)
    normal_([("b", again)], 0.5, 7, "init")
    assert torch.equal(b, again)
    assert not torch.equal(a.flatten()[:20], b)
    assert kstest(a.flatten().numpy(), norm(0, 0.5).cdf).pvalue > SMALLEST_P
    assert torch.isfinite(scalar)


def test_normals_fill_a_parameter_in_its_own_precision() -> None:
    weight = torch.nn.Parameter(torch.empty(3, 4, dtype=torch.bfloat16))
    full = torch.empty(3, 4)
    normal_([("w", weight)], 1.0, 0, "init")
    normal_([("w", full)], 1.0, 0, "init")
    assert torch.equal(weight.detach(), full.bfloat16())
    assert weight.requires_grad


def test_global_generators_are_neither_used_nor_moved() -> None:
    def draw() -> list[float]:
        x = torch.empty(3)
        normal_([("x", x)], 1.0, 0, "init")
        more = [float(uniform(0, "a", 1)), float(generator(0, "a").random()), *permutation(9, 0, "a").tolist()]
        return [*x.tolist(), *more]

    before = draw()
    torch.rand(5), np.random.rand(5), random.random()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert draw() == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
