"""From what a network of neurons would like to ship to what can be shipped: feasibility maps of whole networks at once.

Every location with customers has a row in a padded table of its outgoing edges, so that no loop runs over edges.
Leaves out: edges from outside, which are not bounded by any stock. Source: arXiv 2306.11246, section 4.
"""

import torch
from torch import Tensor, nn

from steersman.policy.inventory.observe import SUPPLIER, Layout

KEEP_LOGIT = 1.0
"""Logit of keeping the stock in the softmax map."""
TINY = 1e-10
"""Keeps a location whose customers want nothing from dividing by zero."""


class Outgoing(nn.Module):
    """The edges that leave each supplying location, as a padded table.

    Args:
        layout: the network.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        source = layout.source
        places = torch.unique(source[source != SUPPLIER])
        rows = [(source == p).nonzero()[:, 0] for p in places]
        width = max((len(r) for r in rows), default=0)
        table = torch.stack([torch.cat([r, r.new_zeros(width - len(r))]) for r in rows]) if rows else places[:, None]
        used = torch.stack([torch.arange(width) < len(r) for r in rows]) if rows else table.bool()
        self.n_edges = len(source)
        for name, x in (("places", places), ("table", table), ("used", used)):
            self.register_buffer(name, x, persistent=False)
        self.register_buffer("ships_all", layout.ships_all[places], persistent=False)
        self.register_buffer("inside", (source != SUPPLIER).nonzero()[:, 0], persistent=False)

    def proportional(self, wanted: Tensor, on_hand: Tensor, keep: Tensor | None = None) -> Tensor:
        """q_e = y_e min(1, W / sum_j y_j) over the edges of one source; cross-docks ship all, without the min.

        Args:
            wanted: y ``[B, E]``, >= 0; columns of edges from outside are not read.
            on_hand: W ``[B, N]``; negative stock counts as 0.
            keep: ``[B, N]``, >= 0, what a location would like to keep, one more entry of its sum; None = nothing.

        Returns:
            ``[B, E]``, 0 on edges from outside; the sum over a source never exceeds its stock.

        Edge cases: a cross-dock whose customers all want nothing ships nothing.
        """
        y = wanted[:, self.table] * self.used
        stock, total = torch.relu(on_hand[:, self.places]), y.sum(2) + TINY
        bounded = torch.clamp(stock / (total if keep is None else total + keep[:, self.places]), max=1.0)
        return self._spread(y * torch.where(self.ships_all, stock / total, bounded)[:, :, None])

    def softmax(self, logits: Tensor, on_hand: Tensor) -> Tensor:
        """q_e = W softmax([z, 1])_e over the edges of one source, the last entry being kept; none at cross-docks.

        Args:
            logits: z ``[B, E]``; columns of edges from outside are not read.
            on_hand: ``[B, N]``; negative stock counts as 0.

        Returns:
            ``[B, E]``, 0 on edges from outside.
        """
        z = logits[:, self.table].masked_fill(~self.used, -torch.inf)
        keep = z.new_full((1, len(self.places), 1), KEEP_LOGIT).masked_fill(self.ships_all[None, :, None], -torch.inf)
        share = torch.cat([z, keep.expand(len(z), -1, -1)], 2).softmax(2)[:, :, :-1]
        return self._spread(share * torch.relu(on_hand[:, self.places])[:, :, None])

    def _spread(self, shipped: Tensor) -> Tensor:
        """The padded table's entries in the columns of their edges."""
        out = shipped.new_zeros(len(shipped), self.n_edges)
        return out.index_copy(1, self.table[self.used], shipped[:, self.used])
