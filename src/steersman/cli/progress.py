"""What a training run shows on a terminal: a bar with rate and remaining time, and a table at the end."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from steersman.cli.progress_rl import RLNotes

WIDTH = 100
LINES = 10
_SHOWN = ("loss", "accuracy")
_NAMES = {
    "accuracy": "accuracy",
    "reward": "reward",
    "length": "tokens a response",
    "ended_share": "ended by themselves",
    "invalid_share": "invalid",
}
"""What people call a metric of held-out prompts, in the order in which they are shown; others follow by name."""


class TrainingProgress:
    """Progress of one training run, on standard error so that standard output stays the result's.

    Not on a terminal there is no bar, but about ten plain lines, equally many steps apart, and the first of them says
    how many. All other metrics are in the run's metrics.jsonl.
    """

    def __init__(
        self, recipe: Any, runtime: Any, folder: Path, quiet: bool = False, console: Console | None = None
    ) -> None:
        from steersman.core.config import dump
        from steersman.train.track import open_tracker

        self.console = console or Console(stderr=True, quiet=quiet, soft_wrap=True)
        self.write, self.close = open_tracker(runtime.track, folder, dump(recipe))
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.first: tuple[int, float] | None = None
        self.log_every: int = runtime.log_every
        self.rl = RLNotes(recipe.rollout.samples) if getattr(recipe, "verb", "") in ("rl", "distill") else None

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        self.close()

    def say(self, line: str) -> None:
        """One line about what is being done."""
        self.console.print(line, highlight=False, markup=False)

    def watch(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """A logged step."""
        self.write(step, metrics)
        if any(k.startswith("eval/") for k in metrics):
            parts = _measured({k.removeprefix("eval/"): v for k, v in metrics.items()})
            self.say(_wrap([f"step {step}, held out:", *(f"{k} {v}" for k, v in parts.items())], self._width()))
            return
        if self.rl is not None:
            self.rl.see(step, metrics)
        note = "  ".join(self._parts(metrics)) if self.rl is None else self.rl.short()
        left = self._left(step, total)
        if self.task is None:
            self.task = self.bar.add_task("training", total=total, note=note)
            if not self.console.is_terminal:
                self.say(f"a line every {self._gap(total)} steps" if self._gap(total) > 1 else "a line every step")
        self.bar.update(self.task, completed=step, note=note)
        if not self.console.is_terminal and (step % self._gap(total) == 0 or step == total):
            parts = self._parts(metrics) if self.rl is None else self.rl.line()
            self.say(_fitted(f"step {step}/{total}", parts, left, self._width()))

    def _width(self) -> int:
        """Columns of a line: at most `WIDTH`, fewer on a narrow terminal or where ``COLUMNS`` says so."""
        said = os.environ.get("COLUMNS", "")
        known = int(said) if said.isdecimal() and int(said) > 0 else WIDTH
        return min(WIDTH, self.console.width if self.console.is_terminal else known)

    def _parts(self, metrics: Mapping[str, float]) -> list[str]:
        rate = metrics.get("tokens_per_s", float("nan"))
        return [*(f"{k} {metrics[k]:.3g}" for k in _SHOWN if k in metrics), f"{rate:,.0f} tokens/s"]

    def _gap(self, total: int) -> int:
        """Steps between plain lines: a multiple of the steps between logged ones."""
        return self.log_every * math.ceil(total / LINES / self.log_every)

    def _left(self, step: int, total: int) -> list[str]:
        """Remaining time by the pace since the first logged step, which in a resumed run is not the first of all."""
        now = time.perf_counter()
        if self.first is None:
            self.first = step, now
            return []
        return [f"{(now - self.first[1]) / (step - self.first[0]) * (total - step):.0f} s left"]

    def summary(self, outcome: Any) -> None:
        """The result as a table and the path of what was written."""
        out = Console(soft_wrap=True)
        for note in outcome.notes if outcome.fitted is None else ():
            out.print(note)
        result = outcome.result
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_row("steps", f"{result['steps']} ({result['reason']})")
        before = _measured(result.get("before", {}))
        for name, value in _measured(result["evaluation"]).items():
            table.add_row(f"held-out {name}", value, *([f"before: {before[name]}"] if name in before else []))
        if "flip_rate" in result:
            found = result["flip_rate"]
            interval = f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
            table.add_row("flip rate (95 %)", f"{interval}, trained with {found['recommended']:.3f}")
        if "report" in result and result["report"]["accuracy"]:
            found = result["report"]["accuracy"]
            accuracy = f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}] on {found['n']} pairs"
            table.add_row(f"accuracy, {result['report_on']}", accuracy)
            longer = result["report"]["accuracy_longer_wins"]
            table.add_row("rule 'longer wins'", f"{longer['value']:.3f}" if longer else "–")
            table.add_row("calibration error", f"{result['report']['calibration_error']:.3f}")
        out.print(table)
        for line in _without_signal(result):
            out.print(line, highlight=False, markup=False)
        out.print(f"model  {outcome.folder / 'model'}", highlight=False)
        if result.get("verb") in ("rl", "distill") and (outcome.folder / "samples.jsonl").is_file():
            out.print(f"look at samples  {outcome.folder / 'samples.jsonl'}", highlight=False)


def _without_signal(result: Mapping[str, Any]) -> list[str]:
    """What is to be said of steps that taught nothing."""
    steps, skipped, flat = (int(result.get(k, 0)) for k in ("steps", "skipped", "no_gradient"))
    lines = [f"{skipped} of {steps} steps were skipped: no response had a signal"] if skipped else []
    lines += [f"{flat} of {steps} steps had a gradient of 0: no response had a signal"] if flat else []
    if lines and skipped + flat >= steps:
        why = (
            "the responses of each prompt earn the same (zero_signal_groups in metrics.jsonl),",
            "or stages drop them all (rows_kept);",
            "take easier prompts, a model that is right now and then, or more rollout.samples",
        )
        lines = ["warning: NOTHING WAS LEARNT", *(f"         {x}" for x in (*lines, *why))]
    return lines


def _measured(metrics: Mapping[str, float]) -> dict[str, str]:
    """Metrics as text by the names people use, in one order; a value together with its interval where there is one.

    A reward that is the accuracy is left out.
    """
    bounds = {f"{k}_{end}" for k in metrics for end in ("low", "high") if {f"{k}_low", f"{k}_high"} <= metrics.keys()}
    same = {"reward"} if "accuracy" in metrics and metrics.get("reward") == metrics["accuracy"] else set()
    keys = sorted(metrics.keys() - bounds - same, key=_place)
    return {
        _name(k): f"{v:.3f} [{metrics[f'{k}_low']:.2f}, {metrics[f'{k}_high']:.2f}]"
        if f"{k}_low" in bounds
        else f"{v:.4g}"
        for k in keys
        for v in (metrics[k],)
    }


def _name(key: str) -> str:
    return _NAMES.get(key, key.replace("pass_at_", "pass@"))


def _place(key: str) -> tuple[float, str]:
    """pass@k stands behind the accuracy."""
    known = list(_NAMES)
    return (0.5 if key.startswith("pass_at_") else known.index(key) if key in known else len(known)), key


def _fitted(head: str, parts: Sequence[str], tail: Sequence[str], width: int) -> str:
    """One line without the least telling of `parts`, if that makes it fit; the first and the last of them stay."""
    kept = list(parts)
    while len(kept) > 2 and len("  ".join([head, *kept, *tail])) > width:
        del kept[-2]
    return _wrap([head, *kept, *tail], width)


def _wrap(parts: Sequence[str], width: int) -> str:
    """Parts on as few lines as they need, about equally long, none of them broken."""
    lines = _lines(parts, width)
    for narrower in range(width - 1, 0, -1):
        tried = _lines(parts, narrower)
        if len(tried) > len(lines) or max(map(len, tried)) > width:
            break
        lines = tried
    return "\n".join(lines)


def _lines(parts: Sequence[str], width: int) -> list[str]:
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 2 + len(part) > width:
            lines.append("   ")
        lines[-1] += f"  {part}"
    return lines
