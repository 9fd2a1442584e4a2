"""State-action pairs as bytes: two rows are the same pair exactly if their bytes are equal.

Integers become fixed-width little-endian numbers, floats their IEEE bytes after adding 0.0, which folds -0.0 into 0.0;
NaN is refused. How rows were made is their *signature*: counts of different signatures (dtypes, discretisers) cannot be
compared, and nothing here does. Leaves out: counting (`count`). Source: Schweighofer et al. 2022, app. A.9.4, for what
is counted; their code joins values with commas into text.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from steersman.core.errors import UserError
from steersman.offline.arrays import numeric
from steersman.offline.chunks import Log, check_finite


class Encoder(Protocol):
    """Turns pairs into rows of bytes."""

    def signature(self, obs: np.ndarray, action: np.ndarray) -> str:
        """What must be equal for two counts to be comparable."""

    def rows(self, obs: np.ndarray, action: np.ndarray, start: int = 0) -> np.ndarray:
        """[n, W] uint8; `start` is the number of the first row, for messages."""


@dataclass(frozen=True, slots=True)
class Plain:
    """Pairs as they are; floats are equal only if every bit is."""

    def signature(self, obs: np.ndarray, action: np.ndarray) -> str:
        """Kind, size and number of the values of a row."""
        return f"plain obs {kind_of(obs)} action {kind_of(action)}"

    def rows(self, obs: np.ndarray, action: np.ndarray, start: int = 0) -> np.ndarray:
        """[n, W] uint8."""
        return np.concatenate([as_bytes("obs", obs, start), as_bytes("action", action, start)], 1)


@dataclass(frozen=True, slots=True)
class Discretizer:
    """Cells of a grid instead of floats: per dimension, the number of edges that a value has reached.

    cell = #{j : edge_j <= x}, edges = `bins` numbers evenly from `low` to `high`; values below `low` are in cell 0,
    values from `high` on in cell `bins`. Integer actions stay what they are.

    Args:
        low, high: [D] ends of each observation dimension.
        bins: edges per dimension, both ends included, 2 or more (the paper: 100; for D4RL's continuous actions 5).
        action_low, action_high: [A] the same for continuous actions; None = discrete actions.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    bins: int = 100
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.bins, int) or not 2 <= self.bins < 2**16:
            raise UserError(f"is {self.bins!r}", where="bins", allowed="2 to 65535 edges per dimension")
        for name, low, high in self._limits():
            if len(low) != len(high) or any(not a <= b for a, b in zip(low, high, strict=False)):
                raise UserError("needs low <= high in every dimension", where=f"Discretizer, {name}")

    @staticmethod
    def fit(ref_obs: Any, bins: int = 100, ref_action: Any = None) -> "Discretizer":
        """Take the ends of every dimension from reference data.

        Args:
            ref_obs: [N, D] or [N] observations of the reference, or a whole log (`chunks.Log`), which is streamed and
                whose continuous actions are discretised as well.
            bins: number of edges per dimension between the reference's minimum and maximum.
            ref_action: [N, A] continuous actions of the reference; None = actions are discrete.

        Raises:
            UserError: NaN or infinity, by row and column; no rows; `bins` below 2.

        Edge cases: a dimension that is constant in the reference parts values below it from the others.
        """
        if hasattr(ref_obs, "chunks"):
            return _fit_log(ref_obs, bins)
        low, high = _ends("obs", numeric("ref_obs", ref_obs), 0)
        if ref_action is None:
            return Discretizer(low, high, bins)
        return Discretizer(low, high, bins, *_ends("action", numeric("ref_action", ref_action), 0))

    def _limits(self) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...]]]:
        """Name, low and high of what is discretised."""
        yield "obs", self.low, self.high
        if self.action_low is not None and self.action_high is not None:
            yield "action", self.action_low, self.action_high

    def signature(self, obs: np.ndarray, action: np.ndarray) -> str:
        """Hash of the edges; dtypes do not matter, cells do."""
        text = repr((self.low, self.high, self.bins, self.action_low, self.action_high))
        return f"grid of {self.bins} edges, {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def cells(self, obs: np.ndarray, start: int = 0) -> np.ndarray:
        """[n, D] cell of every value of observations [n, D]."""
        return _cells("obs", obs, self.low, self.high, self.bins, start)

    def rows(self, obs: np.ndarray, action: np.ndarray, start: int = 0) -> np.ndarray:
        """[n, W] uint8."""
        seen = as_bytes("obs", self.cells(obs, start), start)
        if action.dtype.kind == "f":
            if self.action_low is None or self.action_high is None:
                raise UserError("actions are floats, and the discretiser has no edges for them", where="Discretizer",
                                cure="fit(ref_obs, bins, ref_action)")  # fmt: skip
            action = _cells("action", action, self.action_low, self.action_high, self.bins, start)
        elif action.dtype.itemsize > 1:
            action = _small(action, start)
        return np.concatenate([seen, as_bytes("action", action, start)], 1)

    def as_json(self) -> dict[str, Any]:
        """The edges as JSON values, to be stored with a result; `from_json` undoes it."""
        known = {"low": self.low, "high": self.high, "action_low": self.action_low, "action_high": self.action_high}
        return {"bins": self.bins} | {k: None if v is None else list(v) for k, v in known.items()}

    @staticmethod
    def from_json(plain: dict[str, Any]) -> "Discretizer":
        """Undo `as_json`."""
        known = {k: None if v is None else tuple(v) for k, v in plain.items() if k != "bins"}
        return Discretizer(bins=int(plain["bins"]), **known)  # type: ignore[arg-type]


def _fit_log(log: Log, bins: int) -> Discretizer:
    ends: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for chunk in log.chunks():
        given = {"obs": chunk.obs} | ({"action": chunk.action} if chunk.action.dtype.kind == "f" else {})
        for name, x in given.items():
            low, high = (np.array(v) for v in _ends(name, x, chunk.start))
            before = ends.get(name, (low, high))
            ends[name] = (np.minimum(before[0], low), np.maximum(before[1], high))
    limits = {name: tuple(tuple(v.tolist()) for v in pair) for name, pair in ends.items()}
    return Discretizer(*limits["obs"], bins, *limits.get("action", ()))


def _ends(name: str, x: np.ndarray, start: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(x) == 0:
        raise UserError("has no rows", where=f"Discretizer.fit, {name}")
    check_finite(name, x, start)
    flat = x.reshape(len(x), -1)
    return tuple(flat.min(0).astype(float).tolist()), tuple(flat.max(0).astype(float).tolist())


def _cells(
    name: str, x: np.ndarray, low: tuple[float, ...], high: tuple[float, ...], bins: int, start: int
) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    if flat.shape[1] != len(low):
        raise UserError(f"{name} has {flat.shape[1]} dimensions, the discretiser {len(low)}", where="Discretizer")
    check_finite(name, flat, start)
    out = np.empty(flat.shape, np.uint8 if bins < 2**8 else np.uint16)
    for d, (a, b) in enumerate(zip(low, high, strict=True)):
        out[:, d] = np.searchsorted(np.linspace(a, b, bins), flat[:, d], side="right")
    return out


def _small(action: np.ndarray, start: int) -> np.ndarray:
    """Indices as 4 bytes: with few dimensions a whole row then fits into one machine word, which sorts fast."""
    bad = np.argwhere((action < 0) | (action >= 2**32))
    if len(bad):
        raise UserError(f"is {action[tuple(bad[0])]}", where=f"action, row {start + int(bad[0][0]):,}",
                        allowed="0 to 2^32 - 1")  # fmt: skip
    return np.ascontiguousarray(action).astype("<u4").reshape(len(action), -1).view(np.uint8)


def as_bytes(name: str, x: np.ndarray, start: int = 0) -> np.ndarray:
    """Values [n, ...] as bytes [n, W]: bytes as they are, other integers as 8 bytes, floats as IEEE bytes.

    Raises:
        UserError: NaN or infinity, by row and column; a dtype that holds no numbers.
    """
    flat = np.ascontiguousarray(x).reshape(len(x), -1)
    if flat.dtype.kind == "f":
        check_finite(name, flat, start)
        flat = (flat + flat.dtype.type(0)).astype(flat.dtype.newbyteorder("<"))
    elif flat.dtype.kind in "iu" and flat.dtype.itemsize > 1:
        flat = flat.astype(_whole(flat.dtype))
    elif flat.dtype.kind not in "iub":
        raise UserError(f"is {flat.dtype}", where=name, allowed="numbers")
    return np.ascontiguousarray(flat).view(np.uint8).reshape(len(x), -1)


def _whole(dtype: np.dtype) -> str:
    return "<u8" if dtype == np.uint64 else "<i8"


def kind_of(x: np.ndarray) -> str:
    """Dtype and width of a row as `as_bytes` writes them."""
    width = int(np.prod(x.shape[1:], dtype=int))
    wide = x.dtype.kind in "iu" and x.dtype.itemsize > 1
    return f"{np.dtype(_whole(x.dtype)).str if wide else x.dtype.newbyteorder('<').str}x{width}"
