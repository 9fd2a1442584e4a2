"""The presets of `steersman train rl` on the running-sum task: does each learn, and what does it draw for it?

Every arm is a recipe as a user writes it (`arms`), trained from one supervised policy (`studies.chain_sum_policy`).
Claims were declared before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.rl_presets import claims, show
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 2.0, "full": 18.0}
NOTES = {
    "quick": "Plain GRPO for 60 batches with five seeds; Dr.GRPO, RLOO, DAPO and PPO for 30 with three; no other arm.",
    "full": "Every arm for 60 batches with eight seeds.",
}


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies.chain_sum_policy import artefact
    from steersman.studies.rl_presets.arms import POLICY, cells

    found = cells(name, extra_seeds)
    return Mode(name, found, (artefact(name=POLICY),), MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    from steersman.studies.rl_presets import training

    return training.run(cell, run_dir, artefacts)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="rl-presets",
    title="Nine published methods on one small task",
    question="Does each preset learn a task with checkable answers, and is DAPO ahead once its extra samples count?",
    paper="the papers of the presets (docs/rl.md); the task and its reference figures are ours",
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("Results on mathematics with models of 1 B parameters and more", "two cores; 0.1 M parameters"),
        NotTestable(
            "Long responses, and what averaging over tokens or rows does to length",
            "every right response of this task has 18 tokens",
        ),
        NotTestable("Which method is best", "one learning rate for all, not tuned for each"),
    ),
    equal="start, 32 x 8 responses of a batch, AdamW at 3e-4, held-out prompts; within a group of arms also prompts "
    "and sampling noise of a seed. Not equal: updates of a batch between the two groups, tokens generated (DAPO), "
    "the critic and its warm-up (PPO), KL penalties (as each preset has them)",
    method_page="docs/rl-presets.md",
    preload=("torch", "transformers", "transformers.models.llama.modeling_llama", "steersman.recipes.rl_job"),
)
