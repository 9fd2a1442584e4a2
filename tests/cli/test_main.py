"""Errors, exit codes and what `--help` may import."""

import subprocess
import sys

import pytest
from harness import command, environment, steersman

from steersman.cli import main
from steersman.core.errors import RunStopped, UserError

HEAVY = {"torch", "transformers", "pydantic", "plotly", "scipy", "sklearn", "numpy"}


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom steersman.cli.main import run\n"
        f"code = run(['--help'])\nprint(sorted({HEAVY!r} & set(sys.modules)), code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stderr.strip() == "[] 0"
    assert all(verb in done.stdout for verb in ("study", "view", "doctor"))


@pytest.mark.parametrize("words, near", [(["stduy"], "study"), (["study", "rnu"], "run")])
def test_a_misspelt_command_names_the_nearest(words, near):
    done = steersman(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No such command")
    assert near in done.stderr
    assert "Traceback" not in done.stderr


def test_version():
    done = steersman("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "steersman")


def test_the_package_is_the_command():
    words = [sys.executable, "-m", "steersman", "study", "rnu"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such command 'rnu'" in done.stderr


def failing(monkeypatch, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(main, "app", broken)
    return main.run(["study", "run", "a b"])


@pytest.mark.parametrize(
    "error, code, said",
    [
        (UserError("is bad", where="x", cure="Mend it."), 2, "error: x: is bad\n       Mend it.\n"),
        (RunStopped("the disk is full"), 1, "error: the disk is full\n"),
        (KeyboardInterrupt(), 130, "stopped; what was finished is kept. The same command continues: "
                                   "steersman study run 'a b'\n"),
    ],
)  # fmt: skip
def test_errors_are_one_message(monkeypatch, capsys, error, code, said):
    assert failing(monkeypatch, error) == code
    assert capsys.readouterr().err == said


def test_a_bug_keeps_its_traceback_and_is_called_ours(monkeypatch, capsys):
    assert failing(monkeypatch, ZeroDivisionError("division by zero")) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: division by zero" in err
    assert "this is a bug of steersman" in err


def test_a_reader_who_leaves_early_causes_no_noise():
    words = command("doctor")
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read().decode()
        process.wait(60)
    assert "BrokenPipe" not in err
    assert "Traceback" not in err


def test_without_a_command_the_help_is_shown():
    done = steersman()
    assert done.returncode == 2
    assert "Usage: steersman" in done.stdout + done.stderr
    assert "error" not in done.stderr


def test_ctrl_c_says_that_it_stopped_and_how_to_go_on() -> None:
    code = (
        "import os, signal, sys\nfrom steersman.cli import doctor\n"
        "doctor.torch_check = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "doctor.extras = doctor.torch_check\n"
        "from steersman.cli.main import run\nsys.exit(run(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert "The same command continues: steersman doctor" in done.stderr
