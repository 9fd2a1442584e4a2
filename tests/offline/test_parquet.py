"""Parquet: round trips, streaming, names of columns, broken files."""

import sys
from pathlib import Path

import numpy as np
import polars
import pytest

from steersman.core.errors import UserError
from steersman.offline.arrays import to_d4rl
from steersman.offline.chunks import check_chunk
from steersman.offline.files import open_log
from steersman.offline.measure import count
from steersman.offline.names import find
from steersman.offline.parquet import open_parquet, read_parquet, write_parquet
from steersman.offline.returns import returns
from steersman.offline.transitions import Transitions, concatenate


def same(a: Transitions, b: Transitions) -> None:
    assert a.columns().keys() == b.columns().keys()
    for k, x in a.columns().items():
        np.testing.assert_array_equal(x, b.columns()[k])
    np.testing.assert_array_equal(a.episode, b.episode)
    np.testing.assert_array_equal(a.begins(), b.begins())


def test_round_trip(tmp_path: Path, log: Transitions) -> None:
    write_parquet(log, tmp_path / "a.parquet")
    same(read_parquet(tmp_path / "a.parquet", n_actions=3), log)
    part = concatenate([log.slice(3, 25), log.slice(28, 60)])  # late and cut episodes, inside as well
    write_parquet(part, tmp_path / "b.parquet")
    same(Transitions.from_parquet(tmp_path / "b.parquet", unflagged="cut"), part)
    with pytest.raises(UserError, match="episode 2: ends in row 21, but is neither"):
        read_parquet(tmp_path / "b.parquet")


def test_extra_columns_round_trip(tmp_path: Path, log: Transitions) -> None:
    extra = {"mc_return": np.arange(60.0), "condition": np.arange(120.0).reshape(60, 2)}
    more = Transitions.from_arrays(log.obs, log.obs[:, :2], log.reward, log.terminated, log.truncated, extra=extra)
    write_parquet(more, tmp_path / "a.parquet")
    same(read_parquet(tmp_path / "a.parquet"), more)


@pytest.mark.parametrize("size", [1, 2, 7, 10, 59, 60, 1000])
def test_streaming_gives_the_same_rows(tmp_path: Path, log: Transitions, size: int) -> None:
    write_parquet(log, tmp_path / "a.parquet")
    chunks = list(open_parquet(tmp_path / "a.parquet").chunks(size))
    assert max(len(c) for c in chunks) <= size + 1
    assert [c.start for c in chunks] == list(np.cumsum([0, *(len(c) for c in chunks)])[:-1])
    for name in ("obs", "action", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(np.concatenate([getattr(c, name) for c in chunks]), getattr(log, name))
    np.testing.assert_array_equal(np.concatenate([c.begin for c in chunks]), log.begins())
    assert count(open_parquet(tmp_path / "a.parquet")) == count(log)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("meaning", "dropped"), [("terminated", 0), ("truncated", 0), ("cut", 3)])
def test_silent_ends_across_chunks(tmp_path: Path, size: int, meaning: str, dropped: int) -> None:
    frame = {"obs": np.arange(9), "action": [0] * 9, "reward": np.ones(9), "episode": [0, 0, 0, 5, 5, 5, 1, 1, 1]}
    polars.DataFrame(frame).write_parquet(tmp_path / "a.parquet")
    log = open_parquet(tmp_path / "a.parquet", unflagged=meaning)
    flags = np.concatenate([c.terminated | c.truncated for c in log.chunks(size)])
    assert np.flatnonzero(flags).tolist() == ([] if dropped else [2, 5, 8])
    found = returns(log)
    assert (found.dropped, found.value.tolist()) == (dropped, [] if dropped else [3.0] * 3)
    with pytest.raises(UserError, match="episode 0: ends in row 2, but is neither"):
        list(open_parquet(tmp_path / "a.parquet").chunks(size))


def checked(path: Path, size: int) -> None:
    for chunk in open_parquet(path).chunks(size):
        check_chunk(chunk, None)


def base(**changed: object) -> dict[str, object]:
    frame = {
        "obs_0": np.arange(6.0), "obs_1": np.ones(6), "action": [0, 1] * 3, "reward": np.ones(6),
        "terminated": [False] * 5 + [True],
    }  # fmt: skip
    return {k: v for k, v in {**frame, **changed}.items() if v is not None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reward": [1.0, None, 1, 1, 1, 1]}, "reward, row 1: is empty"),
        ({"reward": [1.0, 1, 1, float("nan"), 1, 1]}, "reward, row 3: nan"),
        ({"obs_1": [1.0, 1, 1, 1, float("inf"), 1]}, "obs, row 4, column 1: inf"),
        ({"action": [0, 1, 0, -1, 0, 0]}, "action, row 3: is -1"),
        ({"action": ["a"] * 6}, "action: is object"),
        ({"terminated": None}, "nothing says where episodes end"),
        ({"terminated": None, "done": [False] * 5 + [True]}, "'done' does not tell a time limit from an end"),
        ({"terminated": [False] * 6}, "none of 6 rows is terminated or truncated"),
        ({"terminated": [0, 0, 0, 3, 0, 1]}, "terminated, row 3: is 3"),
        ({"reward": None}, "no column of rewards was found"),
        ({"obs_0": None, "obs_1": None, "x": np.ones(6)}, "no column of observations was found"),
        ({"obs_0": None, "obs_1": None, "obs": [[1.0, 2.0]] * 5 + [[1.0]]}, "obs, row 5: has 1 entries"),
    ],
)
def test_what_is_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    polars.DataFrame(base(**changed)).write_parquet(tmp_path / "a.parquet")
    for size in (2, 1000):
        with pytest.raises(UserError) as error:
            checked(tmp_path / "a.parquet", size)
        assert message in str(error.value)


def test_float_actions_in_a_discrete_space(tmp_path: Path) -> None:
    polars.DataFrame(base(action=np.zeros(6))).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="in a space of 2 actions"):
        read_parquet(tmp_path / "a.parquet", n_actions=2)
    assert read_parquet(tmp_path / "a.parquet").action.shape == (6, 1)


def test_lists_and_numbered_columns(tmp_path: Path) -> None:
    rows = np.arange(12.0).reshape(6, 2)
    for obs in (rows.tolist(), polars.Series(rows)):
        polars.DataFrame(base(obs_0=None, obs_1=None, observations=obs)).write_parquet(tmp_path / "a.parquet")
        np.testing.assert_array_equal(read_parquet(tmp_path / "a.parquet").obs, rows)


def test_names_are_found_in_the_order_of_their_numbers() -> None:
    c = find(["state[10]", "state[2]", "actions", "rewards", "timeouts"], "t")
    assert c.obs == ("state[2]", "state[10]")
    assert (c.action, c.reward, c.terminated, c.truncated) == (("actions",), "rewards", "", "timeouts")
    assert find(["x", "y", "action", "reward", "end"], "t", {"obs": ("y", "x"), "truncated": ("end",)}).obs == (
        "y",
        "x",
    )
    with pytest.raises(UserError, match="no column 'z'"):
        find(["x"], "t", {"obs": ("z",)})
    with pytest.raises(UserError, match="reward has several columns"):
        find(["obs", "action", "r_0", "r_1"], "t", {"reward": ("r",)})


def test_broken_and_foreign_files(tmp_path: Path, log: Transitions) -> None:
    whole = tmp_path / "a.parquet"
    write_parquet(log, whole)
    (tmp_path / "short.parquet").write_bytes(whole.read_bytes()[:500])
    with pytest.raises(UserError, match=r"short.parquet: cannot be read as Parquet"):
        open_log(tmp_path / "short.parquet")
    for name, said in (("a.txt", "of unknown kind .txt"), ("a.npz", "cannot be read as a NumPy archive")):
        (tmp_path / name).write_text("hello")
        with pytest.raises(UserError, match=said):
            open_log(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        open_log(tmp_path / "none")
    with pytest.raises(UserError, match="folder of unknown content"):
        open_log(tmp_path)
    polars.DataFrame(base()).clear().write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="has no rows"):
        open_log(tmp_path / "empty.parquet")
    frames = Transitions.from_arrays(np.zeros((6, 2, 2), np.uint8), [0] * 6, [0.0] * 6, [0] * 5 + [1], [0] * 6)
    with pytest.raises(UserError, match="flatten them first"):
        write_parquet(frames, tmp_path / "b.parquet")


def test_archives_and_folders(tmp_path: Path, log: Transitions) -> None:
    np.savez(tmp_path / "a.npz", **to_d4rl(log))
    again = open_log(tmp_path / "a.npz", n_actions=3)
    np.testing.assert_array_equal(again.obs, log.obs)
    np.savez(tmp_path / "b.npz", obs=log.obs, action=log.action, reward=log.reward, stop=log.truncated | log.terminated)
    found = open_log(tmp_path / "b.npz", {"truncated": ("stop",)})
    assert found.truncated.sum() == 6
    log.save(tmp_path / "folder")
    same(open_log(tmp_path / "folder"), log)
    np.savez(tmp_path / "c.npz", observations=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="NumPy archive"):  # pickles are never read
        open_log(tmp_path / "c.npz")


def test_hdf5_in_d4rl_names(tmp_path: Path, log: Transitions) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, x in to_d4rl(log).items():
            file[name] = x
        file["infos/goal"] = np.zeros(3)
    found = open_log(tmp_path / "a.hdf5", n_actions=3)
    np.testing.assert_array_equal(found.obs, log.obs)
    np.testing.assert_array_equal(found.episode, log.episode)
    (tmp_path / "b.hdf5").write_bytes((tmp_path / "a.hdf5").read_bytes()[:300])
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        open_log(tmp_path / "b.hdf5")


def test_hdf5_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"HDF5 needs the package h5py(.|\n)*steersman\[control\]"):
        open_log(tmp_path / "a.hdf5")
