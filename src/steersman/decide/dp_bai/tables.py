"""Experiments from files: arms and rewards in CSV, what is still to be tried, and intervals of what was seen.

Leaves out: printing (`cli.decide`).
"""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from steersman.core.errors import UserError, one_line
from steersman.decide.dp_bai.ask_tell import Run
from steersman.stats import Interval

NAME = "arm"


@dataclass(frozen=True, slots=True)
class ArmTable:
    """Arms of a file.

    Args:
        names: [K] unique names.
        columns: [d] names of the features.
        features: [K, d].
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    features: npt.NDArray[np.float64]


def read_arms(path: Path) -> ArmTable:
    """Read arms: a column `arm` with names (rows are numbered from 1 if there is none), all others features.

    Raises:
        UserError: no file, no rows, a name twice, none or unprintable, a feature that is not a finite number; with file
            and line.
    """
    header, rows = _read(path)
    columns = tuple(c for c in header if c != NAME)
    if not columns or not rows:
        raise UserError("has no arms, or no features", where=str(path), allowed="a header, and a row for each arm")
    names, features = [], []
    for line, row in rows:
        names.append(_name(row.get(NAME, str(len(names) + 1)).strip(), f"{path}, line {line}"))
        features.append([_number(row[c], f"{path}, line {line}, column {c}") for c in columns])
    twice = [n for n, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"the arm {one_line(twice[0])!r} is there twice", where=str(path))
    return ArmTable(tuple(names), columns, np.array(features))


def _name(text: str, where: str) -> str:
    if not text or one_line(text) != text:
        raise UserError(f"the arm's name is {one_line(text)!r}", where=where, allowed="up to 200 printable characters")
    return text


def read_rewards(
    path: Path, names: Sequence[str], reward_range: tuple[float, float] = (-math.inf, math.inf)
) -> list[list[float]]:
    """Read rewards: columns `arm` and `reward`, a row for each trial, an arm's trials in the order they were made.

    Args:
        path: the file; if it does not exist, nothing was tried.
        names: of the arms.
        reward_range: what rewards may be.

    Returns:
        For each arm its rewards.

    Raises:
        UserError: other columns missing, an unknown arm, a reward that is no finite number or outside the range; with
            file and line.
    """
    found: list[list[float]] = [[] for _ in names]
    if not path.exists():
        return found
    header, rows = _read(path)
    if not {NAME, "reward"} <= set(header):
        raise UserError(f"has columns {', '.join(header)}", where=str(path), allowed="arm and reward")
    place = {n: i for i, n in enumerate(names)}
    for line, row in rows:
        name = row[NAME].strip()
        if name not in place:
            raise UserError(f"unknown arm {one_line(name)!r}", where=f"{path}, line {line}")
        reward = _number(row["reward"], f"{path}, line {line}")
        if not reward_range[0] <= reward <= reward_range[1]:
            raise UserError(
                f"a reward of {reward:g}",
                where=f"{path}, line {line}",
                allowed=f"numbers from {reward_range[0]:g} to {reward_range[1]:g}",
                cure="Say what rewards can be with --low and --high, or move them to the nearest end with --clip.",
            )
        found[place[name]].append(reward)
    return found


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [h.strip() for h in next(reader, [])]
            if len(set(header)) < len(header) or "" in header:
                raise UserError("has a column twice or without a name", where=f"{path}, line 1")
            rows = []
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{len(row)} cells under {len(header)} columns", where=f"{path}, line {reader.line_num}"
                    )
                rows.append((reader.line_num, dict(zip(header, row, strict=True))))
            return header, rows
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"is not CSV in UTF-8 ({error})", where=str(path)) from None


def _number(text: str, where: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{one_line(text)!r} is not a finite number", where=where)
    return found


def feed(run: Run, rewards: Sequence[Sequence[float]]) -> dict[int, int]:
    """Tell a run the rewards of whole phases, as far as they reach.

    A phase takes the next rewards of each of its arms, after those that earlier phases took; it is told when all are
    there, so nothing of an unfinished phase is lost if this process dies.

    Args:
        run: just started, or resumed from a journal.
        rewards: for each arm all its rewards, in order.

    Returns:
        How many trials of each arm the phase under way still lacks; empty at the end.
    """
    while (batch := run.ask()) is not None:
        tried, needed = run.tried, Counter(batch.arms)
        lacking = {a: n - max(0, len(rewards[a]) - tried[a]) for a, n in needed.items()}
        if any(n > 0 for n in lacking.values()):
            return {a: n for a, n in lacking.items() if n > 0}
        coming = {a: iter(rewards[a][tried[a] :]) for a in needed}
        run.tell([next(coming[a]) for a in batch.arms], batch.phase)
    return {}


def mean_interval(
    mean: float, pulls: int, epsilon: float, reward_range: tuple[float, float] = (0.0, 1.0), level: float = 0.95
) -> Interval:
    """An interval of an arm's mean from its noisy mean; private, as it is computed from that alone.

    Half width (high - low) (sqrt(ln(4/beta) / (2 N)) + ln(2/beta) / (epsilon N)), beta = 1 - level: Hoeffding's bound
    for the rewards and the tail of Laplace noise, each failing with probability at most beta/2.

    Args:
        mean: noisy mean of N rewards.
        pulls: N >= 1.
        epsilon: > 0; infinity for no noise.
        reward_range: what the rewards lie in; the interval is cut to it.
        level: confidence, in (0, 1).

    Returns:
        The interval; it covers at least `level`, usually more. One interval, not several at once.

    Source: Hoeffding 1963; for discrete noise P(|noise| > t) <= exp(-epsilon t) too.
    """
    low, high = reward_range
    beta = 1 - level
    half = math.sqrt(math.log(4 / beta) / (2 * pulls)) + math.log(2 / beta) / (epsilon * pulls)
    width = (high - low) * half
    ends = (min(max(mean + s * width, low), high) for s in (-1, 1))
    return Interval(mean, *ends, level, "hoeffding and laplace")
