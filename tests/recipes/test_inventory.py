"""Inventory recipes: what they refuse, published rates, splits, policies on disk, references, jobs and resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.control.inventory import oracle
from steersman.control.inventory.reference import hindsight, reference
from steersman.core.config import read, to_toml, validate
from steersman.core.errors import CorruptFile, UserError
from steersman.recipes.inventory import EXAMPLE, POLICIES, InventoryRecipe, InventoryRuntime
from steersman.recipes.inventory_job import carry_out_inventory, described
from steersman.recipes.inventory_parts import Shape, build_policy, load_policy, save_policy, splits
from steersman.task.inventory import settings
from steersman.task.inventory.evaluate import evaluate
from steersman.task.inventory.scenarios import Scenarios
from steersman.task.inventory.simulate import observe

DIGITS = 1e-4
STORE = {"stores": [{"name": "shop", "holding": 1.0, "shortage": 4.0}], "edges": [["supplier", "shop", 2]]}
SMALL = {
    "scenarios": 32, "periods": 12, "dev_scenarios": 8, "dev_periods": 12, "test_scenarios": 40, "test_periods": 40,
}  # fmt: skip
TINY = {"network": STORE, "demand": {"kind": "poisson"}, "policy": {"kind": "vanilla", "hidden": [4]}, "data": SMALL,
        "budget": {"steps": 6, "batch": 8}}  # fmt: skip


def recipe(**change: Any) -> InventoryRecipe:
    values = {k: {**TINY.get(k, {}), **v} if isinstance(v, dict) and "kind" not in v else v for k, v in change.items()}
    return InventoryRecipe.model_validate(TINY | values)


def test_the_example_comes_back_from_toml(tmp_path) -> None:
    made = InventoryRecipe.model_validate(EXAMPLE)
    (tmp_path / "net.toml").write_text(to_toml(made))
    assert validate(InventoryRecipe, read(tmp_path / "net.toml")) == made
    assert made.network.build().names == ("hub", "north", "south")


@pytest.mark.parametrize(
    "kind, lr", [("base_stock", 0.5), ("capped_base_stock", 1.0), ("vanilla", 3e-3), ("graph", 1e-3)]
)
def test_policies_learn_at_their_published_rate_unless_told(kind, lr) -> None:
    assert recipe(policy={"kind": kind}).optim.lr == lr
    assert recipe(policy={"kind": kind}, optim={"clip": 2.0}).optim.lr == lr
    assert recipe(policy={"kind": kind}, optim={"lr": 0.01}).optim.lr == 0.01


@pytest.mark.parametrize(
    "text, said",
    [
        ('[network]\nstores = [{name = "a", holding = 1, shortage = 9}]\nedges = []', "the store 'a' has no supplier"),
        (
            '[network]\nstores = [{name = "a", holding = -1, shortage = 9}]\nedges = [["supplier", "a", 1]]',
            "holding is -1",
        ),
        (
            '[network]\nstores = [{name = "a", holding = 1, shortage = 9}]\nedges = [["supplier", "a", 0]]',
            "lead time 0",
        ),
        ("[demand]\nkind = 'normall'", "'normall' is not known"),
        ("[policy]\nkind = 'vanilla'\nhiden = 3", "Did you mean policy.hidden"),
        ("[data]\nwarmup = 12", "leaves nothing of data.periods = 12"),
        ("[data]\ncurve = [64]", "wanted 1 to data.scenarios = 32"),
        ("[policy]\nkind = 'newsvendor'", "needs data.past"),
        ("[demand]\nkind = 'csv'\nfile = 'd.csv'\nsplit = [0.9, 0.2]", "wanted 0 < first < second < 1"),
        ("[method]\nkind = 'ppo'\neps = 0", "eps"),
    ],
)
def test_recipes_that_cannot_be(tmp_path, text, said) -> None:
    (tmp_path / "net.toml").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        validate(InventoryRecipe, read(tmp_path / "net.toml", base=TINY))
    assert "net.toml" in str(caught.value)


def test_draws_for_training_holding_out_and_testing_differ() -> None:
    made = splits(recipe(), recipe().network.build())
    assert (len(made.train), len(made.dev), len(made.test)) == (32, 8, 40)
    assert not torch.equal(made.train.demand[:8], made.dev.demand)
    assert not torch.equal(made.train.demand, made.test.demand[:32, :, :12])


def write_series(path: Path, periods: int) -> None:
    path.write_text("period,demand\n" + "".join(f"{t},{t}\n" for t in range(periods)))


def test_series_are_split_in_time(tmp_path) -> None:
    write_series(tmp_path / "d.csv", 100)
    asked = recipe(demand={"kind": "csv", "file": str(tmp_path / "d.csv")}, data={"past": 4})
    made = splits(asked, asked.network.build())
    assert float(made.train.demand.max()) < 60
    assert made.dev.demand[0, 0, 0] == 60
    assert made.dev.past[0, 0].tolist() == [56, 57, 58, 59]
    assert made.test.demand[0, 0].tolist() == list(range(80, 100))
    write_series(tmp_path / "d.csv", 20)
    with pytest.raises(UserError, match="its training part has 12 periods, 4 of them as the past"):
        splits(asked, asked.network.build())


@pytest.mark.parametrize("kind", POLICIES)
def test_policies_come_back_from_disk(tmp_path, kind) -> None:
    network = settings.serial_system().network if kind == "echelon_stock" else recipe().network.build()
    table = recipe().network
    if kind == "echelon_stock":
        plain = {"echelons": network.echelons, "warehouses": network.warehouses, "stores": network.stores}
        rows = {k: [{f: getattr(p, f) for f in p.__slots__} for p in v] for k, v in plain.items()}
        table = type(table).model_validate({**rows, "edges": network.edges, "lost_sales": False})
    spec = POLICIES[kind]()
    scenarios = Scenarios.seasonal(network, 4, 8, past=6)
    shape = Shape.of(scenarios)
    policy = build_policy(spec, network, shape, seed=5)
    obs = observe(scenarios, scenarios.inventory, scenarios.past, 0)
    save_policy(tmp_path / "p", policy, spec, table, shape)
    same_network, same = load_policy(tmp_path / "p")
    assert same_network == network
    assert torch.equal(same(obs), policy(obs))
    (tmp_path / "p" / "policy.safetensors").write_bytes(b"no")
    with pytest.raises(CorruptFile, match="cannot be read"):
        load_policy(tmp_path / "p")


def test_references_are_the_known_optima() -> None:
    found = {
        "store": (settings.one_store_lost(2, 4.0), oracle.lost_sales_dp(5.0, 2, 1.0, 4.0)),
        "backlog": (settings.one_store_backlogged(4, 9.0), oracle.serial_clark_scarf(5.0, 1.6, (4,), (1.0,), 9.0)[1]),
        "chain": (
            settings.serial_system(1, 9.0),
            oracle.serial_clark_scarf(5.0, 2.0, (2, 4, 3, 1), (0.1, 0.2, 0.5, 1.0), 9.0)[1],
        ),
        "bound": (settings.transshipment_backlogged(), 5.2964),
    }
    for name, (setting, cost) in found.items():
        known = reference(setting.network, setting.law)
        assert known is not None, name
        assert known.cost == pytest.approx(cost, abs=DIGITS)
        assert (known.policy is None) == (name == "bound") == (known.kind == "bound")
    for setting in (settings.one_warehouse_lost_demand(3), settings.one_store_retail(), settings.one_store_lost(12)):
        assert reference(setting.network, setting.law) is None


def test_the_policy_of_a_reference_costs_what_it_says() -> None:
    setting = settings.one_store_lost(1, 4.0)
    known = reference(setting.network, setting.law)
    assert known is not None
    assert known.policy is not None
    found = evaluate(setting.network, known.policy, setting.scenarios(500, 200, seed=1), 50)
    assert abs(found.mean - known.cost) < 3 * found.se


def test_hindsight_earns_the_whole_demand() -> None:
    setting = settings.one_store_retail(4)
    scenarios = setting.scenarios(5, 40, seed=1)
    found = hindsight(setting.network, scenarios, 10)
    # After the starting stock is sold: price times demand, nothing left over.
    assert found.mean == pytest.approx(-9.0 * float(scenarios.demand[:, :, 10:].mean()), rel=0.2)


def run(folder: Path, made: InventoryRecipe, **how: Any) -> dict[str, Any]:
    runtime = InventoryRuntime(out=str(folder), log_every=1, evaluate_every=2, checkpoint_every=1, device="cpu")
    return dict(carry_out_inventory(made, runtime, say=lambda line: None, **how).result)


@pytest.mark.parametrize("method", ["hdpo", "reinforce", "ppo"])
def test_a_killed_job_goes_on_as_if_nothing_had_happened(tmp_path, method) -> None:
    made = recipe(method={"kind": method}, data={"curve": [4]})
    whole = run(tmp_path / "whole", made)

    def kill(step: int, total: int, metrics: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", made, watch=kill)
    assert run(tmp_path / "parts", made) == whole
    for name in ("policy/policy.safetensors", "policy/policy.json", "result.json", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert whole["reference"]["kind"] == "optimum"
    assert whole["gap"]["low"] < whole["gap"]["value"] < whole["gap"]["high"]
    assert set(whole["curve"]) == {"4"}
    again = run(tmp_path / "whole", made)
    assert again == json.loads((tmp_path / "whole" / "result.json").read_text())


@pytest.mark.parametrize("rule", ["quantile_nv", "fixed_quantile"])
def test_newsvendors_fit_their_forecaster_first(tmp_path, rule) -> None:
    spec = {"kind": "newsvendor", "rule": rule, "hidden": [8], "forecast_steps": 5}
    made = recipe(policy=spec, data={"past": 4}, demand={"kind": "seasonal"})
    found = run(tmp_path / "o", made)
    assert found["steps"] == (0 if rule == "quantile_nv" else 6)
    assert (tmp_path / "o" / "forecast" / "metrics.jsonl").is_file()
    assert "Inventory policy" in (tmp_path / "o" / "report.html").read_text()


def test_a_network_of_warehouses_and_its_page(tmp_path, open_page) -> None:
    made = recipe(**EXAMPLE, data={"curve": [8]}, budget={"steps": 2, "batch": 8})
    found = run(tmp_path / "o", made)
    assert found["reference"] is None
    assert set(found["by_location"]) == {"hub", "north", "south"}
    view, trouble = open_page((tmp_path / "o" / "report.html").as_uri())
    assert not trouble
    assert view.locator("figure").count() == 8
    assert "Cost against scenarios" in view.content()


def test_profit_is_held_against_hindsight(tmp_path) -> None:
    network = STORE | {"objective": "profit"}
    found = run(tmp_path / "o", recipe(network=network))
    assert found["reference"]["name"] == "just in time, in hindsight"
    assert found["gap"]["value"] > 0


def test_a_plan_trains_and_writes_nothing(tmp_path) -> None:
    made = described(recipe(), InventoryRuntime(out=str(tmp_path / "o")))
    assert (made["steps"], made["simulated_periods"], made["parameters"]) == (6, 6 * 8 * 12, 17)
    assert made["reference"]["cost"] == pytest.approx(4.3953, abs=DIGITS)
    assert not (tmp_path / "o").exists()
    with pytest.raises(UserError, match="ships to others"):
        described(recipe(**EXAMPLE | {"policy": {"kind": "base_stock"}}), InventoryRuntime())
    with pytest.raises(UserError, match="mean has 2 values for 1 stores"):
        described(recipe(demand={"kind": "normal", "mean": [1.0, 2.0]}), InventoryRuntime())
