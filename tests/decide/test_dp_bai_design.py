"""Max-Det collections: weights within [-1, 1], the largest determinant, and what may not change them."""

import itertools

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.decide.dp_bai.design import SLACK, coefficients, coordinates, max_det, random_spanning, ranks

CASES = [(6, 2, 0), (9, 3, 1), (12, 4, 2), (8, 8, 3), (30, 5, 4)]
ROUNDING = 1e-9


def arms(count, dim, seed):
    return np.random.default_rng(seed).normal(size=(count, dim))


@pytest.mark.parametrize("count, dim, seed", CASES)
@pytest.mark.parametrize("search", ["exact", "swap"])
def test_every_arm_is_a_combination_with_weights_of_at_most_one(count, dim, seed, search):
    features = arms(count, dim, seed)
    points = coordinates(features)
    rows = max_det(features, search)
    weights = coefficients(points, rows)
    assert len(rows) == dim
    assert list(rows) == sorted(set(rows))
    assert np.abs(weights).max() <= 1 + SLACK
    assert np.allclose(weights @ features[list(rows)], features, atol=ROUNDING)


@pytest.mark.parametrize("count, dim, seed", CASES[:3])
def test_exact_search_finds_the_largest_determinant(count, dim, seed):
    features = arms(count, dim, seed)
    largest = max(itertools.combinations(range(count), dim), key=lambda rows: abs(np.linalg.det(features[list(rows)])))
    assert max_det(features, "exact") == largest


def test_invertible_maps_and_orders_change_nothing():
    features, generator = arms(10, 3, 5), np.random.default_rng(6)
    rows = max_det(features)
    for _ in range(5):
        assert max_det(features @ generator.normal(size=(3, 3))) == rows
        order = generator.permutation(10)
        assert {int(order[r]) for r in max_det(features[order])} == set(rows)


def test_duplicates_take_the_earlier_and_rank_is_reduced():
    features = arms(6, 3, 7)
    doubled = np.concatenate([features, features])
    assert max_det(doubled) == max_det(features)
    flat = features[:, :2] @ np.random.default_rng(1).normal(size=(2, 5))
    assert max_det(flat) == max_det(features[:, :2])
    assert list(ranks(np.stack([flat[:4], np.repeat(flat[:1], 4, 0)]))) == [2, 1]
    assert max_det([[1.0], [-3.0], [2.0]]) == (1,)


def test_a_random_set_spans():
    features = np.concatenate([np.zeros((2, 3)), arms(5, 3, 8)])
    found = {random_spanning(features, np.random.default_rng(s)) for s in range(30)}
    assert len(found) > 3
    for rows in found:
        assert np.linalg.matrix_rank(features[list(rows)]) == len(rows) == 3


@pytest.mark.parametrize(
    "features, said",
    [
        ([[1.0, float("nan")]], "nan in row 0, column 1"),
        ([[0.0, 0.0]], "all zero"),
        ([1.0, 2.0], "have shape"),
        ([["a"]], "table of numbers"),
        (np.zeros((0, 2)), "have shape"),
    ],
)
def test_features_that_cannot_be_used(features, said):
    with pytest.raises(UserError, match=said):
        max_det(features)
