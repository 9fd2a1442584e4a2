"""Metrics to TensorBoard, Weights & Biases or trackio as well; the run's own ``metrics.jsonl`` is always written.

Leaves out: what is measured (`train.fit`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError

Write = Callable[[int, Mapping[str, float]], None]


def open_tracker(kind: str, folder: Path, settings: Mapping[str, Any]) -> tuple[Write, Callable[[], object]]:
    """A function that records metrics of a step, and one that closes the tracker.

    Args:
        kind: "none", "tensorboard", "wandb" or "trackio".
        folder: the run's folder; TensorBoard events go to ``folder/tensorboard``.
        settings: the resolved recipe, stored with the run.

    Nothing is written before the first metrics, so that a refused or already finished job leaves no trace. A resumed
    run hides the TensorBoard events of steps that it repeats.

    Raises:
        UserError: the tracker's package is not installed.
    """
    if kind == "none":
        return (lambda step, metrics: None), (lambda: None)
    if kind == "tensorboard":
        writer = _need(lambda: __import__("torch.utils.tensorboard", fromlist=["SummaryWriter"]), kind)
        boards: list[Any] = []

        def write(step: int, metrics: Mapping[str, float]) -> None:
            if not boards:
                boards.append(writer.SummaryWriter(str(folder / "tensorboard"), purge_step=step))
            for name, value in metrics.items():
                boards[0].add_scalar(name, value, step)

        return write, lambda: [board.close() for board in boards]
    module = _need(lambda: __import__(kind), kind)
    runs: list[Any] = []

    def log(step: int, metrics: Mapping[str, float]) -> None:
        if not runs:
            runs.append(module.init(project="steersman", name=folder.name, config=dict(settings)))
        runs[0].log(dict(metrics), step=step)

    return log, lambda: [run.finish() for run in runs]


def _need(load: Callable[[], Any], kind: str) -> Any:
    try:
        return load()
    except ImportError:
        raise UserError(f"{kind} is not installed", where="runtime.track", cure=f"pip install {kind}") from None
