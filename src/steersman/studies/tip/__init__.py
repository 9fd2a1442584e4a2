"""TIP on the planted-quadrant task: which tokens does a student need to learn from, and what does learning from few
cost?

Every arm is a recipe as a user writes it (`arms`), distilled on the student's own responses from the task's teacher,
from one student (`studies.planted_policy`). One run trains nothing and says what every rule keeps of one batch
(`first`); another measures memory (`memory`). Claims were declared before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.tip import claims, show
from steersman.studies.tip.names import KINDS, PARTS, STUDENTS
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 2.0, "full": 18.0}
NOTES = {
    "quick": "Five arms for 60 steps with two seeds, one size of vocabulary; no saturated student, no other rate.",
    "full": "Every arm for 120 steps with five seeds; saturated students and the high rate with three.",
}
SERIES = {
    "tokens": "train/Watched/tokens",
    "divergence_all": "train/Watched/divergence_all",
    "divergence_left": "train/Watched/divergence_left",
    "norm": "train/grad_norm",
    "loss": "train/loss/distill",
    **{f"{k}_{what}": f"train/Watched/{k}_{what}" for k in KINDS for what in ("kept", "made", "entropy", "divergence")},
}
"""What is kept of each step, by its name in ``metrics.jsonl``."""


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies.planted_policy import artefact
    from steersman.studies.tip.arms import TASKS, cells

    found = cells(name, extra_seeds)
    used = {need for cell in found for need in cell.needs}
    made = tuple(artefact(TASKS[s], name=n) for s, n in STUDENTS.items() if n in used)
    return Mode(name, found, made, MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    if cell.part == PARTS["memory"]:
        from steersman.studies.tip import memory

        return memory.run(**cell.task)
    policy = artefacts[cell.needs[0]]
    if cell.part == PARTS["first"]:
        from steersman.studies.tip import first

        return first.run(cell, policy)
    from steersman.studies.planted_policy import judge, judged, model_folder
    from steersman.studies.rl_runs import recipe_of, train
    from steersman.task.planted import Planted

    recipe, began = recipe_of(cell, str(model_folder(policy))), judged(policy)
    task = Planted.model_validate({k: v for k, v in cell.arm.settings["task"].items() if k in Planted.model_fields})

    def told(model: Any) -> dict[str, Any]:
        found = judge(model, task, int(cell.task["judged"]))
        return {"start": began["exact"], "final": found["exact"], "began": began, "judged": found}

    return train(recipe, cell, run_dir, policy, SERIES, judge=told)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="tip",
    title="Which tokens a student needs",
    question="Does learning from the tokens where a student is unsure, or sure and wrong, lose nothing, and what does "
    "an entropy-only rule miss?",
    paper='Xu, Sang, Zhou, He, Wang, Geramifard, "TIP: Token Importance in On-Policy Distillation", 2026, '
    "arXiv 2604.14084",
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("Gains over learning from all tokens on MATH-500 and AIME", "two cores; 0.1 M parameters"),
        NotTestable("Shares of the quadrants, 40 to 47 % Q4", "the paper names no thresholds; ours are planted"),
        NotTestable("Planning with tools", "no such task here"),
        NotTestable(
            "Gigabytes saved in whole training steps", "the trunk is 0.1 M parameters; losses alone are measured"
        ),
    ),
    equal="start, 64 prompts a step with one response each, AdamW, held-out prompts; of a seed also prompts and "
    "sampling noise. Tokens learnt from are equal between arms of one per cent, and not otherwise",
    method_page="docs/tip.md",
    preload=("torch", "transformers", "transformers.models.gpt2.modeling_gpt2", "steersman.recipes.rl_job"),
)
