"""PF-PPO as a stage: filters the responses of each prompt by their rewards, drops and repeats rows.

Leaves out: the weights and the draws (`select.filtration`).
Source: arXiv 2409.06957.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import Rollouts
from steersman.objective.advantage.gae import whiten
from steersman.objective.assemble import shape_score
from steersman.objective.components import Positive
from steersman.objective.components_reward import Finite, Metrics, counted
from steersman.objective.select import filtration
from steersman.objective.select.noise import group_noise, row_noise
from steersman.objective.select.tokens import in_and_out, in_loss

BEST_RANDOM_DRAWS = 2


class PFPPO(Stage):
    """Learns only from responses drawn by the rank or the size of their reward (arXiv 2409.06957).

    It ranks the reward that the grader gave, whatever reward stages made of it, among the rows with a token in the
    loss. The other rows are dropped, so a critic too is fitted to what is left. Advantages stay as they are unless
    `whiten` is "after"; the released code whitens them over all responses, before the filter.
    A batch of which nothing is left is skipped and counted, and after `most_empty` of them in a row the run stops.
    """

    kind: Literal["pf_ppo"] = "pf_ppo"
    strategy: filtration.FilterName = Field("br", description="which responses of a prompt are learnt from")
    upper: Finite | None = Field(None, description="rewards above it are kept: top, top-random, top-bottom")
    lower: Finite | None = Field(None, description="rewards below it are kept: top-bottom")
    draws: int | None = Field(
        None, ge=1, description="rows of each group, at most all; absent = 2 under br, else as many as have a weight"
    )
    draw: Literal["deterministic", "sample"] = Field(
        "deterministic", description="as often as expected, up to the rest; or independently, with repeats"
    )
    zero_variance: filtration.ZeroVariance = Field("drop", description="what bon, br, bw do with equal rewards")
    whiten: Literal["before", "after"] = Field("before", description="after = advantages whitened over what is left")
    importance: Literal["none", "rank"] = Field("none", description="rank = rows weighed by (1 / G) / w")
    mean: Finite | None = Field(None, description="of rewards, subtracted first; for pow-k and thresholds")
    std: Positive | None = Field(None, description="of rewards, divided by")
    clip: Positive | None = Field(None, description="bound of rewards after that; 1 for pow-k")
    most_empty: int = Field(10, ge=1, description="batches in a row of which nothing is left, before the run stops")
    _empty: int = PrivateAttr(0)

    @model_validator(mode="after")
    def _agree(self) -> "PFPPO":
        wanted = {"top": ("upper",), "top-random": ("upper",), "top-bottom": ("upper", "lower")}.get(self.strategy, ())
        for name in ("upper", "lower"):
            value = getattr(self, name)
            if (value is None) == (name in wanted):
                raise ValueError(self._thresholds(name, wanted))
        if self.upper is not None and self.lower is not None and self.upper < self.lower:
            raise ValueError(
                f"upper is {self.upper} and lower is {self.lower}: rewards above the one or below the other are all of "
                "them; set upper >= lower"
            )
        filtration.check_filter(self.strategy, self._threshold(), self.zero_variance)
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean is {self.mean} and std is {self.std}; set both or neither")
        if self.importance == "rank" and self.strategy not in filtration.FULL_SUPPORT:
            raise ValueError(
                f'importance "rank" cannot correct strategy {self.strategy}, which never draws some responses; '
                f"allowed with {', '.join(filtration.FULL_SUPPORT)}"
            )
        return self

    def _thresholds(self, name: str, wanted: tuple[str, ...]) -> str:
        """What is wrong with a threshold that is missing or unused, and what to give."""
        value = getattr(self, name)
        if value is not None:
            takes = " and ".join(wanted) or "neither upper nor lower"
            return f"{name} is {value}, and strategy {self.strategy} takes {takes}; leave {name} out"
        side = "above" if name == "upper" else "below"
        return (
            f"strategy {self.strategy} needs {name}: give the reward {side} which responses are kept, {name} = NUMBER"
        )

    def _threshold(self) -> filtration.Threshold:
        if self.upper is None or self.lower is None:
            return self.upper
        return self.upper, self.lower

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # of the instance: whitening reads the advantage
        """Streams of this stage as it is configured."""
        return ("advantage",) if self.whiten == "after" else ()

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        """The whitened advantage."""
        return self.needs

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Drop and repeat rows (`select.filtration`)."""
        if rollouts.reward is None:
            raise UserError("the rollouts have no reward", where="PFPPO", cure="Grade them before this stage.")
        there = in_loss(rollouts).any(1).nonzero()[:, 0]
        part = rollouts.index(there)
        assert part.reward is not None
        reward = shape_score(part.reward.detach(), mean=self.mean, std=self.std, clip=self.clip)
        ties = row_noise(part, at, "pf_ppo/ties")
        chance = filtration.rank_weights(reward, part.group, self.strategy, self._threshold(), ties, self.zero_variance)
        rows, size = self._draw(part, chance, at)
        kept = there[rows]
        out = rollouts.index(kept)
        if self.importance == "rank":
            factor = 1 / (size[rows] * chance[rows])
            out = replace(out, weight=out.weight * factor.to(out.weight.dtype))
        if self.whiten == "after" and len(out):
            value = whiten(out.streams["advantage"], counted(out))
            out = out.with_streams(advantage=value)
        self._count(len(there), len(kept))
        return out, _metrics(part, reward.double(), rows) | in_and_out(rollouts, out)

    def _draw(self, part: Rollouts, chance: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
        """Positions of the rows drawn, and the size of each row's group ``[N]``."""
        ids, place = torch.unique(part.group, return_inverse=True)
        size = torch.bincount(place, minlength=ids.numel())
        weighed = torch.zeros_like(size).index_add(0, place, (chance > 0).long())
        asked = BEST_RANDOM_DRAWS if self.draws is None and self.strategy == "br" else self.draws
        draws = weighed if asked is None else torch.minimum(size, torch.full_like(size, asked))
        order = row_noise(part, at, "pf_ppo/order")
        most = int(size.max()) if len(ids) else 1
        points = group_noise(ids, at, "pf_ppo/draw", most)[place, filtration.within(place, order)[1]]
        rows = filtration.draw_rows(chance, part.group, draws[place], points, order, self.draw == "sample")
        return rows, size[place]

    def _count(self, came: int, left: int) -> None:
        if came == 0:
            return
        self._empty = 0 if left else self._empty + 1
        if self._empty >= self.most_empty:
            raise RunStopped(
                f"pf_ppo: {self._empty} batches in a row, and nothing was left of any. Move the thresholds, raise "
                'most_empty, or set zero_variance = "keep_all" where the rewards of a prompt are equal.'
            )

    def state_dict(self) -> dict[str, Any]:
        """Batches in a row of which nothing was left."""
        return {"empty": self._empty}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._empty = int(state["empty"])


def _metrics(part: Rollouts, reward: Tensor, rows: Tensor) -> Metrics:
    """Groups dropped, distinct rows, and rewards before and after."""

    def groups(which: Tensor) -> float:
        return float(torch.unique(which).numel())

    drawn = reward[rows]
    return {
        "groups_in": groups(part.group),
        "groups_out": groups(part.group[rows]),
        "distinct_rows": groups(rows),
        "reward_in": float(reward.mean()) if len(reward) else 0.0,
        "reward_out": float(drawn.mean()) if len(drawn) else 0.0,
        "variance_in": float(reward.var(correction=0)) if len(reward) else 0.0,
        "variance_out": float(drawn.var(correction=0)) if len(drawn) else 0.0,
    }
