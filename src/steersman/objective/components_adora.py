"""ADORA as a stage: the advantages of whole groups multiplied by what their own responses say of the prompt.

It keeps nothing between steps: whether a prompt changed its class since it was last seen is not known to it.
Leaves out: the weights (`advantage.adora`), the advantages (`components_advantage`).
Source: arXiv 2602.10019.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.objective.advantage.adora import (
    Criterion,
    NoValidFailure,
    Preset,
    Strategy,
    adora_class,
    adora_weights,
    check_options,
    normalised,
)
from steersman.objective.components import NotNegative
from steersman.objective.components_reward import Metrics, counted, share
from steersman.objective.select.noise import group_noise


class ADORA(Stage):
    """Multiplies the advantages of whole groups by what their own responses say of the prompt (arXiv 2602.10019).

    It stands behind the stage that gives `stream` and before every stage that drops rows. ``advantage`` and
    ``advantage_row`` are both multiplied where both are there. Rows that are not valid, or have no action token, are in
    no criterion. Two controls: `normalize` takes away the change of the step size, `permuted` gives the same weights to
    random groups, among those with an advantage.
    """

    fields = ("correct",)
    kind: Literal["adora"] = "adora"
    stream: Literal["advantage_row", "advantage"] = Field(
        "advantage_row", description="the advantage there is when it runs: of responses, or of tokens only (gae)"
    )
    criterion: Criterion = Field("both", description="what makes a prompt advantageous")
    mode: Strategy = Field("amplify", description="advantageous prompts weigh more, or the others less")
    tau: float = Field(0.5, ge=0, le=1, description="largest share of right answers of a difficult prompt")
    weight: NotNegative | None = Field(None, description="absent = 2 under amplify, 0.1 under attenuate")
    preset: Preset | None = Field(None, description="a released program, exactly; absent = our rules")
    no_valid_failure: NoValidFailure = Field("advantage", description="where every wrong response was cut")
    normalize: Literal["mean1"] | None = Field(None, description="mean weight 1 over rows with an advantage")
    permuted: bool = Field(False, description="control: the same weights on random groups")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # of the instance: advantages come in two streams
        """The stream of this stage as it is configured."""
        return (self.stream,)

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        """The same stream, multiplied."""
        return (self.stream,)

    @model_validator(mode="after")
    def _agree(self) -> "ADORA":
        check_options(self.criterion, self.mode, self.tau, self.weight, self.preset, self.no_valid_failure)
        return self

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Multiply the advantages by `adora_weights`."""
        if rollouts.correct is None:
            raise UserError(
                "the rollouts do not say which answers are correct",
                where="ADORA",
                cure="Use a grader that gives `correct`; a reward model cannot.",
            )
        acts = counted(rollouts)
        there = acts.any(1)
        correct, length, group = rollouts.correct[there], acts.sum(1)[there], rollouts.group[there]
        given = rollouts.streams[self.stream].detach()
        signal = ((given != 0) if given.ndim == 1 else ((given != 0) & acts).any(1))[there]
        rules = self.criterion, self.tau, self.preset, self.no_valid_failure
        cut = (rollouts.stop == STOP_LENGTH)[there]
        found = adora_class(correct, length, group, cut, *rules)
        options = self.criterion, self.mode, self.tau, self.weight, self.preset, self.no_valid_failure
        w = adora_weights(correct, length, group, cut, *options)
        w = _permuted(w, group, signal, at) if self.permuted else w
        w = normalised(w.double(), signal if self.normalize else None).float()
        whole = torch.ones(len(rollouts), device=w.device).masked_scatter(there, w)
        names = [k for k in ("advantage_row", "advantage") if k in rollouts.streams]
        changed = {k: (x := rollouts.streams[k]) * (whole if x.ndim == 1 else whole[:, None]) for k in names}
        return rollouts.with_streams(**changed), _metrics(found, w, correct, length.double(), group, signal)


def _permuted(w: Tensor, group: Tensor, signal: Tensor, at: Moment) -> Tensor:
    """The weights of the groups with an advantage, dealt out among them at random."""
    ids, place = torch.unique(group[signal], return_inverse=True)
    of_group = w.new_zeros(ids.numel())
    of_group[place] = w[signal]
    dealt = of_group[group_noise(ids, at, "adora/permuted")[:, 0].argsort()]
    return w.masked_scatter(signal, dealt[place])


def _metrics(found: Tensor, w: Tensor, correct: Tensor, length: Tensor, group: Tensor, signal: Tensor) -> Metrics:
    """Shares of groups by class, the mean weight of rows with an advantage, and lengths by outcome."""

    def groups(rows: Tensor) -> float:
        return float(torch.unique(group[rows]).numel())

    n = max(groups(torch.ones_like(correct)), 1.0)
    return {
        "advantageous": groups(found == 1) / n,
        "disadvantageous": groups(found == -1) / n,
        "undecided": groups(found == 0) / n,
        "reweighted": groups((w != 1) & signal) / max(groups(signal), 1.0),
        "weight_mean": share(w.double()[signal], signal),
        "length_correct": share(length[correct], correct),
        "length_wrong": share(length[~correct], ~correct),
    }
