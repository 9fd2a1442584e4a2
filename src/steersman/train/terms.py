"""Terms of the step's objective: a loss of each token, the tokens it counts, how they are averaged, and its weight.

Every term has its own mask and its own denominator, so adding one never changes another's learning rate. A term reads
the rollouts' streams and what the live forward gave (`Live`). Leaves out: the formulas (`objective`), forward and
backward (`engine`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.component import Before, Form
from steersman.core.errors import UserError
from steersman.core.types import Rollouts
from steersman.objective.components import Aggregation
from steersman.objective.components_policy import ClippedValue, KLLoss
from steersman.objective.components_reward import counted
from steersman.objective.divergence import kl_value
from steersman.objective.loss.sft import sft
from steersman.objective.select.tokens import in_loss
from steersman.train.own_code import own_code

MAXIMUM = "_max"
"""Watched quantities whose names end so are maxima over tokens; all others are sums over tokens."""


@dataclass(frozen=True, slots=True)
class Live:
    """What one forward with gradients gave for a part of a step.

    Args:
        logp: log-probability of each token that some term of the policy counts ``[N, L]``, with gradients.
        entropy: of the distribution it was drawn from ``[N, L]``, detached.
        value: the critic's value before each token that a term of the critic counts ``[N, L]``, with gradients.
        divergence: of the policy from the other side (`Against`) at each token that the term with it counts ``[N, L]``,
            with gradients; None = no term has one. At those of its tokens whose `logp` no other term reads, that has no
            gradient.

    All are 0 elsewhere, and everywhere if no term of that model is in the step.
    """

    logp: Float[Tensor, "N L"]
    entropy: Float[Tensor, "N L"]
    value: Float[Tensor, "N L"]
    divergence: Float[Tensor, "N L"] | None = None


Watched = Mapping[str, Float[Tensor, "N L"]]


REVERSE_KL = Form()


@dataclass(frozen=True, slots=True)
class Against:
    """The other side of a divergence: whose next-token distributions the policy's are compared with.

    Args:
        by: the teacher, the frozen reference, or the live policy itself (without a gradient).
        before: what stands before the response there instead of the row's own prompt (`component.Pass.before`); None =
            the prompt, which the policy alone cannot do: it would be compared with itself.
        form: which divergence.
        optional: rows for which `before` gives None, or that would exceed the context, count in no term with this;
            otherwise they are an error.
    """

    by: Literal["teacher", "reference", "policy"] = "teacher"
    before: Before | None = None
    form: Form = REVERSE_KL
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of a step.

    Args:
        name: in metrics.
        needs: streams of the rollouts that it reads.
        loss: (part of the rollouts, what the forward gave) -> loss of each token ``[N, L]``.
        mask: tokens that count ``[N, L]``, from the rollouts alone, so that denominators are known before any forward.
        reads: tokens whose log-prob or value the loss reads, where they are more than those that count; None = `mask`.
        aggregation: how the tokens become one number.
        model: whose forward it needs.
        weight: of the term in the objective.
        watch: quantities of each token to report; averaged over the mask. Of what several terms watch under one name,
            the first one's is reported.
        against: the other side whose divergence the loss reads at the tokens that count; terms of one step that have
            one have the same.
    """

    name: str
    needs: tuple[str, ...]
    loss: Callable[[Rollouts, Live], Tensor]
    mask: Callable[[Rollouts], Tensor]
    aggregation: Aggregation
    model: Literal["policy", "critic"] = "policy"
    weight: float = 1.0
    watch: Callable[[Rollouts, Live], Watched] = lambda part, live: {}
    reads: Callable[[Rollouts], Tensor] | None = None
    against: Against | None = None


class PolicyLossLike(Protocol):
    """A policy loss of ours, or a component of the user's own with the same call."""

    needs: Any

    def __call__(self, logp: Tensor, logp_old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        """Loss of each token ``[N, L]``."""
        ...


def weighted(loss: Tensor, rollouts: Rollouts) -> Tensor:
    """The loss times the weights of its tokens and of its rows."""
    weight = rollouts.streams.get("token_weight")
    loss = loss * rollouts.weight[:, None]
    return loss if weight is None else loss * weight


def old_logp(part: Rollouts, live: Live) -> Tensor:
    """The stream ``logp_old``; in a step at rollout weights, where nobody scored it, the live one without gradient."""
    return part.streams.get("logp_old", live.logp.detach())


def called(loss: PolicyLossLike, *given: Tensor) -> Tensor:
    """The loss of each token; of a loss that is not ours the result is checked.

    Raises:
        UserError: it raised, or returned something else than ``[N, L]`` with a gradient.
    """
    if type(loss).__module__.startswith("steersman."):
        return loss(*given)
    with own_code("loss", loss):
        value = loss(*given)
    shape = tuple(given[0].shape)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"{type(loss).__name__} returned {found}", where="loss", allowed=f"a tensor {shape}")
    if not value.requires_grad:
        what = f"{type(loss).__name__} returned a tensor without a gradient"
        raise UserError(what, where="loss", cure="Compute it from logp, and do not detach that.")
    return value


def of_policy(part: Rollouts, live: Live) -> dict[str, Tensor]:
    """What every term of the policy watches: the entropy, the log-ratio to the old policy, the sampler's gap."""
    now = live.logp.detach()
    told = {"entropy": live.entropy, "kl_old": kl_value(now, old_logp(part, live), "k3")}
    if part.logp_behaviour is not None:
        # of the sampler and the trainer at rollout weights, that is in the first update of a batch
        told["gap_mean"] = told["gap_max"] = (now - part.logp_behaviour).abs()
    return told


def policy_term(loss: PolicyLossLike, aggregation: Aggregation) -> Term:
    """The policy loss on selected tokens, with its clip shares, the entropy and the log-ratio to the old policy."""
    seen = counted if getattr(loss, "whole_rows", False) else in_loss

    def value(part: Rollouts, live: Live) -> Tensor:
        return weighted(called(loss, live.logp, old_logp(part, live), part.streams["advantage"], seen(part)), part)

    def watch(part: Rollouts, live: Live) -> dict[str, Tensor]:
        now, old, mask = live.logp.detach(), old_logp(part, live), seen(part)
        told = of_policy(part, live)
        if hasattr(loss, "clipped_tokens"):
            low, high = loss.clipped_tokens(now, old, part.streams["advantage"], mask)
            told |= {"clip_low": low.float(), "clip_high": high.float()}
        return told

    # logp_old is no need: where nobody gave it, the step is at rollout weights.
    needs = tuple(dict.fromkeys(["advantage", *(n for n in loss.needs if n != "logp_old")]))
    return Term("policy", needs, value, in_loss, aggregation, watch=watch, reads=seen)


def kl_term(loss: KLLoss, aggregation: Aggregation) -> Term:
    """The KL penalty on selected tokens; `beta` is its weight. Off-policy, the ratio to the old policy corrects it."""

    def value(part: Rollouts, live: Live) -> Tensor:
        return weighted(loss(live.logp, part.streams["logp_ref"], part.streams.get("logp_old")), part)

    def watch(part: Rollouts, live: Live) -> dict[str, Tensor]:
        return {"kl_ref": kl_value(live.logp.detach(), part.streams["logp_ref"], "k3")}

    return Term("kl", ("logp_ref",), value, in_loss, aggregation, watch=watch)


def value_term(loss: ClippedValue, weight: float) -> Term:
    """The critic's loss on all action tokens, averaged over tokens."""

    def value(part: Rollouts, live: Live) -> Tensor:
        return loss(live.value, part.streams["value"], part.streams["returns"])

    def watch(part: Rollouts, live: Live) -> dict[str, Tensor]:
        error = (live.value.detach() - part.streams["returns"]).square()
        return {"value_error": error, "value_mean": live.value.detach()}

    needs = ("value", "returns")
    return Term("value", needs, value, counted, Aggregation(), model="critic", weight=weight, watch=watch)


def sft_term(weight: float) -> Term:
    """The negative log-likelihood of a second stream of data, averaged over its tokens."""

    def value(part: Rollouts, live: Live) -> Tensor:
        return sft(live.logp) * part.weight[:, None]

    return Term("sft", (), value, counted, Aggregation(), weight=weight)


def against_of(terms: Sequence[Term]) -> Against | None:
    """The other side that the terms are compared with; None = there is none.

    Raises:
        UserError: there are two.
    """
    found = list(dict.fromkeys(t.against for t in terms if t.against is not None))
    if len(found) > 1:
        raise UserError("two terms of a step compare the policy with different things", where="loss", allowed="one")
    return found[0] if found else None


def compared(terms: Sequence[Term], rollouts: Rollouts) -> Tensor:
    """Tokens that some term compares with the other side, bool ``[N, L]``."""
    found = torch.zeros_like(rollouts.action)
    for term in terms:
        if term.against is not None:
            found |= term.mask(rollouts)
    return found


def union(terms: tuple[Term, ...], rollouts: Rollouts, model: str) -> Tensor:
    """Tokens that some term of `model` reads, bool ``[N, L]``."""
    found = torch.zeros_like(rollouts.action)
    for term in terms:
        if term.model == model:
            found |= (term.reads or term.mask)(rollouts)
    return found
