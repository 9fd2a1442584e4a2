"""Stages and losses of the user's own: what they raise or return is told as their mistake, by name and line.

Our own parts are not touched: what they raise is a bug, and its traceback is wanted. Leaves out: reward functions,
which run in a process of their own (`reward.time_limit`).
"""

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from steersman.core.component import Moment, Stage
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import Rollouts
from steersman.store.checkpoint import flatten
from steersman.store.files import canonical


def is_ours(part: Any) -> bool:
    """Whether a stage or loss comes with the library."""
    return type(part).__module__.startswith("steersman.")


@contextmanager
def own_code(where: str, part: Any) -> Iterator[None]:
    """Around a call of the user's code: whatever it raises becomes one message with file and line."""
    try:
        yield
    except (UserError, RunStopped):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        file = getattr(sys.modules.get(type(part).__module__), "__file__", None)
        frame = next((f for f in reversed(frames) if f.filename == file), frames[-1])
        lines = str(error).strip().splitlines()
        what = f"{type(part).__name__} raised {type(error).__name__}{': ' + lines[0][:200] if lines else ''}"
        raise UserError(what, where=f"{where}, {frame.filename}:{frame.lineno}") from error


def apply(stage: Stage, place: int, rollouts: Rollouts, at: Moment) -> tuple[Rollouts, Mapping[str, float]]:
    """Call a stage and check that it did what it says.

    Raises:
        UserError: names the stage: it returned something else than rollouts and metrics, did not write a stream that
            it gives, gave a metric that is no number, or raised (a stage that is not ours).
    """
    where = f"stages[{place}] ({getattr(stage, 'kind', type(stage).__name__)})"
    try:
        if is_ours(stage):
            found: Any = stage(rollouts, at)
        else:
            with own_code(where, stage):
                found = stage(rollouts, at)
    except UserError as error:
        inside = "" if error.where.startswith("stages[") else error.where
        told = error.where if not inside and error.where else ": ".join(filter(None, (where, inside)))
        raise UserError(error.what, where=told, allowed=error.allowed, cure=error.cure) from error
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Rollouts)):
        raise UserError(f"returned {type(found).__name__}", where=where, allowed="(rollouts, metrics)")
    after, metrics = found
    if missing := [name for name in stage.gives if name not in after.streams]:
        cure = f"Return rollouts.with_streams({missing[0]}=...)."
        raise UserError(f"says it gives {missing[0]!r} and did not", where=where, cure=cure)
    for name, value in (metrics or {}).items():
        number = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
        if not number:
            shown = tuple(value.shape) if isinstance(value, Tensor) else repr(value)[:60]
            raise UserError(f"its metric {name!r} is {shown}", where=where, allowed="a number")
    return after, {k: float(v) for k, v in (metrics or {}).items()}


def check_state(stage: Stage, place: int) -> None:
    """Refuse, before the first step, a stage whose state no checkpoint could hold.

    Raises:
        UserError: names the stage.
    """
    where = f"stages[{place}] ({getattr(stage, 'kind', type(stage).__name__)})"
    try:
        canonical(flatten(dict(stage.state_dict()))[1])
    except (TypeError, ValueError) as error:
        raise UserError(f"its state cannot be saved: {error}", where=where, allowed="tensors and JSON values") from None
