"""The command line's tests use the toy studies of the harness's tests, and call commands in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from steersman.cli.main import run

STUDY_TESTS = Path(__file__).parents[1] / "study"
sys.path[:0] = [str(STUDY_TESTS), str(STUDY_TESTS / "toys")]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run a command line; gives its exit code and both streams."""

    def call(*words: object) -> SimpleNamespace:
        capfd.readouterr()
        code = run([str(w) for w in words])
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call
