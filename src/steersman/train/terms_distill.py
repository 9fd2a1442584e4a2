"""The term of distillation: the policy is pulled towards another next-token distribution on its own responses.

The other side is a teacher, the frozen reference, or the policy itself, each behind its own text (`Against`); so
on-policy distillation, OPSD and SDPO are this one term. The gradient flows through the policy's distributions at the
tokens that were drawn and not through the drawing: it is not the gradient of a divergence of whole responses. That is
the convention of GKD, on which all of these build.
Leaves out: the formulas (`objective.divergence`), forward passes (`engine`), which tokens (`objective.select.tokens`).
Sources: GKD, arXiv 2306.13649; TIP, arXiv 2604.14084; OPSD, arXiv 2601.18734; SDPO, arXiv 2601.20802.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components import Aggregation
from steersman.objective.divergence import FORMS, check_form
from steersman.objective.select.tokens import in_loss
from steersman.train.terms import Against, Live, Term, of_policy, old_logp, weighted


def distill_term(
    against: Against, aggregation: Aggregation, weight: float = 1.0, ratio_cap: float | None = None
) -> Term:
    """The divergence from the other side, at the tokens in the loss of rows that the other side can judge.

    loss_t = w_t min(exp(logp_t - logp_old_t), c) D(policy, other)_t; w_t = token and row weights, c = `ratio_cap`.

    Args:
        against: the other side, and which divergence D.
        aggregation: how the tokens become one number; the denominator counts these tokens only.
        weight: of the term in the objective.
        ratio_cap: c > 0: corrects for tokens that an older policy drew (SDPO: 2), without a gradient; None = no
            correction, as in GKD. In the first update of a batch the ratio is 1.

    Raises:
        UserError: a divergence or a cap out of range; the policy behind its own prompt as the other side.
    """
    form = against.form
    check_form(form.kind, form.beta, form.top_k, form.of, FORMS)
    if against.by == "policy" and against.before is None:
        cure = "Give before=, or another teacher."
        raise UserError("the policy is compared with itself, so nothing is learnt", where="distill", cure=cure)
    if ratio_cap is not None and not ratio_cap > 0:
        raise UserError(f"ratio_cap is {ratio_cap}", where="distill", allowed="a number > 0")

    def value(part: Rollouts, live: Live) -> Tensor:
        assert live.divergence is not None
        loss = live.divergence
        if ratio_cap is not None:
            loss = loss * (live.logp.detach() - old_logp(part, live)).exp().clamp(max=ratio_cap)
        return weighted(loss, part)

    def watch(part: Rollouts, live: Live) -> dict[str, Tensor]:
        assert live.divergence is not None
        return {"divergence": live.divergence.detach(), **of_policy(part, live)}

    return Term("distill", (), value, taught, aggregation, weight=weight, watch=watch, reads=_nothing, against=against)


def taught(rollouts: Rollouts) -> Bool[Tensor, "N L"]:
    """Tokens in the loss of rows about which the other side has something to say (stream ``taught``; all, without)."""
    mask, rows = in_loss(rollouts), rollouts.streams.get("taught")
    return mask if rows is None else mask & (rows > 0)[:, None]


def _nothing(rollouts: Rollouts) -> Tensor:
    """Log-probs come with the divergence."""
    return torch.zeros_like(rollouts.action)
