"""Selection of rows: responses that were cut, and bad responses from which the policy has already moved away.

Leaves out: the soft punishment of long responses (`assemble.overlong`), whole groups (`select.groups`).
Sources: DAPO arXiv 2503.14476 (overlong filtering); DeepSeek-V3.2 arXiv 2512.02556 (off-policy sequence mask).
"""

from typing import Literal

from pydantic import Field

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import STOP_LENGTH, Rollouts
from steersman.objective.components import NotNegative
from steersman.objective.components_reward import counted, share
from steersman.objective.loss.importance import off_policy_mask
from steersman.objective.select.tokens import in_and_out, weigh


class OverlongFilter(Stage):
    """Rows cut at the length limit are not learnt from, since what they would have been worth is not known (DAPO).

    They keep their place in the statistics of their group, with the reward they have. `exclude_from_group` drops them
    from the step instead, so that stages after this one never see them; it must then stand before the advantages.
    """

    gives = ("token_weight",)
    kind: Literal["overlong_filter"] = "overlong_filter"
    exclude_from_group: bool = Field(False, description="drop cut rows, so that no group statistic counts them")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        """Multiply ``token_weight`` by 0 in cut rows, or drop them."""
        cut = rollouts.stop == STOP_LENGTH
        written = sorted({"advantage", "advantage_row"} & rollouts.streams.keys())
        if self.exclude_from_group and written:
            raise UserError(
                f"{written[0]} exists already, with cut rows in its statistics",
                where="OverlongFilter, exclude_from_group",
                cure="Put the filter before the advantage stage.",
            )
        left = rollouts.index(~cut) if self.exclude_from_group else rollouts
        out = weigh(left, counted(left) & ~(left.stop == STOP_LENGTH)[:, None])
        valid = rollouts.valid
        metrics = {"cut_rows": float(cut.sum()), "cut_share": share(cut & valid, valid)}
        return out, metrics | in_and_out(rollouts, out)


class OffPolicyMask(Stage):
    """Rows of negative advantage are dropped from the loss once the policy finds them much less likely than their
    sampler did (DeepSeek-V3.2).

    The gap is taken to the policy at rollout weights (``logp_old``), not to the live one: it is that of a stale or
    different sampler, and the same for every update that the rollouts serve. With advantages that differ within a row,
    only its tokens of negative advantage are dropped.
    """

    needs = ("logp_old", "advantage")
    gives = ("token_weight",)
    fields = ("logp_behaviour",)
    kind: Literal["off_policy_mask"] = "off_policy_mask"
    delta: NotNegative = Field(
        0.5, description="largest mean gap in nats a token; no value was published, 0.5 is TRL's example"
    )

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, dict[str, float]]:
        """Multiply ``token_weight`` by 1 where `loss.importance.off_policy_mask` keeps a token and by 0 elsewhere."""
        if rollouts.logp_behaviour is None:
            raise UserError("the rollouts carry no logp_behaviour", where="OffPolicyMask")
        old, advantage = rollouts.streams["logp_old"], rollouts.streams["advantage"]
        out = weigh(rollouts, off_policy_mask(old, rollouts.logp_behaviour, advantage, counted(rollouts), self.delta))
        return out, in_and_out(rollouts, out)
