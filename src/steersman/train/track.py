"""Metrics to TensorBoard, Weights & Biases or trackio as well; the run's own ``metrics.jsonl`` is always written.

Leaves out: what is measured (`train.fit`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steersman.core.errors import UserError

Write = Callable[[int, Mapping[str, float]], None]


def open_tracker(kind: str, folder: Path, settings: Mapping[str, Any]) -> tuple[Write, Callable[[], None]]:
    """A function that records metrics of a step, and one that closes the tracker.

    Args:
        kind: "none", "tensorboard", "wandb" or "trackio".
        folder: the run's folder; TensorBoard events go to ``folder/tensorboard``.
        settings: the resolved recipe, stored with the run.

    Raises:
        UserError: the tracker's package is not installed.
    """
    if kind == "none":
        return (lambda step, metrics: None), (lambda: None)
    if kind == "tensorboard":
        writer = _need(lambda: __import__("torch.utils.tensorboard", fromlist=["SummaryWriter"]), kind, "track")
        board = writer.SummaryWriter(str(folder / "tensorboard"))

        def write(step: int, metrics: Mapping[str, float]) -> None:
            for name, value in metrics.items():
                board.add_scalar(name, value, step)

        return write, board.close
    module = _need(lambda: __import__(kind), kind, kind)
    run = module.init(project="steersman", name=folder.name, config=dict(settings))
    return (lambda step, metrics: run.log(dict(metrics), step=step)), run.finish


def _need(load: Callable[[], Any], kind: str, extra: str) -> Any:
    try:
        return load()
    except ImportError:
        raise UserError(
            f"{kind} is not installed", where="runtime.track", cure=f"pip install 'steersman[{extra}]'"
        ) from None
