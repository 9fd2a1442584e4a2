"""Preference optimisation as a learner for `fit`: pairs, cached reference log-probs, a loss of `objective`.

With h = (log pi(y_w) - log ref(y_w)) - (log pi(y_l) - log ref(y_l)), log-probs summed over completion tokens and their
end-of-sequence token. Reference log-probs are computed once, before training. Leaves out: the losses themselves
(`objective.loss.preference`), reading data (`language.records`), unpaired data (`train.unpaired`).
Source: Rafailov et al. 2023; noisy labels: Ray Chowdhury, Kini and Natarajan 2024.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steersman.core.errors import UserError
from steersman.core.types import Pairs, Rollouts
from steersman.language.pack import micro_batches
from steersman.language.score import response_logp
from steersman.objective.components import RDPO, PairLoss
from steersman.objective.loss.preference import forward_corrected_dpo, soften
from steersman.stats import wilson
from steersman.train.optimise import LEAST, Optimiser
from steersman.train.parameters import load_trainable_state, trainable_state


def summed_logp(
    model: nn.Module, rollouts: Rollouts, micro_tokens: int, logp: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """Log-probability of each response without gradients, float32 ``[N]``, in nats.

    Args:
        model: a causal language model.
        rollouts: N sequences; their action tokens are scored.
        micro_tokens: tokens of one forward pass.
        logp: "sum" over the response, or its "mean" over tokens (IPO as some libraries define it).
    """
    out = torch.zeros(len(rollouts), device=rollouts.ids.device)
    with torch.no_grad():
        for rows in micro_batches(rollouts.length, micro_tokens):
            part = rollouts.index(rows).trim()
            out[rows] = _reduce(response_logp(model, part, entropy=False)[0], part, logp)
    return out


def _reduce(token_logp: Tensor, rollouts: Rollouts, logp: str) -> Tensor:
    total = token_logp.sum(1)
    return total if logp == "sum" else total / rollouts.action.sum(1).clamp(min=1)


class PreferenceLearner:
    """Trains a language policy on pairs.

    Args:
        model: the policy, at its starting point.
        pairs: training pairs.
        reference: reference log-probs of both sides of `pairs`, each ``[N]`` (`summed_logp`).
        loss: a preference loss component whose flip rate is resolved.
        optimiser: moves the model's trainable parameters.
        micro_tokens: tokens of one forward pass; does not change the result beyond rounding.
        logp: "sum" or "mean" over the tokens of a response.
        flip_rate: a flip rate for each training pair, replacing the loss's own; None = the loss's.
        held_out: pairs to evaluate on, or None.
        held_out_reference: their reference log-probs.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: Pairs,
        reference: tuple[Tensor, Tensor],
        loss: PairLoss,
        optimiser: Optimiser,
        micro_tokens: int,
        *,
        logp: Literal["sum", "mean"] = "sum",
        flip_rate: Tensor | None = None,
        held_out: Pairs | None = None,
        held_out_reference: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        if held_out is not None and held_out_reference is None:
            raise UserError("held-out pairs came without reference log-probs", where="PreferenceLearner")
        if flip_rate is not None and not hasattr(loss, "flip_rate"):
            raise UserError(f"{loss.kind} takes no flip rate, but the pairs carry one each", where="loss.kind")
        if len(reference[0]) != len(pairs) or len(reference[1]) != len(pairs):
            sizes = f"{len(reference[0])} and {len(reference[1])}"
            raise UserError(f"{sizes} reference log-probs for {len(pairs)} pairs", where="PreferenceLearner")
        self.model, self.pairs, self.reference, self.loss = model, pairs, reference, loss
        self.optimiser, self.micro_tokens, self.logp, self.flip_rate = optimiser, micro_tokens, logp, flip_rate
        self.held_out, self.held_out_reference = held_out, held_out_reference

    @property
    def rows(self) -> int:
        """Number of training pairs."""
        return len(self.pairs)

    def step(self, rows: Tensor, step: int) -> Mapping[str, Tensor | float]:
        """One update; the mean runs over the pairs of the whole step, whatever the micro-batches."""
        total = self.pairs.first.weight[rows].sum().clamp(min=LEAST)
        sums: dict[str, Tensor] = {}
        lengths = self.pairs.first.length[rows] + self.pairs.second.length[rows]
        for micro in micro_batches(lengths, self.micro_tokens):
            chosen = rows[micro]
            batch = self.pairs.index(chosen)
            first, second = self._log_ratios(batch, self.reference[0][chosen], self.reference[1][chosen])
            loss = self._loss(first - second, batch.label, chosen)
            (loss * batch.first.weight).sum().div(total).backward()
            told = self._metrics(loss, first, second, batch) | self._safeguards(first - second, batch.label, chosen)
            add(sums, told, batch.first.weight / total)
        tokens = float(lengths.sum())
        return sums | self.optimiser.apply(step) | {"tokens": tokens}

    def _loss(self, h: Tensor, label: Tensor, rows: Tensor) -> Tensor:
        # Only losses with a flip rate take one a pair; others were refused at construction.
        return self.loss(h, label) if self.flip_rate is None else self.loss(h, label, self.flip_rate[rows])  # type: ignore[call-arg]

    def _safeguards(self, h: Tensor, label: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Where one of rDPO's safeguards is set, which pairs it touched: it brings bias back, so it must be seen."""
        loss = self.loss
        if not isinstance(loss, RDPO) or (loss.max_margin is None and loss.clip_weight is None):
            return {}
        rate = None if self.flip_rate is None else self.flip_rate[rows]
        return {"safeguarded": loss.active(h.detach(), label, rate).float()}

    def _log_ratios(self, batch: Pairs, reference_first: Tensor, reference_second: Tensor) -> tuple[Tensor, Tensor]:
        """log pi - log ref of both sides, one forward pass for the two."""
        both = stack(batch)
        logp = _reduce(response_logp(self.model, both, entropy=False)[0], both, self.logp)
        return logp[: len(batch)] - reference_first, logp[len(batch) :] - reference_second

    def _metrics(self, loss: Tensor, first: Tensor, second: Tensor, batch: Pairs) -> dict[str, Tensor]:
        h = (first - second).detach()
        right = torch.where(h == 0, 0.5, ((h > 0) == (batch.label > 0.5)).float())
        return {
            "loss": loss.detach(),
            "margin": h,
            "accuracy": torch.where(batch.label == 0.5, 0.5, right),
            "log_ratio_chosen": first.detach(),
            "log_ratio_rejected": second.detach(),
        }

    def margins(self, pairs: Pairs, reference: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Log-ratios of both sides of any pairs without gradients, each float32 ``[N]``."""
        firsts = summed_logp(self.model, pairs.first, self.micro_tokens, self.logp) - reference[0]
        seconds = summed_logp(self.model, pairs.second, self.micro_tokens, self.logp) - reference[1]
        return firsts, seconds

    def evaluate(self) -> dict[str, float]:
        """Held-out loss, margin accuracy with its Wilson interval, forward likelihood and log-ratios.

        The loss of a robust objective may be negative and is not a criterion for stopping; `likelihood` (of the noisy
        labels under the forward-corrected model) and `accuracy` are.
        """
        if self.held_out is None or self.held_out_reference is None:
            return {}
        first, second = self.margins(self.held_out, self.held_out_reference)
        h, label = first - second, self.held_out.label
        out = {k: float(v.mean()) for k, v in self._metrics(self.loss(h, label), first, second, self.held_out).items()}
        out["likelihood"] = float(noisy_log_likelihood(h, label, self.loss))
        out |= accuracy(h, label)
        return out

    def state_dict(self) -> dict[str, Any]:
        """Trainable parameters and optimiser moments."""
        return {"model": trainable_state(self.model), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore parameters and moments."""
        load_trainable_state(self.model, state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


def accuracy(h: Tensor, label: Tensor) -> dict[str, float]:
    """Share of decided pairs (label not 0.5) whose h has the label's sign, with its 95 % Wilson interval.

    A difference of exactly 0 is no answer and counts as wrong; without a decided pair all three are NaN.
    """
    decided = label != 0.5
    n = int(decided.sum())
    if n == 0:
        return dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), math.nan)
    found = wilson(int((((h > 0) == (label > 0.5)) & decided & (h != 0)).sum()), n)
    return {"accuracy": found.value, "accuracy_low": found.low, "accuracy_high": found.high}


def noisy_log_likelihood(h: Tensor, label: Tensor, loss: PairLoss) -> Tensor:
    """Mean log-likelihood of observed labels: log[(1-2e) sigma(beta h) + e] with the loss's own beta and flip rate e.

    It is bounded, comparable over losses with the same beta, and needs no clean label. Losses without a beta (IPO) use
    beta = 1; losses without a flip rate use e = 0. A soft label p mixes both sides, p log q(h) + (1-p) log q(-h).
    """
    beta = float(getattr(loss, "beta", 1.0))
    rate = getattr(loss, "flip_rate", 0.0)
    rate = rate if isinstance(rate, float) else 0.0
    return -soften(lambda x: forward_corrected_dpo(x, beta, rate), h, label).mean()


def stack(pairs: Pairs) -> Rollouts:
    """Both sides of pairs as one batch of 2N rows, first sides first, as narrow as the longest row."""
    width = max(pairs.first.ids.shape[1], pairs.second.ids.shape[1])
    sides = [_widen(side, width) for side in (pairs.first, pairs.second)]
    joined = {k: torch.cat([getattr(s, k) for s in sides]) for k in ("ids", "length", "prompt_length", "action")}
    known = {k: torch.cat([getattr(s, k) for s in sides]) for k in ("forced", "group", "valid", "stop", "weight")}
    return Rollouts.of(**(joined | known)).trim()


def _widen(side: Rollouts, width: int) -> Rollouts:
    extra = width - side.ids.shape[1]
    if not extra:
        return side
    pad = torch.nn.functional.pad
    grown = {k: pad(getattr(side, k), (0, extra)) for k in ("ids", "action", "forced")}
    kept = {k: getattr(side, k) for k in ("length", "prompt_length", "group", "valid", "stop", "weight", "version")}
    return Rollouts(**(grown | kept))


def add(sums: dict[str, Tensor], metrics: Mapping[str, Tensor], weight: Tensor) -> None:
    """Add the weighted rows of each metric to its running sum, on the device."""
    for name, value in metrics.items():
        part = (value * weight).sum()
        sums[name] = sums[name] + part if name in sums else part
