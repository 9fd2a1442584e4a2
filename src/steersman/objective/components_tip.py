"""TIP as a stage: of the tokens in the loss those from which a teacher can teach most, by entropy and divergence.

It stands before a distillation loss, whose forward with gradients then runs on the kept tokens only, and serves any
other loss of tokens too. Leaves out: the formulas (`select.tokens`), the passes that give the streams and the loss
(`train`).
Source: arXiv 2604.14084.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_reward import Metrics, share
from steersman.objective.select import ranks
from steersman.objective.select.noise import token_noise
from steersman.objective.select.tokens import Rule, SelectMode, in_and_out, in_loss, scores, select, weigh

Part = Annotated[float, Field(gt=0, le=1)]
NEEDS: dict[str, tuple[str, ...]] = {
    "soft_or": ("entropy", "divergence"),
    "entropy": ("entropy",),
    "divergence": ("divergence",),
    "q3": ("entropy", "divergence_forward"),
    "random": (),
}
"""Streams that each rule reads."""
MEANS = {
    "entropy": ("entropy_in", "entropy_kept", "entropy_left"),
    "divergence": ("divergence_in", "divergence_kept", "divergence_left"),
}
"""Stream -> metrics: its mean over all tokens, those kept, and the others."""


class SelectTokens(Stage):
    """Keeps a share of the tokens, those worth most by TIP's scores (arXiv 2604.14084) or by a control.

    Entropy and divergence are those at rollout weights; every update that the rollouts serve has the same tokens. What
    is kept does not depend on micro-batches, padding or the order of rows: equal scores, and scores that differ by
    rounding (`ranks.coarse`), are ordered by noise that follows the tokens.
    """

    gives = ("token_weight",)
    kind: Literal["select_tokens"] = "select_tokens"
    rule: Rule = Field("soft_or", description="what tokens are compared by; random = control")
    keep: Part = Field(0.5, description="share of the tokens that is kept; 1 = all, whatever the rule")
    mode: SelectMode = Field("top", description="largest scores, smallest (control), or draws in proportion to them")
    scope: ranks.Scope = Field("batch", description="which tokens compete: all of a step, or those of a response")
    entropy_clip_quantile: Part | None = Field(0.98, description="entropies are cut here; absent = not at all")
    divergence_clip_quantile: Part | None = Field(None, description="the same for divergences")
    anchor: float = Field(0.0, ge=0, lt=1, description="share of the other tokens that is kept too, at random")

    @field_validator("scope", mode="before")
    @classmethod
    def _scope(cls, scope: Any) -> Any:
        if scope == "microbatch":
            try:
                ranks.check_scope(scope)
            except UserError as error:
                raise ValueError(str(error)) from error
        return scope

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # of the instance: each rule reads its own
        """Streams of this stage as it is configured."""
        return NEEDS[self.rule] if self.keep < 1 else ()

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Multiply ``token_weight`` by 1 at the kept tokens and by 0 elsewhere."""
        mask = in_loss(rollouts)
        if self.keep == 1:
            kept, told = mask, Metrics()
        else:
            kept, told = self._choose(rollouts, mask, at)
        out = weigh(rollouts, kept)
        for stream, names in MEANS.items():
            if (x := rollouts.streams.get(stream)) is not None:
                told |= {n: share(x[of], of) for n, of in zip(names, (mask, kept, mask & ~kept), strict=True)}
        return out, told | in_and_out(rollouts, out)

    def _choose(self, rollouts: Rollouts, mask: Tensor, at: Moment) -> tuple[Tensor, Metrics]:
        """The kept tokens, the sum of their scores, and the number of axes that tell nothing."""
        streams = {name: rollouts.streams[name].detach() for name in self.needs}
        # A rule that reads no entropy is still given a tensor, of which only the shape matters.
        entropy = streams.get("entropy", mask.float())
        score = scores(
            entropy,
            streams.get("divergence"),
            streams.get("divergence_forward"),
            self.rule,
            self.entropy_clip_quantile,
            mask=mask,
            scope=self.scope,
            divergence_clip_quantile=self.divergence_clip_quantile,
        )
        ordered = score if self.mode == "sample" else ranks.coarse(score, mask, self.scope)
        kept = select(ordered, mask, self.keep, self.mode, self.scope, token_noise(rollouts, at, "tip/tokens"))
        told = {"score_kept": float(score[kept].double().sum()), "constant_axes": float(_constant(streams, mask))}
        rest = mask & ~kept
        if self.anchor and bool(rest.any()):
            luck = token_noise(rollouts, at, "tip/anchor")
            kept = kept | select(luck, rest, self.anchor, "bottom", self.scope, luck)
        return kept, told


def _constant(streams: dict[str, Tensor], mask: Tensor) -> int:
    """Streams in which all tokens of the mask are equal, of which a score can make nothing."""
    return sum(bool(x[mask].numel()) and bool((x[mask] == x[mask][0]).all()) for x in streams.values())
