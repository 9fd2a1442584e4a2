"""DP-BAI: does it find the best arm more often than what came before, why, and does it keep its promise of privacy?

Errors are simulated on five instances with paired rewards, one of them in other units too (`arms`); errors of two and
four arms and all that a transcript gives away are enumerated (`exact`); audits try to refute the promise, with faults
planted. Claims were declared before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError
from steersman.store.run import RunDir
from steersman.studies.dp_bai import claims, names, show
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 1.6, "full": 15.0}
NOTES = {
    "quick": "4,000 replications, one to three budgets an instance, ten random sets, 60,000 audited runs.",
    "full": "20,000 replications, three to six budgets, 20 random sets, a million audited runs. The older designs are "
    "not played on 50 and 200 arms, nor plain halving on 200: each replication would need a design of its own.",
}


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size; a seed more is as many replications more."""
    if name == "gpu":
        raise UserError("has no gpu mode: nothing in it needs one", where="dp-bai", allowed="quick, full")
    from steersman.studies.dp_bai.arms import cells

    return Mode(name, cells(name, extra_seeds), (), MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run, in one go."""
    from steersman.studies.dp_bai import arms, exact

    task = dict(cell.task)
    if cell.part == names.PARTS["exact"]:
        return exact.figures(int(task["points"]), int(task["trials"]))
    if cell.part == names.PARTS["audit"]:
        return arms.audited(task, cell.arm.settings["fault"])
    return arms.rescaled(task, cell.seed) if cell.part == names.PARTS["rescaled"] else arms.errors(task, cell.seed)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="dp-bai",
    title="The best arm under a promise of privacy",
    question="Does DP-BAI find the best arm more often than a private version of the method before it, where does its "
    "gain come from, and does it keep its promise?",
    paper="Chen, Karthik, Chee, Tan: Fixed-Budget Differentially Private Best Arm Identification. ICLR 2024 "
    "(arXiv 2401.09073)",
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("The lower bound", "it is about all instances at once, and asymptotic"),
        NotTestable("That the constants of the bound are the best", "as before"),
        NotTestable("Figures of the paper", "their numbers could not be read; the instance is as recalled"),
    ),
    equal="rewards of each arm in each phase, budget, replications; of one instance also the features",
    method_page="docs/dp-bai.md",
    preload=("scipy.stats", "scipy.optimize", "steersman.studies.dp_bai.arms"),
)
