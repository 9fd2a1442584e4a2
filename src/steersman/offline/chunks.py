"""Logs as a stream of chunks, so that a log larger than memory is checked and measured in one pass.

A *log* is anything with a length and `chunks`: `Transitions` in memory or memory-mapped, a Parquet file. An episode is
*whole* where the log has its first step and its recorded end; a log that simply stops leaves its last episode *cut*,
a slice from the middle of a log leaves its first one *late*. Leaves out: reading any file, measures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from steersman.core.errors import UserError

ROWS = 2**17
"""Rows of a chunk unless told otherwise."""
INSIDE, FIRST, LATE = 0, 1, 2
"""Where a row stands: inside an episode, at its first step, or at the first step that this log has of it."""
UNFLAGGED = ("refuse", "terminated", "truncated", "cut")
"""What the end of an episode may mean that no flag marks, where a column of episodes tells it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of a log.

    Args:
        start: number of the first row in the whole log.
        obs: [n, ...] observations.
        action: [n] integers, or [n, A] floats.
        reward: [n] floats.
        terminated, truncated: [n] bool.
        begin: [n] uint8, one of `INSIDE`, `FIRST`, `LATE`.
    """

    start: int
    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    begin: np.ndarray

    def __len__(self) -> int:
        return len(self.reward)


class Log(Protocol):
    """What can be measured."""

    @property
    def n_actions(self) -> int | None:
        """Number of actions of a discrete space, where it is known."""

    def __len__(self) -> int: ...

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """The whole log in order, at most `rows` rows at a time."""


def check_finite(name: str, values: np.ndarray, start: int = 0) -> None:
    """Refuse NaN and infinity, by row and column.

    Raises:
        UserError: names the first one.
    """
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    bad = np.argwhere(~np.isfinite(values))
    place = "".join(f", column {c}" for c in bad[0][1:])
    raise UserError(
        f"{values[tuple(bad[0])]} ({len(bad):,} values here are not finite)",
        where=f"{name}, row {start + int(bad[0][0]):,}{place}",
        allowed="finite numbers",
        cure="remove or repair these rows; they are never dropped silently",
    )


def check_actions(action: np.ndarray, n_actions: int | None, start: int = 0) -> None:
    """Refuse floats in a discrete space, actions out of its range, NaN and infinity, by row.

    Raises:
        UserError: names the first one.
    """
    if action.dtype.kind == "f":
        if n_actions is not None:
            raise UserError(
                f"is {action.dtype} {_size(action)} in a space of {n_actions} actions",
                where="action",
                allowed="whole numbers from 0, stored as integers, or one-hot rows",
                cure="store the index as an integer, or leave the number of actions out if actions are continuous",
            )
        check_finite("action", action, start)
        return
    bad = np.flatnonzero((action < 0) | (action >= (n_actions if n_actions is not None else np.inf)))
    if len(bad):
        top = f"0 to {n_actions - 1}" if n_actions is not None else "0 or more"
        raise UserError(f"is {action[bad[0]]}", where=f"action, row {start + int(bad[0]):,}", allowed=top)


def check_chunk(chunk: Chunk, n_actions: int | None) -> None:
    """Refuse values that no measure and no learner can use; see `check_finite` and `check_actions`."""
    check_finite("reward", chunk.reward, chunk.start)
    check_finite("obs", chunk.obs, chunk.start)
    check_actions(chunk.action, n_actions, chunk.start)


def split(
    terminated: np.ndarray,
    truncated: np.ndarray,
    episode: np.ndarray | None,
    unflagged: str = "refuse",
    start: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where episodes begin among consecutive rows.

    Args:
        terminated, truncated: [n] bool.
        episode: [n] ids that change from one episode to the next; None = the flags alone tell.
        unflagged: what it means where the id changes after a row without a flag (`UNFLAGGED`).
        start: number of the first row, for messages.

    Returns:
        begins [n] bool (the first row is False: the caller knows), terminated, truncated.

    Raises:
        UserError: an episode goes on after its end; the id changes without a flag and `unflagged` is "refuse".
    """
    begins = np.zeros(len(terminated), bool)
    ended = terminated[:-1] | truncated[:-1]
    begins[1:] = ended
    if episode is None or len(terminated) < 2:
        return begins, terminated, truncated
    changes = episode[1:] != episode[:-1]
    if (on := np.flatnonzero(ended & ~changes)).size:
        row = start + int(on[0]) + 1
        raise UserError(f"goes on in row {row:,} after its end in the row before", where=f"episode {episode[on[0]]}")
    if (silent := np.flatnonzero(changes & ~ended)).size:
        if unflagged == "refuse":
            raise UserError(
                f"ends in row {start + int(silent[0]):,}, but is neither terminated nor truncated there",
                where=f"episode {episode[silent[0]]}",
                cure="say what such an end means: terminated, truncated (a time limit) or cut (the log is incomplete)",
            )
        if unflagged == "terminated":
            terminated = terminated.copy()
            terminated[silent] = True
        elif unflagged == "truncated":
            truncated = truncated.copy()
            truncated[silent] = True
    begins[1:] |= changes
    return begins, terminated, truncated


def check_unflagged(unflagged: str) -> None:
    """Refuse a word that is not in `UNFLAGGED`."""
    if unflagged not in UNFLAGGED:
        raise UserError(f"{unflagged!r} is not known", where="unflagged", allowed=", ".join(UNFLAGGED))


def no_ends(rows: int) -> UserError:
    """The error for a log without a single end of an episode."""
    return UserError(
        f"none of {rows:,} rows is terminated or truncated, and no column tells the episodes",
        where="episode ends",
        cure="store terminated and truncated, or name a column of episode ids and say what their ends mean",
    )


def _size(x: np.ndarray) -> str:
    return f"[{', '.join(map(str, x.shape))}]"
