"""What the study commands print: at most 100 columns, one colour for the verdict only, never colour alone.

Leaves out: how the figures came about (`study.summary`).
"""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from steersman.cli.watch import WIDTH, counted, duration, first_line
from steersman.core.errors import UserError
from steersman.page.number import MISSING, Estimate, interval, point
from steersman.store.files import tag
from steersman.study.declare import Mode, Study
from steersman.study.diff import Difference
from steersman.study.plan import MODES, best_p, undecidable
from steersman.study.run import Outcome
from steersman.study.worker import error_file

COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow", "not testable here": "dim"}


def console() -> Console:
    """Standard output, at most 100 columns wide; colours only on a terminal and without NO_COLOR."""
    out = Console(highlight=False, markup=False, emoji=False)
    out.width = min(WIDTH, out.width) if out.is_terminal else WIDTH
    return out


def dump(value: Any) -> str:
    """JSON for machines: one document, non-finite numbers tagged as everywhere in the library."""
    return json.dumps(tag(value), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def print_json(value: Any) -> None:
    """One JSON document."""
    print(dump(value))


def grid(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def print_table(out: Console, table: Table) -> None:
    """Print without the blanks that fill a line."""
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        out.file.write(line.rstrip() + "\n")


def here(claim: Mapping[str, Any]) -> str:
    """Our figure with its interval, "−0.51 [−0.55, −0.47]", and its unit below; a dash where nothing was measured."""
    if claim["estimate"] is None:
        return MISSING
    e = Estimate(**claim["estimate"])
    signed = claim["reference"] == 0
    figure = f"{point(e, signed=signed)} {interval(e, signed=signed)}"
    return f"{figure}\n{e.unit}" if e.unit else figure


def verdicts(claims: Sequence[Mapping[str, Any]]) -> Table:
    """The table of claims that were measured or could have been; tests are in the report."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for title, widest in (("claim", 38), ("paper", 14), ("here", 21), ("verdict", 21)):
        table.add_column(title, width=widest, overflow="fold")
    for claim in claims:
        if untested(claim):
            continue
        word = (claim["verdict"], COLOURS[claim["verdict"]])
        reason = f" ({first_line(claim['reason'])})" if claim["reason"] else ""
        name, ours = f"{claim['id']} {claim['text']}", here(claim)
        table.add_row(Text(name), Text(claim["paper"] or MISSING), Text(ours), Text.assemble(word, reason))
    return table


def untested(claim: Mapping[str, Any]) -> bool:
    """Whether no run of this mode speaks of the claim."""
    return claim["verdict"] == "not testable here" and claim["estimate"] is None


def print_summary(summary: Mapping[str, Any], root: Path, following: str = "") -> None:
    """The verdicts, what was equal, what is not testable, and last where the report is and what to do next."""
    print()
    print(textwrap.fill(summary["sentence"], WIDTH))
    print()
    print_table(console(), verdicts(summary["claims"]))
    if others := [claim["id"] for claim in summary["claims"] if untested(claim)]:
        print(textwrap.fill(f"no run of this mode tests: {', '.join(others)}", WIDTH, subsequent_indent="  "))
    for row in summary["not_testable"]:
        print(textwrap.fill(f"not testable here: {row['what']} ({row['why']})", WIDTH, subsequent_indent="  "))
    if summary["equal"]:
        print(textwrap.fill(f"what was equal: {summary['equal']}", WIDTH, subsequent_indent="  "))
    page = root / summary["study"] / "report" / "index.html"
    print()
    print(f"report  {page}" + (f"      {following}" if following and len(str(page)) + len(following) < 80 else ""))
    if following and len(str(page)) + len(following) >= 80:
        print(following)


def print_outcome(summary: Mapping[str, Any], outcome: Outcome, name: str, root: Path) -> None:
    """The end of `study run`."""
    plan = outcome.plan
    for job, error in outcome.failures.items():
        print(f"failed  {job}: {first_line(error)}")
        if (file := error_file(root, plan, job)).is_file():
            print(f"        {file}")
    if lost := sum(run.id in outcome.failures for run in plan.runs):
        print(f"{lost} of {counted(len(plan.runs), 'run')} failed; the same command tries them again")
    print_summary(summary, root, _following(outcome, name))


def program() -> str:
    """What to type for this program: its name where the shell finds it, otherwise the path it was started by."""
    if shutil.which("steersman") or Path(sys.argv[0]).name != "steersman":
        return "steersman"
    return os.path.relpath(sys.argv[0])


def _following(outcome: Outcome, name: str) -> str:
    """The next sensible command."""
    study, mode = outcome.plan.study, outcome.plan.mode.name
    if mode == "quick" and _mode(study, "full") is not None:
        return f"again with more seeds: {program()} study run {name} --full"
    if undecidable(study.claims, mode, outcome.plan.extra):
        return f"again with more seeds: {program()} study run {name} --{mode} --seeds {outcome.plan.extra + 3}"
    return f"see all reports: {program()} view"


def _mode(study: Study, name: Any) -> Mode | None:
    try:
        found = study.mode(name, 0)
    except UserError:
        return None
    return found if found.cells else None


def print_studies(rows: Sequence[Mapping[str, Any]]) -> None:
    """The list of studies."""
    table = grid("study", "what", "so far")
    for row in rows:
        known = row["report"]
        so_far = "not run yet"
        if known:
            counts = ", ".join(f"{n} {word}" for word, n in known["counts"].items())
            so_far = f"{known['mode']}, {known['created'][:10]}: {counts}"
        table.add_row(Text(row["name"]), Text(f"{row['title']} – {row['paper']}"), Text(so_far))
    print_table(console(), table)


def about(study: Study) -> dict[str, Any]:
    """What a study asks, as JSON values."""
    modes = {}
    for name in MODES:
        mode = _mode(study, name)
        if mode is None:
            continue
        modes[name] = {
            "runs": len(mode.cells),
            "arms": list(dict.fromkeys(cell.arm.name for cell in mode.cells)),
            "seeds": len({cell.seed for cell in mode.cells}),
            "minutes": mode.minutes,
            "note": mode.note,
            "smallest_p": {k: p for k, p in best_p(study.claims, name).items() if p is not None},
            "undecidable": list(undecidable(study.claims, name)),
        }
    arms = {c.arm.name: c.arm.meaning for m in MODES if (x := _mode(study, m)) is not None for c in x.cells}
    return {
        "name": study.name,
        "title": study.title,
        "question": study.question,
        "paper": study.paper,
        "version": study.version,
        "arms": arms,
        "modes": modes,
        "claims": [{"id": c.id, "text": c.text, "paper": c.paper} for c in study.claims],
        "not_testable": [{"what": n.what, "why": n.why} for n in study.not_testable],
        "equal": study.equal,
    }


def print_about(about: Mapping[str, Any]) -> None:
    """The page of `study show`."""
    out = console()
    for line in (about["title"], about["question"], f"paper: {about['paper']}"):
        out.print(Text(line))
    print()
    sizes = grid("size", "runs", "arms", "seeds", "time on two cores", "can only leave inconclusive")
    for name, mode in about["modes"].items():
        left = ", ".join(mode["undecidable"]) or MISSING
        cells = (f"--{name}", mode["runs"], len(mode["arms"]), mode["seeds"], duration(60 * mode["minutes"]), left)
        sizes.add_row(*(Text(str(c)) for c in cells))
    print_table(out, sizes)
    for title, rows in (
        ("arm", about["arms"].items()),
        ("claim", [(c["id"], f"{c['text']} (paper: {c['paper'] or MISSING})") for c in about["claims"]]),
        ("not testable here", [(n["what"], n["why"]) for n in about["not_testable"]]),
    ):
        table = grid(title, "")
        for left, right in rows:
            table.add_row(Text(left), Text(right))
        print()
        print_table(out, table)
    print(f"\nrun it: steersman study run {about['name']} --{next(iter(about['modes']), 'quick')}")


def print_status(about: Mapping[str, Any], root: Path) -> None:
    """How a study stands."""
    counts = ", ".join(f"{n} {state}" for state, n in about["counts"].items())
    extra = f", {about['extra_seeds']} seeds added" if about["extra_seeds"] else ""
    print(f"{about['study']}, {about['mode']}{extra}: {counts}")
    for run, state in about["runs"].items():
        print(f"  {state:<6}  {run}")
    if about["counts"]["failed"]:
        print(f"why a run failed: {root / about['study']}/<run>/error.txt")


def print_diff(found: Difference) -> None:
    """Two reports compared."""
    out = console()
    for mark, label in zip("AB", found.labels, strict=True):
        print(f"{mark}: {label}")
    table = grid("claim", "A", "B", "changed")
    for claim in found.claims:
        sides = (_side(claim.before, claim.estimate_before), _side(claim.after, claim.estimate_after))
        table.add_row(Text(claim.id), *(Text(side) for side in sides), Text(claim.how))
    print_table(out, table)
    only_a, only_b = found.runs_only
    changed = f"{len(found.runs_changed)} with another result, " if found.runs_changed else ""
    print(f"runs: {found.runs_same} with the same result, {changed}{only_a} only in A, {only_b} only in B")
    print("something changed" if found.changed else "nothing changed")


def _side(word: str, estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return word or MISSING
    e = Estimate(**estimate)
    return f"{word}: {point(e)} {interval(e)} {e.unit}".strip()
