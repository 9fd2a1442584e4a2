"""Conjoint experiments as arrays: which levels each profile had, who judged it, and what they chose.

Leaves out: models (`outcome`). A frame is anything that gives a column by its name: a dict of lists, a pandas frame.
Source: Jerzak, Chandra and Hazra 2025 (arXiv 2504.19043), sections 2 and 3.
"""

import csv
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from steersman.core.errors import UserError

SHOWN = 5
"""Offending rows or pairs that a message names."""


@dataclass(frozen=True, slots=True)
class Factor:
    """One attribute of a profile and its levels; the last level is the baseline that models hold out."""

    name: str
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.levels)) != len(self.levels) or len(self.levels) < 2:
            raise UserError(f"has levels {list(self.levels)}", where=f"factor {self.name}", allowed="two, distinct")


@dataclass(frozen=True, slots=True)
class ConjointData:
    """Judged profiles.

    Args:
        factors: the attributes, D of them.
        first: [n, D] int, levels of the rated profile, or of the first profile of a pair.
        second: [n, D] int, levels of the second profile; None = ratings.
        outcome: [n] float, the rating, or 1 where the first profile was chosen and 0 where the second.
        cluster: [n] int, respondent; None = every row its own.
        group: [n] names of the respondents' groups; None = one group.
        party: [n, 2] parties of the two profiles; None = no parties.
        dropped: factors left out because they have one level only.
    """

    factors: tuple[Factor, ...]
    first: np.ndarray
    second: np.ndarray | None
    outcome: np.ndarray
    cluster: np.ndarray | None = None
    group: np.ndarray | None = None
    party: np.ndarray | None = None
    dropped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def design(self) -> tuple[np.ndarray, ...]:
        """Observed share of every level, over all profiles: the randomisation's estimate."""
        shown = self.first if self.second is None else np.concatenate([self.first, self.second])
        counts = (np.bincount(shown[:, d], minlength=len(f.levels)) for d, f in enumerate(self.factors))
        return tuple(c / len(shown) for c in counts)

    def take(self, rows: np.ndarray) -> "ConjointData":
        """The rows with these numbers or where this mask is true, in their order."""
        parts = {k: None if getattr(self, k) is None else getattr(self, k)[rows] for k in _ROWS}
        return replace(self, **parts)

    def swapped(self, rows: np.ndarray) -> "ConjointData":
        """The same pairs with first and second exchanged where the mask ``rows`` [n] is true.

        Raises:
            UserError: ratings have no second profile.
        """
        if self.second is None:
            raise UserError("ratings have no second profile to exchange", where="conjoint data")
        at = rows[:, None]
        party = None if self.party is None else np.where(at, self.party[:, ::-1], self.party)
        return replace(
            self,
            first=np.where(at, self.second, self.first),
            second=np.where(at, self.first, self.second),
            outcome=np.where(rows, 1 - self.outcome, self.outcome),
            party=party,
        )

    def joined(self, other: "ConjointData") -> "ConjointData":
        """These rows, then those of ``other``, which must have the same columns."""
        pairs = {k: (getattr(self, k), getattr(other, k)) for k in _ROWS}
        return replace(self, **{k: None if a is None else np.concatenate([a, b]) for k, (a, b) in pairs.items()})

    def between(self, a: str, b: str) -> "ConjointData":
        """Pairs of one profile of party ``a`` and one of party ``b``, that of ``a`` first.

        Raises:
            UserError: no parties, or no such pair.
        """
        sides = self._parties()
        as_is, turned = (sides == [a, b]).all(1), (sides == [b, a]).all(1)
        if not (as_is | turned).any():
            raise UserError(f"no pair sets {a!r} against {b!r}", where="party", allowed=_names(sides))
        found = self.take(as_is | turned)
        return found.swapped(turned[as_is | turned]) if a != b else found

    def judged_by(self, group: str) -> "ConjointData":
        """Rows of the respondents of one group.

        Raises:
            UserError: no groups, or nobody in this one.
        """
        if self.group is None:
            raise UserError("respondents have no group", where="conjoint data", cure="name the column of groups")
        if not (self.group == group).any():
            raise UserError(f"nobody is in group {group!r}", where="group", allowed=_names(self.group))
        return self.take(self.group == group)

    def _parties(self) -> np.ndarray:
        if self.party is None or self.second is None:
            raise UserError("profiles have no party", where="conjoint data", cure="name the column of parties")
        return self.party

    @staticmethod
    def from_frame(
        frame: Any,
        outcome: str,
        factors: Sequence[str],
        pair: str | None = None,
        cluster: str | None = None,
        group: str | None = None,
        party: str | None = None,
        levels: Mapping[str, Sequence[str]] | None = None,
    ) -> "ConjointData":
        """Read a table with one row for each profile.

        Args:
            frame: gives a column by name (dict of lists, pandas frame).
            outcome: column; a number (ratings), or 1 for the chosen and 0 for the other profile of a pair.
            factors: columns of the attributes.
            pair: column that names the pair; None = ratings.
            cluster: column that names the respondent.
            group: column of the respondents' group.
            party: column of the profile's party; needs pairs.
            levels: levels of a factor in the order wanted; default sorted, so that the last is the baseline.

        Raises:
            UserError: unknown columns, missing values (the literal text "None" is a level, not a missing value), the
                outcome among the factors, pairs of other than two rows or without exactly one choice, a level not
                among those given, no factor with two levels.

        Edge cases: a factor with a single level is left out and named in ``dropped``; the first profile of a pair is
            the one whose row comes first.
        """
        _check_columns(frame, outcome, factors, pair, cluster, group, party)
        y = _numbers(frame[outcome], outcome)
        coded = {name: _coded(frame[name], name, (levels or {}).get(name)) for name in factors}
        kept = [name for name in factors if len(coded[name][0]) > 1]
        if not kept:
            raise UserError("no factor has two levels", where="factors")
        made = tuple(Factor(name, coded[name][0]) for name in kept)
        profiles = np.stack([coded[name][1] for name in kept], 1)
        dropped = tuple(n for n in factors if n not in kept)
        who = None if cluster is None else np.unique(_texts(frame[cluster], cluster), return_inverse=True)[1]
        side = None if group is None else _texts(frame[group], group)
        if pair is None:
            return ConjointData(made, profiles, None, y, who, side, None, dropped)
        rows = _pairs(_texts(frame[pair], pair), y)
        a, b = rows[:, 0], rows[:, 1]
        for name, column in ((cluster, who), (group, side)):
            if column is not None and (column[a] != column[b]).any():
                bad = int(np.flatnonzero(column[a] != column[b])[0])
                raise UserError("differs within a pair", where=f"column {name}, rows {a[bad] + 1} and {b[bad] + 1}")
        parties = None if party is None else _texts(frame[party], party)[rows]
        return ConjointData(
            made, profiles[a], profiles[b], y[a], None if who is None else who[a], None if side is None else side[a],
            parties, dropped,
        )  # fmt: skip


_ROWS = ("first", "second", "outcome", "cluster", "group", "party")


def read_csv(path: Path) -> dict[str, list[str]]:
    """Columns of a CSV (or CSV.GZ) file as text, nothing guessed: "None" and "NA" stay themselves, empty is missing.

    Raises:
        UserError: no such file, no rows, two columns of one name, a row of another length.
    """
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path)) from None
    if len(rows) < 2:
        raise UserError("has no rows", where=str(path))
    head = rows[0]
    if len(set(head)) != len(head):
        raise UserError(f"has two columns of one name: {head}", where=str(path))
    for i, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise UserError(f"has {len(row)} cells, the heading {len(head)}", where=f"{path}:{i}")
    return {name: [row[j] for row in rows[1:]] for j, name in enumerate(head)}


def _check_columns(frame: Any, outcome: str, factors: Sequence[str], *others: str | None) -> None:
    pair, cluster, group, party = others
    columns = [str(c) for c in frame]
    for name in (outcome, *factors, *(o for o in others if o is not None)):
        if name not in columns:
            raise UserError(f"there is no column {name!r}", where="conjoint data", allowed=", ".join(columns))
    used = {outcome: "the outcome", pair: "the pair", cluster: "the cluster", group: "the group", party: "the party"}
    for name in factors:
        if name in used:
            raise UserError(f"{name!r} is {used[name]} and cannot be a factor too", where="factors")
    if len(set(factors)) != len(factors):
        raise UserError(f"names a column twice: {list(factors)}", where="factors")
    if party is not None and pair is None:
        raise UserError("parties need pairs", where="party", cure="name the column of pairs")


def _texts(column: Any, name: str) -> np.ndarray:
    values = list(column)
    missing = [i + 1 for i, v in enumerate(values) if v is None or v == "" or (isinstance(v, float) and math.isnan(v))]
    if missing:
        cure = 'if the level is the word "None", read the file with keep_default_na=False' if len(missing) > 1 else ""
        raise UserError(
            f"{len(missing)} values are missing, first in rows {missing[:SHOWN]}", where=f"column {name}", cure=cure
        )
    return np.array([str(v) for v in values], dtype=np.str_)


def _numbers(column: Any, name: str) -> np.ndarray:
    texts = _texts(column, name)
    out = np.empty(len(texts))
    for i, text in enumerate(texts):
        try:
            out[i] = float(text)
        except ValueError:
            out[i] = math.nan
        if not math.isfinite(out[i]):
            raise UserError(f"{str(text)!r} is no number", where=f"column {name}, row {i + 1}")
    return out


def _coded(column: Any, name: str, levels: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray]:
    texts = _texts(column, name)
    order = tuple(str(x) for x in np.unique(texts)) if levels is None else tuple(levels)
    unknown = sorted(set(texts.tolist()) - set(order))
    if unknown:
        raise UserError(f"has levels {unknown[:SHOWN]}", where=f"factor {name}", allowed=", ".join(order))
    place = {level: i for i, level in enumerate(order)}
    return order, np.array([place[t] for t in texts.tolist()], dtype=np.int64)


def _pairs(names: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n, 2] rows of every pair, in order of first appearance."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names.tolist()):
        found.setdefault(name, []).append(i)
    odd = [k for k, rows in found.items() if len(rows) != 2]
    if odd:
        raise UserError(f"{len(odd)} pairs have other than two rows: {odd[:SHOWN]}", where="pairs")
    rows = np.array(list(found.values()))
    bad = [k for k, r in found.items() if sorted(y[r].tolist()) != [0.0, 1.0]]
    if bad:
        raise UserError(
            f"{len(bad)} pairs have not exactly one chosen profile: {bad[:SHOWN]}", where="outcome",
            allowed="1 for the chosen and 0 for the other",
        )  # fmt: skip
    return rows


def _names(values: np.ndarray) -> str:
    return ", ".join(str(x) for x in np.unique(values))
