"""D3S on the running-sum task: does learning from few rows and few tokens lose nothing, and does it matter which?

Every arm is a recipe as a user writes it (`arms`), trained from one supervised policy (`studies.chain_sum_policy`);
two runs train nothing and compare the gradients of all methods on the same batches (`gradients`), and what each keeps
of one batch (`studies.rl_view`). Claims were declared
before the first run (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.d3s import claims, show
from steersman.studies.d3s.names import PARTS, POLICIES
from steersman.study.declare import Cell, Mode, ModeName, NotTestable, Result, Study, Word

MINUTES = {"quick": 1.5, "full": 16.0}
NOTES = {
    "quick": "Five arms with fillers, 30 batches, four seeds; gradients of 16 batches. No other control, nothing "
    "without fillers, no GSPO.",
    "full": "Every arm for 60 batches with seven seeds; gradients of 64 batches. GSPO's bounds, other sizes of group, "
    "other shares of rows and tokens, and both denominators in training are left out.",
}
SERIES = {
    "tokens": "train/tokens_generated",
    "rows": "train/Kept/rows",
    "trained": "train/Kept/tokens",
    "filler": "train/Kept/filler",
    "decisive": "train/Kept/decisive",
    "norm": "train/grad_norm",
    "entropy": "train/entropy",
    "zero_signal": "train/zero_signal_groups",
    "skipped": "train/skipped",
}
"""What is kept of each batch, by its name in ``metrics.jsonl``."""
AXES = {"tokens": "train/tokens_generated", "trained": "train/Kept/tokens"}


def mode(name: ModeName, extra_seeds: int = 0) -> Mode:
    """The runs of one size."""
    from steersman.studies.chain_sum_policy import artefact
    from steersman.studies.d3s.arms import SUPERVISED, cells, task

    found = cells(name, extra_seeds)
    used = {need for cell in found for need in cell.needs}
    made = tuple(artefact(task(f), name=name, **SUPERVISED[f]) for f, name in POLICIES.items() if name in used)
    return Mode(name, found, made, MINUTES[name], NOTES[name])


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """One run."""
    policy = artefacts[cell.needs[0]]
    if cell.part == PARTS["gradients"]:
        from steersman.studies.d3s import gradients

        return gradients.run(cell, run_dir, policy)
    from steersman.studies.chain_sum_policy import model_folder

    if cell.part == PARTS["view"]:
        from steersman.studies.d3s.arms import task
        from steersman.studies.rl_view import compare_arms

        return compare_arms(cell, task(1), model_folder(policy))
    from steersman.studies.rl_runs import recipe_of, train

    return train(recipe_of(cell, str(model_folder(policy))), cell, run_dir, policy, SERIES, AXES)


def answer(results: Sequence[Result], words: Mapping[str, Word]) -> str:
    """What came out, in plain words."""
    return show.sentence(results)


STUDY = Study(
    name="d3s",
    title="Learning from few rows and few tokens",
    question="Does D3S learn as much from a seventh of the tokens, and does it matter which rows and tokens they are?",
    paper='Wang, Yang, Tian et al., "Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for '
    'Efficient Policy Optimization", ICLR 2026, arXiv 2509.22115',
    version=1,
    mode=mode,
    run=run,
    claims=claims.CLAIMS,
    answer=answer,
    show=show.show,
    not_testable=(
        NotTestable("Pass@1 and Pass@8 on mathematics with models of 1.5 to 8 B parameters", "two cores; 0.1 M ones"),
        NotTestable("Entropy falls for aligned models and rises for others", "one small model"),
        NotTestable("The published shares of rows and tokens", "not recovered; ours give 13.75 % of the tokens"),
        NotTestable("Time saved on long responses", "18 tokens; drawing them costs as much as learning"),
    ),
    equal="start, 32 x 8 responses of a batch (quarter batch: 8 x 8), AdamW at 5e-5, held-out prompts; of a seed also "
    "prompts and sampling noise. Not equal: tokens learnt from, unless a claim says so; updates of a batch (GSPO: 4)",
    method_page="docs/d3s.md",
    preload=("torch", "transformers", "transformers.models.llama.modeling_llama", "steersman.recipes.rl_job"),
)
