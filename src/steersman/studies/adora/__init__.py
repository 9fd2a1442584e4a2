"""ADORA on responses of two lengths: does weighing prompts help where long is good, and what where short is?

Every arm is a recipe as a user writes it (`arms`), trained from a supervised policy of its world
(`studies.chain_sum_policy`); three runs train nothing and compare the classes of prompts between draws
(`classes`), and what each arm makes of one batch (`studies.rl_view`).
Claims were declared before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.adora import claims, show
from steersman.studies.adora.names import PARTS, POLICIES
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 2.0, "full": 18.0}
NOTES = {
    "quick": "Three arms in both worlds, 20 batches, four seeds; classes of 64 prompts. No control, no grid, no other "
    "method.",
    "full": "Every arm for 40 batches with five seeds; other criteria, the grid and other methods only where long is "
    "good; classes of 256 prompts. Other sizes of group in training, and ADORA as a first stage only, are left out.",
}
SERIES = {
    "tokens": "train/tokens_generated",
    "trained": "train/tokens_trained",
    "length": "train/response_length",
    "reweighted": "train/adora/reweighted",
    "weight": "train/adora/weight_mean",
    "length_correct": "train/adora/length_correct",
    "length_wrong": "train/adora/length_wrong",
    "norm": "train/grad_norm",
    "zero_signal": "train/zero_signal_groups",
}
"""What is kept of each batch, by its name in ``metrics.jsonl``."""
AXES = {"tokens": "train/tokens_generated", "trained": "train/tokens_trained"}


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies.adora.arms import SUPERVISED, cells, task
    from steersman.studies.chain_sum_policy import artefact

    made = tuple(artefact(task(world), name=policy, **SUPERVISED) for world, policy in POLICIES.items())
    return Mode(name, cells(name, extra_seeds), made, MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    policy = artefacts[cell.needs[0]]
    if cell.part == PARTS["classes"]:
        from steersman.studies.adora import classes

        return classes.run(cell, run_dir, policy)
    from steersman.studies.chain_sum_policy import model_folder

    if cell.part == PARTS["view"]:
        from steersman.studies.adora.arms import task
        from steersman.studies.rl_view import compare_arms

        return compare_arms(cell, task("long"), model_folder(policy))
    from steersman.studies.rl_runs import recipe_of, train

    return train(recipe_of(cell, str(model_folder(policy))), cell, run_dir, policy, SERIES, AXES)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="adora",
    title="Weighing prompts by their own responses",
    question="Does ADORA learn more where long answers are good, and what does it do where short ones are?",
    paper='Ren, Huang, Fang et al., "ADORA: Training Reasoning Models with Dynamic Advantage Estimation on '
    'Reinforcement Learning", arXiv 2602.10019; code ShadeCloak/ADORA',
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("MathVista, AIME, AMC, knights and knaves with models of 7 B parameters", "two cores; 0.1 M ones"),
        NotTestable("Long chains of thought, reflection words, overthinking", "responses of 14 or 24 tokens"),
        NotTestable("How the paper joins its two criteria", "not recovered; an arm for each way"),
        NotTestable("Rewards with a bonus for the format", "this task pays 0 or 1, where groups all right or all "
                    "wrong have no advantage"),
    ),
    equal="start, 32 x 8 responses of a batch, AdamW at 5e-5, held-out prompts; of a seed also prompts and sampling "
    "noise. Not equal: tokens of a response, which is what ADORA is to change; prompts drawn (filter)",
    method_page="docs/adora.md",
    preload=("torch", "transformers", "transformers.models.llama.modeling_llama", "steersman.recipes.rl_job"),
)  # fmt: skip
