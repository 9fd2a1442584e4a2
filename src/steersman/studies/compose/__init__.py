"""PF-PPO, ADORA and D3S together: every subset of the three on one task, at equal generated and equal trained tokens.

Every arm is a recipe as a user writes it (`arms`), the last the shipped one; one run trains nothing and shows what each
sees in the same batch (`studies.rl_view`). Claims were declared before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.compose import claims, show
from steersman.studies.compose.names import POLICY, VIEW
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 2.0, "full": 13.0}
NOTES = {
    "quick": "Every subset for 20 batches with four seeds: whether a method is far ahead or behind at first.",
    "full": "Every subset for 60 batches with ten seeds. Other options of the three methods are left out.",
}
SERIES = {
    "tokens": "train/tokens_generated",
    "rows": "train/Learnt/rows",
    "trained": "train/Learnt/tokens",
    "norm": "train/grad_norm",
    "length": "train/response_length",
    "entropy": "train/entropy",
    "zero_signal": "train/zero_signal_groups",
    "skipped": "train/skipped",
}
"""What is kept of each batch, by its name in ``metrics.jsonl``."""
AXES = {"tokens": "train/tokens_generated", "trained": "train/Learnt/tokens"}


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies.adora.arms import SUPERVISED
    from steersman.studies.chain_sum_policy import artefact
    from steersman.studies.compose.arms import TASK, cells

    made = artefact(TASK, name=POLICY, **SUPERVISED)  # that of the ADORA study, name and all: it is built once
    return Mode(name, cells(name, extra_seeds), (made,), MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    from steersman.studies.chain_sum_policy import model_folder

    policy = artefacts[POLICY]
    if cell.part == VIEW:
        from steersman.studies.compose.arms import TASK
        from steersman.studies.rl_view import compare_arms

        return compare_arms(cell, TASK, model_folder(policy))
    from steersman.studies.rl_runs import recipe_of, train

    return train(recipe_of(cell, str(model_folder(policy))), cell, run_dir, policy, SERIES, AXES)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="compose",
    title="Three ways to learn from the right samples, together",
    question="Do PF-PPO, ADORA and D3S help one another, at equal generated and at equal trained tokens?",
    paper="arXiv 2409.06957, 2602.10019, 2509.22115; the combination is ours",
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("What a combination does with a learned reward", "rewards of this task are exact; see pf-ppo"),
        NotTestable("Combinations of other options of the methods", "each has its defaults"),
        NotTestable("Mathematics, code, models of 1 B parameters and more", "two cores; 0.1 M parameters"),
    ),
    equal="start, 32 x 8 responses of a batch, one update of it, AdamW at 5e-5, held-out prompts; of a seed prompts "
    "and sampling noise. Not equal: tokens learnt from, unless a claim says so",
    method_page="docs/compose.md",
    preload=("torch", "transformers", "transformers.models.llama.modeling_llama", "steersman.recipes.rl_job"),
)
