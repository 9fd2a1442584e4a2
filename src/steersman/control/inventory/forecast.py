"""Fitting the quantile forecaster of the newsvendor policies: pinball loss on windows of past demand.

Leaves out: ordering (`policy.inventory.newsvendor`). Source: arXiv 2306.11246, section 7.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steersman.core.errors import UserError
from steersman.policy.inventory.newsvendor import LEVELS, Forecaster, pinball
from steersman.task.inventory.scenarios import Scenarios
from steersman.train.optimise import Optimiser
from steersman.train.parameters import load_trainable_state, trainable_state


class ForecastLearner:
    """Learns quantiles of the demand of L + 1 periods, for every lead time of the forecaster.

    A row is a window: P periods of one store in one scenario, and the periods after it.

    Args:
        forecaster: what is trained.
        data: scenarios that show P past periods.
        optimiser: moves the forecaster.
        dev: held-out scenarios; None = none.

    Raises:
        UserError: scenarios shorter than the longest lead time + 1, or another P.
    """

    def __init__(
        self, forecaster: Forecaster, data: Scenarios, optimiser: Optimiser, *, dev: Scenarios | None = None
    ) -> None:
        self.forecaster, self.optimiser = forecaster, optimiser
        self.seen = _windows(forecaster, data)
        self.held_out = None if dev is None else _windows(forecaster, dev)

    @property
    def rows(self) -> int:
        """Number of windows."""
        return len(self.seen[0])

    def step(self, rows: Tensor, step: int) -> Mapping[str, Tensor | float]:
        """One update on the windows `rows`; ``tokens`` counts windows."""
        loss = self._loss(*(x[rows] for x in self.seen))
        loss.backward()
        return {"loss": loss.detach()} | self.optimiser.apply(step) | {"tokens": float(len(rows))}

    def evaluate(self) -> dict[str, float]:
        """Pinball loss on held-out windows, in units of their past mean + 1."""
        if self.held_out is None:
            return {}
        with torch.no_grad():
            return {"loss": float(self._loss(*self.held_out))}

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser moments."""
        return {"forecaster": trainable_state(self.forecaster), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore weights and moments."""
        load_trainable_state(self.forecaster, state["forecaster"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _loss(self, past: Tensor, calendar: Tensor, target: Tensor) -> Tensor:
        unit = past.abs().mean(1)[:, None, None] + 1
        levels = torch.tensor(LEVELS, dtype=past.dtype, device=past.device)
        return (pinball(self.forecaster(past, calendar), target, levels) / unit).mean()


def _windows(forecaster: Forecaster, data: Scenarios) -> tuple[Tensor, Tensor, Tensor]:
    """Past demand ``[rows, P]``, calendar ``[rows, C]``, demand of L + 1 periods ``[rows, leads]``."""
    p, longest = data.past.shape[2], max(forecaster.leads)
    if p != forecaster.past:
        raise UserError(f"{p} past periods are shown", where="forecaster", allowed=str(forecaster.past))
    starts = data.periods - longest
    if starts < 1:
        what = f"{data.periods} periods do not hold a lead time of {longest} and one more"
        raise UserError(what, where="forecaster", allowed=f"{longest + 1} or more")
    b, k = data.demand.shape[:2]
    whole = torch.cat([data.past.expand(b, -1, -1), data.demand], 2)
    past = whole.unfold(2, p, 1)[:, :, :starts].flatten(0, 2)
    ahead = [data.demand.unfold(2, lead + 1, 1)[:, :, :starts].sum(3) for lead in forecaster.leads]
    calendar = data.calendar[:, None, :starts].expand(b, k, -1, -1).flatten(0, 2)
    return past, calendar, torch.stack(ahead, 3).flatten(0, 2)
