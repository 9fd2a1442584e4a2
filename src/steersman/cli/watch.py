"""What a person sees while a study runs: a bar on a terminal, plain lines elsewhere.

Leaves out: the verdicts at the end (`cli.table`).
"""

import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from steersman.study.plan import Plan, PlannedArtefact, PlannedRun, State, best_p, undecidable
from steersman.study.run import Glance, Watcher

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

WIDTH = 100


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them: "0.4 s", "52 s", "1 min 40 s"."""
    if seconds is None:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def counted(n: int, word: str) -> str:
    """A number with its noun: "1 run", "3 runs"."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


class Lines(Watcher):
    """Plain lines, one per event."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def say(self, text: str) -> None:
        """Write one line at once."""
        print(text, file=self._out, flush=True)

    def begin(self, plan: Plan, before: Mapping[str, State], todo: int, workers: int) -> None:
        for line in opening(plan, before, todo, workers):
            self.say(line)

    def artefact(self, planned: PlannedArtefact, how: str, line: str, seconds: float) -> None:
        name = planned.artefact.name
        if how == "failed":
            self.say(f"  {name}  FAILED: {first_line(line)}")
        else:
            self.say(f"  {name}  {how} ({line})  {duration(seconds) if how == 'made' else '0 s'}")

    def glance(self, seen: Glance) -> None:
        pass

    def ended(self, run: PlannedRun, error: str, seconds: float, seen: Glance) -> None:
        count = f"{seen.done + seen.failed}/{seen.total}"
        if error:
            self.say(f"  failed  {run.id}: {first_line(error)}")
        else:
            left = f", about {duration(seen.seconds_left)} left" if seen.seconds_left else ""
            self.say(f"  done  {run.id}  {duration(seconds)}  ({count}{left})")


class Bar(Lines):
    """One bar that moves, with what runs at the moment, the rate and the time left."""

    def __init__(self, console: "Console", progress: "Progress") -> None:
        self._console, self._progress = console, progress
        self._task: "TaskID | None" = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def glance(self, seen: Glance) -> None:
        if self._task is None:
            self._task = self._progress.add_task("", total=seen.total, text="")
        arms = Counter(run.cell.arm.name for run in seen.active)
        parts = [f"{seen.done + seen.failed}/{seen.total} runs", " ".join(f"{a}·{n}" for a, n in arms.items())]
        parts += [f"{rate:,.0f} {unit}/s" for unit, rate in seen.rates.items()]
        if seen.failed:
            parts.append(f"{seen.failed} failed")
        if seen.seconds_left is not None:
            minutes, rest = divmod(round(seen.seconds_left), 60)
            parts.append(f"{minutes}:{rest:02d} left")
        self._progress.update(self._task, completed=seen.done + seen.failed, text="   ".join(p for p in parts if p))

    def ended(self, run: PlannedRun, error: str, seconds: float, seen: Glance) -> None:
        if error:
            super().ended(run, error, seconds, seen)
        self.glance(seen)


def first_line(text: str) -> str:
    """The first line of a message."""
    return text.strip().split("\n")[0]


def opening(plan: Plan, before: Mapping[str, State], todo: int, workers: int) -> list[str]:
    """What is said before a run: its size, what is there already, what it cannot decide."""
    counts = Counter(before.values())
    arms = len({run.cell.arm.name for run in plan.runs})
    seeds = len({run.cell.seed for run in plan.runs})
    head = [plan.study.title, plan.mode.name, counted(arms, "arm"), counted(seeds, "seed"), counted(len(before), "run")]
    finished = counts["done"] + counts["stale"]
    if todo:
        took = f"about {duration(60 * plan.mode.minutes)} on two cores" if not finished else f"{todo} to do"
        head += [took, counted(workers, "worker")]
    lines = [" · ".join(head)]
    if not todo:
        lines.append(f"nothing to do: all {counted(finished, 'run')} are finished")
    elif finished:
        lines.append(f"continuing: {finished} of {counted(len(before), 'run')} are finished")
    if counts["stale"]:
        stale = counted(counts["stale"], "run")
        lines.append(f"{stale} stale (made by other code than is installed now); make again with --rerun-stale")
    if counts["failed"] and todo:
        lines.append(f"trying {counted(counts['failed'], 'failed run')} again")
    hopeless = undecidable(plan.study.claims, plan.mode.name, plan.extra)
    if todo and hopeless:
        best = best_p(plan.study.claims, plan.mode.name, plan.extra)
        p = min(best[claim] or 0.0 for claim in hopeless)
        lines.append(f"by design this size leaves {', '.join(hopeless)} inconclusive (smallest p reachable: {p:.2g})")
    return [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines]


@contextmanager
def watcher(quiet_stdout: bool = False) -> Iterator[Watcher]:
    """Somebody who writes to standard output, or to standard error where that is needed for JSON."""
    out = sys.stderr if quiet_stdout else sys.stdout
    if not out.isatty():
        yield Lines(out)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(file=out)
    columns = (TextColumn(" "), BarColumn(30), TextColumn("{task.fields[text]}", markup=False))
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as progress:
        yield Bar(console, progress)
