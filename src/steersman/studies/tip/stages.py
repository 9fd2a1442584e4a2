"""A stage of this study only: it reads the exact truth of the planted-quadrant task.

Leaves out: the truth itself (`task.planted`).
"""

from typing import Literal

import torch
from pydantic import Field

from steersman.core.component import START, Moment, Stage
from steersman.core.types import Rollouts
from steersman.objective.components_reward import Metrics, counted
from steersman.objective.select.tokens import in_loss
from steersman.studies.tip.names import KINDS
from steersman.task.planted import Kind, Planted, kinds


class Watched(Stage):
    """Reports, of each kind of token: its share of what is kept, how much of it is kept, its divergence and entropy;
    and the divergence of all tokens and of those not kept. Changes nothing."""

    needs = ("entropy", "divergence")
    kind: Literal["watched"] = "watched"
    base: int = Field(5, description="the task's")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Count."""
        kept, all_ = in_loss(rollouts), counted(rollouts)
        if not len(rollouts) or not bool(kept.any()):
            return rollouts, {}
        found, h, d = kinds(Planted(base=self.base), rollouts), *(rollouts.streams[n] for n in self.needs)
        told = {"tokens": float(kept.sum()), "divergence_all": float(d[all_].double().mean())}
        if bool((all_ & ~kept).any()):
            told["divergence_left"] = float(d[all_ & ~kept].double().mean())
        for name in KINDS:
            here = (found == Kind[name.upper()]) & all_
            if bool(here.any()):
                told |= {f"{name}_kept": float(kept[here].double().mean()), f"{name}_share": _share(here, all_)}
                told |= {f"{name}_made": _share(here & kept, kept)}
                told |= {f"{name}_entropy": float(h[here].double().mean())}
                told |= {f"{name}_divergence": float(d[here].double().mean())}
        return rollouts, told


def _share(x: torch.Tensor, of: torch.Tensor) -> float:
    return int(x.sum()) / max(int(of.sum()), 1)
