"""Where a policy's tokens lie in the plane of entropy and divergence from a teacher, and what each rule would keep.

The sets are those that the stage `select_tokens` keeps in training, made by that stage. Nothing is trained.
Leaves out: drawing responses and scoring them (`recipes.diagnose_tokens`), the page (`tokens_page`).
Source: TIP, arXiv 2604.14084, table 1 and section 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from steersman.core.component import START, Moment
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components_tip import SelectTokens
from steersman.objective.select.tokens import Quadrants, in_loss, quadrants

NAMES = ("Q1", "Q2", "Q3", "Q4")
MEANINGS = {
    "Q1": "unsure, and the teacher disagrees",
    "Q2": "unsure, and the teacher agrees",
    "Q3": "sure, and the teacher disagrees",
    "Q4": "sure, and the teacher agrees",
}
STREAMS = ("entropy", "divergence", "divergence_forward")


def rules(keep: float) -> dict[str, SelectTokens]:
    """The rules that are compared, each keeping the share `keep`.

    Raises:
        UserError: keep outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise UserError(f"is {keep}", where="keep", allowed="0 < keep <= 1")
    return {
        "Soft-OR": SelectTokens(keep=keep),
        "Q3": SelectTokens(rule="q3", keep=keep),
        "divergence": SelectTokens(rule="divergence", keep=keep),
        "entropy": SelectTokens(rule="entropy", keep=keep),
        "entropy, sampled": SelectTokens(rule="entropy", keep=keep, mode="sample"),
        "random": SelectTokens(rule="random", keep=keep),
        "bottom": SelectTokens(keep=keep, mode="bottom"),
    }


@dataclass(frozen=True, slots=True)
class TokenDiagnosis:
    """Tokens in their quadrants, and the sets that rules keep.

    Args:
        rollouts: N rows with the streams `STREAMS`.
        mask: the tokens that compete ``[N, L]``.
        quadrants: where they stand.
        kept: rule -> what it keeps of them ``[N, L]``.
    """

    rollouts: Rollouts
    mask: Bool[Tensor, "N L"]
    quadrants: Quadrants
    kept: Mapping[str, Tensor]

    def of(self, stream: str) -> Tensor:
        """A stream at the tokens that compete ``[M]``."""
        return self.rollouts.streams[stream][self.mask]

    def by_quadrant(self) -> list[dict[str, Any]]:
        """Share, mean entropy and divergence (nats), and part of the whole divergence, of each quadrant."""
        label, h, d = self.quadrants.label[self.mask], self.of("entropy").double(), self.of("divergence").double()
        out = []
        for number, name in enumerate(NAMES, 1):
            here = label == number
            row = {"quadrant": name, "meaning": MEANINGS[name], "tokens": int(here.sum())}
            row |= {"share": self.quadrants.share[name], "entropy": _mean(h[here]), "divergence": _mean(d[here])}
            out.append(row | {"part": _part(d[here], d)})
        return out

    def by_rule(self) -> list[dict[str, Any]]:
        """Of each rule: tokens kept, of which quadrants they are, how much of each quadrant is kept, and what of the
        whole divergence lies on them."""
        label, d = self.quadrants.label[self.mask], self.of("divergence").double()
        out = []
        for name, mask in self.kept.items():
            here = mask[self.mask]
            inside = {q: here & (label == i) for i, q in enumerate(NAMES, 1)}
            row: dict[str, Any] = {"rule": name, "tokens": int(here.sum()), "divergence": _mean(d[here])}
            row["makeup"] = {q: _share(x, here) for q, x in inside.items()}
            row["kept"] = {q: _share(x, label == i) for i, (q, x) in enumerate(inside.items(), 1)}
            out.append(row | {"part": _part(d[here], d)})
        return out

    def overlap(self) -> dict[str, dict[str, float | None]]:
        """Jaccard overlap of what two rules keep: tokens that both keep, of those that either does."""
        return {a: {b: _jaccard(x, y) for b, y in self.kept.items()} for a, x in self.kept.items()}


def diagnose_tokens(
    rollouts: Rollouts,
    compared: Mapping[str, SelectTokens],
    at: Moment = START,
    entropy_threshold: float | None = None,
    divergence_threshold: float | None = None,
) -> TokenDiagnosis:
    """Sort the tokens of scored rollouts, and choose by each rule.

    Args:
        rollouts: with the streams `STREAMS`, nats.
        compared: rules by name (`rules`).
        at: what the noise of sampling is a function of.
        entropy_threshold: nats, above which entropy is high; None = the median.
        divergence_threshold: nats, likewise.

    Raises:
        UserError: a stream that is missing or not finite, no token at all.
    """
    for name in STREAMS:
        if name not in rollouts.streams:
            raise UserError(f"the rollouts have no {name}", where="diagnose_tokens", cure="Score them by a teacher.")
    mask = in_loss(rollouts)
    if not bool(mask.any()):
        raise UserError("there is no token to look at", where="diagnose_tokens")
    entropy, divergence = rollouts.streams["entropy"], rollouts.streams["divergence"]
    found = quadrants(entropy, divergence, mask, entropy_threshold, divergence_threshold)
    return TokenDiagnosis(rollouts, mask, found, {n: in_loss(s(rollouts, at)[0]) for n, s in compared.items()})


def _mean(x: Tensor) -> float | None:
    return float(x.mean()) if x.numel() else None


def _share(x: Tensor, of: Tensor) -> float | None:
    return float(x.sum()) / int(of.sum()) if bool(of.any()) else None


def _part(x: Tensor, of: Tensor) -> float | None:
    total = float(of.sum())
    return float(x.sum()) / total if total > 0 else None


def _jaccard(a: Tensor, b: Tensor) -> float | None:
    return _share(a & b, a | b) if bool(torch.any(a | b)) else None
