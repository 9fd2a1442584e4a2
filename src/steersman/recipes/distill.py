"""The recipe of `steersman train distill`: on-policy distillation, the same loop as rl without a reward.

The policy answers, the teacher says at every token what it would have done, and the policy is pulled towards that. It
is an rl recipe with the loss `distill` and no stages unless they are named; so stages that select tokens, a KL penalty
and a reward can be added.
Leaves out: the tables of rl (`recipes.rl`), teachers (`recipes.teachers`), doing it (`recipes.rl_job`).
"""

from typing import Any, Literal

from pydantic import Field

from steersman.recipes.rl import NamedStage, RLRecipe
from steersman.recipes.teachers import Distill


class DistillRecipe(RLRecipe):
    """On-policy distillation of a language model; without a preset the reverse KL of every token."""

    verb: Literal["distill"] = "distill"  # type: ignore[assignment]
    stages: tuple[NamedStage, ...] = Field((), description="what happens to a batch, in this order")
    loss: Distill

    @classmethod
    def _defaults(cls, kind: str, values: dict[str, Any]) -> None:
        """The loss needs no name; questions are graded only where a reward is named, since nothing learns from it."""
        loss = values.setdefault("loss", {})
        if isinstance(loss, dict):
            loss.setdefault("kind", "distill")
        if kind == "reasoning_gym":
            values.setdefault("reward", {})
