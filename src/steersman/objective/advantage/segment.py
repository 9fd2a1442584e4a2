"""Statistics of rows by group id: sums, means, extremes and deviations without sorting or reshaping.

A group is the set of rows with one id; ids need not be sorted, adjacent, or of equal number. Rows with `valid` False
are in no statistic. Sums run in float64, so the order of rows does not matter.
Leaves out: the advantages made of them (`advantage.group`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from steersman.core.errors import UserError

EQUAL = 1e-8
"""Scores of a group count as equal if max - min <= EQUAL * max(1, |mean|)."""


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """How many rows and groups there were, and how many of them say nothing.

    Args:
        rows: all rows; `invalid_rows` of them have no score.
        groups: ids with at least one valid row; `singletons` of them have exactly one, `zero_signal` two or more, all
            with equal scores.
        silent_rows: valid rows of singletons and zero-signal groups, whose advantage is 0.
    """

    rows: int
    invalid_rows: int
    groups: int
    singletons: int
    zero_signal: int
    silent_rows: int


@dataclass(frozen=True, slots=True)
class Groups:
    """Scores in float64 (0 where not valid) with the statistics of each row's group, all ``[N]``.

    `place` numbers the groups; `mean` is of valid rows; `silent` marks rows that get 0: not valid, alone, or in a group
    of equal scores.
    """

    score: Tensor
    valid: Tensor
    place: Tensor
    size: Tensor
    mean: Tensor
    silent: Tensor
    dtype: torch.dtype

    def total(self, x: Tensor) -> Tensor:
        """Sum of `x` over the valid rows of each row's group."""
        kept = torch.where(self.valid, x, torch.zeros_like(x))
        return torch.zeros_like(kept).index_add(0, self.place, kept)[self.place]

    def best(self, x: Tensor) -> Tensor:
        """Maximum of `x` over the valid rows of each row's group (-inf without any)."""
        kept = torch.where(self.valid, x, torch.full_like(x, -torch.inf))
        return torch.full_like(kept, -torch.inf).scatter_reduce(0, self.place, kept, "amax")[self.place]

    def deviation(self) -> Tensor:
        """Unbiased standard deviation of each row's group; 1 for rows that get 0 anyway."""
        squares = self.total((self.score - self.mean).square())
        variance = squares / (self.size - 1).clamp(min=1)
        return torch.where(self.silent, torch.ones_like(variance), variance).sqrt()

    def finish(self, advantage: Tensor) -> Tensor:
        """`advantage` with 0 in silent rows, in the dtype of the result."""
        return torch.where(self.silent, torch.zeros_like(advantage), advantage).to(self.dtype)


def check_rows(score: Tensor, valid: Tensor | None, where: str) -> tuple[Tensor, Tensor]:
    """`score` in float64 with 0 in invalid rows, and `valid` as a mask.

    Raises:
        UserError: not a floating-point ``[N]``, a mask of another shape or dtype, NaN or infinity in a valid row.
    """
    if score.ndim != 1 or not score.is_floating_point():
        what = f"scores are {score.dtype} of shape {tuple(score.shape)}"
        raise UserError(what, where=where, allowed="one floating-point number for each row")
    if valid is None:
        valid = torch.ones_like(score, dtype=torch.bool)
    if valid.shape != score.shape or valid.dtype != torch.bool:
        what = f"valid is {valid.dtype} of shape {tuple(valid.shape)} for {score.shape[0]} rows"
        raise UserError(what, where=where, allowed="one bool for each row")
    bad = valid & ~torch.isfinite(score)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        cure = "Mark rows whose grader failed with valid = False; they are never worth 0."
        raise UserError(f"score is {float(score[row])}", where=f"{where}, row {row}", allowed="finite", cure=cure)
    return torch.where(valid, score, torch.zeros_like(score)).double(), valid


def by_group(score: Tensor, group: Tensor, valid: Tensor | None, where: str) -> Groups:
    """The statistics of `score`, checked; `where` names the caller in errors."""
    x, valid = check_rows(score, valid, where)
    if group.shape != score.shape or group.is_floating_point() or group.dtype == torch.bool:
        what = f"group is {group.dtype} of shape {tuple(group.shape)} for {score.shape[0]} rows"
        raise UserError(what, where=where, allowed="one integer id for each row")
    ids, place = torch.unique(group, return_inverse=True)
    size = torch.zeros(ids.numel(), dtype=x.dtype, device=x.device).index_add(0, place, valid.to(x.dtype))[place]
    draft = Groups(x, valid, place, size, x, ~valid, torch.promote_types(score.dtype, torch.float32))
    mean = draft.total(x) / size.clamp(min=1)
    spread = draft.best(x) + draft.best(-x)
    silent = (spread <= EQUAL * mean.abs().clamp(min=1)) | ~valid  # a row alone has spread 0
    return Groups(x, valid, place, size, mean, silent, draft.dtype)


def group_counts(score: Tensor, group: Tensor, valid: Tensor | None = None) -> GroupCounts:
    """Count the rows without a score and the groups without a signal; same arguments and errors as `grpo`."""
    g = by_group(score, group, valid, "group_counts")

    def number(rows: Tensor) -> int:
        return int(torch.unique(g.place[rows]).numel())

    alone, silent = g.valid & (g.size == 1), g.valid & g.silent
    return GroupCounts(
        rows=score.shape[0],
        invalid_rows=int((~g.valid).sum()),
        groups=number(g.valid),
        singletons=number(alone),
        zero_signal=number(silent & ~alone),
        silent_rows=int(silent.sum()),
    )


def batch_deviation(x: Tensor, valid: Tensor) -> Tensor:
    """Unbiased standard deviation of the valid rows; infinite for fewer than two or equal ones, which then get 0."""
    kept = x[valid]
    if kept.numel() < 2 or bool(kept.max() - kept.min() <= EQUAL * kept.mean().abs().clamp(min=1)):
        return torch.full((), torch.inf, dtype=x.dtype, device=x.device)
    return kept.std()
