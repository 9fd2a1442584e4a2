"""Two stages of the PF-PPO study: an oracle's filter, and a reward that is equally reliable everywhere.

Both read what is correct, which a method does not know. Leaves out: PF-PPO itself (`objective.components_filtration`).
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from steersman.core.component import START, Moment, Stage
from steersman.core.types import Rollouts
from steersman.objective.components_reward import Metrics
from steersman.objective.select.filtration import within
from steersman.objective.select.noise import row_noise
from steersman.objective.select.tokens import in_and_out


class OracleFilter(Stage):
    """Keeps the responses of each prompt whose reward disagrees least with what is correct.

    Disagreement of row i: |z(R_i) - z(s_i)|, z = less the batch's mean, by its deviation; s = 1 where correct. Ties are
    broken by noise.
    """

    fields = ("correct",)
    kind: Literal["oracle_filter"] = "oracle_filter"
    draws: int = Field(2, ge=1, description="responses kept of each prompt")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Drop rows."""
        assert rollouts.reward is not None
        assert rollouts.correct is not None
        valid = rollouts.valid
        r, s = rollouts.reward.double(), rollouts.correct.double()
        wrong = (_z(r, valid) - _z(s, valid)).abs() + 1e-9 * row_noise(rollouts, at, "oracle_filter")
        wrong = torch.where(valid, wrong, torch.inf)
        place = torch.unique(rollouts.group, return_inverse=True)[1]
        out = rollouts.index((within(place, wrong)[1] < self.draws) & valid)
        return out, in_and_out(rollouts, out)


class NoisyVerdict(Stage):
    """Makes the reward 1 or 0 for right or wrong plus Gaussian noise of one variance: reliable alike everywhere."""

    fields = ("correct",)
    kind: Literal["noisy_verdict"] = "noisy_verdict"
    std: float = Field(0.5, gt=0, description="of the noise")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Write the reward."""
        assert rollouts.reward is not None
        assert rollouts.correct is not None
        noise = torch.special.ndtri(row_noise(rollouts, at, "noisy_verdict"))
        reward = rollouts.correct.double() + self.std * noise
        reward = torch.where(rollouts.valid, reward, torch.nan).to(rollouts.reward.dtype)
        return replace(rollouts, reward=reward), {"mean": float(reward[rollouts.valid].mean())}


def _z(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    kept = x[valid]
    return (x - kept.mean()) / kept.std(correction=0).clamp(min=1e-12)
