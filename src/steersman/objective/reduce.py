"""From a loss per token to one number, with the divisor stated: the one place where losses are averaged.

The sum runs over a whole optimiser step, however it is cut into micro-batches or processes, so the divisor must be that
of the whole step: call `denominators` on the step's masks first (or add up those of its parts), then hand the result to
every `aggregate`; the parts then sum to the value of the undivided step. A row is never cut between two parts.
Leaves out: the loss itself, and the choice of which tokens count (the mask).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from steersman.core.errors import UserError

Mode = Literal[
    "token_mean",
    "seq_mean_token_mean",
    "seq_mean_token_sum",
    "seq_sum_const",
    "prompt_mean_token_mean",
    "token_sum",
]
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class Denominator:
    """What the masks of a step (or of a part of it) contribute to the divisor; parts are joined with ``+``.

    Args:
        mode: the mode it was counted for.
        count: scalar: tokens (token_mean), rows with a token (seq_*), prompts with a token (prompt_*), 1
            (token_sum).
        constant: C of seq_sum_const, else None.
        group: sorted ids of the prompts with a token ``[G]`` (prompt_mean_token_mean only).
        group_tokens: their numbers of tokens ``[G]``, int64.
    """

    mode: Mode
    count: Shaped[Tensor, ""]
    constant: float | int | None = None
    group: Int[Tensor, " G"] | None = None
    group_tokens: Int[Tensor, " G"] | None = None

    def __add__(self, other: "Denominator") -> "Denominator":
        """The divisor of both parts together; a prompt that stands in both is one prompt."""
        if (self.mode, self.constant) != (other.mode, other.constant):
            what = f"{self.mode} (constant {self.constant}) cannot be added to {other.mode} (constant {other.constant})"
            raise UserError(what, where="Denominator")
        if self.mode == "token_sum":
            return Denominator(self.mode, self.count)
        if self.group is None or self.group_tokens is None or other.group is None or other.group_tokens is None:
            return Denominator(self.mode, self.count + other.count, self.constant)
        group = torch.cat([self.group, other.group])
        return _by_prompt(group, torch.cat([self.group_tokens, other.group_tokens]))

    def to(self, device: torch.device | str) -> "Denominator":
        """The same divisor on `device`."""
        moved = (None if x is None else x.to(device) for x in (self.group, self.group_tokens))
        return Denominator(self.mode, self.count.to(device), self.constant, *moved)


def _by_prompt(group: Tensor, tokens: Tensor) -> Denominator:
    """Add up tokens by prompt, leaving out prompts without any."""
    ids, place = torch.unique(group[tokens > 0], return_inverse=True)
    total = torch.zeros_like(ids).index_add_(0, place, tokens[tokens > 0])
    count = torch.tensor(ids.numel(), device=group.device)
    return Denominator("prompt_mean_token_mean", count, group=ids, group_tokens=total)


def _check_mask(mask: Tensor) -> Tensor:
    """`mask` as bool; 0/1 masks of other dtypes are accepted, weights are not."""
    if mask.dtype == torch.bool:
        return mask
    if bool(((mask != 0) & (mask != 1)).any()):
        raise UserError("mask holds values other than 0 and 1", where="mask", cure="Multiply weights into the loss.")
    return mask.bool()


def _check_mode(mask: Tensor, mode: str, group: Tensor | None, constant: float | int | None) -> None:
    if mode not in MODES:
        raise UserError(f"unknown mode {mode!r}", where="mode", allowed=", ".join(MODES))
    if mask.ndim != 2 and not (mask.ndim == 1 and mode in ("token_mean", "token_sum")):
        what = f"mask has shape {tuple(mask.shape)} in mode {mode}"
        raise UserError(what, where="mask", allowed="[N, L]; [N] only for token_mean and token_sum")
    if mode == "seq_sum_const" and (constant is None or not 0 < constant < float("inf")):
        allowed = "a finite number > 0: the longest response allowed, not the padded width, which varies"
        raise UserError(f"constant is {constant} in mode {mode}", where="constant", allowed=allowed)
    if mode == "prompt_mean_token_mean" and (group is None or group.shape != mask.shape[:1]):
        found = "missing" if group is None else f"of shape {tuple(group.shape)}"
        what = f"group is {found} for {mask.shape[0]} rows"
        raise UserError(what, where="group", allowed="one prompt id for each row")


def denominators(
    mask: Tensor, mode: Mode = "token_mean", group: Tensor | None = None, constant: float | int | None = None
) -> Denominator:
    """Count what a step's mask, or a part of it, contributes to the divisor of `aggregate`.

    Args:
        mask: True where the loss counts ``[N, L]`` (``[N]`` for token_mean and token_sum).
        mode: as in `aggregate`.
        group: int64 prompt ids ``[N]``, for prompt_mean_token_mean.
        constant: C > 0, for seq_sum_const; the other modes do not use it.

    Returns:
        `Denominator`; the ones of micro-batches or processes may be added in any order.

    Raises:
        UserError: unknown mode, a mask of the wrong shape, `constant` or `group` missing.
    """
    mask = _check_mask(mask)
    _check_mode(mask, mode, group, constant)
    if mode == "token_sum":
        return Denominator(mode, torch.ones((), dtype=torch.int64, device=mask.device))
    if mode == "token_mean":
        return Denominator(mode, mask.sum())
    tokens = mask.sum(1)
    if mode == "prompt_mean_token_mean" and group is not None:
        return _by_prompt(group.to(mask.device), tokens)
    return Denominator(mode, (tokens > 0).sum(), constant if mode == "seq_sum_const" else None)


def _whole_step(
    mask: Tensor,
    mode: Mode,
    given: float | int | Tensor | Denominator | None,
    group: Tensor | None,
    constant: float | int | None,
) -> Denominator:
    """The divisor to use: the given one, checked, or that of this mask alone."""
    if isinstance(given, Denominator):
        if given.mode != mode or (mode == "seq_sum_const" and given.constant != constant):
            what = f"denominator was counted for {given.mode} (constant {given.constant}), not {mode} ({constant})"
            raise UserError(what, where="denominator")
        return given.to(mask.device)
    own = denominators(mask, mode, group, constant)
    if given is None:
        return own
    if mode == "token_sum":
        raise UserError("token_sum divides by nothing", where="denominator", allowed="None")
    count = torch.as_tensor(given, device=mask.device)
    if count.ndim or not 0 <= float(count) < float("inf") or (float(count) == 0 and bool(mask.any())):
        raise UserError(f"denominator is {given}", where="denominator", allowed="a count > 0, or `denominators(...)`")
    return Denominator(mode, count, constant, own.group, own.group_tokens)


def _prompt_tokens(step: Denominator, group: Tensor, tokens: Tensor) -> Tensor:
    """For each row the step's number of tokens of its prompt (1 for rows without tokens)."""
    ids, total = step.group, step.group_tokens
    if ids is None or total is None or ids.numel() == 0:
        ids, total = torch.full((1,), -1, device=group.device), torch.zeros(1, dtype=torch.int64, device=group.device)
    place = torch.searchsorted(ids, group).clamp(max=ids.numel() - 1)
    missing = (tokens > 0) & ((ids[place] != group) | (total[place] == 0))
    if bool(missing.any()):
        row = int(missing.nonzero()[0, 0])
        raise UserError(f"the denominator does not know prompt {int(group[row])} of row {row}", where="group")
    return torch.where(tokens > 0, total[place], 1)


def _row_weight(mask: Tensor, mode: Mode, step: Denominator, group: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The factor of every token of a row ``[N]`` or of all rows (a scalar); 0/0 never arises."""
    count = torch.where(step.count == 0, 1, step.count).to(dtype)
    if mode == "token_sum" or mode == "token_mean" or mode == "seq_mean_token_sum":
        return 1 / count
    if mode == "seq_sum_const" and step.constant is not None:
        return 1 / (count * step.constant)
    tokens = mask.sum(1)
    if mode == "prompt_mean_token_mean" and group is not None:
        return 1 / (_prompt_tokens(step, group.to(mask.device), tokens).to(dtype) * count)
    return 1 / (tokens.clamp(min=1).to(dtype) * count)


def aggregate(
    loss: Float[Tensor, "..."],
    mask: Tensor,
    mode: Mode = "token_mean",
    denominator: float | int | Tensor | Denominator | None = None,
    group: Tensor | None = None,
    constant: float | int | None = None,
) -> Float[Tensor, ""]:
    """Reduce losses to one number; over the parts of a step the numbers add up to that of the step.

    With m = mask, L_i = sum_t m_it and R = rows with L_i > 0 (both of the same mask):
    token_mean              sum(l m) / sum(m)
    seq_mean_token_mean     sum_i (sum_t l m / L_i) / R
    seq_mean_token_sum      sum_i sum_t l m / R
    seq_sum_const           sum(l m) / (R C)
    prompt_mean_token_mean  mean over prompts of (sum of l m over the prompt's rows / their tokens)
    token_sum               sum(l m)

    Args:
        loss: l ``[N, L]``; ``[N]`` (a loss an example) for token_mean and token_sum. bfloat16 and float16 are upcast.
        mask: bool (or 0/1) of the same shape.
        mode: see above; they differ in how much a token of a long row weighs.
        denominator: what the whole step's masks gave (`denominators`); None = this mask is the whole step. A plain
            number counts tokens, rows or prompts of the step according to the mode (C still multiplies it); then no
            prompt may be split over micro-batches.
        group: int64 prompt ids ``[N]``, for prompt_mean_token_mean.
        constant: C > 0 of seq_sum_const, the longest response allowed; the other modes do not use it.

    Returns:
        Scalar, float32 (float64 for float64 input).

    Raises:
        UserError: shapes that disagree, an unknown mode, a mask that is not 0/1, `constant` or `group` missing, a
            denominator of another mode or one that does not know a prompt of this batch.

    Edge cases: what the mask hides may be NaN or infinite and reaches neither value nor gradient. Rows without tokens
    do not count as rows. With no token at all the result is 0 with a graph (its gradients are 0).

    Source: the modes of published GRPO-family losses and of verl's ``agg_loss``; the step-wide divisor is ours.
    """
    if loss.shape != mask.shape:
        raise UserError(f"loss has shape {tuple(loss.shape)} and mask {tuple(mask.shape)}", where="aggregate")
    mask = _check_mask(mask)
    _check_mode(mask, mode, group, constant)
    step = _whole_step(mask, mode, denominator, group, constant)
    values = loss.to(torch.promote_types(loss.dtype, torch.float32))
    kept = torch.where(mask, values, torch.zeros_like(values))
    rows = kept.sum(-1) if kept.ndim == 2 else kept
    return (rows * _row_weight(mask, mode, step, group, values.dtype)).sum()
