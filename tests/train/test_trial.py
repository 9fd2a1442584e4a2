"""The loop `trial`: outcomes do not depend on batches, journals are written once and never silently wrong."""

import json

import numpy as np
import pytest

from steersman.core.errors import CorruptFile, RunStopped, UserError
from steersman.train.trial import Journal, TrialNoise, run_trials

FOUR_SIGMA = 4.0
REPLICATIONS = 4_000


def procedure(noise: TrialNoise):
    u = noise.uniform("coin", 3)
    return {"mean": u.mean(1), "all": u, "id": noise.index}


def test_batches_and_prolonging_change_nothing():
    whole = run_trials(procedure, 100, seed=3)
    parts = run_trials(procedure, 100, seed=3, batch=7)
    later = run_trials(procedure, 60, seed=3, first=40)
    for name in whole:
        assert np.array_equal(whole[name], parts[name])
        assert np.array_equal(whole[name][40:], later[name])
    assert not np.array_equal(whole["mean"], run_trials(procedure, 100, seed=4)["mean"])


def test_noise_of_replications_positions_steps_and_purposes_differs():
    noise = TrialNoise(0, np.arange(REPLICATIONS))
    columns = [
        noise.uniform("a", 2),
        noise.uniform("b"),
        noise.uniform("a", step=1),
    ]
    table = np.concatenate(columns, 1)
    off = np.corrcoef(table.T)[~np.eye(4, dtype=bool)]
    assert np.abs(off).max() < FOUR_SIGMA / np.sqrt(REPLICATIONS)
    assert np.array_equal(noise.uniform("a", 1, first=1), columns[0][:, 1:])
    assert np.array_equal(noise.rows(noise.index > 5).uniform("b"), columns[1][6:])


def test_outcomes_are_checked():
    with pytest.raises(RunStopped, match="worth is NaN in replication 12"):
        run_trials(lambda n: {"worth": np.where(n.index == 12, np.nan, 1.0)}, 20, batch=5)
    with pytest.raises(UserError, match="has shape"):
        run_trials(lambda n: {"worth": np.zeros(3)}, 20)
    with pytest.raises(UserError, match="replications 0"):
        run_trials(procedure, 0)
    with pytest.raises(UserError, match="same names"):
        run_trials(lambda n: {f"x{n.index[0]}": n.index}, 4, batch=2)


def test_a_journal_goes_on_where_it_stopped(tmp_path):
    first = Journal(tmp_path / "j", {"budget": 10})
    first.append({"noisy": 3})
    first.append({"noisy": float("inf")})
    again = Journal(tmp_path / "j", {"budget": 10})
    assert again.entries == [{"noisy": 3}, {"noisy": float("inf")}]
    again.append([4])
    assert [p.name for p in sorted((tmp_path / "j").iterdir())] == ["0001.json", "0002.json", "0003.json", "about.json"]


def test_no_entry_is_written_twice(tmp_path):
    one, other = Journal(tmp_path / "j", {}), Journal(tmp_path / "j", {})
    one.append(1)
    with pytest.raises(RunStopped, match="not drawn twice"):
        other.append(2)
    assert Journal(tmp_path / "j", {}).entries == [1]
    assert other.entries == []


def test_what_is_wrong_with_a_journal_is_said(tmp_path):
    journal = Journal(tmp_path / "j", {"a": 1})
    with pytest.raises(UserError, match="another experiment"):
        Journal(tmp_path / "j", {"a": 2})
    journal.append(5)
    journal.append(6)
    entry = tmp_path / "j" / "0001.json"
    text = entry.read_text()
    entry.write_text(json.dumps(json.loads(text) | {"entry": 7}))
    with pytest.raises(CorruptFile, match="altered"):
        Journal(tmp_path / "j", {"a": 1})
    entry.unlink()
    with pytest.raises(CorruptFile, match="entry 1 is missing"):
        Journal(tmp_path / "j", {"a": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(UserError, match="no journal"):
        Journal(tmp_path / "other", {})
    with pytest.raises(UserError, match="is a file"):
        Journal(tmp_path / "other" / "x", {})


def test_a_write_that_fails_leaves_no_entry(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j", {})
    monkeypatch.setattr("os.link", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunStopped, match="disk is full"):
        journal.append(1)
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "j").iterdir()] == ["about.json"]
    journal.append(1)
    assert Journal(tmp_path / "j", {}).entries == [1]


def test_an_entry_whose_writer_died_before_naming_it_is_taken_over_and_a_torn_one_is_not(tmp_path):
    journal = Journal(tmp_path / "j", {})
    journal.append(1)
    (tmp_path / "j" / "0001.json").rename(tmp_path / "j" / ".0001.json.part")
    assert Journal(tmp_path / "j", {}).entries == [1]
    assert (tmp_path / "j" / "0001.json").exists()
    (tmp_path / "j" / ".0002.json.part").write_text('{"digest":"12')
    again = Journal(tmp_path / "j", {})
    assert again.entries == [1]
    again.append(2)
    assert [p.name for p in sorted((tmp_path / "j").iterdir())] == ["0001.json", "0002.json", "about.json"]


def test_an_entry_that_another_process_is_writing_is_not_written(tmp_path):
    journal = Journal(tmp_path / "j", {})
    (tmp_path / "j" / ".0001.json.part").touch()
    with pytest.raises(RunStopped, match="being written"):
        journal.append(1)
    assert (tmp_path / "j" / ".0001.json.part").exists()
