"""Functions behind a time limit: values, exceptions, hangs, crashes, noise on standard output, nothing left running."""

import os
import subprocess
import sys
import time

import pytest

from steersman.core.errors import MOST_SAID, RunStopped
from steersman.reward.time_limit import PRINTED, TimedFunction

CODE = """
import os, subprocess, sys, time
import numpy as np

COUNT = 0

def echo(value):
    print("noise on standard output", "x" * 10)
    return value

def count():
    global COUNT
    COUNT += 1
    return COUNT

def talk(lines, width=10):
    for i in range(lines):
        print("\\x1b[31m", i, "x" * width)
    print("no end of line; ", end="", flush=True)
    print("to standard error", file=sys.stderr)

def endless():
    print("x" * 1_000_000, end="")

def shout():
    raise ValueError("a\\nb\\x1b[2J" + "z" * 100_000)

def act(what):
    if what == "raise":
        raise KeyError("gone")
    if what == "exit":
        sys.exit(3)
    if what == "die":
        os._exit(4)
    if what == "signal":
        os.kill(os.getpid(), 11)
    if what == "hang":
        time.sleep(600)
    if what == "input":
        return sys.stdin.read()
    if what == "numpy":
        return {"a": np.float32(0.5), "b": np.array([1.0, 2.0]), "c": [1, 2]}
    return os.getpid()

def leave_child(file):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(file, "w").write(str(child.pid))
    time.sleep(600)
"""
LIMIT = 20.0
SHORT = 0.5
STOPPED = 10.0  # seconds within which a killed process is gone


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "timed_examples.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    yield "timed_examples"
    sys.path.remove(str(folder))


def gone(pid):
    end = time.monotonic() + STOPPED
    while time.monotonic() < end:
        status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
        if not status or status.startswith("Z"):
            return True
        time.sleep(0.05)
    return False


def test_values_pass_through_and_the_process_is_kept(module):
    timed = TimedFunction(f"{module}:echo", LIMIT)
    for value in (1, 0.5, True, None, "é\n", {"score": 1.0}, "y" * 300_000):
        assert timed([value]).value == value
    timed.close()
    counter = TimedFunction(f"{module}:count", LIMIT)
    assert [counter([]).value for _ in range(3)] == [1, 2, 3]
    counter.close()
    assert counter([]).value == 1
    counter.close()


def test_failures_are_told_apart_and_the_next_call_works(module):
    timed = TimedFunction(f"{module}:act", LIMIT)
    pid = timed(["pid"]).value
    raised = timed(["raise"])
    assert (raised.kind, raised.reason) == ("raised", "KeyError: 'gone'")
    assert timed(["pid"]).value == pid
    for what, how in (("exit", "exit code 3"), ("die", "exit code 4"), ("signal", "signal SIGSEGV")):
        outcome = timed([what])
        assert (outcome.kind, outcome.reason) == ("died", f"ended its process ({how})")
        assert timed(["pid"]).value != pid
    assert timed(["input"]).value == ""
    strange = timed(["numpy"]).value
    assert strange == {"a": 0.5, "b": {"__type__": "a ndarray of 2"}, "c": {"__type__": "a list of 2"}}
    last = timed(["pid"]).value
    timed.close()
    assert gone(last)


def test_a_hanging_call_is_cut_with_everything_it_started(module, tmp_path):
    timed = TimedFunction(f"{module}:act", SHORT)
    pid = timed(["pid"]).value
    outcome = timed(["hang"])
    assert (outcome.kind, outcome.reason) == ("timeout", "took longer than 0.5 s")
    assert gone(pid)
    assert timed(["pid"]).kind == "value"
    timed.close()
    file = tmp_path / "pid"
    child = TimedFunction(f"{module}:leave_child", 2.0)
    assert child([str(file)]).kind == "timeout"
    assert gone(int(file.read_text()))


def test_a_forgotten_function_ends_its_process(module):
    timed = TimedFunction(f"{module}:act", LIMIT)
    pid = timed(["pid"]).value
    del timed
    assert gone(pid)


def test_the_process_dies_with_the_one_that_started_it(module):
    code = (
        "import os; from steersman.reward.time_limit import TimedFunction\n"
        f"t = TimedFunction('{module}:act', 20.0); print(t(['pid']).value, flush=True); os._exit(0)"
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path).stdout
    assert gone(int(shown))


@pytest.mark.parametrize("target", ["no_such_module:f", "os:no_such_function"])
def test_what_cannot_be_imported_stops_the_run(target):
    with pytest.raises(RunStopped, match="cannot import"):
        TimedFunction(target, LIMIT)([])


def test_what_is_printed_is_shown_line_by_line_with_the_name_and_escaped(module, capfd):
    timed = TimedFunction(f"{module}:talk", LIMIT)
    timed([2])
    shown = capfd.readouterr()
    assert shown.out == ""
    said = [r"\x1b[31m 0 xxxxxxxxxx", r"\x1b[31m 1 xxxxxxxxxx", "no end of line; to standard error"]
    assert shown.err.splitlines() == [f"{module}:talk: {line}" for line in said]
    timed.close()


def test_what_is_printed_is_capped_over_the_whole_run_and_never_blocks(module, capfd):
    timed = TimedFunction(f"{module}:talk", LIMIT)
    for _ in range(3):
        assert timed([5_000, 60]).kind == "value"  # far more than a pipe holds
        timed.close()
    shown = capfd.readouterr().err
    assert len(shown) < 2 * PRINTED
    assert shown.count("prints more, which is not shown") == 1


def test_a_line_without_an_end_is_shown_by_its_beginning(module, capfd):
    timed = TimedFunction(f"{module}:endless", LIMIT)
    timed([])
    timed.close()
    shown = capfd.readouterr().err
    assert shown.startswith(f"{module}:endless: xxx")
    assert len(shown) < 2 * PRINTED


def test_what_is_raised_is_one_short_line(module):
    with_all = TimedFunction(f"{module}:shout", LIMIT)
    reason = with_all([]).reason
    with_all.close()
    assert reason.startswith(r"ValueError: a\nb\x1b[2Jzzz")
    assert len(reason) <= MOST_SAID
