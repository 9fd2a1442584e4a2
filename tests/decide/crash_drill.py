"""Plays an experiment on people and kills it, by SIGKILL, at every line of the journal's code in turn; a script of its
own, since it forks. Prints one JSON list: for each death what was drawn, what the folder held then, and the end.

Arguments: an empty folder.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from steersman.decide.dp_bai import DPBAI
from steersman.decide.privacy import DiscreteLaplace
from steersman.train import trial

WATCHED = ("append", "_write_once", "_write_all", "_sync", "_recover", "__init__")
BUDGET = 24
OPTIONS = DPBAI(0.01, BUDGET, design="all")  # noise of scale 100: two draws hardly ever agree


class Told(DiscreteLaplace):
    """The sampler that protects people; every draw is noted outside the journal, as only a drill may."""

    log = ""

    def laplace_on_integer(self, sums, *rest):
        drawn = super().laplace_on_integer(sums, *rest)
        with open(Told.log, "a") as out:
            out.write(json.dumps(drawn) + "\n")
        return drawn


def play(folder, dies_at):
    """The whole experiment; the process dies before the `dies_at`-th watched line, if there are as many."""
    seen = 0

    def step(frame, event, _):
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return step

    def watch(frame, event, _):
        code = frame.f_code
        return step if code.co_filename == trial.__file__ and code.co_name in WATCHED else None

    os.fsync = lambda handle: None  # a killed process needs no disk that is quick; what it wrote is there for others
    sys.settrace(watch)
    run = DPBAI(OPTIONS.epsilon, BUDGET, design="all", noise=Told()).start(np.eye(3), folder)
    while (batch := run.ask()) is not None:
        run.tell([1.0] * len(batch.arms))
    sys.settrace(None)


def in_child(folder, dies_at):
    """Whether it came to its end; it dies in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            play(folder, dies_at)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(3)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def drawn(log):
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def held(folder):
    """Every file of the journal, hidden ones too, as text."""
    return {p.name: p.read_text(errors="replace") for p in sorted(folder.glob("*"))} if folder.exists() else {}


def main(root):
    told, dies_at, ended = [], 0, False
    while not ended:
        dies_at += 1
        folder, log = root / str(dies_at) / "j", root / str(dies_at) / "log"
        folder.parent.mkdir()
        Told.log = str(log)
        ended = in_child(folder, dies_at)
        before, seen = drawn(log), held(folder)
        # die once more while recovering, then run to the end
        again = in_child(folder, max(1, dies_at // 2))
        middle = held(folder)
        assert again or in_child(folder, 0)
        told.append({"drawn": before, "held": [seen, middle], "all": drawn(log), "end": held(folder)})
    print(json.dumps(told))


main(Path(sys.argv[1]))
