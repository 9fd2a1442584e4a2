"""`steersman study list|show|run|status|report|diff`.

Leaves out: how studies are run (`study.run`) and how tables look (`cli.table`).
"""

import difflib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from steersman.core.errors import RunStopped, UserError
from steersman.studies import STUDIES

if TYPE_CHECKING:
    from steersman.study.declare import ModeName, Study
    from steersman.study.plan import Plan
    from steersman.study.pool import StartCrew

app = typer.Typer(
    help="Experiments: does a method help? Claims are written before the run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NAME = typer.Argument(help="A study; see: steersman study list")
ROOT = typer.Option(Path("runs"), "--root", help="Folder of all runs.")
QUICK = typer.Option(False, "--quick", help="The size that takes about two minutes.")
FULL = typer.Option(False, "--full", help="The size that takes up to twenty minutes.")
GPU = typer.Option(False, "--gpu", help="The size for one GPU.")
SEEDS = typer.Option(0, "--seeds", min=0, help="Seeds to add to the mode's own.")
JSON = typer.Option(False, "--json", help="Write JSON to standard output.")
ALLOW = typer.Option([], "--allow-import", help="Package whose code may be run, for a study given as module:NAME.")
CONTRADICTED = 3


def resolve(name: str, allow: list[str]) -> str:
    """The "module:ATTRIBUTE" behind a study's name; code that is not ours only where it was allowed.

    Raises:
        UserError: an unknown study, with the nearest name, or an import that was not allowed.
    """
    if name in STUDIES:
        return STUDIES[name]
    module, colon, _ = name.partition(":")
    if colon:
        if not any(module == package or module.startswith(f"{package}.") for package in allow):
            package = module.partition(".")[0]
            cure = f"If you trust that code, repeat the command with --allow-import {package}"
            raise UserError(f"importing {module!r} was not allowed", where=name, cure=cure)
        from steersman.core.config import see_working_folder

        see_working_folder()
        return name
    near = difflib.get_close_matches(name, STUDIES, n=1)
    cure = f"Did you mean {near[0]}?" if near else "List them with: steersman study list"
    raise UserError(f"there is no study {name!r}", allowed=", ".join(STUDIES), cure=cure)


def chosen_mode(quick: bool, full: bool, gpu: bool) -> "ModeName | None":
    """The mode that the flags name, or None.

    Raises:
        UserError: more than one flag.
    """
    flags: "dict[ModeName, bool]" = {"quick": quick, "full": full, "gpu": gpu}
    given = [name for name, on in flags.items() if on]
    if len(given) > 1:
        raise UserError(f"{' and '.join('--' + g for g in given)} exclude each other", allowed="one of them")
    return given[0] if given else None


def chosen_pool(name: str, ray_address: str) -> "StartCrew":
    """What does the runs.

    Raises:
        UserError: there is no such pool, or an address is given to one that has none.
    """
    from steersman.study.pool import pool
    from steersman.study.pool_ray import ray_pool

    if name not in ("local", "ray"):
        raise UserError(f"there is no pool {name!r}", where="--pool", allowed="local, ray")
    if ray_address and name != "ray":
        raise UserError("needs --pool ray", where=f"--ray-address {ray_address}")
    return ray_pool(ray_address or None) if name == "ray" else pool


@app.command("list")
def list_studies(root: Path = ROOT, as_json: bool = JSON) -> None:
    """List the studies and what came out of them so far."""
    from steersman.cli import table
    from steersman.study.load import load_study
    from steersman.study.summary import read_report, report_file

    rows = []
    for name, spec in STUDIES.items():
        study = load_study(spec)
        file = report_file(root, study)
        report = read_report(file) if file.is_file() else None
        known = {"mode": report["mode"], "counts": report["counts"], "created": report["created"]} if report else None
        rows.append({"name": name, "title": study.title, "paper": study.paper, "report": known})
    table.print_json(rows) if as_json else table.print_studies(rows)


@app.command("show")
def show_study(name: str = NAME, as_json: bool = JSON, allow: list[str] = ALLOW) -> None:
    """Show what a study asks: its arms, sizes, claims, and what each size can decide."""
    from steersman.cli import table
    from steersman.study.load import load_study

    about = table.about(load_study(resolve(name, allow)))
    table.print_json(about) if as_json else table.print_about(about)


@app.command("run")
def run_command(
    name: str = NAME,
    quick: bool = QUICK,
    full: bool = FULL,
    gpu: bool = GPU,
    seeds: int = SEEDS,
    workers: int = typer.Option(0, "--workers", min=0, help="Processes at a time; 0: one per core, at most 8."),
    pool: str = typer.Option("local", "--pool", help="Where runs are done: local, or ray for a Ray cluster."),
    ray_address: str = typer.Option(
        "", "--ray-address", help="HOST:PORT of the cluster's head, auto or local; default: RAY_ADDRESS, else local."
    ),
    root: Path = ROOT,
    rerun_stale: bool = typer.Option(False, "--rerun-stale", help="Make runs again that other code made."),
    strict: bool = typer.Option(False, "--strict", help="Exit with 3 if a claim is contradicted."),
    as_json: bool = JSON,
    allow: list[str] = ALLOW,
) -> None:
    """Run a study, or continue it; ends with the verdicts and a report. Without a size: --quick."""
    from steersman.cli import table
    from steersman.cli.watch import watcher
    from steersman.study.load import load_study
    from steersman.study.plan import study_folder
    from steersman.study.run import run_study
    from steersman.study.summary import is_current, read_report, report_file, write_report

    start = chosen_pool(pool, ray_address)
    spec = resolve(name, allow)
    study = load_study(spec)
    mode = chosen_mode(quick, full, gpu) or "quick"
    with watcher(quiet_stdout=as_json) as watch:
        outcome = run_study(
            study, spec, mode, root, workers=workers or None, watch=watch, extra_seeds=seeds,
            rerun_stale=rerun_stale, start=start,
        )  # fmt: skip
    plan = outcome.plan
    if not any((study_folder(root, study) / run.id / "result.json").is_file() for run in plan.runs):
        where = study_folder(root, study)
        raise RunStopped(f"every run of {study.name} failed; why is in the error.txt of each run under {where}")
    if is_current(plan, root, spec):
        summary = read_report(report_file(root, study))
    else:
        summary = write_report(plan, root, spec, again(name, plan, allow))
    if as_json:
        table.print_json({**summary, "made": outcome.made, "failures": dict(outcome.failures)})
    else:
        table.print_outcome(summary, outcome, name, root)
    if outcome.failures:
        raise typer.Exit(1)
    if strict and summary["counts"].get("contradicted"):
        raise typer.Exit(CONTRADICTED)


def again(name: str, plan: "Plan", allow: list[str]) -> str:
    """The command that repeats what a plan says."""
    words = ["steersman", "study", "run", name, f"--{plan.mode.name}"]
    words += ["--seeds", str(plan.extra)] if plan.extra else []
    words += [word for package in allow for word in ("--allow-import", package)]
    return shlex.join(words)


def settled(study: "Study", root: Path, mode: "ModeName | None", seeds: int) -> "Plan":
    """The plan meant by a command that need not name a mode: the one reported last, else one with finished runs."""
    from steersman.study.plan import MODES, make_plan, study_folder, with_finished_seeds
    from steersman.study.summary import read_report, report_file

    if mode is None and report_file(root, study).is_file():
        mode = read_report(report_file(root, study))["mode"]
    for candidate in () if mode else MODES:
        try:
            runs = make_plan(study, candidate).runs
        except UserError:
            continue  # the study has no such size
        if any((study_folder(root, study) / run.id / "result.json").is_file() for run in runs):
            mode = candidate
            break
    return with_finished_seeds(study, mode or "quick", seeds, root)


@app.command("status")
def status(
    name: str = NAME,
    quick: bool = QUICK,
    full: bool = FULL,
    gpu: bool = GPU,
    seeds: int = SEEDS,
    root: Path = ROOT,
    as_json: bool = JSON,
    allow: list[str] = ALLOW,
) -> None:
    """Show how many runs of a study are done, stale (made by other code), to do, or failed."""
    from steersman.cli import table
    from steersman.study.load import code_of, load_study
    from steersman.study.plan import STATES, states

    spec = resolve(name, allow)
    study = load_study(spec)
    plan = settled(study, root, chosen_mode(quick, full, gpu), seeds)
    found = states(plan, root, code_of(spec))
    counts = {state: sum(s == state for s in found.values()) for state in STATES}
    about = {"study": study.name, "mode": plan.mode.name, "extra_seeds": plan.extra, "counts": counts, "runs": found}
    table.print_json(about) if as_json else table.print_status(about, root)


@app.command("report")
def report(
    name: str = NAME,
    quick: bool = QUICK,
    full: bool = FULL,
    gpu: bool = GPU,
    seeds: int = SEEDS,
    root: Path = ROOT,
    as_json: bool = JSON,
    allow: list[str] = ALLOW,
) -> None:
    """Make the report of the finished runs again; runs nothing."""
    from steersman.cli import table
    from steersman.store.run import writable
    from steersman.study.load import load_study
    from steersman.study.summary import collect, never_ran, write_report

    spec = resolve(name, allow)
    study = load_study(spec)
    plan = settled(study, root, chosen_mode(quick, full, gpu), seeds)
    if not collect(plan, root).results:
        raise never_ran(study, root, plan.mode.name)
    writable(root / study.name)
    summary = write_report(plan, root, spec, again(name, plan, allow))
    table.print_json(summary) if as_json else table.print_summary(summary, root)


@app.command("diff")
def diff(
    a: str = typer.Argument(help="A report.json, a study's folder, or STUDY:MODE such as rdpo:quick."),
    b: str = typer.Argument(help="What to compare it with."),
    root: Path = ROOT,
    as_json: bool = JSON,
) -> None:
    """Compare two reports: which verdicts, estimates and results changed."""
    from dataclasses import asdict

    from steersman.cli import table
    from steersman.study.diff import compare

    found = compare(_summary(a, root), _summary(b, root))
    table.print_json({**asdict(found), "changed": found.changed}) if as_json else table.print_diff(found)


def _summary(place: str, root: Path) -> dict[str, Any]:
    """What a report says, read from a file, or judged anew from the finished runs of STUDY:MODE."""
    from steersman.study.diff import find_report
    from steersman.study.load import load_study
    from steersman.study.plan import MODES, with_finished_seeds
    from steersman.study.summary import read_report, summarise

    name, _, mode = place.rpartition(":")
    if name in STUDIES and mode in MODES:
        plan = with_finished_seeds(load_study(STUDIES[name]), mode, 0, root)
        return summarise(plan, root, STUDIES[name], again(name, plan, [])).summary
    return read_report(find_report(root / place if place in STUDIES else Path(place)))
