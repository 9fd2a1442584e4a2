"""One run of the presets' study (`studies.rl_runs`), and what is kept of each batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.chain_sum_policy import model_folder
from steersman.studies.rl_presets.arms import POLICY
from steersman.studies.rl_runs import recipe_of, train
from steersman.study.declare import Cell

SERIES = {
    "tokens": "train/tokens_generated",
    "zero_signal": "train/zero_signal_groups",
    "rounds": "train/rounds",
    "rows_kept": "train/rows_kept",
    "silent_kept": "train/grpo/zero_signal_count",
    "entropy": "train/entropy",
    "skipped": "train/skipped",
}
"""What is kept of each batch, by its name in ``metrics.jsonl``."""


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """Train one arm from the supervised policy and judge it (`rl_runs.train`)."""
    policy = artefacts[POLICY]
    return train(recipe_of(cell, str(model_folder(policy))), cell, run_dir, policy, SERIES)
