"""Scenarios: what happens to an inventory network, whatever is ordered: demand, starting stocks, costs, lead times.

Since demand does not react to orders, any policy can be replayed on the same scenarios. Leaves out: laws of demand
(`demand`), series from files (`series`), dynamics (`simulate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from steersman.core.errors import UserError
from steersman.core.noise import generator
from steersman.task.inventory.demand import Law, Normal, Poisson, Seasonal
from steersman.task.inventory.network import InventoryNetwork


@dataclass(frozen=True, slots=True)
class Scenarios:
    """B scenarios of T periods for a network of N locations, K stores, E edges, S slots.

    Fields whose leading size is 1 are shared by all scenarios.

    Args:
        demand: ``[B, K, T]``, units; negative demand is a return, as an unclipped normal law has it.
        inventory: ``[B or 1, N, S]``, at the start.
        holding: ``[B or 1, N]``; shortage: ``[B or 1, K]``; procurement: ``[1, N]``; costs a unit.
        lead_time: ``[B or 1, E]`` int64, periods, 1 to S.
        mean, std: ``[B or 1, K]``, of a period's demand.
        past: ``[B or 1, K, P]``, demand before period 0, the latest last; P is how much of it policies see.
        calendar: ``[B or 1, T, C]``, what is known of each period.

    Raises:
        UserError: shapes that disagree, NaN or infinite demand (named by scenario, store, period), a negative cost, a
            lead time below 1 or beyond the slots.
    """

    demand: Tensor
    inventory: Tensor
    holding: Tensor
    shortage: Tensor
    procurement: Tensor
    lead_time: Tensor
    mean: Tensor
    std: Tensor
    past: Tensor
    calendar: Tensor

    def __post_init__(self) -> None:
        if self.demand.ndim != 3:
            raise UserError(
                f"has shape {tuple(self.demand.shape)}", where="demand", allowed="[scenario, store, period]"
            )
        b = len(self.demand)
        for field in fields(self):
            x = getattr(self, field.name)
            if len(x) not in (1, b):
                raise UserError(f"has {len(x)} scenarios, demand has {b}", where=field.name, allowed=f"1 or {b}")
        for name in ("demand", "past", "inventory"):
            _finite(name, getattr(self, name))
        for name in ("holding", "shortage", "procurement"):
            x = getattr(self, name)
            if bool((~(x >= 0) | x.isinf()).any()):
                raise UserError(f"holds {float(x.min()):.6g}", where=name, allowed="numbers, 0 or more")
        shortest, longest = int(self.lead_time.min()), int(self.lead_time.max())
        if shortest < 1 or longest > self.inventory.shape[2]:
            what = f"holds {shortest if shortest < 1 else longest}"
            raise UserError(what, where="lead_time", allowed=f"1 to {self.inventory.shape[2]}, the slots of inventory")

    def __len__(self) -> int:
        return len(self.demand)

    @property
    def periods(self) -> int:
        """T."""
        return self.demand.shape[2]

    def index(self, rows: Tensor) -> "Scenarios":
        """The scenarios `rows` (int64)."""
        rest = (f.name for f in fields(self) if f.name != "demand")
        kept = {n: x if len(x) == 1 else x[rows] for n in rest for x in (getattr(self, n),)}
        return Scenarios(demand=self.demand[rows], **kept)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Scenarios":
        """The same on another device or in another floating type; lead times stay whole."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Scenarios(**{n: x.to(device, dtype if x.is_floating_point() else None) for n, x in moved.items()})

    def with_stock(self, network: InventoryNetwork, share: tuple[float, float], seed: int) -> "Scenarios":
        """Stores start with U[share] times their mean demand in each slot that an order to them can fill."""
        k, s = self.demand.shape[1], network.slots
        draw = generator(seed, "inventory/start").uniform(*share, size=(len(self), k, s))
        reach = torch.stack([network.lead_time[network.target == i].max() for i in _stores(network)])
        used = torch.arange(s) < reach[:, None]
        stock = (
            torch.from_numpy(draw).to(self.demand) * self.mean.clamp(min=0)[:, :, None] * used.to(self.demand.device)
        )
        upstream = stock.new_zeros(len(self), network.n_upstream, s)
        return replace(self, inventory=torch.cat([upstream, stock], 1))

    @classmethod
    def of(
        cls,
        network: InventoryNetwork,
        demand: Tensor,
        *,
        inventory: Tensor | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        past: Tensor | None = None,
        calendar: Tensor | None = None,
    ) -> "Scenarios":
        """Scenarios with the network's own costs and lead times.

        Args:
            network: the network.
            demand: ``[B, K, T]``.
            inventory: ``[B or 1, N, S]``; None = empty.
            mean, std: ``[K]`` or ``[B or 1, K]``; None = those of `demand` by store.
            past: ``[B or 1, K, P]``; None = nothing is shown.
            calendar: ``[B or 1, T, C]``; None = nothing is known.
        """
        demand = demand if demand.is_floating_point() else demand.to(torch.get_default_dtype())
        if demand.ndim != 3 or demand.shape[1] != network.n_stores:
            what = f"has shape {tuple(demand.shape)}"
            raise UserError(what, where="demand", allowed=f"[scenarios, {network.n_stores} stores, periods]")
        n = len(network.names)
        given = {
            "inventory": demand.new_zeros(1, n, network.slots) if inventory is None else inventory.to(demand),
            "mean": demand.mean((0, 2))[None] if mean is None else _rows(mean, demand),
            "std": demand.std((0, 2), correction=0)[None] if std is None else _rows(std, demand),
            "past": demand.new_zeros(1, network.n_stores, 0) if past is None else past.to(demand),
            "calendar": demand.new_zeros(1, demand.shape[2], 0) if calendar is None else calendar.to(demand),
        }
        costs = {name: getattr(network, name)[None].to(demand) for name in ("holding", "shortage", "procurement")}
        return cls(demand=demand, lead_time=network.lead_time[None].to(demand.device), **given, **costs)

    @classmethod
    def draw(
        cls, network: InventoryNetwork, law: Law, n: int, periods: int, seed: int = 0, *, past: int = 0,
        stock: tuple[float, float] = (0.0, 1.0),
    ) -> "Scenarios":  # fmt: skip
        """`n` scenarios of `periods` periods by a law of demand.

        Args:
            network: the network.
            law: the law (`demand`).
            n: scenarios, >= 1.
            periods: T, >= 1.
            seed: same seed, same scenarios.
            past: P, periods of demand before the first that policies see.
            stock: stores start with U[stock] times their mean demand in each slot; warehouses are empty.
        """
        if n < 1 or periods < 1 or past < 0:
            raise UserError(
                f"n = {n}, periods = {periods}, past = {past}", where="scenarios", allowed="1, 1, 0 or more"
            )
        drawn, mean, std, calendar = law.draw(network.n_stores, n, past + periods, seed)
        demand = torch.from_numpy(drawn).to(torch.get_default_dtype())
        scenarios = cls.of(
            network, demand[:, :, past:], mean=torch.from_numpy(mean), std=torch.from_numpy(std),
            past=demand[:, :, :past], calendar=torch.from_numpy(calendar)[None, past:],
        )  # fmt: skip
        return scenarios.with_stock(network, stock, seed)

    @classmethod
    def normal(
        cls, network: InventoryNetwork, n: int, periods: int, mean: float | Sequence[float] = 5.0,
        std: float | Sequence[float] = 1.6, corr: float = 0.0, clip: bool = True, seed: int = 0,
    ) -> "Scenarios":  # fmt: skip
        """Normal demand, correlated between stores; see `demand.Normal`."""
        return cls.draw(network, Normal(mean=mean, std=std, corr=corr, clip=clip), n, periods, seed)

    @classmethod
    def poisson(
        cls, network: InventoryNetwork, n: int, periods: int, mean: float | Sequence[float] = 5.0, seed: int = 0
    ) -> "Scenarios":
        """Poisson demand; see `demand.Poisson`."""
        return cls.draw(network, Poisson(mean=mean), n, periods, seed)

    @classmethod
    def seasonal(
        cls, network: InventoryNetwork, n: int, periods: int, seed: int = 0, past: int = 16, law: Seasonal | None = None
    ) -> "Scenarios":
        """Weekly negative-binomial demand with trend, season, a peak and idle items; see `demand.Seasonal`."""
        return cls.draw(network, law or Seasonal(), n, periods, seed, past=past)

    @classmethod
    def from_csv(
        cls, network: InventoryNetwork, path: Path, periods: int, past: int = 0, stride: int | None = None
    ) -> "Scenarios":
        """Demand from a file; see `series.from_csv`."""
        from steersman.task.inventory.series import from_csv

        return from_csv(network, path, periods, past, stride)


def _stores(network: InventoryNetwork) -> range:
    return range(network.n_upstream, len(network.names))


def _rows(x: Tensor, like: Tensor) -> Tensor:
    return (x if x.ndim == 2 else x[None]).to(like)


def _finite(name: str, x: Tensor) -> None:
    bad = (~x.isfinite()).nonzero()
    if len(bad):
        axes = ("scenario", "location", "slot") if name == "inventory" else ("scenario", "store", "period")
        at = ", ".join(f"{axis} {int(i)}" for axis, i in zip(axes, bad[0], strict=True))
        value = float(x[tuple(bad[0])])
        raise UserError(f"is {value} at {at}; {len(bad)} such values", where=name, allowed="finite numbers")
