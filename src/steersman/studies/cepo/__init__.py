"""CEPO on the running-sum task: does evidence of a told answer find the tokens that decide, and does it help?

Every trained arm is a recipe as a user writes it (`arms`), trained from one supervised policy that knows what a told
answer means (`studies.chain_sum_policy`). Three runs train nothing: evidence at the first weights beside the truth
(`evidence`), a world of two tokens in which all is exact (`coin`), and what each method makes of one batch
(`studies.rl_view`). Claims were declared before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.cepo import claims, show
from steersman.studies.cepo.names import PARTS, POLICIES
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 1.5, "full": 18.0}
NOTES = {
    "quick": "Five arms with three seeds; evidence of four batches. No controls of credit, no SDPO, nothing with eight "
    "fillers.",
    "full": "Every arm with ten seeds, four with eight fillers and seven seeds; evidence of 24 batches. Other "
    "schedules, bounds, hints and teachers are left out.",
}
SERIES = {
    "tokens": "train/tokens_generated",
    "scored": "train/tokens_scored",
    "lam": "train/contrastive_credit/lam",
    "up": "train/contrastive_credit/delta_mean_up",
    "down": "train/contrastive_credit/delta_mean_down",
    "wrong_up": "train/contrastive_credit/wrong_direction_up",
    "wrong_down": "train/contrastive_credit/wrong_direction_down",
    "clipped": "train/contrastive_credit/clipped",
    "entropy": "train/entropy",
    "divergence": "train/loss/distill",
}
"""What is kept of each batch, by its name in ``metrics.jsonl``."""
AXES = {"tokens": "train/tokens_generated", "scored": "train/tokens_scored"}


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies.cepo.arms import SUPERVISED, cells, task
    from steersman.studies.chain_sum_policy import artefact

    found = cells(name, extra_seeds)
    used = {need for cell in found for need in cell.needs}
    made = tuple(artefact(task(f), name=n, **SUPERVISED[f]) for f, n in POLICIES.items() if n in used)
    return Mode(name, found, made, MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    if cell.part == PARTS["coin"]:
        from steersman.studies.cepo import coin

        return coin.run()
    from steersman.studies.cepo.arms import task
    from steersman.studies.chain_sum_policy import model_folder

    policy = artefacts[cell.needs[0]]
    if cell.part == PARTS["evidence"]:
        from steersman.studies.cepo import evidence

        return evidence.run(cell, run_dir, policy, task(1))
    if cell.part == PARTS["view"]:
        from steersman.studies.rl_view import compare_arms

        return compare_arms(cell, task(1), model_folder(policy))
    from steersman.studies.rl_runs import recipe_of, train

    return train(recipe_of(cell, str(model_folder(policy))), cell, run_dir, policy, SERIES, AXES)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="cepo",
    title="Credit to the tokens that decided",
    question="Does evidence from told answers find the tokens that decide, and does a policy learn more by it?",
    paper="Heakl et al., CEPO: RLVR Self-Distillation using Contrastive Evidence Policy Optimization, arXiv 2605.19436",
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("Five multimodal benchmarks with models of 2 and 4 B parameters", "two cores; 0.1 M ones"),
        NotTestable("A teacher that is frozen, or copied every 25 steps", "40 batches are too few to tell them apart"),
        NotTestable("Whole responses as wrong references", "the policy was taught answers of one digit alone"),
        NotTestable("Gains that fade, or collapse after hundreds of steps", "40 batches"),
    ),
    equal="start, 32 x 8 responses of a batch, one update of it, AdamW at 5e-5 (one arm: 2.5e-4), held-out prompts; of "
    "a seed also prompts and sampling noise. Not equal: forward passes, and the size of a step where the loss is not "
    "the policy's (OPSD, SDPO)",
    method_page="docs/cepo.md",
    preload=("torch", "transformers", "transformers.models.llama.modeling_llama", "steersman.recipes.rl_job"),
)
