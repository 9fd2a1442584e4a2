"""One training run of the PF-PPO study, judged on new prompts of the taught functions, by size, and on unseen ones.

Leaves out: training itself (`rl_runs`), recipes (`arms`).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from steersman.store.run import RunDir
from steersman.studies.pf_ppo.names import POLICY, REWARD
from steersman.studies.rl_runs import recipe_of, train
from steersman.studies.tiny_code_policy import TASK, UNSEEN, count_right, judged, model_folder, right_by_size
from steersman.study.declare import Cell

SERIES = {
    "tokens": "train/tokens_generated",
    "rows": "train/Learnt/rows",
    "trained": "train/Learnt/tokens",
    "reward": "train/reward_mean",
    "accuracy": "train/accuracy",
    "entropy": "train/entropy",
    "skipped": "train/skipped",
}
"""What is kept of each batch, by its name in ``metrics.jsonl``."""
AXES = {"tokens": "train/tokens_generated", "trained": "train/Learnt/tokens"}


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """Train and judge; beside what `rl_runs.train` returns ``by_size`` and ``unseen``: right answers, prompts."""
    policy, settings = artefacts[POLICY], dict(cell.arm.settings)
    if settings.get("reward"):  # absent: the task's own tests pay
        settings["reward"] = {**settings["reward"], "path": str(artefacts[REWARD] / "model")}
    recipe = recipe_of(replace(cell, arm=replace(cell.arm, settings=settings)), str(model_folder(policy)))
    n = int(cell.task["judged"])

    def judge(model: Any) -> dict[str, Any]:
        by_size = right_by_size(model, TASK, n)
        return {
            "start": list(judged(policy)),
            "final": [sum(right for right, _ in by_size.values()), n],
            "by_size": {str(size): list(found) for size, found in by_size.items()},
            "unseen": [count_right(model, TASK, n // 2, UNSEEN), n // 2],
        }

    return train(recipe, cell, run_dir, policy, SERIES, AXES, judge)
