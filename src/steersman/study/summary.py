"""From finished runs to a report: collect, judge, write ``report.json``, ``results.json`` and the page.

The report's folder is ``<root>/<study>/report`` and shows one mode, the one reported last; runs of another mode never
enter it. Leaves out: the look of the page (`study.report`).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.store.files import read_json, sha256, write_json
from steersman.store.provenance import machine, made_by
from steersman.store.run import RunDir
from steersman.study.declare import Result, Shown, Study, Word
from steersman.study.load import code_of
from steersman.study.plan import Plan, states, study_folder
from steersman.study.report import ClaimRow, CostRow, Estimate, NotTested, Report, render
from steersman.study.verdict import Judged, judge

FORMAT = 1
"""Version of ``report.json``."""


@dataclass(frozen=True, slots=True)
class Collected:
    """Finished runs of one plan, and the runs that are not finished, by part."""

    results: tuple[Result, ...]
    missing: Mapping[str, tuple[str, ...]]


def collect(plan: Plan, root: Path) -> Collected:
    """Read the results of a plan's finished runs.

    Raises:
        CorruptFile: names a ``result.json`` that cannot be read.
    """
    results: list[Result] = []
    missing: dict[str, tuple[str, ...]] = {}
    for run in plan.runs:
        directory = RunDir(study_folder(root, plan.study) / run.id)
        if directory.finished:
            results.append(Result(run.cell, directory.result(), directory.timing(), directory.path))
        else:
            missing[run.cell.part] = (*missing.get(run.cell.part, ()), run.id)
    return Collected(tuple(results), missing)


def report_file(root: Path, study: Study) -> Path:
    """Where the machine's form of a study's report is."""
    return study_folder(root, study) / "report" / "report.json"


def read_report(file: Path) -> dict[str, Any]:
    """Read a ``report.json``.

    Raises:
        UserError: it is missing, broken, or of a newer format.
    """
    found: dict[str, Any] = read_json(file)
    if not isinstance(found, dict) or not isinstance(found.get("claims"), list):
        raise UserError("is not a report", where=str(file))
    if found.get("format", 0) > FORMAT:
        cure = "Upgrade steersman."
        raise UserError(f"has format {found['format']}, this version reads up to {FORMAT}", where=str(file), cure=cure)
    return found


def is_current(plan: Plan, root: Path, spec: str) -> bool:
    """Whether the report that is there shows exactly these runs with these results, and says rightly if they are stale.

    Args:
        plan: the runs.
        root: folder of all runs.
        spec: "module:ATTRIBUTE" of the study.
    """
    file = report_file(root, plan.study)
    if not (file.is_file() and file.with_name("index.html").is_file()):
        return False
    try:
        found = read_report(file)
    except UserError:
        return False
    same = found.get("mode") == plan.mode.name and found.get("runs") == _digests(plan, root)
    return same and found.get("stale") == is_stale(plan, root, spec)


def is_stale(plan: Plan, root: Path, spec: str) -> bool:
    """Whether some finished run of the plan was made by other code than is installed."""
    return "stale" in states(plan, root, code_of(spec)).values()


def _digests(plan: Plan, root: Path) -> dict[str, str | None]:
    """By run id the hash of its result, None for a run that is not finished."""
    folder = study_folder(root, plan.study)
    files = {run.id: folder / run.id / "result.json" for run in plan.runs}
    return {run_id: sha256(file)[:16] if file.is_file() else None for run_id, file in files.items()}


@dataclass(frozen=True, slots=True)
class Summary:
    """A judged plan: what ``report.json`` says, the rows of the page, and the results behind them."""

    summary: dict[str, Any]
    claims: tuple[ClaimRow, ...]
    cost: tuple[CostRow, ...]
    results: tuple[Result, ...]


def summarise(plan: Plan, root: Path, spec: str, command: str) -> Summary:
    """Judge the finished runs of a plan; writes nothing.

    Args:
        plan: the runs to report.
        root: folder of all runs.
        spec: "module:ATTRIBUTE" of the study.
        command: what to type to repeat it.

    Raises:
        UserError: no run is finished.
    """
    study = plan.study
    found = collect(plan, root)
    if not found.results:
        raise never_ran(study, root, plan.mode.name)
    judged = judge(study.claims, plan.mode, found.results, found.missing, plan.extra)
    words: dict[str, Word] = {j.claim.id: j.word for j in judged}
    rows = tuple(claim_row(j, plan) for j in judged)
    cost = cost_table(found.results)
    summary = {
        "format": FORMAT,
        "study": study.name,
        "version": study.version,
        "title": study.title,
        "paper": study.paper,
        "mode": plan.mode.name,
        "extra_seeds": plan.extra,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "sentence": study.answer(found.results, words),
        "stale": is_stale(plan, root, spec),
        "claims": [_claim_json(row) for row in rows],
        "counts": dict(Counter(row.verdict for row in rows)),
        "runs": _digests(plan, root),
        "cost": [_fields(row) for row in cost],
        "equal": study.equal,
        "not_testable": [_fields(n) for n in study.not_testable],
        "command": command,
        "made_by": made_by(),
        "machine": machine(),
    }
    return Summary(summary, rows, cost, found.results)


def write_report(plan: Plan, root: Path, spec: str, command: str) -> dict[str, Any]:
    """Judge the finished runs of a plan and write the report's folder; arguments as `summarise`.

    Returns:
        What ``report.json`` says.

    Raises:
        UserError: no run is finished.
        RunStopped: it cannot be written.
    """
    made = summarise(plan, root, spec, command)
    folder = report_file(root, plan.study).parent
    write_json(folder / "results.json", [_result_json(r) for r in made.results])
    _render(plan.study, made.summary, made.claims, made.cost, plan.study.show(made.results), folder)
    write_json(folder / "report.json", made.summary)  # last: a report without it is made again
    return made.summary


def _render(
    study: Study,
    summary: Mapping[str, Any],
    rows: tuple[ClaimRow, ...],
    cost: tuple[CostRow, ...],
    shown: Shown,
    folder: Path,
) -> None:
    report = Report(
        study=study.name,
        title=study.title,
        sentence=summary["sentence"],
        mode=summary["mode"],
        created=summary["created"],
        stale=summary["stale"],
        claims=rows,
        panels=tuple(shown.panels),
        differences=tuple(shown.differences),
        cost=cost,
        samples=tuple(shown.samples),
        streams=tuple(shown.streams),
        command=summary["command"],
        versions={k: v for k, v in summary["made_by"].items() if isinstance(v, str)},
        machine=summary["machine"],
        equal=study.equal,
        not_tested=tuple(NotTested(n.what, n.why) for n in study.not_testable),
        method_page=study.method_page,
        downloads=(("all results as JSON", "results.json"),),
    )
    render(report, folder)


def never_ran(study: Study, root: Path, mode: str = "quick") -> UserError:
    """The one error for a report of a study that has no finished run."""
    return UserError(
        f"study {study.name} has no finished run of the {mode} mode under {root}",
        cure=f"Run it first: steersman study run {study.name} --{mode}",
    )


def claim_row(judged: Judged, plan: Plan) -> ClaimRow:
    """A claim as the page shows it."""
    claim, finding = judged.claim, judged.finding
    estimate = None
    if finding is not None and finding.estimate is not None:
        e = finding.estimate
        low, high = (-math.inf if math.isnan(e.low) else e.low), (math.inf if math.isnan(e.high) else e.high)
        estimate = Estimate(e.value, low, high, finding.unit, e.level)  # an end that is unknown bounds nothing
    reason = judged.reason or ("" if estimate is not None else "nothing was measured")
    return ClaimRow(
        id=claim.id,
        text=claim.text,
        paper=claim.paper,
        estimate=estimate,
        n_seeds=finding.n if finding else 0,
        counted=finding.counted if finding else "seeds",
        reference=finding.reference if finding else None,
        margin=finding.margin if finding else None,
        verdict=judged.word,
        reason=reason,
        test=". ".join(x.rstrip(".") for x in (finding.test, finding.detail) if x) if finding else "",
        p_value=judged.p,
        p_corrected=judged.p_corrected,
        equal=(finding.equal if finding else "") or plan.study.equal,
    )


def cost_table(results: Sequence[Result]) -> tuple[CostRow, ...]:
    """CPU seconds and tokens summed, and peak memory, over the runs of each arm; None where a run did not say."""
    rows = []
    for arm in dict.fromkeys(r.cell.arm.name for r in results):
        timings = [r.timing for r in results if r.cell.arm.name == arm]
        partial = sum(bool(t.get("partial")) for t in timings)
        tokens = _all(timings, "tokens")
        cpu, peaks = _all(timings, "cpu_seconds"), _all(timings, "peak_rss_mib")
        rows.append(
            CostRow(
                arm=arm,
                runs=len(timings),
                cpu_seconds=sum(cpu) if cpu else None,
                tokens=int(sum(tokens)) if tokens else None,
                peak_mib=max(peaks) if peaks else None,
                note=f"{partial} resumed after a kill: time before it is not counted" if partial else "",
            )
        )
    return tuple(rows)


def _all(timings: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values of `key` if every run has one, else nothing: a sum over some of them would mislead."""
    values = [t[key] for t in timings if t.get(key) is not None]
    return values if len(values) == len(timings) else []


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def _claim_json(row: ClaimRow) -> dict[str, Any]:
    return {**_fields(row), "estimate": None if row.estimate is None else _fields(row.estimate)}


def _result_json(result: Result) -> dict[str, Any]:
    cell = result.cell
    settings = {"part": cell.part, "arm": cell.arm.name, "settings": dict(cell.arm.settings), "task": dict(cell.task)}
    timing, value = dict(result.timing), dict(result.value)
    return {"run": result.folder.name, **settings, "seed": cell.seed, "result": value, "timing": timing}
