"""What will be run, under which names, and what it can decide: identities, states, smallest reachable p-values.

A run's identity is a hash of the study and its version, the part, the resolved arm, task, seed, mode and the contents
of everything it reads; never of paths, device or threads. Leaves out: running (`study.run`), judging
(`study.verdict`).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steersman.core.errors import UserError
from steersman.stats import holm, smallest_p
from steersman.store.files import content_hash, digest, read_json
from steersman.study.declare import Artefact, Cell, Claim, Mode, ModeName, Study
from steersman.study.load import code_in

State = Literal["done", "stale", "todo", "failed"]
STATES: tuple[State, ...] = ("done", "stale", "todo", "failed")
MODES: tuple[ModeName, ...] = ("quick", "full", "gpu")
ALPHA = 0.05
MOST_EXTRA_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class PlannedArtefact:
    """An artefact with its identity; it lives in the folder ``<root>/cache/<id>``."""

    artefact: Artefact
    id: str

    def folder(self, root: Path) -> Path:
        """Where the finished artefact is, whether or not it is there yet."""
        return root / "cache" / self.id


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A cell with its identity and the artefacts it reads (name -> id)."""

    cell: Cell
    id: str
    identity: Mapping[str, Any]
    artefacts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """One mode of a study, resolved: artefacts in an order in which they can be built, then runs."""

    study: Study
    mode: Mode
    extra: int
    artefacts: tuple[PlannedArtefact, ...]
    runs: tuple[PlannedRun, ...]


def make_plan(study: Study, mode: ModeName, extra_seeds: int = 0) -> Plan:
    """Resolve one mode of a study.

    Args:
        study: the study.
        mode: which size.
        extra_seeds: seeds more than the mode's own, 0 to 1000.

    Returns:
        The plan; equal inputs and equal file contents give equal ids, wherever anything lies.

    Raises:
        UserError: a mode the study lacks, an artefact that is not declared or needs itself, a file that is not there,
            two cells that are the same run.
    """
    if not 0 <= extra_seeds <= MOST_EXTRA_SEEDS:
        raise UserError(f"{extra_seeds} seeds more", where="--seeds", allowed=f"0 to {MOST_EXTRA_SEEDS}")
    found = study.mode(mode, extra_seeds)
    artefacts = _resolve(study, found.artefacts)
    runs = tuple(_planned(study, found.name, cell, artefacts) for cell in found.cells)
    for run, count in Counter(r.id for r in runs).items():
        if count > 1:
            raise UserError(f"declares the same run {count} times: {run}", where=f"study {study.name}, {mode}")
    return Plan(study, found, extra_seeds, tuple(artefacts.values()), runs)


def _planned(study: Study, mode: str, cell: Cell, artefacts: Mapping[str, PlannedArtefact]) -> PlannedRun:
    for name in cell.needs:
        if name not in artefacts:
            raise UserError(
                f"a cell of part {cell.part} needs {name!r}",
                where=f"study {study.name}, {mode}",
                allowed=", ".join(artefacts) or "no artefact is declared",
            )
    ids = {name: artefacts[name].id for name in cell.needs}
    identity = {
        "study": study.name,
        "version": study.version,
        "mode": mode,
        "part": cell.part,
        "arm": cell.arm.name,
        "settings": dict(cell.arm.settings),
        "task": dict(cell.task),
        "seed": cell.seed,
        "artefacts": ids,
    }
    words = "-".join([mode, cell.part, cell.arm.name, f"s{cell.seed}"])
    prefix = re.sub(r"[^A-Za-z0-9._+-]+", "_", words)[:80].lstrip(".")
    return PlannedRun(cell, f"{prefix}-{digest(identity, 12)}", identity, ids)


def _resolve(study: Study, declared: Sequence[Artefact]) -> dict[str, PlannedArtefact]:
    """Order artefacts by need and give each its identity: settings, version, contents read, identities of its needs."""
    by_name = {a.name: a for a in declared}
    done: dict[str, PlannedArtefact] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in done:
            return
        if name in above or name not in by_name:
            why = "needs itself" if name in above else "is needed but not declared"
            raise UserError(f"artefact {name!r} {why}", where=f"study {study.name}", cure=" -> ".join((*above, name)))
        artefact = by_name[name]
        for need in artefact.needs:
            visit(need, (*above, name))
        identity = {
            "name": name,
            "version": artefact.version,
            "settings": dict(artefact.settings),
            "reads": [content_hash(path) for path in artefact.reads],
            "needs": {need: done[need].id for need in artefact.needs},
        }
        safe = re.sub(r"[^A-Za-z0-9._+-]+", "_", name).lstrip(".")
        done[name] = PlannedArtefact(artefact, f"{safe}-{digest(identity)}")

    for name in by_name:
        visit(name, ())
    return done


def study_folder(root: Path, study: Study) -> Path:
    """Where a study's runs and its report are."""
    return root / study.name


def artefact_state(planned: PlannedArtefact, root: Path, code: Mapping[str, str]) -> State:
    """Whether an artefact is there ("done"), was made by other code ("stale") or has to be built ("todo")."""
    note = planned.folder(root) / "artefact.json"
    if not note.is_file():
        return "todo"
    return "done" if code_in(read_json(note).get("made_by", {})) == dict(code) else "stale"


def run_state(run: PlannedRun, root: Path, study: Study, code: Mapping[str, str]) -> State:
    """Where a run stands; a finished one made by other code, or from artefacts of other code, is stale.

    An unfinished one that left an error has failed.
    """
    folder = study_folder(root, study) / run.id
    if (folder / "result.json").is_file():
        made = read_json(folder / "run.json").get("made_by", {})
        same = code_in(made) == dict(code) and all(c == digest(dict(code)) for c in made.get("artefacts", {}).values())
        return "done" if same else "stale"
    return "failed" if (folder / "error.txt").is_file() else "todo"


def states(plan: Plan, root: Path, code: Mapping[str, str]) -> dict[str, State]:
    """The state of every run of a plan, by id."""
    return {run.id: run_state(run, root, plan.study, code) for run in plan.runs}


def with_finished_seeds(study: Study, mode: ModeName, asked: int, root: Path) -> Plan:
    """The plan with the seeds asked for, and with those added earlier, as far as all their runs are finished.

    Without this, repeating the plain command after ``--seeds 4`` would report fewer seeds than were run.
    """
    plan = make_plan(study, mode, asked)
    while plan.extra < MOST_EXTRA_SEEDS:
        more = make_plan(study, mode, plan.extra + 1)
        known = {run.id for run in plan.runs}
        added = [run for run in more.runs if run.id not in known]
        folder = study_folder(root, study)
        if not added or not all((folder / run.id / "result.json").is_file() for run in added):
            break
        plan = more
    return plan


def best_p(claims: Sequence[Claim], mode: ModeName, extra_seeds: int = 0) -> dict[str, float | None]:
    """The smallest p-value each claim can reach in a mode after Holm, if every test came out as clearly as it can.

    Args:
        claims: the study's claims.
        mode: the size that is planned.
        extra_seeds: seeds added to the mode's own.

    Returns:
        By claim id: the p-value; None for a claim whose test has no such limit, or that the mode does not test.
    """
    pairs = {c.id: c.pairs[mode] + extra_seeds for c in claims if c.pairs.get(mode)}
    if not pairs:
        return {c.id: None for c in claims}
    smallest = [smallest_p(pairs[c.id], 1, alternative=c.sided) if c.id in pairs else None for c in claims]
    return {c.id: float(p) if c.id in pairs else None for c, p in zip(claims, holm(smallest), strict=True)}


def undecidable(claims: Sequence[Claim], mode: ModeName, extra_seeds: int = 0) -> tuple[str, ...]:
    """Ids of the claims that a mode can only leave inconclusive, whatever comes out."""
    return tuple(id for id, p in best_p(claims, mode, extra_seeds).items() if p is not None and p >= ALPHA)
