"""What a log is worth, from files: `steersman measure`.

Leaves out: the measures (`offline`), the command line (`cli.measure`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.offline.chunks import Chunk, Log
from steersman.offline.count import COUNTERS
from steersman.offline.files import open_log
from steersman.offline.report import DatasetReport, as_json, dataset_report
from steersman.offline.report_page import page
from steersman.offline.returns import returns
from steersman.offline.rows import Discretizer
from steersman.page.html import Html
from steersman.page.number import number


@dataclass(frozen=True, slots=True)
class MeasureQuestion:
    """What is asked.

    Args:
        log: file or folder of the data; ref: of the reference.
        low, high: a mean return as text, or a log whose mean return it is.
        discount: gamma of returns.
        bins: edges a dimension for floats; 0 = floats are counted as they are.
        counter: "exact" or "hll".
        repeats: subsamples where log and reference differ in size; 0 = refused.
        seed: of the subsamples.
        named: role -> columns, for tables with unusual names.
        n_actions: size of a discrete space.
        unflagged: what an episode's end without a flag means.
    """

    log: Path
    ref: Path | None = None
    low: str | None = None
    high: str | None = None
    discount: float = 1.0
    bins: int = 100
    counter: str = "exact"
    repeats: int = 0
    seed: int = 0
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    n_actions: int | None = None
    unflagged: str = "refuse"


@dataclass(frozen=True, slots=True)
class MeasureAnswer:
    """The report, its figures as JSON values, and the page."""

    report: DatasetReport
    summary: dict[str, Any]
    page: Html


def measure(asked: MeasureQuestion, say: Callable[[str], None] = lambda line: None) -> MeasureAnswer:
    """Open, measure, advise.

    Args:
        asked: what is asked.
        say: told what is being done, a line each.

    Raises:
        UserError: a file, a column, a value or an option that cannot be used.
    """
    _check(asked)
    log = _open(asked, asked.log)
    ref = None if asked.ref is None else _open(asked, asked.ref)
    say(f"{asked.log}: {len(log):,} transitions" + ("" if ref is None else f"; reference: {len(ref):,}"))
    if ref is not None:
        _alike(asked, log, ref)
    ends = [
        None if text is None else _mean(asked, text, name, say)
        for name, text in (("low", asked.low), ("high", asked.high))
    ]
    encoder = _encoder(asked, log, ref, say)
    say("measuring")
    found = dataset_report(
        log, ref, *ends, encoder=encoder, counter=asked.counter, discount=asked.discount, repeats=asked.repeats,
        seed=asked.seed,
    )  # fmt: skip
    summary = {"file": str(asked.log), "reference_file": None if asked.ref is None else str(asked.ref)} | as_json(found)
    return MeasureAnswer(found, summary, page(found, asked.log.name, _facts(asked, found)))


def _check(asked: MeasureQuestion) -> None:
    if asked.counter not in COUNTERS:
        raise UserError(f"{asked.counter!r} is not known", where="--counter", allowed=", ".join(COUNTERS))
    if not 0 <= asked.discount <= 1:
        raise UserError(f"{asked.discount} is out of range", where="--discount", allowed="0 to 1")
    if asked.bins < 0 or asked.bins == 1:
        raise UserError(f"{asked.bins} edges make no cells", where="--bins", allowed="2 or more; 0 = as they are")
    if asked.n_actions is not None and asked.n_actions < 1:
        raise UserError(f"is {asked.n_actions}", where="--actions", allowed="1 or more")
    if (asked.low is None) != (asked.high is None):
        given, other = ("--low", "--high") if asked.high is None else ("--high", "--low")
        raise UserError(f"is given without {other}", where=given, cure=f"quality needs both: add {other} RETURN or LOG")


def _open(asked: MeasureQuestion, path: Path) -> Log:
    return open_log(path, asked.named, asked.n_actions, asked.unflagged)


def _first(log: Log) -> Chunk:
    return next(iter(log.chunks()))


def _alike(asked: MeasureQuestion, log: Log, ref: Log) -> None:
    """Refuse what cannot be compared before anything is counted."""
    mine, theirs = _first(log), _first(ref)
    for name, a, b in (("observations", mine.obs, theirs.obs), ("actions", mine.action, theirs.action)):
        if a.shape[1:] != b.shape[1:] or (a.dtype.kind == "f") != (b.dtype.kind == "f"):
            both = f"{a.dtype} {list(a.shape[1:])}, those of {asked.ref} {b.dtype} {list(b.shape[1:])}"
            raise UserError(f"{name} are {both}", where=str(asked.log), allowed="data of the same task")
    if len(log) != len(ref) and not asked.repeats:
        raise UserError(
            f"has {len(log):,} transitions, the reference {len(ref):,}: more transitions see more pairs",
            where=str(asked.log), allowed="equally many",
            cure="--repeats 5 subsamples both to the smaller size, five times",
        )  # fmt: skip


def _mean(asked: MeasureQuestion, text: str, name: str, say: Callable[[str], None]) -> float:
    """A number as it is, or the mean return of a log."""
    try:
        return float(text)
    except ValueError:
        pass
    if not Path(text).exists():
        raise UserError(f"{text!r} is neither a number nor a log", where=f"--{name}", allowed="a mean return, or a log")
    found = returns(_open(asked, Path(text)), asked.discount)
    mean = found.mean(f"--{name} {text}")
    say(f"{name}: mean return {mean:.6g} of {len(found.value):,} episodes in {text}")
    return mean


def _encoder(asked: MeasureQuestion, log: Log, ref: Log | None, say: Callable[[str], None]) -> Discretizer | None:
    """A grid between the reference's least and greatest values where there are floats, or none."""
    first = _first(log)
    if asked.bins == 0 or (first.obs.dtype.kind != "f" and first.action.dtype.kind != "f"):
        return None
    say(
        f"a grid of {asked.bins} edges a dimension, between the ends of "
        + ("the log" if ref is None else "the reference")
    )
    return Discretizer.fit(log if ref is None else ref, asked.bins)


def _facts(asked: MeasureQuestion, found: DatasetReport) -> dict[str, str]:
    rows, kept = found.log, found.log.returns
    facts = {
        "log": str(asked.log),
        "transitions": f"{rows.rows:,}",
        "episodes": f"{len(kept.value):,} whole" + (f", {kept.dropped:,} not" if kept.dropped else ""),
        "ended by": f"{rows.terminated:,} terminated, {rows.truncated:,} truncated",
        "observations": f"{len(rows.low)} dimensions",
        "actions": "continuous" if not rows.discrete else
        "discrete" if rows.action_times is None else f"{len(rows.action_times)} discrete",
    }  # fmt: skip
    if asked.ref is not None:
        facts["reference"] = str(asked.ref)
    for name, text, value in (("low", asked.low, found.low), ("high", asked.high, found.high)):
        if value is not None:
            facts[name] = number(value) + (
                f", mean return of {text}" if text is not None and Path(text).exists() else ""
            )
    facts["pairs"] = "as they are" if found.encoder is None else found.log.counted.signature
    return facts
