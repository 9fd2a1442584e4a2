"""Pairs as bytes, and the discretiser: the cells of numpy.digitize, stored edges, refusals."""

import json

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.offline.count import ExactCounter
from steersman.offline.measure import unique_pairs
from steersman.offline.rows import Discretizer, Plain


def test_cells_are_those_of_the_papers_code() -> None:
    draw = np.random.default_rng(0)
    ref, obs = draw.standard_normal((500, 3)), draw.standard_normal((900, 3)) * 1.5
    grid = Discretizer.fit(ref, 100)
    for d in range(3):
        edges = np.linspace(ref[:, d].min(), ref[:, d].max(), 100)
        assert (grid.cells(obs)[:, d] == np.digitize(obs[:, d], edges)).all()
    cells = grid.cells(obs)
    assert cells.min() == 0  # below the reference
    assert cells.max() == 100  # from its maximum on


def test_ends_of_the_reference() -> None:
    grid = Discretizer.fit([0.0, 1.0], bins=5)
    assert grid.cells(np.array([[-0.1], [0.0], [0.24], [0.25], [0.99], [1.0], [7.0]]))[:, 0].tolist() == [
        0,
        1,
        1,
        2,
        4,
        5,
        5,
    ]


def test_a_constant_dimension() -> None:
    assert Discretizer.fit([3.0, 3.0], bins=4).cells(np.array([[2.0], [3.0], [4.0]]))[:, 0].tolist() == [0, 4, 4]


def test_many_edges_need_more_than_a_byte() -> None:
    x = np.linspace(0, 1, 1000)[:, None]
    assert len(np.unique(Discretizer.fit(x, 1000).cells(x))) == 1000


def test_continuous_actions() -> None:
    draw = np.random.default_rng(1)
    obs, action = draw.random((400, 2)), draw.random((400, 1))
    grid = Discretizer.fit(obs, 5, action)
    cells = np.concatenate([grid.cells(obs), np.digitize(action, np.linspace(action.min(), action.max(), 5))], 1)
    assert unique_pairs(obs, action, grid) == len(np.unique(cells, axis=0))
    with pytest.raises(UserError, match="no edges for them"):
        unique_pairs(obs, action, Discretizer.fit(obs, 5))


def test_fitting_a_log_is_fitting_its_arrays() -> None:
    draw = np.random.default_rng(2)
    from steersman.offline.transitions import Transitions

    n = 300
    log = Transitions.from_arrays(draw.random((n, 2)), draw.random((n, 3)), [0.0] * n, np.arange(n) == n - 1, [0] * n)
    assert Discretizer.fit(log, 7) == Discretizer.fit(log.obs, 7, log.action)


def test_it_is_stored_with_the_result() -> None:
    grid = Discretizer.fit(np.random.default_rng(3).random((9, 2)), 8, np.random.default_rng(4).random((9, 1)))
    again = Discretizer.from_json(json.loads(json.dumps(grid.as_json())))
    assert again == grid
    zero = np.zeros((1, 2))
    assert again.signature(zero, zero) == grid.signature(zero, zero)
    assert Discretizer.fit([0.0, 1.0], 8).signature(zero, zero) != Discretizer.fit([0.0, 1.0], 9).signature(zero, zero)


def test_grids_do_not_depend_on_the_dtype() -> None:
    obs, action = np.array([[0.25], [0.5]], np.float32), np.array([0, 1])
    grid = Discretizer.fit(obs, 4)
    counter = ExactCounter().update(grid.rows(obs, action), grid.signature(obs, action))
    wide = obs.astype(np.float64)
    assert counter.update(grid.rows(wide, action), grid.signature(wide, action)).count() == 2


def test_images_are_counted_by_their_bytes() -> None:
    frames = np.random.default_rng(5).integers(0, 2, (50, 2, 2, 1)).astype(np.uint8)
    assert Plain().rows(frames, np.zeros(50, np.uint8)).shape == (50, 5)
    assert unique_pairs(frames, np.zeros(50, int)) == len(np.unique(frames.reshape(50, -1), axis=0))


def test_what_cannot_be_a_grid_is_refused() -> None:
    for bins in (1, 2**16, 2.5):
        with pytest.raises(UserError, match="2 to 65535"):
            Discretizer.fit([0.0, 1.0], bins)
    with pytest.raises(UserError, match=r"obs, row 1, column 0: nan"):
        Discretizer.fit([[0.0], [np.nan]])
    with pytest.raises(UserError, match="low <= high"):
        Discretizer((1.0,), (0.0,))
    with pytest.raises(UserError, match="has 2 dimensions, the discretiser 1"):
        Discretizer((0.0,), (1.0,)).cells(np.zeros((1, 2)))
    with pytest.raises(UserError, match="no rows"):
        Discretizer.fit(np.zeros((0, 2)))
    with pytest.raises(UserError, match=r"action, row 1"):
        unique_pairs([[0.0], [1.0]], [0, -1], Discretizer.fit([0.0, 1.0]))
