"""Transitions in memory and mapped: batches, slices, joining, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steersman.core.errors import CorruptFile, UserError
from steersman.offline.arrays import from_arrays, from_d4rl, to_d4rl
from steersman.offline.chunks import FIRST, INSIDE, LATE
from steersman.offline.returns import returns
from steersman.offline.transitions import Transitions, concatenate, draw


def same(a: Transitions, b: Transitions) -> None:
    assert a.columns().keys() == b.columns().keys()
    for k, x in a.columns().items():
        assert x.dtype == b.columns()[k].dtype
        np.testing.assert_array_equal(x, b.columns()[k])
    np.testing.assert_array_equal(a.episode, b.episode)
    np.testing.assert_array_equal(a.begins(), b.begins())
    assert a.n_actions == b.n_actions


def test_episodes_follow_the_flags(log: Transitions) -> None:
    assert log.episode.tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert log.begins().tolist() == ([FIRST] + [INSIDE] * 9) * 6
    assert log.discrete
    np.testing.assert_array_equal(log.next_obs[:9], log.obs[1:10])


def test_what_follows_a_time_limit_is_not_known(log: Transitions) -> None:
    known = log.extra["bootstrap"]
    assert np.flatnonzero(~known).tolist() == [19, 39, 59]  # truncated; after terminated rows nothing follows
    full = from_arrays(log.obs, log.action, log.reward, log.terminated, log.truncated, next_obs=log.next_obs)
    assert "bootstrap" not in full.extra


def test_a_batch_is_the_rows(log: Transitions) -> None:
    rows = np.array([3, 59, 3])
    batch = log.batch(rows)
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        assert torch.equal(getattr(batch, name), torch.from_numpy(getattr(log, name)[rows]))
    assert batch.extra["bootstrap"].tolist() == [True, False, True]
    with pytest.raises(UserError, match="allowed: 0 to 59"):
        log.batch(np.array([60]))


def test_drawing_is_a_function_of_seed_and_step() -> None:
    one = draw(50, 256, 0, 7)
    assert (one == draw(50, 256, 0, 7)).all()
    assert (one != draw(50, 256, 0, 8)).any()
    assert (one != draw(50, 256, 1, 7)).any()
    assert 0 <= one.min() <= one.max() <= 49
    assert len(np.unique(np.concatenate([draw(50, 256, 0, i) for i in range(4)]))) == 50
    with pytest.raises(UserError, match="1 or more"):
        draw(0, 5, 0, 0)


def test_a_slice_knows_what_it_lacks(log: Transitions) -> None:
    part = log.slice(5, 25)
    assert part.episode.tolist() == [0, 5, 15, 20]
    assert part.begins()[[0, 5, 15]].tolist() == [LATE, FIRST, FIRST]
    found = returns(part)
    assert (len(found.value), found.late, found.cut, found.dropped) == (1, 1, 1, 2)
    assert found.value[0] == pytest.approx(log.reward[10:20].sum(), abs=1e-12)
    again = part.slice(2, 12)
    assert again.begins()[0] == LATE
    assert log.slice(10, 20).started.all()
    assert np.shares_memory(part.obs, log.obs)
    same(log.slice(0, 60), log)
    with pytest.raises(UserError, match="no rows 5 to 61"):
        log.slice(5, 61)


def test_joining_never_joins_episodes(log: Transitions) -> None:
    both = concatenate([log.slice(0, 15), log.slice(25, 60)])
    assert len(both) == 50
    assert both.episode.tolist() == [0, 10, 15, 20, 30, 40, 50]
    assert both.begins()[[0, 10, 15]].tolist() == [FIRST, FIRST, LATE]
    found = returns(both)
    assert (found.cut, found.late, len(found.value)) == (1, 1, 4)
    with pytest.raises(UserError, match="part 1: obs is float64"):
        concatenate(
            [
                log,
                from_arrays(log.obs.astype(float), log.action, log.reward, log.terminated, log.truncated, n_actions=3),
            ]
        )
    with pytest.raises(UserError, match="nothing"):
        concatenate([])


def test_returns_do_not_depend_on_chunks(log: Transitions) -> None:
    from steersman.offline.returns import ReturnTracker

    wanted = [float((log.reward[a : a + 10] * 0.9 ** np.arange(10)).sum()) for a in range(0, 60, 10)]
    for size in (1, 3, 10, 17, 60):
        tracker = ReturnTracker(0.9)
        for chunk in log.chunks(size):
            tracker.update(chunk)
        found = tracker.finish()
        np.testing.assert_allclose(found.value, wanted, rtol=0, atol=1e-12)
        assert found.length.tolist() == [10] * 6
        assert found.end.tolist() == [1, 2] * 3
        assert (found.cut, found.late, found.dropped) == (0, 0, 0)
    with pytest.raises(UserError, match="0 to 1"):
        ReturnTracker(1.1)


def test_time_limits_as_ends(log: Transitions) -> None:
    flat = log.timeouts_as_terminal()
    assert not flat.truncated.any()
    assert (flat.terminated == (log.terminated | log.truncated)).all()


def test_a_folder_is_mapped_and_equal(tmp_path: Path, log: Transitions) -> None:
    part = log.slice(5, 60)
    back = Transitions.open(part.save(tmp_path / "log"))
    same(back, part)
    assert isinstance(back.obs.base, np.memmap)
    assert not back.obs.flags.writeable
    assert back.check() is back
    batch = back.batch(np.array([1, 2]))
    assert torch.equal(batch.obs, torch.from_numpy(part.obs[1:3]))


def test_the_folder_is_plain_safetensors(tmp_path: Path, log: Transitions) -> None:
    from safetensors.numpy import load_file

    found = load_file(log.save(tmp_path) / "columns.safetensors")
    np.testing.assert_array_equal(found["obs"], log.obs)
    np.testing.assert_array_equal(found["terminated"], log.terminated)


def test_a_damaged_folder_is_refused(tmp_path: Path, log: Transitions) -> None:
    with pytest.raises(UserError, match="holds no transitions"):
        Transitions.open(tmp_path)
    data = log.save(tmp_path) / "columns.safetensors"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CorruptFile, match="bytes, not"):
        Transitions.open(tmp_path)
    data.unlink()
    with pytest.raises(CorruptFile, match="is missing"):
        Transitions.open(tmp_path)
    log.save(tmp_path)
    (tmp_path / "manifest.json").write_text(
        (tmp_path / "manifest.json").read_text().replace('"format": 1', '"format": 2')
    )
    with pytest.raises(UserError, match="layout 2"):
        Transitions.open(tmp_path)


def given(n: int = 6, **changed: object) -> Transitions:
    base = {
        "obs": np.zeros((n, 2), np.float32), "action": np.zeros(n, int), "reward": np.zeros(n),
        "terminated": np.arange(n) == n - 1, "truncated": np.zeros(n, bool),
    }  # fmt: skip
    return from_arrays(**{**base, **changed})


def at(n: int, row: int, value: float) -> np.ndarray:
    x = np.zeros(n)
    x[row] = value
    return x


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reward": at(6, 3, np.nan)}, "reward, row 3: nan"),
        ({"reward": at(6, 5, np.inf)}, "reward, row 5: inf"),
        ({"obs": at(12, 5, np.nan).reshape(6, 2)}, "obs, row 2, column 1: nan"),
        ({"obs": np.zeros((5, 2))}, "obs: has 5 rows, reward has 6"),
        ({"terminated": np.zeros(6)}, "none of 6 rows is terminated or truncated"),
        ({"terminated": at(6, 5, 2.0)}, "terminated, row 5: is 2.0"),
        ({"action": np.zeros(6), "n_actions": 2}, "action: is float64 [6] in a space of 2 actions"),
        ({"action": at(6, 2, 3).astype(int), "n_actions": 3}, "action, row 2: is 3"),
        ({"action": at(6, 4, -1).astype(int)}, "action, row 4: is -1"),
        ({"action": np.ones((6, 2), int)}, "its rows are not one-hot"),
        ({"action": at(6, 4, np.nan)}, "action, row 4, column 0: nan"),
        ({"episode": [0, 0, 1, 1, 1, 1]}, "episode 0: ends in row 1, but is neither"),
        ({"episode": [0] * 6, "truncated": at(6, 2, 1)}, "episode 0: goes on in row 3 after its end"),
        ({"episode": [0, 1]}, "episode: has shape (2,)"),
        ({"unflagged": "done"}, "unflagged: 'done' is not known"),
        ({"next_obs": np.zeros((6, 3), np.float32)}, "next_obs and obs differ"),
        ({"next_obs": at(12, 3, np.nan).reshape(6, 2).astype("f4")}, "next_obs, row 1, column 1: nan"),
        ({"extra": {"colour": np.zeros(6)}}, "column 'colour' is not declared"),
        ({"obs": [["a"]] * 6}, "obs: is <U1"),
        ({"reward": np.zeros((6, 2))}, "reward: has shape (6, 2)"),
    ],
)
def test_what_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        given(**changed)
    assert message in str(error.value)


def test_tensors_and_lists_go_through_from_arrays(log: Transitions) -> None:
    known = log.columns() | {"episode": log.episode}
    del known["bootstrap"]
    with pytest.raises(UserError, match="reward: is a Tensor"):
        Transitions(**(known | {"reward": torch.from_numpy(log.reward)}))
    with pytest.raises(UserError, match="episode: is a list"):
        Transitions(**(known | {"episode": log.episode.tolist()}))


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(UserError, match="no rows"):
        given(0)


@pytest.mark.parametrize(("meaning", "flags"), [("terminated", [2, 5]), ("truncated", [2, 5]), ("cut", [])])
def test_what_silent_ends_mean(meaning: str, flags: list[int]) -> None:
    log = given(terminated=np.zeros(6), episode=[4, 4, 4, 2, 2, 2], unflagged=meaning)
    assert log.episode.tolist() == [0, 3, 6]
    found = {"terminated": log.terminated, "truncated": log.truncated}
    for name, column in found.items():
        assert np.flatnonzero(column).tolist() == (flags if name == meaning else [])


def test_forms_of_columns() -> None:
    assert given(action=np.zeros((6, 1), int)).action.shape == (6,)
    hot = given(action=np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]], n_actions=3)
    assert hot.action.tolist() == [0, 1, 2, 0, 1, 2]
    assert given(action=np.zeros(6)).action.shape == (6, 1)
    assert given(obs=np.arange(6)).obs.shape == (6, 1)
    assert given(reward=np.arange(6)).reward.dtype == np.float64
    assert given(reward=torch.zeros(6)).reward.dtype == np.float32
    assert given(terminated=at(6, 5, 1.0)).terminated.dtype == bool


def test_d4rl_names_round_trip(log: Transitions) -> None:
    arrays = to_d4rl(log)
    assert set(arrays) == {"observations", "actions", "rewards", "terminals", "timeouts", "next_observations"}
    back = from_d4rl(arrays, n_actions=3)
    np.testing.assert_array_equal(back.obs, log.obs)
    np.testing.assert_array_equal(back.episode, log.episode)
    short = {k: v for k, v in arrays.items() if k not in ("timeouts", "next_observations")}
    assert len(from_d4rl(short).episode) == 5  # three terminated, and a rest that is cut
    with pytest.raises(UserError, match="'rewards' is missing"):
        from_d4rl({k: v for k, v in arrays.items() if k != "rewards"})
    with pytest.raises(UserError, match="cut inside"):
        to_d4rl(concatenate([log.slice(0, 5), log]))
