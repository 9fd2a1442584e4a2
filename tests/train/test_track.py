"""Trackers: nothing written before the first metrics, events that read back, a missing package said early."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.core.errors import UserError
from steersman.train.track import open_tracker


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {name: [(e.step, e.value) for e in read.Scalars(name)] for name in read.Tags()["scalars"]}


def test_tensorboard_events_read_back_and_a_resumed_run_replaces_what_it_repeats(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    write, close = open_tracker("tensorboard", tmp_path, {})
    assert list(tmp_path.iterdir()) == []
    for step in (1, 2, 3):
        write(step, {"loss": step / 2, "eval/accuracy": 0.5})
    close()
    assert events(tmp_path / "tensorboard")["loss"] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    write, close = open_tracker("tensorboard", tmp_path, {})
    write(3, {"loss": 9.0})
    close()
    found = events(tmp_path / "tensorboard")
    assert found["loss"] == [(1, 0.5), (2, 1.0), (3, 9.0)]
    assert found["eval/accuracy"] == [(1, 0.5), (2, 0.5)]


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_the_two_services_get_settings_metrics_and_steps(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append("finished")
    )

    def init(**known: Any) -> Any:
        calls.append(known)
        return run

    monkeypatch.setitem(sys.modules, kind, SimpleNamespace(init=init))
    write, close = open_tracker(kind, tmp_path / "name", {"verb": "sft"})
    assert calls == []
    write(1, {"loss": 2.0})
    write(2, {"loss": 1.0})
    close()
    settings = {"project": "steersman", "name": "name", "config": {"verb": "sft"}}
    assert calls == [settings, (1, {"loss": 2.0}), (2, {"loss": 1.0}), "finished"]


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_said_before_training(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=f"{kind} is not installed\n.*pip install"):
        open_tracker(kind, tmp_path, {})


def test_none_writes_nothing(tmp_path: Path) -> None:
    write, close = open_tracker("none", tmp_path, {})
    write(1, {"loss": 1.0})
    close()
    assert list(tmp_path.iterdir()) == []
