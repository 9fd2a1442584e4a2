"""The one union of all stages that a configuration can name by ``kind``, in any order, as often as it likes.

Leaves out: the stages themselves; a user's own stage, which recipes admit beside these; the order (`core.component`).
"""

from typing import Annotated

from pydantic import Field

from steersman.objective.advantage.poise import InternalValue
from steersman.objective.components_adora import ADORA
from steersman.objective.components_advantage import AdvantageComponent, UniformCredit
from steersman.objective.components_credit import ContrastiveCredit
from steersman.objective.components_d3s import PODS, D3SRows, D3STokens
from steersman.objective.components_filtration import PFPPO
from steersman.objective.components_policy import ImportanceCorrection
from steersman.objective.components_reward import RewardStage
from steersman.objective.components_tip import SelectTokens
from steersman.objective.components_weight import RewardWeight
from steersman.objective.select.groups import DynamicSampling
from steersman.objective.select.rows import OffPolicyMask, OverlongFilter
from steersman.objective.select.tokens import TopEntropy

SelectStage = Annotated[
    DynamicSampling | OverlongFilter | OffPolicyMask | TopEntropy | SelectTokens | PODS | PFPPO | D3SRows | D3STokens,
    Field(discriminator="kind"),
]
"""Every stage that selects groups, rows or tokens."""

AnyStage = Annotated[
    RewardStage
    | SelectStage
    | AdvantageComponent
    | InternalValue
    | UniformCredit
    | ContrastiveCredit
    | ADORA
    | ImportanceCorrection
    | RewardWeight,
    Field(discriminator="kind"),
]
"""Every stage of ours."""
