"""What a probe of hidden states would explain of the reward, layer by layer: where to read a baseline from.

Prompts are split: a probe is fitted to the first ones and judged on the others, against the mean reward of each row's
siblings. Leaves out: drawing, grading and scoring (`recipes.diagnose_probe`), the page and the command line.
Source: the layer sweep of arXiv 2605.07579, table 9.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.advantage.pairing import leave_one_out_target
from steersman.objective.advantage.probe import added, explained, fit
from steersman.stats.gradients import components

HELD_OUT = 4
"""Every fourth prompt is held out."""
LEAST = 8
"""Prompts without which nothing can be said."""
PARTS = {"prompt": "p", "reasoning": "r", "all": "pre"}
"""Feature sets of each layer by the first letters of prompt, reasoning and entropies."""


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One probe on held-out prompts.

    Args:
        layer: whose states; None = it reads none.
        features: what it reads.
        r2: share of the variance of siblings' rewards that it explains; below 0 it is worse than a constant.
        mae: mean absolute error against them.
        alpha: the penalty chosen.
    """

    layer: int | None
    features: str
    r2: float
    mae: float
    alpha: float


@dataclass(frozen=True, slots=True)
class ProbeSweep:
    """All probes, what even the true value would explain, and how many rollouts each side had.

    Args:
        rows: of each layer and feature set, entropies alone first.
        ceiling: R^2 of the true value, estimated: Var(V) over the variance of a mean of siblings.
        constant, constant_r2: mean absolute error and R^2 of a constant, the mean reward of the fitted prompts.
        fitted, held_out: rollouts.
    """

    rows: tuple[ProbeRow, ...]
    ceiling: float
    constant: float
    constant_r2: float
    fitted: int
    held_out: int

    @property
    def best(self) -> ProbeRow:
        """The probe of states that explains most; of equal ones the earliest layer."""
        return max((r for r in self.rows if r.layer is not None), key=lambda r: r.r2)

    @property
    def beats_constant(self) -> bool:
        """Whether the best probe of states predicts held-out prompts better than the mean reward does."""
        return self.best.r2 > 0 and self.best.r2 > self.constant_r2


def sweep(
    rollouts: Rollouts, prompt: Mapping[int, Tensor], reasoning: Mapping[int, Tensor], entropy: Tensor
) -> ProbeSweep:
    """Fit and judge a probe for every layer and feature set.

    Args:
        rollouts: graded, equally many of each prompt and at least two; prompts with a row that is not valid are left
            out.
        prompt, reasoning: layer -> mean hidden states ``[N, D]``.
        entropy: what is read of the entropies ``[N, E]``.

    Raises:
        UserError: too few prompts, or rewards that are all equal.
    """
    assert rollouts.reward is not None
    kept = _whole_groups(rollouts)
    group, reward = rollouts.group[kept], rollouts.reward[kept].double()
    ids, place = torch.unique(group, return_inverse=True)
    if len(ids) < LEAST:
        raise UserError(f"{len(ids)} prompts were graded", where="probe", allowed=f"{LEAST} or more")
    if bool((reward == reward[0]).all()):
        raise UserError(
            f"every response has the reward {float(reward[0]):g}", where="probe", cure="Take other prompts."
        )
    held_out = place % HELD_OUT == 0
    target = leave_one_out_target(reward, group)

    def probe(layer: int | None, name: str, letters: str) -> ProbeRow:
        read = {"e": entropy} if layer is None else {"p": prompt[layer], "r": reasoning[layer], "e": entropy}
        phi = torch.cat([read[k][kept].double() for k in letters], 1)
        made = fit(added(None, phi[~held_out], target[~held_out], 0, 1, place[~held_out]), "auto")
        guess, truth = made(phi[held_out]), target[held_out]
        r2 = explained(guess, truth)
        return ProbeRow(layer, name, 0.0 if r2 is None else r2, float((guess - truth).abs().mean()), made.ridge.alpha)

    rows = [probe(None, "entropies", "e")]
    rows += [probe(layer, name, letters) for layer in prompt for name, letters in PARTS.items()]
    siblings = len(group) // len(ids)
    truth, mean = target[held_out], reward[~held_out].mean()
    constant = float((truth - mean).abs().mean()), explained(mean.expand_as(truth), truth) or 0.0
    sizes = int((~held_out).sum()), int(held_out.sum())
    return ProbeSweep(tuple(rows), _ceiling(reward, place, siblings), *constant, *sizes)


def _whole_groups(rollouts: Rollouts) -> Tensor:
    """Rows of prompts all of whose responses were graded."""
    bad = torch.unique(rollouts.group[~rollouts.valid])
    return ~torch.isin(rollouts.group, bad)


def _ceiling(reward: Tensor, place: Tensor, siblings: int) -> float:
    order = place.argsort(stable=True)
    within, between = components(reward[order].view(-1, siblings, 1).numpy())
    spread = max(between, 0.0) + within / max(siblings - 1, 1)
    return max(between, 0.0) / spread if spread > 0 else 0.0


def as_json(found: ProbeSweep) -> dict[str, Any]:
    """The sweep as JSON values; `best` is None where no layer beats a constant."""
    rows = [{k: getattr(r, k) for k in ("layer", "features", "r2", "mae", "alpha")} for r in found.rows]
    sizes = {"fitted": found.fitted, "held_out": found.held_out}
    best = found.best.layer if found.beats_constant else None
    constant = {"constant": found.constant, "constant_r2": found.constant_r2}
    return {"ceiling": found.ceiling, **constant, **sizes, "best": best, "probes": rows}
