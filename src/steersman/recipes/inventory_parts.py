"""The parts of an inventory job: scenarios for training, holding out and testing, policies, and policies on disk.

Leaves out: the order of work (`inventory_job`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file, save
from torch import Tensor

from steersman.core.errors import CorruptFile, UserError
from steersman.policy.inventory.graph import GraphPolicy
from steersman.policy.inventory.newsvendor import Forecaster, QuantileNewsvendor
from steersman.policy.inventory.observe import OrderingPolicy
from steersman.policy.inventory.stock import BaseStock, CappedBaseStock, EchelonStock
from steersman.policy.inventory.symmetric import SymmetryAware
from steersman.policy.inventory.vanilla import DataDriven, VanillaMLP
from steersman.recipes.inventory import (
    BaseStockSpec,
    CappedSpec,
    ChicagoDemand,
    CsvDemand,
    DataDrivenSpec,
    EchelonSpec,
    GraphSpec,
    InventoryRecipe,
    NetworkTable,
    NewsvendorSpec,
    PolicySpec,
    SymmetrySpec,
    VanillaSpec,
)
from steersman.store.files import read_json, write_bytes, write_json
from steersman.task.inventory.demand import Law
from steersman.task.inventory.network import InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.series import read_series, ridership, windows
from steersman.train.parameters import copy_into


@dataclass(frozen=True, slots=True)
class Splits:
    """Scenarios of a job, none of which share a period in which costs count."""

    train: Scenarios
    dev: Scenarios
    test: Scenarios


@dataclass(frozen=True, slots=True)
class Shape:
    """What a policy was built for besides its network: total demand, past and calendar that it sees, lead times."""

    demand: float
    past: int
    calendar: int
    leads: tuple[int, ...]

    @classmethod
    def of(cls, scenarios: Scenarios) -> "Shape":
        """The shape of these scenarios."""
        total = float(scenarios.mean.sum(1).mean())
        leads = tuple(sorted(set(scenarios.lead_time.flatten().tolist())))
        return cls(total, scenarios.past.shape[2], scenarios.calendar.shape[2], leads)


def splits(recipe: InventoryRecipe, network: InventoryNetwork) -> Splits:
    """The scenarios of a job.

    Raises:
        UserError: a file that cannot be used, or series too short.
    """
    sizes, law, seed = recipe.data, recipe.demand, recipe.budget.seed
    if isinstance(law, Law):
        asked = (
            (sizes.scenarios, sizes.periods), (sizes.dev_scenarios, sizes.dev_periods),
            (sizes.test_scenarios, sizes.test_periods),
        )  # fmt: skip
        # Seeds of three draws of one job differ from those of every other seed's.
        drawn = (Scenarios.draw(network, law, n, t, 3 * seed + i, past=sizes.past) for i, (n, t) in enumerate(asked))
        return Splits(*drawn)
    return _of_series(recipe, network)


def _of_series(recipe: InventoryRecipe, network: InventoryNetwork) -> Splits:
    law, sizes, calendar = recipe.demand, recipe.data, None
    if isinstance(law, CsvDemand):
        where, series = law.file, read_series(network, Path(law.file))
    else:
        assert isinstance(law, ChicagoDemand)
        where = "demand"
        series, calendar = ridership(network, law.copies, law.level, recipe.budget.seed)
    length = series.shape[2]
    ends = [0, *(round(share * length) for share in law.split), length]
    asked = (sizes.periods, sizes.dev_periods, sizes.test_periods)
    made = []
    for name, first, end, periods in zip(("training", "held-out", "test"), ends, ends[1:], asked, strict=False):
        # Policies of the later parts see demand of the part before, as they would have in time.
        start = max(first - sizes.past, 0)
        most = end - start - sizes.past
        if most < (sizes.periods if name == "training" else 2):
            what = f"its {name} part has {end - start} periods, {sizes.past} of them as the past"
            raise UserError(what, where=where, cure="Shorten data.periods or data.past, or move demand.split.")
        known = None if calendar is None else calendar[start:end]
        length_of = min(periods, most)
        made.append(windows(network, series[:, :, start:end], length_of, sizes.past, calendar=known, where=where))
    return Splits(*made)


def build_policy(spec: PolicySpec, network: InventoryNetwork, shape: Shape, seed: int) -> OrderingPolicy:
    """A policy at its starting point.

    Raises:
        UserError: a policy that is not for such a network.
    """
    if isinstance(spec, BaseStockSpec | CappedSpec | EchelonSpec):
        plain = {"base_stock": BaseStock, "capped_base_stock": CappedBaseStock, "echelon_stock": EchelonStock}
        return plain[spec.kind](network)
    if isinstance(spec, VanillaSpec):
        return VanillaMLP(network, shape.demand, spec.hidden, seed)
    if isinstance(spec, SymmetrySpec):
        return SymmetryAware(network, shape.demand, spec.hidden, spec.proportional, seed)
    if isinstance(spec, GraphSpec):
        bought = bool((network.procurement > 0).any())
        return GraphPolicy(network, spec.hidden, spec.rounds, bought, shape.past, shape.calendar, seed)
    if isinstance(spec, DataDrivenSpec):
        return DataDriven(network, shape.past, shape.calendar, spec.hidden, seed)
    assert isinstance(spec, NewsvendorSpec)
    forecaster = Forecaster(shape.leads, shape.past, shape.calendar, spec.hidden, seed)
    return QuantileNewsvendor(network, forecaster, spec.rule, seed)


def save_policy(folder: Path, policy: OrderingPolicy, spec: PolicySpec, network: NetworkTable, shape: Shape) -> None:
    """Write weights (safetensors) and what they belong to (JSON)."""
    weights = {n: x.detach().cpu().contiguous() for n, x in policy.state_dict().items()}
    write_bytes(folder / "policy.safetensors", save(weights))
    about = {"format": 1, "policy": spec.model_dump(), "network": network.model_dump(), "shape": vars_of(shape)}
    write_json(folder / "policy.json", about)


def load_policy(folder: Path) -> tuple[InventoryNetwork, OrderingPolicy]:
    """The network and the trained policy that `save_policy` wrote.

    Raises:
        UserError: no such folder.
        CorruptFile: files that do not fit together.
    """
    about = read_json(folder / "policy.json")
    try:
        spec: Any = TypeAdapter(PolicySpec).validate_python(about["policy"])
        network = NetworkTable.model_validate(about["network"]).build()
        shape = about["shape"]
        policy = build_policy(spec, network, Shape(**{**shape, "leads": tuple(shape["leads"])}), 0)
        weights: Mapping[str, Tensor] = load_file(folder / "policy.safetensors")
    except UserError:
        raise
    except Exception as error:
        raise CorruptFile(f"cannot be read ({error})", where=str(folder)) from None
    own = dict(policy.state_dict())
    copy_into(own, weights)
    return network, policy.eval()


def vars_of(shape: Shape) -> dict[str, Any]:
    """A shape as JSON values."""
    return {"demand": shape.demand, "past": shape.past, "calendar": shape.calendar, "leads": list(shape.leads)}
