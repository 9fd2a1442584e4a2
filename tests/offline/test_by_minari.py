"""Minari, where it is installed: round trips through its own files, and refusals."""

import sys
from pathlib import Path

import numpy as np
import pytest

from steersman.core.errors import UserError
from steersman.offline.by_minari import from_minari, to_minari
from steersman.offline.files import open_log
from steersman.offline.transitions import Transitions

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for Minari's data sets; skips where Minari or its storage is missing."""
    for package in ("minari", "h5py", "PIL"):
        pytest.importorskip(package)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("continuous", [False, True])
def test_round_trip(store: Path, log: Transitions, continuous: bool) -> None:
    action = log.obs[:, :2] if continuous else log.action
    full = Transitions.from_arrays(
        log.obs, action, log.reward, log.terminated, log.truncated, next_obs=log.next_obs,
        n_actions=None if continuous else 3,
    )  # fmt: skip
    # Within an episode Minari stores an observation once; only the last one after it is apart.
    made = to_minari(full, "lab/test-v0", author="nobody")
    for again in (from_minari(made), from_minari("lab/test-v0"), open_log(store / "lab" / "test-v0")):
        for name, x in full.columns().items():
            np.testing.assert_array_equal(x, again.columns()[name])
        np.testing.assert_array_equal(full.episode, again.episode)
        assert again.n_actions == full.n_actions
    assert "jax" not in sys.modules


def test_what_is_refused(store: Path, log: Transitions) -> None:
    with pytest.raises(UserError, match="2 of 3 episodes are cut or lack their first steps"):
        to_minari(log.slice(5, 25), "lab/part-v0")
    to_minari(log, "lab/test-v0")
    with pytest.raises(UserError, match="Minari refuses it"):
        to_minari(log, "lab/test-v0")
    with pytest.raises(UserError, match="lab/none-v0: cannot be read as a Minari data set"):
        from_minari("lab/none-v0")
    (store / "lab" / "test-v0" / "data" / "main_data.hdf5").write_bytes(b"broken")
    with pytest.raises(UserError, match="an episode cannot be read"):
        open_log(store / "lab" / "test-v0")
    (store / "lab" / "test-v0" / "data" / "metadata.json").write_text("broken")
    with pytest.raises(UserError, match="cannot be read as a Minari data set"):
        open_log(store / "lab" / "test-v0")


def test_without_minari(monkeypatch: pytest.MonkeyPatch, log: Transitions) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    for call in (lambda: from_minari("lab/test-v0"), lambda: to_minari(log, "lab/test-v0")):
        with pytest.raises(UserError, match=r"Minari is not installed(.|\n)*steersman\[control\]"):
            call()
