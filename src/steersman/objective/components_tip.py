"""TIP as a stage: of the tokens in the loss those from which a teacher can teach most, by entropy and divergence.

It stands before a distillation loss, whose forward with gradients then runs on the kept tokens only, and serves any
other loss of tokens too. Leaves out: the formulas (`select.tokens`), the passes that give the streams and the loss
(`train`).
Source: arXiv 2604.14084.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from steersman.core.component import START, Form, Moment, Pass, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_reward import Metrics, share
from steersman.objective.select import ranks
from steersman.objective.select.noise import token_noise
from steersman.objective.select.tokens import (
    LEAST_WEIGHT,
    MOST_POWER,
    Rule,
    SelectMode,
    in_and_out,
    in_loss,
    sampling_weights,
    scores,
    select,
    unbiased,
    weigh,
)

Part = Annotated[float, Field(gt=0, le=1)]
Power = Annotated[float, Field(ge=0, le=MOST_POWER)]
JSD = "divergence_jsd"
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

    Under rule "entropy" and mode "sample" tokens are drawn in proportion to entropy^alpha J^gamma (`sampling_weights`);
    J, the Jensen-Shannon divergence from the teacher, is a pass of this stage's own.
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
    alpha: Power = Field(1.0, description="power of the entropy where tokens are drawn by it")
    gamma: Power = Field(0.0, description="power of the Jensen-Shannon divergence there; 0 = not read")
    jsd_top_k: int | None = Field(None, ge=1, description="that divergence of the teacher's k likeliest tokens alone")
    unbiased: bool = Field(False, description="drawn tokens weighed so that the mean estimates that of all tokens")

    @field_validator("scope", mode="before")
    @classmethod
    def _scope(cls, scope: Any) -> Any:
        if scope == "microbatch":
            try:
                ranks.check_scope(scope)
            except UserError as error:
                raise ValueError(str(error)) from error
        return scope

    @model_validator(mode="after")
    def _draws(self) -> "SelectTokens":
        if (self.alpha, self.gamma) != (1.0, 0.0) and (self.rule, self.mode) != ("entropy", "sample"):
            what = "alpha and gamma are powers of what tokens are drawn by"
            raise ValueError(f'{what}; set rule = "entropy" and mode = "sample", or leave them out')
        if self.jsd_top_k is not None and not self.gamma:
            raise ValueError("jsd_top_k is of a divergence that gamma = 0 does not read")
        if self.unbiased and self.mode != "sample":
            raise ValueError('unbiased weighs draws by their probability; set mode = "sample", or leave it out')
        if self.unbiased and self.anchor:
            raise ValueError("unbiased already stands for the tokens that are not drawn; leave anchor out")
        return self

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # of the instance: each rule reads its own
        """Streams of this stage as it is configured."""
        return NEEDS[self.rule] if self.keep < 1 else ()

    def passes(self) -> tuple[Pass, ...]:
        """How far the teacher is in the bounded measure, where draws depend on it."""
        if self.keep == 1 or not self.gamma:
            return ()
        form = Form("jsd", top_k=self.jsd_top_k, of="policy" if self.jsd_top_k is None else "teacher", tail=False)
        return (Pass(JSD, by="teacher", quantity="divergence", form=form),)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Multiply ``token_weight`` by 1 at the kept tokens and by 0 elsewhere."""
        mask = in_loss(rollouts)
        if self.keep == 1:
            factor, told = mask.float(), Metrics()
        else:
            factor, told = self._choose(rollouts, mask, at)
        kept, out = factor != 0, weigh(rollouts, factor)
        for stream, names in MEANS.items():
            if (x := rollouts.streams.get(stream)) is not None:
                told |= {n: share(x[of], of) for n, of in zip(names, (mask, kept, mask & ~kept), strict=True)}
        return out, told | in_and_out(rollouts, out)

    def _choose(self, rollouts: Rollouts, mask: Tensor, at: Moment) -> tuple[Tensor, Metrics]:
        """A factor for each token, 0 where it is not kept; the kept scores' sum; how many axes tell nothing."""
        score, axes = self._scores(rollouts, mask)
        # Noise of its own for each rule and mode: of the same, random tokens would be those that a draw leaves out.
        luck = token_noise(rollouts, at, f"tip/{self.rule}/{self.mode}")
        least = 0.0 if score.dtype == torch.float64 else LEAST_WEIGHT
        if self.unbiased:
            factor = unbiased(score, mask, self.keep, self.scope, luck, least).float()
        else:
            ordered = score if self.mode == "sample" else ranks.coarse(score, mask, self.scope)
            factor = select(ordered, mask, self.keep, self.mode, self.scope, luck, least).float()
        kept = factor != 0
        told = {"score_kept": float(score[kept].double().sum()), "constant_axes": float(_constant(axes, mask))}
        rest = mask & ~kept
        if self.anchor and bool(rest.any()):
            luck = token_noise(rollouts, at, "tip/anchor")
            factor = factor + select(luck, rest, self.anchor, "bottom", self.scope, luck).float()
        return factor, told

    def _scores(self, rollouts: Rollouts, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What tokens are compared by, in float64 where they are weights, and the streams it was made of."""
        names = (*self.needs, *(p.stream for p in self.passes()))
        streams = {name: rollouts.streams[name].detach() for name in names}
        # A rule that reads no entropy is still given a tensor, of which only the shape matters.
        entropy = streams.get("entropy", mask.float())
        if (self.alpha, self.gamma) != (1.0, 0.0):
            return sampling_weights(entropy, streams.get(JSD), self.alpha, self.gamma, mask=mask), streams
        found = scores(
            entropy,
            streams.get("divergence"),
            streams.get("divergence_forward"),
            self.rule,
            self.entropy_clip_quantile,
            mask=mask,
            scope=self.scope,
            divergence_clip_quantile=self.divergence_clip_quantile,
        )
        return found, streams


def _constant(streams: dict[str, Tensor], mask: Tensor) -> int:
    """Streams in which all tokens of the mask are equal, of which a score can make nothing."""
    return sum(bool(x[mask].numel()) and bool((x[mask] == x[mask][0]).all()) for x in streams.values())
