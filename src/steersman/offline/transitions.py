"""Transitions: what a policy saw, did and got, in columns, in memory or memory-mapped.

A time limit (`truncated`) is not an end of the task (`terminated`): only after the latter is the future worth nothing.
`episode` holds offsets, so that an episode is a slice. A batch is one gather per column.
Leaves out: reading and writing (`arrays`, `columns`, `parquet`, `by_minari`, `rollouts`), measures (`measure`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steersman.core.errors import UserError
from steersman.offline.chunks import FIRST, INSIDE, LATE, ROWS, Chunk, check_chunk, check_finite

if TYPE_CHECKING:
    import torch

EXTRA = ("mc_return", "bootstrap", "condition", "next_action", "mask", "weight")
"""Extra columns: return-to-go; whether `next_obs` is known; instruction; the action after; validity; weight."""
_KINDS = {"obs": "fiub", "action": "fiu", "reward": "f", "terminated": "b", "truncated": "b"}


@dataclass(frozen=True, slots=True)
class Batch:
    """B transitions as tensors, ready for a learner: the columns of `Transitions` at the drawn rows."""

    obs: "torch.Tensor"
    action: "torch.Tensor"
    reward: "torch.Tensor"
    next_obs: "torch.Tensor"
    terminated: "torch.Tensor"
    truncated: "torch.Tensor"
    extra: dict[str, "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Transitions:
    """N transitions of E episodes, one after the other.

    Args:
        obs: [N, ...] observations before the action: floats, integers or bytes.
        action: [N] integers of a discrete space, or [N, A] floats.
        reward: [N] floats.
        next_obs: [N, ...] observations after the action, like `obs`. Where it was not recorded it repeats `obs`, and
            the extra column `bootstrap` is False there.
        terminated: [N] bool, the task ended in this step.
        truncated: [N] bool, the episode was stopped although the task had not ended (a time limit).
        episode: [E + 1] offsets: episode e is the rows ``episode[e]`` to ``episode[e + 1] - 1``.
        n_actions: size of a discrete space; None = continuous, or not known.
        started: [E] bool, whether the log has the episode's first step; None = of all.
        extra: further columns [N, ...] named in `EXTRA`.

    Raises:
        UserError: shapes that disagree, wrong dtypes, no rows, offsets that do not cover the rows, an extra column that
            nobody declared. Values are looked at by `check`.
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    episode: np.ndarray
    n_actions: int | None = None
    started: np.ndarray | None = None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, x in (self.columns() | {"episode": self.episode}).items():
            if not isinstance(x, np.ndarray):
                kind = type(x).__name__
                raise UserError(f"is a {kind}", where=f"Transitions, {name}", allowed="a NumPy array",
                                cure="Transitions.from_arrays takes lists and tensors")  # fmt: skip
        n = len(self.reward)
        if n == 0:
            raise UserError("has no rows", where="Transitions")
        for name, x in self.columns().items():
            if len(x) != n:
                raise UserError(f"has {len(x):,} rows, reward has {n:,}", where=f"Transitions, {name}")
            kinds = _KINDS["obs" if name == "next_obs" else name] if name in _KINDS or name == "next_obs" else "fiub"
            if x.dtype.kind not in kinds:
                words = {"f": "floats", "i": "integers", "u": "unsigned", "b": "bool"}
                allowed = ", ".join(words[k] for k in kinds)
                raise UserError(f"is {x.dtype}", where=f"Transitions, {name}", allowed=allowed)
        if self.next_obs.shape != self.obs.shape or self.next_obs.dtype != self.obs.dtype:
            both = f"{self.next_obs.dtype} {self.next_obs.shape} and {self.obs.dtype} {self.obs.shape}"
            raise UserError(f"next_obs and obs differ: {both}", where="Transitions")
        if self.action.ndim != (2 if self.action.dtype.kind == "f" else 1):
            shape = f"{self.action.dtype} {self.action.shape}"
            raise UserError(f"is {shape}", where="Transitions, action", allowed="integers [N] or floats [N, A]")
        if self.reward.ndim != 1 or self.terminated.ndim != 1 or self.truncated.ndim != 1:
            raise UserError("reward, terminated and truncated must be [N]", where="Transitions")
        if unknown := [k for k in self.extra if k not in EXTRA]:
            raise UserError(f"column {unknown[0]!r} is not declared", where="Transitions", allowed=", ".join(EXTRA))
        offsets = self.episode
        if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != n:
            raise UserError("offsets must run from 0 to the number of rows", where="Transitions, episode")
        if self.started is not None and len(self.started) != len(offsets) - 1:
            raise UserError(f"has {len(self.started)} entries", where="Transitions, started", allowed="one an episode")

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def discrete(self) -> bool:
        """Whether actions are indices."""
        return self.action.dtype.kind != "f"

    def columns(self) -> dict[str, np.ndarray]:
        """All columns by name, the extra ones included."""
        known = {k: getattr(self, k) for k in ("obs", "action", "reward", "next_obs", "terminated", "truncated")}
        return known | dict(self.extra)

    def check(self) -> "Transitions":
        """Look at every value once; gives the same transitions.

        Raises:
            UserError: NaN or infinity, actions out of range, float actions in a discrete space, offsets that do not
                ascend, an episode that goes on after its end; each names the row.
        """
        if (np.diff(self.episode) <= 0).any():
            bad = int(np.flatnonzero(np.diff(self.episode) <= 0)[0])
            raise UserError("has no rows: offsets must ascend", where=f"Transitions, episode {bad}")
        for chunk in self.chunks():
            check_chunk(chunk, self.n_actions)
        for name in ("next_obs", *self.extra):
            check_finite(name, self.columns()[name])
        inner = (self.terminated | self.truncated).copy()
        inner[self.episode[1:] - 1] = False
        if inner.any():
            row = int(np.flatnonzero(inner)[0])
            e = int(np.searchsorted(self.episode, row, side="right")) - 1
            raise UserError(f"goes on after its end in row {row:,}", where=f"Transitions, episode {e}")
        return self

    def begins(self) -> np.ndarray:
        """[N] uint8: `INSIDE` an episode, its `FIRST` step, or `LATE`: the first step that is here of it."""
        out = np.full(len(self), INSIDE, np.uint8)
        out[self.episode[:-1]] = FIRST if self.started is None else np.where(self.started, FIRST, LATE)
        return out

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """The rows in order, at most `rows` at a time, without copying."""
        begin = self.begins()
        for a in range(0, len(self), rows):
            part = slice(a, min(a + rows, len(self)))
            yield Chunk(
                a, self.obs[part], self.action[part], self.reward[part], self.terminated[part], self.truncated[part],
                begin[part],
            )  # fmt: skip

    def batch(self, rows: np.ndarray) -> Batch:
        """The transitions at these row numbers [B] as tensors: one gather a column.

        Raises:
            UserError: a row that is not there.
        """
        import torch

        try:
            taken = {k: torch.from_numpy(x.take(rows, 0)) for k, x in self.columns().items()}
        except IndexError:
            raise UserError("a row is not there", where="batch", allowed=f"0 to {len(self) - 1:,}") from None
        return Batch(
            taken.pop("obs"), taken.pop("action"), taken.pop("reward"), taken.pop("next_obs"), taken.pop("terminated"),
            taken.pop("truncated"), taken,
        )  # fmt: skip

    def slice(self, start: int, stop: int) -> "Transitions":
        """Rows `start` to `stop` - 1 as transitions of their own; views, nothing is copied.

        Edge cases: an episode that was begun before `start` is marked as not started; one that goes on after `stop`
            is cut. Neither is whole, so neither counts as a return.

        Raises:
            UserError: no such rows.
        """
        if not 0 <= start < stop <= len(self):
            raise UserError(f"there are no rows {start:,} to {stop:,}", where="slice", allowed=f"0 to {len(self):,}")
        inner = self.episode[(self.episode > start) & (self.episode < stop)]
        offsets = np.concatenate([[start], inner, [stop]])
        first = np.searchsorted(self.episode, start, side="right") - 1
        started = np.ones(len(offsets) - 1, bool)
        if self.started is not None:
            started = self.started[first : first + len(started)].copy()
        started[0] &= bool(self.episode[first] == start)
        parts = {k: x[start:stop] for k, x in self.columns().items()}
        extra = {k: parts.pop(k) for k in self.extra}
        return Transitions(**parts, episode=offsets - start, n_actions=self.n_actions, started=started, extra=extra)

    def timeouts_as_terminal(self) -> "Transitions":
        """The same with every truncation stored as a termination, as code that keeps one `done` flag does.

        Edge cases: it makes values of the last states wrong; it is here to repeat published figures.
        """
        return replace(self, terminated=self.terminated | self.truncated, truncated=np.zeros_like(self.truncated))

    @classmethod
    def from_arrays(
        cls, obs: Any, action: Any, reward: Any, terminated: Any, truncated: Any, **known: Any
    ) -> "Transitions":
        """Transitions from plain arrays; see `arrays.from_arrays`."""
        from steersman.offline.arrays import from_arrays

        return from_arrays(obs, action, reward, terminated, truncated, **known)

    @classmethod
    def from_d4rl(cls, data: Mapping[str, Any], **known: Any) -> "Transitions":
        """Transitions from a dict of arrays in D4RL's names; see `arrays.from_d4rl`."""
        from steersman.offline.arrays import from_d4rl

        return from_d4rl(data, **known)

    @classmethod
    def from_parquet(cls, path: Path | str, **known: Any) -> "Transitions":
        """Transitions from a Parquet file; see `parquet.read_parquet`."""
        from steersman.offline.parquet import read_parquet

        return read_parquet(Path(path), **known)

    @classmethod
    def from_minari(cls, dataset: Any) -> "Transitions":
        """Transitions from a Minari dataset, its folder or its id; see `by_minari.from_minari`."""
        from steersman.offline.by_minari import from_minari

        return from_minari(dataset)

    @classmethod
    def open(cls, folder: Path | str) -> "Transitions":
        """Memory-mapped transitions that `save` wrote; see `columns.open_columns`."""
        from steersman.offline.columns import open_columns

        return open_columns(Path(folder))

    def save(self, folder: Path | str) -> Path:
        """Write a folder that `open` maps; see `columns.save_columns`."""
        from steersman.offline.columns import save_columns

        return save_columns(self, Path(folder))


def concatenate(parts: Sequence[Transitions]) -> Transitions:
    """One log after the other; episodes are never joined across a seam.

    Raises:
        UserError: nothing given; columns, dtypes, shapes or action spaces that differ.
    """
    if not parts:
        raise UserError("nothing to put together", where="concatenate")
    first = parts[0].columns()
    for i, part in enumerate(parts[1:], 1):
        mine = part.columns()
        if mine.keys() != first.keys():
            raise UserError(f"has columns {sorted(mine)}", where=f"concatenate, part {i}", allowed=f"{sorted(first)}")
        for k, x in mine.items():
            if x.dtype != first[k].dtype or x.shape[1:] != first[k].shape[1:]:
                found, wanted = f"{x.dtype} {x.shape[1:]}", f"{first[k].dtype} {first[k].shape[1:]}"
                raise UserError(f"{k} is {found}", where=f"concatenate, part {i}", allowed=wanted)
        if part.n_actions != parts[0].n_actions:
            both = f"{part.n_actions} actions, part 0 has {parts[0].n_actions}"
            raise UserError(f"has {both}", where=f"concatenate, part {i}")
    joined = {k: np.concatenate([p.columns()[k] for p in parts]) for k in first}
    extra = {k: joined.pop(k) for k in parts[0].extra}
    base = np.cumsum([0, *(len(p) for p in parts)])
    offsets = np.concatenate([*(p.episode[:-1] + b for p, b in zip(parts, base, strict=False)), base[-1:]])
    started = None
    if any(p.started is not None for p in parts):
        every = (np.ones(len(p.episode) - 1, bool) if p.started is None else p.started for p in parts)
        started = np.concatenate(list(every))
    return Transitions(**joined, episode=offsets, n_actions=parts[0].n_actions, started=started, extra=extra)


def draw(n: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Row numbers [batch] of step `step`, uniform with replacement; a function of (seed, step) alone.

    Raises:
        UserError: no rows, or an empty batch.
    """
    from steersman.core.noise import generator

    if n < 1 or batch < 1:
        raise UserError(f"{batch} rows of {n}", where="draw", allowed="1 or more of each")
    return generator(seed, "transitions", step).integers(0, n, batch)
