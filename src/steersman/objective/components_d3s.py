"""D3S as stages: rows by the variance of their advantages, tokens by |A| H, both growing over the run; and PODS.

Rows and tokens are stages of their own, so that the pass that gives entropies runs on the kept rows only. The named
ablations are lists of the two (`D3S`). Rows that are not kept are dropped: a critic does not see them either.
Leaves out: the formulas (`select.d3s`).
Sources: arXiv 2509.22115; PODS, arXiv 2504.13818.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from steersman.core.component import START, Moment, Stage
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_reward import Metrics, row_scores, share
from steersman.objective.reduce import Mode
from steersman.objective.select import d3s
from steersman.objective.select.noise import row_noise, token_noise
from steersman.objective.select.schedule import linear, nearest
from steersman.objective.select.tokens import in_and_out, in_loss, weigh

Part = Annotated[float, Field(gt=0, le=1)]
Denominator = Literal["kept", "full"]
DENOMINATOR = "what the loss is divided by: tokens kept, or all before it"
AGGREGATE = 'mode of the loss\'s aggregation; read only with denominator "full"'


def row_advantage(rollouts: Rollouts, mask: Tensor) -> Tensor:
    """The advantage of each row ``[N]``: ``advantage_row``, or the mean of ``advantage`` over the mask."""
    if "advantage_row" in rollouts.streams:
        return rollouts.streams["advantage_row"].detach()
    tokens = rollouts.streams["advantage"].detach()
    total = tokens.where(mask, tokens.new_zeros(())).double().sum(1)
    return (total / mask.sum(1).clamp(min=1)).to(tokens.dtype)


def _weighed(stage: "D3SRows | D3STokens", rollouts: Rollouts, mask: Tensor, kept: Tensor) -> Rollouts:
    """The rollouts with weight 1 at the kept tokens of the mask, rescaled under denominator "full", 0 elsewhere."""
    weight = kept.float()
    if stage.denominator == "full":
        weight = weight * d3s.full_denominator(mask, kept, stage.aggregate, rollouts.group)[:, None]
    return weigh(rollouts, weight)


class D3SRows(Stage):
    """Keeps the rows whose advantages have the largest variance (arXiv 2509.22115) and drops the others.

    The share moves linearly from `start` to `end` over the run. Only rows with a token in the loss compete. If all
    their advantages are 0 nothing is kept, and the loop skips and counts the step. ``by = "random"`` is the control of
    equal cost.
    """

    needs = ("advantage",)
    gives = ("token_weight",)
    kind: Literal["d3s_rows"] = "d3s_rows"
    start: Part = Field(0.25, description="share of the rows kept at the first step")
    end: Part = Field(0.5, description="share kept at the last step; equal to start = static")
    scope: d3s.Scope = Field("batch", description="which rows compete; group = D3S-I")
    by: Literal["variance", "random"] = Field("variance", description="random = control")
    balance: bool = Field(False, description="as many positive as negative advantages, as far as there are")
    drop_zero: bool = Field(False, description="rows of advantage 0 never fill up")
    denominator: Denominator = Field("kept", description=DENOMINATOR)
    aggregate: Mode = Field("token_mean", description=AGGREGATE)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Drop rows (`select.d3s.max_variance`)."""
        mask = in_loss(rollouts)
        there, a = mask.any(1), row_advantage(rollouts, mask)
        signal = there & (a != 0)
        open_ = (signal if self.drop_zero else there).nonzero()[:, 0]
        part = linear(self.start, self.end, at)
        kept = open_[:0]
        if bool(signal.any()):
            noise = row_noise(rollouts.index(open_), at, "d3s/rows")
            kept = open_[self._rows(a[open_], rollouts.group[open_], part, int(there.sum()), noise)]
        chosen = torch.zeros_like(there)
        chosen[kept] = True
        left = _weighed(self, rollouts, mask, mask & chosen[:, None]).index(kept)
        of = a[kept].double()
        told = {
            "share": part,
            "silent": float(bool(there.any()) and not bool(signal.any())),
            "useful": share(of != 0, torch.ones_like(of)),
            "advantage_mean": float(of.mean()) if len(of) else 0.0,
            "variance_in": float(a[there].double().var(correction=0)) if bool(there.any()) else 0.0,
            "variance_out": float(of.var(correction=0)) if len(of) else 0.0,
        }
        return left, told | in_and_out(rollouts, left)

    def _rows(self, a: Tensor, group: Tensor, part: float, all_rows: int, noise: Tensor) -> Tensor:
        """Positions of the rows to keep; the share is of `all_rows` under the scopes that end with the batch."""
        n = min(nearest(part, all_rows), len(a))
        if self.by == "random":
            if self.scope == "batch":
                return noise.argsort(stable=True)[:n].sort().values
            return d3s.each_group(group, lambda rows: noise[rows].argsort(stable=True)[: nearest(part, len(rows))])
        if self.scope == "group":
            return d3s.max_variance_share(a, lambda size: nearest(part, size), group, self.balance, noise)
        return d3s.max_variance(a, n, group, self.scope, self.balance, noise)


class D3STokens(Stage):
    """Keeps the tokens of largest |A| H among those still in the loss, pooled over the batch (arXiv 2509.22115).

    The entropy is that of the policy at rollout weights. Where it is 0 at every token, |A| decides. If all advantages
    are 0 nothing is kept, and the loop skips and counts the step. The other scores are controls.
    """

    gives = ("token_weight",)
    kind: Literal["d3s_tokens"] = "d3s_tokens"
    start: Part = Field(0.2, description="share of the tokens kept at the first step")
    end: Part = Field(0.5, description="share kept at the last step; equal to start = static")
    score: d3s.TokenScore = Field("advantage_entropy", description="what tokens compete by")
    denominator: Denominator = Field("kept", description=DENOMINATOR)
    aggregate: Mode = Field("token_mean", description=AGGREGATE)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]  # of the instance: some scores need no entropy
        """Streams of this stage as it is configured."""
        uses = self.score in ("advantage_entropy", "entropy") and min(self.start, self.end) < 1
        return ("advantage", "entropy") if uses else ("advantage",)

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Multiply ``token_weight`` by 1 at the kept tokens and by 0 elsewhere."""
        mask, part = in_loss(rollouts), linear(self.start, self.end, at)
        a = rollouts.streams["advantage"].detach()
        entropy = rollouts.streams["entropy"].detach() if "entropy" in self.needs else None
        noise = token_noise(rollouts, at, "d3s/tokens")
        silent = not bool((a[mask] != 0).any())
        if silent:
            kept = torch.zeros_like(mask)
        elif part == 1:
            kept = mask
        else:
            kept = d3s.top_tokens(self._score(a, entropy, mask, noise), mask, part, noise)
        out = _weighed(self, rollouts, mask, kept)
        told = {"share": part, "silent": float(silent and bool(mask.any()))}
        if entropy is not None:
            told |= {"entropy_in": share(entropy[mask], mask), "entropy_out": share(entropy[kept], kept)}
        return out, told | in_and_out(rollouts, out)

    def _score(self, a: Tensor, entropy: Tensor | None, mask: Tensor, noise: Tensor) -> Tensor:
        if self.score == "random":
            return noise
        if entropy is None:
            return d3s.score_tokens(a, torch.zeros_like(a), "advantage", mask)
        score = d3s.score_tokens(a, entropy, self.score, mask)
        return score if bool((score[mask] != 0).any()) else a.abs()


class PODS(Stage):
    """Keeps in each group the rows whose rewards have the largest variance (arXiv 2504.13818), and drops the others.

    It stands before the advantages, which are then those of the kept rows alone.
    """

    kind: Literal["pods"] = "pods"
    share: Part = Field(0.25, description="of the rows of each group, rounded half up")

    def __call__(self, rollouts: Rollouts, at: Moment = START) -> tuple[Rollouts, Metrics]:
        """Drop rows (`select.d3s.max_variance` of the scores, inside groups)."""
        written = sorted({"advantage", "advantage_row"} & rollouts.streams.keys())
        if written and len(rollouts):
            what = f"{written[0]} exists already, from rows that are to be dropped"
            raise UserError(what, where="PODS", cure="Put it before the advantage stage.")
        there = in_loss(rollouts).any(1).nonzero()[:, 0]
        noise = row_noise(rollouts.index(there), at, "pods")
        score, group = row_scores(rollouts)[there], rollouts.group[there]
        kept = d3s.max_variance_share(score, lambda size: nearest(self.share, size), group, noise=noise)
        out = rollouts.index(there[kept])
        return out, in_and_out(rollouts, out)


D3S: dict[str, tuple[Stage, ...]] = {
    "d1s": (D3SRows(end=0.25, scope="group"),),
    "d1s_cross": (D3SRows(end=0.25),),
    "d2s": (D3SRows(end=0.25), D3STokens(end=0.2)),
    "d3s": (D3SRows(), D3STokens()),
    "d3s_i": (D3SRows(scope="group"), D3STokens()),
}
"""The method and its ablations, to be put behind ``advantage``; the ablation PODS stands before the advantage."""
