"""A symmetry-aware policy: one network for all stores and one for all orders from outside, tied by a shared context.

Stores of equal state, costs and demand get equal orders, and the number of weights does not depend on how many there
are. Leaves out: messages between locations (`graph`). Source: earlier versions of arXiv 2306.11246; the summaries that
the context is made of are ours (means over stores and over warehouses), since the official code no longer has it.
"""

import torch
from torch import Tensor

from steersman.policy.inventory.maps import Outgoing
from steersman.policy.inventory.observe import SUPPLIER, Layout, Observation, OrderingPolicy
from steersman.policy.inventory.vanilla import bound
from steersman.policy.mlp import mlp

ROLE = 5
"""Numbers that stand for what a location is: holding, procurement, shortage, mean, std (0 where it is no store)."""


class SymmetryAware(OrderingPolicy):
    """context = C(mean of stores, mean of warehouses); z_e = F(target, source, lead time, context) for every edge.

    From inside: softmax or proportional map (y = softplus(z)); from outside: G(target, lead time, context), sigmoid B.

    Args:
        layout: the network.
        demand: mean demand of all stores together a period, > 0.
        hidden: size of the two hidden layers of each network, and of the context.
        proportional: take the proportional map instead of the softmax.
        seed: of the initial weights.
    """

    def __init__(
        self, layout: Layout, demand: float, hidden: int = 32, proportional: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        self.stores, self.proportional, self.bound = layout.n_stores, proportional, bound(demand)
        place = layout.slots + ROLE
        self.context = mlp(2 * place, (hidden, hidden), hidden, seed, "context")
        self.outside_net = mlp(place + 1 + hidden, (hidden, hidden), 1, seed, "outside")
        outside = layout.source == SUPPLIER
        if not bool(outside.all()):
            self.inside_net = mlp(2 * place + 1 + hidden, (hidden, hidden), 1, seed, "inside")
        self.register_buffer("inside", (~outside).nonzero()[:, 0], persistent=False)
        self.register_buffer("outside", outside.nonzero()[:, 0], persistent=False)
        self.register_buffer("source", layout.source, persistent=False)
        self.register_buffer("target", layout.target, persistent=False)
        self.outgoing = Outgoing(layout)

    def forward(self, obs: Observation) -> Tensor:
        """Orders ``[B, E]``."""
        places = torch.cat([obs.inventory, roles(obs)], 2)
        upstream, stores = places[:, : -self.stores], places[:, -self.stores :]
        above = upstream.mean(1) if upstream.shape[1] else torch.zeros_like(stores[:, 0])
        context = self.context(torch.cat([stores.mean(1), above], 1))
        lead = obs.shared(obs.lead_time).to(places.dtype)[:, :, None]
        tied = context[:, None].expand(-1, len(self.target), -1)
        out, at = self.outside, self.target[self.outside]
        asked = self.outside_net(torch.cat([places[:, at], lead[:, out], tied[:, out]], 2))[:, :, 0]
        orders = places.new_zeros(len(places), len(self.target))
        orders = orders.index_copy(1, out, torch.sigmoid(asked) * self.bound)
        if not len(self.inside):
            return orders
        e = self.inside
        pair = [places[:, self.target[e]], places[:, self.source[e]], lead[:, e], tied[:, e]]
        logits = torch.zeros_like(orders).index_copy(1, e, self.inside_net(torch.cat(pair, 2))[:, :, 0])
        if self.proportional:
            return orders + self.outgoing.proportional(torch.nn.functional.softplus(logits), obs.on_hand)
        return orders + self.outgoing.softmax(logits, obs.on_hand)


def roles(obs: Observation) -> Tensor:
    """What each location is ``[B, N, 5]``: holding, procurement, and of stores shortage, mean and std of demand."""
    n, k = obs.inventory.shape[1], obs.shortage.shape[1]
    both = [obs.shared(x) for x in (obs.holding, obs.procurement)]
    own = [torch.nn.functional.pad(obs.shared(x), (n - k, 0)) for x in (obs.shortage, obs.mean, obs.std)]
    return torch.stack([*both, *own], 2)
