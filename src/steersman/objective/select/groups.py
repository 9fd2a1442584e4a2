"""Selection of whole groups: prompts whose answers are all right or all wrong teach a group method nothing.

The criterion is the *accuracy*. A shaped reward will not do: with a length punishment or a bonus for the format, groups
in which every answer is right have scores that differ, and would stay.
Leaves out: drawing further prompts in place of what was dropped (`train.rl`), single rows (`select.rows`).
Source: dynamic sampling, DAPO arXiv 2503.14476.
"""

from typing import Literal

import torch
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import RunStopped, UserError
from steersman.core.types import Rollouts
from steersman.objective.advantage.segment import Groups, by_group
from steersman.objective.select.tokens import in_and_out


def _accuracy(correct: Tensor, group: Tensor, valid: Tensor | None) -> tuple[Groups, Tensor]:
    """Groups of 0 and 1, and the number of correct rows of each row's group."""
    if correct.ndim != 1 or correct.dtype != torch.bool:
        what = f"correct is {correct.dtype} of shape {tuple(correct.shape)}"
        raise UserError(what, where="accuracy_filter", allowed="one bool for each row")
    g = by_group(correct.double(), group, valid, "accuracy_filter")
    return g, g.total(g.score)


def accuracy_filter(correct: Tensor, group: Tensor, valid: Tensor | None = None) -> Bool[Tensor, " N"]:
    """Rows of the groups in which some answers are right and some are wrong.

    keep_i = 0 < c_g < G_g, c_g = correct rows and G_g = all rows of the group, both among its valid rows.

    Args:
        correct: bool ``[N]``; anything where not valid.
        group: prompt id of each row ``[N]``, integers in any order, groups of any size.
        valid: ``[N]``; False = not graded, counted neither right nor wrong; None = all valid.

    Returns:
        bool ``[N]``, equal within a group: the invalid rows of a kept group are kept with it.

    Raises:
        UserError: shapes or dtypes that disagree.

    Edge cases: groups of one valid row or none are dropped; no rows give no rows.

    Source: arXiv 2503.14476, equation 11; verl tests the spread of a configurable metric instead.
    """
    g, right = _accuracy(correct, group, valid)
    return (right > 0) & (right < g.size)


class DynamicSampling(Stage):
    """Keeps the groups whose accuracy is neither 0 nor 1 (DAPO); the loop draws further prompts in place of the others.

    `rounds` counts all draws of a step, the first included. If they do not suffice, `short` says whether the step
    trains on what there is or the run stops.
    """

    fields = ("correct",)
    kind: Literal["dynamic_sampling"] = "dynamic_sampling"
    rounds: int = Field(10, ge=1, description="most draws of prompts in a step, the first included")
    short: Literal["train", "stop"] = Field("train", description="if too few groups are kept: train on them, or stop")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        """Drop the rows of the other groups (`accuracy_filter`)."""
        if rollouts.correct is None:
            raise UserError(
                "the rollouts do not say which answers are correct",
                where="DynamicSampling",
                cure="Use a grader that gives `correct`; a reward model cannot.",
            )
        g, right = _accuracy(rollouts.correct, rollouts.group, rollouts.valid)
        keep = (right > 0) & (right < g.size)
        out = rollouts.index(keep)

        def number(rows: Tensor) -> float:
            return float(torch.unique(g.place[rows]).numel())

        metrics = {
            "groups_in": number(torch.ones_like(keep)),
            "groups_out": number(keep),
            "all_correct_groups": number((right == g.size) & (g.size > 0)),
            "all_wrong_groups": number((right == 0) & (g.size > 0)),
            "ungraded_groups": number(g.size == 0),
        }
        return out, metrics | in_and_out(rollouts, out)

    def most_rounds(self) -> int:
        """`rounds`."""
        return self.rounds

    def check_kept(self, kept: int, wanted: int) -> None:
        """Stop the run if `short` says so.

        Raises:
            RunStopped: fewer groups were kept than wanted.
        """
        if self.short == "stop" and kept < wanted:
            raise RunStopped(
                f"dynamic_sampling: after {self.rounds} rounds only {kept} of {wanted} groups had both right and wrong "
                'answers. Raise rounds, take prompts of another difficulty, or set short = "train".'
            )
