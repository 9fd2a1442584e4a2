"""Generalised newsvendor policies: forecast quantiles of the demand to be covered, order up to one of them.

Leaves out: fitting the forecaster (`control.inventory.forecast`). Source: the baselines of arXiv 2306.11246, section 7;
differs in that forecasts are made in units of the mean of the past that is shown, and that quantiles which cross are
sorted.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from steersman.core.errors import UserError
from steersman.policy.inventory.observe import Layout, Observation, OrderingPolicy, only_suppliers
from steersman.policy.mlp import mlp

LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Quantiles that are forecast."""
Kind = Literal["quantile_nv", "fixed_quantile", "transformed_nv", "returns_nv"]


class Forecaster(nn.Module):
    """Quantiles .05 to .95 of the demand of the next L + 1 periods from past demand and the calendar.

    Args:
        leads: lead times L that it knows.
        past: P, periods of past demand that are shown.
        calendar: C, size of the calendar.
        hidden: sizes of hidden layers.
        seed: of the initial weights.
    """

    def __init__(
        self, leads: Sequence[int] = (4, 5, 6), past: int = 16, calendar: int = 1, hidden: Sequence[int] = (128, 128),
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if past < 1 or not leads or min(leads) < 1:
            raise UserError(
                f"leads {list(leads)}, past {past}", where="forecaster", allowed="1 or more, one lead at least"
            )
        self.leads, self.past = tuple(leads), past
        self.net = mlp(past + calendar, hidden, len(self.leads) * len(LEVELS), seed, "forecast")

    def forward(self, past: Tensor, calendar: Tensor) -> Tensor:
        """Quantiles ``[..., leads, 19]`` from past demand ``[..., P]`` and calendar ``[..., C]``."""
        unit = past.abs().mean(-1, keepdim=True) + 1
        out = self.net(torch.cat([past / unit, calendar], -1)).unflatten(-1, (len(self.leads), len(LEVELS)))
        return out * unit[..., None]


def pinball(predicted: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Quantile loss: u (tau - 1[u < 0]), u = target - predicted; its mean is least at the true tau-quantile.

    Args:
        predicted: ``[..., Q]``.
        target: ``[...]``.
        levels: tau ``[Q]`` in (0, 1).

    Returns:
        ``[..., Q]``, >= 0.
    """
    u = target[..., None] - predicted
    return torch.maximum(levels * u, (levels - 1) * u)


def quantile_at(quantiles: Tensor, level: Tensor) -> Tensor:
    """The quantile at any level in [0, 1], linear between those forecast.

    The 0- and the 1-quantile go on from the last two: 2 x_1 - x_2.

    Args:
        quantiles: ``[..., 19]`` at `LEVELS`; sorted here.
        level: ``[...]``.
    """
    x = quantiles.sort(-1).values
    whole = torch.cat([2 * x[..., :1] - x[..., 1:2], x, 2 * x[..., -1:] - x[..., -2:-1]], -1)
    place = level.clamp(0, 1) * (len(LEVELS) + 1)
    low = place.detach().floor().long().clamp(max=len(LEVELS))
    a, b = whole.gather(-1, low[..., None])[..., 0], whole.gather(-1, low[..., None] + 1)[..., 0]
    return a + (b - a) * (place - low)


class QuantileNewsvendor(OrderingPolicy):
    """Order up to the forecast quantile at level q of the demand of L + 1 periods: (base - position)^+.

    quantile_nv: q = p / (p + h). fixed_quantile: q is trained. transformed_nv: q = sigmoid(MLP(p / (p + h))), trained.
    returns_nv: as quantile_nv, but goods can be returned (negative orders; not admissible, a bound).

    Args:
        layout: stores that order from outside.
        forecaster: fitted; its weights are frozen here.
        kind: which of the four.
        seed: of the initial weights of transformed_nv.
    """

    def __init__(self, layout: Layout, forecaster: Forecaster, kind: Kind = "quantile_nv", seed: int = 0) -> None:
        super().__init__()
        kinds = ("quantile_nv", "fixed_quantile", "transformed_nv", "returns_nv")
        if kind not in kinds:
            raise UserError(f"{kind!r} is not known", where="newsvendor", allowed=", ".join(kinds))
        only_suppliers(layout, "newsvendor")
        self.forecaster = forecaster.requires_grad_(False)
        self.kind = kind
        self.theta = nn.Parameter(torch.zeros(())) if kind == "fixed_quantile" else None
        self.net = mlp(1, (16,), 1, seed, "transformed") if kind == "transformed_nv" else None
        at = layout.target - (len(layout.names) - layout.n_stores)
        self.register_buffer("at", at, persistent=False)
        self.register_buffer("leads", torch.tensor(forecaster.leads), persistent=False)

    def level(self, obs: Observation) -> Tensor:
        """q ``[B or 1, E]``."""
        shortage, holding = obs.shortage[:, self.at], obs.holding[:, -obs.shortage.shape[1] :][:, self.at]
        ratio = shortage / (shortage + holding)
        if self.theta is not None:
            return torch.sigmoid(self.theta).expand_as(ratio)
        return ratio if self.net is None else torch.sigmoid(self.net(ratio[..., None])[..., 0])

    def forward(self, obs: Observation) -> Tensor:
        """Orders ``[B, E]``.

        Raises:
            UserError: a lead time that the forecaster does not know, or another amount of past demand.
        """
        if obs.past.shape[2] != self.forecaster.past:
            what = f"{obs.past.shape[2]} past periods are shown"
            raise UserError(what, where="newsvendor", allowed=str(self.forecaster.past))
        match = obs.lead_time[:, :, None] == self.leads
        if not bool(match.any(2).all()):
            odd = int(obs.lead_time[~match.any(2)][0])
            raise UserError(f"no forecast for lead time {odd}", where="newsvendor", allowed=str(self.forecaster.leads))
        past = obs.past[:, self.at]
        calendar = obs.shared(obs.calendar)[:, None].expand(-1, past.shape[1], -1)
        quantiles = (self.forecaster(past, calendar) * obs.shared(match)[..., None]).sum(2)
        base = quantile_at(quantiles, obs.shared(self.level(obs)))
        gap = base - obs.position[:, -obs.shortage.shape[1] :][:, self.at]
        return gap if self.kind == "returns_nv" else torch.relu(gap)
