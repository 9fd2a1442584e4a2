"""A graph policy: locations and edges exchange messages, and every edge says what it would like to carry.

h = node0(x); e = edge0([h_s, h_t, L]); R times: in, out = sums of e over edges in and out / sqrt(degree),
h += node([h, in, out]), e += edge([e, h_s, h_t]); y = softplus(readout(e)); proportional map over each location's edges
and its self-loop, orders from outside as they are. Edges: the network's own, one from every store to the customers, and
a self-loop (= keep the stock) at every location that ships and is no cross-dock. The world outside is a node of zeros.
The number of weights does not depend on the number of stores.
Leaves out: attention, edges that appear and vanish. Source: arXiv 2306.11246 and its official code; differs from it in
that orders land in the column of their edge (the code packs them by rank, so that with two warehouses or more some
stores are charged to the wrong one).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from steersman.policy.inventory.maps import Outgoing
from steersman.policy.inventory.observe import SUPPLIER, Layout, Observation, OrderingPolicy
from steersman.policy.inventory.symmetric import roles
from steersman.policy.mlp import mlp

START = 5.0
"""Initial bias of the readout: edges begin by carrying about five units."""


class GraphPolicy(OrderingPolicy):
    """The policy of this module.

    Args:
        layout: the network.
        hidden: size of states, messages and hidden layers.
        rounds: R, >= 1; None = as many as the longest way inside the network has edges.
        procurement: show the costs of goods from outside to the locations.
        past: P, periods of past demand that observations show to the stores.
        calendar: C, size of the calendar, shown to all locations.
        seed: of the initial weights.
    """

    def __init__(
        self, layout: Layout, hidden: int = 32, rounds: int | None = None, procurement: bool = False, past: int = 0,
        calendar: int = 0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        inputs = layout.slots + 4 + procurement + past + calendar
        nets = {"node0": (inputs, hidden), "edge0": (2 * hidden + 1, hidden), "node": (3 * hidden, hidden),
                "edge": (3 * hidden, hidden)}  # fmt: skip
        self.nets = torch.nn.ModuleDict({k: mlp(a, (hidden, hidden), b, seed, k) for k, (a, b) in nets.items()})
        self.readout = mlp(hidden, (hidden, hidden), 1, seed, "readout", bias=START)
        self.rounds = _depth(layout) if rounds is None else rounds
        self.procurement, self.outgoing = procurement, Outgoing(layout)
        n = len(layout.names)
        loops = self.outgoing.places[~self.outgoing.ships_all]
        stores, world = torch.arange(n - layout.n_stores, n), torch.full((layout.n_stores,), n)
        # Edges to the customers come last: nothing reads them once the last messages are sent.
        source = torch.cat([torch.where(layout.source == SUPPLIER, n, layout.source), loops, stores])
        target = torch.cat([layout.target, loops, world])
        # A node without edges on one side divides nothing by 1.
        into, out = (torch.bincount(x, minlength=n + 1)[:n].clamp(min=1).sqrt()[:, None] for x in (target, source))
        known = {"source": source, "target": target, "into": into, "out": out, "loops": loops}
        for name, x in (known | {"outside": layout.source == SUPPLIER}).items():
            self.register_buffer(name, x, persistent=False)

    def forward(self, obs: Observation) -> Tensor:
        """Orders ``[B, E]``."""
        n, e = obs.inventory.shape[1], obs.lead_time.shape[1]
        h = pad(self.nets["node0"](self._seen(obs)), (0, 0, 0, 1))
        lead = pad(obs.shared(obs.lead_time).to(h.dtype), (0, len(self.source) - e))[:, :, None]
        edge = self.nets["edge0"](torch.cat([h[:, self.source], h[:, self.target], lead], 2))
        for i in range(self.rounds):
            nothing = torch.zeros_like(h)
            came = nothing.index_add(1, self.target, edge)[:, :n] / self.into
            went = nothing.index_add(1, self.source, edge)[:, :n] / self.out
            h = h + pad(self.nets["node"](torch.cat([h[:, :n], came, went], 2)), (0, 0, 0, 1))
            last = len(self.source) if i + 1 < self.rounds else e + len(self.loops)
            ends = [h[:, self.source[:last]], h[:, self.target[:last]]]
            edge = edge[:, :last] + self.nets["edge"](torch.cat([edge[:, :last], *ends], 2))
        y = softplus(self.readout(edge))[:, :, 0]
        wanted, loops = y[:, :e], y[:, e:]
        keep = y.new_zeros(len(y), n).index_copy(1, self.loops, loops)
        return torch.where(self.outside, wanted, self.outgoing.proportional(wanted, obs.on_hand, keep))

    def _seen(self, obs: Observation) -> Tensor:
        """What each location shows ``[B, N, inputs]``."""
        n, k = obs.inventory.shape[1], obs.shortage.shape[1]
        role = roles(obs)
        role = role if self.procurement else role[:, :, [0, 2, 3, 4]]
        past = pad(obs.past, (0, 0, n - k, 0))
        calendar = obs.shared(obs.calendar)[:, None].expand(-1, n, -1)
        return torch.cat([obs.inventory, role, past, calendar], 2)


def _depth(layout: Layout) -> int:
    """Edges of the longest way inside the network, at least 1."""
    deep = [0] * len(layout.names)
    for _ in deep:
        for s, t in zip(layout.source.tolist(), layout.target.tolist(), strict=True):
            if s != SUPPLIER:
                deep[t] = max(deep[t], deep[s] + 1)
    return max(1, *deep)
