"""Contrastive evidence: a response's advantage shared out by how much a known answer speaks for each of its tokens.

P+ is the policy told the right answer, and P the policy told a wrong one (CEPO) or told nothing (RLSD): one function.
What a token gained in log-probability becomes a factor of its advantage within 1 +- lam eps_w, so the sign of an
advantage never turns, and the gradient stays a combination of the sampled tokens' score functions.
Leaves out: which answers are told (`credit.references`), in which words (`credit.hints`), the forward passes (`train`).
Sources: CEPO arXiv 2605.19436; RLSD arXiv 2604.03128.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.loss.policy import LOG_RATIO
from steersman.objective.loss.robust import upcast


@dataclass(frozen=True, slots=True)
class Credit:
    """What `credit` makes of a batch; all without a gradient, 0 (False) outside the mask.

    Args:
        advantage: Ahat ``[N, L]``.
        delta: evidence ``[N, L]``, nats.
        clipped: whether the weight was held at a bound ``[N, L]``.
    """

    advantage: Tensor
    delta: Tensor
    clipped: Tensor


def evidence(
    advantage: Tensor,
    logp_pos: Tensor,
    logp_other: Tensor,
    mask: Tensor,
    lam: float | int = 0.5,
    eps_w: float | int = 0.5,
) -> Float[Tensor, "N L"]:
    """The advantage of each token, larger in size where the right answer makes the token likelier.

    delta = logp_pos - logp_other;  w = exp(s delta), s = sign(A);
    Ahat = A ((1 - lam) + lam clip(w, 1 - eps_w, 1 + eps_w)).
    With `logp_other` under a wrong answer this is CEPO, with that of the policy told nothing it is RLSD, with lam = 0
    it is plain A.

    Args:
        advantage: A ``[N]`` or ``[N, L]``.
        logp_pos: log P+ of the sampled tokens ``[N, L]``, nats: told the right answer.
        logp_other: log P- (told a wrong answer) or log P_S (told nothing) ``[N, L]``, nats.
        mask: action tokens ``[N, L]`` bool.
        lam: share of the advantage that the evidence governs, in [0, 1].
        eps_w: bound of the weight, > 0.

    Returns:
        Ahat ``[N, L]``, float32 (float64 if all is float64), without a gradient; 0 outside the mask.

    Raises:
        UserError: shapes that disagree, a mask that is not bool, `lam` or `eps_w` out of range; names the row of a NaN,
            or of a token that is impossible under both.

    Edge cases: the exponent is held in [-20, 20]. Rows whose advantage is 0, and what stands outside the mask, may be
    anything, since they come out as 0. Equal log-probs give exactly A. The direction is kept even with
    lam eps_w >= 1, because w > 0.

    Source: CEPO, section on modulated advantages (digest and released code agree); RLSD's README has lam = 1. The
    exponent is bounded in the released RLSD and not in the released CEPO.
    """
    return credit(advantage, logp_pos, logp_other, mask, lam, eps_w).advantage


def credit(
    advantage: Tensor,
    logp_pos: Tensor,
    logp_other: Tensor,
    mask: Tensor,
    lam: float | int = 0.5,
    eps_w: float | int = 0.5,
) -> Credit:
    """`evidence` with what it came from; arguments and errors as there."""
    _check(advantage, logp_pos, logp_other, mask, lam, eps_w)
    pos, other = (upcast(x.detach(), n) for x, n in ((logp_pos, "logp_pos"), (logp_other, "logp_other")))
    a = upcast(advantage.detach(), "advantage")
    a = (a[:, None] if a.ndim == 1 else a).expand(mask.shape)
    used = mask & (a != 0)
    gap = pos - other
    _check_numbers(gap, a, used)
    delta = torch.where(used, gap, torch.zeros_like(gap))
    raw = (a.sign() * delta).clamp(-LOG_RATIO, LOG_RATIO).exp()
    weight = raw.clamp(1 - eps_w, 1 + eps_w)
    factor = torch.where(weight == 1, 1.0, (1 - lam) + lam * weight)  # of equal log-probs exactly 1
    out = torch.where(used, a * factor, torch.zeros_like(weight))
    return Credit(out, delta, used & (weight != raw))


def _check(a: Tensor, pos: Tensor, other: Tensor, mask: Tensor, lam: float | int, eps_w: float | int) -> None:
    if mask.ndim != 2 or mask.dtype != torch.bool or pos.shape != mask.shape or other.shape != mask.shape:
        what = f"logp_pos has shape {tuple(pos.shape)}, logp_other {tuple(other.shape)}, mask {tuple(mask.shape)}"
        raise UserError(f"{what} and dtype {mask.dtype}", where="evidence", allowed="[N, L], the mask bool")
    if a.shape not in (mask.shape, mask.shape[:1]):
        what = f"advantage has shape {tuple(a.shape)} for {tuple(mask.shape)} tokens"
        raise UserError(what, where="evidence", allowed="[N] or [N, L]")
    if not 0 <= lam <= 1:
        raise UserError(f"is {lam}", where="lam", allowed="0 <= lam <= 1")
    if not 0 < eps_w < float("inf"):
        raise UserError(f"is {eps_w}", where="eps_w", allowed="a finite number > 0")


def _check_numbers(gap: Tensor, a: Tensor, used: Tensor) -> None:
    for name, x in (("advantage", a), ("logp_pos - logp_other", gap)):
        bad = torch.isnan(x) & used
        if bool(bad.any()):
            row, token = (int(i) for i in bad.nonzero()[0])
            raise UserError(f"{name} is NaN at token {token}", where=f"row {row}")
