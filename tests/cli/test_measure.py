"""`steersman measure` as a user sees it: advice with both measures, silence without, files of all kinds, refusals."""

import json

import numpy as np
import polars
import pytest

from steersman.offline.arrays import to_d4rl
from steersman.offline.parquet import write_parquet
from steersman.offline.transitions import Transitions


def walk(seed: int, n: int = 600, better: float = 0.0) -> Transitions:
    draw = np.random.default_rng(seed)
    last = np.arange(n) % 20 == 19
    obs = draw.standard_normal((n, 2)).cumsum(0) % 7
    return Transitions.from_arrays(obs, draw.integers(0, 3, n), draw.random(n) + better, last, last & False)


@pytest.fixture
def files(tmp_path):
    for name, log in {"log": walk(0, better=0.3), "ref": walk(1), "random": walk(2), "short": walk(3, 200)}.items():
        write_parquet(log, tmp_path / f"{name}.parquet")
    return tmp_path


def test_with_everything(cli, files):
    words = ("--ref", files / "ref.parquet", "--low", files / "random.parquet", "--high", "25", "--bins", "8")
    done = cli("measure", files / "log.parquet", *words, "--out", files / "out")
    assert done.code == 0, done.err
    for word in ("TQ", "SACo", "imitation", "constrained methods", "Begin with", "time limit stored as termination"):
        assert word in " ".join(done.out.split())
    assert max(map(len, done.out.splitlines()[:-1])) <= 100
    assert "low: mean return" in done.err
    said = json.loads((files / "out" / "measure.json").read_text())
    assert 0 < said["quality"]["tq"] < 1
    assert said["coverage"]["unique_reference"] == said["reference"]["unique_pairs"]
    assert said["discretiser"]["bins"] == 8
    assert said["advice"]["family"] in done.out
    assert "<svg" in (files / "out" / "report.html").read_text()


@pytest.mark.parametrize("some", [(), ("--ref", "ref"), ("--low", "0", "--high", "9")])
def test_without_both_it_describes_and_recommends_nothing(cli, files, some):
    words = [files / "ref.parquet" if w == "ref" else w for w in some]
    done = cli("measure", files / "log.parquet", *words, "--out", files / "out", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["advice"]["family"] is None
    assert said["advice"]["families"] == []
    assert said["log"]["transitions"] == 600
    assert "recommended: that needs" in said["advice"]["sentence"]
    assert "works" not in (files / "out" / "report.html").read_text()


def test_both_counters_agree(cli, files):
    found = []
    for counter in ("exact", "hll"):
        done = cli("measure", files / "log.parquet", "--counter", counter, "--out", files / "out", "--json")
        found.append(json.loads(done.out)["log"]["unique_pairs"])
    assert found[1] == pytest.approx(found[0], rel=0.03)


def test_sizes_that_differ(cli, files):
    words = ("measure", files / "log.parquet", "--ref", files / "short.parquet", "--out", files / "out")
    done = cli(*words)
    assert done.code == 2
    assert "has 600 transitions, the reference 200" in done.err
    assert "--repeats 5" in done.err
    done = cli(*words, "--repeats", "3", "--json")
    assert json.loads(done.out)["coverage"]["transitions"] == 200


def test_archives_folders_and_unusual_names(cli, files):
    log = walk(5)
    np.savez(files / "d4rl.npz", **to_d4rl(log))
    log.save(files / "folder")
    table = {
        "temp": log.obs[:, 0],
        "wind": log.obs[:, 1],
        "valve": log.action,
        "gain": log.reward,
        "night": log.terminated,
    }
    polars.DataFrame(table).write_parquet(files / "own.parquet")
    names = ("--obs", "temp,wind", "--action", "valve", "--reward", "gain", "--truncated", "night")
    pairs = set()
    for words in (("d4rl.npz",), ("folder",), ("own.parquet", *names)):
        done = cli("measure", files / words[0], *words[1:], "--out", files / "out", "--json")
        assert done.code == 0, done.err
        pairs.add(json.loads(done.out)["log"]["unique_pairs"])
    assert len(pairs) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.parquet",), "none.parquet: does not exist"),
        (("cut.parquet",), "cannot be read as Parquet"),
        (("nan.parquet",), "reward, row 7: nan"),
        (("note.txt",), "of unknown kind .txt"),
        (("log.parquet", "--low", "3"), "--low: is given without --high"),
        (("log.parquet", "--low", "3", "--high", "3"), "expert and minimum returns are equal (3)"),
        (("log.parquet", "--low", "lots", "--high", "3"), "--low: 'lots' is neither a number nor a log"),
        (("log.parquet", "--ref", "other.parquet"), "observations are float64 [2], those of"),
        (("log.parquet", "--counter", "kmv"), "--counter: 'kmv' is not known"),
        (("log.parquet", "--bins", "1"), "--bins: 1 edges make no cells"),
        (("log.parquet", "--discount", "1.5"), "--discount: 1.5 is out of range"),
        (("log.parquet", "--actions", "2"), "is 2"),
        (("log.parquet", "--ends", "done"), "'done' is not known"),
        (("log.parquet", "--obs", "speed"), "there is no column 'speed'"),
        (("real.parquet", "--actions", "3"), "is float64 [600, 2] in a space of 3 actions"),
    ],
)
def test_refusals(cli, files, words, said):
    whole = (files / "log.parquet").read_bytes()
    (files / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (files / "note.txt").write_text("a note")
    table = polars.read_parquet(files / "log.parquet")
    reward = table["reward"].to_numpy().copy()
    reward[7] = np.nan
    table.with_columns(polars.Series("reward", reward)).write_parquet(files / "nan.parquet")
    table.drop("obs_1", "next_obs_1").write_parquet(files / "other.parquet")
    real = table.drop("action").with_columns(action_0=table["obs_0"], action_1=table["obs_1"])
    real.write_parquet(files / "real.parquet")
    given = [files / w if w.endswith((".parquet", ".txt")) else w for w in words]
    done = cli("measure", *given, "--out", files / "out")
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (files / "out" / "measure.json").exists()
