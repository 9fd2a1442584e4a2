"""One run of the presets' study: `steersman train rl` from the shared policy, then a judgement on unseen prompts.

Leaves out: recipes and runs (`arms`), what is concluded (`claims`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.language.load import load_model
from steersman.recipes.rl_job import carry_out_rl
from steersman.recipes.training import Runtime
from steersman.store.run import RunDir
from steersman.studies.chain_sum_policy import count_right, judged, model_folder
from steersman.studies.rl_presets.arms import POLICY, recipe_of, updates_of
from steersman.study.declare import Cell
from steersman.study.progress import Progress
from steersman.task.chain_sum import ChainSum

SERIES = {
    "tokens": "train/tokens_generated",
    "zero_signal": "train/zero_signal_groups",
    "rounds": "train/rounds",
    "rows_kept": "train/rows_kept",
    "silent_kept": "train/grpo/zero_signal_groups",
    "entropy": "train/entropy",
    "skipped": "train/skipped",
}
"""What is kept of each batch, by its name in ``metrics.jsonl``."""


def run(cell: Cell, run_dir: RunDir, artefacts: Mapping[str, Path]) -> dict[str, Any]:
    """Train one arm from the supervised policy and judge it; continues from the run's own checkpoint.

    Returns:
        ``start`` and ``final``: right answers and prompts judged; ``course``: batch, generated tokens so far and
        held-out accuracy; ``batches``: a list for each of `SERIES` with a value a batch, None where an arm has none.
    """
    policy, task = artefacts[POLICY], cell.task
    recipe, updates = recipe_of(cell, str(model_folder(policy))), updates_of(cell.arm.settings)
    runtime = Runtime(
        out=str(run_dir.path / "training"),
        device="cpu",
        threads=1,
        log_every=updates,
        evaluate_every=task["evaluate_every"] * updates,
        checkpoint_every=task["evaluate_every"] * updates,
        keep=1,
    )
    progress, seen = Progress(run_dir.path, task["batches"], "batches"), [0]

    def watch(step: int, total: int, metrics: Mapping[str, float]) -> None:
        progress.advance(step // updates - seen[0])
        seen[0] = step // updates

    outcome = carry_out_rl(recipe, runtime, say=lambda line: None, watch=watch)
    rows = RunDir(outcome.folder).read("metrics")
    batches = _batches(rows)
    model = load_model(outcome.folder / "model")
    knobs = ChainSum.model_validate(_knobs(cell.arm.settings["task"]))
    right = count_right(model, knobs, int(task["judged"]), recipe.rollout.max_new_tokens)
    return {
        "start": list(judged(policy)),
        "final": [right, int(task["judged"])],
        "course": _course(rows, batches["tokens"], updates, outcome.result["before"]["accuracy"]),
        "batches": batches,
        "timing": {"tokens": outcome.result["tokens"]},
    }


def _knobs(task: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in task.items() if k in ChainSum.model_fields}


def _batches(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """The series of the logged batches; a row of the metrics is a batch."""
    trained = [row for row in rows if SERIES["tokens"] in row]
    return {name: [row.get(key) for row in trained] for name, key in SERIES.items()}


def _course(
    rows: Sequence[Mapping[str, Any]], tokens: Sequence[float | None], updates: int, before: float
) -> list[dict[str, float]]:
    """Held-out accuracy by batches and by tokens generated so far."""
    found = [{"batch": 0, "tokens": 0.0, "accuracy": before}]
    for row in rows:
        if "eval/accuracy" in row:
            batch = row["step"] // updates
            spent = sum(t or 0.0 for t in tokens[:batch])
            found.append({"batch": batch, "tokens": spent, "accuracy": row["eval/accuracy"]})
    return found
