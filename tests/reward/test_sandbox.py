"""Hostile programs in both backends: each hazard has its status in time, none passes, nothing outside changes."""

import inspect
import os
import signal
import subprocess
import sys
import time

import pytest

from steersman.core.errors import UserError
from steersman.reward import sandbox_monty
from steersman.reward.sandbox import Limits, Outcome, Sandbox, SandboxFault, Tail, check_calls, run
from steersman.reward.sandbox_subprocess import SubprocessBackend

pytest.importorskip("pydantic_monty")

LIMITS = Limits(seconds=1.0)
CALLS = [("f", (2,), 3), ("f", (5,), 6)]
RIGHT = "def f(x): return x + 1"
GONE = 10.0  # seconds within which a killed process is gone
BODY = "def f(x):\n    "
CATCHING = BODY + "while True:\n        try:\n            while True: pass\n        except BaseException: pass"
DEEP = "import sys\nsys.setrecursionlimit(10**9)\n" + BODY + "return f(x)"
EQUAL = "    def __eq__(self, other): return True\n"
VALUES = [
    *(
        None,
        True,
        0,
        -1,
        2**70,
        -(10**300),
        1.5,
        -0.0,
        float("inf"),
        float("nan"),
        "é\n\0😀",
        b"\x00\xff",
        [],
        [[1], "a"],
    ),
    *((1, (2,)), {1: "a", "b": [2.0]}, {(1, 2): {3}}, {1, 2, 3}, frozenset({"a", 1}), {}, set(), ()),
]

# hazard -> (program, status of monty, status of subprocess); "" = not of this backend
HAZARDS = {
    "loop": (BODY + "while True: pass", "timeout", "timeout"),
    "loop at the top": ("while True: pass", "timeout", "timeout"),
    "loop that catches": (CATCHING, "timeout", "timeout"),
    "one long operation": (BODY + "return 10 ** (10 ** 7)", "timeout", "timeout"),
    "sleep": ("import time\n" + BODY + "time.sleep(60)", "fail", "timeout"),
    "allocate at once": (BODY + "return [0] * 10 ** 11", "memory", "memory"),
    "allocate slowly": (BODY + "l = []\n    while True: l.append('x' * 10 ** 6 + str(len(l)))", "memory", "memory"),
    "recursion": (BODY + "return f(x)", "error", "error"),
    "deep recursion": (DEEP, "forbidden", "memory|crash|timeout"),
    "fork": ("import os\n" + BODY + "os.fork()\n    return x + 1", "forbidden", "forbidden"),
    "fork bomb": ("import os\nwhile True: os.fork()", "forbidden", "forbidden"),
    "thread": ("import threading\nthreading.Thread(target=print).start()\n" + RIGHT, "forbidden", "error"),
    "shell": ("import os\n" + BODY + "os.system('true')\n    return os.popen('id').read()", "forbidden", "forbidden"),
    "subprocess": ("import subprocess\n" + BODY + "return subprocess.run(['true'])", "forbidden", "forbidden"),
    "exit 0": ("import os\nos._exit(0)", "forbidden", "crash"),
    "exit 0 in a call": ("import os\n" + BODY + "os._exit(0)", "forbidden", "crash"),
    "sys.exit": ("import sys\n" + BODY + "sys.exit(0)", "forbidden", "error"),
    "raise SystemExit": ("raise SystemExit", "error", "error"),
    "kill the parent": ("import os\nos.kill(os.getppid(), 9)", "forbidden", "forbidden"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "forbidden", "crash"),
    "write a file": ("open('{folder}/new', 'w')", "forbidden", "forbidden"),
    "append to a file": ("open('{folder}/kept', 'a').write('x')", "forbidden", "forbidden"),
    "remove a file": ("import os\nos.remove('{folder}/kept')", "forbidden", "forbidden"),
    "make a folder": ("import os\nos.mkdir('{folder}/new')", "forbidden", "forbidden"),
    "socket": ("import socket\nsocket.create_connection(('127.0.0.1', 1))", "forbidden", "forbidden"),
    "read a file": (BODY + "return open('{folder}/kept').read()", "forbidden", "fail"),
    "list a folder": ("import os\n" + BODY + "return os.listdir('{folder}')", "forbidden", "fail"),
    "environment": ("import os\n" + BODY + "return os.environ['SECRET_OF_THE_PARENT']", "forbidden", "error"),
    "absent module": ("import numpy\n" + RIGHT, "forbidden", "forbidden"),
    "print the expected text": ("print(3)\nprint(6)\n" + BODY + "print(x + 1)", "fail", "fail"),
    "print without end": (BODY + "while True: print('x' * 1000)", "timeout", "timeout"),
    "equal to everything": ("class A:\n" + EQUAL + BODY + "return A()", "fail", "fail"),
    "int with its own equality": ("class A(int):\n" + EQUAL + BODY + "return A(x)", "forbidden", "fail"),
    "equal hashes": (BODY + "return {i * (2 ** 61 - 1) for i in range(20_000)}", "fail", "timeout"),
    "shadowed builtins": ("len = int = type = lambda *a: 3\n" + BODY + "return x", "fail", "fail"),
    "patched json": ("import json\njson.dumps = lambda *a, **k: '3'\n" + BODY + "return x", "error", "fail"),
    "no end to the value": (BODY + "return [[[0] * 1000] * 1000] * 1000", "timeout|memory", "timeout|memory"),
    "value in itself": (BODY + "l = []\n    l.append(l)\n    return l", "error", "error"),
    "large value": (BODY + "return 'x' * 3_000_000", "error", "error"),
    "assert patched away": (BODY + "assert x == -1\n    return x + 1", "error", "error"),
    "evil message": ("class A(Exception):\n    def __str__(self): raise self\nraise A", "forbidden", "error"),
    "syntax": ("def f(x: return", "error", "error"),
    "nested source": ("x = " + "(" * 5000, "error", "error|memory|crash"),
    "null byte": ("x = 'a\0b'\n" + BODY + "return x", "error|fail", "error"),
    "no such function": ("g = 1", "error", "error"),
    "not a function": ("f = 3", "error", "error"),
    "raises": (BODY + "return x // 0", "error", "error"),
    "raises TimeoutError": ("raise TimeoutError('me')", "forbidden", "forbidden"),
    "wrong": (BODY + "return x", "fail", "fail"),
    "right once": (BODY + "return 3", "fail", "fail"),
    "too long": ("#" * 200_000, "error", "error"),
    "lone surrogate": ("x = '\ud800'\n" + RIGHT, "error", "error"),
}  # fmt: skip


@pytest.fixture(scope="module", params=["monty", "subprocess"])
def sandbox(request):
    with Sandbox(request.param, LIMITS, workers=2) as made:
        made.name = request.param
        yield made


@pytest.fixture(scope="module")
def monty():
    with Sandbox("monty", LIMITS, workers=2) as made:
        yield made


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "kept").write_text("secret")
    return tmp_path


def children():
    shown = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(p) for p, name in (line.split()[:2] for line in shown.stdout.splitlines()) if name != "ps"}


HAS_FILTER = os.uname().machine == "x86_64" and os.uname().sysname == "Linux"
needs_filter = pytest.mark.skipif(not HAS_FILTER, reason="the system call filter is of Linux on x86-64")


@pytest.mark.parametrize("hazard", HAZARDS)
def test_hazards(sandbox, hazard, folder, monkeypatch):
    if sandbox.name == "subprocess" and not HAS_FILTER:
        pytest.skip("the statuses are those of the system call filter")
    monkeypatch.setenv("SECRET_OF_THE_PARENT", "3")
    program, *statuses = HAZARDS[hazard]
    program = program.replace("{folder}", str(folder))
    verdict = sandbox.run(program, CALLS)
    assert verdict.status in statuses[sandbox.name == "subprocess"].split("|"), verdict
    assert not all(verdict.per_test)
    assert len(verdict.per_test) == 2
    assert verdict.detail
    assert len(verdict.stdout_tail) <= LIMITS.output
    assert [p.name for p in folder.iterdir()] == ["kept"]
    assert (folder / "kept").read_text() == "secret"
    assert sandbox.run(RIGHT, CALLS).status == "pass"


def test_what_is_right_passes_and_says_nothing(sandbox):
    verdict = sandbox.run("print('hello')\nlist = int = str = dict = len = print\n" + RIGHT, CALLS)
    assert (verdict.status, verdict.per_test, verdict.passed, verdict.detail) == ("pass", (True, True), 1.0, "")
    assert verdict.stdout_tail == "hello\n"
    half = sandbox.run(BODY + "return 3", CALLS)
    assert (half.status, half.per_test, half.passed) == ("fail", (True, False), 0.5)
    later = sandbox.run(BODY + "return 3 if x == 2 else 1 // 0", CALLS)
    assert (later.status, later.per_test) == ("error", (True, False))
    assert "call 1" in later.detail
    assert "ZeroDivisionError" in later.detail


@pytest.mark.parametrize("value", VALUES)
def test_values_go_there_and_back_with_their_types(sandbox, value):
    assert sandbox.run("def f(x): return x", [("f", (value,), value)]).status == "pass"
    assert sandbox.run("def f(x): return [x]", [("f", (value,), [value])]).status == "pass"
    for other in (None, True, 1, 1.0, "1", b"1", [1], (1,), {1}, frozenset({1}), {1: 1}):
        if not (type(value) is type(other) and value == other):
            assert sandbox.run("def f(x): return x", [("f", (value,), other)]).status == "fail"


def test_a_program_is_alone_with_its_state(sandbox):
    assert sandbox.run("leak = 3\ndef f(x): return x + 1", CALLS).status == "pass"
    assert sandbox.run("def f(x): return leak", CALLS).status == "error"
    mutates = "seen = []\ndef f(x):\n    x.append(1)\n    seen.append(1)\n    return len(seen)"
    given = [1]
    assert sandbox.run(mutates, [("f", (given,), 1), ("f", (given,), 2)]).status == "pass"
    assert given == [1]


def test_programs_are_deterministic(sandbox):
    hashes = "def f(x): return hash('abc')"
    first, second = (sandbox.run(hashes, [("f", (0,), None)]).detail for _ in range(2))
    assert first == second
    assert "gave" in first


def test_chance_and_the_clock_stand_still_in_the_interpreter(monty):
    program = "import random, time\ndef f(x): return [random.random(), time.time(), hash('abc')]"
    first, second = (monty.run(program, [("f", (0,), None)]).detail for _ in range(2))
    assert first == second
    assert "946684800" in first


def test_the_clock_is_that_of_the_whole_program(sandbox):
    slow = "def f(x):\n    n = 0\n    while True:\n        n += 1\n        if n > 3_000_000: return x + 1"
    start = time.monotonic()
    verdict = sandbox.run(slow, CALLS * 50)
    assert verdict.status == "timeout"
    assert not verdict.per_test[-1]
    assert time.monotonic() - start < 10 * LIMITS.seconds  # one call's limit each would be 50 times as much or more


def test_what_is_left_of_the_time_is_watched_from_outside(monty, monkeypatch):
    watched = []

    class Watch(sandbox_monty._Watch):
        def __init__(self, pid, seconds):
            watched.append(seconds)
            super().__init__(pid, 0.0)

    monkeypatch.setattr(sandbox_monty, "_Watch", Watch)
    monkeypatch.setattr(sandbox_monty, "GRACE", 0.0)
    program = "def f(x):\n    while x > 2: pass\n    return x + 1"
    verdict = monty.run(program, CALLS)
    assert verdict.status == "timeout"
    assert 1 <= len(watched) <= 3
    assert all(0 < seconds < LIMITS.seconds for seconds in watched)
    monkeypatch.undo()
    assert monty.run(RIGHT, CALLS).status == "pass"


def test_a_program_does_not_see_the_process_it_runs_in():
    program = (
        "import __main__, sys\ndef f(x): return [__main__.f is f, hasattr(__main__, 'confine'), len(sys.path) > 0]"
    )
    assert run(program, [("f", (1,), [True, False, True])], LIMITS, "subprocess").status == "pass"


def test_a_program_cannot_answer_for_later_calls():
    forge = (
        "import os, json\n"
        "def f(x):\n"
        "    for fd in range(3, 30):\n"
        "        try: os.write(fd, b'0 0 3\\n1 1 3\\n2 2 6\\n')\n"
        "        except OSError: pass\n"
        "    return x + 1"
    )
    verdict = run(forge, CALLS, LIMITS, "subprocess")
    assert verdict.status == "crash"
    assert "channel" in verdict.detail


def test_the_program_cannot_learn_what_is_expected_or_take_the_encoder(monty):
    snoop = "def f(x):\n    return str(locals()) + str(eval('locals()'))"
    assert "7654321" not in monty.run(snoop, [("f", (1,), 7654321)]).detail
    steal = (
        "names = [n for n in eval('locals()') if n.startswith('_encode')]\n"
        "for n in names:\n    exec(n + ' = lambda v: {i * (2 ** 61 - 1) for i in range(9)}')\n"
        "def f(x): return x + 1"
    )
    verdict = monty.run(steal, CALLS)
    assert verdict.status == "error"
    assert not any(verdict.per_test)


def test_a_batch_with_hostile_programs_is_scored_rightly(sandbox):
    names = [
        "loop",
        "allocate at once",
        "fork bomb",
        "exit 0",
        "sys.exit",
        "socket",
        "equal to everything",
        "recursion",
    ]
    hostile = [HAZARDS[name][0] for name in (*names, "print the expected text", "shadowed builtins")]
    programs = [hostile[i // 10] if i % 10 == 3 else f"def f(x): return x + {1 + i % 2}" for i in range(100)]
    before = children()
    verdicts = sandbox.run_many(programs, [CALLS] * 100)
    assert [v.status == "pass" for v in verdicts] == [i % 10 != 3 and i % 2 == 0 for i in range(100)]
    assert all(v.status == "fail" for i, v in enumerate(verdicts) if i % 2 and i % 10 != 3)
    if sandbox.name == "subprocess":
        assert children() <= before


def test_workers_are_reused_and_stay_as_many(monty):
    monty.run_many([RIGHT] * 20, [CALLS] * 20)
    before = children()
    verdicts = monty.run_many([RIGHT] * 500, [CALLS] * 500)
    assert {v.status for v in verdicts} == {"pass"}
    assert children() == before


def test_nothing_is_left_running_or_lying_about(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = children()
    for backend in ("monty", "subprocess"):
        with Sandbox(backend, LIMITS, workers=2) as made:
            made.run_many([HAZARDS["loop"][0], RIGHT, HAZARDS["exit 0"][0]], [CALLS] * 3)
        assert list(tmp_path.iterdir()) == []
    end = time.monotonic() + GONE
    while children() - before and time.monotonic() < end:
        time.sleep(0.05)
    assert children() <= before


@needs_filter
def test_the_interpreters_worker_has_no_environment_and_limits_of_the_system(monty):
    monty.run(RIGHT, CALLS)
    workers = [p for p in children() if b"monty" in _proc(p, "cmdline")]
    assert workers
    for pid in workers:
        assert b"=" not in _proc(pid, "environ")
        limits = {line[:25].strip(): line[25:].split()[0] for line in _proc(pid, "limits").decode().splitlines()}
        assert limits["Max file size"] == limits["Max core file size"] == "0"
        assert int(limits["Max address space"]) > LIMITS.memory


def _proc(pid, what):
    with open(f"/proc/{pid}/{what}", "rb") as file:
        return file.read()


class Dying:
    """A backend whose workers die a number of times, then give right answers."""

    def __init__(self, deaths):
        self.deaths = deaths

    def outcomes(self, program, calls, tail):
        self.deaths -= 1
        if self.deaths >= 0:
            yield Outcome("crash", "died")
            return
        yield Outcome("value", "null")
        for _, _, expected in calls:
            yield Outcome("value", str(expected))

    def close(self):
        pass


@pytest.mark.parametrize("deaths, status", [(0, "pass"), (1, "pass"), (2, "crash"), (3, None)])
def test_a_death_is_the_programs_fault_only_if_it_repeats_and_a_harmless_program_lives(deaths, status):
    with Sandbox("subprocess", LIMITS, workers=1) as made:
        made._backend = Dying(deaths)
        if status:
            assert made.run(RIGHT, CALLS).status == status
        else:
            with pytest.raises(SandboxFault, match="harmless"):
                made.run(RIGHT, CALLS)
            made._backend = Dying(3)
            fault, fine = made.run_many([RIGHT] * 2, [CALLS] * 2)
            assert isinstance(fault, SandboxFault)
            assert fine.status == "pass"


def test_a_worker_killed_from_outside_loses_nothing(monty):
    for _ in range(5):
        monty.run_many([RIGHT] * 10, [CALLS] * 10)
        for pid in [p for p in children() if b"monty" in _proc(p, "cmdline")]:
            os.kill(pid, signal.SIGKILL)
        verdicts = monty.run_many([RIGHT] * 10, [CALLS] * 10)
        assert [getattr(v, "status", v) for v in verdicts] == ["pass"] * 10


@needs_filter
def test_a_process_gives_up_what_it_can():
    backend = SubprocessBackend(LIMITS)
    list(backend.outcomes(RIGHT, CALLS, Tail(0)))
    assert backend.confinement == ("limits", "parent", "calls")


@pytest.mark.parametrize(
    "calls, match",
    [
        ([], "no calls"),
        ([("f", [1], 2)], "no \\(name"),
        ([("f", (1,))], "no \\(name"),
        ([("f()", (1,), 2)], "no name"),
        ([("import", (1,), 2)], "no name"),
        ([("f", (object(),), 2)], "a object cannot"),
        ([("f", (1,), "\ud800")], "surrogate"),
        ([("f", (1,), {1: [1j]})], "a complex cannot"),
    ],
)
def test_calls_that_cannot_be_made(calls, match):
    with pytest.raises(UserError, match=match):
        check_calls(calls)


def test_public_names():
    assert list(inspect.signature(run).parameters)[:3] == ["program", "calls", "limits"]
    assert run(RIGHT, CALLS).status == "pass"


def test_a_sandbox_that_nobody_closed_does_not_keep_the_interpreter_alive():
    code = (
        "from steersman.reward.sandbox import Sandbox\n"
        "s = Sandbox(workers=1); print(s.run('def f(): return 1', [('f', (), 1)]).status)"
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "pass\n", "")


def test_bad_options():
    deep = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(UserError, match="levels"):
        check_calls([("f", (deep,), 1)])
    for bad in ({"seconds": 0.0}, {"seconds": float("nan")}, {"memory": 1}, {"depth": 5000}, {"output": -1}):
        with pytest.raises(UserError, match=next(iter(bad))):
            Limits(**bad)
    with pytest.raises(UserError, match="backend"):
        Sandbox("docker")
    with pytest.raises(UserError, match="workers"):
        Sandbox(workers=0)
    with pytest.raises(UserError, match="tolerance"):
        Sandbox(tolerance=2.0)
    with Sandbox("subprocess") as made, pytest.raises(UserError, match="2 programs for 1"):
        made.run_many([RIGHT] * 2, [CALLS])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pydantic-monty"):
        Sandbox("monty")
