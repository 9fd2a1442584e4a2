"""What a response's reward is made of: normalised and clipped scores, missing ends, length limits, KL per token.

Order: score -> normalise -> clip -> missing end of sequence -> (+ length punishment) -> last action token; the KL
penalty falls due at every action token. Rows with `valid` False have no score: they get 0 everywhere and must be left
out of the loss by the same mask. Leaves out: where scores come from (`reward`), advantages (`advantage`).
Sources: the practice of PPO for language models (Ziegler et al. 2019; Stiennon et al. 2020); DAPO arXiv 2503.14476.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.advantage.segment import check_rows
from steersman.objective.divergence import kl_value
from steersman.objective.loss.robust import check_positive

MissingEos = Literal["none", "penalty", "replace"]
MISSING: tuple[str, ...] = get_args(MissingEos)


def shape_score(
    score: Tensor,
    *,
    mean: float | int | None = None,
    std: float | int | None = None,
    clip: float | int | None = None,
    valid: Tensor | None = None,
) -> Float[Tensor, " N"]:
    """Scores normalised and then clipped: clip((S - mean) / std, -c, c).

    Args:
        score: S ``[N]``.
        mean: of the scores of the reward model's own data or a running one; None together with `std` = not normalised.
        std: > 0.
        clip: c > 0, after normalising; None = not clipped.
        valid: ``[N]``; False = no score.

    Returns:
        ``[N]`` float32 (float64 for float64 scores), 0 where not valid.

    Raises:
        UserError: NaN or infinity in a valid row, only one of mean and std, std or clip not positive.

    Edge cases: there is no default of mean 0 and std 1, with which "normalise" would silently do nothing.
    """
    x, valid = check_rows(score, valid, "shape_score")
    if (mean is None) != (std is None):
        what = f"mean is {mean} and std is {std}"
        raise UserError(what, where="shape_score", allowed="both or neither", cure="Read both from the reward model.")
    if mean is not None and std is not None:
        if not math.isfinite(mean):
            raise UserError(f"mean is {mean}", where="shape_score, mean", allowed="a finite number")
        x = (x - mean) / check_positive(float(std), "std")
    if clip is not None:
        x = x.clamp(-check_positive(float(clip), "clip"), clip)
    return torch.where(valid, x, torch.zeros_like(x)).to(torch.promote_types(score.dtype, torch.float32))


def missing_eos(score: Tensor, terminated: Tensor, how: str, value: float | int = 1.0) -> Float[Tensor, " N"]:
    """Scores of responses that did not end by themselves: left alone, lowered, or replaced.

    S'_i = S_i - value ("penalty") or value ("replace") where the row is not terminated.

    Args:
        score: S ``[N]``.
        terminated: bool ``[N]``, the row drew a stop token; data of the sampler, never inferred from padding.
        how: see above.
        value: finite; >= 0 for "penalty", -1 is usual for "replace"; unused for "none".

    Returns:
        ``[N]`` in the dtype of the score.

    Raises:
        UserError: shapes that disagree, `terminated` not bool, an unknown name, a negative penalty (a bonus).
    """
    if terminated.shape != score.shape or terminated.dtype != torch.bool:
        what = f"terminated is {terminated.dtype} of shape {tuple(terminated.shape)} for {tuple(score.shape)} scores"
        raise UserError(what, where="missing_eos", allowed="one bool for each row")
    if how not in MISSING:
        raise UserError(f"unknown option {how!r}", where="missing_eos", allowed=", ".join(MISSING))
    if not math.isfinite(value) or (how == "penalty" and value < 0):
        raise UserError(f"value is {value}", where="missing_eos, value", allowed="finite, and >= 0 for a penalty")
    if how == "none":
        return score
    return torch.where(terminated, score, score - value if how == "penalty" else torch.full_like(score, value))


def overlong(length: Tensor, limit: int, cache: int) -> Float[Tensor, " N"]:
    """Soft punishment of long responses, added to the score.

    0 if L <= limit - cache;  (limit - cache - L) / cache in between;  -1 if L > limit.

    Args:
        length: L ``[N]``, action tokens, integers >= 0.
        limit: longest response, > 0.
        cache: width of the zone in which the punishment grows, 0 < cache <= limit.

    Returns:
        ``[N]`` float32 in [-1, 0].

    Raises:
        UserError: floating-point or negative lengths, a cache of 0 or longer than the limit.

    Source: DAPO, arXiv 2503.14476, equation 13.
    """
    if length.is_floating_point() or bool((length < 0).any()):
        raise UserError("length must hold integers >= 0", where="overlong, length")
    if not 0 < cache <= limit:
        raise UserError(f"cache is {cache} with limit {limit}", where="overlong", allowed="0 < cache <= limit")
    return ((limit - cache - length) / cache).clamp(-1.0, 0.0).to(torch.float32)


def token_reward(
    score: Tensor,
    action: Tensor,
    logp_old: Tensor | None = None,
    logp_ref: Tensor | None = None,
    beta: float | int = 0.0,
    valid: Tensor | None = None,
) -> Float[Tensor, "N L"]:
    """Reward of each token: the score at the last action token, less the KL penalty at every action token.

    r_t = -beta (logp_old_t - logp_ref_t) + S [t is the last action token]; the penalty is k1, the only estimator whose
    return has the gradient of the KL.

    Args:
        score: S ``[N]``.
        action: bool ``[N, L]``.
        logp_old: ``[N, L]``, nats; with `logp_ref` and beta, or not at all.
        logp_ref: ``[N, L]``, nats.
        beta: >= 0.
        valid: ``[N]``; False = no score.

    Returns:
        ``[N, L]`` float32 (float64 for float64 scores), 0 outside `action` and in rows that are not valid.

    Raises:
        UserError: shapes that disagree, NaN or infinity that would enter a reward, beta without log-probabilities.

    Edge cases: a row without an action token has no place for its score and gets zeros; count ``~action.any(1)``.

    Source: the usual PPO reward; TRL once put the score on the first pad instead, which is not copied here.
    """
    if action.ndim != 2 or action.dtype != torch.bool or action.shape[0] != score.shape[0]:
        what = f"action is {action.dtype} of shape {tuple(action.shape)} for {score.shape[0]} scores"
        raise UserError(what, where="token_reward", allowed="bool [N, L]")
    if not 0 <= beta < float("inf"):
        raise UserError(f"beta is {beta}", where="token_reward, beta", allowed="a finite number >= 0")
    x, valid = check_rows(score, valid, "token_reward")
    counted = action & valid[:, None]
    place = torch.arange(action.shape[1], device=action.device)
    last = counted & (place == torch.where(counted, place, -1).amax(1, keepdim=True)) if len(place) else counted
    reward = last * x[:, None]
    if beta > 0:
        if logp_old is None or logp_ref is None:
            raise UserError(f"beta is {beta} but logp_old or logp_ref is missing", where="token_reward")
        reward = reward - beta * _kl(logp_old, logp_ref, counted)
    return reward.to(torch.promote_types(score.dtype, torch.float32))


def _kl(logp_old: Tensor, logp_ref: Tensor, counted: Tensor) -> Tensor:
    if not logp_old.shape == logp_ref.shape == counted.shape:
        what = f"logp_old has shape {tuple(logp_old.shape)}, logp_ref {tuple(logp_ref.shape)}"
        raise UserError(what, where="token_reward", allowed=f"{tuple(counted.shape)}, that of action")
    kl = kl_value(logp_old, logp_ref).double()
    bad = counted & ~torch.isfinite(kl)
    if bool(bad.any()):
        row, token = (int(i) for i in bad.nonzero()[0])
        raise UserError(f"KL is {float(kl[row, token])} at token {token}", where=f"token_reward, row {row}")
    return torch.where(counted, kl, torch.zeros_like(kl))
