"""How many arms survive each phase, and how many pulls a phase may spend: public, and fixed before any reward.

Source: Chen, Karthik, Chee and Tan, "Fixed-Budget Differentially Private Best Arm Identification", ICLR 2024;
logarithms are natural. Leaves out: which arms survive (`play`, `ask_tell`) and which are pulled (`design`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from steersman.core.errors import UserError

Rounding = Literal["floor", "paper"]


class BudgetTooSmall(UserError):
    """A budget with which some phase could not pull each of its arms once, or which the rounding would exceed.

    Args:
        budget: what was offered.
        least: the least budget that works.
    """

    def __init__(self, budget: int, least: int) -> None:
        super().__init__(f"a budget of {budget} pulls is too small", allowed=f"at least {least} for these arms")
        self.least = least


def schedule(n_arms: int, dim: int) -> tuple[int, ...]:
    """Sizes of the active sets, s_1 = K > s_2 > ... > s_{M+1} = 1, of DP-BAI.

    c = ceil(d^2/4), lambda = max(2, (K - c)^{1/ln d}), g_0 = min(K, c), g_i = ceil(g_{i-1}/2), h_0 = max(K - c, 0),
    h_i = ceil((h_{i-1} + 1)/lambda) - 1; M_1 is the first i >= 1 with h_i = 0. Then s_p = g_0 + h_{p-1} for p <= M_1,
    and after that g_1, g_2, ... down to 1.

    Args:
        n_arms: K >= 1.
        dim: d >= 1, the rank of the features.

    Returns:
        M + 1 sizes; (1,) for one arm.

    Raises:
        UserError: counts below 1.

    Edge cases: d = 1 lies outside the paper (ln d = 0); there is one phase then, (K, 1).

    Source: Chen et al. 2024, section on the algorithm.
    """
    if n_arms < 1 or dim < 1:
        raise UserError(f"{n_arms} arms of dimension {dim}", allowed="at least 1 of each")
    if n_arms == 1:
        return (1,)
    if dim == 1:
        return (n_arms, 1)
    c = math.ceil(dim * dim / 4)
    shrink = max(2.0, (n_arms - c) ** (1 / math.log(dim))) if n_arms - c > 1 else 2.0
    kept, rest = min(n_arms, c), max(n_arms - c, 0)
    sizes = [kept + rest]
    while (rest := math.ceil((rest + 1) / shrink) - 1) > 0:
        sizes.append(kept + rest)
    kept = math.ceil(kept / 2)
    sizes.append(kept)
    while kept > 1:
        kept = math.ceil(kept / 2)
        sizes.append(kept)
    return tuple(sizes)


def halving(n_arms: int) -> tuple[int, ...]:
    """Sizes of plain halving, K, ceil(K/2), ..., 1: the schedule that DP-BAI's is compared with."""
    sizes = [n_arms]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / 2))
    return tuple(sizes)


def check_sizes(sizes: Sequence[int], n_arms: int) -> tuple[int, ...]:
    """Refuse sizes that do not fall strictly from the number of arms to 1."""
    if not sizes or sizes[0] != n_arms or sizes[-1] != 1 or any(a <= b for a, b in pairwise(sizes)):
        raise UserError(f"sizes {tuple(sizes)}", allowed=f"strictly falling from {n_arms} (the arms) to 1")
    return tuple(sizes)


@dataclass(frozen=True, slots=True)
class Spending:
    """Pulls of each arm of a phase's collection: N = floor(T/(M|S|)), or the paper's ceil(T'/(M|S|)).

    The paper's T' = T - M floor(d^2/4) makes room for its ceilings where d arms are pulled, but does not prove the
    budget where all are, so that rounding is refused if some course of the phases would spend more than T.

    Args:
        budget: T >= 1 pulls.
        phases: M >= 0.
        dim: d, the rank of the features.
        rounding: "floor" never exceeds the budget.
    """

    budget: int
    phases: int
    dim: int
    rounding: Rounding = "floor"

    def pulls(self, collected: int) -> int:
        """N of a phase that pulls `collected` arms; 0 or less where the budget does not reach."""
        if self.rounding == "floor":
            return self.budget // (self.phases * collected)
        return -(-(self.budget - self.phases * (self.dim**2 // 4)) // (self.phases * collected))

    def fits(self, possible: Iterable[Iterable[int]]) -> bool:
        """Whether every phase pulls each arm at least once and no course spends more than the budget.

        Args:
            possible: for each phase, every number of arms that it may come to pull.
        """
        worst = 0
        for counts in possible:
            pulls = [(n, self.pulls(n)) for n in counts]
            if min(p for _, p in pulls) < 1:
                return False
            worst += max(n * p for n, p in pulls)
        return worst <= self.budget


def collected(sizes: Sequence[int], dim: int, always_all: bool = False) -> list[tuple[int, ...]]:
    """For each phase, every number of arms it may pull, given that surviving features may lose rank.

    A phase of s arms whose features span r dimensions pulls r if r < sqrt(s), else s. Phase 1 has r = d; later ones may
    have any r from 1 to min(d, s), which depends on rewards, so a budget is judged by the worst.
    """
    possible = []
    for phase, size in enumerate(sizes[:-1]):
        ranks = [dim] if phase == 0 else range(1, min(dim, size) + 1)
        possible.append(tuple(sorted({size if always_all or r * r >= size else r for r in ranks})))
    return possible


def check_budget(spending: Spending, possible: Sequence[Sequence[int]]) -> None:
    """Refuse a budget that does not fit.

    Raises:
        BudgetTooSmall: with the least budget that fits.
    """
    if spending.fits(possible):
        return
    widest = spending.phases * max(max(counts) for counts in possible)
    least = widest if spending.rounding == "floor" else 1
    while not Spending(least, spending.phases, spending.dim, spending.rounding).fits(possible):
        least += 1
    raise BudgetTooSmall(spending.budget, least)
