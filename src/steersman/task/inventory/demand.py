"""Laws of demand: normal (correlated), Poisson, and weekly negative-binomial demand with trend and seasons.

Leaves out: series from files (`series`). Sources: the benchmark problems of arXiv 2306.11246; the seasonal law is ours
and stands in for retail series that may not be passed on.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from steersman.core.component import Component
from steersman.core.errors import UserError
from steersman.core.noise import generator

Array = npt.NDArray[np.float64]
Drawn = tuple[Array, Array, Array, Array]
"""Demand ``[n, K, T]``, mean ``[K]`` or ``[n, K]``, std alike, calendar ``[T, C]``."""
WEEKS = 52
CHRISTMAS = 51
"""Week of the year, from 0, in which Christmas falls."""


class Law(Component):
    """Base of the laws."""

    def draw(self, stores: int, n: int, periods: int, seed: int) -> Drawn:
        """Demand of `n` scenarios, what is known of its mean and spread, and of the periods."""
        raise TypeError(f"{type(self).__name__} is no law of demand")


def _per_store(value: float | list[float], stores: int, name: str) -> Array:
    if isinstance(value, list) and len(value) != stores:
        raise UserError(f"{name} has {len(value)} values for {stores} stores", where="demand", allowed="one, or K")
    return np.broadcast_to(np.asarray(value, np.float64), stores).copy()


class Normal(Law):
    """Demand of the stores is jointly normal, independent over periods: N(mean, corr std_i std_j off the diagonal)."""

    kind: Literal["normal"] = "normal"
    mean: float | list[float] = Field(5.0, description="mean of a period's demand, one number or one a store")
    std: float | list[float] = Field(1.6, description="standard deviation, one number or one a store")
    corr: float = Field(0.0, ge=0, le=1, description="correlation between any two stores")
    clip: bool = Field(True, description="negative demand becomes 0; false = it is a return")

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return list(value) if isinstance(value, tuple | np.ndarray) else value

    def draw(self, stores: int, n: int, periods: int, seed: int) -> Drawn:
        """Correlated by one common factor: sqrt(corr) z_0 + sqrt(1 - corr) z_k."""
        mean, std = _per_store(self.mean, stores, "mean"), _per_store(self.std, stores, "std")
        if (std < 0).any() or not np.isfinite(std).all() or not np.isfinite(mean).all():
            raise UserError(f"mean {mean.tolist()}, std {std.tolist()}", where="demand", allowed="finite, std >= 0")
        own = generator(seed, "inventory/demand").standard_normal((n, stores, periods))
        common = generator(seed, "inventory/common").standard_normal((n, 1, periods)) if self.corr else 0.0
        z = np.sqrt(self.corr) * common + np.sqrt(1 - self.corr) * own
        demand = mean[:, None] + std[:, None] * z
        return np.maximum(demand, 0) if self.clip else demand, mean, std, np.zeros((periods, 0))


class Poisson(Law):
    """Whole numbers, independent over stores and periods."""

    kind: Literal["poisson"] = "poisson"
    mean: float | list[float] = Field(5.0, description="mean of a period's demand, one number or one a store")

    @field_validator("mean", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return list(value) if isinstance(value, tuple | np.ndarray) else value

    def draw(self, stores: int, n: int, periods: int, seed: int) -> Drawn:
        """The standard deviation is the root of the mean."""
        mean = _per_store(self.mean, stores, "mean")
        if not (mean >= 0).all() or not np.isfinite(mean).all():
            raise UserError(f"mean {mean.tolist()}", where="demand", allowed="finite, 0 or more")
        demand = generator(seed, "inventory/demand").poisson(mean[:, None], (n, stores, periods))
        return demand.astype(np.float64), mean, np.sqrt(mean), np.zeros((periods, 0))


class Seasonal(Law):
    """Weekly sales of many items: negative binomial around a level with trend, season and a Christmas peak.

    Of item i in week t (of a year of 52 weeks, running on from a week that the seed chooses):
    mean_it = level_i (1 + trend_i t / 52) (1 + season cos(2 pi (t - phase_i) / 52)) (1 + peak in weeks 49 to 51),
    demand_it = Poisson(mean_it gamma_it) on the items' active weeks, gamma with mean 1 and variance 1 / dispersion.
    """

    kind: Literal["seasonal"] = "seasonal"
    level: tuple[float, float] = Field((5.0, 50.0), description="range of the items' levels, log-uniform")
    trend: tuple[float, float] = Field((-0.2, 0.3), description="range of the yearly growth")
    season: float = Field(0.4, ge=0, lt=1, description="amplitude of the yearly wave")
    peak: float = Field(1.0, ge=0, description="extra sales in the three weeks before Christmas, as a share")
    dispersion: float = Field(5.0, gt=0, description="1 / variance of the multiplier; infinity would be Poisson")
    idle: float = Field(0.2, ge=0, le=1, description="share of the items that sell in some weeks only")
    active: float = Field(0.4, gt=0, le=1, description="chance that an intermittent item sells in a week")

    def draw(self, stores: int, n: int, periods: int, seed: int) -> Drawn:
        """Mean and std are those of an item's level, without seasons; the calendar is the days to Christmas / 365."""
        low, high = self.level
        if not 0 < low <= high or self.trend[0] > self.trend[1]:
            raise UserError(f"level {self.level}, trend {self.trend}", where="demand", allowed="0 < low <= high")
        item = generator(seed, "inventory/items")
        level = np.exp(item.uniform(np.log(low), np.log(high), (n, stores)))
        trend, phase = item.uniform(*self.trend, (n, stores, 1)), item.uniform(0, WEEKS, (n, stores, 1))
        idle = item.random((n, stores, 1)) < self.idle
        weeks = np.arange(periods) + int(item.integers(WEEKS))
        growth = np.maximum(1 + trend * (np.arange(periods) / WEEKS), 0.0)
        wave = 1 + self.season * np.cos(2 * np.pi * (weeks - phase) / WEEKS)
        peak = 1 + self.peak * (np.abs(weeks % WEEKS - (CHRISTMAS - 1)) <= 1)
        noise = generator(seed, "inventory/demand")
        gamma = noise.gamma(self.dispersion, 1 / self.dispersion, (n, stores, periods))
        demand = noise.poisson(level[:, :, None] * growth * wave * peak * gamma).astype(np.float64)
        demand *= ~idle | (noise.random((n, stores, periods)) < self.active)
        return demand, level, np.sqrt(level + level**2 / self.dispersion), days_to_christmas(weeks)


def days_to_christmas(weeks: Array) -> Array:
    """Days from a week of the year (from 0) to the next Christmas week, as a share of a year ``[T, 1]``."""
    return (((CHRISTMAS - weeks) % WEEKS) * 7 / 365)[:, None].astype(np.float64)
