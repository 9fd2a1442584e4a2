"""Tables of numbers with an environment for each row.

A frame is anything that gives a column by its name: a dict of lists, a pandas frame. Leaves out: files
(`decide.conjoint.read_csv` reads CSV as text), graphs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steersman.core import noise
from steersman.core.errors import UserError

Columns = Mapping[str, np.ndarray]

MIN_ROWS = 5
"""Rows that every environment needs."""
LEVELS = 10
"""A column of at most so many whole numbers, each seen often, is taken for a discrete variable."""
OFTEN = 5
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Data:
    """Columns of equal length, all finite.

    Args:
        columns: name -> [n] float64.
        env: [n] names of the environments; None = not known.
    """

    columns: dict[str, np.ndarray]
    env: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, rows: np.ndarray) -> "Data":
        """The rows with these numbers, in their order."""
        return Data({k: v[rows] for k, v in self.columns.items()}, None if self.env is None else self.env[rows])

    @property
    def environments(self) -> tuple[str, ...]:
        """Names of the environments in the order of their first row; empty where none are known."""
        return () if self.env is None else tuple(dict.fromkeys(str(e) for e in self.env))

    @staticmethod
    def from_frame(frame: Any, variables: Sequence[str], env: str | None = None) -> "Data":
        """Read columns of numbers.

        Args:
            frame: gives a column by name.
            variables: columns to read.
            env: column of the environment; None = not known.

        Raises:
            UserError: unknown columns, a value that is missing or no number (with its row), the environment among the
                variables, an environment with fewer than `MIN_ROWS` rows, no rows.
        """
        known = [str(c) for c in frame]
        for name in (*variables, *((env,) if env else ())):
            if name not in known:
                raise UserError(f"there is no column {name!r}", where="data", allowed=", ".join(known))
        if env is not None and env in variables:
            raise UserError(f"{env!r} is the environment and cannot be a variable too", where="environment",
                            allowed="a column that is no effect of the others")  # fmt: skip
        columns = {name: _numbers(frame[name], name) for name in variables}
        if not columns or not len(next(iter(columns.values()))):
            raise UserError("has no rows", where="data")
        if len(sizes := {k: len(v) for k, v in columns.items()}) and len(set(sizes.values())) > 1:
            raise UserError(f"columns of different lengths: {sizes}", where="data")
        if env is None:
            return Data(columns)
        labels = _labels(frame[env], env)
        names, counts = np.unique(labels, return_counts=True)
        if (counts < MIN_ROWS).any():
            few = ", ".join(f"{n} ({c})" for n, c in zip(names, counts, strict=True) if c < MIN_ROWS)
            raise UserError(f"environments with too few rows: {few}", where=f"column {env}",
                            allowed=f"{MIN_ROWS} rows or more", cure="leave them out, or join them")  # fmt: skip
        return Data(columns, labels)


def _numbers(column: Any, name: str) -> np.ndarray:
    out = np.empty(len(column))
    for i, value in enumerate(column):
        try:
            out[i] = float(value)
        except (TypeError, ValueError):
            out[i] = math.nan
        if not math.isfinite(out[i]):
            missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
            said = "is missing" if missing else f"{value!r} is no finite number"
            raise UserError(said, where=f"column {name}, row {i + 1}",
                            cure="leave such rows out, or fill them in; nothing is filled in silently")  # fmt: skip
    return out


def _labels(column: Any, name: str) -> np.ndarray:
    texts = ["" if v is None or (isinstance(v, float) and math.isnan(v)) else str(v) for v in column]
    if missing := [i + 1 for i, t in enumerate(texts) if not t]:
        raise UserError(f"{len(missing)} values are missing, first in rows {missing[:SHOWN]}", where=f"column {name}")
    return np.array(texts)


def levels_of(column: np.ndarray) -> tuple[float, ...] | None:
    """The levels of a discrete variable, or None: at most `LEVELS` whole numbers, each seen `OFTEN` times or more.

    Edge cases: a constant column has one level.
    """
    values, counts = np.unique(column, return_counts=True)
    whole = bool((values == np.round(values)).all())
    if len(values) == 1 or (len(values) <= LEVELS and whole and counts.min() >= OFTEN):
        return tuple(float(v) for v in values)
    return None


def stack(columns: Columns, names: Iterable[str], rows: int) -> np.ndarray:
    """[n, k] of the named columns; [n, 0] where none is named."""
    given = [columns[name] for name in names]
    return np.stack(given, 1) if given else np.zeros((rows, 0))


def count(columns: Columns) -> int:
    """Rows."""
    return len(next(iter(columns.values())))


def folds(rows: int, parts: int, seed: int, env: np.ndarray | None = None) -> np.ndarray:
    """[n] number of the fold that each row belongs to; environments are spread over all folds.

    Raises:
        UserError: fewer than two folds, or fewer rows than twice as many.
    """
    if parts < 2 or rows < 2 * parts:
        raise UserError(f"{parts} folds of {rows} rows", where="folds", allowed=f"2 to {max(2, rows // 2)}")
    order = noise.generator(seed, "invariance/folds").permutation(rows)
    if env is not None:
        order = order[np.argsort(env[order], kind="stable")]
    out = np.empty(rows, np.int64)
    out[order] = np.arange(rows) % parts
    return out
