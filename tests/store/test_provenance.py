"""Where a result was made."""

import platform
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import steersman
from steersman.store import provenance
from steersman.store.provenance import machine, made_by, source_hash


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of the library that `source_hash` takes for the installed one."""
    root = tmp_path / "steersman"
    for name in ("__init__.py", "core/noise.py", "cli/main.py", "page/html.py", "study/report.py", "study/run.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n")
    monkeypatch.setattr(provenance.steersman, "__file__", str(root / "__init__.py"))
    source_hash.cache_clear()
    yield root
    source_hash.cache_clear()


def fresh() -> str:
    source_hash.cache_clear()
    return source_hash()


def test_the_hash_follows_code_that_changes_results(copied: Path) -> None:
    before = source_hash()
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    for name in ("core/noise.py", "study/run.py", "__init__.py"):
        (copied / name).write_text("changed")
        assert fresh() != before
        (copied / name).write_text(f"# {name}\n")
        assert fresh() == before
    (copied / "core" / "new.py").write_text("")
    assert fresh() != before


def test_the_hash_ignores_what_is_only_shown(copied: Path) -> None:
    before = source_hash()
    for name in ("cli/main.py", "page/html.py", "study/report.py"):
        (copied / name).write_text("changed")
    (copied / "core" / "notes.txt").write_text("changed")
    assert fresh() == before
    shutil.copytree(copied, copied.parent / "elsewhere")


def test_a_renamed_module_is_another_library(copied: Path) -> None:
    before = source_hash()
    (copied / "core" / "noise.py").rename(copied / "core" / "sound.py")
    assert fresh() != before


def test_versions_are_those_imported() -> None:
    found = made_by()
    assert found["steersman"] == steersman.__version__
    assert found["source"] == source_hash()
    assert found["python"] == platform.python_version()
    assert torch.__version__.startswith(found["torch"].split("+")[0])
    assert found["numpy"] == np.__version__


def test_a_package_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "transformers":
            raise provenance.PackageNotFoundError
        return "1"

    monkeypatch.setattr(provenance, "version", version)
    assert "transformers" not in made_by()
    assert made_by()["torch"] == "1"


def test_the_machine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"\d+ cores, \d+ GiB, \S+, \S+", machine())

    def unknown(_: str) -> int:
        raise ValueError

    monkeypatch.setattr(provenance.os, "sysconf", unknown)
    assert "nan GiB" in machine()
