"""Vanilla, symmetry-aware, graph and data-driven policies: form, feasibility, symmetry, size, seeds."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import elu, softplus

from steersman.core.errors import UserError
from steersman.policy.inventory.graph import GraphPolicy
from steersman.policy.inventory.observe import Observation
from steersman.policy.inventory.symmetric import SymmetryAware
from steersman.policy.inventory.vanilla import DataDriven, VanillaMLP
from steersman.task.inventory.network import InventoryNetwork, Store, Warehouse

ROUNDING = 1e-5
FORMS = {
    "vanilla": lambda net, seed=0: VanillaMLP(net, 15.0, hidden=(8, 8), seed=seed),
    "symmetric": lambda net, seed=0: SymmetryAware(net, 15.0, seed=seed),
    "proportional": lambda net, seed=0: SymmetryAware(net, 15.0, proportional=True, seed=seed),
    "graph": lambda net, seed=0: GraphPolicy(net, seed=seed),
    "data": lambda net, seed=0: DataDriven(net, past=0, calendar=0, seed=seed),
}


def permuted(obs: Observation, order: list[int]) -> Observation:
    """The same scene with the stores (behind one warehouse) in another order."""
    places, stores = torch.tensor([0, *(1 + i for i in order)]), torch.tensor(order)
    return Observation(
        obs.inventory[:, places], obs.holding[:, places], obs.shortage[:, stores], obs.procurement[:, places],
        obs.lead_time, obs.mean[:, stores], obs.std[:, stores], obs.past[:, stores], obs.calendar,
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("net", ["chain", "two_warehouses", "store"])
def test_orders_can_be_shipped_and_have_gradients(form, net, look, request) -> None:
    store = InventoryNetwork.single_store(3, 1.0, 9.0, lost_sales=True)
    net = store if net == "store" else request.getfixturevalue(net)
    obs, policy = look(net), FORMS[form](net)
    orders = policy(obs)
    assert orders.shape == (4, len(net.edges))
    assert float(orders.detach().min()) >= 0
    for i in range(net.n_upstream):
        out = orders[:, net.source == i].sum(1)
        assert bool((out <= obs.on_hand[:, i] + ROUNDING).all())
    orders.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in policy.parameters())
    assert policy.act(obs, state=7)[1] == 7


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_a_function_of_the_seed(form, two_warehouses, look) -> None:
    obs = look(two_warehouses)
    first, same, other = (FORMS[form](two_warehouses, seed)(obs) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("form", ["symmetric", "proportional", "graph"])
def test_renaming_stores_renames_orders(form, one_warehouse, look) -> None:
    order = [3, 0, 4, 1, 2]
    obs = look(one_warehouse())
    first = FORMS[form](one_warehouse())(obs)
    second = FORMS[form](one_warehouse(order=order))(permuted(obs, order))
    columns = torch.tensor([0, *(1 + i for i in order)])
    assert torch.allclose(first[:, columns], second, atol=ROUNDING)


@pytest.mark.parametrize("form, count", [("graph", 19_169), ("symmetric", None)])
def test_weights_do_not_grow_with_stores(form, count, one_warehouse) -> None:
    few, many = (sum(p.numel() for p in FORMS[form](one_warehouse(n)).parameters()) for n in (5, 50))
    assert few == many
    assert count is None or few == count


def test_the_published_sizes_of_vanilla(one_warehouse) -> None:
    # 512-512-512 on 6 locations of 3 slots.
    sizes = [18, 512, 512, 512, 6]
    wanted = sum(a * b + b for a, b in pairwise(sizes))
    assert sum(p.numel() for p in VanillaMLP(one_warehouse(), 25.0).parameters()) == wanted


def test_vanilla_of_one_store_by_hand(look) -> None:
    net = InventoryNetwork.single_store(2, 1.0, 9.0, lost_sales=True)
    policy, obs = VanillaMLP(net, 5.0, hidden=(3,)), look(net)
    first, last = policy.net[0], policy.net[2]
    hidden = elu(obs.inventory.flatten(1) @ first.weight.T + first.bias)
    assert torch.allclose(policy(obs), softplus(hidden @ last.weight.T + last.bias + 1), atol=ROUNDING)


def test_each_order_of_the_graph_is_of_its_own_edge(two_warehouses, look) -> None:
    """Without stock at east, east ships nothing, and west's orders do not move into its columns."""
    obs = look(two_warehouses)
    obs.inventory[:, 0, 0] = 0.0
    orders = GraphPolicy(two_warehouses)(obs)
    assert float(orders[:, [1, 2]].detach().abs().max()) == 0
    assert float(orders[:, [4, 5]].detach().min()) > 0


def test_a_second_network_apart_changes_nothing(two_warehouses, look) -> None:
    far = InventoryNetwork(
        (*two_warehouses.stores, Store("far", 1.0, 9.0)),
        (*two_warehouses.edges, ("supplier", "hut", 1), ("hut", "far", 1)),
        (*two_warehouses.warehouses, Warehouse("hut", 0.1)),
    )
    wide = look(far)
    places, stores = torch.tensor([0, 1, 3, 4, 5]), torch.tensor([0, 1, 2])
    narrow = Observation(
        wide.inventory[:, places], wide.holding[:, places], wide.shortage[:, stores], wide.procurement[:, places],
        wide.lead_time[:, :6], wide.mean[:, stores], wide.std[:, stores], wide.past[:, stores], wide.calendar,
    )  # fmt: skip
    assert torch.allclose(GraphPolicy(far)(wide)[:, :6], GraphPolicy(two_warehouses)(narrow), atol=ROUNDING)


def test_messages_reach_the_top_in_as_many_rounds_as_the_chain_is_long(chain, look) -> None:
    assert GraphPolicy(chain).rounds == 3

    def moved(rounds: int) -> float:
        obs = look(chain)
        wide = {f: x.double() if x.is_floating_point() else x for f in obs.__slots__ for x in (getattr(obs, f),)}
        policy = GraphPolicy(chain, rounds=rounds).double()
        first, other = (policy(Observation(**wide | {"shortage": wide["shortage"] + more}))[:, 0] for more in (0, 5))
        return float((first - other).detach().abs().max())

    assert moved(2) == 0
    assert moved(3) > 0


def test_what_the_graph_is_shown(one_warehouse, look) -> None:
    net = one_warehouse(3)
    obs = look(net, past=4, calendar=1)
    orders = GraphPolicy(net, past=4, calendar=1, procurement=True)(obs)
    obs.past.add_(3)
    assert not torch.equal(GraphPolicy(net, past=4, calendar=1, procurement=True)(obs), orders)


def test_the_data_driven_policy_wants_what_it_was_made_for(look) -> None:
    net = InventoryNetwork.single_store(4, 1.0, 9.0, lost_sales=True)
    policy = DataDriven(net, past=16, calendar=1)
    assert policy(look(net, past=16, calendar=1)).shape == (4, 1)
    with pytest.raises(UserError, match="0 past periods and 0 calendar entries are shown"):
        policy(look(net))
    with pytest.raises(UserError, match="above 0"):
        VanillaMLP(net, 0.0)
