"""POISE on the running-sum task: does a probe of the policy's own hidden states make a better baseline?

Three parts: how near probes come to the policy's true value (`probes`), what their baselines do to the gradient at
fixed weights (`estimates`), and training (`studies.rl_runs`). Claims were declared before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.poise import claims, show
from steersman.studies.poise.names import PARTS, POLICY, TRUTH
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 1.8, "full": 11.0}
NOTES = {
    "quick": "Probes of 256 and 1,024 examples with four seeds; gradients of 24 batches of each allocation; four "
    "arms for 20 batches with two seeds: too few for what is said of training.",
    "full": "Every probe at three sizes with six seeds; gradients of 160 batches of each allocation; every arm for 40 "
    "batches with ten seeds. Other learning rates, several updates of a batch and the blend are left out.",
}
SERIES = {
    "tokens": "train/tokens_generated",
    "rows": "train/rows_generated",
    "norm": "train/grad_norm",
    "r2": "train/internal_value/r2",
    "reduction": "train/internal_value/variance_reduction",
    "mae": "train/internal_value/mae",
    "fallback": "train/internal_value/fallback",
    "cold": "train/internal_value/cold",
    "zero_signal": "train/zero_signal_groups",
    "skipped": "train/skipped",
}
"""What is kept of each batch, by its name in ``metrics.jsonl``."""
AXES = {"tokens": "train/tokens_generated", "rows": "train/rows_generated"}


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies.chain_sum_policy import artefact
    from steersman.studies.poise.arms import TASK, cells
    from steersman.studies.poise.probes import values_artefact

    found = cells(name, extra_seeds)
    made = (artefact(TASK, name=POLICY), values_artefact(TASK, TRUTH, POLICY))
    return Mode(name, found, made, MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    policy = artefacts[POLICY]
    if cell.part == PARTS["gradients"]:
        from steersman.studies.poise import estimates

        return estimates.run(cell, run_dir, policy)
    if cell.part == PARTS["probe"]:
        from steersman.studies.poise import probes

        return probes.run(cell, run_dir, policy, artefacts[TRUTH])
    from steersman.studies.chain_sum_policy import model_folder
    from steersman.studies.rl_runs import recipe_of, train

    return train(recipe_of(cell, str(model_folder(policy))), cell, run_dir, policy, SERIES, AXES)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="poise",
    title="A baseline from the policy's own hidden states",
    question="How near do a few rollouts bring a probe of hidden states to the policy's value, is the gradient with it "
    "unbiased and less noisy, and does training get by with fewer responses?",
    paper='Choi, Lim, Ahn, Oh, Shim, Jo, "Your Language Model is Its Own Critic: Reinforcement Learning with Value '
    "Estimation from Actor's Internal States\", arXiv 2605.07579",
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("Olympiad mathematics with models of 1.5 and 4 B parameters", "two cores; 0.1 M parameters"),
        NotTestable("25 % of the time saved at responses of 8,192 tokens", "responses have at most 27 tokens"),
        NotTestable("Which of 36 layers is best", "the policy has two"),
        NotTestable("GRESO, the paper's form of dynamic sampling", "DAPO's own is compared with"),
    ),
    equal="start, 256 responses of a batch before filters, one update of it, AdamW at 5e-5, loss and averages, "
    "held-out prompts; of a seed also sampling noise. Not equal: prompts of a batch, and what filters draw beyond it",
    method_page="docs/poise.md",
    preload=("torch", "transformers", "transformers.models.llama.modeling_llama", "steersman.recipes.rl_job"),
)
