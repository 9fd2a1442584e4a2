"""Baselines and targets from the *other* rollouts of a prompt, and from other prompts.

Leaves out: where predictions come from (`advantage.poise`), advantages from scores alone (`advantage.group`).
Source: arXiv 2605.07579, equations 6 and 7, for two rollouts of a prompt; more of them are our extension.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import UserError
from steersman.objective.advantage.segment import by_group, check_rows


def others(
    x: Tensor, group: Tensor, valid: Tensor | None = None, where: str = "others"
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Mean of `x` over the other valid rows of each row's group, and how many there are.

    Args:
        x: ``[N]`` floating point.
        group: prompt id of each row ``[N]``.
        valid: ``[N]``; False = the row has no `x` (it may be NaN); None = all have.
        where: in messages.

    Returns:
        ``(mean, number)``, float64; the mean is 0 where there is no other row.
    """
    g = by_group(x, group, valid, where)
    rest = g.size - g.valid.double()
    return torch.where(rest > 0, (g.total(g.score) - g.score) / rest.clamp(min=1), 0.0), rest


def other_groups(x: Tensor, group: Tensor, valid: Tensor) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Mean of `x` over the valid rows of all other groups, and how many rows those are; arguments as `others`."""
    g = by_group(x, group, valid, "other_groups")
    rest = g.valid.double().sum() - g.size
    return torch.where(rest > 0, (g.score.sum() - g.total(g.score)) / rest.clamp(min=1), 0.0), rest


def cross_rollout(score: Tensor, prediction: Tensor, group: Tensor, valid: Tensor | None = None) -> Float[Tensor, " N"]:
    """Advantage against what the other rollouts of the prompt let expect.

    A_i = S_i - mean_{j != i} f(phi_j), over the other rows j of row i's group.

    Args:
        score: S ``[N]``, any unit.
        prediction: f(phi_j) ``[N]``, the value predicted from row j's own features, by an f that knows no score of this
            batch.
        group: prompt id of each row ``[N]``, integers in any order.
        valid: ``[N]``; False = the row has neither score nor prediction (they may be NaN); None = all valid.

    Returns:
        ``[N]`` float32 (float64 for float64 scores). The baseline of row i depends on row j, the prompt and the past
        alone, so that the expected policy gradient is unbiased: given the prompt, rows are independent.

    Raises:
        UserError: a valid row without another valid row of its prompt; shapes or dtypes that disagree; NaN or infinity
            in a valid row.

    Edge cases: equal scores in a group do not give 0, which is the point; rows that are not valid get 0. For two rows
    swapping them swaps their baselines.

    Source: arXiv 2605.07579, algorithm 1; more than two rows of a prompt are ours.
    """
    value, there = check_rows(score, valid, "cross_rollout")
    baseline, number = others(prediction, group, there, "cross_rollout, prediction")
    _refuse_alone(there & (number == 0), group, "cross_rollout")
    return torch.where(there, value - baseline, 0.0).to(torch.promote_types(score.dtype, torch.float32))


def leave_one_out_target(score: Tensor, group: Tensor, valid: Tensor | None = None) -> Float[Tensor, " N"]:
    """What the probe learns to predict from a row's features: the mean score of the other rows of its prompt.

    V_i = mean_{j != i} S_j. It never contains S_i, so the probe learns what the prompt is worth and not whether the
    row it reads went well.

    Args:
        score: S ``[N]``.
        group: prompt id of each row ``[N]``.
        valid: ``[N]``; False = the row has no score.

    Returns:
        ``[N]`` float32 (float64 for float64 scores); also for rows that are not valid, from the others.

    Raises:
        UserError: a row without another valid row of its prompt; otherwise as `cross_rollout`.

    Source: arXiv 2605.07579, section 3.1.
    """
    target, number = others(score, group, valid, "leave_one_out_target")
    _refuse_alone(number == 0, group, "leave_one_out_target")
    return target.to(torch.promote_types(score.dtype, torch.float32))


def _refuse_alone(alone: Tensor, group: Tensor, where: str) -> None:
    if bool(alone.any()):
        row = int(alone.nonzero()[0, 0])
        what = f"it is the only rollout of its prompt ({int(group[row])}), and pairing needs two"
        raise UserError(what, where=f"{where}, row {row}", cure="Draw two or more rollouts of each prompt.")


@dataclass(frozen=True, slots=True)
class Siblings:
    """Scores of a batch and what follows from them, each ``[N]``; float64, 0 where a row has none.

    Args:
        value, group, valid: of each row.
        others_mean, others: mean score of the other rows of the prompt, and how many they are.
        target: what a row's features are to predict; `behind`: the number of scores in it; `known`: rows that become
            an example.
    """

    value: Tensor
    group: Tensor
    valid: Tensor
    others_mean: Tensor
    others: Tensor
    target: Tensor
    behind: Tensor
    known: Tensor

    @classmethod
    def of(cls, prompt_only: bool, score: Tensor, group: Tensor, valid: Tensor) -> "Siblings":
        mean, number = others(score, group, valid)
        value = torch.where(valid, score, torch.zeros_like(score)).double()
        if not prompt_only:
            return cls(value, group, valid, mean, number, mean.detach(), number, valid & (number > 0))
        size = number + 1
        whole = (mean * number + value).detach() / size  # no feature is of a response, so no score is left out
        return cls(value, group, valid, mean, number, whole, size, _first(group, valid))

    def within(self) -> float | None:
        """Variance of scores within prompts, unbiased; None where no prompt has two."""
        pairs = self.valid & (self.others > 0)
        if not bool(pairs.any()):
            return None
        size = self.others[pairs] + 1
        gap = (self.value - self.others_mean).detach()[pairs] * (size - 1) / size
        return float(gap.square().sum() / ((size - 1) / size).sum())


def _first(group: Tensor, valid: Tensor) -> Tensor:
    """The first valid row of each group, bool ``[N]``."""
    row = torch.arange(len(group), device=group.device)
    ids, place = torch.unique(group, return_inverse=True)
    first = torch.full((len(ids),), len(group), device=group.device)
    first.scatter_reduce_(0, place, torch.where(valid, row, len(group)), "amin")
    return valid & (row == first[place])
